//! `highline pull`: a copy out of a running cluster, for which no server joins.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::destination::{looks_like_a_datadir, make, unused};
use super::privileges::become_owner;
use super::receive::tell;
use super::{block_on, json, print};
use crate::arbitrator::{self, Request};
use crate::cli::PullArgs;
use crate::config::Wish;
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::joiner::{Outcome, Waiting};
use crate::progress::{Publish, Published, Reporter, Style};
use crate::stop::Stop;

pub(super) fn run(args: &PullArgs) -> Result<()> {
    let program = arbitrator::program()?;
    let wish = Wish::of(args)?;
    let limit = args.connect_timeout.limit();
    let here = wish.cluster.reach(limit)?;
    make(&args.to, args.user.as_deref())?;
    let (tree, aside) = wish.tree(args);
    let (order, notes) = wish.joiner(args, tree, here)?;
    if args.replace {
        looks_like_a_datadir(order.roots.datadir())?
    } else {
        unused(&order.roots)?
    }
    become_owner(order.roots.datadir())?;
    let listen = wish.group_listen.map_or_else(|| arbitrator::listen_near(here), Ok)?;
    let Wish { cluster, group, donor, provider, .. } = wish;
    let request = Request { program, cluster, group, donor, provider, listen };
    let reporter: Arc<dyn Reporter> = Style::from(args.talk.progress).reporter(Side::Joiner);
    aside.iter().chain(&notes).for_each(|note| reporter.note(note));
    let outcome = block_on(async {
        let (_, stop) = Stop::on_signals()?;
        let waiting = Waiting::bind(order, &*reporter)?;
        let metrics = args.talk.metrics.as_deref();
        let published = Published::new(
            Arc::clone(&reporter),
            Publish { datadir: Some(&args.to), role: Side::Joiner, metrics, rate: None },
        );
        let outcome = take(waiting, &request, limit, Arc::clone(&published) as _, &stop).await;
        published.end(outcome.as_ref().map(Outcome::reused));
        outcome
    })
    .map_err(|e| e.on(Side::Joiner))?;
    let Outcome::Installed(report) = &outcome else {
        return Err(Error::new(Kind::Protocol, "the donor sent no data").on(Side::Donor));
    };
    tell(&outcome, &*reporter, "a server that is started on this copy joins its cluster by IST from there");
    if args.talk.json {
        print(&mut std::io::stdout(), &format!("{}\n", json(report)?))?;
    }
    Ok(())
}

/// How long garbd may take to leave once the copy is whole.
const LEAVE: Duration = Duration::from_secs(5);

/// Listens first, then asks. Whoever ends first with an error ends the other.
async fn take(
    waiting: Waiting,
    request: &Request,
    limit: Duration,
    reporter: Arc<dyn Reporter>,
    stop: &Stop,
) -> Result<Outcome> {
    let (ticket, place) = (waiting.ticket().clone(), waiting.place());
    let said = Arc::clone(&reporter);
    said.note(&format!("asking the cluster {} for a copy to {place}", Printable(request.group.as_bytes())));
    let (chosen, asked) = tokio::sync::oneshot::channel::<()>();
    let mut received = pin!(waiting.receive_when(async { _ = asked.await }, reporter, stop));
    let left = |donor: &str| {
        said.note(&format!("{} was chosen to send; garbd has left the cluster", Printable(donor.as_bytes())));
    };
    let donor = {
        let mut asked = pin!(request.ask(&ticket, &*said, limit));
        tokio::select! {
            received = &mut received => {
                // A small copy can be whole before garbd has left.
                if received.is_ok() && let Ok(Ok(donor)) = tokio::time::timeout(LEAVE, asked).await {
                    left(&donor);
                }
                return received;
            }
            asked = &mut asked => asked?,
        }
    };
    let _ = chosen.send(());
    left(&donor);
    received.await
}
