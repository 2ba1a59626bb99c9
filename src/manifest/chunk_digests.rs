//! The digests of one file's chunks, by number: what a later round, or a later transfer, compares with.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ranges::cut;
use super::{CHUNK, Checksum, Digest, chunks};

/// The digests of the chunks of one file, 32 bytes each. It grows with what is known, not with the file's length; of
/// chunks in a row with the same digest, which are holes, only the first counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkDigests {
    size: u64,
    known: Known,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// Most files have one chunk.
    One(Option<Digest>),
    Some(Runs),
    /// Of a file whose chunks mostly differ, once all are known.
    All(Box<[Digest]>),
}

/// Chunks in a row with the same digest, by the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Runs {
    by_start: BTreeMap<u64, Run>,
    /// How many chunks they have in all.
    chunks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    end: u64,
    digest: Digest,
}

impl Runs {
    fn of(digests: impl IntoIterator<Item = Digest>) -> Runs {
        let mut runs = Runs::default();
        (0..).zip(digests).for_each(|(chunk, digest)| runs.insert(chunk..chunk + 1, digest));
        runs
    }

    fn get(&self, chunk: u64) -> Option<Digest> {
        let (_, run) = self.by_start.range(..=chunk).next_back()?;
        (chunk < run.end).then_some(run.digest)
    }

    fn iter(&self) -> impl Iterator<Item = (Range<u64>, Digest)> {
        self.by_start.iter().map(|(start, run)| (*start..run.end, run.digest))
    }

    fn split(&self, within: Range<u64>) -> Vec<(Range<u64>, Option<Digest>)> {
        let before = self.by_start.range(..within.start).next_back();
        let runs = before.into_iter().chain(self.by_start.range(within.clone()));
        cut(within, runs.map(|(start, run)| (*start..run.end, run.digest)))
    }

    fn insert(&mut self, range: Range<u64>, digest: Digest) {
        self.forget(range.clone());
        self.chunks += range.end - range.start;
        let left = self.by_start.range(..range.start).next_back().map(|(start, run)| (*start, *run));
        let start = left.filter(|(_, left)| left.end == range.start && left.digest == digest).map(|(start, _)| start);
        let right = self.by_start.get(&range.end).copied().filter(|right| right.digest == digest);
        if right.is_some() {
            self.by_start.remove(&range.end);
        }
        let end = right.map_or(range.end, |right| right.end);
        self.by_start.insert(start.unwrap_or(range.start), Run { end, digest });
    }

    fn forget(&mut self, range: Range<u64>) {
        while let Some((&start, &run)) =
            self.by_start.range(..range.end).next_back().filter(|(_, run)| run.end > range.start)
        {
            self.by_start.remove(&start);
            self.chunks -= run.end.min(range.end) - start.max(range.start);
            if start < range.start {
                self.by_start.insert(start, Run { end: range.start, ..run });
            }
            if run.end > range.end {
                self.by_start.insert(range.end, run);
            }
        }
    }
}

impl ChunkDigests {
    /// For a file of `size` bytes; none is known yet.
    pub fn new(size: u64) -> ChunkDigests {
        let known = if chunks(size) == 1 { Known::One(None) } else { Known::Some(Runs::default()) };
        ChunkDigests { size, known }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn get(&self, chunk: u64) -> Option<Digest> {
        match &self.known {
            Known::One(one) => one.filter(|_| chunk == 0),
            Known::Some(known) => known.get(chunk),
            Known::All(all) => usize::try_from(chunk).ok().and_then(|chunk| all.get(chunk)).copied(),
        }
    }

    /// `within`, cut where the digest changes; each part with its digest.
    #[must_use]
    pub fn split(&self, within: Range<u64>) -> Vec<(Range<u64>, Option<Digest>)> {
        match &self.known {
            Known::Some(known) => known.split(within),
            Known::One(_) | Known::All(_) => {
                within.map(|chunk| (chunk..chunk.saturating_add(1), self.get(chunk))).collect()
            }
        }
    }

    /// Notes the digest of a chunk, which must be one of the file's; returns the one known before.
    pub fn insert(&mut self, chunk: u64, digest: Digest) -> Option<Digest> {
        let before = self.get(chunk);
        match &mut self.known {
            Known::All(all) => {
                if let Some(place) = usize::try_from(chunk).ok().and_then(|chunk| all.get_mut(chunk)) {
                    *place = digest;
                }
            }
            _ => self.insert_run(chunk..chunk.saturating_add(1), digest),
        }
        before
    }

    /// Notes that all of these chunks have this digest. What is beyond the file's end does not count.
    pub fn insert_run(&mut self, run: Range<u64>, digest: Digest) {
        let count = chunks(self.size);
        let run = run.start..run.end.min(count);
        if run.is_empty() {
            return;
        }
        if let Known::All(all) = &mut self.known {
            self.known = Known::Some(Runs::of(std::mem::take(all)));
        }
        match &mut self.known {
            Known::One(one) => *one = Some(digest),
            Known::Some(known) => {
                known.insert(run, digest);
                if known.chunks == count && known.by_start.len() as u64 > count / 2 {
                    let all = known.iter().flat_map(|(run, digest)| run.map(move |_| digest));
                    self.known = Known::All(all.collect());
                }
            }
            Known::All(_) => {}
        }
    }

    /// Forgets the digests of chunks.
    pub fn forget(&mut self, run: Range<u64>) {
        if run.is_empty() || run.start >= chunks(self.size) {
            return;
        }
        match &mut self.known {
            Known::One(one) => *one = None,
            Known::Some(known) => known.forget(run),
            Known::All(all) => {
                let mut known = Runs::of(std::mem::take(all));
                known.forget(run);
                self.known = Known::Some(known);
            }
        }
    }

    /// How many are unknown.
    pub fn missing(&self) -> u64 {
        match &self.known {
            Known::One(one) => u64::from(one.is_none()),
            Known::Some(known) => chunks(self.size).saturating_sub(known.chunks),
            Known::All(_) => 0,
        }
    }

    /// The file's own digest, once all of its chunks have one.
    pub fn fold(&self, checksum: Checksum) -> Option<Digest> {
        match &self.known {
            Known::One(one) => *one,
            Known::Some(known) if known.chunks == chunks(self.size) => {
                Some(checksum.fold_runs(known.iter().map(|(run, digest)| (run.end - run.start, digest))))
            }
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
            let last = chunks(self.size).saturating_sub(1);
            self.forget(last..last.saturating_add(1));
        }
        self.size = size;
        match &mut self.known {
            Known::One(_) if chunks(size) == 1 => {}
            Known::One(one) => self.known = Known::Some(Runs::of(*one)),
            Known::All(all) if (all.len() as u64) < chunks(size) => {
                self.known = Known::Some(Runs::of(std::mem::take(all)));
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
            Known::One(one) => one.into_iter().take(usize::from(whole > 0)).for_each(|one| {
                resized.insert(0, one);
            }),
            Known::Some(known) => known.iter().for_each(|(run, digest)| {
                resized.insert_run(run.start..run.end.min(whole), digest);
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
        [1..2, 5..6].into_iter().for_each(|run| of.forget(run));
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

    /// Whatever is noted in whatever order, runs say what their chunks said one by one.
    #[test]
    fn runs_are_their_chunks() {
        const COUNT: u64 = 40;
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..300 {
            let (mut runs, mut one_by_one) = (ChunkDigests::new(COUNT * CHUNK), [None; COUNT as usize]);
            for _ in 0..next(60) {
                let (from, digest) = (next(COUNT), digest(next(3) as u8));
                let to = (from + next(9)).min(COUNT);
                if next(4) == 0 {
                    runs.forget(from..to);
                    one_by_one[from as usize..to as usize].fill(None);
                } else {
                    runs.insert_run(from..to, digest);
                    one_by_one[from as usize..to as usize].fill(Some(digest));
                }
                assert!((0..COUNT).all(|chunk| runs.get(chunk) == one_by_one[chunk as usize]));
                assert_eq!(runs.missing(), one_by_one.iter().filter(|one| one.is_none()).count() as u64);
                let parts = runs.split(3..30);
                assert!(parts.iter().all(|(part, known)| part.clone().all(|chunk| runs.get(chunk) == *known)));
                assert!(parts.into_iter().flat_map(|(part, _)| part).eq(3..30));
                let all: Option<Vec<Digest>> = one_by_one.iter().copied().collect();
                assert_eq!(runs.fold(Checksum::Blake3), all.map(|all| Checksum::Blake3.fold(&all)));
            }
        }
    }

    #[test]
    fn a_hole_of_terabytes_takes_no_more_than_one_chunk() {
        const COUNT: u64 = 3 << 20;
        let mut of = ChunkDigests::new(COUNT * CHUNK);
        of.insert_run(0..COUNT, digest(0));
        of.insert(COUNT / 2, digest(1));
        let Known::Some(known) = &of.known else { panic!() };
        assert_eq!((known.by_start.len(), of.missing()), (3, 0));
        let mut all = vec![digest(0); COUNT as usize];
        all[COUNT as usize / 2] = digest(1);
        assert_eq!(of.fold(Checksum::Blake3), Some(Checksum::Blake3.fold(&all)));
        assert_eq!(of.resized(CHUNK).fold(Checksum::Blake3), Some(digest(0)));
    }
}
