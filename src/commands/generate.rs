//! `highline generate`: man pages and shell completions for the installer. Hidden, because operators do not need it.

use crate::cli::{GenerateArgs, pages};
use crate::error::{Error, Kind, Printable, Result};

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    pages::write_man(&args.dir.join("man"), &args.date)
        .and_then(|()| pages::write_completions(&args.dir.join("completions")))
        .map_err(|e| Error::new(Kind::Io, format!("cannot write into {}", Printable::path(&args.dir))).because(e))
}
