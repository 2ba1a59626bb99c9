//! Our own method: always encrypted; which certificates it uses, and how strictly it checks the peer.
//!
//! Resolves the settings as a transfer does, in both roles, and reports the result.

use super::{HERE, backup, check_script};
use crate::backup::DataSource;
use crate::check::certificates::{Files, Judge, Materials, Need};
use crate::check::own::{Own, listen_at};
use crate::check::{Level, Node, Report};
use crate::error::{Error, Printable, Result, Side};
use crate::sst::layout::Layout;
use crate::sst::options::{ProviderOptions, Settings, SslMode, TlsSettings};
use crate::tls::provider::provider;

pub(super) fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    check_script(node, "highline", report);
    if !node.has("highline") {
        let remedy = "install it where the server looks: /usr/bin";
        report.error(HERE, "the program highline is not in PATH: every transfer fails", remedy);
    }
    check_own_paths(node, report);
    let mut notes = Vec::new();
    let mut failures: Vec<String> = Vec::new();
    for side in [Side::Joiner, Side::Donor] {
        let mut failed = |error: &Error, report: &mut Report| {
            failures.push(error.sentence());
            report.unreadable(HERE, error);
        };
        let settings = match Settings::resolve(&node.options.files, side, &node.datadir()) {
            Ok(settings) => settings,
            Err(e) => {
                failed(&e, report);
                continue;
            }
        };
        match judge(node, side, &settings) {
            Ok(own) => {
                check_mode(node, &settings.tls, report);
                notes.extend(own.notes);
            }
            Err(e) => failed(&e, report),
        }
        name_files(side, &settings.tls, materials);
        if side == Side::Donor && settings.backup.source == DataSource::Mariabackup {
            backup::check(node, &settings.backup, report);
        }
        notes.extend(settings.notes);
    }
    // What stops one role is a warning for the other.
    notes.retain(|note| !failures.iter().any(|failure| note.contains(failure)));
    notes.iter().for_each(|note| tell(note, report));
}

/// Everything a transfer checks before it says `ready` or dials.
fn judge(node: &Node, side: Side, settings: &Settings) -> Result<Own> {
    let host = node.announced().filter(|_| side == Side::Joiner);
    if side == Side::Joiner {
        listen_at(settings.listen.as_ref(), host.as_deref().unwrap_or_default(), None)?;
    }
    Own::of(&settings.tls, side, host.as_deref(), node.now)
}

/// The server's own files among its data: a transfer has to tell the two apart.
fn check_own_paths(node: &Node, report: &mut Report) {
    let datadir = node.datadir();
    if !datadir.is_dir() {
        return;
    }
    match Layout::of_files(&datadir, &node.options.files) {
        Err(e) => report.failure(HERE, Level::Error, &e),
        Ok(layout) => {
            for own in layout.own.iter() {
                let (option, path) = (Printable(own.option.as_bytes()), own.path());
                report.warning(
                    HERE,
                    format!(
                        "{option}: {} is among the data; it belongs to this node, so no transfer sends or replaces it",
                        Printable::path(&path)
                    ),
                    format!("set {option} to a path outside the data directory"),
                );
            }
        }
    }
}

/// Reports a note of the option reader; one marked as a warning is a warning.
fn tell(note: &str, report: &mut Report) {
    match note.split_once("WARNING: ") {
        Some((before, after)) => report.warning(HERE, format!("{before}{after}"), "correct the option, or remove it"),
        None => report.note(HERE, note),
    }
}

fn check_mode(node: &Node, tls: &TlsSettings, report: &mut Report) {
    let how = match tls.mode {
        SslMode::Unset | SslMode::Required => {
            "joiner and donor recognise each other by the ticket that the cluster carries between them"
        }
        SslMode::VerifyCa => "both sides verify ticket and chain",
        SslMode::VerifyIdentity => "both sides verify ticket and chain, the donor the joiner's name too",
    };
    report.ok(HERE, format!("highline encrypts with TLS 1.3; {how}"));
    if provider().fips() {
        report.ok(
            HERE,
            "this build of highline takes its cryptography from AWS-LC's FIPS module, with approved algorithms only",
        );
    }
    if !tls.verifies() && ProviderOptions::of(&node.options.files).get("socket.ssl_key").is_none() {
        report.note(
            HERE,
            "the ticket travels in the replication traffic, which is not encrypted: whoever can read that and reach this node could pose as the donor",
        );
    }
}

/// Without verification no certificate is needed: one is made for each transfer.
fn name_files(side: Side, tls: &TlsSettings, materials: &mut Materials) {
    if !tls.verifies() {
        return;
    }
    let need = if side == Side::Donor { Need::donor() } else { Need::server() };
    let cas = tls.ca.iter().chain(&tls.capath).cloned().collect();
    let files = Files { cert: tls.cert.clone(), key: tls.key.clone(), cas, crls: tls.crls.clone() };
    materials.add("state transfer", Judge::Highline, files, need);
}
