//! The sending side of a transfer.
//!
//! [`send`] scans, connects and converses. The other files: the offer, the catalog of what is sent,
//! the queue of work, packing with its choice of compression, and the lanes.

mod answer;
mod brought;
mod catalog;
mod clock;
mod clones;
mod compression;
mod conversation;
mod examine;
mod expected;
mod files;
mod hold;
mod kept;
mod lane;
mod offer;
mod pack;
mod pages;
mod parcel;
mod passes;
mod piece;
mod pipe;
mod plan;
pub mod queue;
mod reuse;
mod rounds;
mod source;
mod still;
mod stream;
mod transfer;
mod unpack;
mod unsure;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use clones::Abilities;
pub use compression::Compression;
pub use pipe::{PipeOptions, PipeReport, pipe};
pub use rounds::FreezeMode;

use crate::backup::Backup;
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::{LOCK, MANIFEST, refuse_half_switched};
use crate::link::{Control, Dialer};
use crate::manifest::Checksum;
use crate::pace::Throttle;
use crate::position::GaleraGtid;
use crate::progress::{Phase, Quiet, Reporter, bytes, counted, entries, listed, status};
use crate::stop::Stop;
use crate::threads::blocking;
use crate::tls::Session;
use crate::tree::{Found, Roots, Rules, Scanned, is_of_mysql, lacks, readable};
use crate::wire::{Message, Offer};
use answer::{SLOW, answer};
use conversation::converse;
use passes::scanned;

/// The server whose data is sent, and the means to freeze it.
///
/// Both calls may block.
pub trait Server: Send + Sync + std::fmt::Debug {
    /// Returns once nothing writes to the tree any more.
    ///
    /// Returns the position of the data then, if the server says it.
    fn freeze(&self) -> Result<Option<GaleraGtid>>;
    /// Lets writing continue. Calling it more than once does no harm.
    fn release(&self) -> Result<()>;
    /// What is sent; asked before each scan.
    fn rules(&self) -> Result<Rules>;
    /// Who keeps the tree still.
    fn keeper(&self) -> Keeper;
    /// Whether it writes until it is frozen, so that what is copied before may change.
    fn serves(&self) -> bool {
        self.keeper() == Keeper::Galera
    }
}

/// Who keeps a donor's tree still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// Galera has frozen the server: it still writes to some of its own files.
    Galera,
    /// The caller has frozen the server.
    Caller,
    /// There is no server, so any change is a mistake.
    Nobody,
}

/// A server that is stopped, or that the caller froze.
#[derive(Debug)]
pub struct Unattended {
    pub keeper: Keeper,
    pub rules: Rules,
}

impl Server for Unattended {
    fn freeze(&self) -> Result<Option<GaleraGtid>> {
        Ok(None)
    }

    fn release(&self) -> Result<()> {
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        Ok(self.rules.clone())
    }

    fn keeper(&self) -> Keeper {
        self.keeper
    }
}

/// What a donor is asked to do; every value is checked.
#[derive(Debug)]
pub struct SendOptions {
    pub dialer: Dialer,
    pub roots: Roots,
    /// 1 to [`crate::link::Lanes::MAX`].
    pub lanes: u16,
    pub compression: Compression,
    /// `None` lets both sides measure and takes whichever is faster on the slower side.
    pub checksum: Option<Checksum>,
    /// Limits bytes on the wire.
    pub rate: Arc<Throttle>,
    /// What the data is taken from, instead of the server's files.
    pub backup: Option<Backup>,
    pub freeze: FreezeMode,
    /// A freeze that is estimated to take longer is put off for another pass.
    pub freeze_limit: Option<Duration>,
    pub position: Option<GaleraGtid>,
    pub server_version: Option<String>,
    pub lower_case_table_names: Option<u8>,
    /// A server is running on the files, whether or not it writes.
    pub live: bool,
    /// A damaged page of InnoDB's is not sent.
    pub verify_pages: bool,
}

/// A finished transfer, for the log and `--json`. Bytes are file lengths unless they are on the wire.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    pub bytes: u64,
    pub wire_bytes: u64,
    /// Bytes that the joiner already had.
    pub reused_bytes: u64,
    pub entries: u64,
    pub seconds: f64,
    /// `None` if no server had to be frozen.
    pub frozen: Option<FrozenReport>,
    /// In order.
    pub rounds: Vec<RoundReport>,
    pub lanes: u16,
    pub checksum: Checksum,
    pub compression: String,
    pub session: Session,
}

/// How long a server was frozen, in seconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct FrozenReport {
    /// From the request until it was frozen: its own work, above all flushing dirty pages.
    pub reaching: f64,
    /// From then until its release: our work.
    pub ours: f64,
    /// Files that were cloned under the lock, not read, and their bytes on disk.
    pub clones: u64,
    pub cloned_bytes: u64,
}

/// One pass over the tree.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct RoundReport {
    pub number: u16,
    /// The server could write meanwhile.
    pub live: bool,
    /// It read clones, after the server's release.
    pub clones: bool,
    /// Entries that were sent or compared, and their lengths in bytes.
    pub files: u64,
    pub bytes: u64,
    /// Pages of 16 KiB that had changed since their file was last read.
    pub pages: u64,
    pub wire_bytes: u64,
    pub seconds: f64,
}

impl fmt::Display for RoundReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self {
            RoundReport { live: true, .. } => "while the server runs",
            RoundReport { clones: true, .. } => "from clones, after the server's release",
            _ => "under the lock",
        };
        write!(f, "round {} {when}: {} of {} read, ", self.number, bytes(self.bytes), entries(self.files))?;
        if self.pages > 0 {
            write!(f, "{}, ", counted(self.pages, "page changed", "pages changed"))?;
        }
        write!(f, "{} on the wire, {:.2} s", bytes(self.wire_bytes), self.seconds)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = (self.bytes as f64 / self.seconds.max(0.001)) as u64;
        write!(f, "{} in {}, {} on the wire, ", bytes(self.bytes), entries(self.entries), bytes(self.wire_bytes))?;
        if self.reused_bytes > 0 {
            write!(f, "{} reused of what the joiner had, ", bytes(self.reused_bytes))?;
        }
        write!(f, "{:.1} s, ", self.seconds)?;
        if let Some(FrozenReport { reaching, ours, clones, .. }) = self.frozen {
            let manner =
                if clones > 0 { format!(", by clones of {}", counted(clones, "file", "files")) } else { String::new() };
            write!(
                f,
                "of which {:.2} s under the lock ({reaching:.2} s until the server stood still, ",
                reaching + ours
            )?;
            write!(f, "{ours:.2} s for what had changed{manner}), ")?;
        }
        if self.rounds.len() > 1 {
            write!(f, "{} rounds, ", self.rounds.len())?;
        }
        write!(f, "{}/s; ", bytes(rate))?;
        let lanes = counted(self.lanes.into(), "lane", "lanes");
        write!(f, "{lanes}, checksum {}, compression {}", self.checksum, self.compression)
    }
}

/// Tells the joiner that it needs nothing: its own data is recent enough, and Galera sends the
/// rest.
pub async fn bypass(dialer: &Dialer, position: GaleraGtid) -> Result<()> {
    let (mut control, _) = Control::dial(dialer, Arc::new(Quiet)).await?;
    let offer = Offer { bypass: true, position: Some(position), ..Offer::default() };
    control.send(Message::Offer(Box::new(offer))).await?;
    let idle = dialer.deadlines.idle;
    answer(&mut control, idle, SLOW, |m| if let Message::Durable = m { Ok(()) } else { Err(m) }).await?;
    say_bye(&control).await
}

/// The joiner has everything on disk. It waits for this, but for the donor it makes no difference whether it arrives.
async fn say_bye(control: &Control) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    control.send(Message::Bye).await?;
    control.heard(PATIENCE).await;
    Ok(())
}

/// Refuses a tree that a server could not start on.
fn complete(roots: &Roots, found: &[Found]) -> Result<()> {
    let lacks = lacks(roots, found);
    if lacks.is_empty() {
        return Ok(());
    }
    let (datadir, lacks) = (Printable::path(roots.datadir()), lacks.join(", "));
    if is_of_mysql(found) {
        let what = format!(
            "{datadir} is a data directory of MySQL, which Highline does not send: it has mysql.ibd and lacks {lacks}"
        );
        return Err(Error::new(Kind::Incompatible, what)
            .remedy("nothing was changed; use one of that server's own methods, such as clone or xtrabackup-v2"));
    }
    Err(Error::new(Kind::Usage, format!("{datadir} is not a server's whole data directory: it lacks {lacks}")).remedy(
        "check the path of the data directory; if these are in other directories, name those in the server's option file (by hand: --defaults-file or --root)",
    ))
}

/// Dials the joiner's control connection.
async fn connect(dialer: &Dialer, reporter: &Arc<dyn Reporter>, stop: &Stop) -> Result<(Control, Session)> {
    reporter.phase(Phase::Connecting);
    reporter.meet(&dialer.ticket.address.to_string());
    let dialled = tokio::select! {
        dialled = Control::dial(dialer, Arc::clone(reporter)) => dialled,
        asked = stop.requested() => Err(asked),
    };
    let (control, session) = dialled.map_err(|e| e.on(Side::Donor))?;
    reporter.note(&format!("connected to {}: {session}", dialer.peer()));
    reporter.phase(Phase::Agreeing);
    Ok((control, session))
}

/// Sends a whole tree. Returns once the joiner has verified it and installed it on disk.
pub async fn send(
    options: SendOptions,
    server: Arc<dyn Server>,
    reporter: Arc<dyn Reporter>,
    stop: &Stop,
) -> Result<Report> {
    let roots = options.roots.clone();
    let before = async {
        let (there, asked) = (roots.clone(), Arc::clone(&server));
        blocking(move || refuse_half_switched(&there)).await?;
        let (roots, scanned) = scanned(roots, asked).await?;
        // Report them by name, before anything is frozen.
        blocking(move || {
            complete(&roots, &scanned.found)?;
            readable(&roots, &scanned.found)?;
            Ok((roots, scanned))
        })
        .await
    };
    let before = tokio::select! {
        before = before => before,
        asked = stop.requested() => Err(asked),
    };
    let (roots, scanned) = before.map_err(|e| e.on(Side::Donor))?;
    let Scanned { found, mut stays } = scanned;
    // Not worth a line.
    stays.retain(|name| ![LOCK, MANIFEST, status::FILE].contains(&name.as_str()));
    if !stays.is_empty() {
        reporter.note(&format!("not sent, because it belongs to this node: {}", listed(&stays)));
    }
    let (mut control, session) = connect(&options.dialer, &reporter, stop).await?;
    let sent = tokio::select! {
        sent = converse(options, (roots, found), server, &reporter, &mut control, session) => sent,
        asked = stop.requested() => Err(asked),
    };
    match sent {
        Ok(report) => Ok(report),
        Err(error) => Err(control.give_up(error, Side::Donor).await),
    }
}
