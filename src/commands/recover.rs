//! `highline recover`: finishes or undoes an interrupted install, and says what is there.

use std::collections::BTreeMap;

use super::print;
use super::privileges::become_owner;
use crate::cli::RecoverArgs;
use crate::error::{Error, Kind, Printable, Result};
use crate::install::{DirLock, KEPT, Recovered, Tally, holds_database, kept, recover, recover_staged};
use crate::progress::bytes;
use crate::tree::Roots;

pub(super) fn run(args: &RecoverArgs) -> Result<()> {
    let datadir = args.datadir.canonicalize();
    let datadir = datadir.map_err(|e| Error::io("cannot open the data directory", &args.datadir, e))?;
    become_owner(&datadir)?;
    let lock = DirLock::take(&datadir)?;
    let recovered = recover(&lock)?;
    let staged = recover_staged(&lock)?;
    let text = match recovered {
        Recovered::Nothing if staged => {
            "no install was interrupted; a transfer was, and what it had staged is out of the server's way"
        }
        Recovered::Nothing => "nothing to recover: no install was interrupted",
        Recovered::Finished => "finished: the new tree is in place",
        Recovered::Spent => "the old tree was being removed to make room, and is gone",
        Recovered::Undone => "undone: the old tree is in place",
    };
    print(&mut std::io::stdout(), &format!("{text}\n"))?;
    let left = Tally::of(&kept(&Roots::new(&datadir, &BTreeMap::new())?)?).bytes;
    if left > 0 {
        let (left, shown) = (bytes(left), Printable::path(&datadir));
        let text = format!(
            "kept for the next transfer: {left}, called {KEPT}*; `highline discard --datadir {shown}` removes it\n"
        );
        print(&mut std::io::stdout(), &text)?;
    }
    if holds_database(&datadir) {
        return Ok(());
    }
    let what = format!("{} holds no database now", Printable::path(&datadir));
    Err(Error::new(Kind::NotFound, what)
        .because(NO_DATABASE.to_owned())
        .remedy("start the server as a joiner, which brings a full transfer, or run `highline receive` here"))
}

/// Why a data directory may hold no database.
const NO_DATABASE: &str =
    "it has no system tablespace; a transfer with install=inplace removes the old data before the new data arrives";
