//! `highline recover`: finishes or undoes an installation that was cut short.

use crate::cli::RecoverArgs;
use crate::error::Result;

pub(super) fn run(args: &RecoverArgs) -> Result<()> {
    let _ = args;
    Ok(())
}
