//! What lanes share: what lives as long as they do, and what belongs to one round.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::catalog::Catalog;
use super::clock::{Clock, Stuck};
use super::compression::Chooser;
use super::queue::Queue;
use crate::error::{Error, Kind};
use crate::link::Dialer;
use crate::manifest::Checksum;
use crate::pace::Pace;
use crate::progress::{Meter, Reporter};
use crate::threads::lock;

/// Lives as long as the lanes.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) dialer: Dialer,
    pub(super) checksum: Checksum,
    pub(super) compression: Chooser,
    pub(super) pace: Option<Mutex<Pace>>,
    pub(super) meter: Arc<Meter>,
    pub(super) reporter: Arc<dyn Reporter>,
}

/// One pass over the tree.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) number: u16,
    pub(super) catalog: Catalog,
    pub(super) queue: Queue,
    pub(super) clock: Clock,
    /// Bytes on the wire that are not acknowledged.
    pub(super) in_flight: AtomicU64,
    /// How the lane ended that broke last; nothing was acknowledged since.
    pub(super) broken: Mutex<Option<Error>>,
    /// Why a packing thread gave up, whatever became of its lane.
    pub(super) failure: Mutex<Option<Error>>,
}

impl Transfer {
    /// How many bytes may go at once, `most` where no rate is given: none that would have to wait long.
    pub(super) fn piece(&self, most: usize) -> usize {
        self.pace.as_ref().map_or(most, |pace| usize::try_from(lock(pace).rate() / 4).unwrap_or(most).clamp(512, most))
    }
}

impl Round {
    pub(super) fn new(number: u16, catalog: Catalog, queue: Queue) -> Round {
        Round {
            number,
            catalog,
            queue,
            clock: Clock::new(Instant::now()),
            in_flight: AtomicU64::new(0),
            broken: Mutex::new(None),
            failure: Mutex::new(None),
        }
    }

    /// Ends the round; the first reason counts.
    pub(super) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.queue.close();
    }

    /// Why the round is given up, once nothing has moved for `idle`.
    pub(super) fn stuck(&self, now: Instant, idle: Duration, peer: &str) -> Option<Error> {
        let stuck = self.clock.stuck(now, idle)?;
        if let Some(broken) = lock(&self.broken).take() {
            return Some(broken);
        }
        let (what, remedy) = match stuck {
            Stuck::Idle(idle) if self.in_flight.load(Ordering::Relaxed) == 0 => (
                format!("nothing could be read to be sent for {} s", idle.as_secs()),
                "see whether this node's disk stands still; --idle-timeout sets the limit",
            ),
            Stuck::Idle(idle) => (
                format!("{peer} has written nothing for {} s", idle.as_secs()),
                "see whether its disk or the link stands still; --idle-timeout sets the limit",
            ),
            Stuck::Unacknowledged(limit) => (
                format!("{peer} takes bytes and has written none of them for {} s", limit.as_secs()),
                "see its log and its disk; on a very slow link take fewer lanes or a longer idle-timeout",
            ),
        };
        Some(Error::new(Kind::Timeout, what).remedy(remedy))
    }
}
