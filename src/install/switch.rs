//! The switch from one complete tree to another, in a single step that cannot be seen half done.
//!
//! `.highline/live` in the data directory is a symlink to `old` or `new`; each of those holds, for
//! every root, a symlink to the directory with that side's entries: `previous/<root>` or
//! `incoming/<root>`.
//!
//! 1. *park*: every old entry trades places with a symlink through `live` (an atomic exchange), so
//!    that its name still leads to it. Names that only the new tree has become such symlinks too.
//! 2. *flip*: one rename makes `live` point to `new`. At this moment, in every root at once, the old
//!    tree is gone and the new one is there.
//! 3. *place*: every new entry trades places with its symlink.
//!
//! A server that starts in between sees one whole tree. Undoing is the same walk with the sides swapped. Each step goes
//! by what it finds, so the walk may be interrupted and repeated anywhere.
//!
//! A server that ran in between may have
//! changed the tree that was live. What is now in place of one of our symlinks is then newer than what the symlink led
//! to.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::dir::Dir;
use super::failpoint;
use super::keep::{HOME, KeepRules, LIVE, MANIFEST, NEW_MANIFEST};
use super::resolved_roots::ResolvedRoots;
use super::switched_root::Occupant::{Link, Missing, Real};
use super::switched_root::{ASIDE, CARRY, INCOMING, PREVIOUS, SEEDS, Side, SwitchedRoot};
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{RootName, Scope};

/// What could not be removed after a switch, out of the way of the next one.
pub(super) const LEFTOVER: &str = "leftover";

#[derive(Debug)]
pub(super) struct Switch<'a> {
    resolved: &'a ResolvedRoots,
    /// The data directory's `.highline`.
    home: &'a Dir,
    places: Vec<SwitchedRoot>,
}

impl<'a> Switch<'a> {
    /// # Errors
    /// A root without an `incoming` directory: no switch was ever prepared there.
    pub(super) fn new(resolved: &'a ResolvedRoots, home: &'a Dir) -> Result<Switch<'a>> {
        let mut places = Vec::new();
        for root in resolved.roots.iter() {
            places.push(SwitchedRoot::open(root, resolved.roots.datadir())?);
        }
        Ok(Switch { resolved, home, places })
    }

    /// Makes the selector, with the old tree live. Nothing goes through it yet.
    ///
    /// # Errors
    /// An entry that arrived is not the root's to switch, or an old tree is in the way.
    pub(super) fn prepare(&self) -> Result<()> {
        for place in &self.places {
            if !place.previous.names()?.is_empty() {
                let what =
                    format!("{} holds files of a switch without a journal", Printable::path(place.previous.path()));
                return Err(
                    Error::new(Kind::Usage, what).remedy("move them away, or remove them if you do not need them")
                );
            }
            for name in place.incoming.names()? {
                if !self.may_arrive(place, &name)? {
                    let what = format!("{}/{} must not be replaced", place.root.name, Printable(name.as_bytes()));
                    return Err(Error::new(Kind::Incompatible, what)
                        .remedy("both sides must have the same roots, and leave out the same files"));
                }
            }
        }
        for (side, within) in [(Side::Old, PREVIOUS), (Side::New, INCOMING)] {
            let selector = self.home.make(side.selector())?;
            for place in &self.places {
                let name = place.root.name.as_str();
                let base = match place.root.path == self.resolved.roots.datadir() {
                    true => PathBuf::from(".."),
                    false => place.home.path().to_owned(),
                };
                selector.symlink_over(name, &base.join(within).join(name))?;
            }
            selector.sync()?;
        }
        self.flip(Side::Old)?;
        self.sync()
    }

    /// The top-level names in place that the root may switch.
    fn switched(&self, place: &SwitchedRoot) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        for name in place.dir.names()? {
            if self.resolved.switches_here(&place.root, &place.dir, &name)? {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether a staged entry is the root's, and nothing that stays is in its place.
    fn may_arrive(&self, place: &SwitchedRoot, name: &OsStr) -> Result<bool> {
        let known = match place.occupant(&place.incoming, name)? {
            Real(FileType::Symlink) => self.resolved.switches_link(&place.root, name, &place.incoming.read_link(name)?),
            Real(_) => self.resolved.switches(&place.root, name, place.incoming.shape(name)),
            Link | Missing => false,
        };
        let in_the_way = match place.dir.stat_of(name)? {
            Some(stat) if place.root.scope != Scope::Listed => {
                KeepRules::keeps_type(FileType::from_raw_mode(stat.st_mode))
                    || !self.resolved.switches_here(&place.root, &place.dir, name)?
            }
            _ => false,
        };
        Ok(known && !in_the_way)
    }

    /// Goes to the new tree, from whatever state.
    pub(super) fn forward(&self) -> Result<()> {
        self.turn(Side::New)?;
        if self.home.stat_of(NEW_MANIFEST)?.is_some() {
            let datadir = Dir::open(self.resolved.roots.datadir())?;
            self.home.rename(NEW_MANIFEST, &datadir, MANIFEST)?;
            datadir.sync()?;
            self.home.sync()?;
        }
        Ok(())
    }

    /// Goes back to the old tree, from whatever state.
    pub(super) fn back(&self) -> Result<()> {
        self.turn(Side::Old)
    }

    fn turn(&self, to: Side) -> Result<()> {
        let live = self.live()?;
        if live != to {
            for place in &self.places {
                place.settle()?;
                self.park(place, live)?;
            }
            self.sync()?;
            self.flip(to)?;
        }
        for place in &self.places {
            place.settle()?;
            place.put(to)?;
        }
        self.sync()
    }

    fn live(&self) -> Result<Side> {
        let target = self.home.read_link(LIVE)?;
        let side = [Side::Old, Side::New].into_iter().find(|side| target == side.selector().as_bytes());
        side.ok_or_else(|| {
            let what = format!("{} leads to neither tree", Printable::path(&self.home.join(LIVE)));
            Error::new(Kind::Integrity, what).remedy("it must be a symlink to `old` or `new`")
        })
    }

    fn flip(&self, to: Side) -> Result<()> {
        self.home.symlink_over(LIVE, Path::new(to.selector()))?;
        self.home.sync()
    }

    fn sync(&self) -> Result<()> {
        for place in &self.places {
            for dir in [&place.dir, &place.home, &place.previous, &place.incoming, &place.aside, &place.carry] {
                dir.sync()?;
            }
        }
        Ok(())
    }

    /// Step 1: everything in place that belongs to `side` goes behind symlinks.
    fn park(&self, place: &SwitchedRoot, side: Side) -> Result<()> {
        let here = place.entries(side);
        let other = place.entries(if side == Side::Old { Side::New } else { Side::Old });
        let mut names: BTreeSet<OsString> = here.names()?.into_iter().collect();
        let coming = other.names()?;
        match place.root.scope {
            Scope::Listed => names.extend(coming.iter().cloned()),
            _ => names.extend(self.switched(place)?),
        }
        for name in &names {
            place.park(side, name)?;
        }
        for name in &coming {
            if place.occupant(&place.dir, name)? == Missing {
                place.dir.symlink(name, &place.target.join(name))?;
            }
        }
        Ok(())
    }

    /// Whether the old tree can still be seen whole.
    pub(super) fn old_is_live(&self) -> Result<bool> {
        old_is_live(self.home)
    }

    /// Takes the old tree away without a replacement, for [`Switch::clean`] to remove.
    ///
    /// A server refuses to start on a system tablespace without a log or the reverse, so both must go at once: InnoDB's
    /// files go behind symlinks, and then the first one's symlink is renamed over `live`. That takes its name away and
    /// leaves all the others dangling. InnoDB treats a dangling link as an absent file, except that it cannot create a
    /// file there. So until the dangling symlinks are removed too, a start fails if undo tablespaces or more than one
    /// data file are configured, or if `innodb_data_home_dir` is on another filesystem than the data directory.
    ///
    /// Returns
    /// the error for what could not be moved away, which stays.
    pub(super) fn spend(&self) -> Result<Option<Error>> {
        let innodb = self.places.iter().filter(|place| place.root.name.is_innodb());
        if self.old_is_live()? {
            for place in &self.places {
                for (_, name) in self.resolved.own.iter().filter(|(root, _)| *root == place.root.name) {
                    if matches!(place.occupant(&place.dir, name)?, Real(_)) {
                        place.dir.rename(name, &place.previous, name)?;
                    }
                }
            }
            self.sync()?;
            let void = self.places.iter().find(|place| place.root.name.as_str() == RootName::INNODB_DATA);
            if !void.map_or(Ok(false), SwitchedRoot::is_exposed)? {
                for place in innodb.clone() {
                    place.settle()?;
                    self.park(place, Side::Old)?;
                }
            }
            self.sync()?;
            match void {
                Some(place) => place.void(self.home)?,
                None => self.home.symlink_over(LIVE, Path::new("void"))?,
            }
            self.home.sync()?;
        }
        for place in innodb {
            place.remove_links()?;
            place.dir.sync()?;
        }
        let mut left = None;
        for place in &self.places {
            let mut names = self.switched(place)?;
            // Aria makes a new control file beside old logs, but stops at an old control file without logs.
            names.sort_by_key(|name| name != "aria_log_control");
            for name in &names {
                let Real(kind) = place.occupant(&place.dir, name)? else { continue };
                if place.root.scope != Scope::Listed && !KeepRules::keeps_type(kind) {
                    left = left.or(failpoint::past(place.take_away(name))?.err());
                }
            }
        }
        self.sync()?;
        Ok(left)
    }

    /// Removes what a finished or undone switch leaves behind. With `incoming`, the staged tree too.
    ///
    /// # Errors
    /// The first thing that could not be removed; what could is gone.
    pub(super) fn clean(resolved: &ResolvedRoots, home: &Dir, incoming: bool) -> Result<()> {
        home.remove(LIVE)?;
        for side in [Side::Old, Side::New] {
            home.remove(side.selector())?;
        }
        if incoming {
            for name in [NEW_MANIFEST, "live.tmp", "manifest.new.tmp"] {
                home.remove(name)?;
            }
        }
        let mut first = Ok(());
        for root in resolved.roots.iter() {
            let dir = Dir::open(&root.path)?;
            let Some(home) = dir.find(HOME)? else { continue };
            for kind in working(incoming) {
                if let Some(dir) = home.find(kind)? {
                    first = first.and(failpoint::past(dir.remove(root.name.as_str()))?);
                    home.drop_empty(kind, &dir)?;
                }
            }
            home.sync()?;
            if dir.drop_empty(HOME, &home)? {
                dir.sync()?;
            }
        }
        first
    }

    /// Moves what [`Switch::clean`] could not remove out of the way of later switches.
    pub(super) fn set_aside(resolved: &ResolvedRoots, incoming: bool) -> Result<()> {
        for root in resolved.roots.iter() {
            let Some(home) = Dir::open(&root.path)?.find(HOME)? else { continue };
            for kind in working(incoming) {
                let Some(dir) = home.find(kind)?.filter(|dir| matches!(dir.stat_of(root.name.as_str()), Ok(Some(_))))
                else {
                    continue;
                };
                let leftover = home.make(LEFTOVER)?;
                let taken = leftover.names()?;
                let name = format!("{}-{}", root.name, taken.len());
                dir.rename(root.name.as_str(), &leftover, name)?;
                home.drop_empty(kind, &dir)?;
            }
            home.sync()?;
        }
        Ok(())
    }
}

/// The directories of a switch in a root's `.highline`.
fn working(incoming: bool) -> impl Iterator<Item = &'static str> {
    [PREVIOUS, ASIDE, CARRY].into_iter().chain(incoming.then_some([INCOMING, SEEDS]).into_iter().flatten())
}

/// Whether the selector in this `.highline` leads to the old tree.
pub(super) fn old_is_live(home: &Dir) -> Result<bool> {
    Ok(home.read_link(LIVE)? == Side::Old.selector().as_bytes())
}
