//! TLS between the nodes: group communication and IST, which Galera's provider does.

use crate::check::certificates::{Materials, Need};
use crate::check::node::paths;
use crate::check::{Channel, Node, Report};
use crate::tls::Policy;

const HERE: Channel = Channel::Replication;

/// The value of `key` in `wsrep_provider_options`; the last one counts.
pub(crate) fn provider_option<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    let all = node.options.server("wsrep-provider-options")?;
    let mut pairs = all.split(';').filter_map(|pair| pair.split_once('='));
    let value = pairs.rfind(|(name, _)| name.trim() == key)?.1.trim();
    (!value.is_empty()).then_some(value)
}

pub fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    if !node.is_galera() {
        report.note(HERE, "this is no Galera node: wsrep_provider is not set");
        return;
    }
    let get = |key| provider_option(node, key);
    let (cert, key, ca) = (get("socket.ssl_cert"), get("socket.ssl_key"), get("socket.ssl_ca"));
    let off = get("socket.ssl")
        .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "no" | "0" | "false" | "off"));
    match (cert, key) {
        (Some(_), Some(_)) if off => report.error(
            HERE,
            "socket.ssl switches TLS off although socket.ssl_cert and socket.ssl_key are set",
            "take socket.ssl out of wsrep_provider_options",
        ),
        (Some(cert), Some(key)) => {
            report.ok(HERE, "replication and IST are encrypted (socket.ssl_cert, socket.ssl_key)");
            if get("socket.ssl_password_file").is_some() {
                report.note(HERE, "its key has a passphrase (socket.ssl_password_file), so it is not looked at here, and transfers cannot use it");
                return verified(ca, report);
            }
            materials.add("replication", Some(cert), Some(key), paths([ca]), Vec::new(), Need::both(node, false));
            verified(ca, report);
        }
        (None, None) => report.warning(
            HERE,
            "replication is in the clear: every written row crosses the network readable, and any host that reaches the port can join",
            "set socket.ssl_cert, socket.ssl_key and socket.ssl_ca in wsrep_provider_options; `highline certs node` prints the line",
        ),
        (cert, _) => {
            let (has, lacks) = if cert.is_some() {
                ("socket.ssl_cert", "socket.ssl_key")
            } else {
                ("socket.ssl_key", "socket.ssl_cert")
            };
            report.error(
                HERE,
                format!("{has} is set and {lacks} is not: the provider will not load"),
                format!("set {lacks} in wsrep_provider_options too"),
            );
        }
    }
    if get("socket.dynamic")
        .is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "no" | "0" | "false" | "off"))
    {
        report.warning(
            HERE,
            "socket.dynamic lets nodes without TLS in; it is for the time of a rolling change only",
            "take socket.dynamic out of wsrep_provider_options when every node has TLS",
        );
    }
    if let Some(cipher) = get("socket.ssl_cipher")
        && Policy::parse(None, Some(cipher)).is_err()
    {
        report.warning(
            HERE,
            format!("socket.ssl_cipher={cipher} asks for a cipher that TLS 1.3 left behind"),
            "take socket.ssl_cipher out, or use ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384",
        );
    }
}

fn verified(ca: Option<&str>, report: &mut Report) {
    match ca {
        // Galera 26.4.23: "certificate verify failed: unable to get local issuer certificate", for ever.
        None => report.error(
            HERE,
            "socket.ssl_ca is not set: Galera verifies the other nodes and has no authority to do it by, so no node can join",
            "set socket.ssl_ca in wsrep_provider_options",
        ),
        Some(_) => report.note(
            HERE,
            "Galera verifies the chain and no name: every certificate of that CA may join, so use a CA for this cluster alone",
        ),
    }
}
