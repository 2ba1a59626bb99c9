//! Which codec the next batch gets.
//!
//! `auto` climbs: it counts the bytes that the joiner acknowledges, tries the next codec of a ladder
//! while cores are idle, keeps it when more bytes arrive and goes back when not. Where no core is idle
//! it climbs down. So a fast link on busy cores is left alone, and a slow link gets what it can use.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lane::{Codec, CodecError};

/// The operator's choice: `--compress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Whatever moves the most bytes, found by trying.
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
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Compression, CodecError> {
        match text {
            "auto" => Ok(Compression::Auto),
            other => other.parse().map(Compression::Fixed),
        }
    }
}

/// Chooses for all lanes together and keeps count.
#[derive(Debug)]
pub(super) struct Chooser {
    choice: Compression,
    climb: Mutex<Climb>,
    acknowledged: AtomicU64,
    /// Unpacked bytes sent with each codec, by its number.
    sent: [AtomicU64; 3],
}

impl Chooser {
    pub(super) fn new(choice: Compression, now: Instant) -> Chooser {
        let climb = Mutex::new(Climb::new(now, idle_cores()));
        Chooser { choice, climb, acknowledged: AtomicU64::new(0), sent: Default::default() }
    }

    pub(super) fn choose(&self) -> Codec {
        match self.choice {
            Compression::Auto => self.climb.lock().unwrap_or_else(|broken| broken.into_inner()).codec(),
            Compression::Fixed(codec) => codec,
        }
    }

    /// The joiner has written `bytes` more, unpacked.
    pub(super) fn acknowledged(&self, bytes: u64, now: Instant) {
        let total = self.acknowledged.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.choice == Compression::Auto {
            self.climb.lock().unwrap_or_else(|broken| broken.into_inner()).tick(now, total, idle_cores);
        }
    }

    pub(super) fn count(&self, codec: u8, raw: u64) {
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

/// The share of all cores that has been idle since boot: idle and total, in clock ticks (proc_stat(5)).
fn idle_cores() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    (ticks.iter().skip(3).take(2).sum(), ticks.iter().sum())
}

/// From no work for the cores to the most. Each step must earn its place on the way.
const LADDER: [Codec; 5] = [Codec::None, Codec::Lz4, Codec::Zstd(1), Codec::Zstd(3), Codec::Zstd(6)];

/// The hill climb of `auto`. Pure: time, bytes and idle cores are arguments.
#[derive(Debug)]
struct Climb {
    step: usize,
    /// The rate that the step below or above reached, while this one is on trial.
    trial: Option<(usize, f64)>,
    /// When the present window began to count, and the bytes and ticks then.
    since: Instant,
    bytes: u64,
    ticks: (u64, u64),
    /// Until then what arrives was packed before the last change.
    settled: Instant,
    /// Until then nothing is tried; it grows with every trial that brought nothing.
    rest: Instant,
    patience: Duration,
}

impl Climb {
    /// How long bytes are counted for one judgement.
    const WINDOW: Duration = Duration::from_millis(400);
    /// How long after a change the batches of before are still arriving.
    const SETTLE: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(5);
    /// A step must bring a twentieth more to be kept.
    const GAIN: f64 = 1.05;
    /// Below this share of idle cores compression takes from the transfer itself.
    const BUSY: f64 = 0.10;
    /// Above it there is room for more of it.
    const FREE: f64 = 0.25;

    fn new(now: Instant, ticks: (u64, u64)) -> Climb {
        Climb { step: 0, trial: None, since: now, bytes: 0, ticks, settled: now, rest: now, patience: Self::PATIENCE }
    }

    fn codec(&self) -> Codec {
        LADDER[self.step]
    }

    fn tick(&mut self, now: Instant, bytes: u64, ticks: impl FnOnce() -> (u64, u64)) {
        if now < self.settled {
            (self.since, self.bytes) = (now, bytes);
            return;
        }
        let passed = now.saturating_duration_since(self.since);
        if passed < Self::WINDOW {
            return;
        }
        let ticks = ticks();
        let rate = bytes.saturating_sub(self.bytes) as f64 / passed.as_secs_f64();
        let total = ticks.1.saturating_sub(self.ticks.1).max(1);
        let idle = ticks.0.saturating_sub(self.ticks.0) as f64 / total as f64;
        let next = match self.trial.take() {
            Some((_, before)) if rate >= before * Self::GAIN => {
                self.patience = Self::PATIENCE;
                self.above(idle)
            }
            Some((home, _)) => {
                self.rest = now + self.patience;
                self.patience *= 2;
                home
            }
            None if idle < Self::BUSY => self.step.saturating_sub(1),
            None if now >= self.rest => self.above(idle),
            None => self.step,
        };
        if next != self.step {
            let home_again = self.rest > now;
            self.trial = (!home_again).then_some((self.step, rate));
            self.step = next;
            self.settled = now + Self::SETTLE;
        }
        (self.since, self.bytes, self.ticks) = (now, bytes, ticks);
    }

    /// The next step that so many idle cores allow. With many of them zstd is tried at once: on a slow link
    /// lz4 would only be on the way.
    fn above(&self, idle: f64) -> usize {
        let up = match self.step {
            0 if idle > 0.5 => 2,
            step if idle > Self::FREE => step + 1,
            step => step,
        };
        up.min(LADDER.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a climb for `seconds` on a link of `link` bytes a second, where each step of the ladder has a
    /// compression ratio and leaves a share of the cores idle and can do so many bytes a second at most.
    fn climb(seconds: u64, link: f64, steps: [(f64, f64, f64); 5]) -> Vec<Codec> {
        let start = Instant::now();
        let mut climb = Climb::new(start, (0, 0));
        let (mut bytes, mut idle, mut total) = (0.0, 0.0, 0.0);
        let mut seen = vec![climb.codec()];
        for tenth in 1..=seconds * 10 {
            let (ratio, most, free) = steps[climb.step];
            bytes += (link * ratio).min(most) / 10.0;
            idle += free * 20.0;
            total += 20.0;
            climb.tick(start + Duration::from_millis(tenth * 100), bytes as u64, || (idle as u64, total as u64));
            if seen.last() != Some(&climb.codec()) {
                seen.push(climb.codec());
            }
        }
        seen
    }

    const ROWS: [f64; 5] = [1.0, 1.3, 2.5, 2.4, 2.5];

    fn steps(ratios: [f64; 5], most: [f64; 5], idle: [f64; 5]) -> [(f64, f64, f64); 5] {
        std::array::from_fn(|i| (ratios[i], most[i], idle[i]))
    }

    #[test]
    fn a_slow_link_settles_on_what_it_can_use_within_seconds() {
        let slow = steps(ROWS, [900e6, 600e6, 400e6, 250e6, 120e6], [0.9, 0.8, 0.7, 0.5, 0.4]);
        let seen = climb(4, 12e6, slow);
        assert_eq!(seen, [Codec::None, Codec::Zstd(1), Codec::Zstd(3), Codec::Zstd(1)]);
    }

    #[test]
    fn busy_cores_are_left_alone() {
        let fast = steps(ROWS, [900e6, 300e6, 250e6, 150e6, 90e6], [0.02, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(climb(20, 10e9, fast), [Codec::None]);
    }

    #[test]
    fn incompressible_data_is_sent_raw_but_for_rare_trials() {
        let noise = steps([1.0; 5], [900e6, 600e6, 400e6, 250e6, 120e6], [0.6, 0.5, 0.4, 0.3, 0.2]);
        let seen = climb(60, 119e6, noise);
        assert_eq!(seen.iter().filter(|codec| **codec == Codec::Zstd(1)).count(), 4);
        assert_eq!(seen.last(), Some(&Codec::None));
    }

    #[test]
    fn it_climbs_down_when_the_cores_get_busy() {
        let start = Instant::now();
        let mut climb = Climb { step: 2, ..Climb::new(start, (0, 0)) };
        climb.tick(start + Duration::from_secs(1), 100, || (1, 200));
        assert_eq!(climb.codec(), Codec::Lz4);
    }

    #[test]
    fn the_summary_says_what_was_used() {
        let chooser = Chooser::new(Compression::Auto, Instant::now());
        chooser.count(2, 93);
        chooser.count(0, 7);
        assert_eq!(chooser.summary(), "auto: zstd 93 %, none 7 %");
        let fixed = Chooser::new(Compression::Fixed(Codec::Zstd(3)), Instant::now());
        fixed.count(2, 5);
        assert_eq!(fixed.summary(), "zstd:3");
    }
}
