//! The conversation with the joiner once connected: offer, consent, what the source brings, seal, install.

use std::sync::Arc;
use std::time::Instant;

use super::answer::{OLD_TREE, SLOW, answer};
use super::brought::{Agreed, Brought};
use super::files::Files;
use super::lane::Lanes;
use super::offer::offer;
use super::pages::PageCheck;
use super::source::Source;
use super::stream::Stream;
use super::transfer::Transfer;
use super::{Report, SendOptions, Server, kept, reuse, say_bye};
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::manifest::{Checksum, Seal};
use crate::progress::{self, Meter, Phase, Reporter, follow, listed};
use crate::threads::blocking;
use crate::tls::Session;
use crate::tree::{Found, Roots};
use crate::wire::Message;

pub(super) async fn converse(
    options: SendOptions,
    (roots, found): (Roots, Vec<Found>),
    server: Arc<dyn Server>,
    reporter: &Arc<dyn Reporter>,
    control: &mut Control,
    session: Session,
) -> Result<Report> {
    let started = Instant::now();
    let (entries, total) = (found.len() as u64, found.iter().map(Found::size).sum());
    let source = match options.backup.clone() {
        Some(backup) => Source::Stream(Stream::new(backup, Arc::clone(&server), &roots, &found)?),
        None => Source::Files(Files::new(&options, Arc::clone(&server), total)),
    };
    if options.verify_pages && matches!(source, Source::Stream(_)) {
        reporter.note("verify-pages has no effect with source=mariabackup, which checks the pages itself");
    }
    let (reuse, after) = (source.may_reuse(), source.afterwards());
    for part in offer(&options, &roots, &found, reuse)?.into_messages()? {
        control.send(part).await?;
    }
    // The scan that counts comes when the server is frozen; two in memory at once would be a lot.
    drop(found);
    let idle = options.dialer.deadlines.idle;
    let accept =
        answer(control, idle, OLD_TREE, |m| if let Message::Accept(accept) = m { Ok(accept) } else { Err(m) }).await?;
    let lanes = accept.lanes.clamp(1, options.lanes);

    if !offered(options.checksum, accept.checksum) {
        let what = format!("{} chose the checksum {}, which was not offered", control.peer(), accept.checksum);
        return Err(Error::new(Kind::Protocol, what));
    }

    let basis = match accept.basis {
        true if !reuse => {
            return Err(Error::new(Kind::Protocol, format!("{} offers what was not asked for", control.peer())));
        }
        true => reuse::basis(control, idle).await?,
        false => Vec::new(),
    };
    let (there, asked) = (roots.clone(), Arc::clone(&server));
    let theirs = blocking(move || kept::respected(&there, &asked.rules()?, &accept.kept)).await?;
    if !theirs.is_empty() {
        let names: Vec<String> = theirs.iter().map(ToString::to_string).collect();
        reporter.note(&format!("not sent, because the joiner has its own there: {}", listed(&names)));
    }
    let meter = Arc::new(Meter::default());
    let reports = follow(Arc::clone(&meter), Arc::clone(reporter));
    let checksum = accept.checksum;
    let (rate, telling) = (Arc::clone(&options.rate), (Arc::clone(&meter), Arc::clone(reporter)));
    let mut transfer = Transfer::new(options.dialer, checksum, options.compression, rate, telling)?;
    transfer.pages = options.verify_pages.then(PageCheck::default);
    let transfer = Arc::new(transfer);
    reporter.note(&format!(
        "agreed with {}: {}, checksum {checksum}, compression {}; {} in {}",
        crate::error::Printable(accept.software.as_bytes()),
        progress::counted(lanes.into(), "lane", "lanes"),
        options.compression,
        progress::bytes(total),
        progress::entries(entries),
    ));
    reporter.phase(Phase::Scanning);
    let agreed = Agreed { roots, without: accept.without, theirs, offered: basis };
    let running = Lanes::dial(Arc::clone(&transfer), lanes);
    let Brought { seal, bytes, rounds, frozen } = source.bring(control, running, agreed).await?;
    drop(reports);

    reporter.phase(Phase::Verifying);
    let Seal { entries, digest } = seal;
    control.send(Message::Seal { entries, digest }).await?;
    answer(control, idle, SLOW, |m| if let Message::Verified = m { Ok(()) } else { Err(m) }).await?;
    reporter.phase(after);
    reporter.note(&format!("verified by the joiner, which is now {}", after.words()));
    control.expect(|m| if let Message::Durable = m { Ok(()) } else { Err(m) }).await?;
    say_bye(control).await?;

    let end = meter.snapshot();
    Ok(Report {
        bytes,
        wire_bytes: end.wire,
        reused_bytes: transfer.reused.bytes(),
        entries,
        seconds: started.elapsed().as_secs_f64(),
        frozen,
        rounds,
        lanes,
        checksum,
        compression: transfer.compression.summary(),
        session,
    })
}

/// Whether the offer allowed this checksum.
fn offered(only: Option<Checksum>, chosen: Checksum) -> bool {
    only.is_none_or(|only| only == chosen)
}
