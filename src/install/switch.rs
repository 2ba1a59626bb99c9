//! The switch from one complete tree to another, in a single step that cannot be seen half done.
//!
//! `.highline/live` in the data directory is a symlink to `old` or `new`; each of those holds, for
//! every root, a symlink to the directory with that side's entries: `previous/<root>` or
//! `incoming/<root>`.
//!
//! 1. *park*: every old entry trades places with a symlink through `live` (an atomic exchange), so
//!    that its name goes on leading to it. Names that only the new tree has become such symlinks too.
//! 2. *flip*: one rename makes `live` point to `new`. At this moment, in every root at once, the old
//!    tree is gone and the new one is there.
//! 3. *place*: every new entry trades places with its symlink.
//!
//! A server that starts in between sees one whole tree. Undoing is the same walk with the sides
//! traded, and each step decides by what lies where, so it may be broken off and repeated anywhere.
//!
//! A server that ran in between may have changed the tree that was live. What lies in place of one of
//! our symlinks is then newer than what the symlink led to.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::dir::{Dir, ends_with};
use super::failpoint;
use super::keep::{HOME, KeepRules, LIVE, MANIFEST, NEW_MANIFEST};
use super::resolved_roots::ResolvedRoots;
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Root, RootName, Scope, matches};

pub(super) const INCOMING: &str = "incoming";
/// Files that may become part of the new tree.
pub(super) const SEEDS: &str = "seeds";
pub(super) const PREVIOUS: &str = "previous";
const ASIDE: &str = "aside";
const CARRY: &str = "carry";
/// What could not be removed after a switch, out of the way of the next one.
pub(super) const LEFTOVER: &str = "leftover";

/// Files that a server may remove at a start: when one is gone, it was a server's doing.
const SERVER_REMOVES: &[&str] = &["undo#", "aria_log.#"];

fn server_removes(name: &OsStr) -> bool {
    SERVER_REMOVES.iter().any(|pattern| matches(pattern, name.as_bytes()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

impl Side {
    fn selector(self) -> &'static str {
        match self {
            Side::Old => "old",
            Side::New => "new",
        }
    }
}

/// What a name is to the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Missing,
    /// One of our symlinks through `live`.
    Link,
    Real(FileType),
}

use Occupant::{Link, Missing, Real};

/// One root with its working directories.
#[derive(Debug)]
struct Place {
    root: Root,
    dir: Dir,
    home: Dir,
    previous: Dir,
    incoming: Dir,
    /// Holds second names, to rename them over others where the filesystem cannot exchange.
    aside: Dir,
    /// Holds a directory of the old tree that has to move entry by entry, until all of it is there.
    carry: Dir,
    /// What the path of one of our symlinks ends in, but for the name.
    through: PathBuf,
    /// The same, as a path that leads there.
    target: PathBuf,
}

#[derive(Debug)]
pub(super) struct Switch<'a> {
    resolved: &'a ResolvedRoots,
    /// The data directory's `.highline`.
    home: &'a Dir,
    places: Vec<Place>,
}

impl<'a> Switch<'a> {
    /// # Errors
    /// When a root has no `incoming` directory: then no switch was ever prepared there.
    pub(super) fn new(resolved: &'a ResolvedRoots, home: &'a Dir) -> Result<Switch<'a>> {
        let mut places = Vec::new();
        for root in resolved.roots.iter() {
            let dir = Dir::open(&root.path)?;
            let home = dir.child(HOME)?;
            let name = root.name.as_str();
            let incoming = home.child(INCOMING)?.child(name)?;
            let previous = home.make(PREVIOUS)?.make(name)?;
            let aside = home.make(ASIDE)?.make(name)?;
            let carry = home.make(CARRY)?.make(name)?;
            let through = Path::new(HOME).join(LIVE).join(name);
            let local = root.path == resolved.roots.datadir();
            let target = if local { through.clone() } else { resolved.roots.datadir().join(&through) };
            places.push(Place { root: root.clone(), dir, home, previous, incoming, aside, carry, through, target });
        }
        Ok(Switch { resolved, home, places })
    }

    /// Makes the selector, with the old tree live. Nothing leads through it yet.
    ///
    /// # Errors
    /// When an entry that came would not be the root's to switch, or an old tree lies in the way.
    pub(super) fn prepare(&self) -> Result<()> {
        for place in &self.places {
            if !place.previous.names()?.is_empty() {
                let what =
                    format!("{} holds files of a switch without a journal", Printable::path(place.previous.path()));
                return Err(
                    Error::new(Kind::Usage, what).remedy("move them away, or remove them when you need none of them")
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

    /// The first-level names in place that are the root's to switch.
    fn switched(&self, place: &Place) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        for name in place.dir.names()? {
            if self.resolved.switches_here(&place.root, &place.dir, &name)? {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether a staged entry is the root's, and nothing that stays lies in its place.
    fn may_arrive(&self, place: &Place, name: &OsStr) -> Result<bool> {
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

    /// To the new tree, from wherever it stands.
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

    /// Back to the old tree, from wherever it stands.
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

    /// Step 1: all that is in place, and is `side`'s, goes behind symlinks.
    fn park(&self, place: &Place, side: Side) -> Result<()> {
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

    /// Takes the old tree away with nothing in its place, for [`Switch::clean`] to remove.
    ///
    /// A server refuses to start on a system tablespace without log or the reverse, so both must go
    /// at once: InnoDB's files go behind symlinks, and then the first one's symlink is renamed over
    /// `live`. That takes its name away and lets all the others lead to nothing, which InnoDB takes
    /// for an absent file in all places but one: it cannot create a file there. So, until the dangling
    /// symlinks are removed too, a start fails where undo tablespaces are configured, or more than one
    /// data file, or where `innodb_data_home_dir` is another filesystem than the data directory.
    ///
    /// Returns what could not be moved away, which stays.
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
            if !void.map_or(Ok(false), Place::is_exposed)? {
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
            // Aria makes a new control file beside old logs, and stops at old control beside no logs.
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

    /// Puts what [`Switch::clean`] could not remove where no later switch meets it.
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

impl Place {
    /// Where the entries of a side lie while they are not in place.
    fn entries(&self, side: Side) -> &Dir {
        match side {
            Side::Old => &self.previous,
            Side::New => &self.incoming,
        }
    }

    fn occupant(&self, dir: &Dir, name: &OsStr) -> Result<Occupant> {
        let Some(stat) = dir.stat_of(name)? else { return Ok(Missing) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let ours = kind == FileType::Symlink && ends_with(&dir.read_link(name)?, &self.through.join(name));
        Ok(if ours { Link } else { Real(kind) })
    }

    fn park(&self, side: Side, name: &OsStr) -> Result<()> {
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

    /// Puts an old entry where it can be removed at leisure, or removes it.
    fn take_away(&self, name: &OsStr) -> Result<()> {
        self.previous.remove(name)?;
        if self.dir.try_rename(name, &self.previous, name)? { Ok(()) } else { self.dir.remove(name) }
    }

    /// Step 3: the entries of `side` come out from behind their symlinks.
    fn put(&self, side: Side) -> Result<()> {
        let entries = self.entries(side);
        // One that stays behind its link is seen all the same, and keeps no other from its place.
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

    fn remove_links(&self) -> Result<()> {
        for name in self.dir.names()? {
            if self.occupant(&self.dir, &name)? == Link {
                self.dir.remove(&name)?;
            }
        }
        Ok(())
    }

    /// The first parked file, and the path to it that does not lead through `live`. Seen from
    /// `.highline` it leads to nothing.
    fn first(&self) -> Result<Option<(OsString, PathBuf)>> {
        let first = self.previous.names()?.into_iter().next();
        Ok(first.map(|name| {
            let path = Path::new(HOME).join(PREVIOUS).join(self.root.name.as_str()).join(&name);
            (name, path)
        }))
    }

    /// Whether `void` was broken off just before its last step.
    fn is_exposed(&self) -> Result<bool> {
        let Some((name, path)) = self.first()? else { return Ok(false) };
        let link = matches!(self.occupant(&self.dir, &name)?, Real(FileType::Symlink));
        Ok(link && self.dir.read_link(&name)? == path.as_os_str().as_bytes())
    }

    /// Makes `live` lead to nothing, and takes the first file's name away in the same step.
    fn void(&self, home: &Dir) -> Result<()> {
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
    /// Where the filesystem has no exchange (NFS, older ZFS), a file's name still leads to it at each
    /// moment; a directory, or a file that cannot have a second name, is away between two steps. One in a lower layer of
    /// overlayfs moves entry by entry, and is whole for nobody meanwhile.
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

    /// Removes the second names that a broken exchange left, and takes back what a broken `void` had begun.
    fn settle(&self) -> Result<()> {
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
