//! A set of chunk numbers, kept as runs: of a file of terabytes that is nearly all hole they are few.

use std::collections::BTreeMap;
use std::ops::Range;

/// Chunk numbers: the end of each run by its start. Runs neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // What it touches becomes part of it.
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            (start, end) = (start.min(from), end.max(to));
            self.0.remove(&from);
        }
        self.0.insert(start, end);
    }

    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..range.end).next_back().filter(|(_, to)| **to > range.start) {
            self.0.remove(&from);
            if from < range.start {
                self.0.insert(from, range.start);
            }
            if to > range.end {
                self.0.insert(range.end, to);
            }
        }
    }

    /// `within`, cut where this set begins and ends; each part with whether it is in the set.
    #[must_use]
    pub fn split(&self, within: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let before = self.0.range(..within.start).next_back();
        let runs = before.into_iter().chain(self.0.range(within.clone()));
        let runs = runs.map(|(start, end)| (*start..*end, ()));
        cut(within, runs).into_iter().map(|(part, held)| (part, held.is_some())).collect()
    }
}

/// `within`, cut where `runs` begin and end: they are in order and apart. Each part with what its run has.
pub(super) fn cut<T: Copy>(
    within: Range<u64>,
    runs: impl Iterator<Item = (Range<u64>, T)>,
) -> Vec<(Range<u64>, Option<T>)> {
    let (mut parts, mut at) = (Vec::new(), within.start);
    for (run, held) in runs {
        let (from, to) = (run.start.max(within.start), run.end.min(within.end));
        if from >= to {
            continue;
        }
        if at < from {
            parts.push((at..from, None));
        }
        parts.push((from..to, Some(held)));
        at = to;
    }
    if at < within.end {
        parts.push((at..within.end, None));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((0u64..40, 0u64..12, any::<bool>()), 0..30)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (start, len, add) in steps {
                let range = start..start + len;
                if add {
                    ranges.insert(range.clone());
                    set.extend(range);
                } else {
                    ranges.remove(range.clone());
                    set.retain(|number| !range.contains(number));
                }
                prop_assert_eq!(ranges.iter().flatten().collect::<BTreeSet<_>>(), set.clone());
                prop_assert!(ranges.iter().all(|run| !run.is_empty()));
                let runs: Vec<_> = ranges.iter().collect();
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", runs);
                prop_assert!((0..60).all(|number| ranges.contains(number) == set.contains(&number)));
                prop_assert_eq!(ranges.is_empty(), set.is_empty());
                let parts = ranges.split(5..30);
                prop_assert_eq!(parts.iter().flat_map(|(part, _)| part.clone()).collect::<Vec<_>>(), (5..30).collect::<Vec<_>>());
                prop_assert!(parts.iter().all(|(part, held)| part.clone().all(|n| set.contains(&n) == *held)));
            }
        }
    }
}
