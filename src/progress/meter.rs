//! What a transfer has done so far, counted by many threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Reporter;

/// Counters of one transfer. All but the entries are bytes.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    total: AtomicU64,
    done: AtomicU64,
    wire: AtomicU64,
    entries: AtomicU64,
    round: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Snapshot {
    /// Bytes of the pass, by length.
    pub total: u64,
    /// Bytes written and verified on the joiner.
    pub done: u64,
    /// Bytes sent or received on all lanes.
    pub wire: u64,
    pub entries: u64,
    /// The pass over the tree that `done` and `total` are about, counted from 0.
    pub round: u64,
    pub elapsed: Duration,
    /// Bytes per second since the last snapshot: of the pass, and on the wire.
    pub rate: f64,
    pub wire_rate: f64,
}

impl Default for Meter {
    fn default() -> Meter {
        Meter {
            start: Instant::now(),
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            wire: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            round: AtomicU64::new(0),
        }
    }
}

impl Meter {
    pub fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Round `number`, counted from 0, begins, with `bytes` to read.
    pub fn begin_round(&self, number: u16, bytes: u64) {
        self.round.store(number.into(), Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.total.store(bytes, Ordering::Relaxed);
    }

    pub fn add_done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add_wire(&self, bytes: u64) {
        self.wire.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add_entries(&self, count: u64) {
        self.entries.fetch_add(count, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            total: self.total.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Relaxed),
            wire: self.wire.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            round: self.round.load(Ordering::Relaxed),
            elapsed: self.start.elapsed(),
            rate: 0.0,
            wire_rate: 0.0,
        }
    }
}

impl Snapshot {
    /// The same, with the rates since `last`.
    #[must_use]
    pub fn since(self, last: &Snapshot) -> Snapshot {
        let passed = self.elapsed.saturating_sub(last.elapsed).as_secs_f64().max(1e-9);
        // A new pass starts counting again.
        let before = if self.round == last.round { last.done } else { 0 };
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / passed;
        Snapshot { rate: rate(self.done, before), wire_rate: rate(self.wire, last.wire), ..self }
    }

    /// Per cent of the total; 100 if there is nothing to do. The total does not include what is sent again.
    pub fn percent(&self) -> u64 {
        (self.done * 100).checked_div(self.total).unwrap_or(100).min(100)
    }

    /// `round 2: ` in later rounds, to prefix a progress line.
    pub fn round_words(&self) -> String {
        if self.round == 0 { String::new() } else { format!("round {}: ", self.round) }
    }

    /// ` (120 MB/s on the wire)` if that rate differs.
    pub fn wire_words(&self) -> String {
        let much_the_same = (self.wire_rate - self.rate).abs() <= self.rate / 20.0;
        if much_the_same { String::new() } else { format!(" ({}/s on the wire)", bytes(self.wire_rate as u64)) }
    }

    /// How long the rest will take at the current rate; `None` if nothing moves, or nobody knows how much there is.
    pub fn eta(&self) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let left = self.total.saturating_sub(self.done) as f64;
        Duration::try_from_secs_f64(left / self.rate).ok()
    }
}

/// Stops reporting a meter when dropped.
#[derive(Debug)]
pub struct Follow {
    task: tokio::task::JoinHandle<()>,
    meter: Arc<Meter>,
    reporter: Arc<dyn Reporter>,
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.task.abort();
        self.reporter.done(&self.meter.snapshot());
    }
}

/// Reports `meter` at the reporter's interval until the result is dropped. Needs a runtime.
pub fn follow(meter: Arc<Meter>, reporter: Arc<dyn Reporter>) -> Follow {
    let (teller, followed) = (Arc::clone(&reporter), Arc::clone(&meter));
    let task = tokio::spawn(async move {
        let mut last = followed.snapshot();
        loop {
            tokio::time::sleep(teller.interval()).await;
            let now = followed.snapshot().since(&last);
            teller.progress(&now);
            last = now;
        }
    });
    Follow { task, meter, reporter }
}

/// `1.5 GB`: at most three digits, decimal units.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

/// `1 entry`, `1649 entries`.
pub fn entries(count: u64) -> String {
    counted(count, "entry", "entries")
}

/// A number with the words that go with it: `1 page is damaged`, `2 pages are damaged`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `45 s`, `3 min 20 s`, `2 h 5 min`.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        s if s < 10 => format!("{:.1} s", time.as_secs_f64()),
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1_536_000, "1.5 MB"),
            (99_960_000, "100 MB"),
            (999_600_000, "1.0 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!([0, 1, 2].map(entries), ["0 entries", "1 entry", "2 entries"]);
        for (time, text) in [(0, "0.0 s"), (45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")] {
            assert_eq!(seconds(Duration::from_secs(time)), text);
        }
    }

    #[test]
    fn the_rest_is_reckoned_from_the_present_rate() {
        let now = Snapshot { total: 1000, done: 250, rate: 75.0, ..Snapshot::default() };
        assert_eq!(now.percent(), 25);
        assert_eq!(now.eta(), Some(Duration::from_secs(10)));
        assert_eq!(Snapshot { rate: 0.0, ..now }.eta(), None);
        assert_eq!(Snapshot::default().percent(), 100);
    }
}
