//! `highline receive`: the joiner's side, by hand.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{block_on, json};
use crate::cli::ReceiveArgs;
use crate::config;
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::{HOME, LOCK, MANIFEST};
use crate::joiner::{Outcome, Waiting};
use crate::progress::Style;
use crate::stop::Stop;

pub(super) fn run(args: &ReceiveArgs) -> Result<()> {
    let (order, binlog) = config::joiner(args)?;
    looks_like_a_datadir(order.roots.datadir())?;
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
        Outcome::Bypass(_) => reporter.note("the donor had nothing to send; nothing was touched"),
        Outcome::Installed(report) => {
            if let Some(binlog) = binlog {
                binlog.index_arrived().map_err(|e| e.on(Side::Joiner))?;
            }
            reporter.note(&format!("installed: {report}"));
            match &report.position {
                Some(gtid) => {
                    reporter.note(&format!("position {}: the node can join by IST from there", gtid.position))
                }
                None => reporter.warn(super::send::NO_POSITION),
            }
            if args.talk.json {
                eprintln!("{}", json(&report)?);
            }
        }
    }
    Ok(())
}

/// Everything in the directory is going to be replaced, so a mistyped one must not be taken for a server's.
fn looks_like_a_datadir(datadir: &Path) -> Result<()> {
    const SIGNS: [&str; 8] =
        ["ibdata1", "ib_logfile0", "aria_log_control", "mysql", "grastate.dat", "galera.cache", MANIFEST, HOME];
    let failed = |e| Error::io("cannot read the directory", datadir, e);
    let empty = std::fs::read_dir(datadir).map_err(failed)?.filter_map(|item| item.ok()).all(|item| {
        // What an empty filesystem has, and what an attempt before this one left.
        matches!(item.file_name().to_str(), Some("lost+found" | LOCK))
    });
    if empty || SIGNS.iter().any(|sign| datadir.join(sign).symlink_metadata().is_ok()) {
        return Ok(());
    }
    let what = format!("{} is not empty, and nothing in it is a database server's", Printable::path(datadir));
    Err(Error::new(Kind::Usage, what)
        .on(Side::Joiner)
        .remedy("look at --datadir again; if it is right, empty it first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_directory_is_not_taken_for_a_servers() {
        let dir = tempfile::tempdir().unwrap();
        looks_like_a_datadir(dir.path()).unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        let error = looks_like_a_datadir(dir.path()).unwrap_err();
        assert!(error.sentence().ends_with("is not empty, and nothing in it is a database server's"));
        std::fs::write(dir.path().join("ibdata1"), "x").unwrap();
        looks_like_a_datadir(dir.path()).unwrap();
    }
}
