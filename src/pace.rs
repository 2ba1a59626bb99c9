//! A rate limit: as people write it, and how long to wait before more bytes may be sent.
//!
//! Time is an argument.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The rate limit of a transfer, or none; it may change meanwhile.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Option<Pace>>);

impl Throttle {
    /// `rate` is in bytes per second.
    pub fn new(rate: Option<u64>, now: Instant) -> Throttle {
        Throttle(Mutex::new(rate.map(|rate| Pace::new(rate, now))))
    }

    fn pace(&self) -> MutexGuard<'_, Option<Pace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes per second.
    pub fn rate(&self) -> Option<u64> {
        self.pace().as_ref().map(Pace::rate)
    }

    pub fn set(&self, rate: Option<u64>, now: Instant) {
        *self.pace() = rate.map(|rate| Pace::new(rate, now));
    }

    /// [`Pace::piece`].
    pub fn piece(&self, most: usize) -> usize {
        self.pace().as_ref().map_or(most, |pace| pace.piece(most))
    }

    /// [`Pace::take`].
    pub fn take(&self, bytes: u64, now: Instant) -> Duration {
        self.pace().as_mut().map_or(Duration::ZERO, |pace| pace.take(bytes, now))
    }
}

/// A token bucket that fills at a steady rate and holds a tenth of a second of it.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Bytes per second.
    rate: f64,
    /// Bytes that may be sent at once; negative after a large piece.
    tokens: f64,
    last: Instant,
}

impl Pace {
    /// `rate` is in bytes per second and at least 1.
    pub fn new(rate: u64, now: Instant) -> Pace {
        Pace { rate: rate.max(1) as f64, tokens: 0.0, last: now }
    }

    /// Bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// How many bytes to send at once, at most `most`, so that none has to wait long.
    pub fn piece(&self, most: usize) -> usize {
        usize::try_from(self.rate() / 4).unwrap_or(most).clamp(512.min(most), most)
    }

    /// Takes `bytes` and returns how long to wait before sending them.
    pub fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        // A clock that goes backwards counts as stopped.
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.rate / 10.0) - bytes as f64;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.rate) }
    }
}

/// A number of bytes as people write it: `200M`, `1.5g`, `100000`; K, M, G and T are powers of 1024, as for `pv -L`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteCount(pub u64);

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteCount, String> {
        let wrong = || format!("`{text}` is not a number of bytes; write one with K, M, G or T, as in 200M");
        let number = text.strip_suffix(['b', 'B']).unwrap_or(text);
        let number = number.strip_suffix('i').unwrap_or(number);
        let shift = match number.chars().last().map(|unit| unit.to_ascii_lowercase()) {
            Some('k') => 10,
            Some('m') => 20,
            Some('g') => 30,
            Some('t') => 40,
            Some('0'..='9') => 0,
            _ => return Err(wrong()),
        };
        let digits = if shift == 0 { number } else { number.get(..number.len().saturating_sub(1)).unwrap_or_default() };
        let digits = digits.trim();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(wrong());
        }
        let value: f64 = digits.parse().map_err(|_| wrong())?;
        let value = value * (1_u64 << shift) as f64;
        // Beyond 2^53 a float no longer counts single bytes, which nobody needs.
        if value < 9e15 { Ok(ByteCount(value as u64)) } else { Err(wrong()) }
    }
}

/// The most bytes per second; no limit is written as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit(pub Option<u64>);

/// A [`ByteCount`], with or without `/s`.
impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<RateLimit, String> {
        let count: Result<ByteCount, String> = text.trim_end_matches("/s").trim_end().parse();
        let wrong = |_| format!("`{text}` is not a rate; write bytes per second with K, M, G or T, as in 200M");
        Ok(RateLimit(Some(count.map_err(wrong)?.0).filter(|&rate| rate > 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_passes_for_a_seconds_bytes() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        assert_eq!(pace.take(500, start), Duration::from_millis(500));
        assert_eq!(pace.take(500, start), Duration::from_millis(1000));
        assert_eq!(pace.take(0, start + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn a_limit_changes_at_once_and_owes_nothing_of_the_old_one() {
        let start = Instant::now();
        let throttle = Throttle::new(Some(10), start);
        assert_eq!(throttle.take(1000, start), Duration::from_secs(100));
        throttle.set(Some(1000), start);
        assert_eq!((throttle.rate(), throttle.take(500, start)), (Some(1000), Duration::from_millis(500)));
        throttle.set(None, start);
        assert_eq!((throttle.rate(), throttle.take(u64::MAX, start)), (None, Duration::ZERO));
        assert_eq!(throttle.piece(1 << 20), 1 << 20);
    }

    #[test]
    fn a_pause_saves_up_a_tenth_of_a_second_only() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        assert_eq!(pace.take(100, start + Duration::from_secs(100)), Duration::ZERO);
        assert_eq!(pace.take(100, start + Duration::from_secs(100)), Duration::from_millis(100));
    }

    #[test]
    fn a_clock_that_goes_backwards_gives_nothing_away() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut pace = Pace::new(1000, start);
        pace.take(100, start);
        assert_eq!(pace.take(100, start - Duration::from_secs(5)), Duration::from_millis(200));
        assert_eq!(pace.take(0, start), Duration::from_millis(200));
    }

    #[test]
    fn rates() {
        for (text, expected) in [
            ("0", Some(None)),
            ("1000", Some(Some(1000))),
            ("10k", Some(Some(10 << 10))),
            ("200M", Some(Some(200 << 20))),
            ("200MB/s", Some(Some(200 << 20))),
            ("200MiB", Some(Some(200 << 20))),
            ("1.5M", Some(Some(3 << 19))),
            ("1.5g", Some(Some(3 << 29))),
            ("2T", Some(Some(2 << 40))),
            ("", None),
            ("M", None),
            ("fast", None),
            ("-1", None),
            ("1e9", None),
            ("1..2M", None),
            ("9999999T", None),
        ] {
            let read = text.parse::<RateLimit>();
            assert_eq!(read.clone().ok().map(|rate| rate.0), expected, "{text}");
            assert!(read.is_ok() || read.unwrap_err().starts_with(&format!("`{text}` is not a rate; write")));
        }
    }
}
