//! If this process is killed, the consumer's input would end as if all had come. So a second process holds that pipe, too:
//! `highline guard`, the leader of the consumer's process group. When this process is gone without a word, it kills the
//! group while the pipe is still open.
//!
//! A reader that cannot be killed, of another user or outside the group, would see that end, too. So whoever gives up the
//! pipe leaves a process behind that does nothing but hold it open until the last reader is gone: `highline guard --hold`.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::fs::FileType;
use rustix::process::{Pid, Signal, getpgrp, getpid, kill_current_process_group};

use super::program::pid_of;
use super::{is, is_closed};
use crate::error::{Error, Kind, Result};
use crate::threads::Killed;

/// The process, until it is dismissed.
#[derive(Debug)]
pub(super) struct Guard {
    child: Killed,
    word: ChildStdin,
    pub(super) group: Pid,
}

impl Guard {
    /// Starts one that holds `pipe`.
    pub(super) fn start(pipe: OwnedFd) -> Result<Guard> {
        let failed = |e: std::io::Error| Error::new(Kind::Io, "cannot start a second process of Highline").because(e);
        let mut child = process(pipe).stdin(Stdio::piped()).spawn().map_err(failed)?;
        let group = pid_of(&child)?;
        let word = child.stdin.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
        Ok(Guard { child: Killed(child), word, group })
    }

    /// The end may be seen now. When this returns, it holds the pipe no more.
    pub(super) fn dismiss(mut self) -> Result<()> {
        let failed = |e: std::io::Error| {
            Error::new(Kind::Program, "the process that guards the program's input is gone").because(e)
        };
        self.word.write_all(b"!").map_err(failed)?;
        self.child.0.wait().map(|_| ()).map_err(failed)
    }
}

/// What `highline guard` does: waits for a word on standard input, or for its end.
pub fn guard() {
    let mut word = [0];
    let told = std::io::stdin().read_exact(&mut word).is_ok();
    // Started by hand it leads no group, and others would die.
    if !told && getpgrp() == getpid() {
        // Without one, whatever cannot be killed sees an end; what can be killed must be in any case.
        let _ = std::io::stdout().as_fd().try_clone_to_owned().and_then(holder);
        let _ = kill_current_process_group(Signal::KILL);
    }
}

/// Starts a process that holds `pipe` as long as anybody reads it, and outlives this one.
pub(super) fn holder(pipe: OwnedFd) -> std::io::Result<()> {
    process(pipe).arg("--hold").stdin(Stdio::null()).spawn().map(drop)
}

/// What `highline guard --hold` does.
pub fn hold() {
    let pipe = std::io::stdout();
    while is(&pipe, FileType::Fifo) && !is_closed(&pipe) {
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// This very program, whatever lies at its path by now, in a process group of its own.
fn process(pipe: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("highline").arg("guard").process_group(0).stdout(pipe).stderr(Stdio::null());
    command
}
