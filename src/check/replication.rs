//! TLS between the nodes: group communication and IST, which Galera's provider does.

use super::certificates::{Files, Judge, Materials, Need};
use super::options::is_off;
use super::{Channel, Node, Report};
use crate::error::Printable;
use crate::sst::options::{ProviderOptions, Tier};
use crate::tls::Policy;

const HERE: Channel = Channel::Replication;

pub fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    let Some(provider) = node.provider() else {
        report.note(HERE, "this is not a Galera node: wsrep_provider is not set");
        return;
    };
    check_activity(node, provider, report);
    let options = ProviderOptions::of(&node.options.files);
    for fault in options.faults() {
        report.error(
            HERE,
            format!("{fault}; the provider refuses it, and the server will not start"),
            "put the whole value on one line, in one pair of straight quotes: wsrep_provider_options=\"a=b;c=d\"",
        );
    }
    match options.lost() {
        Some(lost) if lost.weakens => report.warning(HERE, &lost.text, "join them into one line"),
        Some(lost) => report.note(HERE, &lost.text),
        None => {}
    }
    if !options.faults().is_empty() {
        return;
    }
    let get = |key| options.get(key);
    let (cert, key, ca) = (get("socket.ssl_cert"), get("socket.ssl_key"), get("socket.ssl_ca"));
    let off = get("socket.ssl").is_some_and(is_off);
    match (cert, key) {
        (Some(_), Some(_)) if off => report.error(
            HERE,
            "socket.ssl turns TLS off although socket.ssl_cert and socket.ssl_key are set",
            "remove socket.ssl from wsrep_provider_options",
        ),
        (Some(cert), Some(key)) => {
            report.ok(HERE, "replication and IST are encrypted (socket.ssl_cert, socket.ssl_key)");
            if get("socket.ssl_password_file").is_some() {
                report.note(HERE, "its key has a passphrase (socket.ssl_password_file), so it is not checked here, and transfers cannot use it");
                return verified(ca, report);
            }
            let files = Files {
                cert: Some(node.path(cert)),
                key: Some(node.path(key)),
                cas: node.paths([ca]),
                crls: Vec::new(),
            };
            materials.add("replication", Judge::OpenSsl, files, Need::both(node));
            verified(ca, report);
        }
        (None, None) => report.warning(
            HERE,
            "replication is not encrypted: every written row crosses the network readable, and any host that can reach the port can join",
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
                format!("{has} is set but {lacks} is not: the provider will not load"),
                format!("set {lacks} in wsrep_provider_options too"),
            );
        }
    }
    if get("socket.dynamic").is_some_and(|value| !is_off(value)) {
        report.warning(
            HERE,
            "socket.dynamic lets in nodes without TLS; it is only meant for a rolling change",
            "remove socket.dynamic from wsrep_provider_options once every node has TLS",
        );
    }
    if let Some(cipher) = get("socket.ssl_cipher")
        && Policy::parse(None, Some(cipher)).is_err()
    {
        report.warning(
            HERE,
            format!("socket.ssl_cipher={cipher} asks for a cipher that TLS 1.3 has dropped"),
            "remove socket.ssl_cipher, or use ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384",
        );
    }
}

/// Does the server load the provider at all?
fn check_activity(node: &Node, provider: &str, report: &mut Report) {
    let on = node.is_on();
    if !on {
        report.warning(
            HERE,
            "wsrep_on is OFF, the default: Galera is not active, and this server runs alone; what follows assumes ON",
            "set wsrep_on=ON in [mysqld]",
        );
    }
    if !node.path(provider).exists() {
        let shown = Printable(provider.as_bytes());
        let text = format!("wsrep_provider={shown} does not exist");
        let remedy =
            "install Galera (galera-4), and give the path of its library, such as /usr/lib/galera/libgalera_smm.so";
        match on {
            true => report.error(HERE, format!("{text}: the server does not start"), remedy),
            false => report.warning(HERE, text, remedy),
        }
    }
    for item in node.options.files.tier(Tier::Server).iter().filter(|item| item.key.starts_with("pxc-")) {
        report.warning(
            HERE,
            format!(
                "{} is an option of Percona XtraDB Cluster: in MariaDB it encrypts nothing, and the server does not start with it unless it is written loose-{}",
                item.name(),
                item.key
            ),
            "remove it, and secure each kind of traffic by its own options; `highline certs node` prints them",
        );
    }
}

fn verified(ca: Option<&str>, report: &mut Report) {
    match ca {
        // Galera 26.4.23: "certificate verify failed: unable to get local issuer certificate", forever.
        None => report.error(
            HERE,
            "socket.ssl_ca is not set: Galera verifies the other nodes but has no CA to verify them with, so no node can join",
            "set socket.ssl_ca in wsrep_provider_options",
        ),
        Some(_) => report.note(
            HERE,
            "Galera verifies the chain but no name: any certificate from that CA may join, so use a separate CA for this cluster",
        ),
    }
}
