//! Progress as lines in the database server's error log, which is where a method's standard error goes.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use chrono::Local;

use super::lines::sentence;
use super::{Reporter, Snapshot};
use crate::error::Side;

/// Lines in the format that the server's log has, or that the server makes its log from.
#[derive(Debug)]
pub struct ServerLog {
    side: Side,
    format: LogFormat,
    progress: ProgressLines,
}

/// Where standard error leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Into the error log itself: local time, thread 0, level, then who speaks.
    Log,
    /// To a server that reads it line by line (`sst_logger_thread`, Percona's `sql/wsrep_sst.cc`): the first four characters
    /// are the level, and it writes the time itself. Its buffer has 1024 bytes.
    Levels,
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
    /// The most bytes of a text in one line of [`LogFormat::Levels`], so that no line is cut in two.
    const LONGEST: usize = 960;

    pub fn new(side: Side, format: LogFormat, progress: ProgressLines) -> ServerLog {
        ServerLog { side, format, progress }
    }

    pub fn error(&self, line: &str) {
        self.print("ERROR", line);
    }

    fn print(&self, level: &str, text: &str) {
        self.lines(level, text).iter().for_each(|line| super::line(line));
    }

    fn lines(&self, level: &str, text: &str) -> Vec<String> {
        let lines = text.lines().map(str::trim_start);
        if self.format == LogFormat::Log {
            let head = self.head(level);
            return lines.map(|line| format!("{head}{line}")).collect();
        }
        let level = match level {
            "ERROR" => "ERR",
            "Warning" => "WRN",
            _ => "INF",
        };
        let pieces = lines.flat_map(|line| pieces(line, Self::LONGEST));
        pieces.map(|piece| format!("{level}:Highline {}: {piece}", self.side)).collect()
    }

    fn head(&self, level: &str) -> String {
        format!("{} 0 [{level}] Highline {}: ", Local::now().format("%Y-%m-%d %H:%M:%S"), self.side)
    }
}

/// A text in pieces of at most `longest` bytes, which is more than a character has.
fn pieces(mut text: &str, longest: usize) -> Vec<&str> {
    let mut found = Vec::new();
    while text.len() > longest {
        let at = (1..=longest).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
        let (piece, rest) = text.split_at(at);
        found.push(piece);
        text = rest;
    }
    found.push(text);
    found
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
        let log = ServerLog::new(Side::Donor, LogFormat::Levels, ProgressLines::File(file.reopen().unwrap()));
        log.progress(&Snapshot { total: 10, done: 5, rate: 1.0, wire_rate: 1.0, ..Snapshot::default() });
        let text = std::fs::read_to_string(file.path()).unwrap();
        let (when, what) = text.split_once(" 0 [Note] ").unwrap();
        assert!(chrono::NaiveDateTime::parse_from_str(when, "%Y-%m-%d %H:%M:%S").is_ok(), "{text}");
        assert_eq!(what, "Highline donor: 50 %, 5 B of 10 B, 1 B/s, 5.0 s left\n");
    }

    #[test]
    fn a_server_that_reads_levels_gets_them_on_every_line() {
        let log = ServerLog::new(Side::Joiner, LogFormat::Levels, ProgressLines::Nowhere);
        assert_eq!(
            log.lines("ERROR", "it failed\n  remedy: try again"),
            ["ERR:Highline joiner: it failed", "ERR:Highline joiner: remedy: try again"]
        );
        assert_eq!(log.lines("Warning", "so"), ["WRN:Highline joiner: so"]);
        let long = log.lines("Note", &"ä".repeat(1000));
        assert_eq!(long.len(), 3);
        assert!(long.iter().all(|line| line.starts_with("INF:Highline joiner: ä") && line.len() < 1023));
    }
}
