//! `highline arbitrate`, hidden: asks the kernel for a signal at the caller's death, and becomes another program. So garbd
//! leaves the cluster even if its caller is killed. Only a process can ask that for itself.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::cli::ArbitrateArgs;
use crate::error::{Error, Kind, Result};

/// Does not return if it succeeds.
pub(super) fn run(args: &ArbitrateArgs) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|e| Error::new(Kind::Io, "cannot watch for the caller's end").because(e))?;
    // It may have ended before that.
    if getppid() != Pid::from_raw(args.parent) {
        return Err(Error::new(Kind::Interrupted, "the caller has ended"));
    }
    let Some((program, words)) = args.words.split_first() else {
        return Err(Error::new(Kind::Usage, "no program is named"));
    };
    Err(Error::io("cannot run", Path::new(program), Command::new(program).args(words).exec()))
}
