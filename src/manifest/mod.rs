//! What was sent and what was written: digests, the seal over all of them, and their comparison.
//!
//! Only that comparison makes a [`Verified`]; the install accepts nothing else.

mod choice;
mod chunk_digests;
mod digest;
mod escaped;
mod file_digests;
mod ranges;
mod stream_seal;
mod text;

pub use choice::ChecksumChoice;
pub use chunk_digests::ChunkDigests;
pub use digest::{Checksum, Digest, DigestError, Hasher};
pub use escaped::Escaped;
pub use file_digests::{FileDigests, Seen};
pub use ranges::Ranges;
pub use stream_seal::{StreamSeal, StreamSealer, Whole};

use crate::error::{Error, Kind, Result};
use crate::tree::{Content, Entry};

/// Bytes per chunk: the unit of sending, digesting, acknowledging and comparing. A multiple of every InnoDB page size
/// (4 to 64 KiB).
pub const CHUNK: u64 = 1 << 20;

/// How many chunks a file of `size` bytes has; an empty file has one empty chunk.
pub fn chunks(size: u64) -> u64 {
    size.div_ceil(CHUNK).max(1)
}

/// An entry and, for a regular file, the digest of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub entry: Entry,
    pub digest: Option<Digest>,
}

/// All entries of a transfer, ordered by path, each path once.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    checksum: Checksum,
    items: Vec<Item>,
}

/// One digest over a whole manifest, and how many entries it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    pub entries: u64,
    pub digest: Digest,
}

/// Makes a seal entry by entry, for a side that needs no manifest.
#[derive(Debug)]
pub struct Sealer {
    hasher: Hasher,
    entries: u64,
    line: String,
}

impl Sealer {
    pub fn new(checksum: Checksum) -> Sealer {
        Sealer { hasher: checksum.hasher(), entries: 0, line: String::new() }
    }

    /// Adds the next entry; call it in order of paths.
    pub fn add(&mut self, entry: &Entry, digest: Option<Digest>) {
        self.line.clear();
        text::line(entry, digest, &mut self.line);
        self.hasher.update(self.line.as_bytes());
        self.entries += 1;
    }

    pub fn finish(self) -> Seal {
        Seal { entries: self.entries, digest: self.hasher.finish() }
    }
}

impl Manifest {
    /// Fails if a path comes twice or a file has no digest.
    pub fn new(checksum: Checksum, mut items: Vec<Item>) -> Result<Manifest> {
        items.sort_unstable_by(|a, b| a.entry.path.cmp(&b.entry.path));
        for pair in items.windows(2) {
            if let [a, b] = pair
                && a.entry.path == b.entry.path
            {
                return Err(Error::new(Kind::Integrity, format!("{} is in the manifest twice", a.entry.path)));
            }
        }
        for item in &items {
            if matches!(item.entry.content, Content::File { .. }) != item.digest.is_some() {
                return Err(Error::new(Kind::Integrity, format!("{} has no complete digest", item.entry.path)));
            }
        }
        Ok(Manifest { checksum, items })
    }

    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    pub fn items(&self) -> &[Item] {
        &self.items
    }

    pub fn seal(&self) -> Seal {
        let mut sealer = Sealer::new(self.checksum);
        for item in &self.items {
            sealer.add(&item.entry, item.digest);
        }
        sealer.finish()
    }

    /// The comparison: this manifest, made from what was written, against the donor's seal.
    pub fn verify(self, donors: Seal) -> Result<Verified> {
        let ours = self.seal();
        if ours != donors {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "the copy is not what the donor sealed: {} entries under {} here, {} under {} there",
                    ours.entries, ours.digest, donors.entries, donors.digest
                ),
            )
            .remedy("start the transfer again; nothing was installed"));
        }
        Ok(Verified(self))
    }
}

/// Evidence that every byte and every name of a staged tree is what the donor sealed.
#[derive(Debug)]
pub struct Verified(Manifest);

impl Verified {
    pub fn manifest(&self) -> &Manifest {
        &self.0
    }

    /// For tests of what comes after the comparison.
    #[cfg(test)]
    pub fn for_test() -> Verified {
        Verified(Manifest { checksum: Checksum::Blake3, items: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Metadata, Mtime, RelPath};

    fn file(path: &str, content: &[u8]) -> Item {
        Item {
            entry: Entry {
                path: RelPath::parse(path.as_bytes()).unwrap(),
                meta: Metadata {
                    mode: 0o660,
                    uid: 1,
                    gid: 2,
                    mtime: Mtime { secs: 3, nanos: 4 },
                    xattrs: Default::default(),
                },
                content: Content::File { size: content.len() as u64 },
            },
            digest: Some(Checksum::Blake3.digest(content)),
        }
    }

    #[test]
    fn order_does_not_matter_and_content_does() {
        let of = |items| Manifest::new(Checksum::Blake3, items).unwrap();
        let one = of(vec![file("datadir/a", b"1"), file("datadir/b", b"2")]);
        let same = of(vec![file("datadir/b", b"2"), file("datadir/a", b"1")]);
        let other = of(vec![file("datadir/b", b"2"), file("datadir/a", b"x")]);
        assert_eq!(one.seal(), same.seal());
        assert!(same.verify(one.seal()).is_ok());
        let error = other.verify(one.seal()).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert!(error.sentence().starts_with("the copy is not what the donor sealed: 2 entries under "));
    }

    #[test]
    fn a_path_comes_once_and_a_file_has_a_digest() {
        let twice = Manifest::new(Checksum::Blake3, vec![file("datadir/a", b"1"), file("datadir/a", b"1")]);
        assert_eq!(twice.unwrap_err().sentence(), "datadir/a is in the manifest twice");
        let bare = Item { digest: None, ..file("datadir/a", b"1") };
        let error = Manifest::new(Checksum::Blake3, vec![bare]).unwrap_err();
        assert_eq!(error.sentence(), "datadir/a has no complete digest");
    }

    #[test]
    fn an_empty_file_has_one_chunk() {
        assert_eq!([0, 1, CHUNK, CHUNK + 1].map(chunks), [1, 1, 1, 2]);
    }
}
