//! The conversation with the joiner once it is connected: offer, freeze, round, release, seal, install.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::compression::Chooser;
use super::offer::offer;
use super::rounds::Rounds;
use super::transfer::{Round, Transfer};
use super::{Report, SendOptions, Server, lane};
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::manifest::{Checksum, Seal};
use crate::pace::Pace;
use crate::progress::{Meter, Reporter, bytes, follow};
use crate::threads::{self, blocking, lock};
use crate::tls::Session;
use crate::tree::{Found, Roots, Scanned, Tolerance, scan_fully};
use crate::wire::Message;

pub(super) async fn converse(
    options: SendOptions,
    (roots, found): (Roots, Vec<Found>),
    server: Arc<dyn Server>,
    reporter: &Arc<dyn Reporter>,
    control: &mut Control,
    session: Session,
) -> Result<Report> {
    let started = Instant::now();
    control.send(Message::Offer(offer(&options, &roots, &found)?)).await?;
    // The scan that counts comes when the server stands still; two at once would be much memory.
    drop(found);
    let idle = options.dialer.deadlines.idle;
    let accept =
        answer(control, idle, OLD_TREE, |m| if let Message::Accept(accept) = m { Ok(accept) } else { Err(m) }).await?;
    let lanes = accept.lanes.clamp(1, options.lanes);

    if !offered(options.checksum, accept.checksum) {
        let what = format!("{} chose the checksum {}, which was not offered", control.peer(), accept.checksum);
        return Err(Error::new(Kind::Protocol, what));
    }

    let freezing = Instant::now();
    let freeze = Arc::clone(&server);
    let frozen = guarded(control, blocking(move || freeze.freeze())).await?;
    let held = frozen.is_some();
    let position = frozen.or_else(|| options.position.clone());
    let rounds = Rounds { server: Arc::clone(&server), without: accept.without, position, lanes };
    let first = guarded(control, rounds.first(roots)).await?;
    let (entries, total) = (first.catalog.found().len(), first.catalog.bytes());
    rounds.announce(control, &first).await?;
    reporter.note(&format!(
        "agreed with {}: {lanes} lanes, checksum {}, compression {}; {} in {} entries",
        crate::error::Printable(accept.software.as_bytes()),
        accept.checksum,
        options.compression,
        bytes(total),
        entries
    ));
    let meter = Arc::new(Meter::default());
    meter.set_total(total);
    let reports = follow(Arc::clone(&meter), Arc::clone(reporter));
    let transfer = Arc::new(Transfer {
        dialer: options.dialer,
        checksum: accept.checksum,
        compression: Chooser::new(options.compression, Instant::now()),
        pace: options.rate.map(|rate| Mutex::new(Pace::new(rate, Instant::now()))),
        meter: Arc::clone(&meter),
        reporter: Arc::clone(reporter),
    });
    let round = guarded(control, rounds.send(control, &transfer, first)).await?;
    blocking(move || server.release()).await?;
    let frozen = freezing.elapsed();
    drop(reports);

    let checksum = transfer.checksum;
    let total = round.catalog.bytes();
    let Seal { entries, digest } = blocking(move || round.catalog.seal(checksum)).await?;
    control.send(Message::Seal { entries, digest }).await?;
    answer(control, idle, SLOW, |m| if let Message::Verified = m { Ok(()) } else { Err(m) }).await?;
    reporter.note("verified by the joiner, which now brings it to disk and installs it");
    control.expect(|m| if let Message::Durable = m { Ok(()) } else { Err(m) }).await?;
    control.send(Message::Bye).await?;

    let end = meter.snapshot();
    Ok(Report {
        bytes: total,
        wire_bytes: end.wire,
        entries,
        seconds: started.elapsed().as_secs_f64(),
        frozen_seconds: held.then_some(frozen.as_secs_f64()),
        lanes,
        checksum,
        compression: transfer.compression.summary(),
        session,
    })
}

/// Remedies for a joiner that is slow to answer.
const OLD_TREE: &str = "see its log and its disk; where removing its old tree takes that long, raise idle-timeout here";
pub(super) const SLOW: &str = "see its log and its disk; where that is only slow, raise idle-timeout here";

/// What the joiner answers. Signs of life alone do not do for ever: it has five times `idle`, for before it accepts it may
/// have a large old tree to remove, and before it has verified the last chunks to write.
pub(super) async fn answer<T>(
    control: &mut Control,
    idle: Duration,
    remedy: &'static str,
    pick: impl FnOnce(Message) -> std::result::Result<T, Message>,
) -> Result<T> {
    let limit = idle.saturating_mul(5);
    if let Ok(answer) = tokio::time::timeout(limit, control.expect(pick)).await {
        return answer;
    }
    let what = format!("{} gives signs of life and no answer for {} s", control.peer(), limit.as_secs());
    Err(Error::new(Kind::Timeout, what).remedy(remedy))
}

/// `work`, unless the peer fails first.
async fn guarded<T>(control: &Control, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        error = control.failed() => Err(error),
    }
}

pub(super) async fn run_lanes(transfer: &Arc<Transfer>, round: &Arc<Round>, count: u16) -> Result<()> {
    /// How long lanes may take to say goodbye once everything is acknowledged.
    const FAREWELL: Duration = Duration::from_secs(1);
    let mut lanes = JoinSet::new();
    for number in 0..count {
        lanes.spawn(lane::run(Arc::clone(transfer), Arc::clone(round), number));
    }
    let work = async {
        while let Some(ended) = lanes.join_next().await {
            threads::ended("a lane", ended)?;
        }
        Err(Error::new(Kind::Io, "the lanes ended before the work did"))
    };
    let (idle, peer) = (transfer.dialer.deadlines.idle, transfer.dialer.peer());
    let stuck = async {
        loop {
            tokio::time::sleep((idle / 10).min(Duration::from_secs(1))).await;
            if let Some(error) = round.stuck(Instant::now(), idle, &peer) {
                return Err(error);
            }
        }
    };
    let ended = tokio::select! {
        biased;
        () = round.queue.finished() => Ok(()),
        ended = work => ended,
        stuck = stuck => stuck,
    };
    if round.queue.is_finished() {
        let goodbye = async { while lanes.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
        return Ok(());
    }
    let cause = lock(&round.failure).take();
    match (ended, cause) {
        (Err(_), Some(cause)) => Err(cause),
        (ended, _) => ended,
    }
}

/// Whether a checksum is one that the offer allowed.
fn offered(only: Option<Checksum>, chosen: Checksum) -> bool {
    only.is_none_or(|only| only == chosen)
}

/// What a live tree holds.
pub(super) async fn scanned(mut roots: Roots, server: Arc<dyn Server>) -> Result<(Roots, Scanned)> {
    blocking(move || {
        let scanned = scan_fully(&mut roots, &server.rules()?, Tolerance::Vanished)?;
        Ok((roots, scanned))
    })
    .await
}
