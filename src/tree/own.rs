//! The paths that, by the configuration, belong to one node alone: at any depth, within any root.
//!
//! Knows paths, not options; `sst::own_paths` finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::data_files::is_data_file;
use super::roots::{Shape, matches};

/// What in the directory is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnName {
    /// A file by that name, and its rotated forms: `name.1`, `name-20260101.gz`.
    File(OsString),
    /// A directory by that name, with everything in it.
    Directory(OsString),
    /// Files that match a pattern as in [`super::matches`].
    Files(String),
}

/// One path, and the option that names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnPath {
    /// Absolute, without symlinks.
    pub directory: PathBuf,
    pub name: OwnName,
    /// As written in the option file: `log-error`.
    pub option: String,
}

impl OwnPath {
    /// The path, roughly as the operator wrote it.
    pub fn path(&self) -> PathBuf {
        match &self.name {
            OwnName::File(name) | OwnName::Directory(name) => self.directory.join(name),
            OwnName::Files(pattern) => self.directory.join(pattern),
        }
    }

    fn claims(&self, name: &OsStr, shape: Shape) -> bool {
        match (&self.name, shape) {
            // A link in its place belongs to the node too.
            (OwnName::Directory(own), _) => own == name,
            (OwnName::File(own), Shape::File) => own == name || is_rotation(own, name),
            (OwnName::Files(pattern), Shape::File) => matches(pattern, name.as_bytes()),
            (OwnName::File(_) | OwnName::Files(_), Shape::Directory) => false,
        }
    }
}

/// All of them, by directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    by_directory: BTreeMap<PathBuf, Vec<OwnPath>>,
    /// Every directory that has one of them somewhere beneath it.
    above: BTreeSet<PathBuf>,
}

impl FromIterator<OwnPath> for Own {
    fn from_iter<I: IntoIterator<Item = OwnPath>>(paths: I) -> Own {
        let mut own = Own::default();
        paths.into_iter().for_each(|path| own.add(path));
        own
    }
}

impl Own {
    pub fn add(&mut self, path: OwnPath) {
        self.above.extend(path.directory.ancestors().map(Path::to_path_buf));
        let here = self.by_directory.entry(path.directory.clone()).or_default();
        if !here.contains(&path) {
            here.push(path);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &OwnPath> {
        self.by_directory.values().flatten()
    }

    /// The one that claims `name` in `directory`.
    pub fn claims(&self, directory: &Path, name: &OsStr, shape: Shape) -> Option<&OwnPath> {
        self.by_directory.get(directory)?.iter().find(|own| own.claims(name, shape))
    }

    /// Whether `directory` contains one of them, directly or deeper.
    pub fn is_above(&self, directory: &Path) -> bool {
        self.above.contains(directory)
    }

    /// The one that claims `path` or a directory above it.
    pub fn covers(&self, path: &Path, shape: Shape) -> Option<&OwnPath> {
        let claimed = |path: &Path, shape| self.claims(path.parent()?, path.file_name()?, shape);
        claimed(path, shape).or_else(|| path.ancestors().skip(1).find_map(|above| claimed(above, Shape::Directory)))
    }
}

/// Whether `name` is a rotated form of `log`: `log.1`, `log.2.gz`, `log-20260101`, `log.old`.
fn is_rotation(log: &OsStr, name: &OsStr) -> bool {
    const PACKED: &[&[u8]] = &[b".gz", b".bz2", b".xz", b".zst", b".lz4"];
    let Some(rest) = name.as_bytes().strip_prefix(log.as_bytes()) else { return false };
    if rest.is_empty() || is_data_file(name) {
        return false;
    }
    let rest = PACKED.iter().find_map(|end| rest.strip_suffix(*end)).unwrap_or(rest);
    match rest {
        b"" | b".old" | b".bak" => true,
        [b'.' | b'-' | b'_', first, more @ ..] => {
            first.is_ascii_digit() && more.iter().all(|b| b.is_ascii_digit() || b"-._:T".contains(b))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Own {
        let path =
            |directory: &str, name, option: &str| OwnPath { directory: directory.into(), name, option: option.into() };
        Own::from_iter([
            path("/data/logs", OwnName::File("e.log".into()), "log-error"),
            path("/data/db", OwnName::File("x".into()), "general-log-file"),
            path("/data", OwnName::Directory("tmp".into()), "tmpdir"),
            path("/data/gc", OwnName::Files("gcache.page.*".into()), "gcache.dir"),
        ])
    }

    #[test]
    fn paths_are_claimed_and_not_names() {
        let own = own();
        for (path, shape, option) in [
            ("/data/logs/e.log", Shape::File, Some("log-error")),
            ("/data/logs/e.log.1", Shape::File, Some("log-error")),
            ("/data/logs/e.log-20260101.gz", Shape::File, Some("log-error")),
            ("/data/logs/e.log2", Shape::File, None),
            ("/data/other/e.log", Shape::File, None),
            ("/data/db/x", Shape::File, Some("general-log-file")),
            ("/data/db/x.1", Shape::File, Some("general-log-file")),
            ("/data/db/x.ibd", Shape::File, None),
            ("/data/db/x", Shape::Directory, None),
            ("/data/db", Shape::Directory, None),
            ("/data/tmp", Shape::Directory, Some("tmpdir")),
            ("/data/tmp", Shape::File, Some("tmpdir")),
            ("/data/tmp/deep/y", Shape::File, Some("tmpdir")),
            ("/data/gc/gcache.page.1", Shape::File, Some("gcache.dir")),
        ] {
            let claimed = own.covers(Path::new(path), shape).map(|own| own.option.as_str());
            assert_eq!(claimed, option, "{path} {shape:?}");
        }
        assert!(own.is_above(Path::new("/data/db")) && own.is_above(Path::new("/")));
        assert!(!own.is_above(Path::new("/data/tmp")));
    }
}
