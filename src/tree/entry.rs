//! One thing in a tree: a file, directory, symlink or hard link, with its metadata.

use super::path::RelPath;

/// A modification time: seconds since 1970 and 0 to 999,999,999 nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    pub secs: i64,
    pub nanos: u32,
}

/// What a filesystem keeps in addition to an entry's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    /// Extended attributes in `user.*`, by name; usually none.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Directory,
    /// A regular file of `size` bytes.
    File {
        size: u64,
    },
    /// Its target is kept as it is and never followed.
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of a file in the same root.
    HardLink {
        to: RelPath,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: RelPath,
    pub meta: Metadata,
    pub content: Content,
}
