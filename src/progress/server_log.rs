//! Progress as lines in the database server's error log, which is where a method's standard error goes.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use chrono::Local;

use super::lines::sentence;
use super::{Reporter, Snapshot};
use crate::error::Side;

/// Lines in the server's own format: local time, thread 0, level, then who is speaking.
#[derive(Debug)]
pub struct ServerLog {
    side: Side,
    progress: ProgressLines,
}

/// Where the progress line every ten seconds goes.
#[derive(Debug)]
pub enum ProgressLines {
    Log,
    Nowhere,
    /// A file or a FIFO with a reader.
    File(File),
}

impl ServerLog {
    pub fn new(side: Side, progress: ProgressLines) -> ServerLog {
        ServerLog { side, progress }
    }

    pub fn error(&self, line: &str) {
        self.print("ERROR", line);
    }

    fn print(&self, level: &str, text: &str) {
        let head = self.head(level);
        for line in text.lines() {
            super::line(&format!("{head}{}", line.trim_start()));
        }
    }

    fn head(&self, level: &str) -> String {
        format!("{} 0 [{level}] Highline {}: ", Local::now().format("%Y-%m-%d %H:%M:%S"), self.side)
    }
}

impl Reporter for ServerLog {
    fn note(&self, line: &str) {
        self.print("Note", line);
    }

    fn warn(&self, line: &str) {
        self.print("Warning", line);
    }

    fn progress(&self, now: &Snapshot) {
        if now.total == 0 {
            return;
        }
        match &self.progress {
            ProgressLines::Log => self.note(&sentence(now)),
            ProgressLines::Nowhere => {}
            // A reader that went away must not end the transfer.
            ProgressLines::File(file) => {
                let line = format!("{}{}\n", self.head("Note"), sentence(now));
                drop((&*file).write_all(line.as_bytes()));
            }
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
    fn a_progress_file_says_when_and_who() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = ServerLog::new(Side::Donor, ProgressLines::File(file.reopen().unwrap()));
        log.progress(&Snapshot { total: 10, done: 5, rate: 1.0, wire_rate: 1.0, ..Snapshot::default() });
        let text = std::fs::read_to_string(file.path()).unwrap();
        let (when, what) = text.split_once(" 0 [Note] ").unwrap();
        assert!(chrono::NaiveDateTime::parse_from_str(when, "%Y-%m-%d %H:%M:%S").is_ok(), "{text}");
        assert_eq!(what, "Highline donor: 50 %, 5 B of 10 B, 1 B/s, 5.0 s left\n");
    }
}
