//! One lane: read, digest, pack and compress on a thread; send and hear acknowledgements on the
//! runtime. Two frames wait in between, so that disk and link work at the same time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::Shared;
use super::queue::Work;
use crate::direct::Pages;
use crate::error::{Error, Kind, Printable, Result};
use crate::lane::{Batch, Codec, Extent, Extents};
use crate::link::Stream;
use crate::manifest::{CHUNK, chunks};
use crate::threads::lock;
use crate::tree::{Content, Found};
use crate::wire::{Ack, FrameHeader, FrameKind, Purpose};

/// How many frames may wait between the thread and the link.
const AHEAD: usize = 2;

/// A frame ready to be sent, and the work that is in it.
#[derive(Debug)]
struct Frame {
    header: FrameHeader,
    payload: Pages,
    work: Work,
}

/// Work that is on its way: the lane's member count with it, and its bytes by length.
#[derive(Debug)]
struct Pending {
    members: u64,
    bytes: u64,
    work: Work,
}

/// Runs a lane until all work of the round is acknowledged. A lane that breaks is dialled again, and its
/// unacknowledged work goes back, until nothing has been acknowledged on any lane for the idle deadline.
pub(super) async fn run(shared: Arc<Shared>, number: u16) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let written = || shared.meter.snapshot().done;
    let mut progress = (written(), Instant::now());
    let mut pause = PAUSE;
    loop {
        let error = match once(&shared, number).await {
            Ok(()) => return Ok(()),
            // It broke after the last acknowledgement.
            Err(_) if shared.queue.is_finished() => return Ok(()),
            Err(Ended::Failed(error)) => return Err(error),
            Err(Ended::Broken(error)) => error,
        };
        if written() != progress.0 {
            progress = (written(), Instant::now());
            pause = PAUSE;
        } else if progress.1.elapsed() > shared.dialler.deadlines.idle {
            return Err(error);
        }
        shared.reporter.warn(&format!("lane {number} broke and is dialled again: {}", error.sentence()));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// How a lane ends before its time.
#[derive(Debug)]
enum Ended {
    /// The link broke; another try may work.
    Broken(Error),
    /// Another try would end the same way.
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        match error.kind() {
            Kind::Disconnected | Kind::Network | Kind::Timeout => Ended::Broken(error),
            _ => Ended::Failed(error),
        }
    }
}

async fn once(shared: &Arc<Shared>, number: u16) -> Result<(), Ended> {
    let (stream, _) = shared.dialler.dial(Purpose::Lane { number }).await?;
    let (reader, writer) = split(stream);
    let (ready, mut frames) = mpsc::channel(AHEAD);
    let spare = Arc::new(Mutex::new(Vec::new()));
    let packer = tokio::task::spawn_blocking({
        let (shared, spare) = (Arc::clone(shared), Arc::clone(&spare));
        move || pack_all(&shared, &spare, &ready)
    });
    let pending = Mutex::new(VecDeque::new());
    let pausing = AtomicBool::new(false);
    let sent = tokio::select! {
        sent = send(shared, writer, &mut frames, &spare, &pending, &pausing) => sent.map_err(Ended::from),
        heard = hear(shared, reader, &pending, &pausing) => heard,
    };
    for left in lock(&pending).drain(..) {
        shared.queue.give_back(left.work);
    }
    // Nor may a frame be lost that was ready and never sent.
    frames.close();
    while let Some(unsent) = frames.recv().await {
        shared.queue.give_back(unsent.work);
    }
    // The packer notices that nobody takes its frames, unless it waits for work: then it may go on
    // waiting without this lane. Why it gave up, if it did, is in `Shared::failure`.
    drop(packer);
    sent
}

fn pack_all(shared: &Shared, spare: &Mutex<Vec<Pages>>, ready: &mpsc::Sender<Frame>) {
    let (mut press, mut scratch) = (Press::default(), Pages::default());
    while let Some(work) = shared.queue.next() {
        if ready.is_closed() {
            shared.queue.give_back(work);
            return;
        }
        let buffer = lock(spare).pop().unwrap_or_default();
        let batch = match pack(shared, &work, Batch::new(buffer), &mut scratch) {
            Ok(batch) => batch,
            Err(error) => {
                lock(&shared.failure).get_or_insert(error);
                shared.queue.give_back(work);
                shared.queue.close();
                return;
            }
        };
        let frame = press.frame(shared, batch, work);
        if let Err(unsent) = ready.blocking_send(frame) {
            shared.queue.give_back(unsent.0.work);
            return;
        }
    }
}

fn pack(shared: &Shared, work: &Work, mut batch: Batch, scratch: &mut Pages) -> Result<Batch> {
    match work {
        Work::Chunk { file, chunk } => pack_chunk(shared, *file, *chunk, &mut batch, scratch)?,
        Work::Small(numbers) => {
            for number in numbers {
                let found = shared.catalog.get(*number);
                match found.entry.content {
                    Content::File { .. } => pack_chunk(shared, *number, 0, &mut batch, scratch)?,
                    _ => batch.push_entry(&found.entry).map_err(|e| unpackable(found, e))?,
                }
            }
        }
    }
    Ok(batch)
}

fn unpackable(found: &Found, error: crate::lane::MemberError) -> Error {
    Error::new(Kind::Io, format!("cannot pack {}", Printable(found.entry.path.as_bytes()))).because(error)
}

fn pack_chunk(shared: &Shared, number: u32, chunk: u64, batch: &mut Batch, scratch: &mut Pages) -> Result<()> {
    let found = shared.catalog.get(number);
    let place = shared.catalog.place(found)?;
    let source = shared.catalog.source(number)?;
    let offset = chunk * CHUNK;
    let len = (found.size() - offset).min(CHUNK);
    let runs = source.data(offset, len, Extents::MAX).map_err(|e| Error::io("cannot read", &place, e))?;
    let run = |(start, len): &(u64, u64)| Extent { start: *start as u32, len: *len as u32 };
    let extents = Extents::new(runs.iter().map(run).collect(), len as u32)
        .map_err(|e| Error::new(Kind::Io, format!("cannot read {}", found.entry.path)).because(e))?;
    let digest = batch.push_chunk(&found.entry, offset, &extents, shared.checksum, |data| {
        source.read_runs(&place, offset, &runs, data, scratch).map_err(PackError::from)
    });
    let digest = digest.map_err(|error| match error {
        PackError::Read(error) => error,
        PackError::Member(error) => unpackable(found, error),
    })?;
    shared.catalog.record(number, chunk, digest, shared.checksum)
}

enum PackError {
    Read(Error),
    Member(crate::lane::MemberError),
}

impl From<Error> for PackError {
    fn from(error: Error) -> PackError {
        PackError::Read(error)
    }
}

impl From<crate::lane::MemberError> for PackError {
    fn from(error: crate::lane::MemberError) -> PackError {
        PackError::Member(error)
    }
}

/// Compresses a lane's batches; after one that does not shrink the next ones are sent as they are, for
/// encrypted tablespaces come by the gigabyte.
#[derive(Default)]
struct Press {
    scratch: Pages,
    skip: u32,
    failed: u32,
}

impl Press {
    /// A batch must shrink by a 32nd, or unpacking it is not worth the trouble.
    const SHRINK: usize = 32;
    const MOST_SKIPPED: u32 = 64;

    fn frame(&mut self, shared: &Shared, batch: Batch, work: Work) -> Frame {
        let members = batch.members();
        let mut payload = batch.into_buffer();
        let raw_len = payload.len();
        let codec = self.press(shared.compression.choose(), &mut payload);
        shared.compression.count(codec.id(), raw_len as u64, bytes_of(shared, &work));
        let header = FrameHeader {
            kind: FrameKind::Batch,
            codec: codec.id(),
            round: shared.round,
            members,
            wire_len: payload.len() as u32,
            raw_len: raw_len as u32,
        };
        Frame { header, payload, work }
    }

    /// Replaces `payload` by its compressed form where that is smaller; says what it is then.
    fn press(&mut self, codec: Codec, payload: &mut Pages) -> Codec {
        if codec == Codec::None {
            return codec;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Codec::None;
        }
        let enough = payload.len() - payload.len() / Self::SHRINK;
        if codec.compress(payload, &mut self.scratch).is_ok() && self.scratch.len() < enough {
            self.failed = 0;
            std::mem::swap(payload, &mut self.scratch);
            return codec;
        }
        self.failed = (self.failed + 1).min(Self::MOST_SKIPPED.ilog2());
        self.skip = 1 << self.failed;
        Codec::None
    }
}

fn bytes_of(shared: &Shared, work: &Work) -> u64 {
    match work {
        Work::Chunk { file, chunk } => (shared.catalog.get(*file).size() - chunk * CHUNK).min(CHUNK),
        Work::Small(numbers) => numbers.iter().map(|number| shared.catalog.get(*number).size()).sum(),
    }
}

async fn send(
    shared: &Shared,
    mut writer: WriteHalf<Stream>,
    frames: &mut mpsc::Receiver<Frame>,
    spare: &Mutex<Vec<Pages>>,
    pending: &Mutex<VecDeque<Pending>>,
    pausing: &AtomicBool,
) -> Result<()> {
    let peer = shared.dialler.peer();
    let lost = |e| Error::net(format!("{peer} closed a lane"), e);
    let mut members = 0u64;
    while let Some(Frame { header, payload, work }) = frames.recv().await {
        members += u64::from(header.members);
        let bytes = bytes_of(shared, &work);
        lock(pending).push_back(Pending { members, bytes, work });
        let length = (FrameHeader::LEN + payload.len()) as u64;
        let wait = shared.pace.as_ref().map(|pace| lock(pace).take(length, Instant::now()));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            pausing.store(true, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
            pausing.store(false, Ordering::Relaxed);
        }
        writer.write_all(&header.encode()).await.map_err(lost)?;
        writer.write_all(&payload).await.map_err(lost)?;
        writer.flush().await.map_err(lost)?;
        shared.meter.add_wire(length);
        lock(spare).push(payload);
    }
    if shared.queue.is_finished() {
        writer.write_all(&FrameHeader::end().encode()).await.map_err(lost)?;
        writer.flush().await.map_err(lost)?;
        writer.shutdown().await.map_err(lost)?;
    }
    Ok(())
}

/// Takes acknowledgements until the lane breaks; never ends well by itself.
async fn hear(
    shared: &Shared,
    mut reader: ReadHalf<Stream>,
    pending: &Mutex<VecDeque<Pending>>,
    pausing: &AtomicBool,
) -> Result<(), Ended> {
    let peer = shared.dialler.peer();
    let idle = shared.dialler.deadlines.idle;
    let mut bytes = [0; Ack::LEN];
    let mut acknowledged = 0;
    loop {
        let mut filled = 0;
        while filled < bytes.len() {
            match tokio::time::timeout(idle, reader.read(&mut bytes[filled..])).await {
                Ok(Ok(0)) => return Err(Error::new(Kind::Disconnected, format!("{peer} closed a lane")).into()),
                Ok(Ok(count)) => filled += count,
                Ok(Err(error)) => return Err(Error::net(format!("{peer} closed a lane"), error).into()),
                Err(_) if lock(pending).is_empty() || pausing.load(Ordering::Relaxed) => {}
                Err(_) => {
                    let what = format!("{peer} has written nothing for {} s", idle.as_secs());
                    let remedy = "see whether its disk or the link stands still; --idle-timeout sets the limit";
                    return Err(Ended::Failed(Error::new(Kind::Timeout, what).remedy(remedy)));
                }
            }
        }
        let ack = Ack::decode(&bytes);
        let mut pending = lock(pending);
        let sent = pending.back().map_or(acknowledged, |last| last.members);
        if ack.round != shared.round || ack.members > sent {
            return Err(Error::new(Kind::Protocol, format!("{peer} acknowledged what was not sent")).into());
        }
        acknowledged = acknowledged.max(ack.members);
        while let Some(front) = pending.front().filter(|front| front.members <= ack.members) {
            shared.meter.add_done(front.bytes);
            shared.compression.acknowledged(front.bytes, Instant::now());
            shared.meter.add_entries(match &front.work {
                Work::Small(numbers) => numbers.len() as u64,
                Work::Chunk { file, chunk } => u64::from(chunk + 1 == chunks(shared.catalog.get(*file).size())),
            });
            shared.queue.done();
            pending.pop_front();
        }
    }
}
