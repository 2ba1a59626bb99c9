//! Seeding: files this node has are put beside the staged tree, and the donor gets digests and hints of what was read,
//! so that it need not send what is equal.
//!
//! A seed from the old tree is a copy, by reflink if the filesystem can (`FICLONE`, ioctl_ficlone(2)), otherwise run by
//! run; the old tree is only read. One from an earlier attempt is moved there. A seed becomes the staged file when the
//! donor first mentions its path (`joiner::ledger`).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{fstatvfs, ioctl_ficlone};
use tokio::sync::mpsc;

use super::basis::{Basis, Had, Opened};
use super::ledger::Ledger;
use super::record::Seed;
use super::staged_tree::failure;
use super::target::Target;
use crate::archive::Located;
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::install::drop_kept;
use crate::manifest::{Checksum, FileDigests, chunks};
use crate::progress::Reporter;
use crate::threads::ended;
use crate::tree::{RelPath, Source};
use crate::wire::Message;

/// Threads that read and copy.
const THREADS: usize = 2;
/// Chunks whose digests and hints go into one message: 544 bytes each, and a third more as text.
const PART: usize = 256;
/// How many unusable files the log names.
const NAMED: usize = 5;
/// Bytes that must stay free.
const RESERVE: u64 = 16 << 20;

/// What the donor wants seeded.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) basis: Arc<Basis>,
    /// Indices of files in the basis.
    pub(super) wanted: Vec<u32>,
    pub(super) checksum: Checksum,
    /// Of the hints.
    pub(super) seed: u64,
    /// Files that do not become part of the new tree must make room for it.
    pub(super) tight: bool,
}

impl Order {
    /// Where the wanted files are.
    pub(super) fn places(&self) -> HashSet<PathBuf> {
        let wanted = self.wanted.iter().filter_map(|number| self.basis.get(*number));
        wanted.map(|had| self.basis.place(had)).collect()
    }
}

/// Seeding in progress. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Seeding {
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Message>,
}

#[derive(Debug)]
struct Shared {
    order: Order,
    ledger: Arc<Ledger>,
    reporter: Arc<dyn Reporter>,
    next: AtomicUsize,
    stopped: AtomicBool,
    /// Bytes read.
    read: AtomicU64,
    /// Files that could not be used.
    failed: AtomicUsize,
}

/// An open file and its place among the seeds.
#[derive(Debug)]
struct Prepared {
    name: OsString,
    source: Source,
    /// Where to copy it, unless it is there already.
    copy: Option<Target>,
}

/// Why a file cannot be a seed.
#[derive(Debug)]
enum Failed {
    /// This one cannot be used.
    This(Error),
    /// None can be used any more.
    All(Option<Error>),
}

impl Drop for Seeding {
    fn drop(&mut self) {
        // First, so that a thread that finds itself stopped can tell a donor that gives up from a transfer that ends.
        self.messages.close();
        self.stop();
    }
}

impl Seeding {
    pub(super) fn start(order: Order, ledger: Arc<Ledger>, reporter: Arc<dyn Reporter>) -> Seeding {
        let (tell, messages) = mpsc::channel(4);
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (read, failed) = (AtomicU64::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { order, ledger, reporter, next, stopped, read, failed });
        drop(tokio::task::spawn_blocking({
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
                // Before the donor sends what replaces it. After a failed transfer it stays for the next one.
                if shared.order.tight
                    && !tell.is_closed()
                    && let Err(error) = drop_kept(shared.order.basis.roots())
                {
                    shared
                        .reporter
                        .warn(&format!("old data that is not reused could not be removed: {}", error.sentence()));
                }
                let _ = tell.blocking_send(Message::SeedsOver);
            }
        }));
        Seeding { shared, messages }
    }

    /// The next message for the donor; pending forever after the last. Cancel-safe.
    pub(super) async fn next(&mut self) -> Message {
        match self.messages.recv().await {
            Some(message) => message,
            None => std::future::pending().await,
        }
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.shared.read.load(Ordering::Relaxed)
    }

    /// Starts no more files.
    pub(super) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.ledger.is_closed()
    }

    fn work(&self, tell: &mpsc::Sender<Message>) {
        while !self.is_over()
            && let Some(&number) = self.order.wanted.get(self.next.fetch_add(1, Ordering::Relaxed))
            && let Some(had) = self.order.basis.get(number)
        {
            match self.prepare(number, had).and_then(|prepared| self.seed(number, had, prepared, tell)) {
                Ok(()) => {}
                Err(Failed::This(error)) => {
                    if self.failed.fetch_add(1, Ordering::Relaxed) < NAMED {
                        self.reporter.note(&format!("not reused: {}", error.sentence()));
                    }
                    if tell.blocking_send(Message::NoSeed { file: number }).is_err() {
                        return;
                    }
                }
                Err(Failed::All(error)) => {
                    if let Some(error) = error {
                        self.reporter.note(&format!("no more local data is reused: {}", error.sentence()));
                    }
                    self.stopped.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Opens a file of the basis and gives it a place among the seeds.
    fn prepare(&self, number: u32, had: &Had) -> Result<Prepared, Failed> {
        let (path, tree) = (&had.path, self.ledger.tree());
        let gone = |e: io::Error| Failed::This(Error::io("cannot open", &self.order.basis.place(had), e));
        let Some(kept) = &had.kept else {
            let opened = self.order.basis.open(had).map_err(gone)?;
            let name = OsString::from(number.to_string());
            let made = tree.make_seed(path, &name).map_err(|e| Failed::All(Some(e)))?;
            let prepared = self.copy(path, opened, made);
            if prepared.is_err() {
                let _ = tree.remove_seed(path, &name);
            }
            return prepared.map(|(source, copy)| Prepared { name, source, copy });
        };
        let name = tree.take_kept(kept).map_err(Failed::This)?;
        let name = name.ok_or_else(|| gone(io::Error::other("it is not what it was")))?;
        let file = tree.open_seed(path, &name).map_err(Failed::This)?;
        // Trust nothing that is not on disk: it is read from there.
        rustix::fs::fdatasync(&file).map_err(|e| gone(e.into()))?;
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let opened = Opened::new(file, had.size).map_err(gone)?;
        Ok(Prepared { name, source: opened.source(), copy: None })
    }

    /// What to read, and where to write it: nowhere if the filesystem made a clone.
    fn copy(&self, path: &RelPath, opened: Opened, made: File) -> Result<(Source, Option<Target>), Failed> {
        if ioctl_ficlone(&made, &opened.file).is_ok() {
            // What is hashed is what will be staged.
            return Ok((Opened { file: made, ..opened }.source(), None));
        }
        let (size, allocated) = (opened.size, opened.allocated);
        let cannot = |e: rustix::io::Errno| Failed::All(Some(failure("cannot write a copy of", path, e)));
        let stat = fstatvfs(&made).map_err(cannot)?;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < allocated.saturating_add(RESERVE) {
            let what = format!("a copy of {path} would take room that the transfer may need");
            return Err(Failed::All(Some(Error::new(Kind::NoSpace, what))));
        }
        rustix::fs::ftruncate(&made, size).map_err(cannot)?;
        Ok((opened.source(), Some(Target::new(made, size))))
    }

    fn seed(&self, number: u32, had: &Had, prepared: Prepared, tell: &mpsc::Sender<Message>) -> Result<(), Failed> {
        let (path, name) = (&had.path, prepared.name.clone());
        let copied = had.kept.is_none();
        let done = self.read_all(number, had, prepared, tell).and_then(|(digests, last)| {
            let seed = Seed { name: name.clone(), origin: had.origin, copied, size: had.size, digests };
            if self.ledger.plant(path, seed) {
                return Ok(last);
            }
            Err(Failed::This(Error::new(Kind::Usage, format!("{path} has been sent meanwhile"))))
        });
        match done {
            Ok(last) => self.say(tell, last),
            Err(failed) => {
                // Kept files stay for the next attempt if there is room, in case this one fails.
                if copied || (self.order.tight && !tell.is_closed()) {
                    let _ = self.ledger.tree().remove_seed(path, &name);
                }
                Err(failed)
            }
        }
    }

    /// Reads a file from end to end, copies it if needed, and reports its chunks; returns the last report, which says
    /// that the seed is ready.
    fn read_all(
        &self,
        number: u32,
        had: &Had,
        prepared: Prepared,
        tell: &mpsc::Sender<Message>,
    ) -> Result<(FileDigests, Message), Failed> {
        let Prepared { source, copy, .. } = prepared;
        let place = self.order.basis.place(had);
        let (mut span, mut data) = (Pages::default(), Pages::default());
        let mut all = FileDigests::new(had.size);
        let (mut digests, mut hints, mut from) = (Vec::new(), Vec::new(), 0);
        for chunk in 0..chunks(had.size) {
            if self.is_over() {
                return Err(Failed::All(None));
            }
            if digests.len() == PART * 32 {
                let (digests, hints) = (std::mem::take(&mut digests).into(), std::mem::take(&mut hints).into());
                self.say(tell, Message::Seeded { file: number, from, digests, hints })?;
                from = chunk;
            }
            let located =
                Located::load(&source, &place, (chunk, had.size), &mut data, &mut span).map_err(Failed::This)?;
            if let Some(target) = &copy {
                let written = target.write_runs(&located.extents, &data, located.offset);
                written.map_err(|e| Failed::All(Some(failure("cannot write a copy of", &had.path, e))))?;
            }
            let digest = located.extents.digest(self.order.checksum, &data, located.len);
            all.take(chunk, digest);
            digests.extend_from_slice(digest.as_bytes());
            hints.extend(located.hints(&data, self.order.seed).to_bytes());
            self.read.fetch_add(located.len.into(), Ordering::Relaxed);
        }
        Ok((all, Message::Seeded { file: number, from, digests: digests.into(), hints: hints.into() }))
    }

    fn say(&self, tell: &mpsc::Sender<Message>, message: Message) -> Result<(), Failed> {
        tell.blocking_send(message).map_err(|_| Failed::All(None))
    }
}
