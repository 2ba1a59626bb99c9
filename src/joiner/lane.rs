//! One lane: frames come in on the runtime; a thread unpacks, verifies and writes them; each is
//! acknowledged when its bytes are written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot, watch};

use super::ledger::{Ledger, ROUNDS};
use super::outlet::{Delivered, Outlet};
use super::refusal::out_of_turn;
use crate::archive::{Codec, CodecError, MemberError, unpack};
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::link::Stream;
use crate::progress::Meter;
use crate::threads::{ended, lock, or_never};
use crate::wire::{Ack, Answer, FrameHeader, FrameKind};

/// How many frames may wait between the link and the thread.
const AHEAD: usize = 2;

type Spare = Arc<Mutex<Vec<Pages>>>;

/// What all lanes share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) sink: Sink,
    pub(super) meter: Arc<Meter>,
    /// Frames that have arrived but are not yet written.
    pub(super) in_hand: Arc<AtomicU64>,
    /// The round that control has announced: a frame of a later round may arrive before its announcement.
    pub(super) turn: watch::Receiver<u16>,
}

/// Where what lanes bring comes together.
#[derive(Clone, Debug)]
pub(super) enum Sink {
    Tree(Arc<Ledger>),
    Pipe(Arc<Outlet>),
}

impl Sink {
    /// The kind of frames that it takes.
    fn takes(&self) -> FrameKind {
        match self {
            Sink::Tree(_) => FrameKind::Batch,
            Sink::Pipe(_) => FrameKind::Piece,
        }
    }
}

/// Counts a frame as in hand until it is dropped.
struct InHand(Arc<AtomicU64>);

impl InHand {
    fn new(count: &Arc<AtomicU64>) -> InHand {
        count.fetch_add(1, Ordering::Relaxed);
        InHand(Arc::clone(count))
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Arrived = (FrameHeader, Pages, InHand);

/// Runs a lane to its end. A broken connection is not a failure: the donor dials again and resends what was not
/// acknowledged.
///
/// It also ends when the other half of `replaced` is dropped: then the donor has dialled it again.
pub(super) async fn run(stream: Stream, peer: String, shared: Shared, replaced: oneshot::Receiver<()>) -> Result<()> {
    let Shared { sink, meter, in_hand, turn } = shared;
    let (reader, writer) = split(stream);
    let (arrived, frames) = mpsc::channel(AHEAD);
    let (written, answers) = mpsc::channel(64);
    let (spare, delivered): (Spare, _) = match &sink {
        Sink::Tree(_) => (Arc::default(), Delivered::new(0)),
        Sink::Pipe(outlet) => (Arc::clone(&outlet.spare), outlet.delivered()),
    };
    let delivered = Arc::new(delivered);
    let finished = |joined| ended("a writing thread", joined);
    let takes = sink.takes();
    let acknowledged = or_never(match &sink {
        Sink::Tree(_) => None,
        Sink::Pipe(outlet) => Some(acknowledge(outlet.written(), Arc::clone(&delivered), written.clone())),
    });
    let mut writing = tokio::task::spawn_blocking({
        let (spare, meter, said) = (Arc::clone(&spare), Arc::clone(&meter), written.clone());
        move || match sink {
            Sink::Tree(ledger) => write_all(&ledger, frames, &said, &spare, &meter),
            Sink::Pipe(outlet) => hand_over(&outlet, frames, &delivered),
        }
    });
    let moved = tokio::select! {
        moved = hear(Counted::new(reader, meter, written), &peer, arrived, &spare, (&in_hand, takes), turn) => moved,
        _ = replaced => Ok(()),
        moved = answer(writer, answers) => moved,
        () = acknowledged => Ok(()),
        // The receiving end stays until the thread has finished or failed.
        joined = &mut writing => return finished(joined),
    };
    match (moved, finished(writing.await)) {
        (_, Err(error)) => Err(error),
        (Err(error), _) if error.is_of_the_line() => Ok(()),
        (moved, Ok(())) => moved,
    }
}

/// A lane's reading half, which counts bytes as they arrive: on a slow link a frame takes long.
struct Counted {
    reader: ReadHalf<Stream>,
    meter: Arc<Meter>,
    answers: mpsc::Sender<Answer>,
    bytes: u64,
    told: Instant,
}

impl Counted {
    /// The shortest time between two reports to the donor.
    const INTERVAL: Duration = Duration::from_millis(200);

    fn new(reader: ReadHalf<Stream>, meter: Arc<Meter>, answers: mpsc::Sender<Answer>) -> Counted {
        Counted { reader, meter, answers, bytes: 0, told: Instant::now() }
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.reader.read(rest).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.meter.add_wire(count as u64);
            self.bytes += count as u64;
            rest = rest.split_at_mut_checked(count).map_or(&mut [], |(_, rest)| rest);
            if self.told.elapsed() >= Self::INTERVAL {
                self.told = Instant::now();
                // If answers are waiting already, they say more.
                let _ = self.answers.try_send(Answer::Arrived(self.bytes));
            }
        }
        Ok(())
    }
}

async fn hear(
    mut reader: Counted,
    peer: &str,
    arrived: mpsc::Sender<Arrived>,
    spare: &Mutex<Vec<Pages>>,
    (in_hand, takes): (&Arc<AtomicU64>, FrameKind),
    mut turn: watch::Receiver<u16>,
) -> Result<()> {
    let lost = |e| Error::net(format!("{peer} closed a lane"), e);
    loop {
        let mut header = [0; FrameHeader::LEN];
        reader.fill(&mut header).await.map_err(lost)?;
        let header = FrameHeader::decode(&header)?;
        if header.kind == FrameKind::End {
            return Ok(());
        }
        if header.kind != takes {
            return Err(Error::new(Kind::Protocol, format!("{peer} sent what does not belong to this transfer")));
        }
        if header.round >= ROUNDS {
            return Err(out_of_turn(header.round));
        }
        // Control may have been cut, so rounds with nothing to acknowledge may have passed unannounced.
        if turn.wait_for(|now| *now >= header.round).await.is_err() {
            return Ok(());
        }
        let mut payload = lock(spare).pop().unwrap_or_default();
        payload.resize(header.wire_len as usize, 0);
        reader.fill(&mut payload).await.map_err(lost)?;
        if arrived.send((header, payload, InHand::new(in_hand))).await.is_err() {
            // The thread has failed; its own error is the one that counts.
            return Ok(());
        }
    }
}

async fn answer(mut writer: WriteHalf<Stream>, mut answers: mpsc::Receiver<Answer>) -> Result<()> {
    let lost = |e| Error::net("the donor closed a lane", e);
    while let Some(answer) = answers.recv().await {
        writer.write_all(&answer.encode()).await.map_err(lost)?;
        writer.flush().await.map_err(lost)?;
    }
    std::future::pending().await
}

fn write_all(
    ledger: &Ledger,
    mut frames: mpsc::Receiver<Arrived>,
    written: &mpsc::Sender<Answer>,
    spare: &Mutex<Vec<Pages>>,
    meter: &Meter,
) -> Result<()> {
    let mut unpacked = Pages::default();
    let mut members = 0u64;
    while let Some((header, payload, _in_hand)) = frames.blocking_recv() {
        let raw = if is_raw(&header)? {
            payload.as_slice()
        } else {
            Codec::decompress(header.codec, &payload, header.raw_len as usize, &mut unpacked).map_err(malformed)?;
            unpacked.as_slice()
        };
        for member in unpack(raw, header.members).map_err(refused)? {
            meter.add_done(ledger.take(header.round, member)?);
            meter.add_entries(1);
        }
        members += u64::from(header.members);
        lock(spare).push(payload);
        let ack = Answer::Ack(Ack { round: header.round, members });
        if written.blocking_send(ack).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a frame's payload came as it is.
fn is_raw(header: &FrameHeader) -> Result<bool> {
    let raw = header.codec == Codec::None.id();
    if raw && header.wire_len != header.raw_len { Err(malformed(CodecError::Length)) } else { Ok(raw) }
}

/// Unpacks pieces of a stream and hands them over, whichever is next.
fn hand_over(outlet: &Outlet, mut frames: mpsc::Receiver<Arrived>, delivered: &Delivered) -> Result<()> {
    while let Some((header, payload, _in_hand)) = frames.blocking_recv() {
        let raw = if is_raw(&header)? {
            payload
        } else {
            let mut raw = lock(&outlet.spare).pop().unwrap_or_default();
            Codec::decompress(header.codec, &payload, header.raw_len as usize, &mut raw).map_err(malformed)?;
            lock(&outlet.spare).push(payload);
            raw
        };
        delivered.push(outlet.take(raw)?)?;
    }
    Ok(())
}

/// Acknowledges a lane's pieces once they are written.
async fn acknowledge(mut written: watch::Receiver<u64>, delivered: Arc<Delivered>, answers: mpsc::Sender<Answer>) {
    let mut members = 0;
    while let Some(count) = delivered.written(&mut written).await {
        members += count;
        if answers.send(Answer::Ack(Ack { round: 0, members })).await.is_err() {
            return;
        }
    }
}

fn malformed(error: CodecError) -> Error {
    Error::new(Kind::Protocol, "a frame from the donor was refused").because(error)
}

fn refused(error: MemberError) -> Error {
    Error::new(Kind::Protocol, "a frame from the donor was refused").because(error)
}
