//! The donor's part: `mariadb-backup --backup`, and its stream.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::{ProgramOptions, program, settings, words};
use crate::error::{Error, Kind, Result};
use crate::progress::Reporter;
use crate::threads::{Killed, cores, exited_within, joined_within};

/// What the stream's pipe holds, in bytes (fcntl(2), `F_SETPIPE_SZ`): the most that an ordinary user may have.
const PIPE: usize = 1 << 20;

/// A database account. Its password is wiped when dropped and never printed.
#[derive(Clone)]
pub struct Account {
    pub user: String,
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({}:***)", self.user)
    }
}

/// How a backup is made.
#[derive(Clone, Debug, Default)]
pub struct Backup {
    /// The flags that say which option files the server reads; the program has to see them first.
    pub defaults: Vec<OsString>,
    pub datadir: PathBuf,
    pub socket: Option<PathBuf>,
    /// Without one the program uses what its own groups in the option files say, or the account of its user (unix_socket).
    pub account: Option<Account>,
    /// How many files it reads at once; by default as many as there are cores, 16 at most.
    pub threads: Option<u16>,
    /// The operator's own.
    pub options: ProgramOptions,
    /// Where it keeps what it cannot send yet.
    pub tmpdir: Option<PathBuf>,
}

/// A backup that is being made. Dropped, the program is killed.
#[derive(Debug)]
pub struct Running {
    child: Killed,
    said: Option<JoinHandle<Option<String>>>,
    _dir: tempfile::TempDir,
    _account: Option<NamedTempFile>,
}

impl Backup {
    /// Starts it. `alive` is called for each line it writes to standard error.
    pub fn start(
        &self,
        reporter: Arc<dyn Reporter>,
        alive: impl Fn() + Send + 'static,
    ) -> Result<(Running, ChildStdout)> {
        let program = program()?;
        let failed = |e| Error::io("cannot run", &program, e);
        let above = self.tmpdir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new()
            .prefix("highline-backup-")
            .tempdir_in(&above)
            .map_err(|e| Error::io("cannot make a directory in", &above, e).remedy("set tmpdir in [highline]"))?;
        let mut command = Command::new(&program);
        let (defaults, file) = match &self.account {
            Some(account) => {
                let (defaults, file) = with_account(&self.defaults, account, &above)?;
                (defaults, Some(file))
            }
            None => (self.defaults.clone(), None),
        };
        command.args(defaults).args(["--backup", "--stream=mbstream", "--galera-info"]);
        command.args(["--databases-exclude=lost+found"]);
        command.arg(option("--target-dir=", dir.path())).arg(option("--tmpdir=", dir.path()));
        command.arg(option("--datadir=", &self.datadir));
        // Under its locks it waits until the log has been read to where the server stands, and by default looks once a second.
        command.arg("--log-copy-interval=50");
        command.arg(format!("--parallel={}", self.threads.map_or_else(|| cores().min(16), usize::from)));
        command.args(self.socket.as_ref().map(|socket| option("--socket=", socket)));
        command.args(&self.options.0);
        // What the server passes to its scripts is only for them.
        command.env_remove("WSREP_SST_OPT_AUTH").env_remove("WSREP_SST_OPT_REMOTE_AUTH");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (stream, said) = (child.stdout.take(), child.stderr.take());
        // Fewer turns for both. Who may not have it so large does without.
        let _ = stream.as_ref().map(|stream| rustix::pipe::fcntl_setpipe_size(stream, PIPE));
        let said = said.map(|said| words::listen(said, reporter, alive));
        let running = Running { child: Killed(child), said, _dir: dir, _account: file };
        let stream = stream.ok_or_else(|| Error::new(Kind::Io, "mariadb-backup has no output"))?;
        Ok((running, stream))
    }
}

/// A file in `above` with the account, which only this user may read, and the flags with it in place of the last option
/// file. It comes after what that file says: a password of `[client]` there would count more than one in the environment.
fn with_account(defaults: &[OsString], account: &Account, above: &Path) -> Result<(Vec<OsString>, NamedTempFile)> {
    let failed = |e| Error::io("cannot make a file in", above, e).remedy("set tmpdir in [highline]");
    let mut file = tempfile::Builder::new().prefix("highline-account-").tempfile_in(above).map_err(failed)?;
    let (mut flags, mut text, mut named) = (Vec::new(), Zeroizing::new(Vec::new()), false);
    for flag in defaults {
        let given = ["--defaults-file=", "--defaults-extra-file="].into_iter().find_map(|name| {
            let path = flag.as_bytes().strip_prefix(name.as_bytes())?;
            Some((name, path))
        });
        let Some((name, path)) = given.filter(|_| !named) else {
            flags.push(flag.clone());
            continue;
        };
        named = true;
        flags.push(option(name, file.path()));
        let path = std::path::absolute(OsStr::from_bytes(path)).map_err(failed)?;
        text.extend([b"!include ".as_slice(), path.as_os_str().as_bytes(), b"\n"].concat());
    }
    if !named {
        flags.insert(0, option("--defaults-extra-file=", file.path()));
    }
    text.extend_from_slice(b"[mariadb-backup]\n");
    text.extend(settings::line("user", account.user.as_ref()));
    text.extend(Zeroizing::new(settings::line("password", account.password.as_str().as_ref())).iter());
    file.write_all(&text).map_err(failed)?;
    Ok((flags, file))
}

fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut whole = OsString::from(name);
    whole.push(value);
    whole
}

impl Running {
    /// Waits for its end, after its stream has ended.
    pub async fn end(mut self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let ended = exited_within(&mut self.child.0, PATIENCE)
            .await
            .map_err(|e| Error::new(Kind::Io, "cannot wait for mariadb-backup").because(e))?;
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed(status).await),
            None => Err(Error::new(Kind::Timeout, "mariadb-backup has ended its stream but does not exit")),
        }
    }

    async fn failed(&mut self, status: ExitStatus) -> Error {
        let said = cause(self.said.take()).await;
        failure("cannot make the backup", status, said).remedy(
            "see what mariadb-backup says in the donor's log; it needs an account that may make backups: wsrep_sst_auth, \
             or unix_socket for the server's user",
        )
    }
}

/// The cause that a listener has found. A process that the program has left behind may keep it listening.
pub(super) async fn cause(listener: Option<JoinHandle<Option<String>>>) -> Option<String> {
    joined_within(listener?, Duration::from_secs(5)).await.flatten()
}

/// The error for a run that failed.
pub(super) fn failure(what: &str, status: ExitStatus, said: Option<String>) -> Error {
    use std::os::unix::process::ExitStatusExt;
    let said = match said {
        Some(said) if status.signal().is_some() => format!("it was killed; the last thing it said was: {said}"),
        Some(said) => said,
        None => "it did not say why".to_owned(),
    };
    Error::new(Kind::Io, format!("mariadb-backup {what} ({status}): {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_account_comes_after_the_option_file_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let account = Account { user: "b".into(), password: Zeroizing::new("a\"b".into()) };
        for (given, flags, begins) in [
            (
                &["--defaults-file=/etc/x.cnf", "--defaults-group-suffix=2"][..],
                2,
                "!include /etc/x.cnf\n[mariadb-backup]",
            ),
            (&["--defaults-extra-file=/etc/y.cnf"], 1, "!include /etc/y.cnf\n[mariadb-backup]"),
            (&["--defaults-group-suffix=2"], 2, "[mariadb-backup]"),
        ] {
            let given: Vec<OsString> = given.iter().map(OsString::from).collect();
            let (told, file) = with_account(&given, &account, dir.path()).unwrap();
            let name = if begins.contains("x.cnf") { "--defaults-file=" } else { "--defaults-extra-file=" };
            assert_eq!((told.len(), &told[0]), (flags, &option(name, file.path())));
            let text = std::fs::read_to_string(file.path()).unwrap();
            assert_eq!(text, format!("{begins}\nuser=\"b\"\npassword=\"a\\\"b\"\n"));
            assert_eq!(file.as_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
