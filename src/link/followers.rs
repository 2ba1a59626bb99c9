//! Whoever connects to a joiner once it has its donor: that donor's lanes, its control connection again, other donors.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Control, Deadlines, Lanes, ProvenConnection, Stream};
use crate::error::{Error, Kind, Side};
use crate::wire::{Answer, Purpose};

/// The donor's later connections; the port closes when both are dropped.
#[derive(Debug)]
pub struct Followers {
    pub lanes: mpsc::Receiver<ProvenConnection>,
    /// Its control connection, dialled again.
    pub control: mpsc::Receiver<Stream>,
}

impl Followers {
    /// Sorts whoever comes after the donor of `session`. A lane beyond twice [`Lanes::MAX`] that nobody has taken yet,
    /// and any other donor, is turned away with a reason. Needs a runtime.
    pub fn of(mut connections: mpsc::Receiver<ProvenConnection>, session: u64) -> Followers {
        // A lane, and the one that replaces it.
        let (lane, lanes) = mpsc::channel(2 * usize::from(Lanes::MAX));
        let (again, control) = mpsc::channel(4);
        tokio::spawn(async move {
            let sort = async {
                while let Some(connection) = connections.recv().await {
                    match connection.purpose {
                        Purpose::Lane { .. } => {
                            if let Err(TrySendError::Full(surplus)) = lane.try_send(connection) {
                                tokio::spawn(surplus.turn_away());
                            }
                        }
                        // One that is superseded before it was taken needs no answer: its donor has dialled again.
                        Purpose::Control { session: theirs } if theirs == session => {
                            drop(again.try_send(connection.stream));
                        }
                        Purpose::Control { .. } => drop(tokio::spawn(connection.turn_away())),
                    }
                }
            };
            tokio::select! {
                () = sort => {}
                () = async { tokio::join!(lane.closed(), again.closed()); } => {}
            }
        });
        Followers { lanes, control }
    }
}

impl ProvenConnection {
    /// Tells a surplus lane, or a second donor, that there is no room for it. Takes a second at most.
    pub async fn turn_away(self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        match self.purpose {
            Purpose::Lane { .. } => drop(tokio::time::timeout(PATIENCE, refuse_lane(self.stream)).await),
            Purpose::Control { .. } => {
                let peer = self.peer();
                let mut control = Control::start(self.stream, peer, Deadlines::default());
                // Read its offer: data that meets a closed connection resets it, and the answer would be lost.
                let _ = tokio::time::timeout(PATIENCE, control.next()).await;
                let busy = Error::new(Kind::Busy, "this joiner has a donor already").on(Side::Joiner);
                let remedy = "if that donor was killed, the joiner gives it up after its idle-timeout, and ends";
                control.fail(&busy.remedy(remedy)).await;
            }
        }
    }
}

async fn refuse_lane(mut stream: Stream) -> std::io::Result<u64> {
    stream.write_all(&Answer::TurnedAway.encode()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
}
