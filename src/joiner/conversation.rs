//! The conversation with the donor: offer, consent, rounds, comparison, install.

use std::io::BufWriter;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::basis::Basis;
use super::earlier;
use super::ledger::{Ledger, Reused};
use super::reuse::arrange;
use super::seeding::Order;
use super::staged_tree::StagedTree;
use super::{Facts, InstallMode, Outcome, ReceiveOptions, Report, cut_short, fit, port, preflight, prepare, room};
use crate::backup::DataSource;
use crate::error::{Error, Kind, Printable, Result};
use crate::install::{
    DirLock, KeepRules, OldTree, Recovered, Reuse, Staging, clear_earlier, drop_kept, drop_kept_but, kept, leftover,
    make_missing, recover, removed,
};
use crate::link::{Control, Followers, ProvenConnection};
use crate::manifest::{Checksum, Verified};
use crate::position::GaleraGtid;
use crate::progress::{Meter, Phase, Reporter, bytes, counted, entries, follow, listed};
use crate::stop::Stop;
use crate::threads::{self, blocking};
use crate::tls::Session;
use crate::wire::{Accept, Kept, Message, Offer, OfferParts, Round, Speeds, WireBytes};

/// One reception, from the wait for a donor to the install.
pub(super) struct Conversation {
    lock: Arc<DirLock>,
    pub(super) options: ReceiveOptions,
    pub(super) connections: mpsc::Receiver<ProvenConnection>,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) meter: Arc<Meter>,
    /// What this node is; found out while it waits.
    facts: JoinHandle<Result<Facts>>,
    /// What lanes write to, while they run.
    ledger: Option<Arc<Ledger>>,
    /// The old tree is being removed, or already gone.
    pub(super) touched: bool,
}

/// What a donor has sent.
enum Taken {
    Nothing(Option<GaleraGtid>),
    Tree(Box<Tree>),
}

/// A staged tree, with the evidence that it equals the donor's.
struct Tree {
    staging: Staging,
    verified: Verified,
    round: Round,
    lanes: u16,
    reused: Reused,
    source: DataSource,
    /// Of the donor's InnoDB, in bytes.
    page_size: Option<u32>,
}

impl Conversation {
    pub(super) fn new(
        lock: Arc<DirLock>,
        options: ReceiveOptions,
        connections: mpsc::Receiver<ProvenConnection>,
        reporter: Arc<dyn Reporter>,
    ) -> Conversation {
        let node = Arc::clone(&options.node);
        let facts = tokio::spawn(blocking(move || Ok(node.facts())));
        let (meter, ledger, touched) = (Arc::new(Meter::default()), None, false);
        Conversation { lock, options, connections, reporter, meter, facts, ledger, touched }
    }

    /// As [`port::donor`].
    pub(super) async fn donor(&mut self, asked: impl Future<Output = ()>) -> Result<(ProvenConnection, u64)> {
        port::donor(&mut self.connections, asked, self.options.deadlines.arrival).await
    }

    /// Starts the control conversation. From now on only this donor's lanes are let in, and its control connection when
    /// it is dialled again.
    pub(super) fn control(&mut self, connection: ProvenConnection, session: u64) -> Control {
        // A channel without a sender.
        let connections = std::mem::replace(&mut self.connections, mpsc::channel(1).1);
        let Followers { lanes, control } = Followers::of(connections, session);
        self.connections = lanes;
        Control::answer(connection, control, self.options.deadlines, Arc::clone(&self.reporter))
    }

    /// Ends a failed attempt, once the writing threads have ended: staged files are kept for the next attempt, or
    /// removed.
    pub(super) async fn clear(&mut self, failure: &Error) {
        const PATIENCE: Duration = Duration::from_secs(3);
        if let Some(ledger) = self.ledger.take() {
            ledger.close();
            let _ = threads::alone(ledger, PATIENCE).await;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (lock, roots, reuse) = (Arc::clone(&self.lock), self.options.roots.clone(), self.options.reuse);
            let cause = earlier::Cause::from(failure);
            match blocking(move || earlier::leave(&lock, &roots, reuse, &cause)).await {
                Ok(told) => return told.iter().for_each(|line| self.reporter.note(line)),
                Err(left) if Instant::now() > deadline => {
                    return self.reporter.warn(&format!("staged files could not be removed: {}", left.sentence()));
                }
                // A thread was still making or settling something.
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    pub(super) async fn converse(&mut self, control: &mut Control, session: Session, stop: &Stop) -> Result<Outcome> {
        let started = Instant::now();
        let taken = tokio::select! {
            taken = self.take(control) => taken?,
            asked = stop.requested() => return Err(asked),
        };
        let mut taken = match taken {
            Taken::Tree(taken) => taken,
            Taken::Nothing(position) => return Ok(Outcome::Bypass(position)),
        };
        control.send(Message::Verified).await?;
        match taken.source {
            DataSource::Files => {
                self.reporter.note("verified: every byte matches the donor's seal; syncing and installing");
            }
            DataSource::Mariabackup => {
                self.reporter.phase(Phase::Preparing);
                self.reporter.note("verified: every byte matches the donor's seal; the backup is prepared now");
                let prepared =
                    prepare::prepare(&taken.staging, &self.options.prepare, taken.page_size, &self.reporter, stop);
                let position = tokio::select! {
                    prepared = prepared => prepared.map_err(|error| self.with_old_tree(error))?,
                    error = control.failed() => return Err(error),
                };
                taken.round.position = prepare::position(taken.round.position.take(), position);
                self.reporter.note("prepared; syncing and installing");
            }
        }
        if self.options.node.needs_position() && taken.round.position.is_none() {
            return Err(Error::new(
                Kind::Integrity,
                "what was sent does not say at which position the donor's server was",
            )
            .remedy("see the donor's log: its server must be part of the cluster"));
        }
        self.reporter.phase(Phase::Installing);
        // From here on nothing stops the switch.
        self.touched = true;
        let Tree { staging, verified, round, lanes, reused, source, .. } = *taken;
        let checksum = verified.manifest().checksum();
        let installing = Instant::now();
        let node = Arc::clone(&self.options.node);
        let (bytes, entries) = (round.bytes, round.entries);
        let position = round.position.clone();
        let installed = blocking(move || {
            // What was prepared is not what was sent.
            if source == DataSource::Files {
                staging.write_manifest(|file| verified.manifest().write(BufWriter::new(file)))?;
            }
            let own = node.own_files(&round)?;
            let installed = staging.install(verified, &own)?;
            node.installed()?;
            Ok(installed)
        })
        .await?;
        if let Some(leftover) = installed.leftover {
            self.reporter.warn(&format!("the old data could not be removed: {}", leftover.sentence()));
        }
        if let Some(file) = installed.unguarded {
            self.reporter.warn(&format!(
                "{} is on a filesystem without locks: nothing would have stopped a server from starting during the switch",
                Printable::path(&file)
            ));
        }
        let install_seconds = installing.elapsed().as_secs_f64();
        if control.send(Message::Durable).await.is_ok() {
            let _ = control.farewell(bye).await;
        }
        Ok(Outcome::Installed(Box::new(Report {
            bytes,
            wire_bytes: self.meter.snapshot().wire,
            reused,
            entries,
            seconds: started.elapsed().as_secs_f64(),
            install_seconds,
            lanes,
            checksum,
            session,
            position,
        })))
    }

    /// Everything up to the comparison; changes nothing outside the staging area.
    async fn take(&mut self, control: &mut Control) -> Result<Taken> {
        let offer = whole_offer(control).await?;
        if offer.bypass {
            control.send(Message::Durable).await?;
            control.farewell(bye).await?;
            let (lock, roots) = (Arc::clone(&self.lock), self.options.roots.clone());
            if let Some(told) = cut_short(&lock) {
                self.reporter.warn(&told);
                return Ok(Taken::Nothing(offer.position));
            }
            // A server would list a killed run's staging area as a schema.
            match blocking(move || earlier::forget(&lock, &roots)).await {
                Ok(gone) => earlier::tell(&*self.reporter, gone, "left by an earlier attempt"),
                Err(left) => {
                    let what = format!("what an earlier attempt left could not be removed: {}", left.sentence());
                    self.reporter.warn(&what);
                }
            }
            return Ok(Taken::Nothing(offer.position));
        }
        let facts = threads::ended("the look at this node", (&mut self.facts).await)?;
        match &facts.server_version {
            Some(_) => self.reporter.note(&facts.about_version),
            None => self.reporter.warn(&facts.about_version),
        }
        fit::examine(&offer, &facts)?.iter().for_each(|warning| self.reporter.warn(warning));
        let options = &mut self.options;
        if offer.source == DataSource::Mariabackup {
            prepare::examine(&options.roots, &offer, &options.prepare)?;
            self.reporter.note("the donor sends a backup: what is here is not reused, because a backup is read once");
            options.reuse = Reuse::Off;
        }
        let (lock, reporter) = (Arc::clone(&self.lock), Arc::clone(&self.reporter));
        let recovery = blocking(move || {
            match recover(&lock)? {
                Recovered::Nothing | Recovered::Spent => {}
                Recovered::Finished => reporter.warn("the interrupted install is finished now"),
                Recovered::Undone => reporter.warn("what was left of the interrupted install is removed"),
            }
            Ok(())
        });
        told_of(control, recovery).await?;
        make_missing(&self.lock, &options.roots)?;
        let without = preflight::examine(&mut options.roots, &offer)?;
        let keep = KeepRules::new(options.keep.clone(), options.own.clone());
        let (lock, roots, reuse) = (Arc::clone(&self.lock), options.roots.clone(), options.reuse);
        let clearing = blocking(move || clear_earlier(&lock, &roots, reuse, SystemTime::now()));
        let gone = told_of(control, clearing).await?;
        let why = if reuse.keeps() { "more than a week ago" } else { "and reuse=off" };
        earlier::tell(&*self.reporter, gone, &format!("left by an earlier attempt, {why}"));
        let room = {
            let (roots, offer, mode, keep) = (options.roots.clone(), offer.clone(), options.install, keep.clone());
            blocking(move || {
                room::room(&roots, &offer, mode, &|directory, name, shape| keep.keeps(directory, name, shape))
            })
            .await?
        };
        room.warnings.iter().for_each(|warning| self.reporter.warn(warning));
        let mut reuse = options.reuse;
        let spend = options.install == InstallMode::InPlace;
        // Then what is not wanted of the old tree is removed before anything arrives, and the rest becomes part of the
        // new one.
        let tight = room.counts_on_kept && spend && offer.reuse && reuse == Reuse::Auto;
        if room.counts_on_kept && !tight {
            let roots = options.roots.clone();
            let gone = told_of(control, blocking(move || drop_kept(&roots))).await?;
            earlier::tell(&*self.reporter, gone, "left by an earlier attempt: the new data needs the room");
            // Nor is there room to keep the old tree's files beside it.
            reuse = if reuse == Reuse::Auto { Reuse::Staged } else { reuse };
        }
        if !without.is_empty() {
            self.reporter
                .note("the donor's binary logs are not sent: this node writes none, or uses another name for them");
        }
        let checksum = agree(options.checksum, offer.speeds)?;
        let lanes = options.lanes.min(offer.lanes).max(1);
        let (lock, roots) = (Arc::clone(&self.lock), options.roots.clone());
        self.touched |= spend;
        let (node, reporter) = (Arc::clone(&options.node), Arc::clone(&self.reporter));
        let offered = offer.clone();
        let staging = blocking(move || {
            let old = if spend { OldTree::GoesFirst } else { OldTree::Stays };
            let mut staging = Staging::prepare(Arc::clone(&lock), &roots, keep.clone(), old, reuse)?;
            // Before an old tree becomes part of it.
            let earlier = kept(&roots)?;
            let left = if spend { staging.spend_old_tree(node.spent())? } else { None };
            if let Some(left) = left.or_else(|| leftover(&lock, &roots)) {
                reporter.warn(&format!("the rest of the old data could not be removed: {}", left.report()));
            }
            let own = staging.kept()?;
            let old_tree = (!spend).then_some(&keep);
            let basis = Basis::find(&roots, &offered, &staging, reuse, &earlier, old_tree).unwrap_or_else(|error| {
                reporter.note(&format!("no local data is reused: {}", error.sentence()));
                Basis::none(&roots)
            });
            Ok((staging, own, basis))
        });
        let (staging, own, basis) = told_of(control, staging).await?;
        let staging = Arc::new(staging);
        // Those that an option names; the ones every node has are well known.
        let named = own.iter().filter(|(_, why)| !why.contains(' '));
        let named: Vec<String> = named.map(|(path, option)| format!("{path} ({option})")).collect();
        if !named.is_empty() {
            self.reporter.note(&format!("kept, because it belongs to this node: {}", listed(&named)));
        }
        let kept = own.into_iter().map(|(path, why)| Kept { path: WireBytes::from(path.as_bytes()), why }).collect();
        let software = options.software.clone();
        let accept = Accept { checksum, lanes, without, kept, basis: !basis.is_empty(), software };
        control.send(Message::Accept(accept)).await?;
        let (round, mut order) = arrange(control, basis, checksum, &*self.reporter).await?;
        if tight {
            let stay = order.as_ref().map(Order::places).unwrap_or_default();
            let roots = options.roots.clone();
            let gone = blocking(move || drop_kept_but(&roots, &stay)).await?;
            earlier::tell(&*self.reporter, gone, "that the donor does not have: the new data needs the room");
            if let Some(order) = &mut order {
                order.tight = true;
            }
        }

        if round.number != 0 {
            return Err(Error::new(Kind::Protocol, format!("round {} was announced out of turn", round.number)));
        }
        preflight::fits_offer(&offer, round.entries)?;
        let (total, count) = if round.streamed { preflight::offered(&offer) } else { (round.bytes, round.entries) };
        self.reporter.note(&format!(
            "agreed with the donor: {} at most, checksum {checksum}; {} in {}",
            counted(lanes.into(), "lane", "lanes"),
            bytes(total),
            entries(count)
        ));
        let owners = preflight::owners(self.options.roots.datadir(), &offer)?;
        let tree = StagedTree::new(Arc::clone(&staging), owners).of(offer.source);
        // From when bytes begin to flow: the wait for a donor says nothing about their rate.
        self.meter = Arc::new(Meter::default());
        self.meter.set_total(total);
        let ledger = Arc::new(Ledger::new(checksum, round, tree));
        self.ledger = Some(Arc::clone(&ledger));
        self.reporter.phase(Phase::Copying);
        let reports = follow(Arc::clone(&self.meter), Arc::clone(&self.reporter));
        let theirs = self.gather(control, &ledger, &offer, lanes, order).await?;
        drop(reports);
        self.reporter.phase(Phase::Verifying);

        self.ledger = None;
        let idle = self.options.deadlines.idle;
        let written = threads::alone(ledger, idle).await.ok_or_else(stands_still)?;
        let reused = written.reused();
        let finished = blocking(move || {
            let (manifest, round) = written.finish()?;
            Ok((manifest.verify(theirs)?, round))
        });
        let (verified, round) = finished.await?;
        let staging = threads::alone(staging, idle).await.ok_or_else(stands_still)?;
        Ok(Taken::Tree(Box::new(Tree {
            staging,
            verified,
            round,
            lanes,
            reused,
            source: offer.source,
            page_size: offer.innodb.page_size,
        })))
    }

    /// Adds that the old tree is still there, if it is.
    fn with_old_tree(&self, error: Error) -> Error {
        match error.remedy_text().map(|remedy| format!("the old data is untouched; {remedy}")) {
            Some(remedy) if !self.touched => error.remedy(remedy),
            _ => error,
        }
    }
}

/// Does `work`, and keeps the donor informed while it removes an old tree.
async fn told_of<T>(control: &Control, work: impl Future<Output = Result<T>>) -> Result<T> {
    const EVERY: Duration = Duration::from_millis(500);
    let mut work = std::pin::pin!(work);
    let (before, mut last) = (removed(), 0);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(EVERY) => {
                let entries = removed().saturating_sub(before);
                if entries > last {
                    last = entries;
                    control.send(Message::Removing { entries }).await?;
                }
            }
        }
    }
}

/// The offer, which may come in several parts.
async fn whole_offer(control: &mut Control) -> Result<Offer> {
    let mut parts = OfferParts::default();
    loop {
        match control
            .expect(|m| match m {
                Message::Offer(_) | Message::OfferPart { .. } | Message::Pipe(_) => Ok(m),
                other => Err(other),
            })
            .await?
        {
            Message::Pipe(_) => {
                let what = "the donor sends one byte stream, and this joiner waits for a data directory";
                return Err(Error::new(Kind::Usage, what)
                    .remedy("by hand: give the donor a --datadir, or the joiner --stdout or a program after `--`"));
            }
            Message::Offer(last) => return parts.complete(*last),
            Message::OfferPart { roots } => parts.add(roots)?,
            _ => {}
        }
    }
}

pub(super) fn bye(message: Message) -> std::result::Result<(), Message> {
    if let Message::Bye = message { Ok(()) } else { Err(message) }
}

/// The checksum that is faster on the slower side, unless one side insists.
pub(super) fn agree(ours: Option<Checksum>, theirs: Speeds) -> Result<Checksum> {
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
        Error::new(Kind::Incompatible, "donor and joiner have no checksum in common")
            .remedy("set checksum to the same value on both nodes, or remove it")
    })
}

pub(super) fn stands_still() -> Error {
    Error::new(Kind::Timeout, "a writing thread does not end: its disk does not respond")
}
