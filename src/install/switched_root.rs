//! One root in a switch: which tree a name belongs to, what is behind our symlinks, and the steps by which they trade
//! places.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::dir::{Dir, ends_with};
use super::failpoint;
use super::keep::{HOME, KeepRules, LIVE};
use crate::error::Result;
use crate::tree::{Root, matches};

pub(super) const INCOMING: &str = "incoming";
/// Files that may become part of the new tree.
pub(super) const SEEDS: &str = "seeds";
pub(super) const PREVIOUS: &str = "previous";
pub(super) const ASIDE: &str = "aside";
pub(super) const CARRY: &str = "carry";

/// One of the two trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

impl Side {
    pub(super) fn selector(self) -> &'static str {
        match self {
            Side::Old => "old",
            Side::New => "new",
        }
    }
}

/// Files that a server may remove when it starts: if one is gone, a server removed it.
const SERVER_REMOVES: &[&str] = &["undo#", "aria_log.#"];

fn server_removes(name: &OsStr) -> bool {
    SERVER_REMOVES.iter().any(|pattern| matches(pattern, name.as_bytes()))
}

/// What has a name's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    Missing,
    /// One of our symlinks through `live`.
    Link,
    Real(FileType),
}

use Occupant::{Link, Missing, Real};

/// One root with its working directories.
#[derive(Debug)]
pub(super) struct SwitchedRoot {
    pub(super) root: Root,
    pub(super) dir: Dir,
    pub(super) home: Dir,
    pub(super) previous: Dir,
    pub(super) incoming: Dir,
    /// Holds second names, to rename over others if the filesystem cannot exchange.
    pub(super) aside: Dir,
    /// Holds a directory of the old tree that must be moved entry by entry, until it is complete.
    pub(super) carry: Dir,
    /// The end of the target of each of our symlinks, without the name.
    through: PathBuf,
    /// The same, as a usable path.
    pub(super) target: PathBuf,
}

impl SwitchedRoot {
    /// # Errors
    /// When it has no `incoming` directory: then no switch was ever prepared there.
    pub(super) fn open(root: &Root, datadir: &Path) -> Result<SwitchedRoot> {
        let dir = Dir::open(&root.path)?;
        let home = dir.child(HOME)?;
        let name = root.name.as_str();
        let incoming = home.child(INCOMING)?.child(name)?;
        let previous = home.make(PREVIOUS)?.make(name)?;
        let aside = home.make(ASIDE)?.make(name)?;
        let carry = home.make(CARRY)?.make(name)?;
        let through = Path::new(HOME).join(LIVE).join(name);
        let local = root.path == datadir;
        let target = if local { through.clone() } else { datadir.join(&through) };
        Ok(SwitchedRoot { root: root.clone(), dir, home, previous, incoming, aside, carry, through, target })
    }

    /// Where a side's entries are while they are not in place.
    pub(super) fn entries(&self, side: Side) -> &Dir {
        match side {
            Side::Old => &self.previous,
            Side::New => &self.incoming,
        }
    }

    pub(super) fn occupant(&self, dir: &Dir, name: &OsStr) -> Result<Occupant> {
        let Some(stat) = dir.stat_of(name)? else { return Ok(Missing) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let ours = kind == FileType::Symlink && ends_with(&dir.read_link(name)?, &self.through.join(name));
        Ok(if ours { Link } else { Real(kind) })
    }

    pub(super) fn park(&self, side: Side, name: &OsStr) -> Result<()> {
        let entries = self.entries(side);
        match (self.occupant(&self.dir, name)?, self.occupant(entries, name)?) {
            (Real(kind), _) if KeepRules::keeps_type(kind) => Ok(()),
            (Real(_), behind) => {
                if matches!(behind, Real(_)) {
                    entries.remove(name)?;
                }
                if behind != Link {
                    entries.symlink(name, &self.target.join(name))?;
                }
                self.exchange(side, name)
            }
            (Link | Missing, Link) => entries.remove(name),
            (Missing, Real(kind)) if kind == FileType::Directory || !server_removes(name) => {
                self.dir.symlink(name, &self.target.join(name))
            }
            (Link | Missing, Missing | Real(_)) => Ok(()),
        }
    }

    /// Moves an old entry to where it can be removed later, or removes it.
    pub(super) fn take_away(&self, name: &OsStr) -> Result<()> {
        self.previous.remove(name)?;
        if self.dir.try_rename(name, &self.previous, name)? { Ok(()) } else { self.dir.remove(name) }
    }

    /// Step 3: the entries of `side` replace their symlinks.
    pub(super) fn put(&self, side: Side) -> Result<()> {
        let entries = self.entries(side);
        // One that stays behind its link is still seen, and does not block the others.
        let mut first = Ok(());
        for name in entries.names()? {
            let done = match (self.occupant(&self.dir, &name)?, self.occupant(entries, &name)?) {
                (Link, Real(_)) => self.exchange(side, &name),
                (Missing, Real(FileType::RegularFile)) if server_removes(&name) => Ok(()),
                (Missing, Real(_)) => entries.rename(&name, &self.dir, &name),
                _ => Ok(()),
            };
            first = first.and(failpoint::past(done)?);
        }
        first?;
        self.remove_links()
    }

    pub(super) fn remove_links(&self) -> Result<()> {
        for name in self.dir.names()? {
            if self.occupant(&self.dir, &name)? == Link {
                self.dir.remove(&name)?;
            }
        }
        Ok(())
    }

    /// The first parked file, and a path to it that does not go through `live`. From `.highline` that path leads
    /// nowhere.
    fn first(&self) -> Result<Option<(OsString, PathBuf)>> {
        let first = self.previous.names()?.into_iter().next();
        Ok(first.map(|name| {
            let path = Path::new(HOME).join(PREVIOUS).join(self.root.name.as_str()).join(&name);
            (name, path)
        }))
    }

    /// Whether `void` was interrupted just before its last step.
    pub(super) fn is_exposed(&self) -> Result<bool> {
        let Some((name, path)) = self.first()? else { return Ok(false) };
        let link = matches!(self.occupant(&self.dir, &name)?, Real(FileType::Symlink));
        Ok(link && self.dir.read_link(&name)? == path.as_os_str().as_bytes())
    }

    /// Makes `live` dangle, and takes the first file's name away in the same step.
    pub(super) fn void(&self, home: &Dir) -> Result<()> {
        let Some((name, path)) = self.first()? else { return home.symlink_over(LIVE, Path::new("void")) };
        if self.dir.stat()?.st_dev != home.stat()?.st_dev {
            self.dir.remove(&name)?;
            return home.symlink_over(LIVE, Path::new("void"));
        }
        if !self.is_exposed()? {
            self.aside.remove(&name)?;
            self.aside.symlink(&name, &path)?;
            self.aside.rename(&name, &self.dir, &name)?;
        }
        let voided = self.dir.rename(&name, home, LIVE);
        if voided.is_err() && !voided.as_ref().is_err_and(failpoint::is_crash) {
            self.aside.symlink(&name, &self.target.join(&name))?;
            self.aside.rename(&name, &self.dir, &name)?;
        }
        voided
    }

    /// Trades `name` in place with `name` among the side's entries; one of them is our symlink.
    ///
    /// If the filesystem has no exchange (NFS, older ZFS), a file's name still leads to it at every moment; a
    /// directory, or a file that cannot have a second name, is missing between two steps. A directory in a lower layer
    /// of overlayfs moves entry by entry, and nobody sees it whole meanwhile.
    fn exchange(&self, side: Side, name: &OsStr) -> Result<()> {
        let entries = self.entries(side);
        if self.dir.exchange(name, entries)? {
            return Ok(());
        }
        let parking = self.occupant(&self.dir, name)? != Link;
        let (from, to) = if parking { (&self.dir, entries) } else { (entries, &self.aside) };
        if parking {
            entries.remove(name)?;
        }
        let directory = self.occupant(from, name)? == Real(FileType::Directory);
        let linked = !directory && from.hard_link(name, to)?;
        match (parking, linked) {
            (true, true) => {
                self.aside.symlink(name, &self.target.join(name))?;
                self.aside.rename(name, &self.dir, name)
            }
            (true, false) => {
                if !self.dir.try_rename(name, entries, name)? {
                    self.dir.carry(name, &self.carry)?;
                    self.carry.rename(name, entries, name)?;
                }
                self.dir.symlink(name, &self.target.join(name))
            }
            (false, true) => self.aside.rename(name, &self.dir, name),
            (false, false) if directory => {
                self.dir.remove(name)?;
                entries.rename(name, &self.dir, name)
            }
            (false, false) => entries.rename(name, &self.dir, name),
        }
    }

    /// Removes the second names left by an interrupted exchange, and undoes an interrupted `void`.
    pub(super) fn settle(&self) -> Result<()> {
        if let (Some((name, _)), true) = (self.first()?, self.is_exposed()?) {
            self.aside.remove(&name)?;
            self.aside.symlink(&name, &self.target.join(&name))?;
            self.aside.rename(&name, &self.dir, &name)?;
        }
        for name in self.aside.names()? {
            self.aside.remove(name)?;
        }
        for name in self.carry.names()? {
            self.dir.carry_back(&name, &self.carry)?;
        }
        Ok(())
    }
}
