//! The digests of one file's chunks, by number: what a later round, or a later transfer, compares with.

use std::collections::BTreeMap;

use super::{CHUNK, Checksum, Digest, chunks};

/// The digests of the chunks of one file, 32 bytes each. It grows with what is known, not with the file's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkDigests {
    size: u64,
    known: Known,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// Most files have one chunk.
    One(Option<Digest>),
    Some(BTreeMap<u64, Digest>),
    All(Box<[Digest]>),
}

impl ChunkDigests {
    /// For a file of `size` bytes; none is known yet.
    pub fn new(size: u64) -> ChunkDigests {
        let known = if chunks(size) == 1 { Known::One(None) } else { Known::Some(BTreeMap::new()) };
        ChunkDigests { size, known }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn get(&self, chunk: u64) -> Option<Digest> {
        match &self.known {
            Known::One(one) => one.filter(|_| chunk == 0),
            Known::Some(known) => known.get(&chunk).copied(),
            Known::All(all) => usize::try_from(chunk).ok().and_then(|chunk| all.get(chunk)).copied(),
        }
    }

    /// Notes the digest of a chunk, which must be one of the file's; returns the one known before.
    pub fn insert(&mut self, chunk: u64, digest: Digest) -> Option<Digest> {
        let count = chunks(self.size);
        if chunk >= count {
            return None;
        }
        match &mut self.known {
            Known::One(one) => one.replace(digest),
            Known::All(all) => {
                let place = usize::try_from(chunk).ok().and_then(|chunk| all.get_mut(chunk))?;
                Some(std::mem::replace(place, digest))
            }
            Known::Some(known) => {
                let before = known.insert(chunk, digest);
                if known.len() as u64 == count {
                    self.known = Known::All(std::mem::take(known).into_values().collect());
                }
                before
            }
        }
    }

    /// Forgets the digest of a chunk.
    pub fn forget(&mut self, chunk: u64) {
        match &mut self.known {
            Known::One(one) if chunk == 0 => *one = None,
            Known::One(_) => {}
            Known::Some(known) => {
                known.remove(&chunk);
            }
            Known::All(all) if (all.len() as u64) > chunk => {
                let mut known: BTreeMap<u64, Digest> = (0..).zip(std::mem::take(all)).collect();
                known.remove(&chunk);
                self.known = Known::Some(known);
            }
            Known::All(_) => {}
        }
    }

    /// How many are unknown.
    pub fn missing(&self) -> u64 {
        match &self.known {
            Known::One(one) => u64::from(one.is_none()),
            Known::Some(known) => chunks(self.size).saturating_sub(known.len() as u64),
            Known::All(_) => 0,
        }
    }

    /// The file's own digest, once all of its chunks have one.
    pub fn fold(&self, checksum: Checksum) -> Option<Digest> {
        match &self.known {
            Known::One(one) => *one,
            Known::Some(_) => None,
            Known::All(all) => Some(checksum.fold(all)),
        }
    }

    /// The file is longer than it was: only its last chunk may have been shorter than it is now. Costs nothing of what is
    /// known.
    pub fn grow(&mut self, size: u64) {
        if size <= self.size {
            return;
        }
        if !self.size.is_multiple_of(CHUNK) || self.size == 0 {
            self.forget(chunks(self.size).saturating_sub(1));
        }
        self.size = size;
        match &mut self.known {
            Known::One(_) if chunks(size) == 1 => {}
            Known::One(one) => self.known = Known::Some(one.map(|digest| (0, digest)).into_iter().collect()),
            Known::All(all) if (all.len() as u64) < chunks(size) => {
                self.known = Known::Some((0..).zip(std::mem::take(all)).collect());
            }
            Known::All(_) | Known::Some(_) => {}
        }
    }

    /// For the same file once it has `size` bytes: chunks whose length changed, or that are gone, become unknown.
    #[must_use]
    pub fn resized(self, size: u64) -> ChunkDigests {
        if size == self.size {
            return self;
        }
        let whole = self.size.min(size) / CHUNK;
        let mut resized = ChunkDigests::new(size);
        match self.known {
            Known::One(Some(one)) if whole > 0 => {
                resized.insert(0, one);
            }
            Known::One(_) => {}
            Known::Some(known) => known.into_iter().filter(|(chunk, _)| *chunk < whole).for_each(|(chunk, digest)| {
                resized.insert(chunk, digest);
            }),
            Known::All(all) => (0..whole).zip(all).for_each(|(chunk, digest)| {
                resized.insert(chunk, digest);
            }),
        }
        resized
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::from_bytes([n; 32])
    }

    #[test]
    fn a_file_has_a_digest_when_all_of_its_chunks_have() {
        let checksum = Checksum::Blake3;
        let mut of = ChunkDigests::new(2 * CHUNK + 1);
        assert_eq!((of.insert(2, digest(2)), of.insert(0, digest(0)), of.missing()), (None, None, 1));
        assert_eq!((of.fold(checksum), of.get(1), of.get(2)), (None, None, Some(digest(2))));
        assert_eq!(of.insert(3, digest(9)), None, "there is no such chunk");
        assert_eq!(of.insert(1, digest(1)), None);
        assert_eq!(of.fold(checksum), Some(checksum.fold(&[digest(0), digest(1), digest(2)])));
        assert_eq!((of.insert(1, digest(7)), of.get(1), of.missing()), (Some(digest(1)), Some(digest(7)), 0));
        [1, 5].into_iter().for_each(|chunk| of.forget(chunk));
        assert_eq!((of.get(0), of.get(1), of.missing()), (Some(digest(0)), None, 1));
        let mut small = ChunkDigests::new(0);
        assert_eq!((small.insert(0, digest(1)), small.insert(1, digest(2)), small.get(1)), (None, None, None));
        assert_eq!(small.fold(checksum), Some(digest(1)));
    }

    #[test]
    fn a_file_of_another_length_keeps_its_whole_chunks() {
        let full = |size: u64| {
            let mut of = ChunkDigests::new(size);
            (0..chunks(size)).for_each(|chunk| {
                of.insert(chunk, digest(chunk as u8));
            });
            of
        };
        for (before, after, kept) in [
            (3 * CHUNK, 3 * CHUNK, vec![0, 1, 2]),
            (3 * CHUNK, 3 * CHUNK - 1, vec![0, 1]),
            (3 * CHUNK - 1, 3 * CHUNK, vec![0, 1]),
            (2 * CHUNK, 9 * CHUNK, vec![0, 1]),
            (3 * CHUNK, 0, vec![]),
            (3 * CHUNK, CHUNK, vec![0]),
            (CHUNK, 2 * CHUNK, vec![0]),
            (5, 6, vec![]),
            (0, CHUNK + 1, vec![]),
        ] {
            let resized = full(before).resized(after);
            let known: Vec<u64> = (0..12).filter(|chunk| resized.get(*chunk).is_some()).collect();
            assert_eq!((known, resized.size()), (kept, after), "{before} {after}");
        }
    }

    #[test]
    fn one_that_grows_keeps_its_whole_chunks() {
        let digest = |n| Digest::from_bytes([n; 32]);
        for (before, after, kept) in [
            (0, 5, 0),
            (5, 9, 0),
            (5, CHUNK, 0),
            (CHUNK, CHUNK + 1, 1),
            (CHUNK + 1, CHUNK + 2, 1),
            (CHUNK + 1, 3 * CHUNK, 1),
            (2 * CHUNK, 2 * CHUNK + 1, 2),
            (2 * CHUNK, 2 * CHUNK, 2),
            (3 * CHUNK, 1, 3),
        ] {
            let of = |size: u64| {
                let mut of = ChunkDigests::new(size);
                (0..chunks(size)).for_each(|chunk| _ = of.insert(chunk, digest(chunk as u8)));
                of
            };
            let mut grown = of(before);
            grown.grow(after);
            assert_eq!(grown, of(before).resized(after.max(before)), "{before} {after}");
            assert_eq!((0..9).filter(|chunk| grown.get(*chunk).is_some()).count(), kept, "{before} {after}");
        }
    }
}
