//! Progress as a bar on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Reporter, Snapshot, bytes, seconds};

/// A bar on standard error; log lines appear above it.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
}

impl Terminal {
    pub fn new() -> Terminal {
        // Until there is something to count it would show 0 of 0.
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        // On a narrow terminal the end is cut off.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Terminal { bar }
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
        self.bar.set_message(message(now));
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
