//! Our own method: always encrypted; which certificates, and how strictly the peer is looked at.

use super::{HERE, check_script};
use crate::check::certificates::{Materials, Need};
use crate::check::node::paths;
use crate::check::options::Group;
use crate::check::replication::provider_option;
use crate::check::{Level, Node, Report};
use crate::error::Printable;
use crate::tls::Policy;

/// The more specific group wins; the server's own scripts decide the other way round.
const GROUPS: [Group; 3] = [Group::Highline, Group::Sst, Group::Server];
const PARTS: [&str; 4] = ["ca", "capath", "cert", "key"];

pub(super) fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    check_script(node, "highline", report);
    if !node.has("highline") {
        report.error(
            HERE,
            "the program highline is not in PATH: every transfer fails",
            "install it where the server finds it: /usr/bin",
        );
    }
    let options = &node.options;
    let [ca, capath, cert, _] = files(node, "server");
    let has_ca = ca.is_some() || capath.is_some();
    let encrypt = options.first(&[Group::Sst, Group::Server], "encrypt").map(|given| given.value);
    let mode = match options.first(&GROUPS, "ssl-mode") {
        Some(given) => given.value.to_ascii_uppercase().replace('-', "_"),
        None if matches!(encrypt, Some("2" | "3" | "4")) && has_ca => "VERIFY_CA".to_owned(),
        None => "REQUIRED".to_owned(),
    };
    if encrypt == Some("1") {
        report.error(
            HERE,
            "encrypt=1: a shared symmetric key is not supported, because it cannot tell who the peer is",
            "take encrypt and encrypt-… out: transfers are encrypted without any key",
        );
    }
    let verifies = matches!(mode.as_str(), "VERIFY_CA" | "VERIFY_IDENTITY");
    match mode.as_str() {
        "VERIFY_CA" | "VERIFY_IDENTITY" if !has_ca => {
            report.error(HERE, format!("ssl-mode={mode} needs a CA, and none is configured"), "set ca in [highline] or ssl_ca in [mysqld]");
        }
        "VERIFY_CA" | "VERIFY_IDENTITY" if cert.is_none() => report.error(
            HERE,
            format!("ssl-mode={mode} needs a certificate and key of this node, and none is configured"),
            "set cert and key in [highline]; highline certs node NAME makes them",
        ),
        "REQUIRED" => report.ok(
            HERE,
            "highline encrypts with TLS 1.3; joiner and donor know each other by the ticket that the cluster carries between them",
        ),
        "VERIFY_CA" => report.ok(HERE, "highline encrypts with TLS 1.3; both sides verify ticket and chain"),
        "VERIFY_IDENTITY" => report.ok(HERE, "highline encrypts with TLS 1.3; both sides verify ticket and chain, the donor the joiner's name too"),
        "DISABLED" | "PREFERRED" => report.error(
            HERE,
            format!("ssl-mode={mode}: highline refuses to copy a database in the clear"),
            "take ssl-mode out, or set REQUIRED: neither needs a certificate",
        ),
        other => report.error(
            HERE,
            format!("ssl-mode={} is not known", Printable(other.as_bytes())),
            "use REQUIRED, VERIFY_CA or VERIFY_IDENTITY",
        ),
    }
    if mode == "REQUIRED" && !replication_is_encrypted(node) {
        report.note(HERE, "the ticket travels in the replication traffic, which is in the clear: who reads that and reaches this node could pose as the donor");
    }
    check_policy(node, report);
    let crls =
        ["ssl-crl", "ssl-crlpath"].map(|key| options.first(&[Group::Sst, Group::Server], key).map(|given| given.value));
    let crls = match options.get(Group::Highline, "crl") {
        Some(own) => paths([Some(own)]),
        None => paths(crls),
    };
    let crls = if verifies { crls } else { Vec::new() };
    let needs = [("server", Need::joiner(node, mode == "VERIFY_IDENTITY")), ("client", Need::donor())];
    for (role, need) in needs {
        let [ca, capath, cert, key] = files(node, role);
        let cas = if verifies { paths([ca, capath]) } else { Vec::new() };
        materials.add("state transfer", cert, key, cas, crls.clone(), need);
    }
}

fn replication_is_encrypted(node: &Node) -> bool {
    provider_option(node, "socket.ssl_key").is_some()
}

/// CA, CA directory, certificate, key: from `[highline]`, the role's own, `t…` in `[sst]`, `ssl-…`, then Galera's.
fn files<'a>(node: &'a Node, role: &str) -> [Option<&'a str>; 4] {
    let options = &node.options;
    let general = |name: &str| options.first(&[Group::Sst, Group::Server], name).map(|given| given.value);
    let has_t = PARTS.iter().any(|part| options.get(Group::Sst, &format!("t{part}")).is_some());
    PARTS.map(|part| {
        options
            .get(Group::Highline, part)
            .or_else(|| general(&format!("ssl-{role}-{part}")))
            .or_else(|| options.get(Group::Sst, &format!("t{part}")))
            .or_else(|| match has_t {
                true => None,
                false => {
                    general(&format!("ssl-{part}")).or_else(|| provider_option(node, &format!("socket.ssl_{part}")))
                }
            })
    })
}

fn check_policy(node: &Node, report: &mut Report) {
    for key in ["tls-version", "ssl-cipher"] {
        let Some(given) = node.options.first(&GROUPS, key) else { continue };
        let parsed = match key {
            "tls-version" => Policy::parse(Some(given.value), None),
            _ => Policy::parse(None, Some(given.value)),
        };
        match parsed {
            Ok(policy) => policy.notes().iter().for_each(|note| report.note(HERE, note)),
            // What the server's groups say is about clients, who may need what we do not offer.
            Err(e) if given.group == Group::Server => {
                report.note(HERE, format!("{}, so transfers do not follow {}", e.sentence(), given.named(key)));
            }
            Err(e) => report.failure(HERE, Level::Error, &e),
        }
    }
}
