//! Packing: work becomes frames, on a thread of each lane. Read, digest, pack, compress.

use std::sync::Mutex;

use tokio::sync::mpsc;

use super::compression::BatchCompressor;
use super::queue::Work;
use super::transfer::{Round, Transfer};
use crate::archive::{Batch, Extent, Extents, MemberError};
use crate::direct::Pages;
use crate::error::{Error, Kind, Printable, Result};
use crate::manifest::{CHUNK, Digest, chunks};
use crate::threads::lock;
use crate::tree::{Content, Found};
use crate::wire::{FrameHeader, FrameKind};

/// A frame ready to be sent, and the work that is in it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) header: FrameHeader,
    pub(super) payload: Pages,
    pub(super) work: Work,
}

pub(super) fn pack_all(transfer: &Transfer, round: &Round, spare: &Mutex<Vec<Pages>>, ready: &mpsc::Sender<Frame>) {
    let (mut compressor, mut scratch) = (BatchCompressor::default(), Pages::default());
    while let Some(work) = round.queue.next() {
        if ready.is_closed() {
            round.queue.give_back(work);
            return;
        }
        let buffer = lock(spare).pop().unwrap_or_default();
        let batch = match pack(transfer, round, &work, Batch::new(buffer), &mut scratch) {
            Ok(batch) => batch,
            Err(error) => {
                round.fail(error);
                round.queue.give_back(work);
                return;
            }
        };
        if batch.members() == 0 {
            // The joiner has it all, or it comes in the next round.
            lock(spare).push(batch.into_buffer());
            transfer.meter.add_done(bytes_of(round, &work));
            round.queue.done();
            continue;
        }
        let frame = frame(transfer, round, &mut compressor, batch, work);
        if let Err(unsent) = ready.blocking_send(frame) {
            round.queue.give_back(unsent.0.work);
            return;
        }
    }
}

/// Compresses a batch and puts its header before it.
fn frame(transfer: &Transfer, round: &Round, compressor: &mut BatchCompressor, batch: Batch, work: Work) -> Frame {
    let members = batch.members();
    let mut payload = batch.into_buffer();
    let raw_len = payload.len();
    let codec = compressor.compress(transfer.compression.choose(), &mut payload);
    transfer.compression.count(codec.id(), raw_len as u64, bytes_of(round, &work));
    let header = FrameHeader {
        kind: FrameKind::Batch,
        codec: codec.id(),
        round: round.number,
        members,
        wire_len: payload.len() as u32,
        raw_len: raw_len as u32,
    };
    Frame { header, payload, work }
}

fn pack(transfer: &Transfer, round: &Round, work: &Work, mut batch: Batch, scratch: &mut Pages) -> Result<Batch> {
    match work {
        Work::Chunk { file, chunk } => {
            let news = pack_chunk(transfer, round, *file, *chunk, &mut batch, scratch)?;
            if !news && round.number > 0 {
                return Ok(Batch::new(batch.into_buffer()));
            }
        }
        Work::Small(numbers) => {
            for number in numbers {
                let found = round.catalog.get(*number);
                match found.entry.content {
                    Content::File { size } if chunks(size) == 1 => {
                        pack_chunk(transfer, round, *number, 0, &mut batch, scratch)?;
                    }
                    _ => batch.push_entry(&found.entry).map_err(|e| unpackable(found, e))?,
                }
            }
        }
    }
    Ok(batch)
}

fn unpackable(found: &Found, error: MemberError) -> Error {
    Error::new(Kind::Io, format!("cannot pack {}", Printable(found.entry.path.as_bytes()))).because(error)
}

/// Adds a chunk, unless its file has changed: that comes again in the next round. False: it is what the joiner has.
fn pack_chunk(
    transfer: &Transfer,
    round: &Round,
    number: u32,
    chunk: u64,
    batch: &mut Batch,
    scratch: &mut Pages,
) -> Result<bool> {
    match read_chunk(transfer, round, number, chunk, batch, scratch) {
        Err(error) => round.catalog.pass_over(number, error).map(|()| true),
        Ok(digest) => round.catalog.record(number, chunk, digest),
    }
}

fn read_chunk(
    transfer: &Transfer,
    round: &Round,
    number: u32,
    chunk: u64,
    batch: &mut Batch,
    scratch: &mut Pages,
) -> Result<Digest> {
    let found = round.catalog.get(number);
    let place = round.catalog.place(found)?;
    let source = round.catalog.source(number)?;
    let offset = chunk * CHUNK;
    let len = (found.size() - offset).min(CHUNK);
    let runs = source.data(&place, offset, len, Extents::MAX, scratch)?;
    let run = |(start, len): &(u64, u64)| Extent { start: *start as u32, len: *len as u32 };
    let extents = Extents::new(runs.iter().map(run).collect(), len as u32)
        .map_err(|e| Error::new(Kind::Io, format!("cannot read {}", found.entry.path)).because(e))?;
    let digest = batch.push_chunk(&found.entry, offset, &extents, transfer.checksum, |data| {
        source.read_runs(&place, offset, &runs, data, scratch).map_err(PackError::from)
    });
    digest.map_err(|error| match error {
        PackError::Read(error) => error,
        PackError::Member(error) => unpackable(found, error),
    })
}

enum PackError {
    Read(Error),
    Member(MemberError),
}

impl From<Error> for PackError {
    fn from(error: Error) -> PackError {
        PackError::Read(error)
    }
}

impl From<MemberError> for PackError {
    fn from(error: MemberError) -> PackError {
        PackError::Member(error)
    }
}

pub(super) fn bytes_of(round: &Round, work: &Work) -> u64 {
    match work {
        Work::Chunk { file, chunk } => (round.catalog.get(*file).size() - chunk * CHUNK).min(CHUNK),
        Work::Small(numbers) => {
            let sizes = numbers.iter().map(|number| round.catalog.get(*number).size());
            sizes.filter(|size| chunks(*size) == 1).sum()
        }
    }
}
