//! Which pages of a chunk changed since it was last sent, by digests too short to believe: they save bytes and decide
//! nothing. The chunk's own digest, and at the end the seal, tell whether the joiner has the right ones.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::archive::{Extent, Extents};
use crate::manifest::CHUNK;

/// The bytes of a page: InnoDB's own by default, and what pays best when only some rows were written.
pub(super) const PAGE: usize = 16 << 10;
const PAGES: usize = CHUNK as usize / PAGE;

/// Eight bytes a page: 512 bytes for a chunk of 1 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageHints(Box<[u64]>);

impl PageHints {
    /// What one chunk's hints cost at most.
    pub(super) const BYTES: usize = PAGES * 8;

    /// `seed` is a secret of this transfer, so that nobody can make two pages with one hint.
    pub(super) fn of(chunk: &[u8], seed: u64) -> PageHints {
        PageHints(chunk.chunks(PAGE).map(|page| xxh3_64_with_seed(page, seed)).collect())
    }

    /// The same of a chunk of `len` bytes that has `data` where `extents` say, and holes elsewhere.
    pub(super) fn of_runs(extents: &Extents, data: &[u8], len: u32, seed: u64) -> PageHints {
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

    /// How many pages are not what they were: all of them where nothing is known.
    pub(super) fn differing(&self, before: Option<&PageHints>) -> u64 {
        let known = before.map_or(&[][..], |before| &before.0);
        let same = self.0.iter().zip(known).filter(|(now, before)| now == before).count();
        (self.0.len() - same) as u64
    }

    /// The runs of pages that are not what they were. `None` when most are, so that the whole chunk is the better thing
    /// to send, or when the lengths differ.
    pub(super) fn changed(&self, now: &PageHints, len: u32) -> Option<Extents> {
        if self.0.len() != now.0.len() {
            return None;
        }
        let page = PAGE as u32;
        let mut runs: Vec<Extent> = Vec::new();
        let mut pages = 0usize;
        for (number, _) in (0u32..).zip(self.0.iter().zip(&now.0)).filter(|(_, (before, now))| before != now) {
            let start = number * page;
            let length = page.min(len.saturating_sub(start));
            match runs.last_mut().filter(|run| run.start + run.len == start) {
                Some(run) => run.len += length,
                None => runs.push(Extent { start, len: length }),
            }
            pages += 1;
        }
        if pages * 2 > now.0.len() { None } else { Extents::new(runs, len).ok() }
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
