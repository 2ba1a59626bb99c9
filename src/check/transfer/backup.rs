//! `source=mariabackup`: what a backup needs on this node, as its donor and as its joiner.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::HERE;
use crate::check::{Node, Report};
use crate::error::Printable;
use crate::sst::credentials::RemoteAuth;
use crate::sst::options::BackupSettings;
use crate::threads::{Killed, ended_within};

pub(super) fn check(node: &Node, settings: &BackupSettings, report: &mut Report) {
    if node.has("mariadb-backup") || node.has("mariabackup") {
        report.ok(HERE, "source=mariabackup: mariadb-backup makes the copy here, and prepares it where it arrives");
    } else {
        report.error(
            HERE,
            "source=mariabackup, and mariadb-backup is not installed: this node can neither give nor take a backup",
            "install the package mariadb-backup on every node, or set source=files",
        );
    }
    let given = node.options.server("wsrep-sst-auth").or(settings.account.as_deref().map(String::as_str));
    match given.and_then(RemoteAuth::of_pair) {
        Some(account) => check_login(node, &account, report),
        None => report.note(
            HERE,
            "wsrep_sst_auth is not set: mariadb-backup logs in as [mariabackup] says, or as the server's user by unix_socket",
        ),
    }
}

/// Tries the account where this node's server runs.
fn check_login(node: &Node, account: &RemoteAuth, report: &mut Report) {
    const PATIENCE: Duration = Duration::from_secs(10);
    let user = Printable(account.user().as_bytes());
    let socket = node.options.server("socket").map(|path| node.path(path)).filter(|path| path.exists());
    let (Some(socket), Some(client)) = (socket, node.program("mariadb")) else {
        report.note(HERE, format!("whether {user} of wsrep_sst_auth may log in is not known: no server runs here"));
        return;
    };
    let mut command = Command::new(client);
    command.arg("--no-defaults").arg(format!("--user={}", account.user())).arg("--socket").arg(socket);
    command.args(["--execute", "DO 1"]).env("MYSQL_PWD", account.secret());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(child) = command.spawn() else { return };
    match ended_within(&mut Killed(child).0, PATIENCE) {
        Ok(Some(status)) if status.success() => {
            report.ok(HERE, format!("the account {user} of wsrep_sst_auth can log in"));
        }
        Ok(Some(_)) => report.error(
            HERE,
            format!("the account {user} of wsrep_sst_auth cannot log in: this node cannot give a backup"),
            "correct wsrep_sst_auth, or make the account (docs/galera.md says what it needs)",
        ),
        Ok(None) | Err(_) => report.note(
            HERE,
            format!("whether {user} of wsrep_sst_auth may log in is not known: the server does not answer"),
        ),
    }
}
