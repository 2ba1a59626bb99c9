//! A freshly installed datadir, made once per machine (about five seconds) and copied afterwards.

use super::command::{bounded, server_user, succeed};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Fills the empty directory `datadir` with a new database.
///
/// `options` is an option file whose layout (undo, redo, Aria directories) differs from the default; the cached template
/// cannot serve it, so the installer runs with it.
pub fn install(datadir: &Path, options: Option<&Path>) {
    match options {
        Some(file) => initialise(datadir, Some(file)),
        None => {
            succeed(bounded(Duration::from_secs(60), "cp").arg("-a").arg(cached().join(".")).arg(datadir));
        }
    }
    own(datadir);
}

/// Gives a tree to the account that the server runs as.
pub fn own(path: &Path) {
    if let Some(user) = server_user() {
        succeed(bounded(Duration::from_secs(60), "chown").arg("-R").arg(format!("{user}:{user}")).arg(path));
    }
}

/// Gives only this directory to the account that the server runs as.
pub fn own_directory(path: &Path) {
    if let Some(user) = server_user() {
        succeed(bounded(Duration::from_secs(10), "chown").arg(format!("{user}:{user}")).arg(path));
    }
}

/// A directory under the system's temporary folder that the server's account may enter.
pub fn scratch(prefix: &str) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    dir
}

fn cached() -> PathBuf {
    let version = succeed(bounded(Duration::from_secs(10), "mariadbd").arg("--version"));
    let version: String = version.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let template = cache.join(format!("datadir-{version}"));
    if template.is_dir() {
        return template;
    }
    let scratch = scratch("highline-template-");
    let fresh = scratch.path().join("data");
    std::fs::create_dir(&fresh).expect("mkdir");
    own(&fresh);
    initialise(&fresh, None);
    // Another test may be doing the same: whoever renames first wins, and both templates are equal.
    let partial = cache.join(format!("datadir-{}.partial", std::process::id()));
    succeed(bounded(Duration::from_secs(60), "cp").arg("-a").arg(&fresh).arg(&partial));
    if std::fs::rename(&partial, &template).is_err() {
        let _ = std::fs::remove_dir_all(&partial);
    }
    template
}

fn initialise(datadir: &Path, options: Option<&Path>) {
    let mut install = bounded(Duration::from_secs(120), "mariadb-install-db");
    match options {
        Some(file) => install.arg(format!("--defaults-file={}", file.display())),
        None => install.arg("--no-defaults"),
    };
    install.arg(format!("--datadir={}", datadir.display()));
    install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
    if let Some(user) = server_user() {
        install.arg(format!("--user={user}"));
    }
    succeed(&mut install);
}
