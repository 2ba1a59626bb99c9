//! Reporters without progress: a silent one, and one that remembers, for tests.

use std::sync::Mutex;
use std::time::Duration;

use super::{Reporter, Snapshot};
use crate::threads::lock;

/// Warnings only.
#[derive(Debug)]
pub struct Quiet;

impl Reporter for Quiet {
    fn note(&self, _: &str) {}

    fn warn(&self, line: &str) {
        super::line(&format!("highline: warning: {line}"));
    }

    fn progress(&self, _: &Snapshot) {}

    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

/// Keeps every line, for tests.
#[derive(Debug, Default)]
pub struct Recorder {
    lines: Mutex<Vec<String>>,
}

impl Recorder {
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    fn keep(&self, line: String) {
        lock(&self.lines).push(line);
    }
}

impl Reporter for Recorder {
    fn note(&self, line: &str) {
        self.keep(line.to_owned());
    }

    fn warn(&self, line: &str) {
        self.keep(format!("warning: {line}"));
    }

    fn progress(&self, _: &Snapshot) {}

    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }
}
