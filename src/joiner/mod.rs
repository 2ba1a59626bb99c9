//! The receiving side of a transfer.
//!
//! [`Waiting`] listens and lets the donor in; `conversation` then talks to it. The other files: the examination before
//! anything is touched, the tree where bytes land, the ledger of what arrived, and the lanes.

mod basis;
mod conversation;
mod earlier;
mod fit;
mod lane;
mod lanes;
mod ledger;
mod outlet;
mod pipe;
mod port;
mod preflight;
mod prepare;
mod read_back;
mod record;
mod refusal;
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
pub use pipe::{PipeOptions, PipeReport, PipeWaiting};
use port::Port;
pub use preflight::InstallMode;
pub use staged_tree::{Owners, StagedTree};

use crate::backup::Prepare;
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::{DirLock, HOME, OwnFile, Recovered, Reuse, holds_database, running, server_holding, unfinished};
#[cfg(test)]
use crate::install::{KeepRules, OldTree, Staging};
use crate::link::Deadlines;
use crate::manifest::Checksum;
use crate::position::GaleraGtid;
use crate::progress::{Phase, Reporter, bytes, entries};
use crate::stop::Stop;
use crate::tls::{Identity, Policy, Session, Ticket, Trust, server_config};
use crate::tree::{Own, Roots};
use crate::wire::Round;

/// The node that receives. Its calls may block.
pub trait Node: Send + Sync + std::fmt::Debug {
    /// What this node is; called while waiting for the donor.
    fn facts(&self) -> Facts;

    /// Its own files, to be added to the tree that arrived, between the comparison and the switch.
    fn own_files(&self, round: &Round) -> Result<Vec<OwnFile>>;

    /// Whether a tree without a position is of no use to it.
    fn needs_position(&self) -> bool {
        false
    }

    /// What it adds once the new tree is in place; synced when this returns. Only then is the node *durable*.
    fn installed(&self) -> Result<()> {
        Ok(())
    }

    /// Kept names of the data directory that must not outlive an old tree that is removed first (`--install inplace`):
    /// a position without its data.
    fn spent(&self) -> &'static [&'static str] {
        &[]
    }
}

/// What a joiner is asked to do; every value is checked.
#[derive(Debug)]
pub struct ReceiveOptions {
    pub roots: Roots,
    /// The operator's top-level names that stay, in addition to the usual ones, as [`crate::tree::names`] reads them.
    pub keep: Vec<String>,
    /// This node's own paths, by its configuration.
    pub own: Own,
    pub install: InstallMode,
    pub reuse: Reuse,
    /// What is done with a backup.
    pub prepare: Prepare,
    pub listen: SocketAddr,
    /// The host that donors are told to dial.
    pub advertise: String,
    pub identity: Identity,
    pub trust: Trust,
    pub policy: Policy,
    pub deadlines: Deadlines,
    /// The most lanes a donor may open, 1 to 32.
    pub lanes: u16,
    /// `None` takes whichever is faster on the slower side.
    pub checksum: Option<Checksum>,
    pub node: Arc<dyn Node>,
    /// This program and its version, for the peer's log.
    pub software: String,
}

/// How a wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// The donor had nothing to send; nothing was changed.
    Bypass(Option<GaleraGtid>),
    Installed(Box<Report>),
}

impl Outcome {
    /// Bytes of the new tree that this node already had.
    pub fn reused(&self) -> u64 {
        match self {
            Outcome::Bypass(_) => 0,
            Outcome::Installed(report) => report.reused.old_tree.saturating_add(report.reused.earlier_attempt),
        }
    }
}

/// A finished transfer, for the log and `--json`. Bytes are file lengths unless they are on the wire.
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
        write!(f, "{:.1} s, of which {:.1} s for sync and switch", self.seconds, self.install_seconds)
    }
}

/// A joiner that is ready to listen, and the ticket for its donor.
#[derive(Debug)]
pub struct Waiting {
    lock: Arc<DirLock>,
    options: ReceiveOptions,
    port: Port,
}

impl Waiting {
    /// Locks the data directory for this process, binds the port and makes the ticket. Needs a runtime.
    ///
    /// An interrupted
    /// install is only reported: what comes may be a bypass, which changes nothing.
    pub fn bind(options: ReceiveOptions, reporter: &dyn Reporter) -> Result<Waiting> {
        if let Some(held) = server_holding(&options.roots)? {
            return Err(running(&held));
        }
        let lock = Arc::new(DirLock::take(options.roots.datadir())?);
        if let Some(told) = cut_short(&lock).or_else(|| emptied(&lock)) {
            reporter.warn(&told);
        }
        let port = Port::bind(options.listen, &options.advertise, &options.identity)?;
        Ok(Waiting { lock, options, port })
    }

    pub fn ticket(&self) -> &Ticket {
        &self.port.ticket
    }

    /// Where the donor is told to dial, and where this node listens if that differs.
    pub fn place(&self) -> String {
        self.port.place()
    }

    /// Waits for the donor that holds the ticket, and takes what it sends.
    ///
    /// If dropped before the end, it leaves the old tree as it is, except in the middle of the
    /// switch, which `recover` then finishes.
    pub async fn receive(self, reporter: Arc<dyn Reporter>, stop: &Stop) -> Result<Outcome> {
        self.receive_when(std::future::ready(()), reporter, stop).await
    }

    /// As [`Waiting::receive`], where a donor is still to be `asked`: the limit of its arrival begins then.
    pub async fn receive_when(
        self,
        asked: impl Future<Output = ()>,
        reporter: Arc<dyn Reporter>,
        stop: &Stop,
    ) -> Result<Outcome> {
        let Waiting { lock, options, port: Port { listener, ticket } } = self;
        let tls = server_config(&options.identity, options.trust.clone(), &options.policy)?;
        let connections =
            listener.open(tls, options.trust.clone(), ticket.secret, options.deadlines, Arc::clone(&reporter));
        let mut conversation = Conversation::new(lock, options, connections, Arc::clone(&reporter));
        let connection = tokio::select! {
            connection = conversation.donor(asked) => connection,
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
                let error = control.give_up(error, Side::Joiner).await;
                conversation.clear(&error).await;
                if !conversation.touched {
                    reporter.note(UNTOUCHED);
                }
                Err(error)
            }
        }
    }
}

/// What an operator wants to know first after a failed transfer.
const UNTOUCHED: &str = "this node's data is unchanged";

/// What an interrupted install means for this node's data, if there was one.
fn cut_short(lock: &DirLock) -> Option<String> {
    const THEN: &str = "a full transfer, or `highline recover` while the server is stopped, removes what is left of it";
    let told = match unfinished(lock) {
        Ok(Recovered::Nothing) => return None,
        Ok(Recovered::Undone) => format!("before its switch: the server has the old tree, whole; {THEN}"),
        Ok(Recovered::Finished) => format!("after its switch: the server has the new tree, whole; {THEN}"),
        Ok(Recovered::Spent) => {
            "after it had begun to remove the old data (install=inplace): this node has no data until a full transfer brings some"
                .into()
        }
        Err(error) => error.sentence(),
    };
    Some(format!("an install was interrupted here, {told}"))
}

/// What a killed transfer left, if it had removed the old tree first.
fn emptied(lock: &DirLock) -> Option<String> {
    let datadir = lock.datadir();
    (datadir.join(HOME).exists() && !holds_database(datadir)).then(|| {
        format!(
            "{} holds what an earlier transfer had staged but no database: install=inplace had removed the old data. Only a full transfer can bring this node data",
            Printable::path(datadir)
        )
    })
}

/// If the server ends while it waits, the cluster told it that its donor failed: the cause is in the donor's log.
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
