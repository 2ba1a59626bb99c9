//! How a transfer reports: log lines and progress, behind one trait.
//!
//! The pipelines count into a [`Meter`]; a [`Reporter`] shows it on a terminal, as lines or as JSON. Nothing here ever
//! writes to standard output, which is for tickets, results and the server.

mod json;
mod lines;
mod meter;
mod quiet;
mod server_log;
pub mod status;
mod terminal;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Side;

pub use json::{Json, object};
pub use lines::Lines;
pub use meter::{Follow, Meter, Snapshot, bytes, counted, entries, follow, seconds};
pub use quiet::{Quiet, Recorder};
pub use server_log::{LogFormat, ProgressLines, ServerLog};
pub use status::{Phase, Publish, Published, Status};
pub use terminal::Terminal;

/// Where a transfer's reports go.
pub trait Reporter: Send + Sync + std::fmt::Debug {
    /// A line that an operator wants in the log.
    fn note(&self, line: &str);

    /// A line that an operator should act on.
    fn warn(&self, line: &str);

    fn progress(&self, now: &Snapshot);

    /// How often [`Reporter::progress`] should be called.
    fn interval(&self) -> Duration;

    /// The transfer enters a phase.
    fn phase(&self, _: Phase) {}

    /// What the transfer does by now: at each new phase, at each [`Reporter::interval`] and at the end of the copy.
    fn status(&self, _: &Status) {}

    /// Where the peer is.
    fn meet(&self, _peer: &str) {}

    /// The last progress, without rates; a bar disappears.
    fn done(&self, _: &Snapshot) {}
}

/// How progress is shown: `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Style {
    /// A bar on a terminal, otherwise a line every ten seconds.
    #[default]
    Auto,
    Bar,
    Lines,
    Json,
    /// Warnings only.
    None,
}

impl Style {
    /// For a transfer of `role`.
    pub fn reporter(self, role: Side) -> Arc<dyn Reporter> {
        match self {
            Style::Auto if std::io::stderr().is_terminal() => Arc::new(Terminal::new()),
            Style::Bar => Arc::new(Terminal::new()),
            Style::Auto | Style::Lines => Arc::new(Lines::new("highline")),
            Style::Json => Arc::new(Json::new(role)),
            Style::None => Arc::new(Quiet),
        }
    }
}

/// A line on standard error in one write, so that two programs on one terminal do not mix theirs.
pub fn line(text: &str) {
    // If it is closed, nobody reads it.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// At most this many bytes of names go into one line of the log.
const LINE: usize = 1200;

/// Names for one line of the log: as many as fit, and how many more there are.
pub fn listed(names: &[String]) -> String {
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        if text.len() + name.len() > LINE {
            return format!("{text} and {} more", names.len() - at);
        }
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_an_end() {
        assert_eq!(listed(&["a".into(), "b".into()]), "a, b");
        let many: Vec<String> = (0..1000).map(|number| format!("name-{number:04}")).collect();
        let text = listed(&many);
        assert!(text.len() < 1300 && text.ends_with(" more") && text.starts_with("name-0000, name-0001"), "{text}");
    }
}
