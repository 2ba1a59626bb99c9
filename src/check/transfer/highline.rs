//! Our own method: always encrypted; which certificates, and how strictly the peer is looked at.
//!
//! It resolves the settings as a transfer does, in both roles, and tells what comes out.

use super::{HERE, check_script};
use crate::check::certificates::{Materials, Need};
use crate::check::replication::provider_option;
use crate::check::{Level, Node, Report};
use crate::error::Side;
use crate::sst::options::{Requested, Settings, SslMode, Tier, TlsSettings};
use crate::tls::Policy;
use crate::tls::config::provider;

pub(super) fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    check_script(node, "highline", report);
    if !node.has("highline") {
        let remedy = "install it where the server finds it: /usr/bin";
        report.error(HERE, "the program highline is not in PATH: every transfer fails", remedy);
    }
    for side in [Side::Joiner, Side::Donor] {
        match Settings::resolve(&node.options.files, side) {
            Err(e) => report.failure(HERE, Level::Error, &e),
            Ok(settings) => {
                check_mode(node, &settings.tls, report);
                check_policy(&settings.tls, report);
                for note in &settings.notes {
                    tell(note, report);
                }
                name_files(node, side, &settings.tls, materials);
            }
        }
    }
}

/// The remarks of the option reader; those that it calls warnings are.
fn tell(note: &str, report: &mut Report) {
    match note.split_once("WARNING: ") {
        Some((before, after)) => report.warning(HERE, format!("{before}{after}"), "correct the option, or take it out"),
        None => report.note(HERE, note),
    }
}

fn check_mode(node: &Node, tls: &TlsSettings, report: &mut Report) {
    let verifies = matches!(tls.mode, SslMode::VerifyCa | SslMode::VerifyIdentity);
    if verifies && tls.cert.is_none() {
        report.error(
            HERE,
            format!("ssl-mode={} needs a certificate and key of this node, and none is configured", tls.mode),
            "set cert and key in [highline]; highline certs node NAME makes them",
        );
        return;
    }
    let how = match tls.mode {
        SslMode::Unset | SslMode::Required => {
            "joiner and donor know each other by the ticket that the cluster carries between them"
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
    if !verifies && provider_option(node, "socket.ssl_key").is_none() {
        report.note(
            HERE,
            "the ticket travels in the replication traffic, which is in the clear: who reads that and reaches this node could pose as the donor",
        );
    }
}

fn check_policy(tls: &TlsSettings, report: &mut Report) {
    let judge = |wish: &Option<Requested>, name: &str, report: &mut Report| {
        let Some(wish) = wish else { return };
        let (versions, ciphers) =
            if name == "tls-version" { (Some(&*wish.text), None) } else { (None, Some(&*wish.text)) };
        match Policy::parse(versions, ciphers) {
            Ok(policy) => policy.notes().iter().for_each(|note| report.note(HERE, note)),
            // What the server's groups say is about clients, who may need what we do not offer.
            Err(e) if wish.tier == Tier::Server => {
                report
                    .note(HERE, format!("{}, so transfers do not follow {name} of the server's groups", e.sentence()));
            }
            Err(e) => report.failure(HERE, Level::Error, &e),
        }
    };
    judge(&tls.versions, "tls-version", report);
    judge(&tls.ciphers, "ssl-cipher", report);
}

/// Without verification no certificate of ours is needed: one is made for each transfer.
fn name_files(node: &Node, side: Side, tls: &TlsSettings, materials: &mut Materials) {
    let need = match (tls.mode, side) {
        (SslMode::Unset | SslMode::Required, _) => return,
        (_, Side::Donor) => Need::donor(),
        (mode, _) => Need::joiner(node, mode == SslMode::VerifyIdentity),
    };
    let cas = tls.ca.iter().chain(&tls.capath).cloned().collect();
    materials.add("state transfer", tls.cert.as_deref(), tls.key.as_deref(), cas, tls.crls.clone(), need);
}
