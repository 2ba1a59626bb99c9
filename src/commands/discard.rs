//! `highline discard`: removes what failed transfers have left for the next one.

use super::print;
use super::privileges::become_owner;
use crate::cli::DiscardArgs;
use crate::config;
use crate::error::Result;
use crate::install::{DirLock, Reuse, discard, drop_kept};

pub(super) fn run(args: &DiscardArgs) -> Result<()> {
    let roots = config::placed(&args.tree)?.roots;
    become_owner(roots.datadir())?;
    let lock = DirLock::take(roots.datadir())?;
    // Staged files become kept files first, so that one count covers both.
    discard(&lock, &roots, Reuse::Auto)?;
    let gone = drop_kept(&roots)?;
    let text = match gone.files {
        0 => "nothing to discard: no transfer has left anything".to_owned(),
        _ => format!("discarded: {gone} left by failed transfers"),
    };
    print(&mut std::io::stdout(), &format!("{text}\n"))
}
