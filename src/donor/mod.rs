//! The sending side of a transfer.
//!
//! The conversation is in [`send`]; a file for each stage: the catalog of what travels, the queue of
//! work, the choice of compression, the lanes.

mod catalog;
mod compression;
mod lane;
pub mod queue;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub use compression::Compression;

use crate::error::{Error, Kind, Result, Side};
use crate::link::{Control, Dialler};
use crate::manifest::{Checksum, Seal};
use crate::pace::Pace;
use crate::position::Position;
use crate::progress::{Meter, Reporter, bytes, follow};
use crate::stop::Stop;
use crate::threads::{self, blocking, lock};
use crate::tls::Session;
use crate::tree::{Found, RootName, Roots, Rules, Scope, Stillness, scan};
use crate::wire::{Message, Offer, OfferedRoot, Purpose, Round, Speeds, WireBytes};
use catalog::Catalog;
use queue::Queue;

/// The server whose data is sent: whoever can make it hold still.
///
/// Both calls may block.
pub trait Server: Send + Sync + std::fmt::Debug {
    /// Returns when nothing writes to the tree any more.
    ///
    /// Tells the position of what is then in it, when the server says so.
    fn freeze(&self) -> Result<Option<Frozen>>;
    /// Every chunk has arrived: writing may go on.
    fn release(&self) -> Result<()>;
    /// What travels, asked before each scan.
    fn rules(&self) -> Result<Rules>;
}

/// Where a frozen server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    pub position: Position,
    pub domain: Option<u32>,
}

/// A server that is stopped, or that the caller froze.
#[derive(Debug)]
pub struct Still;

impl Server for Still {
    fn freeze(&self) -> Result<Option<Frozen>> {
        Ok(None)
    }

    fn release(&self) -> Result<()> {
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        Ok(Rules::default())
    }
}

/// What a donor is asked to do, every value checked.
#[derive(Debug)]
pub struct Order {
    pub dialler: Dialler,
    pub roots: Roots,
    /// 1 to [`crate::config::MAX_LANES`].
    pub lanes: u16,
    pub compression: Compression,
    /// `None` lets both sides measure and takes the faster on the slower side.
    pub checksum: Option<Checksum>,
    /// Bytes per second on the wire.
    pub rate: Option<u64>,
    pub position: Option<Position>,
    pub domain: Option<u32>,
    pub server_version: Option<String>,
}

/// What a finished transfer was.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    pub bytes: u64,
    pub wire_bytes: u64,
    pub entries: u64,
    pub seconds: f64,
    /// From the request to freeze until its release; `None` where no server had to hold still.
    pub frozen_seconds: Option<f64>,
    pub lanes: u16,
    pub checksum: Checksum,
    pub compression: String,
    pub session: Session,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = (self.bytes as f64 / self.seconds.max(0.001)) as u64;
        write!(f, "{} in {} entries, {} on the wire, ", bytes(self.bytes), self.entries, bytes(self.wire_bytes))?;
        write!(f, "{:.1} s, ", self.seconds)?;
        if let Some(frozen) = self.frozen_seconds {
            write!(f, "of these {frozen:.1} s under the lock, ")?;
        }
        write!(f, "{}/s; ", bytes(rate))?;
        write!(f, "{} lanes, checksum {}, compression {}", self.lanes, self.checksum, self.compression)
    }
}

/// What the lanes share.
#[derive(Debug)]
struct Shared {
    dialler: Dialler,
    catalog: Catalog,
    queue: Queue,
    checksum: Checksum,
    compression: compression::Chooser,
    pace: Option<Mutex<Pace>>,
    meter: Arc<Meter>,
    reporter: Arc<dyn Reporter>,
    /// The number of the round.
    round: u16,
    /// Why a reading thread gave up, whatever became of its lane.
    failure: Mutex<Option<Error>>,
}

/// Tells the joiner that it needs nothing: its own data is recent enough, and Galera sends the rest.
pub async fn bypass(dialler: &Dialler, position: Position, domain: Option<u32>) -> Result<()> {
    let (stream, _) = dialler.dial(Purpose::Control).await?;
    let mut control = Control::start(stream, dialler.peer(), dialler.deadlines);
    let offer = Offer {
        bypass: true,
        position: Some(position),
        domain,
        server_version: None,
        owner: (0, 0),
        roots: Vec::new(),
        speeds: Speeds { sha256: 0, blake3: 0 },
        lanes: 0,
    };
    control.send(Message::Offer(offer)).await?;
    let idle = dialler.deadlines.idle;
    answer(&mut control, idle, SLOW, |m| if let Message::Durable = m { Ok(()) } else { Err(m) }).await?;
    control.send(Message::Bye).await
}

/// Sends a whole tree. Returns when the joiner has verified it, installed it and has it on disk.
pub async fn send(order: Order, server: Arc<dyn Server>, reporter: Arc<dyn Reporter>, stop: &Stop) -> Result<Report> {
    let before = scanned(order.roots.clone(), Vec::new(), Arc::clone(&server), Stillness::Live);
    let before = tokio::select! {
        before = before => before,
        asked = stop.requested() => Err(asked),
    };
    let (roots, found) = before.map_err(|e| e.on(Side::Donor))?;
    if found.is_empty() {
        return Err(Error::new(Kind::Usage, format!("there is nothing to send in {}", roots.datadir().display()))
            .on(Side::Donor)
            .remedy("name the data directory with --datadir"));
    }
    let dialled = tokio::select! {
        dialled = order.dialler.dial(Purpose::Control) => dialled,
        asked = stop.requested() => Err(asked),
    };
    let (stream, session) = dialled.map_err(|e| e.on(Side::Donor))?;
    reporter.note(&format!("connected to {}: {session}", order.dialler.peer()));
    let mut control = Control::start(stream, order.dialler.peer(), order.dialler.deadlines);
    let sent = tokio::select! {
        sent = converse(order, (roots, found), server, &reporter, &mut control, session) => sent,
        asked = stop.requested() => Err(asked),
    };
    match sent {
        Ok(report) => Ok(report),
        Err(error) => {
            let error = control.cause(error.on(Side::Donor)).await;
            control.fail(&error).await;
            Err(error)
        }
    }
}

async fn converse(
    order: Order,
    (roots, found): (Roots, Vec<Found>),
    server: Arc<dyn Server>,
    reporter: &Arc<dyn Reporter>,
    control: &mut Control,
    session: Session,
) -> Result<Report> {
    let started = Instant::now();
    control.send(Message::Offer(offer(&order, &roots, &found)?)).await?;
    // The scan that counts comes when the server stands still; two at once would be much memory.
    drop(found);
    let idle = order.dialler.deadlines.idle;
    let accept =
        answer(control, idle, OLD_TREE, |m| if let Message::Accept(accept) = m { Ok(accept) } else { Err(m) }).await?;
    let lanes = accept.lanes.clamp(1, order.lanes);

    if !offered(order.checksum, accept.checksum) {
        let what = format!("{} chose the checksum {}, which was not offered", control.peer(), accept.checksum);
        return Err(Error::new(Kind::Protocol, what));
    }

    let freezing = Instant::now();
    let freeze = Arc::clone(&server);
    let frozen = guarded(control, blocking(move || freeze.freeze())).await?;
    // With the roots of the first scan: what it called `external-1` the joiner has a place for.
    let known = roots.iter().count();
    let second = scanned(roots, accept.without, Arc::clone(&server), Stillness::Frozen);
    let (roots, found) = guarded(control, second).await?;
    if let Some(new) = roots.iter().nth(known) {
        let what = format!("tablespaces in {} appeared after the joiner was asked", new.path.display());
        return Err(Error::new(Kind::Changed, what).remedy("start the transfer again"));
    }
    let held = frozen.is_some();
    let (position, domain) = match frozen {
        Some(frozen) => (Some(frozen.position), frozen.domain),
        None => (order.position.clone(), order.domain),
    };
    let round =
        Round { number: 0, entries: found.len() as u64, bytes: found.iter().map(Found::size).sum(), position, domain };
    let (entries, total) = (round.entries, round.bytes);
    control.send(Message::Round(round)).await?;
    reporter.note(&format!(
        "agreed with {}: {lanes} lanes, checksum {}, compression {}; {} in {} entries",
        crate::error::Printable(accept.software.as_bytes()),
        accept.checksum,
        order.compression,
        bytes(total),
        entries
    ));
    let meter = Arc::new(Meter::default());
    meter.set_total(total);
    let reports = follow(Arc::clone(&meter), Arc::clone(reporter));
    let shared = Arc::new(Shared {
        queue: Queue::new(&found),
        catalog: Catalog::new(roots, found)?,
        dialler: order.dialler,
        checksum: accept.checksum,
        compression: compression::Chooser::new(order.compression, Instant::now()),
        pace: order.rate.map(|rate| Mutex::new(Pace::new(rate, Instant::now()))),
        meter: Arc::clone(&meter),
        reporter: Arc::clone(reporter),
        round: 0,
        failure: Mutex::new(None),
    });
    let sent = guarded(control, run_lanes(&shared, lanes)).await;
    shared.queue.close();
    sent?;
    let check = Arc::clone(&shared);
    blocking(move || check.catalog.unchanged()).await?;
    blocking(move || server.release()).await?;
    let frozen = freezing.elapsed();
    drop(reports);

    let checksum = shared.checksum;
    let sealed = Arc::clone(&shared);
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
        compression: shared.compression.summary(),
        session,
    })
}

/// Remedies for a joiner that is slow to answer.
const OLD_TREE: &str = "see its log and its disk; where removing its old tree takes that long, raise idle-timeout here";
const SLOW: &str = "see its log and its disk; where that is only slow, raise idle-timeout here";

/// What the joiner answers. Signs of life alone do not do for ever: it has five times `idle`, for before it accepts it may
/// have a large old tree to remove, and before it has verified the last chunks to write.
async fn answer<T>(
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

async fn run_lanes(shared: &Arc<Shared>, count: u16) -> Result<()> {
    /// How long lanes may take to say goodbye once everything is acknowledged.
    const FAREWELL: Duration = Duration::from_secs(1);
    let mut lanes = JoinSet::new();
    for number in 0..count {
        lanes.spawn(lane::run(Arc::clone(shared), number));
    }
    let work = async {
        while let Some(ended) = lanes.join_next().await {
            threads::ended("a lane", ended)?;
        }
        Err(Error::new(Kind::Io, "the lanes ended before the work did"))
    };
    let ended = tokio::select! {
        biased;
        () = shared.queue.finished() => Ok(()),
        ended = work => ended,
    };
    if shared.queue.is_finished() {
        let goodbye = async { while lanes.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
        return Ok(());
    }
    let cause = lock(&shared.failure).take();
    match (ended, cause) {
        (Err(_), Some(cause)) => Err(cause),
        (ended, _) => ended,
    }
}

/// Whether a checksum is one that the offer allowed.
fn offered(only: Option<Checksum>, chosen: Checksum) -> bool {
    only.is_none_or(|only| only == chosen)
}

fn offer(order: &Order, roots: &Roots, found: &[Found]) -> Result<Offer> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    // Of a directory that is not the server's alone: what of it travels. Of binary logs: what they are called here.
    let names = |root: &crate::tree::Root| -> Vec<WireBytes> {
        if let Some(stem) = &root.stem {
            return vec![WireBytes::from(stem.as_bytes())];
        }
        if root.scope != Scope::Listed {
            return Vec::new();
        }
        let here = found.iter().filter(|found| found.entry.path.root_str() == root.name.as_str());
        let first = here.map(|found| found.entry.path.first().as_bytes());
        first.collect::<BTreeSet<_>>().into_iter().map(WireBytes::from).collect()
    };
    let of = |root: &crate::tree::Root| {
        let here = || found.iter().filter(|found| found.entry.path.root_str() == root.name.as_str());
        OfferedRoot {
            name: root.name.clone(),
            path: WireBytes::from(root.path.as_os_str().as_bytes()),
            names: names(root),
            bytes: here().map(Found::size).sum(),
            allocated: here().map(|found| found.allocated).sum(),
            entries: here().count() as u64,
        }
    };
    let speed = |checksum: Checksum| match order.checksum {
        Some(only) if only != checksum => 0,
        _ => checksum.measure(),
    };
    let owner = std::fs::metadata(roots.datadir()).map_err(|e| Error::io("cannot read", roots.datadir(), e))?;
    Ok(Offer {
        bypass: false,
        position: order.position.clone(),
        domain: order.domain,
        server_version: order.server_version.clone(),
        owner: (owner.uid(), owner.gid()),
        roots: roots.iter().map(of).filter(|root| root.entries > 0).collect(),
        speeds: Speeds { sha256: speed(Checksum::Sha256), blake3: speed(Checksum::Blake3) },
        lanes: order.lanes,
    })
}

async fn scanned(
    mut roots: Roots,
    without: Vec<RootName>,
    server: Arc<dyn Server>,
    stillness: Stillness,
) -> Result<(Roots, Vec<Found>)> {
    blocking(move || {
        let mut found = scan(&mut roots, &server.rules()?, stillness)?;
        found.retain(|found| !without.iter().any(|root| root.as_str() == found.entry.path.root_str()));
        Ok((roots, found))
    })
    .await
}
