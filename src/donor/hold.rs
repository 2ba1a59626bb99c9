//! How long a server may stay frozen for a round, and how a round ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Server;
use super::lane::Lanes;
use super::transfer::Round;
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::threads::{self, blocking, or_never};

/// How long a server may stay frozen for one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hold {
    pub(super) until: Option<Instant>,
    /// While nothing reaches the joiner.
    pub(super) cut: Option<Duration>,
}

impl Hold {
    pub(super) fn over(self, control: &Control) -> impl Future<Output = Sent> + use<> {
        let late = or_never(self.until.map(|until| tokio::time::sleep_until(until.into())));
        let cut = or_never(self.cut.map(|bound| control.cut_for(bound)));
        async move {
            tokio::select! {
                () = late => Sent::Late,
                () = cut => Sent::Cut,
            }
        }
    }
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// It was broken off and the server released: its time was up.
    Late,
    /// The same, because nothing had reached the joiner for too long.
    Cut,
}

/// Returns when all of the round's work is acknowledged, or fails with the lanes. Once `over` resolves the rest is left
/// out.
pub(super) async fn finished(
    lanes: &mut Lanes,
    server: &Arc<dyn Server>,
    round: &Round,
    over: impl Future<Output = Sent>,
) -> Result<Sent> {
    let over = async {
        let why = over.await;
        round.queue.abandon();
        // What is in flight was read already; it does not need a frozen server.
        let server = Arc::clone(server);
        let released = blocking(move || server.release()).await;
        round.queue.finished().await;
        released.map(|()| why)
    };
    tokio::select! {
        biased;
        all = arrived(lanes, round) => all.map(|()| Sent::Whole),
        over = over => over,
    }
}

/// Returns when all of the round's work is acknowledged, or fails with the lanes; never of a round that is abandoned.
pub(super) async fn arrived(lanes: &mut Lanes, round: &Round) -> Result<()> {
    let Lanes { running, transfer } = lanes;
    let failed = async {
        while let Some(ended) = running.join_next().await {
            threads::ended("a lane", ended)?;
        }
        Err(Error::new(Kind::Io, "the lanes ended before the work did"))
    };
    let stuck = async {
        loop {
            tokio::time::sleep((transfer.dialer.deadlines.idle / 10).min(Duration::from_secs(1))).await;
            if transfer.rounds.is_closed() {
                return Err(Error::new(Kind::Io, "packing ended before the work did"));
            }
            if let Some(error) = transfer.stuck(Instant::now()) {
                return Err(error);
            }
        }
    };
    let whole = async {
        round.queue.finished().await;
        if round.queue.is_abandoned() {
            // Whoever broke it off says why.
            std::future::pending().await
        }
    };
    tokio::select! {
        biased;
        () = whole => Ok(()),
        failed = failed => failed,
        stuck = stuck => stuck,
    }
    .map_err(|error| transfer.rounds.failure().unwrap_or(error))
}
