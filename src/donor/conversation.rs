//! The conversation with the joiner once it is connected: offer, freeze, round, release, seal, install.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::catalog::Catalog;
use super::compression::Chooser;
use super::offer::offer;
use super::queue::Queue;
use super::transfer::{Round, Transfer};
use super::{Report, SendOptions, Server, lane};
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::manifest::{Checksum, Seal};
use crate::pace::Pace;
use crate::progress::{Meter, Reporter, bytes, follow};
use crate::threads::{self, blocking, lock};
use crate::tls::Session;
use crate::tree::{Found, RootName, Roots, Tolerance, scan};
use crate::wire::{self, Message};

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
    // With the roots of the first scan: what it called `external-1` the joiner has a place for.
    let known = roots.iter().count();
    let second = scanned(roots, accept.without, Arc::clone(&server), Tolerance::None);
    let (roots, found) = guarded(control, second).await?;
    if let Some(new) = roots.iter().nth(known) {
        let what = format!("tablespaces in {} appeared after the joiner was asked", new.path.display());
        return Err(Error::new(Kind::Changed, what).remedy("start the transfer again"));
    }
    let held = frozen.is_some();
    let (position, domain) = match frozen {
        Some(frozen) => (Some(frozen.position), frozen.domain),
        None => (options.position.clone(), options.domain),
    };
    let (entries, total) = (found.len() as u64, found.iter().map(Found::size).sum());
    control.send(Message::Round(wire::Round { number: 0, entries, bytes: total, position, domain })).await?;
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
    let queue = Queue::new(&found);
    let round = Arc::new(Round { number: 0, catalog: Catalog::new(roots, found)?, queue, failure: Mutex::new(None) });
    let sent = guarded(control, run_lanes(&transfer, &round, lanes)).await;
    round.queue.close();
    sent?;
    let check = Arc::clone(&round);
    blocking(move || check.catalog.unchanged()).await?;
    blocking(move || server.release()).await?;
    let frozen = freezing.elapsed();
    drop(reports);

    let checksum = transfer.checksum;
    let sealed = Arc::clone(&round);
    let Seal { entries, digest } = blocking(move || sealed.catalog.seal(checksum)).await?;
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

/// What the joiner answers. Signs of life alone do not do for ever: it has five times `idle`, for before it has verified it
/// may have the last chunks to write; and again from each time that it has removed more of its old tree.
pub(super) async fn answer<T>(
    control: &mut Control,
    idle: Duration,
    remedy: &'static str,
    pick: impl FnOnce(Message) -> std::result::Result<T, Message>,
) -> Result<T> {
    let limit = idle.saturating_mul(5);
    let mut removed = 0;
    let mut deadline = tokio::time::Instant::now() + limit;
    while let Ok(message) = tokio::time::timeout_at(deadline, control.next()).await {
        match message? {
            Message::Removing { entries } if entries > removed => {
                removed = entries;
                deadline = tokio::time::Instant::now() + limit;
            }
            Message::Removing { .. } => {}
            answer => return pick(answer).map_err(|other| control.unexpected(&other)),
        }
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

async fn run_lanes(transfer: &Arc<Transfer>, round: &Arc<Round>, count: u16) -> Result<()> {
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
    let ended = tokio::select! {
        biased;
        () = round.queue.finished() => Ok(()),
        ended = work => ended,
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

pub(super) async fn scanned(
    mut roots: Roots,
    without: Vec<RootName>,
    server: Arc<dyn Server>,
    tolerance: Tolerance,
) -> Result<(Roots, Vec<Found>)> {
    blocking(move || {
        let mut found = scan(&mut roots, &server.rules()?, tolerance)?;
        found.retain(|found| !without.iter().any(|root| root.as_str() == found.entry.path.root_str()));
        Ok((roots, found))
    })
    .await
}
