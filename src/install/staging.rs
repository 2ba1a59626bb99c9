//! Where a new tree is built: `.highline/incoming/<root>` in each root, on the filesystem where it will stay.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::carry;
use super::dir::Dir;
use super::durable::make_durable;
use super::failpoint;
use super::journal::{self, Phase};
use super::keep::{HOME, KeepRules, NEW_MANIFEST};
use super::kept::{self, KeptFile, drop_kept};
use super::lock::DirLock;
use super::recovery::{clean_or_set_aside, reap, refuse_unfinished};
use super::rehearsal::{Mounts, rehearse};
use super::resolved_roots::ResolvedRoots;
use super::reuse::Reuse;
use super::server_locks::ServerLocks;
use super::switch::Switch;
use super::switched_root::{INCOMING, SEEDS, Side};
use crate::error::{Error, Kind, Printable, Result};
use crate::manifest::Verified;
use crate::tree::{Content, RelPath, RootName, Roots, Scope, Shape};

/// A file that this node writes itself and that appears together with the new tree: `grastate.dat` with the position.
/// An existing one by that name goes with the old tree.
#[derive(Clone, Debug)]
pub struct OwnFile {
    pub root: RootName,
    /// A top-level name.
    pub name: OsString,
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// A place for a new tree. Dropping it leaves what is staged.
#[derive(Debug)]
pub struct Staging {
    /// Held as long as there is something to switch.
    _lock: Arc<DirLock>,
    /// The data directory's `.highline`.
    home: Dir,
    resolved: ResolvedRoots,
    /// In the order of the roots.
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    root: RootName,
    /// The root's directory.
    dir: Dir,
    /// `incoming/<root>`.
    incoming: Dir,
    /// `seeds/<root>`.
    seeds: Dir,
}

/// What is going to happen to the old tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldTree {
    /// It stays until the new one is in place.
    Stays,
    /// It is removed before the new one arrives: [`Staging::spend_old_tree`].
    GoesFirst,
}

/// The new tree is in place and durable.
#[derive(Debug)]
#[must_use]
pub struct Installed {
    /// Why the old tree could not be removed, if so; `recover` tries again.
    pub leftover: Option<Error>,
    /// A server file on a filesystem without locks: nothing kept a server from starting meanwhile.
    pub unguarded: Option<PathBuf>,
}

impl Staging {
    /// Makes the staging directories (0700, the roots' owners), empty.
    ///
    /// # Errors
    /// An unfinished switch, roots that cannot be switched (nested too deep, shared), an entry that the switch could not
    /// move, or a directory that cannot be written.
    pub fn prepare(lock: Arc<DirLock>, roots: &Roots, keep: KeepRules, old: OldTree, reuse: Reuse) -> Result<Staging> {
        let home = lock.datadir.make(HOME)?;
        refuse_unfinished(&lock, &home)?;
        let mut resolved = ResolvedRoots::new(roots, keep, Vec::new())?;
        resolved.reuse = reuse;
        if resolved.roots.datadir() != lock.datadir() {
            return Err(Error::new(Kind::Usage, "the lock is on another data directory"));
        }
        let mounts = Mounts::read();
        for root in resolved.roots.iter() {
            rehearse(&resolved, root, &mounts, old == OldTree::GoesFirst)?;
        }
        let mut places = Vec::new();
        for root in resolved.roots.iter() {
            let dir = Dir::open(&root.path)?;
            let here = dir.make(HOME)?;
            let empty = |kind| {
                let above = here.make(kind)?;
                above.remove(root.name.as_str())?;
                above.make(root.name.as_str())
            };
            let incoming = empty(INCOMING)?;
            carry::rehearse(&resolved, root, &dir, &incoming)?;
            let seeds = empty(SEEDS)?;
            places.push(Place { root: root.name.clone(), dir, incoming, seeds });
        }
        Ok(Staging { _lock: lock, home, resolved, places })
    }

    /// The directory to open a root's entries beneath.
    pub fn directory(&self, root: &str) -> Option<BorrowedFd<'_>> {
        self.place(root).map(|place| place.incoming.as_fd())
    }

    fn place(&self, root: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.root.as_str() == root)
    }

    /// The directory for a root's files that are not part of the new tree yet, on the same filesystem. What stays there
    /// is removed with the staging area; if the attempt fails, files with a kept name stay kept.
    pub fn seeds(&self, root: &str) -> Option<BorrowedFd<'_>> {
        self.place(root).map(|place| place.seeds.as_fd())
    }

    /// Moves a kept file into its root's [`Staging::seeds`]; returns its name there. `None` if it has changed since
    /// [`super::kept()`] found it.
    pub fn take_kept(&self, kept: &KeptFile) -> Result<Option<OsString>> {
        let Some(place) = self.place(kept.path.root_str()) else { return Ok(None) };
        let taken = kept::take(&place.dir, &kept.name, &place.seeds)?;
        Ok(taken.then(|| kept.name.clone()))
    }

    /// The local name of a top-level entry of the donor's; see [`crate::tree::Root::local_name`].
    pub fn local_name<'a>(&self, path: &'a RelPath) -> Cow<'a, OsStr> {
        match self.resolved.roots.get(path.root_str()) {
            Some(root) => root.local_name(path.first()),
            None => Cow::Borrowed(path.first()),
        }
    }

    /// Whether an entry may be staged: its root exists here and may switch its top-level name. Otherwise the install
    /// would refuse the tree, so ask before it is sent.
    pub fn accepts(&self, path: &RelPath, content: &Content) -> bool {
        let Some(root) = self.resolved.roots.get(path.root_str()) else { return false };
        let first = root.local_name(path.first());
        let fits = match (path.parent(), content) {
            (Some(_), _) | (None, Content::Directory) => self.resolved.switches(root, &first, Shape::Directory),
            (None, Content::Symlink { target }) => self.resolved.switches_link(root, &first, target),
            (None, Content::File { .. } | Content::HardLink { .. }) => {
                self.resolved.switches(root, &first, Shape::File)
            }
        };
        let own = self.resolved.keep.own();
        let mut place = root.path.join(&*first);
        let free = !own.is_above(&place) || {
            place.extend(path.beneath().components().skip(1));
            let shape = if *content == Content::Directory { Shape::Directory } else { Shape::File };
            own.covers(&place, shape).is_none()
        };
        fits && free
    }

    /// What is here and stays, with the option that names it or another reason: nothing may arrive there. At most
    /// [`Staging::MOST_KEPT`], deeper ones first: most of what stays at the top level is never sent anyway.
    pub fn kept(&self) -> Result<Vec<(RelPath, String)>> {
        let mut kept = carry::own_paths(&self.resolved)?;
        for root in self.resolved.roots.iter().filter(|root| root.scope == Scope::Whole) {
            let dir = Dir::open(&root.path)?;
            for name in dir.names()? {
                if name != HOME
                    && !self.resolved.switches_here(root, &dir, &name)?
                    && let Some(why) = self.resolved.why_kept(root, &name, dir.shape(&name))
                    && let Ok(path) = RelPath::new(&root.name, name.as_bytes())
                {
                    kept.push((path, why));
                }
            }
        }
        kept.truncate(Self::MOST_KEPT);
        Ok(kept)
    }

    /// The most kept paths to tell a donor.
    const MOST_KEPT: usize = 1000;

    /// Moves what is staged for the roots of single files into the data directory's place, and returns that: there a
    /// backup is prepared.
    pub fn gather(&self) -> Result<PathBuf> {
        let [datadir, others @ ..] = self.places.as_slice() else {
            return Err(Error::new(Kind::Usage, "there is no data directory"));
        };
        for place in others {
            for name in place.incoming.names()? {
                place.incoming.rename(&name, &datadir.incoming, &name)?;
            }
        }
        Ok(datadir.incoming.path().to_owned())
    }

    /// Undoes [`Staging::gather`], by names as a backup has them. First-level files that are `useless` are removed.
    pub fn scatter(&self, useless: impl Fn(&str) -> bool) -> Result<()> {
        let Some(datadir) = self.places.first() else { return Ok(()) };
        for name in datadir.incoming.names()? {
            if datadir.incoming.shape(&name) == Shape::Directory {
                continue;
            }
            if name.to_str().is_some_and(&useless) {
                datadir.incoming.remove(&name)?;
            } else if let Some(place) =
                self.resolved.roots.called(&name).and_then(|root| self.place(root.name.as_str()))
            {
                datadir.incoming.rename(&name, &place.incoming, &name)?;
            }
        }
        Ok(())
    }

    /// Makes all that is staged durable.
    ///
    /// # Errors
    /// What could not be brought to disk: nothing was switched.
    pub fn sync(&self) -> Result<()> {
        failpoint::step("sync")?;
        make_durable(&self.places.iter().map(|place| &place.incoming).collect::<Vec<_>>())
    }

    /// Durably writes the manifest of the staged tree.
    pub fn write_manifest(&self, content: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
        self.home.write_with(NEW_MANIFEST, 0o600, content)
    }

    /// Removes the old tree now, to free its room (`--install inplace`). What is kept stays, and so do directories with
    /// listed content, in which the transfer replaces what it brings. With [`Reuse::Auto`] its larger files get kept
    /// names instead: they become part of the new tree, or [`super::drop_kept`] removes them.
    ///
    /// `also` are kept names of the data directory that are removed too, and first: `grastate.dat`, if no provider has
    /// it open, because a position without its data must never be believed.
    ///
    /// # Errors
    /// On a failure before the point of no return the old tree is back in place; after it,
    /// `recover` finishes the removal. What cannot be removed stays, and its error is returned.
    pub fn spend_old_tree(&mut self, also: &[&str]) -> Result<Option<Error>> {
        self.resolved.own = also.iter().map(|name| (RootName::datadir(), OsString::from(name))).collect();
        self.resolved.stays = carry::holders(&self.resolved)?;
        let locks = ServerLocks::take(&self.resolved, Side::Old)?;
        let switch = Switch::new(&self.resolved, &self.home)?;
        switch.prepare()?;
        journal::write(&self.home, &self.resolved, Phase::Spending)?;
        let left = spend(&self.resolved, &self.home, &switch)?;
        locks.release(Side::Old);
        // A new tree may be added to what they hold now.
        self.resolved.stays.clear();
        Ok(left)
    }

    /// Replaces the old tree by the staged one, and removes the old one once that is durable.
    ///
    /// What [`Staging::write_manifest`] wrote becomes the data directory's [`super::MANIFEST`].
    ///
    /// # Errors
    /// On a failure the old tree is back in place, and what was staged is no longer usable. If going back fails too,
    /// both errors are reported and the journal remains for `recover`.
    pub fn install(mut self, verified: Verified, own: &[OwnFile]) -> Result<Installed> {
        let _evidence = verified;
        for file in own {
            let place = self.place(file.root.as_str());
            match (place, file.name.to_str()) {
                (Some(place), Some(name)) if plain(&file.name) => {
                    place.incoming.write(name, &file.content, file.mode)?;
                }
                _ => {
                    let what = format!("{}/{} is not a name in a root", file.root, Printable(file.name.as_bytes()));
                    return Err(Error::new(Kind::Usage, what));
                }
            }
            self.resolved.own.push((file.root.clone(), file.name.clone()));
        }
        self.resolved.stays = carry::into_staged(&self.resolved, |root| self.place(root).map(|place| &place.incoming))?;
        self.sync()?;
        let mut locks = ServerLocks::take(&self.resolved, Side::Old)?;
        let switch = Switch::new(&self.resolved, &self.home)?;
        switch.prepare()?;
        journal::write(&self.home, &self.resolved, Phase::Switching)?;
        match switch.forward() {
            Ok(()) => {}
            Err(error) if failpoint::is_crash(&error) => return Err(error),
            Err(error) => {
                let error = undo(&self.resolved, &self.home, &switch, error);
                // If going back failed, the new tree may be live.
                if !journal::exists(&self.home)? {
                    locks.release(Side::New);
                }
                return Err(error);
            }
        }
        journal::write(&self.home, &self.resolved, Phase::Finished)?;
        let leftover = failpoint::past(finish(&self.resolved, &self.home))?.err();
        let unguarded = locks.unguarded.take();
        locks.release(Side::Old);
        Ok(Installed { leftover, unguarded })
    }
}

fn plain(name: &OsStr) -> bool {
    !matches!(name.as_bytes(), b"" | b"." | b"..") && !name.as_bytes().contains(&b'/')
}

fn spend(resolved: &ResolvedRoots, home: &Dir, switch: &Switch<'_>) -> Result<Option<Error>> {
    let left = match switch.spend() {
        Ok(left) => left,
        Err(error) => {
            let back = !failpoint::is_crash(&error) && switch.old_is_live()?;
            return Err(if back { undo(resolved, home, switch, error) } else { error });
        }
    };
    reap(resolved)?;
    let cleaned = clean_or_set_aside(resolved, home, false)?;
    journal::remove(home, resolved.roots.datadir())?;
    Ok(left.or(cleaned))
}

/// Goes back to the old tree; returns `cause`, plus the reason if going back failed.
fn undo(resolved: &ResolvedRoots, home: &Dir, switch: &Switch<'_>, cause: Error) -> Error {
    let undone = switch
        .back()
        .and_then(|()| journal::write(home, resolved, Phase::Undone))
        .and_then(|()| Switch::clean(resolved, home, false))
        .and_then(|()| journal::remove(home, resolved.roots.datadir()));
    match undone {
        Ok(()) => cause,
        Err(error) if failpoint::is_crash(&error) => error,
        Err(error) => {
            let what = format!("{}; going back failed too: {}", cause.sentence(), error.sentence());
            Error::new(cause.kind(), what).remedy("fix the cause and run highline recover; nothing is lost")
        }
    }
}

fn finish(resolved: &ResolvedRoots, home: &Dir) -> Result<()> {
    Switch::clean(resolved, home, true).and(drop_kept(&resolved.roots))?;
    journal::remove(home, resolved.roots.datadir())
}
