//! Which codec the next batch gets, and its compression.
//!
//! `auto` climbs ([`climb`]), so a fast link is left uncompressed and a slow one gets what it can
//! use.

mod climb;

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use climb::{Climb, Count};

use crate::archive::{Codec, CodecError};
use crate::direct::Pages;
use crate::threads::{cores, lock};

/// The operator's choice: `compress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Whichever moves the most bytes, found by trying.
    #[default]
    Auto,
    Fixed(Codec),
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::Auto => f.write_str("auto"),
            Compression::Fixed(codec) => codec.fmt(f),
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Compression, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Compression::Auto),
            other => other.parse().map(Compression::Fixed).map_err(|_: CodecError| {
                format!("`{text}` is none of auto, none, lz4, zstd and zstd:LEVEL with a level from 1 to 19")
            }),
        }
    }
}

/// Chooses for all lanes together and keeps count.
#[derive(Debug)]
pub(super) struct Chooser {
    choice: Compression,
    climb: Mutex<Climb>,
    /// Bytes of files by length: packed into frames, and written by the joiner.
    packed: AtomicU64,
    acknowledged: AtomicU64,
    /// Uncompressed bytes sent with each codec, by its number.
    sent: [AtomicU64; 3],
}

impl Chooser {
    pub(super) fn new(choice: Compression, now: Instant) -> Chooser {
        let climb = Mutex::new(Climb::new(now, idle_cores(), cores()));
        Chooser { choice, climb, packed: AtomicU64::new(0), acknowledged: AtomicU64::new(0), sent: Default::default() }
    }

    pub(super) fn choose(&self) -> Codec {
        match self.choice {
            Compression::Auto => lock(&self.climb).codec(),
            Compression::Fixed(codec) => codec,
        }
    }

    /// What the first pass has found holds for the next ones: they compare, so few bytes arrive however fast the link is.
    pub(super) fn hold(&self) {
        lock(&self.climb).hold();
    }

    /// The joiner has written `bytes` more.
    pub(super) fn acknowledged(&self, bytes: u64, now: Instant) {
        let written = self.acknowledged.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.choice == Compression::Auto {
            let count = Count { written, packed: self.packed.load(Ordering::Relaxed) };
            lock(&self.climb).tick(now, count, idle_cores);
        }
    }

    /// A frame of `bytes` of files, `raw` bytes before compression, was packed with `codec`.
    pub(super) fn count(&self, codec: u8, raw: u64, bytes: u64) {
        self.packed.fetch_add(bytes, Ordering::Relaxed);
        if let Some(sum) = self.sent.get(usize::from(codec)) {
            sum.fetch_add(raw, Ordering::Relaxed);
        }
    }

    /// `auto: zstd 93 %, none 7 %`, for the log.
    pub(super) fn summary(&self) -> String {
        let sums = self.sent.each_ref().map(|sum| sum.load(Ordering::Relaxed));
        let total: u64 = sums.iter().sum();
        let mut parts: Vec<(u64, &str)> =
            sums.into_iter().zip(["none", "lz4", "zstd"]).filter(|(sum, _)| *sum > 0).collect();
        parts.sort_by_key(|(sum, _)| std::cmp::Reverse(*sum));
        let shown: Vec<String> = match parts.as_slice() {
            [(_, only)] => vec![(*only).to_owned()],
            parts => parts.iter().map(|(sum, name)| format!("{name} {} %", sum * 100 / total.max(1))).collect(),
        };
        match self.choice {
            Compression::Auto => format!("auto: {}", shown.join(", ")),
            Compression::Fixed(codec) if shown.len() == 1 && shown[0] == codec.name() => codec.to_string(),
            Compression::Fixed(codec) => format!("{codec}: {}", shown.join(", ")),
        }
    }
}

/// Compresses a lane's batches. After one that does not shrink, the next ones are sent uncompressed, because encrypted
/// tablespaces come by the gigabyte.
#[derive(Debug, Default)]
pub(super) struct BatchCompressor {
    scratch: Pages,
    /// Batches still to be sent uncompressed.
    skip: u32,
    /// Consecutive tries that did not shrink.
    failed: u32,
}

impl BatchCompressor {
    /// A batch must shrink by at least one part in this many to be worth unpacking.
    const SHRINK: usize = 32;
    const MOST_SKIPPED: u32 = 64;

    /// Replaces `payload` by its compressed form if that is smaller; returns the codec used.
    pub(super) fn compress(&mut self, codec: Codec, payload: &mut Pages) -> Codec {
        if codec == Codec::None {
            return codec;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Codec::None;
        }
        let enough = payload.len() - payload.len() / Self::SHRINK;
        if codec.compress(payload, &mut self.scratch).is_ok() && self.scratch.len() < enough {
            self.failed = 0;
            std::mem::swap(payload, &mut self.scratch);
            return codec;
        }
        self.failed = (self.failed + 1).min(Self::MOST_SKIPPED.ilog2());
        self.skip = 1 << self.failed;
        Codec::None
    }
}

/// Idle and total time of all cores since boot, in clock ticks (proc_stat(5)).
fn idle_cores() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    (ticks.iter().skip(3).take(2).sum(), ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_used() {
        let chooser = Chooser::new(Compression::Auto, Instant::now());
        chooser.count(2, 93, 93);
        chooser.count(0, 7, 7);
        assert_eq!(chooser.summary(), "auto: zstd 93 %, none 7 %");
        let fixed = Chooser::new(Compression::Fixed(Codec::Zstd(3)), Instant::now());
        fixed.count(2, 5, 5);
        assert_eq!(fixed.summary(), "zstd:3");
    }
}
