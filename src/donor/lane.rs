//! One lane: frames are packed on a thread ([`super::pack`]); here, on the runtime, they are sent and acknowledgements
//! received. Two frames wait in between, so that disk and link work at the same time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::pack::{Frame, bytes_of, pack_all};
use super::queue::Work;
use super::transfer::{Round, Transfer};
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::link::Stream;
use crate::manifest::chunks;
use crate::threads::{self, lock};
use crate::wire::{Answer, FrameHeader, Purpose};

/// How many frames may wait between the thread and the link.
const AHEAD: usize = 2;

/// How many unacknowledged bytes one lane may have in flight: as much as a long fast link holds and no more, so that a
/// joiner that acknowledges nothing is noticed soon. Pieces of a stream do not count: they are acknowledged in its order, so
/// the one that all wait for must not wait for its lane. The queue's own window bounds them.
const WINDOW: u64 = 64 << 20;
/// How many bytes are written at once.
const PIECE: usize = 256 << 10;

/// Work in flight: the lane's member count including it, its bytes by length and on the wire.
#[derive(Debug)]
struct Pending {
    members: u64,
    bytes: u64,
    wire: u64,
    round: Arc<Round>,
    work: Work,
}

/// What one connection has in flight.
#[derive(Debug, Default)]
struct Flight {
    pending: Mutex<VecDeque<Pending>>,
    acknowledged: Notify,
    /// Bytes written since the connection began.
    sent: AtomicU64,
}

impl Flight {
    /// What counts against [`WINDOW`].
    fn wire(&self) -> u64 {
        let counts = |pending: &&Pending| !matches!(pending.work, Work::Piece(_));
        lock(&self.pending).iter().filter(counts).map(|pending| pending.wire).sum()
    }
}

/// All lanes of a transfer.
pub(super) struct Lanes {
    pub(super) transfer: Arc<Transfer>,
    pub(super) running: JoinSet<Result<()>>,
}

/// However the transfer ends, packing stops.
impl Drop for Lanes {
    fn drop(&mut self) {
        self.transfer.rounds.close();
    }
}

impl Lanes {
    pub(super) fn dial(transfer: Arc<Transfer>, count: u16) -> Lanes {
        let mut running = JoinSet::new();
        for number in 0..count {
            running.spawn(run(Arc::clone(&transfer), number));
        }
        Lanes { transfer, running }
    }

    /// Says goodbye on all of them, once everything is acknowledged.
    pub(super) async fn farewell(&mut self) {
        /// How long they may take to end.
        const PATIENCE: Duration = Duration::from_secs(1);
        self.transfer.rounds.close();
        let goodbye = async { while self.running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(PATIENCE, goodbye).await;
    }
}

/// Runs a lane until the last round is over. If it breaks it is dialled again and its unacknowledged work goes back to
/// the queue, until the clock runs out.
async fn run(transfer: Arc<Transfer>, number: u16) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let written = || transfer.meter.snapshot().done;
    let mut before = written();
    let mut pause = PAUSE;
    loop {
        let error = match once(&transfer, number).await {
            Ok(()) => return Ok(()),
            // It broke after the last acknowledgement.
            Err(_) if transfer.rounds.is_closed() => return Ok(()),
            Err(Ended::Failed(error)) => return Err(error),
            Err(Ended::Broken(error)) => error,
        };
        if written() != before {
            (before, pause) = (written(), PAUSE);
        }
        let (first, why) = (transfer.breaks.fetch_add(1, Ordering::Relaxed) == 0, error.sentence());
        *lock(&transfer.broken) = Some(error);
        tokio::time::sleep(pause).await;
        // If the peer has failed, control has said why by now and this lane has ended. One cut gives one line.
        if first {
            let more = transfer.breaks.swap(0, Ordering::Relaxed).saturating_sub(1);
            let more = if more == 0 { String::new() } else { format!(", and {more} more with it") };
            transfer.reporter.warn(&format!("lane {number} broke and is being dialled again{more}: {why}"));
        }
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// How a lane ends early.
#[derive(Debug)]
enum Ended {
    /// The link broke; another try may work.
    Broken(Error),
    /// Another try would end the same way.
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        if error.is_of_the_line() { Ended::Broken(error) } else { Ended::Failed(error) }
    }
}

async fn once(transfer: &Arc<Transfer>, number: u16) -> Result<(), Ended> {
    let (stream, _) = transfer.dialer.dial(Purpose::Lane { number }).await?;
    let (reader, writer) = split(stream);
    let (ready, mut frames) = mpsc::channel(AHEAD);
    let spare = Arc::new(Mutex::new(Vec::new()));
    let packer = tokio::task::spawn_blocking({
        let (transfer, spare) = (Arc::clone(transfer), Arc::clone(&spare));
        move || pack_all(&transfer, &spare, &ready)
    });
    // The packer notices that nobody takes its frames, unless it is waiting for work; then it may go on waiting without
    // this lane. So its end is awaited separately.
    tokio::spawn(attended(packer, Arc::clone(transfer)));
    let flight = Flight::default();
    let sent = tokio::select! {
        sent = send(transfer, writer, &mut frames, &spare, &flight) => sent.map_err(Ended::from),
        heard = hear(transfer, reader, &flight) => heard,
    };
    for left in lock(&flight.pending).drain(..) {
        transfer.in_flight.fetch_sub(left.wire, Ordering::Relaxed);
        left.round.queue.give_back(left.work);
    }
    // A frame that was ready but never sent must not be lost either.
    frames.close();
    while let Some(unsent) = frames.recv().await {
        unsent.round.queue.give_back(unsent.work);
    }
    sent
}

/// Waits for a packer. If it panics its work is lost, so the round cannot end well.
async fn attended(packer: tokio::task::JoinHandle<()>, transfer: Arc<Transfer>) {
    if let Err(error) = threads::ended("a packing thread", packer.await.map(Ok)) {
        transfer.rounds.fail(error);
    }
}

async fn send(
    transfer: &Transfer,
    mut writer: WriteHalf<Stream>,
    frames: &mut mpsc::Receiver<Frame>,
    spare: &Mutex<Vec<Pages>>,
    flight: &Flight,
) -> Result<()> {
    let peer = transfer.dialer.peer();
    let lost = |e| Error::net(format!("{peer} closed a lane"), e);
    let mut members = 0u64;
    while let Some(Frame { header, payload, round, work }) = frames.recv().await {
        members += u64::from(header.members);
        let (bytes, wire) = (bytes_of(&round, &work), (FrameHeader::LEN + payload.len()) as u64);
        let pace = round.paced.then_some(&transfer.pace);
        let piece = pace.map_or(PIECE, |pace| pace.piece(PIECE));
        transfer.in_flight.fetch_add(wire, Ordering::Relaxed);
        lock(&flight.pending).push_back(Pending { members, bytes, wire, round, work });
        let header = header.encode();
        for piece in [header.as_slice()].into_iter().chain(payload.chunks(piece)) {
            let wait = pace.map_or(Duration::ZERO, |pace| pace.take(piece.len() as u64, Instant::now()));
            // Even a sleep of zero lasts to the end of the millisecond.
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            flight.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            writer.write_all(piece).await.map_err(lost)?;
            transfer.meter.add_wire(piece.len() as u64);
        }
        writer.flush().await.map_err(lost)?;
        lock(spare).push(payload);
        loop {
            let told = flight.acknowledged.notified();
            if flight.wire() < WINDOW {
                break;
            }
            told.await;
        }
    }
    if transfer.rounds.is_closed() {
        writer.write_all(&FrameHeader::end().encode()).await.map_err(lost)?;
        writer.flush().await.map_err(lost)?;
        writer.shutdown().await.map_err(lost)?;
    }
    Ok(())
}

/// Takes acknowledgements until the lane breaks; never returns `Ok`.
async fn hear(transfer: &Transfer, mut reader: ReadHalf<Stream>, flight: &Flight) -> Result<(), Ended> {
    let peer = transfer.dialer.peer();
    let lost = |e| Error::net(format!("{peer} closed a lane"), e);
    let mut bytes = [0; Answer::LEN];
    let not_sent = || Error::new(Kind::Protocol, format!("{peer} acknowledged what was not sent"));
    let (mut acknowledged, mut arrived) = (0, 0);
    loop {
        reader.read_exact(&mut bytes).await.map_err(lost)?;
        let ack = match Answer::decode(&bytes).map_err(Error::from)? {
            Answer::Ack(ack) => ack,
            Answer::Arrived(bytes) if bytes > flight.sent.load(Ordering::Relaxed) => return Err(not_sent().into()),
            Answer::Arrived(bytes) => {
                if bytes > arrived {
                    arrived = bytes;
                    transfer.clock.moved(Instant::now());
                }
                continue;
            }
            Answer::TurnedAway => {
                return Err(Ended::Broken(Error::new(Kind::Busy, format!("{peer} has no room for this lane"))));
            }
        };
        let mut pending = lock(&flight.pending);
        let sent = pending.back().map_or(acknowledged, |last| last.members);
        let round = pending.back().map_or(ack.round, |last| last.round.number);
        if ack.round > round || ack.members > sent {
            return Err(not_sent().into());
        }
        acknowledged = acknowledged.max(ack.members);
        while pending.front().is_some_and(|front| front.members <= ack.members)
            && let Some(front) = pending.pop_front()
        {
            transfer.clock.acknowledged(Instant::now());
            transfer.in_flight.fetch_sub(front.wire, Ordering::Relaxed);
            transfer.acknowledged.fetch_add(front.wire, Ordering::Relaxed);
            lock(&transfer.broken).take();
            transfer.meter.add_done(front.bytes);
            transfer.compression.acknowledged(front.work.weight(front.bytes), Instant::now());
            transfer.meter.add_entries(match &front.work {
                Work::Small(numbers) => numbers.len() as u64,
                Work::Parcel(parcel) => parcel.entries(),
                Work::Piece(_) => 0,
                Work::Chunks { file, first, count } => {
                    u64::from(first + count == chunks(front.round.catalog.get(*file).size()))
                }
            });
            front.round.catalog.acknowledged(&front.work);
            front.round.queue.done();
        }
        flight.acknowledged.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_packer_that_panics_ends_the_transfer_with_an_error() {
        let transfer = Arc::new(Transfer::for_test());
        attended(tokio::task::spawn_blocking(|| {}), Arc::clone(&transfer)).await;
        assert!(transfer.rounds.failure().is_none());
        attended(tokio::task::spawn_blocking(|| panic!("on purpose")), Arc::clone(&transfer)).await;
        assert_eq!(transfer.rounds.failure().unwrap().sentence(), "a packing thread ended unexpectedly");
        assert!(transfer.rounds.next().is_none(), "and nobody waits for what it had");
    }
}
