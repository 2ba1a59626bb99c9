//! One thing in a tree: a file, directory, symlink or hard link, with its metadata.

use std::ops::Deref;

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
    /// Extended attributes in `user.*`, by name.
    pub xattrs: Attributes,
}

/// A name and a value.
type Attribute = (String, Vec<u8>);

/// Usually none, which then take a pointer's room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "an empty vector takes three pointers' room")]
pub struct Attributes(Option<Box<Vec<Attribute>>>);

impl From<Vec<Attribute>> for Attributes {
    fn from(all: Vec<Attribute>) -> Attributes {
        Attributes((!all.is_empty()).then(|| Box::new(all)))
    }
}

impl FromIterator<Attribute> for Attributes {
    fn from_iter<I: IntoIterator<Item = Attribute>>(all: I) -> Attributes {
        all.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for Attributes {
    type Target = [Attribute];

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
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
        target: Box<[u8]>,
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
