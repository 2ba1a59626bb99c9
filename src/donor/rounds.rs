//! The rounds of a transfer: the first sends everything, each later one what changed meanwhile, until the tree holds
//! still. What the last one leaves with the joiner is the tree as it was at one moment, for nothing in it changed from
//! before it was read until everything had been looked at again. What may change all the same: `tree::Stillness`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::catalog::{Catalog, Difference, Differences, tops};
use super::conversation::run_lanes;
use super::queue::Queue;
use super::transfer::{Round, Transfer};
use super::{Keeper, Server};
use crate::error::{Error, Kind, Printable, Result};
use crate::link::Control;
use crate::position::GaleraGtid;
use crate::threads::blocking;
use crate::tree::{
    Found, RelPath, RootName, Roots, Stamp, Tolerance, changed, likely_writer, may_vanish, scan, vanished,
};
use crate::wire::{self, Message, WireBytes};

/// How many rounds may follow the first.
const AGAIN: u16 = 8;
/// How long the donor gives a writer before it looks once more; twice as long each time.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Two changes within so much may leave one and the same time on a file: the kernel's clock ticks 100 times a second
/// where it is slow (`CONFIG_HZ`), and a file's times are the last tick's before Linux 6.13.
const TICK: Duration = Duration::from_millis(20);

/// A tree that holds still, more or less, and goes out in rounds.
#[derive(Debug)]
pub(super) struct Rounds {
    pub(super) server: Arc<dyn Server>,
    /// Roots that the joiner has no use for.
    pub(super) without: Vec<RootName>,
    pub(super) position: Option<GaleraGtid>,
    pub(super) lanes: u16,
}

impl Rounds {
    /// The first round, of a tree that has just come to hold still.
    pub(super) async fn first(&self, roots: Roots) -> Result<Round> {
        let (server, without) = (Arc::clone(&self.server), self.without.clone());
        blocking(move || {
            let look = Look::at(roots, &without, &*server)?;
            let queue = Queue::new(&look.found);
            let strict = server.keeper() == Keeper::Nobody;
            Ok(Round::new(0, Catalog::new(look.roots, look.tops, look.found, strict)?, queue))
        })
        .await
    }

    pub(super) async fn announce(&self, control: &Control, round: &Round) -> Result<()> {
        let (entries, bytes) = (round.catalog.found().len() as u64, round.catalog.bytes());
        let position = self.position.clone();
        control.send(Message::Round(wire::Round { number: round.number, entries, bytes, position })).await
    }

    /// Sends a round that has been announced, and those that have to follow. Returns the last.
    pub(super) async fn send(&self, control: &Control, transfer: &Arc<Transfer>, first: Round) -> Result<Arc<Round>> {
        let mut round = Arc::new(first);
        let mut pause = PAUSE;
        loop {
            let sent = run_lanes(transfer, &round, self.lanes).await;
            round.queue.close();
            sent?;
            let look = Arc::clone(&round);
            if blocking(move || look.catalog.holds_still()).await? {
                return Ok(round);
            }
            if round.number > 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            let Some((next, withdrawn, why)) = self.next(Arc::clone(&round)).await? else { return Ok(round) };
            transfer.reporter.note(&why);
            for message in withdrawals(&withdrawn) {
                control.send(message).await?;
            }
            self.announce(control, &next).await?;
            round = Arc::new(next);
        }
    }

    /// What has to be sent after `round`, what to withdraw, and why; `None` when the copy is good as it is.
    async fn next(&self, round: Arc<Round>) -> Result<Option<(Round, Vec<RelPath>, String)>> {
        let (server, without) = (Arc::clone(&self.server), self.without.clone());
        blocking(move || {
            let before = &round.catalog;
            let look = Look::at(before.roots().clone(), &without, &*server)?;
            let differences = before.differences(&look.found);
            let Some(first) = differences.pressing.first() else { return Ok(None) };
            judge(&differences, before, server.keeper(), round.number)?;
            let why = format!(
                "{} of {} entries changed while the tree was read and are looked at again; the first is {}",
                differences.again.len().saturating_add(differences.withdrawn.len()),
                look.found.len(),
                Printable::path(&before.locate(first.path())?)
            );
            let Differences { again, withdrawn, .. } = differences;
            let queue = Queue::again(&look.found, &again);
            let catalog = before.renewed(look.roots, look.tops, look.found, &again)?;
            Ok(Some((Round::new(round.number.saturating_add(1), catalog, queue), withdrawn, why)))
        })
        .await
    }
}

/// A scan of a tree that holds still, and what its roots' directories looked like before.
struct Look {
    roots: Roots,
    tops: Vec<(PathBuf, Stamp)>,
    found: Vec<Found>,
}

impl Look {
    fn at(mut roots: Roots, without: &[RootName], server: &dyn Server) -> Result<Look> {
        // What vanishes in the middle of a scan is one thing; a tablespace that is nowhere stays so.
        const TRIES: usize = 5;
        // With the roots of the first scan: what it called `external-1` the joiner has a place for.
        let known = roots.iter().count();
        let tops = tops(&roots);
        let rules = server.rules()?;
        let mut tries = 0;
        let mut found = loop {
            tries += 1;
            match scan(&mut roots, &rules, Tolerance::None) {
                Err(error) if error.kind() == Kind::NotFound && tries < TRIES => {}
                scanned => break scanned?,
            }
        };
        if let Some(new) = roots.iter().nth(known) {
            let what = format!("tablespaces in {} appeared after the joiner was asked", new.path.display());
            return Err(Error::new(Kind::Changed, what).remedy("start the transfer again"));
        }
        found.retain(|found| !without.iter().any(|root| root.as_str() == found.entry.path.root_str()));
        // What is read from here on and then changes has another time than the one that was seen.
        let newest = found.iter().filter_map(|found| found.stamp.changed()).max().unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        std::thread::sleep(newest.saturating_add(TICK).saturating_sub(now).min(TICK));
        Ok(Look { roots, tops, found })
    }
}

/// Fails where another round is no answer to what changed.
fn judge(differences: &Differences, before: &Catalog, keeper: Keeper, round: u16) -> Result<()> {
    for difference in &differences.pressing {
        let place = before.locate(difference.path())?;
        match difference {
            Difference::Vanished(path) if !may_vanish(path) => return Err(remedied(vanished(&place), path, keeper)),
            Difference::Vanished(_) | Difference::Changed(_) | Difference::Appeared(_) => {}
        }
        if keeper == Keeper::Nobody {
            return Err(changed(&place));
        }
    }
    match differences.pressing.first() {
        Some(first) if round >= AGAIN => {
            let place = before.locate(first.path())?;
            let what = format!(
                "{} does not hold still: it changed each of {} times that it was read",
                Printable::path(&place),
                round + 1
            );
            Err(remedied(Error::new(Kind::Changed, what), first.path(), keeper))
        }
        _ => Ok(()),
    }
}

/// With a remedy that names who may have written to it.
fn remedied(error: Error, path: &RelPath, keeper: Keeper) -> Error {
    match keeper {
        Keeper::Galera => {
            let keep = "; what is no data of the server's stays out with keep in [highline]";
            error.remedy(format!("{}{keep}", likely_writer(path)))
        }
        Keeper::Caller => error.remedy("stop the server, or freeze it until this command has ended"),
        Keeper::Nobody => error,
    }
}

/// As many messages as it takes.
fn withdrawals(paths: &[RelPath]) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut rest = paths.iter().peekable();
    while rest.peek().is_some() {
        let mut bytes = 0;
        let mut some = Vec::new();
        while let Some(path) = rest.next_if(|path| bytes + path.as_bytes().len() <= Message::MAX_PATHS) {
            bytes += path.as_bytes().len();
            some.push(WireBytes::from(path.as_bytes()));
        }
        messages.push(Message::Withdrawn { paths: some });
    }
    messages
}
