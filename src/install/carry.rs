//! The node's own files below the top level: what happens to them when the directory around them is switched.
//!
//! - A top-level directory that holds nothing else, and that the donor does not send, stays in place untouched.
//! - Any other is switched. Before that, each of the node's own files in it gets a second name at the same path in the
//!   staged tree, so that a server that has it open keeps the same file; its own directories are recreated there,
//!   and so is the top-level directory if the donor sent none.
//!
//! If the old tree is removed first, such a directory stays and is emptied of all but the node's own files.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;

use super::dir::Dir;
use super::kept::Harvest;
use super::resolved_roots::ResolvedRoots;
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{OwnName, RelPath, Root, RootName, Scope, Shape, is_key_file};

type Names = Vec<(RootName, OsString)>;

/// The top-level directories that have files of the node's own beneath them and that the root may switch.
fn of_root(resolved: &ResolvedRoots, root: &Root, dir: &Dir) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    if resolved.keep.own().is_above(&root.path) {
        for (name, kind) in dir.entries()? {
            let above = resolved.keep.own().is_above(&root.path.join(&name));
            if above && kind == FileType::Directory && resolved.switches(root, &name, Shape::Directory) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// The same, for all roots.
pub(super) fn holders(resolved: &ResolvedRoots) -> Result<Names> {
    let mut all = Names::new();
    for root in resolved.roots.iter() {
        let names = of_root(resolved, root, &Dir::open(&root.path)?)?;
        all.extend(names.into_iter().map(|name| (root.name.clone(), name)));
    }
    Ok(all)
}

/// The node's own paths below the top level: those that exist, and those that the server may
/// create.
pub(super) fn own_paths(resolved: &ResolvedRoots) -> Result<Vec<(RelPath, String)>> {
    let mut found = BTreeMap::new();
    let mut note = |place: &Path, option: &str| {
        let whole = |root: &&Root| !matches!(root.scope, Scope::Names(_)) && place.starts_with(&root.path);
        let root = resolved.roots.iter().filter(whole).max_by_key(|root| root.path.components().count());
        if let Some(root) = root
            && let Ok(beneath) = place.strip_prefix(&root.path)
            && beneath.components().count() > 1
            && let Ok(path) = RelPath::new(&root.name, beneath.as_os_str().as_bytes())
        {
            found.insert(path, option.to_owned());
        }
    };
    for own in resolved.keep.own().iter() {
        if !matches!(own.name, OwnName::Files(_)) {
            note(&own.path(), &own.option);
        }
        let Ok(dir) = Dir::open(&own.directory) else { continue };
        for name in dir.names()? {
            if let Some(own) = resolved.keep.own().claims(&own.directory, &name, dir.shape(&name)) {
                note(&own.directory.join(&name), &own.option);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Finds out, before anything arrives, whether the node's own files could be carried over.
pub(super) fn rehearse(resolved: &ResolvedRoots, root: &Root, dir: &Dir, staged: &Dir) -> Result<()> {
    for name in of_root(resolved, root, dir)? {
        let walk = Walk { resolved, rehearsal: true };
        let child = dir.child(&name)?;
        if !walk.holds_only_own(&child)? {
            walk.carry(&child, staged)?;
        }
    }
    Ok(())
}

/// Puts the node's own files into the staged tree; returns what stays in place instead.
pub(super) fn into_staged<'a>(resolved: &ResolvedRoots, staged: impl Fn(&str) -> Option<&'a Dir>) -> Result<Names> {
    let mut stays = Names::new();
    for root in resolved.roots.iter() {
        let Some(staged) = staged(root.name.as_str()) else { continue };
        let dir = Dir::open(&root.path)?;
        for name in of_root(resolved, root, &dir)? {
            let (child, came) = (dir.child(&name)?, staged.stat_of(&name)?.is_some());
            let walk = Walk { resolved, rehearsal: false };
            if !came && walk.holds_only_own(&child)? {
                stays.push((root.name.clone(), name));
                continue;
            }
            let there = child.made_in(staged, &name)?;
            walk.carry(&child, &there)?;
            there.sync()?;
        }
    }
    Ok(stays)
}

/// Empties the directories that stay, except for the node's own files and kept files. May be repeated.
pub(super) fn prune(resolved: &ResolvedRoots) -> Result<()> {
    for (root, name) in &resolved.stays {
        let Some(root) = resolved.roots.get(root.as_str()) else { continue };
        let dir = Dir::open(&root.path)?;
        if let Some(child) = dir.find(name)? {
            let harvest = Harvest::of_old_tree(resolved, root, &dir);
            Walk { resolved, rehearsal: false }.prune(&child, Path::new(name), harvest.as_ref())?;
        }
    }
    Ok(())
}

struct Walk<'a> {
    resolved: &'a ResolvedRoots,
    rehearsal: bool,
}

/// What a walk finds.
enum Met {
    /// The node's own: a file or a link.
    Own,
    /// The node's own directory, with everything in it.
    OwnDirectory,
    /// A directory with something of the node's own somewhere beneath it.
    Above,
    Foreign,
}

impl Walk<'_> {
    fn met(&self, dir: &Dir, name: &OsStr, kind: FileType) -> Met {
        let (own, directory) = (self.resolved.keep.own(), kind == FileType::Directory);
        let shape = if directory { Shape::Directory } else { Shape::File };
        match own.claims(dir.path(), name, shape) {
            Some(_) if directory => Met::OwnDirectory,
            Some(_) => Met::Own,
            None if directory && own.is_above(&dir.join(name)) => Met::Above,
            // No donor sends one either.
            None if !directory && is_key_file(&dir.join(name)) => Met::Own,
            None => Met::Foreign,
        }
    }

    fn holds_only_own(&self, dir: &Dir) -> Result<bool> {
        for (name, kind) in dir.entries()? {
            match self.met(dir, &name, kind) {
                Met::Own | Met::OwnDirectory => {}
                Met::Above if self.holds_only_own(&dir.child(&name)?)? => {}
                Met::Above | Met::Foreign => return Ok(false),
            }
        }
        Ok(true)
    }

    fn carry(&self, from: &Dir, to: &Dir) -> Result<()> {
        for (name, kind) in from.entries()? {
            match self.met(from, &name, kind) {
                Met::Own => self.link(from, to, &name)?,
                Met::OwnDirectory => self.all(from, to, &name)?,
                Met::Above => {
                    let child = from.child(&name)?;
                    let there = if self.rehearsal { None } else { Some(child.made_in(to, &name)?) };
                    self.carry(&child, there.as_ref().unwrap_or(to))?;
                }
                Met::Foreign => {}
            }
        }
        Ok(())
    }

    /// Carries over a directory of the node's own, with everything in it.
    fn all(&self, from: &Dir, to: &Dir, name: &OsStr) -> Result<()> {
        let child = from.child(name)?;
        if child.stat()?.st_dev != from.stat()?.st_dev {
            let what = format!(
                "{} belongs to this node and is a mount point, so it cannot be carried over into a new tree",
                Printable::path(child.path())
            );
            return Err(Error::new(Kind::Usage, what).remedy(REMEDY));
        }
        let there = if self.rehearsal { None } else { Some(child.made_in(to, name)?) };
        for (name, kind) in child.entries()? {
            match kind == FileType::Directory {
                true => self.all(&child, there.as_ref().unwrap_or(to), &name)?,
                false => self.link(&child, there.as_ref().unwrap_or(to), &name)?,
            }
        }
        Ok(())
    }

    fn link(&self, from: &Dir, to: &Dir, name: &OsStr) -> Result<()> {
        if from.hard_link(name, to)? {
            return if self.rehearsal { to.remove(name) } else { Ok(()) };
        }
        let what = format!(
            "{} belongs to this node and cannot be carried over into a new tree: hard links are not possible here",
            Printable::path(&from.join(name))
        );
        Err(Error::new(Kind::Usage, what).remedy(REMEDY))
    }

    /// `at` is the path of `dir` beneath its root.
    fn prune(&self, dir: &Dir, at: &Path, harvest: Option<&Harvest<'_>>) -> Result<()> {
        for (name, kind) in dir.entries()? {
            match self.met(dir, &name, kind) {
                Met::Own | Met::OwnDirectory => {}
                Met::Above => self.prune(&dir.child(&name)?, &at.join(&name), harvest)?,
                Met::Foreign => {
                    if let Some(harvest) = harvest {
                        harvest.take(dir, &name, kind, at)?;
                    }
                    dir.remove(&name)?;
                }
            }
        }
        Ok(())
    }
}

const REMEDY: &str =
    "move it out of that directory, best outside the data directory, and change its path in the option file";
