//! `highline recover`: finishes or undoes an install that was cut short.

use super::print;
use crate::cli::RecoverArgs;
use crate::error::Result;
use crate::install::{DirLock, Recovered, recover};

pub(super) fn run(args: &RecoverArgs) -> Result<()> {
    let lock = DirLock::take(&args.datadir)?;
    let text = match recover(&lock)? {
        Recovered::Nothing => "nothing to recover: no install was cut short",
        Recovered::Finished => "finished: the new tree is in place",
        Recovered::Spent => "the old tree was being removed to make room; what was left of it is gone",
        Recovered::Undone => "undone: the old tree is in place",
    };
    print(&mut std::io::stdout(), &format!("{text}\n"))
}
