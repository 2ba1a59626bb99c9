//! What one side knows about a file's chunks through all rounds. Donor and joiner keep the same record, so both reach
//! the same answer if a chunk is read, or arrives, twice in one round.

use std::ops::Range;

use super::{Checksum, ChunkDigests, Digest, Ranges};

/// The digests of a file's chunks, some perhaps from earlier rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigests {
    known: ChunkDigests,
    /// There were earlier rounds; otherwise everything known is from this one.
    later: bool,
    /// Most files need none.
    marks: Option<Box<Marks>>,
}

/// What this round has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    /// The chunks that came, if there were earlier rounds.
    fresh: Ranges,
    /// Nothing is known of these.
    torn: Ranges,
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
        FileDigests { known: ChunkDigests::new(size), later: false, marks: None }
    }

    /// The same file in a later round, in which it has `size` bytes. Torn chunks stay unknown until they come again.
    #[must_use]
    pub fn renewed(self, size: u64) -> FileDigests {
        FileDigests { known: self.known.resized(size), later: true, marks: None }
    }

    /// In the same round more of the file is known: it has `size` bytes.
    pub fn grow(&mut self, size: u64) {
        self.known.grow(size);
    }

    /// Notes the digest of one chunk of this round.
    pub fn take(&mut self, chunk: u64, digest: Digest) -> Seen {
        let torn = self.is_torn_at(chunk);
        if !self.take_run(chunk..chunk.saturating_add(1), digest).is_empty() {
            return Seen::New;
        }
        if torn || self.is_torn_at(chunk) { Seen::Torn } else { Seen::Same }
    }

    fn is_torn_at(&self, chunk: u64) -> bool {
        self.marks.as_ref().is_some_and(|marks| marks.torn.contains(chunk))
    }

    /// Notes that all of these chunks of this round have this digest; returns the parts that are [`Seen::New`], each with
    /// whether something was known of it.
    pub fn take_run(&mut self, run: Range<u64>, digest: Digest) -> Vec<(Range<u64>, bool)> {
        let (mut new, mut torn) = (Vec::new(), Vec::new());
        let none = Marks::default();
        let marks = self.marks.as_deref().unwrap_or(&none);
        for (part, _) in marks.torn.split(run.clone()).into_iter().filter(|(_, torn)| !torn) {
            for (part, known) in self.known.split(part) {
                match known {
                    None => new.push((part, false)),
                    Some(known) if known == digest => {}
                    Some(_) if !self.later => torn.push(part),
                    Some(_) => {
                        for (part, again) in marks.fresh.split(part) {
                            if again {
                                torn.push(part);
                            } else {
                                new.push((part, true));
                            }
                        }
                    }
                }
            }
        }
        new.iter().for_each(|(part, _)| self.known.insert_run(part.clone(), digest));
        torn.into_iter().for_each(|part| self.tear(part));
        if self.later {
            self.marks.get_or_insert_default().fresh.insert(run);
        }
        new
    }

    /// `within`, cut where what is known changes; each part with its digest, from whichever round.
    #[must_use]
    pub fn split(&self, within: Range<u64>) -> Vec<(Range<u64>, Option<Digest>)> {
        self.known.split(within)
    }

    /// The digest of a chunk, from whichever round.
    pub fn get(&self, chunk: u64) -> Option<Digest> {
        self.known.get(chunk)
    }

    /// Whether the chunk's digest was noted in this round.
    pub fn is_fresh(&self, chunk: u64) -> bool {
        self.has_fresh(chunk..chunk.saturating_add(1))
    }

    /// Whether the digest of any of these chunks was noted in this round.
    pub fn has_fresh(&self, run: Range<u64>) -> bool {
        match (&self.marks, self.later) {
            (_, false) => self.known.split(run).iter().any(|(_, known)| known.is_some()),
            (Some(marks), true) => marks.fresh.split(run).iter().any(|(_, fresh)| *fresh),
            (None, true) => false,
        }
    }

    /// The chunks could not be read in this round: it is unknown what the other side has of them.
    pub fn tear(&mut self, run: Range<u64>) {
        self.known.forget(run.clone());
        self.marks.get_or_insert_default().torn.insert(run);
    }

    pub fn is_torn(&self) -> bool {
        self.marks.as_ref().is_some_and(|marks| !marks.torn.is_empty())
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

    /// A run is what its chunks are one by one, in this round and after it.
    #[test]
    fn a_run_is_taken_as_its_chunks_are() {
        const C: Digest = Digest::from_bytes([3; 32]);
        for order in 0..4u32 {
            let mut one = FileDigests::new(9 * CHUNK);
            (0..6).for_each(|chunk| _ = one.take(chunk, if chunk % 3 == 0 { A } else { B }));
            if order % 2 == 1 {
                one = one.renewed(9 * CHUNK);
                one.take(3, C);
                one.take(4, A);
            }
            let mut run = one.clone();
            let known: Vec<bool> = (0..9).map(|chunk| one.get(chunk).is_some()).collect();
            let seen: Vec<Seen> = (2..8).map(|chunk| one.take(chunk, A)).collect();
            let new = run.take_run(2..8, A);
            for (chunk, seen) in (2..8).zip(seen) {
                let part = new.iter().find(|(part, _)| part.contains(&chunk));
                assert_eq!(part.is_some(), seen == Seen::New, "{chunk}");
                assert!(part.is_none_or(|(_, had)| *had == known[chunk as usize]), "{chunk}");
            }
            if order > 1 {
                (one, run) = (one.renewed(8 * CHUNK), run.renewed(8 * CHUNK));
            }
            assert_eq!(one.is_torn(), run.is_torn());
            assert!((0..9).all(|chunk| one.get(chunk) == run.get(chunk) && one.is_fresh(chunk) == run.is_fresh(chunk)));
            assert!((0..8).all(|chunk| one.take(chunk, C) == run.take(chunk, C)));
        }
    }
}
