//! `highline send`: the donor, by hand.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::freeze_command::Commanded;
use super::privileges::become_owner;
use super::{block_on, json, pipe, print};
use crate::cli::SendArgs;
use crate::config;
use crate::donor::{self, Server};
use crate::error::{Error, Kind, Result, Side};
use crate::install::{running, server_holding};
use crate::pipe::End;
use crate::progress::{Publish, Published, Reporter, Style};
use crate::sst::grastate::{Grastate, NO_POSITION};
use crate::sst::version::ServerVersion;
use crate::stop::Stop;
use crate::tls::Ticket;

pub(super) fn run(args: &SendArgs) -> Result<()> {
    if let Some(producer) = producer(args)? {
        let ticket = match &producer {
            End::Open(file) if args.ticket == "-" => ticket_of(first_line(file)?)?,
            _ => ticket(&args.ticket)?,
        };
        return pipe::send(args, ticket, producer).map_err(|e| e.on(Side::Donor));
    }
    let ticket = ticket(&args.ticket)?;
    let (mut order, unattended) = config::donor(args, ticket)?;
    become_owner(order.roots.datadir()).map_err(|e| e.on(Side::Donor))?;
    if !order.live
        && let Some(held) = server_holding(&order.roots)?
    {
        return Err(running(&held).on(Side::Donor).remedy(
            "stop it first; or freeze it yourself and use --live; or give --freeze-command a command that freezes it",
        ));
    }
    let reporter: Arc<dyn Reporter> = Style::from(args.talk.progress).reporter(Side::Donor);
    order.position = Grastate::position(order.roots.datadir())?;
    // A backup tells its own.
    if order.position.is_none() && args.freeze_command.is_none() && order.backup.is_none() {
        reporter.warn(NO_POSITION);
    }
    let server: Arc<dyn Server> = match &args.freeze_command {
        Some(command) => {
            Arc::new(Commanded::new(command, order.roots.datadir(), unattended.rules, Arc::clone(&reporter)))
        }
        None => Arc::new(unattended),
    };
    let version = ServerVersion::of_files(&order.roots);
    order.server_version = version.text().map(str::to_owned);
    if order.server_version.is_none() {
        reporter.warn(&version.explain().1);
    }
    let (metrics, rate) = (args.talk.metrics.as_deref(), Some(Arc::clone(&order.rate)));
    let publish = Publish { datadir: Some(order.roots.datadir()), role: Side::Donor, metrics, rate };
    let published = Published::new(Arc::clone(&reporter), publish);
    let sent = block_on(async {
        let (_, stop) = Stop::on_signals()?;
        donor::send(order, server, Arc::clone(&published) as _, &stop).await
    })
    .map_err(|e| e.on(Side::Donor));
    published.end(sent.as_ref().map(|report| report.reused_bytes));
    let report = sent?;
    reporter.note(&format!("done: {report}"));
    if args.talk.json {
        print(&mut std::io::stdout(), &format!("{}\n", json(&report)?))?;
    }
    Ok(())
}

/// What brings the byte stream, if it is one that is sent.
fn producer(args: &SendArgs) -> Result<Option<End>> {
    if !args.program.is_empty() {
        return Ok(Some(End::Program(args.program.clone())));
    }
    args.stdin.then(End::stdin).transpose()
}

/// Bytes to read of a ticket at most; it is shorter.
const MOST: u64 = 4096;

fn ticket(typed: &str) -> Result<Ticket> {
    if typed != "-" {
        return Ok(typed.parse::<Ticket>()?);
    }
    let mut text = Zeroizing::new(String::new());
    // One line only: `receive`, at the other end of a pipe, keeps its output open until it ends.
    BufReader::new(std::io::stdin().take(MOST)).read_line(&mut text).map_err(unreadable)?;
    ticket_of(text)
}

/// Byte by byte, because the stream begins right after it.
fn first_line(mut file: &File) -> Result<Zeroizing<String>> {
    let (mut text, mut byte) = (Zeroizing::new(String::new()), [0]);
    while file.read(&mut byte).map_err(unreadable)? == 1 && byte != *b"\n" && (text.len() as u64) < MOST {
        text.push(byte[0].into());
    }
    Ok(text)
}

fn ticket_of(text: Zeroizing<String>) -> Result<Ticket> {
    if text.trim().is_empty() {
        return Err(Error::new(Kind::Usage, "there was no ticket on standard input")
            .remedy("`highline receive` prints it as its first line; if it printed none, it says why"));
    }
    Ok(text.trim().parse::<Ticket>()?)
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(Kind::Usage, "cannot read the ticket from standard input").because(error)
}
