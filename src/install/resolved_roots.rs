//! Where a switch happens: the real directories behind the roots, and which names in them are switched.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::dir::{Dir, ends_with};
use super::keep::{HOME, KeepRules, LIVE};
use super::reuse::Reuse;
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Root, RootName, Roots, Scope, Shape, names, row};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvedRoots {
    /// With every path resolved, so that equal paths mean the same directory.
    pub(super) roots: Roots,
    pub(super) keep: KeepRules,
    /// Files of this node that are switched with the tree although their names are kept.
    pub(super) own: Vec<(RootName, OsString)>,
    /// Top-level directories that stay in place, because what is in them belongs to this node.
    pub(super) stays: Vec<(RootName, OsString)>,
    /// What is kept of an abandoned tree.
    pub(super) reuse: Reuse,
    /// Top-level names that hold another root, with the directory they are in.
    holders: Vec<(PathBuf, OsString)>,
}

impl ResolvedRoots {
    /// # Errors
    /// A root that does not exist, one nested more than one level deep in the data directory, or one with listed
    /// content in another root's directory.
    pub(super) fn new(roots: &Roots, keep: KeepRules, own: Vec<(RootName, OsString)>) -> Result<ResolvedRoots> {
        let mut real = roots.clone();
        for root in roots.iter() {
            let path = root.path.canonicalize().map_err(|e| Error::io("cannot open the directory", &root.path, e))?;
            if let Some(root) = real.get_mut(root.name.as_str()) {
                root.path = path;
            }
        }
        let mut holders = Vec::new();
        for (at, root) in real.iter().enumerate() {
            for outer in real.iter() {
                let Ok(beneath) = root.path.strip_prefix(&outer.path) else { continue };
                let mut parts = beneath.components();
                let Some(first) = parts.next() else { continue };
                if parts.next().is_some() && outer.scope == Scope::Whole {
                    let why = format!(
                        "the directory of {}, {}, is more than one level below {}",
                        root.name,
                        Printable::path(&root.path),
                        Printable::path(&outer.path)
                    );
                    return Err(
                        Error::new(Kind::Usage, why).remedy("move it directly into that directory, or out of it")
                    );
                }
                let holder = (outer.path.clone(), first.as_os_str().to_owned());
                if !holders.contains(&holder) {
                    holders.push(holder);
                }
            }
            let shared = real.iter().skip(at + 1).find(|other| other.path == root.path);
            if let Some(other) = shared.filter(|other| [&other.scope, &root.scope].contains(&&Scope::Listed)) {
                let why = format!(
                    "{} and {} have the same directory, {}",
                    root.name,
                    other.name,
                    Printable::path(&root.path)
                );
                return Err(Error::new(Kind::Usage, why)
                    .remedy("give each its own directory, in the option file or by hand with --root"));
            }
        }
        Ok(ResolvedRoots { roots: real, keep, own, stays: Vec::new(), reuse: Reuse::Off, holders })
    }

    /// Whether the root may switch a top-level `name` of this shape.
    pub(super) fn switches(&self, root: &Root, name: &OsStr, shape: Shape) -> bool {
        let listed = |names: &[(RootName, OsString)]| names.iter().any(|(at, own)| *at == root.name && own == name);
        if listed(&self.own) {
            return true;
        }
        if name == HOME || listed(&self.stays) || self.holds_root(&root.path, name) {
            return false;
        }
        if root.scope == Scope::Listed {
            return self.keep.own().claims(&root.path, name, shape).is_none();
        }
        !self.keep.keeps(&root.path, name, shape)
            && self.roots.owner(&root.path, name, shape).is_some_and(|owner| owner.name == root.name)
    }

    /// Whether a symlink that has arrived may take the top-level `name`. What it points to may not exist yet, so it
    /// counts as a schema's unless the name belongs to the node, or if it points outside as the donor said.
    pub(super) fn switches_link(&self, root: &Root, name: &OsStr, target: &[u8]) -> bool {
        let outside = || {
            let target = Path::new(OsStr::from_bytes(target));
            self.roots.iter().any(|root| root.scope == Scope::Listed && target.starts_with(&root.path))
        };
        let node = || row(name, Shape::File).is_some() || self.keep.keeps(&root.path, name, Shape::File);
        self.switches(root, name, Shape::File)
            || (self.switches(root, name, Shape::Directory) && (!node() || outside()))
    }

    /// Whether the root may switch what is at `name` in its directory. A symlink of the switch itself belongs to the
    /// root it goes through, whatever is behind it.
    pub(super) fn switches_here(&self, root: &Root, dir: &Dir, name: &OsStr) -> Result<bool> {
        let Some(stat) = dir.stat_of(name)? else { return Ok(false) };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = dir.read_link(name)?;
            let through = |root: &Root| Path::new(HOME).join(LIVE).join(root.name.as_str()).join(name);
            if let Some(owner) = self.roots.iter().find(|root| ends_with(&target, &through(root))) {
                return Ok(owner.name == root.name);
            }
        }
        Ok(self.switches(root, name, dir.shape(name)))
    }

    /// Why a top-level name stays that a donor might send; `None` if no donor does.
    pub(super) fn why_kept(&self, root: &Root, name: &OsStr, shape: Shape) -> Option<String> {
        if self.holds_root(&root.path, name) {
            return Some("it holds another directory of the server's".to_owned());
        }
        if let Some(own) = self.keep.own().claims(&root.path, name, shape) {
            return Some(own.option.clone());
        }
        if names(self.keep.extra(), name, shape) {
            return Some("keep".to_owned());
        }
        // A name with a dot cannot be a schema's: the server would encode the dot.
        row(name, shape).filter(|_| !name.as_bytes().contains(&b'.')).map(|row| row.why.to_owned())
    }

    pub(super) fn holds_root(&self, directory: &Path, name: &OsStr) -> bool {
        self.holders.iter().any(|(dir, holder)| dir == directory && holder == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn resolved(datadir: &Path, roots: &[(&str, &str)]) -> Result<ResolvedRoots> {
        let paths: BTreeMap<RootName, PathBuf> =
            roots.iter().map(|(name, path)| (name.parse().unwrap(), datadir.join(path))).collect();
        for path in paths.values() {
            std::fs::create_dir_all(path).unwrap();
        }
        ResolvedRoots::new(&Roots::new(datadir, &paths)?, KeepRules::default(), Vec::new())
    }

    #[test]
    fn a_root_directly_inside_is_kept_and_a_deeper_one_refused() {
        let temp = tempfile::tempdir().unwrap();
        let made = resolved(temp.path(), &[("innodb-undo", "undo")]).unwrap();
        let datadir = made.roots.get("datadir").unwrap();
        assert!(!made.switches(datadir, "undo".as_ref(), Shape::Directory));
        assert!(made.switches(datadir, "other".as_ref(), Shape::Directory));
        let undo = made.roots.get("innodb-undo").unwrap();
        assert!(made.switches(undo, "undo001".as_ref(), Shape::File));
        assert!(!made.switches(undo, "undo7".as_ref(), Shape::Directory));
        let error = resolved(temp.path(), &[("innodb-undo", "a/undo")]).unwrap_err();
        assert!(error.to_string().contains("a/undo, is more than one level below"), "{error}");
    }

    #[test]
    fn two_roots_of_one_directory_must_know_their_names() {
        let temp = tempfile::tempdir().unwrap();
        let error = resolved(temp.path(), &[("external-1", "x"), ("external-2", "x/")]).unwrap_err();
        assert!(error.to_string().starts_with("external-1 and external-2 have the same directory"), "{error}");
    }
}
