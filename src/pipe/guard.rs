//! If this process is killed, the consumer's input would end as if all had come. So a second process holds that pipe, too:
//! `highline guard`, the leader of the consumer's process group. When this process is gone without a word, it kills the
//! group while the pipe is still open.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, getpgrp, getpid, kill_current_process_group};

use super::program::pid_of;
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
        // This very program, whatever lies at its path by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("highline").arg("guard").process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(pipe).stderr(Stdio::null()).spawn().map_err(failed)?;
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
        let _ = kill_current_process_group(Signal::KILL);
    }
}
