//! After a crash or a failure: finishing or undoing a switch, removing what is left, and finding out what there is.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use super::carry;
use super::dir::Dir;
use super::failpoint;
use super::journal::{self, Phase};
use super::keep::{HOME, LIVE, NEW_MANIFEST};
use super::kept::{self, Tally};
use super::lock::DirLock;
use super::resolved_roots::ResolvedRoots;
use super::reuse::Reuse;
use super::server_locks::ServerLocks;
use super::switch::{self, Switch};
use super::switched_root::{INCOMING, PREVIOUS, SEEDS, Side};
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Roots, matches};

/// What [`recover`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// No switch was unfinished.
    Nothing,
    /// The new tree is in place.
    Finished,
    /// The old tree is in place.
    Undone,
    /// The old tree is gone, as requested, and there is no new one.
    Spent,
}

/// Ends an attempt: keeps what a later one may use of what is staged in these roots. The rest is removed, so that a
/// server on the old tree does not list `.highline` as a schema.
///
/// # Errors
/// An unfinished switch: it must be recovered first.
pub fn discard(lock: &DirLock, roots: &Roots, reuse: Reuse) -> Result<()> {
    if !salvaged(lock, roots, reuse)? {
        return Ok(());
    }
    for path in roots.directories() {
        Dir::open(path)?.remove(HOME)?;
    }
    Ok(())
}

/// Before an attempt: keeps what a killed one had staged, and removes what may no longer be used. Returns what was
/// removed.
///
/// # Errors
/// As [`discard`].
pub fn clear_earlier(lock: &DirLock, roots: &Roots, reuse: Reuse, now: SystemTime) -> Result<Tally> {
    if salvaged(lock, roots, reuse)? {
        for path in roots.directories() {
            if let Some(home) = Dir::open(path)?.find(HOME)? {
                home.remove(INCOMING)?;
                home.remove(SEEDS)?;
            }
        }
    }
    if reuse.keeps() { kept::drop_aged(roots, now) } else { kept::drop_kept(roots) }
}

/// Whether there is a `.highline`; if so, keeps what a later attempt may use of it.
fn salvaged(lock: &DirLock, roots: &Roots, reuse: Reuse) -> Result<bool> {
    let Some(home) = lock.datadir.find(HOME)? else { return Ok(false) };
    refuse_unfinished(lock, &home)?;
    if reuse.keeps() {
        kept::harvest_staged(roots)?;
    }
    Ok(true)
}

pub(super) fn refuse_unfinished(lock: &DirLock, home: &Dir) -> Result<()> {
    if journal::exists(home)? {
        let what = format!("{} has an unfinished install", Printable::path(lock.datadir()));
        return Err(Error::new(Kind::Usage, what).remedy("run highline recover first"));
    }
    Ok(())
}

/// Ends a switch that a crash interrupted: back to the old tree if that is live, on to the new one otherwise. So a
/// server that ran in between keeps the tree it knows.
///
/// # Errors
/// A journal that cannot be trusted or a server running on the tree (then nothing is touched); or an entry that could
/// not be moved: a server still sees a whole tree, and a later recovery continues.
pub fn recover(lock: &DirLock) -> Result<Recovered> {
    let Some(home) = &lock.datadir.find(HOME)? else { return Ok(Recovered::Nothing) };
    let Some((resolved, phase)) = journal::read(home, lock.datadir())? else {
        lock.datadir.drop_empty(HOME, home)?;
        return Ok(Recovered::Nothing);
    };
    let recovered = ahead(home, phase)?;
    let (live, gone) = match recovered {
        Recovered::Finished => (Side::New, Side::Old),
        Recovered::Spent => (Side::Old, Side::Old),
        _ => (Side::Old, Side::New),
    };
    let locks = ServerLocks::take(&resolved, live)?;
    match recovered {
        Recovered::Finished if phase == Phase::Switching => {
            Switch::new(&resolved, home)?.forward()?;
            journal::write(home, &resolved, Phase::Finished)?;
        }
        // The selector is removed first.
        Recovered::Spent if home.stat_of(LIVE)?.is_some() => {
            Switch::new(&resolved, home)?.spend()?;
        }
        Recovered::Undone if phase != Phase::Undone => {
            Switch::new(&resolved, home)?.back()?;
            journal::write(home, &resolved, Phase::Undone)?;
        }
        _ => {}
    }
    match recovered {
        Recovered::Spent => reap(&resolved)?,
        Recovered::Undone if resolved.reuse.keeps() => kept::harvest_switched(&resolved, INCOMING)?,
        Recovered::Finished => drop(failpoint::past(kept::drop_kept(&resolved.roots))?),
        _ => {}
    }
    // The server would list the staging area as a schema.
    clean_or_set_aside(&resolved, home, true)?;
    journal::remove(home, lock.datadir())?;
    locks.release(gone);
    Ok(recovered)
}

/// Whether the data directory holds a database: the system tablespace or, if that is elsewhere, the schema `mysql`.
pub fn holds_database(datadir: &Path) -> bool {
    let names = std::fs::read_dir(datadir).into_iter().flatten().filter_map(|item| Some(item.ok()?.file_name()));
    names.into_iter().any(|name| name == "mysql" || matches("ibdata#", name.as_bytes()))
}

/// Cleans up after a killed transfer, in all directories that this one names, unless an install is unfinished: keeps
/// what the next transfer may use. Says whether there was anything.
pub fn recover_staged(lock: &DirLock) -> Result<bool> {
    let Some(home) = lock.datadir.find(HOME)? else { return Ok(false) };
    refuse_unfinished(lock, &home)?;
    let staged = home.stat_of(INCOMING)?.is_some();
    if staged {
        kept::harvest_staged(&Roots::new(lock.datadir(), &BTreeMap::new())?)?;
        for name in [INCOMING, SEEDS, NEW_MANIFEST, "manifest.new.tmp"] {
            home.remove(name)?;
        }
    }
    lock.datadir.drop_empty(HOME, &home)?;
    Ok(staged)
}

/// What an earlier install could not remove, and why: it takes up room, and a server lists `.highline` as a schema.
pub fn leftover(lock: &DirLock, roots: &Roots) -> Option<Error> {
    let left = |path: &Path| -> Result<()> {
        let dir = Dir::open(path)?;
        let Some(home) = dir.find(HOME)? else { return Ok(()) };
        home.remove(switch::LEFTOVER)?;
        dir.drop_empty(HOME, &home).map(|_| ())
    };
    let failed = roots.directories().into_iter().chain([lock.datadir()]).find_map(|path| left(path).err());
    failed.map(|error| error.remedy("remove .highline/leftover yourself, as root; `lsattr` shows immutable files"))
}

/// What [`recover`] would do with this data directory; changes nothing.
///
/// # Errors
/// As [`recover`], if the journal cannot be trusted.
pub fn unfinished(lock: &DirLock) -> Result<Recovered> {
    let Some(home) = &lock.datadir.find(HOME)? else { return Ok(Recovered::Nothing) };
    match journal::read(home, lock.datadir())? {
        Some((_, phase)) => ahead(home, phase),
        None => Ok(Recovered::Nothing),
    }
}

/// Where a recovery leads: to the tree that a server sees now.
fn ahead(home: &Dir, phase: Phase) -> Result<Recovered> {
    Ok(match phase {
        Phase::Finished => Recovered::Finished,
        Phase::Undone => Recovered::Undone,
        Phase::Spending if home.stat_of(LIVE)?.is_none() || !switch::old_is_live(home)? => Recovered::Spent,
        Phase::Switching if !switch::old_is_live(home)? => Recovered::Finished,
        Phase::Spending | Phase::Switching => Recovered::Undone,
    })
}

/// Cleans up an old tree that was removed first: the node's own files stay, and what a later attempt may use is kept.
pub(super) fn reap(resolved: &ResolvedRoots) -> Result<()> {
    carry::prune(resolved)?;
    if resolved.reuse == Reuse::Auto {
        kept::harvest_switched(resolved, PREVIOUS)?;
    }
    Ok(())
}

/// Removes, or sets aside, what is left. What cannot be removed does not block the next transfer; the error is
/// returned.
pub(super) fn clean_or_set_aside(resolved: &ResolvedRoots, home: &Dir, incoming: bool) -> Result<Option<Error>> {
    match failpoint::past(Switch::clean(resolved, home, incoming))? {
        Err(error) => Switch::set_aside(resolved, incoming).map(|()| Some(error)),
        Ok(()) => Ok(None),
    }
}
