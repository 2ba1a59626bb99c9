//! Packing: work becomes frames, on one thread per lane. Read, digest, compare, pack, compress.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::mpsc;

use super::compression::BatchCompressor;
use super::examine::{Reading, examine};
use super::parcel::{Chunk, Piece};
use super::piece;
use super::plan::Task;
use super::queue::Work;
use super::transfer::{Round, Transfer};
use crate::archive::{Batch, Extent, Extents, Located, MemberError};
use crate::direct::Pages;
use crate::error::{Error, Kind, Printable, Result};
use crate::manifest::CHUNK;
use crate::threads::lock;
use crate::tree::{Content, Entry, Found, data_runs};
use crate::wire::{self, FrameHeader, FrameKind};

/// A frame ready to be sent, and the work in it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) header: FrameHeader,
    pub(super) payload: Pages,
    pub(super) round: Arc<Round>,
    pub(super) work: Work,
}

/// Buffers that a packing thread reuses.
#[derive(Debug, Default)]
struct Scratch {
    /// What lies between the runs of a chunk, if all of it is read at once.
    span: Pages,
    /// A chunk that is compared before it is sent.
    chunk: Pages,
    compressor: BatchCompressor,
}

/// Packs the rounds' work until there is no more, or nobody takes the frames.
pub(super) fn pack_all(transfer: &Transfer, spare: &Mutex<Vec<Pages>>, ready: &mpsc::Sender<Frame>) {
    let mut scratch = Scratch::default();
    while let Some((round, work)) = transfer.rounds.next() {
        let work = widened(&round, work);
        if ready.is_closed() {
            round.queue.give_back(work);
            return;
        }
        let buffer = lock(spare).pop().unwrap_or_default();
        let (kind, members, payload) = if let Work::Piece(piece) = &work {
            (FrameKind::Piece, 1, piece_payload(transfer, piece, buffer))
        } else {
            let batch = match pack(transfer, &round, &work, Batch::new(buffer), &mut scratch) {
                Ok(batch) => batch,
                Err(error) => {
                    transfer.rounds.fail(error);
                    round.queue.give_back(work);
                    return;
                }
            };
            if batch.members() == 0 {
                // The joiner has all of it.
                transfer.clock.acknowledged(Instant::now());
                let bytes = bytes_of(&round, &work);
                transfer.meter.add_done(bytes);
                round.compared.fetch_add(bytes, Ordering::Relaxed);
                lock(spare).push(batch.into_buffer());
                round.catalog.acknowledged(&work);
                round.queue.done();
                continue;
            }
            (FrameKind::Batch, batch.members(), batch.into_buffer())
        };
        let frame = frame(transfer, round, &mut scratch.compressor, (kind, members, payload), work);
        if let Err(unsent) = ready.blocking_send(frame) {
            unsent.0.round.queue.give_back(unsent.0.work);
            return;
        }
    }
}

/// Compresses a payload and prepends its header.
fn frame(
    transfer: &Transfer,
    round: Arc<Round>,
    compressor: &mut BatchCompressor,
    (kind, members, mut payload): (FrameKind, u32, Pages),
    work: Work,
) -> Frame {
    let raw_len = payload.len();
    let codec = compressor.compress(transfer.compression.choose(), &mut payload);
    transfer.compression.count(codec.id(), raw_len as u64, work.weight(bytes_of(&round, &work)));
    let header = FrameHeader {
        kind,
        codec: codec.id(),
        round: round.number,
        members,
        wire_len: payload.len() as u32,
        raw_len: raw_len as u32,
    };
    Frame { header, payload, round, work }
}

fn piece_payload(transfer: &Transfer, piece: &piece::Piece, mut buffer: Pages) -> Pages {
    let data = piece.data.as_slice();
    let digest = transfer.checksum.digest(data);
    piece.sealing.take(piece.number, data.len() as u32, digest);
    buffer.clear();
    buffer.extend_from_slice(&wire::Piece::head(piece.number, digest));
    buffer.extend_from_slice(data);
    buffer
}

/// A chunk that is all hole, with those after it that are too.
fn widened(round: &Round, work: Work) -> Work {
    let Work::Chunks { file, first, count: 1 } = work else { return work };
    let empty = round.catalog.empty(file, first);
    if empty < 2 {
        return work;
    }
    Work::Chunks { file, first, count: round.queue.widen(file, first + 1, first + empty) - first }
}

/// Chunks in a row that are all hole.
fn pack_empty(transfer: &Transfer, round: &Round, number: u32, run: Range<u64>, batch: &mut Batch) -> Result<()> {
    let (found, catalog) = (round.catalog.get(number), &round.catalog);
    let (digest, count) = (transfer.checksum.of_empty_chunk(), run.end - run.start);
    let known = catalog.known_run(number, run.clone(), digest);
    if known.same < count {
        batch.push_empty(&found.entry, run.clone()).map_err(|e| unpackable(found, e))?;
    }
    if known.seeded {
        transfer.reused.count(count * CHUNK, known.same * CHUNK);
    }
    catalog.record_run(number, run, digest);
    Ok(())
}

fn pack(transfer: &Transfer, round: &Round, work: &Work, mut batch: Batch, scratch: &mut Scratch) -> Result<Batch> {
    match work {
        Work::Parcel(parcel) => {
            for piece in &parcel.pieces {
                pack_piece(transfer, piece, &mut batch)?;
            }
        }
        // A frame of its own, and no archive.
        Work::Piece(_) => {}
        Work::Chunks { file, first, count: 1 } => pack_chunk(transfer, round, *file, *first, &mut batch, scratch)?,
        Work::Chunks { file, first, count } => pack_empty(transfer, round, *file, *first..*first + *count, &mut batch)?,
        Work::Small(numbers) => {
            for number in numbers {
                let found = round.catalog.get(*number);
                match found.entry.content {
                    Content::File { .. } => pack_chunk(transfer, round, *number, 0, &mut batch, scratch)?,
                    _ => batch.push_entry(&found.entry).map_err(|e| unpackable(found, e))?,
                }
            }
        }
    }
    Ok(batch)
}

fn unpackable(found: &Found, error: MemberError) -> Error {
    unpackable_entry(&found.entry, error)
}

fn unpackable_entry(entry: &Entry, error: MemberError) -> Error {
    Error::new(Kind::Io, format!("cannot pack {}", Printable(entry.path.as_bytes()))).because(error)
}

/// A stream has no holes: what is zero becomes one.
fn pack_piece(transfer: &Transfer, piece: &Piece, batch: &mut Batch) -> Result<()> {
    let failed = |e: MemberError| unpackable_entry(&piece.entry, e);
    let Some(Chunk { offset, data, digests, .. }) = &piece.chunk else {
        return batch.push_entry(&piece.entry).map_err(failed);
    };
    let runs = data_runs(data, Extents::MAX);
    let extent = |(start, len): &(u64, u64)| Extent { start: *start as u32, len: *len as u32 };
    let extents = Extents::new(runs.iter().map(extent).collect(), data.len() as u32);
    let extents = extents.unwrap_or_else(|_| Extents::whole(data.len() as u32));
    let digest = batch.push_chunk(&piece.entry, *offset, &extents, transfer.checksum, |into| {
        let mut rest = into;
        for (start, len) in runs {
            let (now, later) = rest.split_at_mut(len as usize);
            now.copy_from_slice(&data[start as usize..][..now.len()]);
            rest = later;
        }
        Ok(())
    });
    lock(digests).take(offset / CHUNK, digest.map_err(failed)?);
    Ok(())
}

/// Packs one chunk. A file that changes while it is read is looked at again in the next round.
fn pack_chunk(
    transfer: &Transfer,
    round: &Round,
    number: u32,
    chunk: u64,
    batch: &mut Batch,
    scratch: &mut Scratch,
) -> Result<()> {
    let packed = match round.catalog.task(number) {
        Task::Compare => compare_chunk(transfer, round, number, chunk, batch, scratch),
        _ => whole_chunk(transfer, round, number, chunk, batch, scratch),
    };
    match packed {
        Err(error) if error.kind() == Kind::Changed && !round.strict => {
            round.catalog.skip(number, chunk);
            Ok(())
        }
        other => other,
    }
}

fn whole_chunk(
    transfer: &Transfer,
    round: &Round,
    number: u32,
    chunk: u64,
    batch: &mut Batch,
    scratch: &mut Scratch,
) -> Result<()> {
    let catalog = &round.catalog;
    let found = catalog.get(number);
    let (place, source) = (catalog.place(found)?, catalog.source(number)?);
    let located = Located::new(&source, &place, chunk, found.size(), &mut scratch.span)?;
    let Located { offset, ref extents, .. } = located;
    let reading = Reading { located: &located, source: &source, place: &place };
    let (mut hints, mut suspect) = (None, None);
    let digest = batch.push_chunk(&found.entry, offset, extents, transfer.checksum, |data| {
        located.read(&source, &place, data, &mut scratch.span)?;
        suspect = examine(transfer, round, (number, chunk), reading, data, &mut scratch.span)?;
        // A chunk sent under the lock is not compared again.
        if round.live && catalog.wants_hints() {
            hints = Some(located.hints(data, transfer.seed));
        }
        Ok::<_, PackError>(())
    });
    let digest = digest.map_err(|error| error.of(found))?;
    catalog.record(number, chunk, digest, hints, suspect);
    Ok(())
}

/// Reads a chunk of which the joiner has earlier content, and packs what differs.
fn compare_chunk(
    transfer: &Transfer,
    round: &Round,
    number: u32,
    chunk: u64,
    batch: &mut Batch,
    scratch: &mut Scratch,
) -> Result<()> {
    let (found, catalog) = (round.catalog.get(number), &round.catalog);
    let known = catalog.known(number, chunk);
    if known.touched && chunk == 0 {
        batch.push_entry(&found.entry).map_err(|e| unpackable(found, e))?;
    }
    let (place, source) = (catalog.place(found)?, catalog.source(number)?);
    let located = Located::load(&source, &place, (chunk, found.size()), &mut scratch.chunk, &mut scratch.span)?;
    let reading = Reading { located: &located, source: &source, place: &place };
    let suspect = examine(transfer, round, (number, chunk), reading, &mut scratch.chunk, &mut scratch.span)?;
    let Located { offset, len, ref extents, .. } = located;
    let data = scratch.chunk.as_slice();
    let digest = extents.digest(transfer.checksum, data, len);
    let hints = located.hints(data, transfer.seed);
    let mut sent = 0;
    if known.again || known.digest != Some(digest) {
        let before = known.hints.as_ref().filter(|_| known.digest.is_some());
        if !known.seeded {
            round.changed_pages.fetch_add(hints.differing(before), Ordering::Relaxed);
        }
        // If it is not known, the joiner may have anything.
        let patch = known
            .hints
            .filter(|_| known.digest.is_some() && !known.again)
            .and_then(|before| before.changed(&hints, len));
        // The content differs but no hint does, so the hints have failed: send the whole chunk.
        let patch = patch.filter(|covers| covers.iter().next().is_some()).and_then(|covers| {
            let (clip, places) = extents.clipped(&covers);
            (places.len() <= Extents::MAX).then_some((covers, clip, places))
        });
        let packed = match patch {
            Some((covers, clip, places)) => {
                let checksum = transfer.checksum;
                sent = covers.data_len() as u64;
                batch.push_patch(&found.entry, offset, (&covers, &clip), digest, checksum, |into| {
                    let mut rest = into;
                    for place in places {
                        let (now, later) = rest.split_at_mut(place.len());
                        now.copy_from_slice(&data[place]);
                        rest = later;
                    }
                    Ok::<_, PackError>(())
                })
            }
            None => {
                sent = len.into();
                let packed = batch.push_chunk(&found.entry, offset, extents, transfer.checksum, |into| {
                    into.copy_from_slice(data);
                    Ok::<_, PackError>(())
                });
                packed.map(|_| ())
            }
        };
        packed.map_err(|error| error.of(found))?;
    }
    if known.seeded && !known.again {
        transfer.reused.count(len.into(), u64::from(len) - sent);
    }
    catalog.record(number, chunk, digest, Some(hints), suspect);
    Ok(())
}

enum PackError {
    Read(Error),
    Member(MemberError),
}

impl PackError {
    fn of(self, found: &Found) -> Error {
        match self {
            PackError::Read(error) => error,
            PackError::Member(error) => unpackable(found, error),
        }
    }
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
        Work::Parcel(parcel) => parcel.bytes(),
        Work::Piece(piece) => piece.data.len() as u64,
        Work::Chunks { file, first, count } => {
            (round.catalog.get(*file).size() - first * CHUNK).min(count.saturating_mul(CHUNK))
        }
        Work::Small(numbers) => numbers.iter().map(|number| round.catalog.get(*number).size()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::Catalog;
    use super::super::plan::{Basis, Plan};
    use super::super::queue::Queue;
    use super::*;
    use crate::archive::{Member, unpack};
    use crate::tree::{Roots, Rules, Tolerance, scan};
    use std::collections::HashSet;
    use std::sync::atomic::AtomicU64;

    fn round(number: u16, roots: &Roots, basis: Basis) -> Round {
        let found = scan(&mut roots.clone(), &Rules::default(), Tolerance::None).unwrap();
        let plan = Plan::new(basis, found, false);
        let catalog = Catalog::new(roots.clone(), plan.entries, false, |_| false).unwrap();
        let (queue, compared, changed_pages) = (Queue::new([], &HashSet::new()), AtomicU64::new(0), AtomicU64::new(0));
        Round { number, live: true, strict: false, paced: true, catalog, queue, compared, changed_pages }
    }

    #[test]
    fn what_was_lost_with_its_lane_is_sent_again_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = vec![1; 5 << 14];
        std::fs::write(dir.path().join("f"), &content).unwrap();
        let roots = Roots::new(dir.path(), &std::collections::BTreeMap::new()).unwrap();
        let (transfer, mut scratch) = (Transfer::for_test(), Scratch::default());
        let mut sent = |round: &Round| {
            let batch = pack(&transfer, round, &Work::Small(vec![0]), Batch::default(), &mut scratch).unwrap();
            let members = unpack(batch.bytes(), batch.members()).unwrap();
            let of = |member| match member {
                Member::Entry(_) | Member::Empty { .. } => None,
                Member::Chunk(chunk) => Some((chunk.patch.is_some(), chunk.data.len())),
            };
            members.into_iter().filter_map(of).collect::<Vec<_>>()
        };
        let first = round(0, &roots, Vec::new());
        assert_eq!(sent(&first), [(false, 5 << 14)]);
        assert_eq!(sent(&first), [(false, 5 << 14)]);
        content[20_000] = 2;
        std::fs::write(dir.path().join("f"), &content).unwrap();
        let second = round(1, &roots, first.catalog.into_basis(true).1);
        assert_eq!(sent(&second), [(true, 1 << 14)]);
        assert_eq!(sent(&second), [(false, 5 << 14)], "the first may never have arrived");
        let third = round(2, &roots, second.catalog.into_basis(true).1);
        assert_eq!(sent(&third), []);
        content[20_000] = 3;
        std::fs::write(dir.path().join("f"), &content).unwrap();
        let fourth = round(3, &roots, third.catalog.into_basis(true).1);
        assert_eq!(sent(&fourth), [(true, 1 << 14)]);
        let fifth = round(4, &roots, fourth.catalog.into_basis(false).1);
        assert_eq!(sent(&fifth), [(false, 5 << 14)], "that round was broken off, and the patch lost with its lane");
        fifth.catalog.acknowledged(&Work::Small(vec![0]));
        let sixth = round(5, &roots, fifth.catalog.into_basis(false).1);
        assert_eq!(sent(&sixth), [], "of that round it had arrived");
    }
}
