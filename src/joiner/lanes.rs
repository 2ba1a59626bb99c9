//! The lanes of a transfer as they come: a donor may dial each of them again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::lane::{self, Shared};
use crate::error::Result;
use crate::link::ProvenConnection;
use crate::threads;
use crate::wire::Purpose;

#[derive(Debug)]
pub(super) struct Lanes {
    shared: Shared,
    /// How many were agreed on.
    most: u16,
    running: JoinSet<Result<()>>,
    /// Dropped when a lane comes again: that ends the one before.
    places: HashMap<u16, oneshot::Sender<()>>,
}

impl Lanes {
    pub(super) fn new(shared: Shared, most: u16) -> Lanes {
        Lanes { shared, most, running: JoinSet::new(), places: HashMap::new() }
    }

    /// Runs a lane; whatever else it may be is turned away.
    pub(super) fn take(&mut self, connection: ProvenConnection) {
        match connection.purpose {
            // The threads of replaced lanes may still have work.
            Purpose::Lane { number } if number < self.most && self.running.len() < 2 * usize::from(self.most) => {
                let peer = connection.peer();
                let (place, replaced) = oneshot::channel();
                self.places.insert(number, place);
                self.running.spawn(lane::run(connection.stream, peer, self.shared.clone(), replaced));
            }
            _ => drop(tokio::spawn(connection.turn_away())),
        }
    }

    /// How the next one ended; `None` while there are none. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Option<Result<()>> {
        self.running.join_next().await.map(|ended| threads::ended("a lane", ended))
    }

    /// Everything is acknowledged, so lanes need only end; one whose link is dead is abandoned. An error from any of the
    /// others still counts.
    pub(super) async fn farewell(mut self) -> Result<()> {
        let all = async {
            while let Some(ended) = self.ended().await {
                ended?;
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(1), all).await.unwrap_or(Ok(()))
    }
}
