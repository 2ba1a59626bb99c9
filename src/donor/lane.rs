//! One lane: frames are packed on a thread ([`super::pack`]); here they are sent, and acknowledgements heard, on the
//! runtime. Two frames wait in between, so that disk and link work at the same time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::pack::{Frame, bytes_of, pack_all};
use super::queue::Work;
use super::transfer::{Round, Transfer};
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::link::Stream;
use crate::manifest::chunks;
use crate::threads::lock;
use crate::wire::{Ack, FrameHeader, Purpose};

/// How many frames may wait between the thread and the link.
const AHEAD: usize = 2;

/// Work that is on its way: the lane's member count with it, and its bytes by length.
#[derive(Debug)]
struct Pending {
    members: u64,
    bytes: u64,
    round: Arc<Round>,
    work: Work,
}

/// Runs a lane until the last round is over. A lane that breaks is dialled again, and its unacknowledged work goes
/// back, until nothing has been acknowledged on any lane for the idle deadline.
pub(super) async fn run(transfer: Arc<Transfer>, number: u16) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let written = || transfer.meter.snapshot().done;
    let mut progress = (written(), Instant::now());
    let mut pause = PAUSE;
    loop {
        let error = match once(&transfer, number).await {
            Ok(()) => return Ok(()),
            // It broke after the last acknowledgement.
            Err(_) if transfer.rounds.is_closed() => return Ok(()),
            Err(Ended::Failed(error)) => return Err(error),
            Err(Ended::Broken(error)) => error,
        };
        if written() != progress.0 {
            progress = (written(), Instant::now());
            pause = PAUSE;
        } else if progress.1.elapsed() > transfer.dialer.deadlines.idle {
            return Err(error);
        }
        transfer.reporter.warn(&format!("lane {number} broke and is dialled again: {}", error.sentence()));
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

async fn once(transfer: &Arc<Transfer>, number: u16) -> Result<(), Ended> {
    let (stream, _) = transfer.dialer.dial(Purpose::Lane { number }).await?;
    let (reader, writer) = split(stream);
    let (ready, mut frames) = mpsc::channel(AHEAD);
    let spare = Arc::new(Mutex::new(Vec::new()));
    let packer = tokio::task::spawn_blocking({
        let (transfer, spare) = (Arc::clone(transfer), Arc::clone(&spare));
        move || pack_all(&transfer, &spare, &ready)
    });
    let pending = Mutex::new(VecDeque::new());
    let pausing = AtomicBool::new(false);
    let sent = tokio::select! {
        sent = send(transfer, writer, &mut frames, &spare, &pending, &pausing) => sent.map_err(Ended::from),
        heard = hear(transfer, reader, &pending, &pausing) => heard,
    };
    for left in lock(&pending).drain(..) {
        left.round.queue.give_back(left.work);
    }
    // Nor may a frame be lost that was ready and never sent.
    frames.close();
    while let Some(unsent) = frames.recv().await {
        unsent.round.queue.give_back(unsent.work);
    }
    // The packer notices that nobody takes its frames, unless it waits for work: then it may go on
    // waiting without this lane. Why it gave up, if it did, is in `Rounds::failure`.
    drop(packer);
    sent
}

async fn send(
    transfer: &Transfer,
    mut writer: WriteHalf<Stream>,
    frames: &mut mpsc::Receiver<Frame>,
    spare: &Mutex<Vec<Pages>>,
    pending: &Mutex<VecDeque<Pending>>,
    pausing: &AtomicBool,
) -> Result<()> {
    let peer = transfer.dialer.peer();
    let lost = |e| Error::net(format!("{peer} closed a lane"), e);
    let mut members = 0u64;
    while let Some(Frame { header, payload, round, work }) = frames.recv().await {
        members += u64::from(header.members);
        let bytes = bytes_of(&round, &work);
        let paced = round.paced;
        lock(pending).push_back(Pending { members, bytes, round, work });
        let length = (FrameHeader::LEN + payload.len()) as u64;
        let wait = transfer.pace.as_ref().filter(|_| paced).map(|pace| lock(pace).take(length, Instant::now()));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            pausing.store(true, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
            pausing.store(false, Ordering::Relaxed);
        }
        writer.write_all(&header.encode()).await.map_err(lost)?;
        writer.write_all(&payload).await.map_err(lost)?;
        writer.flush().await.map_err(lost)?;
        transfer.meter.add_wire(length);
        lock(spare).push(payload);
    }
    if transfer.rounds.is_closed() {
        writer.write_all(&FrameHeader::end().encode()).await.map_err(lost)?;
        writer.flush().await.map_err(lost)?;
        writer.shutdown().await.map_err(lost)?;
    }
    Ok(())
}

/// Takes acknowledgements until the lane breaks; never ends well by itself.
async fn hear(
    transfer: &Transfer,
    mut reader: ReadHalf<Stream>,
    pending: &Mutex<VecDeque<Pending>>,
    pausing: &AtomicBool,
) -> Result<(), Ended> {
    let peer = transfer.dialer.peer();
    let idle = transfer.dialer.deadlines.idle;
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
        let round = pending.back().map_or(ack.round, |last| last.round.number);
        if ack.round > round || ack.members > sent {
            return Err(Error::new(Kind::Protocol, format!("{peer} acknowledged what was not sent")).into());
        }
        acknowledged = acknowledged.max(ack.members);
        while let Some(front) = pending.front().filter(|front| front.members <= ack.members) {
            transfer.meter.add_done(front.bytes);
            transfer.compression.acknowledged(front.bytes, Instant::now());
            transfer.meter.add_entries(match &front.work {
                Work::Small(numbers) => numbers.len() as u64,
                Work::Chunk { file, chunk } => u64::from(chunk + 1 == chunks(front.round.catalog.get(*file).size())),
            });
            front.round.queue.done();
            pending.pop_front();
        }
    }
}
