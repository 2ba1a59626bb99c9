//! One lane: frames come in on the runtime; a thread unpacks, verifies and writes them; each is
//! acknowledged when its bytes are written.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, watch};

use super::ledger::{Ledger, out_of_turn};
use crate::archive::{Codec, CodecError, MemberError, unpack};
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::link::Stream;
use crate::progress::Meter;
use crate::threads::{ended, lock};
use crate::wire::{Ack, FrameHeader, FrameKind};

/// How many frames may wait between the link and the thread.
const AHEAD: usize = 2;

type Spare = Arc<Mutex<Vec<Pages>>>;

/// Runs a lane to its end. A connection that breaks is no failure: the donor dials again and sends
/// once more what was not acknowledged.
///
/// `turn` is the number of the round that control has announced: a frame of the next one may overtake it.
pub(super) async fn run(
    stream: Stream,
    peer: String,
    ledger: Arc<Ledger>,
    meter: Arc<Meter>,
    turn: watch::Receiver<u16>,
) -> Result<()> {
    let (reader, writer) = split(stream);
    let (arrived, frames) = mpsc::channel(AHEAD);
    let (written, acks) = mpsc::channel(64);
    let spare: Spare = Arc::default();
    let finished = |joined| ended("a writing thread", joined);
    let mut writing = tokio::task::spawn_blocking({
        let (spare, meter) = (Arc::clone(&spare), Arc::clone(&meter));
        move || write_all(&ledger, frames, &written, &spare, &meter)
    });
    let moved = tokio::select! {
        moved = hear(reader, &peer, arrived, &spare, &meter, turn) => moved,
        moved = acknowledge(writer, acks) => moved,
        // The receiving end stays until the thread is through or has failed.
        joined = &mut writing => return finished(joined),
    };
    match (moved, finished(writing.await)) {
        (_, Err(error)) => Err(error),
        (Err(error), _) if matches!(error.kind(), Kind::Disconnected | Kind::Network | Kind::Timeout) => Ok(()),
        (moved, Ok(())) => moved,
    }
}

async fn hear(
    mut reader: ReadHalf<Stream>,
    peer: &str,
    arrived: mpsc::Sender<(FrameHeader, Pages)>,
    spare: &Mutex<Vec<Pages>>,
    meter: &Meter,
    mut turn: watch::Receiver<u16>,
) -> Result<()> {
    let lost = |e| Error::net(format!("{peer} closed a lane"), e);
    loop {
        let mut header = [0; FrameHeader::LEN];
        reader.read_exact(&mut header).await.map_err(lost)?;
        let header = FrameHeader::decode(&header)?;
        if header.kind == FrameKind::End {
            return Ok(());
        }
        if header.round > turn.borrow().saturating_add(1) {
            return Err(out_of_turn(header.round));
        }
        if turn.wait_for(|now| *now >= header.round).await.is_err() {
            return Ok(());
        }
        let mut payload = lock(spare).pop().unwrap_or_default();
        payload.resize(header.wire_len as usize, 0);
        reader.read_exact(&mut payload).await.map_err(lost)?;
        meter.add_wire((FrameHeader::LEN + payload.len()) as u64);
        if arrived.send((header, payload)).await.is_err() {
            // The thread has failed; its error is the one that counts.
            return Ok(());
        }
    }
}

async fn acknowledge(mut writer: WriteHalf<Stream>, mut acks: mpsc::Receiver<Ack>) -> Result<()> {
    let lost = |e| Error::net("the donor closed a lane", e);
    while let Some(ack) = acks.recv().await {
        writer.write_all(&ack.encode()).await.map_err(lost)?;
        writer.flush().await.map_err(lost)?;
    }
    std::future::pending().await
}

fn write_all(
    ledger: &Ledger,
    mut frames: mpsc::Receiver<(FrameHeader, Pages)>,
    written: &mpsc::Sender<Ack>,
    spare: &Mutex<Vec<Pages>>,
    meter: &Meter,
) -> Result<()> {
    let mut unpacked = Pages::default();
    let mut members = 0u64;
    while let Some((header, payload)) = frames.blocking_recv() {
        let raw = if header.codec == Codec::None.id() {
            if header.wire_len != header.raw_len {
                return Err(malformed(CodecError::Length));
            }
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
        let ack = Ack { round: header.round, members };
        if written.blocking_send(ack).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn malformed(error: CodecError) -> Error {
    Error::new(Kind::Protocol, "a frame from the donor was refused").because(error)
}

fn refused(error: MemberError) -> Error {
    Error::new(Kind::Protocol, "a frame from the donor was refused").because(error)
}
