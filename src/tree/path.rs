//! The only path that crosses the wire: a root's name and the path beneath it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Printable;

/// The name of a root: a directory that the server uses. Each side maps it to its own path.
///
/// 1 to 32 of the characters `a-z 0-9 -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootName(Box<str>);

impl RootName {
    pub const DATADIR: &str = "datadir";
    pub const INNODB_DATA: &str = "innodb-data";
    pub const INNODB_LOG: &str = "innodb-log";
    pub const INNODB_UNDO: &str = "innodb-undo";
    pub const ARIA_LOG: &str = "aria-log";
    pub const BINLOG: &str = "binlog";

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it holds data files of the system tablespace: `innodb-data`, and `innodb-data-2` and so on for further
    /// directories in `innodb_data_file_path`.
    pub fn is_innodb_data(&self) -> bool {
        is_innodb_data(&self.0)
    }

    /// Whether it holds what InnoDB keeps outside schemas: system tablespace, redo log, undo tablespaces.
    pub fn is_innodb(&self) -> bool {
        self.is_innodb_data() || [Self::INNODB_LOG, Self::INNODB_UNDO].contains(&&*self.0)
    }

    pub fn datadir() -> RootName {
        RootName(Self::DATADIR.into())
    }
}

fn is_innodb_data(root: &str) -> bool {
    let rest = root.strip_prefix(RootName::INNODB_DATA);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

impl FromStr for RootName {
    type Err = PathError;

    fn from_str(text: &str) -> Result<RootName, PathError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 32 || !text.bytes().all(fits) {
            return Err(PathError::RootName);
        }
        Ok(RootName(text.into()))
    }
}

impl TryFrom<String> for RootName {
    type Error = PathError;

    fn try_from(text: String) -> Result<RootName, PathError> {
        text.parse()
    }
}

impl From<RootName> for String {
    fn from(name: RootName) -> String {
        name.0.into()
    }
}

impl fmt::Display for RootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path beneath a root, as bytes: `datadir/sbtest/t1.ibd`.
///
/// Its parts are never empty, `.` or `..`, contain no NUL, and have at most 255 bytes each (`NAME_MAX`); there are at
/// most 64 parts and 4,000 bytes in all (below `PATH_MAX`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<[u8]>);

/// Why bytes are not a path that may cross the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("a part of the path is `..`, `.` or empty")]
    Part,
    #[error("the path has no part beneath its root")]
    Root,
    #[error("a root's name has 1 to 32 of the characters a-z, 0-9 and -")]
    RootName,
    #[error("the path contains a NUL byte")]
    Nul,
    #[error("the path is too long or too deep")]
    Long,
}

impl RelPath {
    pub const MAX_BYTES: usize = 4000;
    pub const MAX_PARTS: usize = 64;

    pub fn new(root: &RootName, beneath: &[u8]) -> Result<RelPath, PathError> {
        let mut bytes = Vec::with_capacity(root.0.len() + 1 + beneath.len());
        bytes.extend_from_slice(root.0.as_bytes());
        bytes.push(b'/');
        bytes.extend_from_slice(beneath);
        RelPath::parse(&bytes)
    }

    /// Reads `root/part/part`, as in an archive member's name.
    pub fn parse(bytes: &[u8]) -> Result<RelPath, PathError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(PathError::Long);
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        let root = bytes.iter().position(|&b| b == b'/').ok_or(PathError::Root)?;
        let name = std::str::from_utf8(&bytes[..root]).map_err(|_| PathError::RootName)?;
        name.parse::<RootName>()?;
        let mut parts = 0;
        for part in bytes[root + 1..].split(|&b| b == b'/') {
            if part.is_empty() || part == b"." || part == b".." {
                return Err(PathError::Part);
            }
            if part.len() > 255 {
                return Err(PathError::Long);
            }
            parts += 1;
        }
        if parts > Self::MAX_PARTS {
            return Err(PathError::Long);
        }
        Ok(RelPath(bytes.into()))
    }

    /// `root/part/part`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where the root's name ends.
    fn root_end(&self) -> usize {
        self.0.iter().position(|&byte| byte == b'/').unwrap_or_default()
    }

    pub fn root(&self) -> RootName {
        RootName(self.root_str().into())
    }

    pub fn root_str(&self) -> &str {
        std::str::from_utf8(&self.0[..self.root_end()]).unwrap_or_default()
    }

    /// Whether its root is one of [`RootName::is_innodb_data`].
    pub fn is_in_innodb_data(&self) -> bool {
        is_innodb_data(self.root_str())
    }

    /// The path beneath the root, never empty and never absolute.
    pub fn beneath(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0[self.root_end() + 1..]))
    }

    /// The first part beneath the root: the entry that an install switches.
    pub fn first(&self) -> &OsStr {
        let rest = &self.0[self.root_end() + 1..];
        OsStr::from_bytes(rest.split(|&b| b == b'/').next().unwrap_or_default())
    }

    /// Whether `other` is this path or beneath it.
    pub fn holds(&self, other: &RelPath) -> bool {
        other.0.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    }

    /// The directory that contains it; `None` if that is the root.
    pub fn parent(&self) -> Option<RelPath> {
        let last = self.0.iter().rposition(|&b| b == b'/')?;
        (last > self.root_end()).then(|| RelPath(self.0[..last].into()))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.0).fmt(f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_knows_whether_it_is_innodbs() {
        for (name, data, innodb) in [
            ("innodb-data", true, true),
            ("innodb-data-2", true, true),
            ("innodb-log", false, true),
            ("innodb-undo", false, true),
            ("innodb-database", false, false),
            ("datadir", false, false),
            ("external-1", false, false),
        ] {
            let root: RootName = name.parse().unwrap();
            assert_eq!((root.is_innodb_data(), root.is_innodb()), (data, innodb), "{name}");
            assert_eq!(RelPath::parse(format!("{name}/x").as_bytes()).unwrap().is_in_innodb_data(), data, "{name}");
        }
    }

    #[test]
    fn a_path_knows_its_places() {
        let path = RelPath::parse(b"datadir/a b/\xff.ibd").unwrap();
        assert_eq!(path.root_str(), "datadir");
        assert_eq!(path.first(), "a b");
        assert_eq!(path.beneath().as_os_str().as_bytes(), b"a b/\xff.ibd");
        assert_eq!(path.parent().unwrap().as_bytes(), b"datadir/a b");
        assert_eq!(path.parent().unwrap().parent(), None);
        assert_eq!(path.to_string(), "datadir/a b/\\xff.ibd");
        let above = path.parent().unwrap();
        assert!(above.holds(&path) && path.holds(&path) && !path.holds(&above));
        assert!(!above.holds(&RelPath::parse(b"datadir/a bc").unwrap()));
    }

    #[test]
    fn what_could_escape_is_refused() {
        let long = [b"datadir/".as_slice(), &[b'x'; 256]].concat();
        let deep = [b"datadir".as_slice(), &b"/x".repeat(65)].concat();
        for (bytes, why) in [
            (b"".as_slice(), PathError::Root),
            (b"datadir", PathError::Root),
            (b"datadir/", PathError::Part),
            (b"/etc/passwd", PathError::RootName),
            (b"datadir/../etc", PathError::Part),
            (b"datadir/a/..", PathError::Part),
            (b"datadir/./a", PathError::Part),
            (b"datadir//a", PathError::Part),
            (b"datadir/a\0b", PathError::Nul),
            (b"../a", PathError::RootName),
            (b"DATA/a", PathError::RootName),
            (&long, PathError::Long),
            (&deep, PathError::Long),
        ] {
            assert_eq!(RelPath::parse(bytes).unwrap_err(), why, "{}", Printable(bytes));
        }
    }
}
