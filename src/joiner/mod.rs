//! The receiving side of a transfer.
//!
//! The conversation is in [`Waiting::receive`]; beside it the examination before anything is touched,
//! the places where bytes land, the ledger of what arrived, and the lanes.

mod lane;
mod ledger;
mod places;
mod preflight;

use std::fs::File;
use std::io::BufWriter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use ledger::Ledger;
pub use places::{Owners, Places};
pub use preflight::InstallMode;

use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::{
    DirLock, HOME, KeepRules, NEW_MANIFEST, OwnFile, Recovered, Staging, discard, recover, server_holding,
};
use crate::link::{Control, Deadlines, Door, Guest};
use crate::manifest::{Checksum, Seal, Verified};
use crate::position::Position;
use crate::progress::{Meter, Reporter, bytes, follow};
use crate::stop::Stop;
use crate::tls::{Address, Identity, Policy, Secret, Session, Ticket, Trust, server_config};
use crate::tree::Roots;
use crate::wire::{Accept, Message, Purpose, Round, Speeds};

/// The node that receives: what it adds of its own to the tree that arrived.
///
/// Called between the comparison and the switch; may block.
pub trait Node: Send + Sync + std::fmt::Debug {
    fn own_files(&self, round: &Round) -> Result<Vec<OwnFile>>;

    /// Kept names of the data directory that must not outlive an old tree which goes first
    /// (`--install inplace`): a position without its data.
    fn spent(&self) -> &'static [&'static str] {
        &[]
    }
}

/// What a joiner is asked to do, every value checked.
#[derive(Debug)]
pub struct Order {
    pub roots: Roots,
    /// First-level names that stay besides the usual ones: patterns as in [`crate::tree::Scope::Names`].
    pub keep: Vec<String>,
    pub install: InstallMode,
    pub listen: SocketAddr,
    /// The host that donors are told to dial.
    pub advertise: String,
    pub identity: Identity,
    pub trust: Trust,
    pub policy: Policy,
    pub deadlines: Deadlines,
    /// The most lanes that a donor may open.
    pub lanes: u16,
    /// `None` takes the faster of both on the slower side.
    pub checksum: Option<Checksum>,
    /// Finds out this node's server, `10.11.19-MariaDB`, while the donor is waited for.
    pub server_version: Option<std::thread::JoinHandle<Option<String>>>,
    pub node: Arc<dyn Node>,
    /// This program and its version, for the peer's log.
    pub software: String,
}

/// Lanes beyond the agreed number: one that was dialled again while its dead twin is still open.
const SPARE_LANES: usize = 4;

/// How a wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// The donor had nothing to send; nothing was touched.
    Bypass {
        position: Option<Position>,
        domain: Option<u32>,
    },
    Installed(Box<Report>),
}

/// What a finished transfer was.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    pub bytes: u64,
    pub wire_bytes: u64,
    pub entries: u64,
    /// From the donor's arrival to the installed tree.
    pub seconds: f64,
    /// Of these, the last sync and the switch.
    pub install_seconds: f64,
    pub lanes: u16,
    pub checksum: Checksum,
    pub session: Session,
    #[serde(serialize_with = "as_text")]
    pub position: Option<Position>,
    pub domain: Option<u32>,
}

fn as_text<S: serde::Serializer>(position: &Option<Position>, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_some(&position.as_ref().map(ToString::to_string))
}

/// A joiner that listens, and the ticket that leads a donor to it.
#[derive(Debug)]
pub struct Waiting {
    lock: Arc<DirLock>,
    order: Order,
    door: Door,
    ticket: Ticket,
}

/// What the parts of one reception share.
struct Desk {
    lock: Arc<DirLock>,
    order: Order,
    guests: mpsc::Receiver<Guest>,
    reporter: Arc<dyn Reporter>,
    meter: Arc<Meter>,
    /// What is written to while lanes run.
    ledger: Option<Arc<Ledger>>,
}

impl Waiting {
    /// Takes the data directory for this process alone, finishes an install that was cut short, binds the
    /// port and makes the ticket. Needs a runtime.
    pub fn bind(order: Order, reporter: &dyn Reporter) -> Result<Waiting> {
        if let Some(held) = server_holding(&order.roots)? {
            return Err(Error::new(Kind::Busy, format!("a running server holds {}", Printable::path(&held)))
                .remedy("stop the server of this node first"));
        }
        let lock = Arc::new(DirLock::take(order.roots.datadir())?);
        match recover(&lock)? {
            Recovered::Nothing => {}
            Recovered::Finished => reporter.warn("an install that had been cut short was finished"),
            Recovered::Spent => reporter.warn("the old tree had been given up for an install in place"),
            Recovered::Undone => reporter.warn("an install that had been cut short was undone"),
        }
        let door = Door::bind(order.listen)?;
        let address = Address::new(&order.advertise, door.address().port())
            .map_err(|e| Error::from(e).remedy("name this host as the donor reaches it with --advertise"))?;
        let ticket = Ticket { pin: order.identity.pin(), secret: Secret::generate()?, address };
        Ok(Waiting { lock, order, door, ticket })
    }

    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Waits for the donor that holds the ticket, and takes what it sends.
    ///
    /// Dropped before its end it leaves the old tree as it is, except in the middle of the switch,
    /// which `recover` then finishes.
    pub async fn receive(self, reporter: Arc<dyn Reporter>, stop: &Stop) -> Result<Outcome> {
        let Waiting { lock, order, door, ticket } = self;
        let tls = server_config(&order.identity, order.trust.clone(), &order.policy)?;
        let guests = door.open(tls, order.trust.clone(), ticket.secret, order.deadlines, Arc::clone(&reporter));
        let mut desk = Desk { lock, order, guests, reporter, meter: Arc::new(Meter::default()), ledger: None };
        let guest = tokio::select! {
            guest = desk.donor() => guest,
            asked = stop.requested() => Err(without_donor(asked)),
        };
        let guest = guest.map_err(|e| e.on(Side::Joiner))?;
        let peer = format!("the donor at {}", guest.address);
        desk.reporter.note(&format!("{peer} has proven itself ({}): {}", guest.software, guest.session));
        let session = guest.session;
        let mut control = Control::start(guest.stream, peer, desk.order.deadlines);
        match desk.converse(&mut control, session, stop).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                let error = control.cause(error.on(Side::Joiner)).await;
                control.fail(&error).await;
                desk.clear().await;
                Err(error)
            }
        }
    }
}

/// A server that ends while it waits was told by the cluster that its donor failed: the cause is in the donor's log.
fn without_donor(asked: Error) -> Error {
    match asked.kind() {
        Kind::ServerGone => Error::new(Kind::ServerGone, format!("{}, and no donor had come", asked.sentence()))
            .remedy("see the donor's log for why it did not come, and this server's log for why it ended"),
        _ => asked,
    }
}

/// What a donor has brought.
enum Taken {
    Nothing { position: Option<Position>, domain: Option<u32> },
    Tree(Box<Tree>),
}

/// A staged tree and the evidence that it is the donor's.
struct Tree {
    staging: Staging,
    verified: Verified,
    round: Round,
    lanes: u16,
}

impl Desk {
    /// The first control connection that has proven itself.
    async fn donor(&mut self) -> Result<Guest> {
        let arrival = async {
            while let Some(guest) = self.guests.recv().await {
                if guest.purpose == Purpose::Control {
                    return Ok(guest);
                }
            }
            Err(Error::new(Kind::Network, "the port was closed"))
        };
        match self.order.deadlines.arrival {
            None => arrival.await,
            Some(limit) => tokio::time::timeout(limit, arrival).await.unwrap_or_else(|_| {
                Err(Error::new(Kind::Timeout, format!("no donor has come within {} s", limit.as_secs()))
                    .remedy("see the donor's log for the reason; a firewall may keep it from this port"))
            }),
        }
    }

    /// Removes what is staged, when the threads that write to it have ended.
    async fn clear(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(3);
        if let Some(ledger) = self.ledger.take() {
            ledger.close();
            let _ = alone(ledger, PATIENCE).await;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (lock, roots) = (Arc::clone(&self.lock), self.order.roots.clone());
            match blocking(move || discard(&lock, &roots)).await {
                Ok(()) => return,
                Err(left) if Instant::now() > deadline => {
                    return self.reporter.warn(&format!("what was staged could not be removed: {}", left.sentence()));
                }
                // A thread that made or settled something was not through yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn converse(&mut self, control: &mut Control, session: Session, stop: &Stop) -> Result<Outcome> {
        let started = Instant::now();
        let taken = tokio::select! {
            taken = self.take(control) => taken?,
            asked = stop.requested() => return Err(asked),
        };
        let taken = match taken {
            Taken::Tree(taken) => taken,
            Taken::Nothing { position, domain } => return Ok(Outcome::Bypass { position, domain }),
        };
        self.reporter.note("verified: every byte is what the donor sealed; it goes to disk and is installed now");
        control.send(Message::Verified).await?;
        // From here on nobody is asked: the switch runs to its end.
        let Tree { staging, verified, round, lanes } = *taken;
        let checksum = verified.manifest().checksum();
        let installing = Instant::now();
        let (node, manifest) = (Arc::clone(&self.order.node), self.lock.datadir().join(HOME).join(NEW_MANIFEST));
        let (bytes, entries) = (round.bytes, round.entries);
        let (position, domain) = (round.position.clone(), round.domain);
        let installed = blocking(move || {
            let written = File::create(&manifest).and_then(|file| verified.manifest().write(BufWriter::new(file)));
            written.map_err(|e| Error::io("cannot write", &manifest, e))?;
            let own = node.own_files(&round)?;
            staging.install(verified, &own)
        })
        .await?;
        if let Some(leftover) = installed.leftover {
            self.reporter.warn(&format!("the old tree could not be removed: {}", leftover.sentence()));
        }
        let install_seconds = installing.elapsed().as_secs_f64();
        if control.send(Message::Durable).await.is_ok() {
            let bye = control.expect(|m| if let Message::Bye = m { Ok(()) } else { Err(m) });
            let _ = tokio::time::timeout(Duration::from_secs(5), bye).await;
        }
        Ok(Outcome::Installed(Box::new(Report {
            bytes,
            wire_bytes: self.meter.snapshot().wire,
            entries,
            seconds: started.elapsed().as_secs_f64(),
            install_seconds,
            lanes,
            checksum,
            session,
            position,
            domain,
        })))
    }

    /// Everything up to the comparison; nothing outside the staging area is touched.
    async fn take(&mut self, control: &mut Control) -> Result<Taken> {
        let offer = control.expect(|m| if let Message::Offer(offer) = m { Ok(offer) } else { Err(m) }).await?;
        if offer.bypass {
            control.send(Message::Durable).await?;
            control.expect(|m| if let Message::Bye = m { Ok(()) } else { Err(m) }).await?;
            let (lock, roots) = (Arc::clone(&self.lock), self.order.roots.clone());
            // What a killed run left staged would show up in the server as a schema.
            if let Err(left) = blocking(move || discard(&lock, &roots)).await {
                self.reporter.warn(&format!("what an earlier run staged could not be removed: {}", left.sentence()));
            }
            return Ok(Taken::Nothing { position: offer.position, domain: offer.domain });
        }
        let order = &mut self.order;
        let version = order.server_version.take().and_then(|asked| asked.join().ok().flatten());
        let without = preflight::examine(&mut order.roots, &offer, order.install, version.as_deref())?;
        if !without.is_empty() {
            self.reporter.note("the donor's binary logs do not travel: this node writes none, or calls them otherwise");
        }
        let checksum = agree(order.checksum, offer.speeds)?;
        let lanes = order.lanes.min(offer.lanes).max(1);
        let (lock, roots) = (Arc::clone(&self.lock), order.roots.clone());
        let (keep, spend) = (KeepRules::new(order.keep.clone()), order.install == InstallMode::InPlace);
        let node = Arc::clone(&order.node);
        let staging = blocking(move || {
            let mut staging = Staging::prepare(lock, &roots, keep)?;
            if spend {
                staging.spend_old_tree(node.spent())?;
            }
            Ok(staging)
        });
        let staging = Arc::new(staging.await?);
        let accept = Accept { checksum, lanes, without, software: order.software.clone() };
        control.send(Message::Accept(accept)).await?;
        let round = control.expect(|m| if let Message::Round(round) = m { Ok(round) } else { Err(m) }).await?;

        self.reporter.note(&format!(
            "agreed with the donor: {lanes} lanes at most, checksum {checksum}; {} in {} entries",
            bytes(round.bytes),
            round.entries
        ));
        let owners = preflight::owners(self.order.roots.datadir(), &offer)?;
        let places = Places::new(Arc::clone(&staging), owners);
        let ledger = Arc::new(Ledger::new(checksum, round.clone(), places));
        self.ledger = Some(Arc::clone(&ledger));
        self.meter.set_total(round.bytes);
        let reports = follow(Arc::clone(&self.meter), Arc::clone(&self.reporter));
        let theirs = self.gather(control, &ledger).await?;
        drop(reports);

        self.ledger = None;
        let written = alone(ledger, self.order.deadlines.idle).await?;
        let verified = blocking(move || written.finish()?.verify(theirs)).await?;
        let staging = alone(staging, self.order.deadlines.idle).await?;
        Ok(Taken::Tree(Box::new(Tree { staging, verified, round, lanes })))
    }

    /// Runs the lanes of a round until the donor seals it, which it does when all is acknowledged.
    async fn gather(&mut self, control: &mut Control, ledger: &Arc<Ledger>) -> Result<Seal> {
        let idle = self.order.deadlines.idle;
        let mut lanes = JoinSet::new();
        let mut last = (0, Instant::now());
        loop {
            tokio::select! {
                Some(guest) = self.guests.recv() => match guest.purpose {
                    Purpose::Lane { .. } if lanes.len() < usize::from(self.order.lanes) + SPARE_LANES => {
                        let peer = format!("the donor at {}", guest.address);
                        lanes.spawn(lane::run(guest.stream, peer, Arc::clone(ledger), Arc::clone(&self.meter)));
                    }
                    _ => {
                        tokio::spawn(turn_away(guest));
                    }
                },
                Some(ended) = lanes.join_next() => lane_ended(ended)?,
                message = control.next() => match message? {
                    Message::Seal { entries, digest } => {
                        farewell(&mut lanes).await?;
                        return Ok(Seal { entries, digest });
                    }
                    other => return Err(Error::new(Kind::Protocol, format!("the donor sent `{}` out of turn", other.name()))),
                },
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    let wire = self.meter.snapshot().wire;
                    if wire != last.0 {
                        last = (wire, Instant::now());
                    } else if last.1.elapsed() > idle {
                        return Err(Error::new(Kind::Timeout, format!("the donor has sent nothing for {} s", idle.as_secs()))
                            .remedy("see whether its disk or the link stands still; --idle-timeout sets the limit"));
                    }
                }
            }
        }
    }
}

fn lane_ended(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|_| Err(Error::new(Kind::Io, "a lane ended unexpectedly")))
}

/// Everything was acknowledged, so lanes have nothing to do but end; one whose link is dead is left to its
/// fate. What one of them still has to complain of counts.
async fn farewell(lanes: &mut JoinSet<Result<()>>) -> Result<()> {
    let all = async {
        while let Some(ended) = lanes.join_next().await {
            lane_ended(ended)?;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(1), all).await.unwrap_or(Ok(()))
}

/// The value itself, once nobody else holds it.
async fn alone<T>(shared: Arc<T>, limit: Duration) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut shared = shared;
    loop {
        match Arc::try_unwrap(shared) {
            Ok(value) => return Ok(value),
            Err(_) if Instant::now() > deadline => {
                return Err(Error::new(Kind::Timeout, "a writing thread does not end: its disk stands still"));
            }
            Err(still) => shared = still,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A second donor, or one lane too many.
async fn turn_away(guest: Guest) {
    let mut control = Control::start(guest.stream, format!("the donor at {}", guest.address), Deadlines::default());
    // Its offer, which would otherwise meet a closed connection.
    let _ = tokio::time::timeout(Duration::from_secs(1), control.next()).await;
    control.fail(&Error::new(Kind::Busy, "this joiner has a donor already").on(Side::Joiner)).await;
}

/// The checksum that is faster on the slower side.
fn agree(ours: Option<Checksum>, theirs: Speeds) -> Result<Checksum> {
    let speed = |checksum: Checksum, there: u32| {
        let here = match ours {
            Some(only) if only != checksum => 0,
            _ if there == 0 => 0,
            _ => checksum.measure(),
        };
        (here.min(there), checksum)
    };
    let best = [speed(Checksum::Sha256, theirs.sha256), speed(Checksum::Blake3, theirs.blake3)]
        .into_iter()
        .max_by_key(|(speed, _)| *speed)
        .filter(|(speed, _)| *speed > 0);
    best.map(|(_, checksum)| checksum).ok_or_else(|| {
        Error::new(Kind::Incompatible, "donor and joiner allow no checksum in common")
            .remedy("give --checksum the same value on both sides, or take it away")
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Kind::Io, "a worker thread ended unexpectedly")),
    }
}

/// The places of an empty staging area in `dir`.
#[cfg(test)]
pub(crate) fn places_for_test(dir: &std::path::Path) -> Places {
    let roots = Roots::new(dir, &std::collections::BTreeMap::new()).unwrap();
    let lock = Arc::new(DirLock::take(dir).unwrap());
    let staging = Staging::prepare(lock, &roots, KeepRules::default()).unwrap();
    Places::new(Arc::new(staging), Owners::Ours)
}
