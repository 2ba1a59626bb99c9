//! Which directories a server uses, by name, on this side.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::path::RootName;
use crate::error::{Error, Kind, Printable, Result};

/// Which entries of a directory belong to a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that no other root claims.
    Whole,
    /// The top-level files that match one of these patterns, in which `*` stands for any run of characters and `#` for
    /// one or more digits. Never a directory.
    Names(Vec<String>),
    /// Only what a transfer itself brings; whatever else is there is not ours.
    Listed,
}

/// What a top-level name is. A directory, or a symlink to one, is a schema, and so never a file that a root claims,
/// whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Directory,
    /// Anything else: a file, a socket, a symlink to one or to nothing.
    File,
}

impl Shape {
    /// The shape of what is at `place`, following symlinks.
    pub fn at(place: &Path) -> Shape {
        if place.is_dir() { Shape::Directory } else { Shape::File }
    }
}

/// One root on this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub name: RootName,
    /// Absolute.
    pub path: PathBuf,
    pub scope: Scope,
    /// What this root's top-level names begin with here, if nodes choose that themselves: the base name of the binary
    /// logs. On the wire they begin with the root's name.
    pub stem: Option<String>,
}

impl Root {
    /// The wire name for the local `name`.
    pub fn wire_name<'a>(&self, name: &'a OsStr) -> Cow<'a, OsStr> {
        restemmed(name, self.stem.as_deref(), self.name.as_str())
    }

    /// The local name for `name` on the wire.
    pub fn local_name<'a>(&self, name: &'a OsStr) -> Cow<'a, OsStr> {
        match &self.stem {
            Some(stem) => restemmed(name, Some(self.name.as_str()), stem),
            None => Cow::Borrowed(name),
        }
    }
}

/// `name` with `from` before its first dot replaced by `to`.
fn restemmed<'a>(name: &'a OsStr, from: Option<&str>, to: &str) -> Cow<'a, OsStr> {
    match from.and_then(|from| name.as_bytes().strip_prefix(from.as_bytes())) {
        Some(rest) if rest.first() == Some(&b'.') => Cow::Owned(OsString::from_vec([to.as_bytes(), rest].concat())),
        _ => Cow::Borrowed(name),
    }
}

/// All roots of one side. There is always a `datadir`, and it comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots(Vec<Root>);

impl Roots {
    /// The roots of a server whose directories are `paths`; those not named are in the data directory. Roots that are
    /// not the server's own (`external-1`, …) have listed content.
    pub fn new(datadir: &Path, paths: &BTreeMap<RootName, PathBuf>) -> Result<Roots> {
        let resolve = |path: &Path| std::path::absolute(path).map_err(|e| Error::io("cannot resolve", path, e));
        let datadir = resolve(datadir)?;
        let absolute = |path: &Path| resolve(&datadir.join(path));
        let mut roots =
            vec![Root { name: RootName::datadir(), path: datadir.clone(), scope: Scope::Whole, stem: None }];
        for (name, patterns) in STANDARD {
            let name: RootName = name.parse().map_err(|e| Error::new(Kind::Usage, *name).because(e))?;
            let path = paths.get(&name).map_or(Ok(datadir.clone()), |path| absolute(path))?;
            // A directory of binary logs given by hand: their base name is not known.
            let patterns = match patterns {
                [] if paths.contains_key(&name) => &["*.#", "*.index", "*.state"],
                patterns => *patterns,
            };
            let scope = Scope::Names(patterns.iter().map(|&p| p.to_owned()).collect());
            roots.push(Root { name, path, scope, stem: None });
        }
        for (name, path) in paths {
            if name.as_str() == RootName::DATADIR {
                return Err(Error::new(
                    Kind::Usage,
                    format!("{name} is given a second path, {}", Printable::path(path)),
                )
                .remedy("by hand, only --datadir names the data directory itself"));
            }
            if STANDARD.iter().all(|(standard, _)| *standard != name.as_str()) {
                roots.push(Root { name: name.clone(), path: absolute(path)?, scope: Scope::Listed, stem: None });
            }
        }
        Ok(Roots(roots))
    }

    pub fn datadir(&self) -> &Path {
        &self.0[0].path
    }

    pub fn iter(&self) -> impl Iterator<Item = &Root> {
        self.0.iter()
    }

    pub fn get(&self, name: &str) -> Option<&Root> {
        self.0.iter().find(|root| root.name.as_str() == name)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Root> {
        self.0.iter_mut().find(|root| root.name.as_str() == name)
    }

    /// Adds a root that only this transfer knows.
    pub fn push(&mut self, root: Root) {
        self.0.push(root);
    }

    /// The directories behind the roots, each once.
    pub fn directories(&self) -> Vec<&Path> {
        let mut seen: Vec<&Path> = Vec::new();
        for root in &self.0 {
            if !seen.contains(&root.path.as_path()) {
                seen.push(&root.path);
            }
        }
        seen
    }

    /// The root whose file a backup calls `name`, which puts the files of all roots into one directory; `None`: the data
    /// directory's.
    pub fn called(&self, name: &OsStr) -> Option<&Root> {
        let named = |patterns: &[String]| patterns.iter().any(|p| matches(p, name.as_bytes()));
        self.0.iter().find(|root| matches!(&root.scope, Scope::Names(patterns) if named(patterns)))
    }

    /// The root that a top-level `name` in `directory` belongs to.
    pub fn owner(&self, directory: &Path, name: &OsStr, shape: Shape) -> Option<&Root> {
        let here = || self.0.iter().filter(|root| root.path == directory);
        let named = |patterns: &[String]| patterns.iter().any(|p| matches(p, name.as_bytes()));
        let files = || here().find(|root| matches!(&root.scope, Scope::Names(patterns) if named(patterns)));
        let of_root = if shape == Shape::File { files() } else { None };
        of_root.or_else(|| here().find(|root| root.scope == Scope::Whole))
    }
}

/// The server's own roots and the names that belong to each (if the configuration is known, `innodb_data_file_path` and
/// `log_bin` replace the first and the last).
const STANDARD: &[(&str, &[&str])] = &[
    (RootName::INNODB_DATA, &["ibdata#"]),
    (RootName::INNODB_LOG, &["ib_logfile#"]),
    (RootName::INNODB_UNDO, &["undo#"]),
    (RootName::ARIA_LOG, &["aria_log.#", "aria_log_control"]),
    (RootName::BINLOG, &[]),
];

/// Whether one of the operator's `keep` names matches this one. A pattern with `*` matches only files, so that no
/// schema stays behind by accident; a directory needs its exact name.
pub fn names(patterns: &[impl AsRef<str>], name: &OsStr, shape: Shape) -> bool {
    patterns.iter().map(AsRef::as_ref).any(|pattern| match shape {
        Shape::Directory => name == OsStr::new(pattern),
        Shape::File => matches(pattern, name.as_bytes()),
    })
}

/// Whether `name` matches `pattern`: `*` is any run of bytes, `#` one or more digits.
pub fn matches(pattern: &str, name: &[u8]) -> bool {
    fn fits(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|skip| fits(rest, &name[skip..])),
            [b'#', rest @ ..] => {
                let digits = name.iter().take_while(|b| b.is_ascii_digit()).count();
                (1..=digits).any(|skip| fits(rest, &name[skip..]))
            }
            [byte, rest @ ..] => name.first() == Some(byte) && fits(rest, &name[1..]),
        }
    }
    fits(pattern.as_bytes(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("ibdata#", "ibdata1", true),
            ("ibdata#", "ibdata", false),
            ("ibdata#", "ibdata1x", false),
            ("*.pem", "ca.pem", true),
            ("*.pem", "ca.pem.old", false),
            ("gcache.page.*", "gcache.page.000001", true),
            ("aria_log.#", "aria_log.00000001", true),
            ("x", "x", true),
            ("x", "", false),
        ] {
            assert_eq!(matches(pattern, name.as_bytes()), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn binary_logs_are_called_as_each_node_calls_them() {
        let mut roots = Roots::new(Path::new("/data"), &BTreeMap::new()).unwrap();
        let root = roots.get_mut(RootName::BINLOG).unwrap();
        root.stem = Some("db1-bin".into());
        assert_eq!(*root.wire_name("db1-bin.000007".as_ref()), *OsStr::new("binlog.000007"));
        assert_eq!(*root.local_name("binlog.000007".as_ref()), *OsStr::new("db1-bin.000007"));
        assert_eq!(*root.wire_name("db1-binx".as_ref()), *OsStr::new("db1-binx"));
        root.stem = None;
        assert_eq!(*root.local_name("binlog.000007".as_ref()), *OsStr::new("binlog.000007"));
    }

    #[test]
    fn a_relative_data_directory_is_itself_and_not_within_itself() {
        let paths = BTreeMap::from([("innodb-undo".parse().unwrap(), PathBuf::from("undo"))]);
        let roots = Roots::new(Path::new("mysql"), &paths).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(roots.directories(), [here.join("mysql"), here.join("mysql/undo")]);
    }

    #[test]
    fn names_find_their_root() {
        let paths = BTreeMap::from([("innodb-undo".parse().unwrap(), PathBuf::from("/undo"))]);
        let roots = Roots::new(Path::new("/data"), &paths).unwrap();
        let of = |dir: &str, name: &str, shape| {
            roots.owner(Path::new(dir), name.as_ref(), shape).map(|r| r.name.to_string())
        };
        let owner = |dir: &str, name: &str| of(dir, name, Shape::File);
        assert_eq!(owner("/data", "ibdata1").as_deref(), Some("innodb-data"));
        assert_eq!(owner("/data", "undo001").as_deref(), Some("datadir"));
        assert_eq!(owner("/undo", "undo001").as_deref(), Some("innodb-undo"));
        assert_eq!(owner("/undo", "letter.txt"), None);
        assert_eq!(owner("/data", "sbtest").as_deref(), Some("datadir"));
        for schema in ["ibdata9", "ib_logfile7", "aria_log.1", "aria_log_control"] {
            assert_eq!(of("/data", schema, Shape::Directory).as_deref(), Some("datadir"), "{schema}");
        }
        assert_eq!(of("/undo", "undo7", Shape::Directory), None);
        assert_eq!(roots.directories(), [Path::new("/data"), Path::new("/undo")]);
    }
}
