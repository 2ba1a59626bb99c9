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
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{bar:40} {percent:>3} %  {decimal_bytes} of {decimal_total_bytes}  {msg}")
        {
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

impl Reporter for Terminal {
    fn note(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn warn(&self, line: &str) {
        self.bar.suspend(|| eprintln!("warning: {line}"));
    }

    fn progress(&self, now: &Snapshot) {
        if now.total == 0 {
            return;
        }
        self.bar.set_length(now.total);
        self.bar.set_position(now.done);
        let average = now.done as f64 / now.elapsed.as_secs_f64().max(0.1);
        let eta = Snapshot { rate: average, ..*now }.eta().map(seconds).unwrap_or_default();
        let round = now.round_words();
        self.bar.set_message(format!("{round}{}/s  {eta} left", bytes(now.rate as u64)));
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
}
