//! Where a chunk has data; the rest are holes.

use std::fmt;
use std::str::FromStr;

use crate::manifest::{CHUNK, Checksum, Digest};

/// A run of data inside a chunk: `start` counts from the chunk's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u32,
    pub len: u32,
}

/// The runs of data in one chunk: in order, not touching, at most 1,024.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(Vec<Extent>);

/// Extents are out of order, too many, or outside their chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the extents of a chunk are malformed")]
pub struct ExtentsError;

impl Extents {
    pub const MAX: usize = 1024;

    /// One run that covers the whole chunk.
    pub fn whole(len: u32) -> Extents {
        Extents(if len == 0 { vec![] } else { vec![Extent { start: 0, len }] })
    }

    /// Fails unless the runs are in order, do not touch, and end within `chunk` bytes.
    pub fn new(runs: Vec<Extent>, chunk: u32) -> Result<Extents, ExtentsError> {
        let mut from = 0u32;
        for (index, run) in runs.iter().enumerate() {
            let end = run.start.checked_add(run.len).ok_or(ExtentsError)?;
            let apart = index == 0 || run.start > from;
            if run.len == 0 || !apart || end > chunk {
                return Err(ExtentsError);
            }
            from = end;
        }
        if runs.len() > Self::MAX { Err(ExtentsError) } else { Ok(Extents(runs)) }
    }

    pub fn iter(&self) -> impl Iterator<Item = Extent> {
        self.0.iter().copied()
    }

    /// Bytes of data in all runs.
    pub fn data_len(&self) -> usize {
        self.0.iter().fold(0usize, |sum, run| sum.saturating_add(run.len as usize))
    }

    /// Whether these runs contain every byte of `others`.
    pub fn contains(&self, others: &Extents) -> bool {
        let end = |run: &Extent| run.start.saturating_add(run.len);
        others.0.iter().all(|other| self.0.iter().any(|run| run.start <= other.start && end(other) <= end(run)))
    }

    /// The parts of these runs that lie in `others`; and, for each, its range within the data of these runs laid end to
    /// end.
    pub fn clipped(&self, others: &Extents) -> (Extents, Vec<std::ops::Range<usize>>) {
        let (mut runs, mut places, mut before) = (Vec::new(), Vec::new(), 0usize);
        for run in &self.0 {
            let end = run.start.saturating_add(run.len);
            for other in &others.0 {
                let (from, to) = (run.start.max(other.start), end.min(other.start.saturating_add(other.len)));
                if from < to {
                    let at = before.saturating_add(from.saturating_sub(run.start) as usize);
                    let len = to.saturating_sub(from);
                    runs.push(Extent { start: from, len });
                    places.push(at..at.saturating_add(len as usize));
                }
            }
            before = before.saturating_add(run.len as usize);
        }
        (Extents(runs), places)
    }

    /// The parts of `within`, which contains these runs, that none of them covers: the holes.
    #[must_use]
    pub fn gaps(&self, within: &Extents) -> Vec<Extent> {
        let mut gaps = Vec::new();
        let mut runs = self.0.iter().peekable();
        for around in &within.0 {
            let end = around.start.saturating_add(around.len);
            let mut at = around.start;
            while let Some(run) = runs.next_if(|run| run.start < end) {
                if run.start > at {
                    gaps.push(Extent { start: at, len: run.start.saturating_sub(at) });
                }
                at = run.start.saturating_add(run.len);
            }
            if at < end {
                gaps.push(Extent { start: at, len: end.saturating_sub(at) });
            }
        }
        gaps
    }

    pub fn is_whole(&self, chunk: u32) -> bool {
        *self == Extents::whole(chunk)
    }

    /// The digest of a chunk of `chunk` bytes whose runs hold `data`; holes count as zeros.
    pub fn digest(&self, checksum: Checksum, data: &[u8], chunk: u32) -> Digest {
        if self.is_whole(chunk) {
            return checksum.digest(data);
        }
        if self.0.is_empty() && u64::from(chunk) == CHUNK {
            return checksum.of_empty_chunk();
        }
        let mut hasher = checksum.hasher();
        let (mut at, mut rest) = (0u32, data);
        for run in &self.0 {
            hasher.update_zeros(run.start.saturating_sub(at).into());
            let (now, later) = rest.split_at(rest.len().min(run.len as usize));
            hasher.update(now);
            (at, rest) = (run.start.saturating_add(run.len), later);
        }
        hasher.update_zeros(chunk.saturating_sub(at).into());
        hasher.finish()
    }

    /// Reads `START+LEN,START+LEN`; empty text is a chunk without data.
    pub fn parse(text: &str, chunk: u32) -> Result<Extents, ExtentsError> {
        let number = |text: &str| u32::from_str(text).map_err(|_| ExtentsError);
        let run = |text: &str| {
            let (start, len) = text.split_once('+').ok_or(ExtentsError)?;
            Ok(Extent { start: number(start)?, len: number(len)? })
        };
        let runs = text.split(',').filter(|_| !text.is_empty()).take(Self::MAX.saturating_add(1)).map(run);
        Extents::new(runs.collect::<Result<_, _>>()?, chunk)
    }
}

impl fmt::Display for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}+{}", run.start, run.len)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["", "0+1", "0+4096,8192+4096", "10+90"] {
            assert_eq!(Extents::parse(text, 1 << 20).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_does_not_fit_the_chunk_is_refused() {
        let many = (0..1025).map(|i| format!("{}+1", i * 2)).collect::<Vec<_>>().join(",");
        for bad in ["0", "0+0", "5+5,0+1", "0+5,4+2", "0+5,5+1", "90+11", "4294967295+1", "-1+1", ",", "0+1,", &many] {
            assert_eq!(Extents::parse(bad, 100), Err(ExtentsError), "{bad}");
        }
    }

    #[test]
    fn gaps_are_what_lies_between() {
        let runs = |text| Extents::parse(text, 100).unwrap();
        for (data, within, gaps) in [
            ("", "0+100", "0+100"),
            ("0+100", "0+100", ""),
            ("10+10,30+10", "0+50", "0+10,20+10,40+10"),
            ("0+10", "0+10,20+10", "20+10"),
            ("5+1,22+3", "5+1,20+10", "20+2,25+5"),
        ] {
            assert!(runs(within).contains(&runs(data)));
            assert_eq!(Extents(runs(data).gaps(&runs(within))).to_string(), gaps, "{data} in {within}");
        }
        assert!(!runs("0+10,20+10").contains(&runs("5+20")));
    }

    #[test]
    fn clipped_runs_know_where_their_bytes_stand() {
        let runs = |text| Extents::parse(text, 100).unwrap();
        for (data, within, clipped, places) in [
            ("0+100", "20+10,50+10", "20+10,50+10", vec![20..30, 50..60]),
            ("10+10,30+20", "15+20,45+50", "15+5,30+5,45+5", vec![5..10, 10..15, 25..30]),
            ("0+10", "20+10", "", vec![]),
        ] {
            let (clip, at) = runs(data).clipped(&runs(within));
            assert_eq!((clip.to_string().as_str(), at), (clipped, places), "{data} {within}");
        }
    }

    #[test]
    fn holes_digest_as_zeros() {
        let extents = Extents::parse("2+2,7+1", 10).unwrap();
        let digest = extents.digest(Checksum::Blake3, b"abc", 10);
        assert_eq!(digest, Checksum::Blake3.digest(b"\0\0ab\0\0\0c\0\0"));
    }
}
