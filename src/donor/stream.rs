//! A backup as the source: its stream is read once, and sent as it comes.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::brought::{Agreed, Brought};
use super::catalog::Catalog;
use super::expected::Expected;
use super::hold::{Hold, finished};
use super::lane::Lanes;
use super::parcel::Parcel;
use super::passes::{guarded, withdrawals};
use super::queue::Work;
use super::transfer::Round;
use super::unpack::{Frame, Unpacked, outside_tables, unpack};
use super::{Keeper, RoundReport, Server};
use crate::backup::{Backup, Running};
use crate::error::{Error, Kind, Printable, Result};
use crate::link::Control;
use crate::progress::Phase;
use crate::threads::blocking;
use crate::tree::{Attributes, Found, Metadata, Mtime, RelPath, Roots, Scope};
use crate::wire::{self, Message, WireBytes};

/// How many unacknowledged frames' worth a lane may have: each is a chunk in memory.
const A_LANE: usize = 8;

/// How many renamed files a message holds: two paths of at most three times 511 bytes each.
const RENAMED: usize = 64;

pub(super) struct Stream {
    backup: Backup,
    server: Arc<dyn Server>,
    /// Of the server's files, and how many there are.
    bytes: u64,
    entries: u64,
    /// What must arrive of them.
    expected: Expected,
}

impl Stream {
    /// # Errors
    /// Tables outside: what leads to them would lead the joiner's server to files that no backup puts there.
    pub(super) fn new(backup: Backup, server: Arc<dyn Server>, roots: &Roots, found: &[Found]) -> Result<Stream> {
        if let Some(outside) = roots.iter().find(|root| root.scope == Scope::Listed) {
            return Err(outside_tables(&format!("in {}", Printable::path(&outside.path))));
        }
        let (bytes, entries) = (found.iter().map(Found::size).sum(), found.len() as u64);
        Ok(Stream { backup, server, bytes, entries, expected: Expected::of(found) })
    }

    pub(super) async fn bring(self, control: &mut Control, mut lanes: Lanes, agreed: Agreed) -> Result<Brought> {
        let transfer = Arc::clone(&lanes.transfer);
        let (started, roots) = (Instant::now(), agreed.roots);
        let (file, directory) = blocking({
            let roots = roots.clone();
            move || metadata(&roots)
        })
        .await?;
        let (expected, theirs) = (self.expected, agreed.theirs.clone());
        let frame = Frame { roots: roots.clone(), theirs: agreed.theirs, file, directory };
        // Besides the files there are the redo log that is written meanwhile, and the backup's files about itself.
        let bytes = self.bytes.saturating_mul(2).saturating_add(64 << 30);
        let entries = self.entries.saturating_mul(2).saturating_add(10_000);
        let first = wire::Round { number: 0, entries, bytes, streamed: true, position: None };
        control.send(Message::Round(first)).await?;
        transfer.meter.begin_round(0, self.bytes);
        transfer.reporter.phase(Phase::Copying);
        let round = Arc::new(Round::open(Catalog::new(roots.clone(), Vec::new(), false, |_| false)?));
        transfer.clock.acknowledged(Instant::now());
        transfer.rounds.begin(Arc::clone(&round));
        // While the joiner has work, only that moves the clock.
        let alive = {
            let (transfer, round) = (Arc::clone(&transfer), Arc::clone(&round));
            move || {
                if round.queue.is_idle() {
                    transfer.clock.acknowledged(Instant::now());
                }
            }
        };
        let (running, stream) = self.backup.start(Arc::clone(&transfer.reporter), alive)?;
        let most = A_LANE * lanes.running.len().max(1);
        let unpacking = blocking({
            let round = Arc::clone(&round);
            move || unpack(stream, &frame, |parcel| push(&round, parcel, most))
        });
        let unpacked = async {
            let unpacked = whole(unpacking.await, running).await?;
            if unpacked.position.is_none() && self.server.keeper() == Keeper::Galera {
                return Err(Error::new(Kind::Integrity, "the backup does not say at which position the server was")
                    .remedy("see what mariadb-backup says in the donor's log, and remove inno-backup-opts"));
            }
            let unpacked = blocking(move || {
                expected.all_in(&unpacked, &roots, &theirs)?;
                Ok(unpacked)
            })
            .await?;
            round.queue.end();
            Ok(unpacked)
        };
        let sent = finished(&mut lanes, &self.server, &round, Hold::default().over(control));
        let both = async { tokio::try_join!(unpacked, sent) };
        let (unpacked, _) = match guarded(control, both).await {
            Ok(both) => both,
            Err(error) => {
                // This wakes whoever is still pushing, and ends it.
                transfer.rounds.close();
                return Err(transfer.rounds.failure().unwrap_or(error));
            }
        };
        transfer.rounds.end();
        control.send(Message::RoundOver { number: 0 }).await?;
        for message in withdrawals(&unpacked.withdrawn) {
            control.send(message).await?;
        }
        let (position, bytes) = (unpacked.position.clone(), unpacked.bytes());
        let last = wire::Round { number: 1, entries: unpacked.entries(), bytes, streamed: false, position };
        control.send(Message::Round(last)).await?;
        let wire = |path: &RelPath| WireBytes::from(path.as_bytes());
        for some in unpacked.renamed()?.chunks(RENAMED) {
            let files = some.iter().map(|(from, to)| (wire(from), wire(to))).collect();
            control.send(Message::Renamed { files }).await?;
        }
        let report = RoundReport {
            number: 0,
            live: true,
            clones: false,
            files: unpacked.entries(),
            bytes,
            pages: 0,
            wire_bytes: transfer.meter.snapshot().wire,
            seconds: started.elapsed().as_secs_f64(),
        };
        lanes.farewell().await;
        let seal = unpacked.seal(transfer.checksum)?;
        Ok(Brought { seal, bytes, rounds: vec![report], frozen: None })
    }
}

fn push(round: &Round, parcel: Parcel, most: usize) -> bool {
    round.queue.push(Work::Parcel(Arc::new(parcel)), most)
}

/// What was unpacked, if the program succeeded. If its stream broke off, the program's own failure tells more; otherwise
/// it fails only because nobody is reading any more.
async fn whole(unpacked: Result<Unpacked>, running: Running) -> Result<Unpacked> {
    if matches!(&unpacked, Err(error) if error.kind() != Kind::Disconnected) {
        return unpacked;
    }
    let ended = running.end().await;
    match (unpacked, ended) {
        (Ok(unpacked), Ok(())) => Ok(unpacked),
        (_, Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

/// For each file and directory: the data directory's owner, and the modes that a server gives its files.
fn metadata(roots: &Roots) -> Result<(Metadata, Metadata)> {
    let datadir = roots.datadir();
    let stat = std::fs::metadata(datadir).map_err(|e| Error::io("cannot read", datadir, e))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mtime = Mtime { secs: now.as_secs().cast_signed(), nanos: now.subsec_nanos() };
    let of = |mode| Metadata { mode, uid: stat.uid(), gid: stat.gid(), mtime, xattrs: Attributes::default() };
    Ok((of(0o660), of(0o700)))
}
