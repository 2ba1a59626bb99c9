//! What lanes share: what lives as long as they do, and what belongs to one round.

use std::sync::{Arc, Mutex};

use super::catalog::Catalog;
use super::compression::Chooser;
use super::queue::Queue;
use crate::error::Error;
use crate::link::Dialer;
use crate::manifest::Checksum;
use crate::pace::Pace;
use crate::progress::{Meter, Reporter};

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
    /// Why a packing thread gave up, whatever became of its lane.
    pub(super) failure: Mutex<Option<Error>>,
}

impl Round {
    pub(super) fn new(number: u16, catalog: Catalog, queue: Queue) -> Round {
        Round { number, catalog, queue, failure: Mutex::new(None) }
    }
}
