//! Seeding: files that this node has are put beside the staged tree, with digests and hints of what was read of them, so
//! that the donor need not send what is equal.
//!
//! A seed is a copy, by reflink where the filesystem can (`FICLONE`, ioctl_ficlone(2)), else run by run; the old tree is
//! only read. Each becomes the staged file when the donor first speaks of that path (`joiner::ledger`).

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{fstatvfs, ioctl_ficlone};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::basis::Basis;
use super::ledger::{Ledger, Seed};
use super::target::Target;
use crate::archive::{Located, PageHints};
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Checksum, FileDigests, chunks};
use crate::progress::Reporter;
use crate::threads::ended;
use crate::tree::{RelPath, Source};
use crate::wire::Message;

/// Threads that read and copy.
const THREADS: usize = 2;
/// Chunks whose digests and hints go into one message: 544 bytes each, and a third more as text.
const PART: usize = 256;
/// Room that must stay free.
const RESERVE: u64 = 16 << 20;

/// What the donor wants seeded.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) basis: Arc<Basis>,
    /// Numbers of files of the basis.
    pub(super) wanted: Vec<u32>,
    pub(super) checksum: Checksum,
    /// Of the hints.
    pub(super) seed: u64,
}

/// Seeding that is under way. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Seeding {
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Message>,
    job: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    order: Order,
    ledger: Arc<Ledger>,
    reporter: Arc<dyn Reporter>,
    next: AtomicUsize,
    stopped: AtomicBool,
    /// Bytes that were read.
    read: AtomicU64,
}

/// Why a file is no seed.
#[derive(Debug)]
enum Failed {
    /// This one cannot be had.
    This(Error),
    /// Nor can others.
    All(Option<Error>),
}

impl Drop for Seeding {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Seeding {
    pub(super) fn start(order: Order, ledger: Arc<Ledger>, reporter: Arc<dyn Reporter>) -> Seeding {
        let (tell, messages) = mpsc::channel(4);
        let (next, stopped, read) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicU64::new(0));
        let shared = Arc::new(Shared { order, ledger, reporter, next, stopped, read });
        let job = tokio::task::spawn_blocking({
            let shared = Arc::clone(&shared);
            move || {
                std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| shared.work(&tell))).collect();
                    for thread in threads {
                        if let Err(error) = ended("a seeding thread", thread.join().map(Ok)) {
                            shared.reporter.warn(&error.sentence());
                        }
                    }
                });
                let _ = tell.blocking_send(Message::SeedsOver);
            }
        });
        Seeding { shared, messages, job: Some(job) }
    }

    /// The next message for the donor; never any more after the last. Cancel-safe.
    pub(super) async fn next(&mut self) -> Message {
        match self.messages.recv().await {
            Some(message) => message,
            None => std::future::pending().await,
        }
    }

    /// Bytes that were read so far.
    pub(super) fn read(&self) -> u64 {
        self.shared.read.load(Ordering::Relaxed)
    }

    /// No more files are begun.
    pub(super) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Stops, and returns when nothing is written any more.
    pub(super) async fn end(mut self) {
        self.stop();
        self.messages.close();
        if let Some(job) = self.job.take() {
            let _ = job.await;
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.ledger.is_closed()
    }

    fn work(&self, tell: &mpsc::Sender<Message>) {
        while !self.is_over()
            && let Some(&number) = self.order.wanted.get(self.next.fetch_add(1, Ordering::Relaxed))
            && let Some((path, size)) = self.order.basis.get(number)
        {
            match self.seed(number, path, *size, tell) {
                Ok(()) => {}
                Err(Failed::This(error)) => {
                    self.reporter.note(&format!("not reused: {}", error.sentence()));
                    if tell.blocking_send(Message::NoSeed { file: number }).is_err() {
                        return;
                    }
                }
                Err(Failed::All(error)) => {
                    if let Some(error) = error {
                        self.reporter.note(&format!("no more of the old data is reused: {}", error.sentence()));
                    }
                    self.stopped.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn seed(&self, number: u32, path: &RelPath, size: u64, tell: &mpsc::Sender<Message>) -> Result<(), Failed> {
        let place = self.order.basis.place(path);
        let opened =
            self.order.basis.open(path, size).map_err(|e| Failed::This(Error::io("cannot open", &place, e)))?;
        let tree = self.ledger.tree();
        let made = tree.make_seed(path, number).map_err(|e| Failed::All(Some(e)))?;
        let done = self.fill(number, path, opened, made, tell);
        if done.is_err() {
            let _ = tree.remove_seed(path, number);
        }
        done
    }

    fn fill(
        &self,
        number: u32,
        path: &RelPath,
        opened: super::basis::Opened,
        made: File,
        tell: &mpsc::Sender<Message>,
    ) -> Result<(), Failed> {
        let place = self.order.basis.place(path);
        let (size, allocated) = (opened.size, opened.allocated);
        let broken = |e: Error| Failed::All(Some(e));
        let cannot = |e: rustix::io::Errno| broken(super::staged_tree::failure("cannot write a copy of", path, e));
        let (source, copy) = if ioctl_ficlone(&made, &opened.file).is_ok() {
            // What is hashed is what will be staged.
            (Source::still(made, size, allocated < size), None)
        } else {
            let stat = fstatvfs(&made).map_err(cannot)?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free < allocated.saturating_add(RESERVE) {
                let what = format!("{path} needs room that the transfer may need more");
                return Err(broken(Error::new(Kind::NoSpace, what)));
            }
            rustix::fs::ftruncate(&made, size).map_err(cannot)?;
            (opened.source(), Some(Target::new(made, size)))
        };
        let checksum = self.order.checksum;
        let (mut span, mut data) = (Pages::default(), Pages::default());
        let mut all = FileDigests::new(size);
        let (mut digests, mut hints, mut from) = (Vec::new(), Vec::new(), 0);
        for chunk in 0..chunks(size) {
            if self.is_over() {
                return Err(Failed::All(None));
            }
            if digests.len() == PART * 32 {
                let (digests, hints) = (std::mem::take(&mut digests).into(), std::mem::take(&mut hints).into());
                self.say(tell, Message::Seeded { file: number, from, digests, hints })?;
                from = chunk;
            }
            let located = Located::new(&source, &place, chunk, size, &mut span).map_err(Failed::This)?;
            data.resize(located.extents.data_len(), 0);
            located.read(&source, &place, &mut data, &mut span).map_err(Failed::This)?;
            let digest = located.extents.digest(checksum, &data, located.len);
            if let Some(target) = &copy {
                let mut rest = data.as_slice();
                for run in located.extents.iter() {
                    let (now, later) = rest.split_at(run.len as usize);
                    target
                        .write(now, located.offset + u64::from(run.start))
                        .map_err(|e| broken(super::staged_tree::failure("cannot write a copy of", path, e)))?;
                    rest = later;
                }
            }
            all.take(chunk, digest);
            digests.extend_from_slice(digest.as_bytes());
            hints.extend(PageHints::of_runs(&located.extents, &data, located.len, self.order.seed).to_bytes());
            self.read.fetch_add(located.len.into(), Ordering::Relaxed);
        }
        drop((source, copy));
        if !self.ledger.plant(path, Seed { number, size, digests: all }) {
            return Err(Failed::This(Error::new(Kind::Usage, format!("{path} was sent meanwhile"))));
        }
        let (digests, hints) = (digests.into(), hints.into());
        self.say(tell, Message::Seeded { file: number, from, digests, hints })
    }

    fn say(&self, tell: &mpsc::Sender<Message>, message: Message) -> Result<(), Failed> {
        tell.blocking_send(message).map_err(|_| Failed::All(None))
    }
}
