//! Progress as a bar on a terminal.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Reporter, Snapshot, bytes, seconds};
use crate::threads::lock;

/// A bar on standard error; log lines appear above it.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    recent: Mutex<Recent>,
}

/// What was told lately. Chunks are counted whole, so between two drawings a slow link often does nothing.
#[derive(Debug, Default)]
struct Recent(VecDeque<Snapshot>);

impl Recent {
    const SPAN: Duration = Duration::from_secs(2);

    /// The counters with their rates over the last seconds.
    fn with(&mut self, now: Snapshot) -> Snapshot {
        while self.0.get(1).is_some_and(|next| now.elapsed.saturating_sub(next.elapsed) >= Recent::SPAN) {
            self.0.pop_front();
        }
        let smooth = self.0.front().map_or(now, |first| now.since(first));
        self.0.push_back(now);
        smooth
    }
}

impl Terminal {
    pub fn new() -> Terminal {
        // Until there is something to count it would show 0 of 0.
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        // On a narrow terminal the end is cut off.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Terminal { bar, recent: Mutex::default() }
    }
}

impl Default for Terminal {
    fn default() -> Terminal {
        Terminal::new()
    }
}

/// `[######----] 45 % 1.2 GB of 2.6 GB 310 MB/s 4.5 s left`, and the rate on the wire if that differs.
fn message(now: &Snapshot) -> String {
    const CELLS: u64 = 12;
    if now.total == 0 {
        return format!("{}  {}/s{}", bytes(now.done), bytes(now.rate as u64), now.wire_words());
    }
    let full = (now.percent() * CELLS / 100) as usize;
    let bar = "█".repeat(full) + &"░".repeat(CELLS as usize - full);
    let average = now.done as f64 / now.elapsed.as_secs_f64().max(0.1);
    let left = Snapshot { rate: average, ..*now }.eta().map(|eta| format!("  {} left", seconds(eta)));
    let (round, left) = (now.round_words(), left.unwrap_or_default());
    let (done, total) = (bytes(now.done), bytes(now.total));
    let (rate, wire) = (bytes(now.rate as u64), now.wire_words());
    format!("{bar} {:>3} %  {round}{done} of {total}  {rate}/s{left}{wire}", now.percent())
}

impl Reporter for Terminal {
    fn note(&self, line: &str) {
        self.bar.suspend(|| super::line(line));
    }

    fn warn(&self, line: &str) {
        self.bar.suspend(|| super::line(&format!("warning: {line}")));
    }

    fn progress(&self, now: &Snapshot) {
        if now.total == 0 && now.done == 0 {
            return;
        }
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_message(message(&lock(&self.recent).with(*now)));
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn done(&self, _: &Snapshot) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut recent = Recent::default();
        // A chunk of 1000 every second, drawn five times a second.
        let at = |tick: u64| Snapshot {
            total: 1_000_000,
            done: tick / 5 * 1000,
            elapsed: Duration::from_millis(tick * 200),
            ..Snapshot::default()
        };
        let rates: Vec<f64> = (0..40).map(|tick| recent.with(at(tick)).rate).collect();
        assert!(rates[10..].iter().all(|rate| (900.0..=1100.0).contains(rate)), "{rates:?}");
        assert!(recent.0.len() < 15);
    }

    #[test]
    fn the_figures_fit_sixty_columns_and_the_rest_comes_last() {
        let now = Snapshot {
            total: 2_600_000_000,
            done: 1_200_000_000,
            rate: 310e6,
            wire_rate: 120e6,
            elapsed: Duration::from_secs(4),
            ..Snapshot::default()
        };
        let message = message(&now);
        assert_eq!(message, "█████░░░░░░░  46 %  1.2 GB of 2.6 GB  310 MB/s  4.7 s left (120 MB/s on the wire)");
        assert!(message.split(" (").next().unwrap().chars().count() <= 60);
    }
}
