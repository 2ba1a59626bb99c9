//! What lanes share: what lives as long as they do, and the rounds they work on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::catalog::Catalog;
use super::clock::{Clock, Stuck};
use super::compression::{Chooser, Compression};
use super::pages::PageCheck;
use super::queue::{Queue, Work};
use crate::error::{Error, Kind, Result};
use crate::link::Dialer;
use crate::manifest::Checksum;
use crate::pace::Throttle;
use crate::progress::{Meter, Reporter};
use crate::threads::lock;
use crate::tls::random;

/// Lives as long as the lanes.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) dialer: Dialer,
    pub(super) checksum: Checksum,
    pub(super) compression: Chooser,
    pub(super) pace: Arc<Throttle>,
    pub(super) meter: Arc<Meter>,
    pub(super) reporter: Arc<dyn Reporter>,
    /// Of the page hints; secret.
    pub(super) seed: u64,
    pub(super) rounds: Rounds,
    pub(super) clock: Clock,
    /// Unacknowledged bytes on the wire.
    pub(super) in_flight: AtomicU64,
    /// Lanes that broke since the last line about it.
    pub(super) breaks: AtomicU64,
    /// Acknowledged bytes on the wire.
    pub(super) acknowledged: AtomicU64,
    pub(super) reused: Reused,
    /// Where pages of InnoDB's are checked.
    pub(super) pages: Option<PageCheck>,
    /// Why the last broken lane ended, if nothing was acknowledged since.
    pub(super) broken: Mutex<Option<Error>>,
}

/// Bytes of seeded files that were compared, and those that need not be sent.
#[derive(Debug, Default)]
pub(super) struct Reused {
    pub(super) compared: AtomicU64,
    equal: AtomicU64,
}

impl Reused {
    pub(super) fn count(&self, compared: u64, equal: u64) {
        self.compared.fetch_add(compared, Ordering::Relaxed);
        self.equal.fetch_add(equal, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.equal.load(Ordering::Relaxed)
    }
}

impl Transfer {
    /// Why the round is given up, once nothing has moved for the idle deadline.
    pub(super) fn stuck(&self, now: Instant) -> Option<Error> {
        let stuck = self.clock.stuck(now, self.dialer.deadlines.idle)?;
        if let Some(broken) = lock(&self.broken).take() {
            let (Stuck::Idle(since) | Stuck::Unacknowledged(since)) = stuck;
            let what = format!("{}, and has written nothing for {} s", broken.sentence(), since.as_secs_f32());
            return Some(
                Error::new(broken.kind(), what)
                    .on(broken.side())
                    .remedy("check the joiner's log and the link; idle-timeout sets the limit"),
            );
        }
        let peer = self.dialer.peer();
        let (what, remedy) = match stuck {
            Stuck::Idle(idle) if self.in_flight.load(Ordering::Relaxed) == 0 => (
                format!("nothing could be read here for {} s", idle.as_secs_f64()),
                "check whether this node's disk responds; idle-timeout sets the limit",
            ),
            Stuck::Idle(idle) => (
                format!("{peer} has written nothing for {} s", idle.as_secs_f64()),
                "check whether its disk and the link respond; idle-timeout sets the limit",
            ),
            Stuck::Unacknowledged(limit) => (
                format!("{peer} takes bytes and has written none of them for {} s", limit.as_secs_f64()),
                "check its log and its disk; on a very slow link use fewer lanes or a longer idle-timeout",
            ),
        };
        Some(Error::new(Kind::Timeout, what).remedy(remedy))
    }

    pub(super) fn new(
        dialer: Dialer,
        checksum: Checksum,
        compression: Compression,
        pace: Arc<Throttle>,
        (meter, reporter): (Arc<Meter>, Arc<dyn Reporter>),
    ) -> Result<Transfer> {
        let now = Instant::now();
        Ok(Transfer {
            dialer,
            checksum,
            compression: Chooser::new(compression, now),
            pace,
            meter,
            reporter,
            seed: u64::from_ne_bytes(random()?),
            rounds: Rounds::default(),
            clock: Clock::new(now),
            in_flight: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            reused: Reused::default(),
            pages: None,
            broken: Mutex::new(None),
        })
    }

    #[cfg(test)]
    pub(super) fn for_test() -> Transfer {
        use crate::link::Deadlines;
        use crate::tls::{Identity, Policy, Secret, Ticket, Trust, client_config};
        let identity = Identity::ephemeral().unwrap();
        let address = crate::tls::Address::new("127.0.0.1", 1).unwrap();
        let ticket = Ticket { pin: identity.pin(), secret: Secret::generate().unwrap(), address };
        let tls = client_config(None, ticket.pin, Trust::Pin, &Policy::default()).unwrap();
        let dialer =
            Dialer { ticket, tls, trust: Trust::Pin, deadlines: Deadlines::default(), software: "test".into() };
        let telling = (Arc::default(), Arc::new(crate::progress::Quiet) as _);
        Transfer::new(dialer, Checksum::Blake3, Compression::Auto, Arc::default(), telling).unwrap()
    }
}

/// One pass over the tree.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) number: u16,
    /// The server may write meanwhile.
    pub(super) live: bool,
    /// A change is an error rather than a reason to read again: nobody may write to the tree.
    pub(super) strict: bool,
    /// The rate limit applies: nobody waits for the end of the round.
    pub(super) paced: bool,
    pub(super) catalog: Catalog,
    pub(super) queue: Queue,
    /// Pages that had changed since their file was last read.
    pub(super) changed_pages: AtomicU64,
    /// Bytes of work that was compared and found equal.
    pub(super) compared: AtomicU64,
}

impl Round {
    /// A first one whose work becomes known as it goes.
    pub(super) fn open(catalog: Catalog) -> Round {
        let (compared, changed_pages) = (AtomicU64::new(0), AtomicU64::new(0));
        let (live, strict, paced, queue) = (true, false, true, Queue::open());
        Round { number: 0, live, strict, paced, catalog, queue, changed_pages, compared }
    }
}

/// The rounds, one after the other. Lanes wait here for the next.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Round>>,
    closed: bool,
    /// Why a packing thread gave up, however its lane ended.
    failure: Option<Error>,
}

impl Rounds {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn begin(&self, round: Arc<Round>) {
        self.state().current = Some(round);
        self.changed.notify_all();
    }

    /// The round is over; it is dropped once its last lane has looked again.
    pub(super) fn end(&self) {
        self.state().current = None;
        self.changed.notify_all();
    }

    /// The next piece of work. Blocks until there is some; `None`: nothing more comes.
    pub(super) fn next(&self) -> Option<(Arc<Round>, Work)> {
        let mut seen: Option<Arc<Round>> = None;
        loop {
            let round = {
                let mut state = self.state();
                loop {
                    if state.closed {
                        return None;
                    }
                    let known = |round: &&Arc<Round>| !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, round));
                    if let Some(round) = state.current.as_ref().filter(known) {
                        break Arc::clone(round);
                    }
                    seen = seen.filter(|_| state.current.is_some());
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            if let Some(work) = round.queue.next() {
                return Some((round, work));
            }
            seen = Some(round);
        }
    }

    /// A packing thread has given up, which ends everything. The first cause counts.
    pub(super) fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error);
        self.close();
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// Hands out nothing more.
    pub(super) fn close(&self) {
        let current = {
            let mut state = self.state();
            state.closed = true;
            state.current.take()
        };
        self.changed.notify_all();
        if let Some(round) = current {
            round.queue.close();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }
}
