//! The rounds as they arrive: lanes come and go, the donor announces and withdraws, files already here are seeded,
//! until the seal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::conversation::{Conversation, stands_still};
use super::lanes::Lanes;
use super::ledger::Ledger;
use super::seeding::{Order, Seeding};
use super::{lane, preflight};
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::manifest::Seal;
use crate::progress::Phase;
use crate::threads::{blocking, or_never};
use crate::tree::{PathError, RelPath};
use crate::wire::{Message, Offer, WireBytes};

impl Conversation {
    /// Runs the lanes of all rounds until the donor seals the last, once everything is
    /// acknowledged.
    pub(super) async fn gather(
        &mut self,
        control: &mut Control,
        ledger: &Arc<Ledger>,
        offer: &Offer,
        most: u16,
        order: Option<Order>,
    ) -> Result<Seal> {
        let idle = self.options.deadlines.idle;
        let (turn, turns) = watch::channel(0);
        let (meter, in_hand) = (Arc::clone(&self.meter), Arc::<AtomicU64>::default());
        let sink = lane::Sink::Tree(Arc::clone(ledger));
        let shared = lane::Shared { sink, meter, in_hand: Arc::clone(&in_hand), turn: turns };
        let mut lanes = Lanes::new(shared, most);
        let mut withdrawn = Vec::new();
        let mut last = (0, Instant::now());
        // A stream comes as the backup is made; the donor sees whether that stands still.
        let mut under_way = !ledger.is_streamed();
        let mut seeding = order.map(|order| Seeding::start(order, Arc::clone(ledger), Arc::clone(&self.reporter)));
        let mut compared = 0;
        loop {
            let seeds = or_never(seeding.as_mut().map(Seeding::next));
            tokio::select! {
                message = seeds => control.send(message).await?,
                Some(connection) = self.connections.recv() => lanes.take(connection),
                Some(ended) = lanes.ended() => ended?,
                message = control.next() => match message? {
                    Message::Seal { entries, digest } => {
                        lanes.farewell().await?;
                        return Ok(Seal { entries, digest });
                    }
                    // What follows, perhaps a freeze, may take a while.
                    Message::RoundOver { .. } => {
                        under_way = false;
                        self.reporter.phase(Phase::Pausing);
                    }
                    Message::Compared { bytes } => {
                        let bytes = bytes.min(ledger.announced());
                        self.meter.add_done(bytes.saturating_sub(compared));
                        compared = compared.max(bytes);
                    }
                    Message::NoReuse => seeding.iter().for_each(Seeding::stop),
                    Message::Withdrawn { paths } => {
                        for path in paths {
                            withdrawn.push(RelPath::parse(path.as_bytes()).map_err(refused)?);
                        }
                        preflight::fits_offer(offer, withdrawn.len() as u64)?;
                    }
                    Message::Renamed { files } => {
                        let path = |path: WireBytes| RelPath::parse(path.as_bytes()).map_err(refused);
                        let pairs = files.into_iter().map(|(from, to)| Ok((path(from)?, path(to)?)));
                        let (ledger, pairs) = (Arc::clone(ledger), pairs.collect::<Result<Vec<_>>>()?);
                        blocking(move || pairs.iter().try_for_each(|(from, to)| ledger.rename(from, to))).await?;
                    }
                    Message::Round(round) => {
                        preflight::fits_offer(offer, round.entries)?;
                        let (number, streamed) = (round.number, round.streamed);
                        let (ledger, withdrawn) = (Arc::clone(ledger), std::mem::take(&mut withdrawn));
                        let begun = blocking(move || ledger.begin(round, withdrawn));
                        tokio::time::timeout(idle, begun).await.unwrap_or_else(|_| Err(stands_still()))?;
                        turn.send_replace(number);
                        compared = 0;
                        (under_way, last.1) = (!streamed, Instant::now());
                        self.reporter.phase(Phase::Copying);
                    }
                    other => return Err(control.unexpected(&other)),
                },
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    // While both sides compare, nothing need arrive.
                    let now = self.meter.snapshot();
                    let moved = now.wire + now.done + seeding.as_ref().map_or(0, Seeding::read);
                    if moved != last.0 || !under_way {
                        last = (moved, Instant::now());
                    } else if last.1.elapsed() > idle {
                        if in_hand.load(Ordering::Relaxed) > 0 {
                            return Err(Error::new(Kind::Timeout, format!("nothing could be written here for {} s", idle.as_secs_f64()))
                                .remedy("check whether this node's disk responds; idle-timeout sets the limit"));
                        }
                        return Err(Error::new(Kind::Timeout, format!("the donor has sent nothing for {} s", idle.as_secs_f64()))
                            .remedy("check whether its disk and the link respond; idle-timeout sets the limit"));
                    }
                }
            }
        }
    }
}

fn refused(error: PathError) -> Error {
    Error::new(Kind::Protocol, "a path from the donor was refused").because(error)
}
