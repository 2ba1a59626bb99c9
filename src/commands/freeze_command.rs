//! A server that the caller's own command freezes: `send --freeze-command`.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::donor::{Keeper, Server};
use crate::error::{Error, Kind, Result};
use crate::position::GaleraGtid;
use crate::progress::Reporter;
use crate::sst::grastate::{Grastate, NO_POSITION};
use crate::threads::{ended_within, lock};
use crate::tree::Rules;

/// Runs the command with `sh -c`. Its first line says that the server is frozen; the end of its input asks it to
/// release the server.
#[derive(Debug)]
pub(super) struct Commanded {
    command: OsString,
    datadir: PathBuf,
    rules: Rules,
    reporter: Arc<dyn Reporter>,
    running: Mutex<Option<Child>>,
}

impl Commanded {
    pub(super) fn new(command: &OsStr, datadir: &Path, rules: Rules, reporter: Arc<dyn Reporter>) -> Commanded {
        let (command, datadir) = (command.to_owned(), datadir.to_owned());
        Commanded { command, datadir, rules, reporter, running: Mutex::new(None) }
    }

    fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Kind::Busy, format!("the freeze command did not freeze the server: {why}"))
            .remedy("it must print a line once nothing writes any more, and keep running until its standard input ends")
    }
}

impl Server for Commanded {
    fn freeze(&self) -> Result<Option<GaleraGtid>> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(&self.command).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().map_err(|e| self.failed(e))?;
        let mut line = String::new();
        let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        *lock(&self.running) = Some(child);
        match read {
            Some(Ok(count)) if count > 0 => {}
            Some(Err(error)) => return Err(self.failed(error)),
            _ => return Err(self.failed("it ended without printing anything")),
        }
        self.reporter.note(&format!("the freeze command says: {}", crate::error::Printable(line.trim().as_bytes())));
        // If the command stopped the server, it has written its position by now.
        let position = Grastate::position(&self.datadir)?;
        if position.is_none() {
            self.reporter.warn(NO_POSITION);
        }
        Ok(position)
    }

    fn release(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let Some(mut child) = lock(&self.running).take() else { return Ok(()) };
        drop(child.stdin.take());
        let ended = ended_within(&mut child, PATIENCE);
        match ended.map_err(|e| Error::new(Kind::Io, "cannot wait for the freeze command").because(e))? {
            Some(status) if status.success() => {}
            Some(status) => self.reporter.warn(&format!("the freeze command ended with {status}")),
            None => {
                self.reporter.warn("the freeze command is still running although its input has ended; it is left alone")
            }
        }
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        Ok(self.rules.clone())
    }

    fn keeper(&self) -> Keeper {
        Keeper::Caller
    }

    fn serves(&self) -> bool {
        true
    }
}

impl Drop for Commanded {
    /// A transfer that fails under the lock releases the server too.
    fn drop(&mut self) {
        if let Some(child) = lock(&self.running).as_mut() {
            drop(child.stdin.take());
        }
    }
}
