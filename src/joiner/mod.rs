//! The receiving side of a transfer.
//!
//! [`Waiting`] listens and lets the donor in; the conversation with it is at the conversation. Beside them: the
//! examination before anything is touched, the tree where bytes land, the ledger of what arrived, and
//! the lanes.

mod basis;
mod conversation;
mod earlier;
mod fit;
mod lane;
mod ledger;
mod preflight;
mod read_back;
mod reuse;
mod room;
mod rounds;
mod seeding;
mod staged_tree;
mod target;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use conversation::Conversation;
pub use fit::{Facts, OldData, OlderDonor, PageSize};
pub use ledger::{Ledger, Reused};
pub use preflight::InstallMode;
pub use staged_tree::{Owners, StagedTree};

use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::{DirLock, HOME, OwnFile, Recovered, Reuse, holds_database, running, server_holding, unfinished};
#[cfg(test)]
use crate::install::{KeepRules, OldTree, Staging};
use crate::link::{Deadlines, Listener};
use crate::manifest::Checksum;
use crate::position::GaleraGtid;
use crate::progress::{Phase, Reporter, bytes, entries};
use crate::stop::Stop;
use crate::tls::{Address, Identity, Policy, Secret, Session, Ticket, Trust, server_config};
use crate::tree::{Own, Roots};
use crate::wire::Round;

/// The node that receives. Its calls may block.
pub trait Node: Send + Sync + std::fmt::Debug {
    /// What it is, asked while the donor is waited for.
    fn facts(&self) -> Facts;

    /// What it adds of its own to the tree that arrived, between the comparison and the switch.
    fn own_files(&self, round: &Round) -> Result<Vec<OwnFile>>;

    /// What it adds once the new tree is in place, synced when this returns: only then is the node *durable*.
    fn installed(&self) -> Result<()> {
        Ok(())
    }

    /// Kept names of the data directory that must not outlive an old tree which goes first
    /// (`--install inplace`): a position without its data.
    fn spent(&self) -> &'static [&'static str] {
        &[]
    }
}

/// What a joiner is asked to do, every value checked.
#[derive(Debug)]
pub struct ReceiveOptions {
    pub roots: Roots,
    /// First-level names that stay besides the usual ones: the operator's, as [`crate::tree::names`] reads them.
    pub keep: Vec<String>,
    /// The paths that the configuration gives to this node.
    pub own: Own,
    pub install: InstallMode,
    pub reuse: Reuse,
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
    pub node: Arc<dyn Node>,
    /// This program and its version, for the peer's log.
    pub software: String,
}

/// How a wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// The donor had nothing to send; nothing was touched.
    Bypass(Option<GaleraGtid>),
    Installed(Box<Report>),
}

impl Outcome {
    /// Bytes of the new tree that this node had already.
    pub fn reused(&self) -> u64 {
        match self {
            Outcome::Bypass(_) => 0,
            Outcome::Installed(report) => report.reused.old_tree.saturating_add(report.reused.earlier_attempt),
        }
    }
}

/// What a finished transfer was.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    pub bytes: u64,
    pub wire_bytes: u64,
    pub reused: Reused,
    pub entries: u64,
    /// From the donor's arrival to the installed tree.
    pub seconds: f64,
    /// Of these, the last sync and the switch.
    pub install_seconds: f64,
    pub lanes: u16,
    pub checksum: Checksum,
    pub session: Session,
    pub position: Option<GaleraGtid>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}, {} on the wire, ", bytes(self.bytes), entries(self.entries), bytes(self.wire_bytes))?;
        for (reused, whose) in
            [(self.reused.old_tree, "the old data"), (self.reused.earlier_attempt, "an earlier attempt")]
        {
            if reused > 0 {
                write!(f, "{} reused of {whose}, ", bytes(reused))?;
            }
        }
        write!(f, "{:.1} s, of these {:.1} s for disk and switch", self.seconds, self.install_seconds)
    }
}

/// A joiner that listens, and the ticket that leads a donor to it.
#[derive(Debug)]
pub struct Waiting {
    lock: Arc<DirLock>,
    options: ReceiveOptions,
    listener: Listener,
    ticket: Ticket,
}

impl Waiting {
    /// Takes the data directory for this process alone, binds the port and makes the ticket. Needs a runtime.
    ///
    /// An install that was cut short is only told of: what is to come may be a bypass, which touches nothing.
    pub fn bind(options: ReceiveOptions, reporter: &dyn Reporter) -> Result<Waiting> {
        if let Some(held) = server_holding(&options.roots)? {
            return Err(running(&held));
        }
        let lock = Arc::new(DirLock::take(options.roots.datadir())?);
        if let Some(told) = cut_short(&lock).or_else(|| emptied(&lock)) {
            reporter.warn(&told);
        }
        let listener = Listener::bind(options.listen)?;
        let address = Address::new(&options.advertise, listener.address().port()).map_err(|e| {
            Error::from(e)
                .remedy("name this host as the donor reaches it: wsrep_sst_receive_address, or --advertise by hand")
        })?;
        let ticket = Ticket { pin: options.identity.pin(), secret: Secret::generate()?, address };
        Ok(Waiting { lock, options, listener, ticket })
    }

    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Where the donor is told to dial, and where this node listens, where that is another address.
    pub fn place(&self) -> String {
        let (announced, listens) = (self.ticket.address.to_string(), self.listener.address().to_string());
        if announced == listens { announced } else { format!("{announced} (this node listens on {listens})") }
    }

    /// Waits for the donor that holds the ticket, and takes what it sends.
    ///
    /// Dropped before its end it leaves the old tree as it is, except in the middle of the switch,
    /// which `recover` then finishes.
    pub async fn receive(self, reporter: Arc<dyn Reporter>, stop: &Stop) -> Result<Outcome> {
        let Waiting { lock, options, listener, ticket } = self;
        let tls = server_config(&options.identity, options.trust.clone(), &options.policy)?;
        let connections =
            listener.open(tls, options.trust.clone(), ticket.secret, options.deadlines, Arc::clone(&reporter));
        let mut conversation = Conversation::new(lock, options, connections, Arc::clone(&reporter));
        let connection = tokio::select! {
            connection = conversation.donor() => connection,
            asked = stop.requested() => Err(without_donor(asked)),
        };
        let (connection, number) = connection.map_err(|e| {
            reporter.note(UNTOUCHED);
            e.on(Side::Joiner)
        })?;
        let session = connection.session.clone();
        let (donor, software) = (connection.address, connection.software.clone());
        let mut control = conversation.control(connection, number);
        reporter.note(&format!("the donor at {donor} has proven itself ({software}): {session}"));
        reporter.meet(&donor.to_string());
        reporter.phase(Phase::Agreeing);
        match conversation.converse(&mut control, session, stop).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                let error = control.cause(error.on(Side::Joiner)).await;
                control.fail(&error).await;
                conversation.clear(&error).await;
                if !conversation.touched {
                    reporter.note(UNTOUCHED);
                }
                Err(error)
            }
        }
    }
}

/// What an operator wants to know first about a transfer that has failed.
const UNTOUCHED: &str = "this node's data is as it was before";

/// What an install that was cut short means for this node's data, if there was one.
fn cut_short(lock: &DirLock) -> Option<String> {
    const THEN: &str = "a full transfer, or `highline recover` while the server is stopped, removes what is left of it";
    let told = match unfinished(lock) {
        Ok(Recovered::Nothing) => return None,
        Ok(Recovered::Undone) => format!("before its switch: the server has the old tree, whole; {THEN}"),
        Ok(Recovered::Finished) => format!("after its switch: the server has the new tree, whole; {THEN}"),
        Ok(Recovered::Spent) => {
            "after it had begun to remove the old tree, as install=inplace asks: this node has no data \
            until a full transfer brings it"
                .into()
        }
        Err(error) => error.sentence(),
    };
    Some(format!("an install was cut short here, {told}"))
}

/// What a transfer that was killed has left, where it had removed the old tree first.
fn emptied(lock: &DirLock) -> Option<String> {
    let datadir = lock.datadir();
    (datadir.join(HOME).exists() && !holds_database(datadir)).then(|| {
        format!(
            "{} holds what an earlier transfer had staged and no database: install=inplace removed the old tree before. \
             Only a full transfer brings this node data",
            Printable::path(datadir)
        )
    })
}

/// A server that ends while it waits was told by the cluster that its donor failed: the cause is in the donor's log.
fn without_donor(asked: Error) -> Error {
    match asked.kind() {
        Kind::ServerGone => Error::new(Kind::ServerGone, format!("{}, and no donor had come", asked.sentence()))
            .remedy("see the donor's log for why it did not come, and this server's log for why it ended"),
        _ => asked,
    }
}

/// The tree of an empty staging area in `dir`.
#[cfg(test)]
pub(crate) fn staged_tree_for_test(dir: &std::path::Path) -> StagedTree {
    let roots = Roots::new(dir, &std::collections::BTreeMap::new()).unwrap();
    let lock = Arc::new(DirLock::take(dir).unwrap());
    let staging = Staging::prepare(lock, &roots, KeepRules::default(), OldTree::Stays, Reuse::Auto).unwrap();
    StagedTree::new(Arc::new(staging), Owners { there: (0, 0), here: None })
}
