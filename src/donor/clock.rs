//! The progress clock of a round, shared by all lanes. New acknowledgements move it, and for a while bytes that arrive
//! do, because on a slow link the first frames of many lanes take long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many idle deadlines may pass without an acknowledgement while bytes still move. A joiner that takes bytes and
/// writes nothing must not hold the donor forever.
const WITHOUT_AN_ACK: u32 = 20;

#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    /// Milliseconds after the start.
    acknowledged: AtomicU64,
    moved: AtomicU64,
}

/// Why a round is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stuck {
    /// Nothing has moved for this long.
    Idle(Duration),
    /// Bytes have moved, but nothing was acknowledged for this long.
    Unacknowledged(Duration),
}

impl Clock {
    pub(super) fn new(now: Instant) -> Clock {
        Clock { start: now, acknowledged: AtomicU64::new(0), moved: AtomicU64::new(0) }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// More work was acknowledged.
    pub(super) fn acknowledged(&self, now: Instant) {
        self.acknowledged.fetch_max(self.millis(now), Ordering::Relaxed);
    }

    /// More bytes have arrived.
    pub(super) fn moved(&self, now: Instant) {
        self.moved.fetch_max(self.millis(now), Ordering::Relaxed);
    }

    pub(super) fn stuck(&self, now: Instant, idle: Duration) -> Option<Stuck> {
        let (acknowledged, moved) = (self.acknowledged.load(Ordering::Relaxed), self.moved.load(Ordering::Relaxed));
        let since = |then: u64| Duration::from_millis(self.millis(now).saturating_sub(then));
        if since(acknowledged.max(moved)) > idle {
            return Some(Stuck::Idle(idle));
        }
        let limit = idle.saturating_mul(WITHOUT_AN_ACK);
        (since(acknowledged) > limit).then_some(Stuck::Unacknowledged(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_for_a_while_and_acknowledgements_always() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let idle = Duration::from_secs(10);
        let clock = Clock::new(start);
        assert_eq!(clock.stuck(at(10), idle), None);
        assert_eq!(clock.stuck(at(11), idle), Some(Stuck::Idle(idle)));
        for second in 0..=200 {
            clock.moved(at(second));
            assert_eq!(clock.stuck(at(second), idle), None, "{second}");
        }
        clock.moved(at(201));
        assert_eq!(clock.stuck(at(201), idle), Some(Stuck::Unacknowledged(Duration::from_secs(200))));
        clock.acknowledged(at(201));
        assert_eq!(clock.stuck(at(211), idle), None);
        assert_eq!(clock.stuck(at(212), idle), Some(Stuck::Idle(idle)));
        assert_eq!(clock.stuck(at(9_999), Duration::MAX), None);
    }
}
