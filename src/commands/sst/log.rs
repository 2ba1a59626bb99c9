//! The server's error log, and the progress reports the server may have asked for.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::error::{Error, Side};
use crate::progress::{LogFormat, ProgressLines, Reporter, ServerLog, Snapshot};
use crate::sst::dialogue::{Dialogue, Line};
use crate::sst::options::ProgressTo;
use crate::threads::lock;

#[derive(Debug)]
pub(super) struct Log {
    lines: ServerLog,
    dialogue: Arc<Mutex<Dialogue<File>>>,
}

impl Log {
    pub(super) fn new(
        side: Side,
        format: LogFormat,
        progress: &ProgressTo,
        dialogue: Arc<Mutex<Dialogue<File>>>,
    ) -> Log {
        let (progress, trouble) = progress_lines(progress);
        let log = Log { lines: ServerLog::new(side, format, progress), dialogue };
        trouble.iter().for_each(|trouble| log.warn(trouble));
        log
    }
}

impl Reporter for Log {
    fn note(&self, line: &str) {
        self.lines.note(line);
    }

    fn warn(&self, line: &str) {
        self.lines.warn(line);
    }

    fn progress(&self, now: &Snapshot) {
        self.lines.progress(now);
        let mut dialogue = lock(&self.dialogue);
        // Only if the server asked; the watch notices a server that is gone.
        let _ = dialogue.say(&Line::Total(now.total)).and_then(|()| dialogue.say(&Line::Complete(now.done)));
    }

    fn interval(&self) -> Duration {
        self.lines.interval()
    }
}

/// Opens a file or FIFO without waiting for a reader; if that fails the lines go to the log.
fn progress_lines(to: &ProgressTo) -> (ProgressLines, Option<String>) {
    use std::os::unix::fs::OpenOptionsExt;
    match to {
        ProgressTo::Log => (ProgressLines::Log, None),
        ProgressTo::Nowhere => (ProgressLines::Nowhere, None),
        ProgressTo::File(path) => {
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            let opened = File::options().append(true).create(true).custom_flags(nonblocking).open(path);
            match opened {
                Ok(file) => (ProgressLines::File(file), None),
                Err(error) => {
                    let error = Error::io("cannot write progress to", path, error);
                    (ProgressLines::Log, Some(error.sentence()))
                }
            }
        }
    }
}
