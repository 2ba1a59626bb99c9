//! The passes over the tree: while the server runs, under its lock, and from clones after its release.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use super::brought::Agreed;
use super::catalog::{Catalog, seal};
use super::clones;
use super::hold::{Hold, Sent, finished};
use super::lane::Lanes;
use super::pages;
use super::plan::{Basis, Had, Plan, Task};
use super::queue::Queue;
use super::reuse::{self, Awaited};
use super::rounds::{Outlook, Pass, another, seconds_to_read};
use super::still::{self, Tops};
use super::transfer::{Round, Transfer};
use super::{Keeper, RoundReport, Server, complete};
use crate::error::{Error, Kind, Printable, Result};
use crate::link::Control;
use crate::manifest::Seal;
use crate::position::GaleraGtid;
use crate::progress::Phase;
use crate::threads::{alone, blocking};
use crate::tree::{
    Filesystems, Found, RelPath, RootName, Roots, Scanned, Source, Stamp, Tolerance, locate, scan_fully,
};
use crate::wire::{self, Message, WireBytes};

/// While the server runs, a file's stamp proves that it has not changed only if it had not been written for this long
/// before it was looked at: a write may be in flight, and clocks are coarse before Linux 6.13.
const MARGIN: Duration = Duration::from_secs(10);

/// One transfer's passes: the lanes, and the tree as the joiner has it.
pub(super) struct Passes {
    transfer: Arc<Transfer>,
    lanes: Lanes,
    server: Arc<dyn Server>,
    roots: Roots,
    /// Roots that the joiner cannot use.
    without: Vec<RootName>,
    /// Paths where the joiner has files of its own.
    theirs: Vec<RelPath>,
    filesystems: Filesystems,
    /// What the joiner says it has, until it is asked about it; then what it is going to report.
    offered: Vec<(RelPath, u64)>,
    awaited: Option<Awaited>,
    basis: Basis,
    /// Files for which reading is quicker than cloning.
    costly: Arc<HashSet<RelPath>>,
    number: u16,
    /// Before the last pass with the server running: as long as it runs, older stamps can be trusted.
    live_since: Option<SystemTime>,
    pub(super) reports: Vec<RoundReport>,
    /// Files that were cloned under this lock, and their bytes on disk.
    pub(super) cloned: (u64, u64),
}

impl Passes {
    pub(super) fn new(lanes: Lanes, server: Arc<dyn Server>, agreed: Agreed) -> Result<Passes> {
        let Agreed { roots, without, theirs, offered } = agreed;
        Ok(Passes {
            transfer: Arc::clone(&lanes.transfer),
            lanes,
            server,
            filesystems: Filesystems::of(&roots)?,
            roots,
            without,
            theirs,
            offered,
            awaited: None,
            basis: Vec::new(),
            costly: Arc::default(),
            number: 0,
            live_since: None,
            reports: Vec::new(),
            cloned: (0, 0),
        })
    }

    /// Makes passes while the server runs, until another would gain little. Returns what a freeze would cost then.
    pub(super) async fn live(
        &mut self,
        control: &mut Control,
        limit: Option<Duration>,
    ) -> Result<(Vec<Pass>, Outlook)> {
        let mut passes = Vec::new();
        let mut now = SystemTime::now();
        let mut found = self.scan(control).await?;
        loop {
            let started = Instant::now();
            let filesystems = self.filesystems.clone();
            // After the look and before reading, so that a store to a mapped page shows in the next look.
            guarded(control, blocking(move || filesystems.write_back())).await?;
            self.arrange(control, &found).await?;
            let plan = Plan::new(std::mem::take(&mut self.basis), found, false);
            self.live_since = Some(now - MARGIN);
            self.round(control, plan, self.live_since, None, Hold::default()).await?;
            let seconds = started.elapsed().as_secs_f64();
            let reused = if passes.is_empty() { self.transfer.reused.bytes() } else { 0 };
            let pass = |round: &RoundReport| Pass { seconds, read: round.bytes, wire: round.wire_bytes, reused };
            passes.extend(self.reports.last().map(pass));
            now = SystemTime::now();
            found = self.scan(control).await?;
            let outlook = self.outlook(&found);
            let estimate = seconds_to_read(&passes, outlook);
            let over = limit.is_some_and(|limit| estimate > limit.as_secs_f64());
            if !another(&passes, outlook, over) {
                return Ok((passes, outlook));
            }
        }
    }

    /// Before the first round: decides which of the joiner's own files are compared.
    async fn arrange(&mut self, control: &mut Control, found: &[Found]) -> Result<()> {
        let offered = std::mem::take(&mut self.offered);
        if !offered.is_empty() {
            self.awaited = reuse::arrange(control, &self.transfer, &self.roots, offered, found).await?;
        }
        Ok(())
    }

    /// Bytes of files that have changed since they were read, as far as their stamps tell.
    fn outlook(&self, found: &[Found]) -> Outlook {
        let mut basis = self.basis.iter().peekable();
        let changed = found.iter().filter(|found| {
            while basis.next_if(|(before, _)| before.entry.path < found.entry.path).is_some() {}
            !basis.next_if(|(before, _)| before.entry.path == found.entry.path).is_some_and(|(before, had)| {
                before.stamp == found.stamp && had.as_ref().is_none_or(|had| had.stamp_tells)
            })
        });
        Outlook { changed: changed.map(Found::size).sum() }
    }

    /// Finds out, before the freeze, for which of the changing files reading is quicker than cloning.
    pub(super) async fn examine_clones(&mut self, control: &Control) -> Result<()> {
        let changing = self
            .basis
            .iter()
            .filter(|(found, had)| found.size() > clones::SMALLEST && had.as_ref().is_some_and(|had| !had.stamp_tells));
        let changing: Vec<Found> = changing.map(|(found, _)| found.clone()).collect();
        let roots = self.roots.clone();
        let look = move || {
            let costly = |found: &Found| {
                let place = locate(&roots, &found.entry.path)?;
                let source = Source::open(&place, None, false).ok()?;
                (!clones::is_cheap(source.as_file(), found.size())).then(|| found.entry.path.clone())
            };
            Ok(changing.iter().filter_map(costly).collect())
        };
        self.costly = Arc::new(guarded(control, blocking(look)).await?);
        Ok(())
    }

    /// Reads the tree under the lock until it holds still. With `clone`, what changed is cloned if possible and sent
    /// later by [`Passes::of_clones`]. What a broken-off round had sent counts in a later pass.
    pub(super) async fn still(
        &mut self,
        control: &mut Control,
        position: &Option<GaleraGtid>,
        clone: bool,
        hold: Hold,
    ) -> Result<Sent> {
        self.cloned = (0, 0);
        for looks in 0.. {
            tokio::time::sleep(still::pause(looks)).await;
            let (found, tops) = self.look(control).await?;
            if looks == 0 {
                complete(&self.roots, &found)?;
            }
            self.arrange(control, &found).await?;
            let mut plan = Plan::new(std::mem::take(&mut self.basis), found, looks > 0);
            if looks > 0 {
                if plan.is_empty() {
                    self.basis = plan.into_basis();
                    return Ok(Sent::Whole);
                }
                still::judge(&plan, &self.roots, self.server.keeper(), looks)?;
                self.transfer.reporter.note(&still::why(&plan, &self.roots));
            }
            if clone {
                let (roots, filesystems) = (self.roots.clone(), self.filesystems.clone());
                let costly = Arc::clone(&self.costly);
                let work = blocking(move || clones::of_changed(plan, &roots, &filesystems, &costly));
                let made;
                (plan, made) = guarded(control, work).await?;
                self.transfer.reporter.note(&made.to_string());
                self.cloned = (self.cloned.0 + made.files, self.cloned.1 + made.bytes);
            }
            let sent = self.round(control, plan, None, position.clone(), hold).await?;
            if sent != Sent::Whole {
                self.distrust();
                return Ok(sent);
            }
            let (basis, roots) = (std::mem::take(&mut self.basis), self.roots.clone());
            let (basis, holds) = guarded(
                control,
                blocking(move || {
                    let holds = still::holds(&basis, &tops, &roots);
                    Ok((basis, holds))
                }),
            )
            .await?;
            self.basis = basis;
            if holds {
                return Ok(Sent::Whole);
            }
        }
        Ok(Sent::Whole)
    }

    /// The server writes again: what was read under its lock is now worth no more than what was read before.
    fn distrust(&mut self) {
        let (since, filesystems) = (self.live_since, &self.filesystems);
        let tells = |stamp: Stamp| {
            since.is_some_and(|when| stamp.is_older_than(when)) && filesystems.stamps_tell(stamp.device())
        };
        for (found, had) in &mut self.basis {
            if let Some(had) = had {
                had.stamp_tells &= tells(found.stamp);
            }
        }
    }

    async fn look(&mut self, control: &Control) -> Result<(Vec<Found>, Tops)> {
        let (mut roots, server) = (self.roots.clone(), Arc::clone(&self.server));
        let looked = blocking(move || {
            let tops = still::tops(&roots);
            let found = still::look(&mut roots, &*server)?;
            Ok((roots, found, tops))
        });
        let (roots, found, tops) = guarded(control, looked).await?;
        Ok((self.known(&roots, found)?, tops))
    }

    /// Sends what was cloned under the lock, after the server was released.
    pub(super) async fn of_clones(&mut self, control: &mut Control, position: &Option<GaleraGtid>) -> Result<()> {
        let plan = Plan::of_clones(std::mem::take(&mut self.basis));
        if plan.is_empty() {
            self.basis = plan.into_basis();
            return Ok(());
        }
        let devices: std::collections::BTreeSet<u64> =
            plan.work().map(|planned| planned.found.stamp.device()).collect();
        let filesystems = self.filesystems.clone();
        let watch = async move {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                for device in &devices {
                    if let Some(directory) = filesystems.directory(*device) {
                        clones::watch(directory)?;
                    }
                }
            }
        };
        tokio::select! {
            sent = self.round(control, plan, None, position.clone(), Hold::default()) => sent.map(|_| ()),
            full = watch => full,
        }
    }

    /// # Errors
    /// Pages of InnoDB's are damaged in what was read last.
    pub(super) fn sound(&self) -> Result<()> {
        let of = |(found, had): &(Found, Option<Box<Had>>)| {
            let place = locate(&self.roots, &found.entry.path).unwrap_or_default();
            let place = Printable::path(&place).to_string();
            had.iter()
                .flat_map(|had| had.suspects.values())
                .map(|suspect| (place.clone(), *suspect))
                .collect::<Vec<_>>()
        };
        let damaged: Vec<_> = self.basis.iter().flat_map(of).collect();
        if !damaged.is_empty() {
            return Err(pages::refuse(&damaged));
        }
        if let Some(check) = &self.transfer.pages {
            self.transfer.reporter.note(&check.to_string());
        }
        Ok(())
    }

    /// Says goodbye on all lanes, and seals the tree as the joiner has it.
    pub(super) async fn seal(mut self) -> Result<(Seal, Vec<RoundReport>)> {
        self.lanes.farewell().await;
        let (basis, checksum) = (std::mem::take(&mut self.basis), self.transfer.checksum);
        let sealed = blocking(move || seal(&basis, checksum)).await?;
        Ok((sealed, std::mem::take(&mut self.reports)))
    }

    /// The tree while the server runs.
    async fn scan(&mut self, control: &Control) -> Result<Vec<Found>> {
        let (roots, scanned) = guarded(control, scanned(self.roots.clone(), Arc::clone(&self.server))).await?;
        self.known(&roots, scanned.found)
    }

    /// What the joiner can use, in the roots that it was asked about.
    fn known(&self, roots: &Roots, mut found: Vec<Found>) -> Result<Vec<Found>> {
        // With the roots of the first scan: the joiner has a place for what that called `external-1`.
        if let Some(new) = roots.iter().nth(self.roots.iter().count()) {
            let what = format!("tablespaces in {} appeared after the joiner was asked", Printable::path(&new.path));
            return Err(Error::new(Kind::Changed, what).remedy("start the transfer again"));
        }
        found.retain(|found| {
            let path = &found.entry.path;
            !self.without.iter().any(|root| root.as_str() == path.root_str())
                && !self.theirs.iter().any(|own| own.holds(path))
        });
        Ok(found)
    }

    /// One round: announced, sent, acknowledged. While the server runs, files not written since `live` will be
    /// recognised by their stamps.
    async fn round(
        &mut self,
        control: &mut Control,
        plan: Plan,
        live: Option<SystemTime>,
        position: Option<GaleraGtid>,
        hold: Hold,
    ) -> Result<Sent> {
        let started = Instant::now();
        let wire_before = self.transfer.meter.snapshot().wire;
        let number = self.number;
        if number > 0 {
            self.transfer.compression.hold();
        }
        for message in withdrawals(&plan.removed) {
            control.send(message).await?;
        }
        let entries = plan.entries.len() as u64;
        let total = plan.entries.iter().map(|planned| planned.found.size()).sum();
        let (files, read) =
            plan.work().fold((0u64, 0u64), |(files, read), planned| (files + 1, read + planned.found.size()));
        control.send(Message::Round(wire::Round { number, entries, bytes: total, streamed: false, position })).await?;
        self.transfer.meter.begin_round(number, read);
        let clones = plan.work().any(|planned| planned.had.as_ref().is_some_and(|had| had.clone.is_some()));
        let numbered = (0u32..).zip(&plan.entries);
        let work = numbered.filter(|(_, planned)| planned.task.reads() || planned.task == Task::Update);
        let awaited = self.awaited.as_mut().map(|awaited| awaited.of_round(&plan.entries)).unwrap_or_default();
        let queue = Queue::new(work.map(|(number, planned)| (number, &planned.found)), &awaited);
        let filesystems = self.filesystems.clone();
        // Under the lock a file is compared with itself a moment ago, whatever its filesystem.
        let tells = |found: &Found| {
            live.is_none_or(|when| found.stamp.is_older_than(when) && filesystems.stamps_tell(found.stamp.device()))
        };
        let catalog = Catalog::new(self.roots.clone(), plan.entries, live.is_none(), tells)?;
        let strict = self.server.keeper() == Keeper::Nobody;
        let live = live.is_some();
        let held = self.server.serves() && !live && !clones;
        if !held {
            self.transfer.reporter.phase(Phase::Copying);
        }
        // Here the limit would only lengthen the freeze.
        let paced = live || clones || !self.reports.iter().any(|report| report.live);
        let (compared, changed_pages) = (AtomicU64::new(0), AtomicU64::new(0));
        let round = Arc::new(Round { number, live, strict, paced, catalog, queue, compared, changed_pages });
        self.transfer.clock.acknowledged(Instant::now());
        self.transfer.rounds.begin(Arc::clone(&round));
        let work = finished(&mut self.lanes, &self.server, &round, hold.over(control));
        let sent = reuse::attended(control, &self.transfer, &round, &mut self.awaited, work).await;
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) => {
                self.transfer.rounds.close();
                return Err(self.transfer.rounds.failure().unwrap_or(error));
            }
        };
        self.transfer.rounds.end();
        if live {
            self.transfer.reporter.phase(Phase::Scanning);
        }
        control.send(Message::RoundOver { number }).await?;
        let idle = self.transfer.dialer.deadlines.idle;
        let round =
            alone(round, idle).await.ok_or_else(|| Error::new(Kind::Timeout, "a packing thread does not end"))?;
        let pages = round.changed_pages.into_inner();
        (self.roots, self.basis) = round.catalog.into_basis(sent == Sent::Whole);
        self.number += 1;
        let wire = self.transfer.meter.snapshot().wire.saturating_sub(wire_before);
        let seconds = started.elapsed().as_secs_f64();
        let report = RoundReport { number, live, clones, files, bytes: read, pages, wire_bytes: wire, seconds };
        if live || !self.reports.is_empty() {
            self.transfer.reporter.note(&report.to_string());
        }
        self.reports.push(report);
        Ok(sent)
    }
}

/// One or more messages.
pub(super) fn withdrawals(paths: &[RelPath]) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut rest = paths.iter().peekable();
    while rest.peek().is_some() {
        let (mut bytes, mut some) = (0, Vec::new());
        while let Some(path) = rest.next_if(|path| bytes + path.as_bytes().len() <= Message::MAX_PATHS) {
            bytes += path.as_bytes().len();
            some.push(WireBytes::from(path.as_bytes()));
        }
        messages.push(Message::Withdrawn { paths: some });
    }
    messages
}

/// `work`, unless the peer fails first.
pub(super) async fn guarded<T>(control: &Control, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        error = control.failed() => Err(error),
    }
}

/// Scans a tree whose server may be running.
pub(super) async fn scanned(mut roots: Roots, server: Arc<dyn Server>) -> Result<(Roots, Scanned)> {
    blocking(move || {
        let scanned = scan_fully(&mut roots, &server.rules()?, Tolerance::Vanished)?;
        Ok((roots, scanned))
    })
    .await
}
