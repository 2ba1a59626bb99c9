//! Where a stream goes: written piece by piece, and ended only when it is known to be whole.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::io::ioctl_fionread;

use super::guard::{Guard, holder};
use super::program::Stream;
use super::{End, Program, is, is_closed, widen};
use crate::error::{Error, Kind, Result};
use crate::manifest::Whole;
use crate::progress::Reporter;

/// The consumer. Dropped before its [`Consumer::end`], its program is killed, and only then is its input closed; where
/// not all of it can be killed, another process keeps that open.
#[derive(Debug)]
pub struct Consumer {
    program: Option<Arc<Program>>,
    guard: Option<Guard>,
    /// Until the end is shown.
    file: Option<Arc<File>>,
    reporter: Arc<dyn Reporter>,
}

/// Its input.
#[derive(Debug)]
pub struct Writer {
    file: Arc<File>,
    program: Option<Arc<Program>>,
}

impl Consumer {
    /// Runs the program, if there is one.
    pub fn start(end: End, reporter: Arc<dyn Reporter>) -> Result<Consumer> {
        let (file, program, guard) = match end {
            End::Open(file) => (file, None, None),
            End::Program(words) => {
                let failed = |e| Error::new(Kind::Io, "cannot make a pipe").because(e);
                let (reads, writes) = std::io::pipe().map_err(failed)?;
                let guard = Guard::start(writes.try_clone().map_err(failed)?.into())?;
                let program = Program::start(&words, Stream::To(reads), Some(guard.group), Arc::clone(&reporter))?;
                (File::from(OwnedFd::from(writes)), Some(Arc::new(program)), Some(guard))
            }
        };
        widen(&file);
        Ok(Consumer { program, guard, file: Some(Arc::new(file)), reporter })
    }

    pub fn program(&self) -> Option<Arc<Program>> {
        self.program.clone()
    }

    /// What writes to it.
    pub fn writer(&self) -> Option<Writer> {
        self.file.as_ref().map(|file| Writer { file: Arc::clone(file), program: self.program.clone() })
    }

    /// Nothing of it may run on.
    pub fn kill(&self) {
        self.program.iter().for_each(|program| program.kill());
    }

    /// Shows the end, and waits until the consumer has taken everything and has ended well. Any [`Writer`] must be gone. Its
    /// program is waited for as long as it takes; it is killed when [`Program::kill`] is called meanwhile.
    ///
    /// # Errors
    /// It has not read everything, or ended badly, or a file could not be synced.
    pub fn end(mut self, _: &Whole) -> Result<()> {
        let file = self.file.as_ref().ok_or_else(written_to)?;
        self.drained(file)?;
        if is(file, FileType::RegularFile) || is(file, FileType::BlockDevice) {
            let failed = |e| Error::new(Kind::Io, "cannot sync what the stream was written to").because(e);
            file.sync_all().map_err(failed)?;
        }
        if let Some(guard) = self.guard.take() {
            guard.dismiss()?;
        }
        let last = self.file.take().and_then(Arc::into_inner).ok_or_else(written_to)?;
        drop(last);
        self.program.as_ref().and_then(|program| program.wait(|| true)).unwrap_or(Ok(()))
    }

    /// Waits until a pipe is empty: otherwise it would be chance whether one that stops reading is noticed.
    fn drained(&self, file: &File) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(2);
        if !is(file, FileType::Fifo) {
            return Ok(());
        }
        while ioctl_fionread(file).is_ok_and(|unread| unread > 0) {
            let ended = self.program.as_ref().and_then(|program| program.outcome());
            if ended.is_some() || is_closed(file) {
                return Err(closed(self.program.as_deref()));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        /// Who was killed is gone by then.
        const PATIENCE: Duration = Duration::from_secs(1);
        let Some(file) = self.file.take() else { return };
        self.kill();
        let Some(program) = &self.program else { return };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if is_closed(&*file) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let name = program.name();
        self.reporter.warn(&match file.try_clone().and_then(|file| holder(file.into())) {
            Ok(()) => format!(
                "{name} or what it started still runs, as another user or outside its process group; its input stays open, so that \
                 it takes nothing for whole: end it by hand"
            ),
            Err(error) => format!(
                "{name} or what it started still runs, as another user or outside its process group; its input cannot be kept open \
                 ({error}), so it may take what it has got for whole"
            ),
        });
    }
}

fn written_to() -> Error {
    Error::new(Kind::Io, "the stream is still being written to")
}

impl Writer {
    /// Blocks while the consumer takes nothing.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (&*self.file).write_all(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => closed(self.program.as_deref()),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Error::new(Kind::NoSpace, "cannot write the stream")
                    .because(error)
                    .remedy("free space there, and start again")
            }
            _ => Error::new(Kind::Io, "cannot write the stream").because(error),
        })
    }
}

/// Why nobody reads any more.
fn closed(program: Option<&Program>) -> Error {
    /// It closes its input a little before it ends.
    const PATIENCE: Duration = Duration::from_millis(500);
    const EARLY: &str = "stopped reading before the end of the stream";
    let Some(program) = program else {
        let what = format!("whoever reads the stream from standard output {EARLY}");
        return Error::new(Kind::Program, what).remedy("see what that program says, and start again");
    };
    let deadline = Instant::now() + PATIENCE;
    match program.wait(|| Instant::now() < deadline) {
        Some(Err(error)) => error,
        Some(Ok(())) => program.failure(&format!("ended with exit status 0, but {EARLY}")),
        None => program.failure(EARLY),
    }
}
