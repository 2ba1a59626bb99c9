//! Who comes to a joiner once it has its donor: that donor's lanes, its control connection again, and other donors.

use tokio::sync::mpsc;

use super::{Control, Deadlines, Lanes, ProvenConnection, Stream};
use crate::error::{Error, Kind, Side};
use crate::wire::Purpose;

/// What comes of the donor's; the port closes when both are dropped.
#[derive(Debug)]
pub struct Followers {
    pub lanes: mpsc::Receiver<ProvenConnection>,
    /// Its control connection, dialled again.
    pub control: mpsc::Receiver<Stream>,
}

impl Followers {
    /// Sorts whoever comes after the donor of `session`. Needs a runtime.
    pub fn of(mut connections: mpsc::Receiver<ProvenConnection>, session: u64) -> Followers {
        // A lane and the one that takes its place. What nobody takes is dropped, and the donor dials it again.
        let (lane, lanes) = mpsc::channel(2 * usize::from(Lanes::MAX));
        let (again, control) = mpsc::channel(4);
        tokio::spawn(async move {
            let sort = async {
                while let Some(connection) = connections.recv().await {
                    match connection.purpose {
                        Purpose::Lane { .. } => drop(lane.try_send(connection)),
                        Purpose::Control { session: theirs } if theirs == session => {
                            drop(again.try_send(connection.stream));
                        }
                        Purpose::Control { .. } => drop(tokio::spawn(turn_away(connection))),
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

/// A second donor.
async fn turn_away(connection: ProvenConnection) {
    let peer = connection.peer();
    let mut control = Control::start(connection.stream, peer, Deadlines::default());
    // Its offer, which would otherwise meet a closed connection.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), control.next()).await;
    let busy = Error::new(Kind::Busy, "this joiner has a donor already").on(Side::Joiner);
    let remedy = "where that donor was killed, the joiner gives it up after its idle-timeout, and ends";
    control.fail(&busy.remedy(remedy)).await;
}
