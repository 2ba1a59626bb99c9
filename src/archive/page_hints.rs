//! Which pages of a chunk differ from the other side's, by digests too short to trust: they save bytes and decide
//! nothing. Whether the joiner has the right pages is decided by the chunk's own digest and, at the end, the seal.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Extent, Extents};
use crate::manifest::CHUNK;

/// Bytes per page: InnoDB's default, and the best size if only some rows were written.
const PAGE: usize = 16 << 10;
const PAGES: usize = CHUNK as usize / PAGE;

/// Eight bytes per page: 512 bytes for a chunk of 1 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageHints(Box<[u64]>);

impl PageHints {
    /// The most bytes one chunk's hints take.
    pub const BYTES: usize = PAGES * 8;

    /// `seed` is secret to this transfer, so that nobody can craft two pages with the same hint.
    pub fn of(chunk: &[u8], seed: u64) -> PageHints {
        PageHints(chunk.chunks(PAGE).map(|page| xxh3_64_with_seed(page, seed)).collect())
    }

    /// The same for a chunk of `len` bytes that has `data` at `extents` and holes elsewhere.
    pub fn of_runs(extents: &Extents, data: &[u8], len: u32, seed: u64) -> PageHints {
        if extents.is_whole(len) {
            return PageHints::of(data, seed);
        }
        let mut whole = vec![0; len as usize];
        let mut rest = data;
        for run in extents.iter() {
            let (now, later) = rest.split_at(rest.len().min(run.len as usize));
            if let Some(place) = whole.get_mut(run.start as usize..).and_then(|place| place.get_mut(..now.len())) {
                place.copy_from_slice(now);
            }
            rest = later;
        }
        PageHints::of(&whole, seed)
    }

    /// How many pages have changed; all of them if nothing is known.
    pub fn differing(&self, before: Option<&PageHints>) -> u64 {
        let known = before.map_or(&[][..], |before| &before.0);
        let same = self.0.iter().zip(known).filter(|(now, before)| now == before).count();
        self.0.len().saturating_sub(same) as u64
    }

    /// The bytes that the hints of a chunk of `len` bytes take.
    pub fn bytes_of(len: u64) -> usize {
        usize::try_from(len.min(CHUNK)).unwrap_or(0).div_ceil(PAGE).saturating_mul(8)
    }

    /// Eight bytes per page, big-endian.
    pub fn to_bytes(&self) -> impl Iterator<Item = u8> {
        self.0.iter().flat_map(|hint| hint.to_be_bytes())
    }

    /// Reads what [`PageHints::to_bytes`] produced.
    pub fn from_bytes(bytes: &[u8]) -> PageHints {
        PageHints(bytes.as_chunks::<8>().0.iter().map(|hint| u64::from_be_bytes(*hint)).collect())
    }

    /// How many of these pages `other` has too, and how many there are. All-zero pages do not count: every file has
    /// them.
    pub fn shared(&self, other: &PageHints, seed: u64) -> (u64, u64) {
        let zeros = xxh3_64_with_seed(&[0; PAGE], seed);
        let mut theirs = other.0.iter();
        self.0.iter().map(|ours| (ours, theirs.next())).filter(|(ours, _)| **ours != zeros).fold(
            (0, 0),
            |(same, all): (u64, u64), (ours, theirs)| {
                (same.saturating_add(u64::from(theirs == Some(ours))), all.saturating_add(1))
            },
        )
    }

    /// The runs of changed pages. `None` if most have changed, so that sending the whole chunk is better, or if the
    /// lengths differ.
    pub fn changed(&self, now: &PageHints, len: u32) -> Option<Extents> {
        if self.0.len() != now.0.len() {
            return None;
        }
        let page = PAGE as u32;
        let mut runs: Vec<Extent> = Vec::new();
        let mut pages = 0usize;
        for (number, _) in (0u32..).zip(self.0.iter().zip(&now.0)).filter(|(_, (before, now))| before != now) {
            let start = number.saturating_mul(page);
            let length = page.min(len.saturating_sub(start));
            match runs.last_mut().filter(|run| run.start.saturating_add(run.len) == start) {
                Some(run) => run.len = run.len.saturating_add(length),
                None => runs.push(Extent { start, len: length }),
            }
            pages = pages.saturating_add(1);
        }
        if pages.saturating_mul(2) > now.0.len() { None } else { Extents::new(runs, len).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_pages_are_found_as_runs() {
        let before = vec![1; CHUNK as usize];
        let hints = PageHints::of(&before, 7);
        let mut now = before.clone();
        for at in [0, 16_383, 5 * PAGE, 6 * PAGE + 9, CHUNK as usize - 1] {
            now[at] = 2;
        }
        let changed = hints.changed(&PageHints::of(&now, 7), CHUNK as u32).unwrap();
        assert_eq!(changed.to_string(), "0+16384,81920+32768,1032192+16384");
        assert_eq!(PageHints::of(&now, 7).differing(Some(&hints)), 4);
        assert_eq!((hints.differing(Some(&hints)), hints.differing(None)), (0, PAGES as u64));
        assert_eq!(hints.changed(&hints, CHUNK as u32).unwrap().data_len(), 0);
        now[..CHUNK as usize / 2 + 1].fill(9);
        assert_eq!(hints.changed(&PageHints::of(&now, 7), CHUNK as u32), None);
    }

    #[test]
    fn they_travel_as_bytes_and_are_counted_without_zeros() {
        let mut chunk = vec![7; 3 * PAGE + 5];
        chunk[PAGE..2 * PAGE].fill(0);
        let hints = PageHints::of(&chunk, 9);
        let bytes: Vec<u8> = hints.to_bytes().collect();
        assert_eq!((bytes.len(), PageHints::bytes_of(chunk.len() as u64)), (32, 32));
        assert_eq!((PageHints::bytes_of(0), PageHints::bytes_of(CHUNK)), (0, PageHints::BYTES));
        assert_eq!(PageHints::from_bytes(&bytes), hints);
        assert_eq!(hints.shared(&hints, 9), (3, 3));
        chunk[0] = 1;
        assert_eq!(hints.shared(&PageHints::of(&chunk, 9), 9), (2, 3));
        assert_eq!(hints.shared(&PageHints::of(&chunk[..PAGE], 9), 9), (0, 3), "what is shorter lacks pages");
        assert_eq!(PageHints::of(&[0; PAGE], 9).shared(&hints, 9), (0, 0));
    }

    #[test]
    fn holes_are_zeros() {
        let extents = Extents::parse("16384+4096,40000+8", 65_536).unwrap();
        let mut whole = vec![0; 65_536];
        whole[16_384..20_480].fill(3);
        whole[40_000..40_008].fill(3);
        assert_eq!(PageHints::of_runs(&extents, &[3; 4104], 65_536, 5), PageHints::of(&whole, 5));
    }

    #[test]
    fn a_last_page_may_be_short_and_another_length_is_another_chunk() {
        let hints = PageHints::of(&vec![1; 3 * PAGE + 5], 0);
        let mut now = vec![1; 3 * PAGE + 5];
        now[3 * PAGE + 4] = 2;
        let changed = hints.changed(&PageHints::of(&now, 0), 3 * PAGE as u32 + 5).unwrap();
        assert_eq!(changed.to_string(), "49152+5");
        assert_eq!(hints.changed(&PageHints::of(&now[..2 * PAGE], 0), 2 * PAGE as u32), None);
    }
}
