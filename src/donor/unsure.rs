//! Chunks that were read in a round and are not acknowledged: whether the joiner has them is not known.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::manifest::Ranges;

#[derive(Debug, Default)]
pub(super) struct Unsure {
    chunks: HashSet<(u32, u64)>,
    /// Those that were read as a run, by file.
    runs: HashMap<u32, Ranges>,
}

impl Unsure {
    pub(super) fn read(&mut self, file: u32, run: Range<u64>) {
        if run.end - run.start == 1 {
            self.chunks.insert((file, run.start));
        } else {
            self.runs.entry(file).or_default().insert(run);
        }
    }

    /// A lane's break may have given a run back as its chunks, and the other way round.
    pub(super) fn acknowledged(&mut self, file: u32, run: Range<u64>) {
        if let Some(runs) = self.runs.get_mut(&file) {
            runs.remove(run.clone());
            if runs.is_empty() {
                self.runs.remove(&file);
            }
        }
        if run.end - run.start == 1 {
            self.chunks.remove(&(file, run.start));
        } else {
            self.chunks.retain(|(of, chunk)| *of != file || !run.contains(chunk));
        }
    }

    pub(super) fn drain(&mut self) -> Vec<(u32, Range<u64>)> {
        let chunks = self.chunks.drain().map(|(file, chunk)| (file, chunk..chunk + 1));
        let runs = self.runs.drain().flat_map(|(file, runs)| runs.iter().map(|run| (file, run)).collect::<Vec<_>>());
        chunks.chain(runs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_in_other_pieces_is_acknowledged_all_the_same() {
        let mut unsure = Unsure::default();
        unsure.read(1, 5..100);
        unsure.read(1, 5..6);
        unsure.read(2, 7..8);
        unsure.acknowledged(1, 5..6);
        unsure.acknowledged(1, 6..40);
        unsure.read(1, 50..51);
        let mut left = unsure.drain();
        left.sort_by_key(|(file, run)| (*file, run.start));
        assert_eq!(left, [(1, 40..100), (1, 50..51), (2, 7..8)]);
        unsure.read(1, 50..51);
        unsure.acknowledged(1, 40..100);
        assert_eq!(unsure.drain(), []);
    }
}
