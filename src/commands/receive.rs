//! `highline receive`: the joiner's side, by hand.

use std::io::Write;
use std::sync::Arc;

use super::{block_on, json};
use crate::cli::ReceiveArgs;
use crate::config;
use crate::error::{Error, Kind, Result, Side};
use crate::joiner::{Outcome, Waiting};
use crate::progress::Style;
use crate::stop::Stop;

pub(super) fn run(args: &ReceiveArgs) -> Result<()> {
    let order = config::joiner(args)?;
    let reporter = Style::from(args.talk.progress).reporter();
    let outcome = block_on(async {
        let (_, stop) = Stop::on_signals().map_err(|e| Error::new(Kind::Io, "cannot watch for signals").because(e))?;
        let waiting = Waiting::bind(order, &*reporter)?;
        let ticket = waiting.ticket().reveal();
        writeln!(std::io::stdout(), "{}", *ticket)
            .map_err(|e| Error::new(Kind::Io, "cannot print the ticket").because(e))?;
        reporter.note(&format!(
            "waiting for a donor at {}; give it the ticket: highline send --datadir DIR TICKET",
            waiting.ticket().address
        ));
        waiting.receive(Arc::clone(&reporter), &stop).await
    })
    .map_err(|e| e.on(Side::Joiner))?;
    match outcome {
        Outcome::Bypass { .. } => reporter.note("the donor had nothing to send; nothing was touched"),
        Outcome::Installed(report) => {
            reporter.note(&format!("installed: {report}"));
            match &report.position {
                Some(position) => reporter.note(&format!("position {position}: the node can join by IST from there")),
                None => reporter.warn(super::send::NO_POSITION),
            }
            if args.talk.json {
                eprintln!("{}", json(&report)?);
            }
        }
    }
    Ok(())
}
