//! Progress as lines on standard error, for logs: one every ten seconds.

use std::time::Duration;

use super::{Reporter, Snapshot, bytes, seconds};

/// Lines that begin with a name: `highline: 45 % …`.
#[derive(Debug)]
pub struct Lines {
    name: String,
}

impl Lines {
    pub fn new(name: impl Into<String>) -> Lines {
        Lines { name: name.into() }
    }
}

/// `45 %, 1.2 GB of 2.6 GB, 310 MB/s (120 MB/s on the wire), 4.5 s left`.
pub(super) fn sentence(now: &Snapshot) -> String {
    let rate = bytes(now.rate as u64);
    if now.total == 0 {
        return format!("{}, {rate}/s{}", bytes(now.done), now.wire_words());
    }
    let left = now.eta().map_or_else(|| "stalled".to_owned(), |eta| format!("{} left", seconds(eta)));
    let round = now.round_words();
    let wire = now.wire_words();
    format!("{round}{} %, {} of {}, {rate}/s{wire}, {left}", now.percent(), bytes(now.done), bytes(now.total))
}

impl Reporter for Lines {
    fn note(&self, line: &str) {
        super::line(&format!("{}: {line}", self.name));
    }

    fn warn(&self, line: &str) {
        super::line(&format!("{}: warning: {line}", self.name));
    }

    fn progress(&self, now: &Snapshot) {
        if now.total > 0 || now.done > 0 {
            self.note(&sentence(now));
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_it_all() {
        let (rate, wire_rate) = (310e6, 310e6);
        let now = Snapshot { total: 2_600_000_000, done: 1_200_000_000, rate, wire_rate, ..Snapshot::default() };
        assert_eq!(sentence(&now), "46 %, 1.2 GB of 2.6 GB, 310 MB/s, 4.5 s left");
        let compressed = Snapshot { wire_rate: 120e6, ..now };
        assert_eq!(sentence(&compressed), "46 %, 1.2 GB of 2.6 GB, 310 MB/s (120 MB/s on the wire), 4.5 s left");
        assert_eq!(sentence(&Snapshot { rate: 0.0, wire_rate: 0.0, ..now }), "46 %, 1.2 GB of 2.6 GB, 0 B/s, stalled");
        let stream = Snapshot { total: 0, ..compressed };
        assert_eq!(sentence(&stream), "1.2 GB, 310 MB/s (120 MB/s on the wire)", "nobody knows how much comes");
    }
}
