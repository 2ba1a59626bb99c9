//! Running outside programs so that none of them can hang a test.

use std::ffi::OsStr;
use std::process::{Command, Output};
use std::time::Duration;

/// A command that coreutils' `timeout` ends after `limit` (exit code 124), and kills two seconds later.
pub fn bounded(limit: Duration, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("-k").arg("2").arg(format!("{:.1}", limit.as_secs_f64())).arg(program);
    command
}

/// Runs a command to its end; panics with its output if it failed.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?} failed with {}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} did not start ({e}); scripts/test installs what the tests need"))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Servers refuse to run as root, so a test run by root gives them the account that the package made.
pub fn server_user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("mysql")
}
