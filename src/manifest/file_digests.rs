//! What one side knows about a file's chunks through all rounds. Donor and joiner keep the same record, so both reach
//! the same answer if a chunk is read, or arrives, twice in one round.

use std::collections::BTreeSet;

use super::{Checksum, ChunkDigests, Digest};

/// The digests of a file's chunks, some perhaps from earlier rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigests {
    known: ChunkDigests,
    /// The chunks of this round, if others are from earlier ones; `None`: everything known is from this round.
    fresh: Option<BTreeSet<u64>>,
    torn: BTreeSet<u64>,
}

/// How a chunk's digest compares with what was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was unknown, or different in an earlier round.
    New,
    /// The joiner has this chunk already.
    Same,
    /// The chunk was different earlier in this same round: it must come again, whole, in a later one.
    Torn,
}

impl FileDigests {
    /// For a file of `size` bytes that is seen for the first time.
    pub fn new(size: u64) -> FileDigests {
        FileDigests { known: ChunkDigests::new(size), fresh: None, torn: BTreeSet::new() }
    }

    /// The same file in a later round, in which it has `size` bytes. Torn chunks stay unknown until they come again.
    #[must_use]
    pub fn renewed(mut self, size: u64) -> FileDigests {
        std::mem::take(&mut self.torn).into_iter().for_each(|chunk| self.known.forget(chunk));
        FileDigests { known: self.known.resized(size), fresh: Some(BTreeSet::new()), torn: BTreeSet::new() }
    }

    /// In the same round more of the file is known: it has `size` bytes.
    pub fn grow(&mut self, size: u64) {
        self.known.grow(size);
    }

    /// Notes the digest of one chunk of this round.
    pub fn take(&mut self, chunk: u64, digest: Digest) -> Seen {
        if self.torn.contains(&chunk) {
            return Seen::Torn;
        }
        let first = self.fresh.as_mut().map_or(self.known.get(chunk).is_none(), |fresh| fresh.insert(chunk));
        match self.known.get(chunk) {
            Some(known) if known == digest => Seen::Same,
            Some(_) if !first => {
                self.torn.insert(chunk);
                Seen::Torn
            }
            _ => {
                self.known.insert(chunk, digest);
                Seen::New
            }
        }
    }

    /// The digest of a chunk, from whichever round.
    pub fn get(&self, chunk: u64) -> Option<Digest> {
        self.known.get(chunk).filter(|_| !self.torn.contains(&chunk))
    }

    /// Whether the chunk's digest was noted in this round.
    pub fn is_fresh(&self, chunk: u64) -> bool {
        self.fresh.as_ref().map_or(self.known.get(chunk).is_some(), |fresh| fresh.contains(&chunk))
    }

    /// The chunk could not be read in this round: it is unknown what the other side has of it.
    pub fn tear(&mut self, chunk: u64) {
        self.torn.insert(chunk);
    }

    pub fn is_torn(&self) -> bool {
        !self.torn.is_empty()
    }

    /// Every chunk is known.
    pub fn is_complete(&self) -> bool {
        !self.is_torn() && self.known.missing() == 0
    }

    /// The file's own digest, once it is complete.
    pub fn fold(&self, checksum: Checksum) -> Option<Digest> {
        self.known.fold(checksum).filter(|_| !self.is_torn())
    }
}

#[cfg(test)]
mod tests {
    use super::super::CHUNK;
    use super::*;

    const A: Digest = Digest::from_bytes([1; 32]);
    const B: Digest = Digest::from_bytes([2; 32]);

    #[test]
    fn a_chunk_is_one_thing_in_one_round_and_may_be_another_in_the_next() {
        let mut file = FileDigests::new(2 * CHUNK);
        assert_eq!([file.take(0, A), file.take(0, A), file.take(1, A)], [Seen::New, Seen::Same, Seen::New]);
        assert!(file.is_complete());
        let mut file = file.renewed(2 * CHUNK);
        assert!(file.is_complete(), "what did not change is not sent again");
        assert_eq!([file.take(0, A), file.take(1, B), file.take(1, B)], [Seen::Same, Seen::New, Seen::Same]);
        assert_eq!(file.fold(Checksum::Blake3), Some(Checksum::Blake3.fold(&[A, B])));
        assert_eq!(file.take(0, B), Seen::Torn, "it was A in this round");
        assert!(!file.is_complete() && file.fold(Checksum::Blake3).is_none());
        assert_eq!(file.take(0, B), Seen::Torn, "for the whole round");
        assert_eq!((file.get(0), file.get(1)), (None, Some(B)));
        let mut file = file.renewed(2 * CHUNK);
        assert!(!file.is_complete() && !file.is_torn());
        assert_eq!(file.take(0, B), Seen::New);
        assert!(file.is_complete(), "the other chunk was known");
    }

    #[test]
    fn one_chunk_torn_at_once() {
        let mut file = FileDigests::new(5);
        assert_eq!([file.take(0, A), file.take(0, B), file.take(0, A)], [Seen::New, Seen::Torn, Seen::Torn]);
        assert!(!file.renewed(5).is_complete());
    }

    #[test]
    fn another_length_leaves_the_whole_chunks() {
        let mut file = FileDigests::new(CHUNK + 5);
        assert_eq!([file.take(0, A), file.take(1, A)], [Seen::New, Seen::New]);
        let longer = file.clone().renewed(CHUNK + 6);
        assert!(!longer.is_complete());
        assert!(file.renewed(CHUNK).is_complete());
    }
}
