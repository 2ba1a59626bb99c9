//! The joiner's part: `mariadb-backup --prepare`, which turns a backup into the files of a stopped server.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::run::failure;
use super::{ProgramOptions, program, words};
use crate::error::{Error, Kind, Result};
use crate::progress::Reporter;
use crate::stop::Stop;
use crate::threads::Killed;

/// How a backup is prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepare {
    /// `use-memory`, in bytes.
    pub memory: Option<u64>,
    /// The operator's own.
    pub options: ProgramOptions,
}

impl Prepare {
    /// Prepares the backup in `dir`. The program is killed when `stop` asks for it, or this is dropped.
    pub async fn run(&self, dir: &Path, reporter: Arc<dyn Reporter>, stop: &Stop) -> Result<()> {
        let program = program()?;
        let memory = self.memory.unwrap_or_else(spare_memory);
        let mut command = Command::new(&program);
        command.args(["--no-defaults", "--prepare"]).arg(format!("--use-memory={memory}"));
        let mut target = std::ffi::OsString::from("--target-dir=");
        target.push(dir);
        command.arg(target).args(&self.options.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| Error::io("cannot run", &program, e))?;
        let mut child = Killed(child);
        let said = child.0.stderr.take().map(|said| words::listen(said, reporter, || {}));
        let ended = async {
            loop {
                if let Some(status) = child.0.try_wait().map_err(waiting)? {
                    return Ok::<_, Error>(status);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let status = tokio::select! {
            ended = ended => ended?,
            asked = stop.requested() => return Err(asked),
        };
        if status.success() {
            return Ok(());
        }
        let said = said.and_then(|said| said.join().ok()).flatten();
        Err(failure("cannot prepare the backup", status, said).remedy(
            "the old data is untouched; see what mariadb-backup says in the joiner's log: its version must be the server's, and \
             use-memory must fit",
        ))
    }
}

fn waiting(error: std::io::Error) -> Error {
    Error::new(Kind::Io, "cannot wait for mariadb-backup").because(error)
}

/// A quarter of the free memory, from 128 MiB to 1 GiB: with a long redo log, more is faster.
fn spare_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
    (free.saturating_mul(1024) / 4).clamp(128 << 20, 1 << 30)
}

/// Whether a first-level file of a prepared backup is only for the program itself: no server reads it.
pub fn is_left_over(name: &str) -> bool {
    name == "backup-my.cnf" || name.starts_with("xtrabackup_") || name.starts_with("mariadb_backup_")
}
