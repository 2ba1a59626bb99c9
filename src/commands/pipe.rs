//! `highline send` and `highline receive` of a byte stream.

use std::io::Write;
use std::sync::Arc;

use super::{block_on, json, print};
use crate::cli::{ReceiveArgs, SendArgs};
use crate::config;
use crate::donor;
use crate::error::{Error, Kind, Result, Side};
use crate::joiner::PipeWaiting;
use crate::pipe::End;
use crate::progress::{Publish, Published, Reporter, Style, line};
use crate::stop::Stop;
use crate::tls::Ticket;

pub(super) fn send(args: &SendArgs, ticket: Ticket, producer: End) -> Result<()> {
    let order = config::pipe_donor(args, ticket, producer)?;
    let reporter: Arc<dyn Reporter> = Style::from(args.talk.progress).reporter(Side::Donor);
    let (metrics, rate) = (args.talk.metrics.as_deref(), Some(Arc::clone(&order.rate)));
    let publish = Publish { datadir: None, role: Side::Donor, metrics, rate };
    let published = Published::new(Arc::clone(&reporter), publish);
    let sent = block_on(async {
        let (_, stop) = Stop::on_signals()?;
        donor::pipe(order, Arc::clone(&published) as _, &stop).await
    })
    .map_err(|e| e.on(Side::Donor));
    published.end(sent.as_ref().map(|_| 0));
    let report = sent?;
    reporter.note(&format!("done: {report}"));
    if args.talk.json {
        print(&mut std::io::stdout(), &format!("{}\n", json(&report)?))?;
    }
    Ok(())
}

pub(super) fn receive(args: &ReceiveArgs, consumer: End) -> Result<()> {
    let order = config::pipe_joiner(args, consumer)?;
    let reporter: Arc<dyn Reporter> = Style::from(args.talk.progress).reporter(Side::Joiner);
    let metrics = args.talk.metrics.as_deref();
    let publish = Publish { datadir: None, role: Side::Joiner, metrics, rate: None };
    let published = Published::new(Arc::clone(&reporter), publish);
    let received = block_on(async {
        let (_, stop) = Stop::on_signals()?;
        let waiting = PipeWaiting::bind(order)?;
        let ticket = waiting.ticket().reveal();
        if args.stdout {
            // Standard output is for the stream alone.
            line(&ticket);
        } else {
            writeln!(std::io::stdout(), "{}", *ticket)
                .map_err(|e| Error::new(Kind::Io, "cannot print the ticket").because(e))?;
        }
        reporter.note(&format!(
            "waiting for a donor at {}; give it the ticket: highline send TICKET -- PROGRAM",
            waiting.place()
        ));
        waiting.receive(Arc::clone(&published) as _, &stop).await
    })
    .map_err(|e| e.on(Side::Joiner));
    published.end(received.as_ref().map(|_| 0));
    let report = received?;
    reporter.note(&format!("done, verified to the last byte: {report}"));
    if args.talk.json {
        line(&json(&report)?);
    }
    Ok(())
}
