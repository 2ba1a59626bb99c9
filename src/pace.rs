//! A rate limit: how long to wait before the next bytes may go.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

/// A token bucket that fills at a steady rate and holds a tenth of a second of it.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Bytes per second.
    rate: f64,
    /// Bytes that may go at once; negative after a large piece.
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

    /// How many bytes may go at once, `most` at most: none that would have to wait long.
    pub fn piece(&self, most: usize) -> usize {
        usize::try_from(self.rate() / 4).unwrap_or(most).clamp(512.min(most), most)
    }

    /// Takes `bytes` and says how long to wait before sending them.
    pub fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        // A clock that goes backwards counts as one that stands still.
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.rate / 10.0) - bytes as f64;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.rate) }
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
}
