//! TLS between clients and this server.

use super::certificates::{Files, Judge, Materials, Need};
use super::options::Group;
use super::{Channel, Node, Report};
use crate::tls::pem::Pem;
use crate::version::Series;

const HERE: Channel = Channel::Clients;

pub fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    let options = &node.options;
    let off =
        options.switch(Group::Server, "skip-ssl") == Some(true) || options.switch(Group::Server, "ssl") == Some(false);
    let (cert, key) = (options.server("ssl-cert"), options.server("ssl-key"));
    let files = Files {
        cert: cert.map(|path| node.path(path)),
        key: key.map(|path| node.path(path)),
        cas: node.paths([options.server("ssl-ca"), options.server("ssl-capath")]),
        crls: node.paths([options.server("ssl-crl"), options.server("ssl-crlpath")]),
    };
    match (cert, key) {
        _ if off => report.warning(
            HERE,
            "TLS is off (skip-ssl): clients' passwords and data cross the network unencrypted",
            "remove skip-ssl from [mysqld], and set ssl_cert, ssl_key and ssl_ca; `highline certs node` prints the lines",
        ),
        (Some(_), Some(_)) => {
            report.ok(HERE, "TLS is offered to clients");
            materials.add("clients", Judge::OpenSsl, files, Need::server());
            if options.switch(Group::Server, "require-secure-transport") != Some(true) {
                report.note(
                    HERE,
                    "clients may still connect without TLS; require_secure_transport=ON in [mysqld] forbids it",
                );
            }
        }
        (None, None) if serves_itself(node) => report.warning(
            HERE,
            "no certificate is configured: the server makes one at each start, which only clients of the same version can verify",
            "set ssl_cert, ssl_key and ssl_ca in [mysqld]; `highline certs node` prints the lines",
        ),
        (None, None) => report.warning(
            HERE,
            "no TLS: ssl_cert and ssl_key are not set, so clients' passwords and data cross the network unencrypted",
            "set ssl_cert, ssl_key and ssl_ca in [mysqld]; `highline certs node` prints the lines",
        ),
        (cert, key) => {
            let (has, lacks) = if cert.is_some() { ("ssl_cert", "ssl_key") } else { ("ssl_key", "ssl_cert") };
            // The server takes both from that file; if the other half is not in it, it does not start.
            let file = cert.or(key).and_then(|file| Pem::read(&node.path(file), "certificate").ok());
            match file.is_some_and(|pem| !pem.keys.is_empty() && !pem.certificates.is_empty()) {
                true => report.ok(HERE, format!("TLS is offered to clients; certificate and key are in the file of {has}")),
                false => report.error(
                    HERE,
                    format!("{has} is set, {lacks} is not, and the file does not contain both: the server will not start"),
                    format!("set {lacks} in [mysqld] too"),
                ),
            }
            materials.add("clients", Judge::OpenSsl, files, Need::server());
        }
    }
    if let Some(versions) = options.server("tls-version") {
        let old = |word: &&str| matches!(word.to_ascii_lowercase().as_str(), "tlsv1.0" | "tlsv1.1");
        if let Some(word) = versions.split(',').map(str::trim).find(old) {
            report.warning(
                HERE,
                format!("tls_version allows {word}, which RFC 8996 forbids"),
                "set tls_version=TLSv1.2,TLSv1.3 in [mysqld]",
            );
        }
    }
}

/// Since 11.4 the server makes a certificate of its own when it has none (MDEV-31856).
fn serves_itself(node: &Node) -> bool {
    let Some(version) = node.server_version() else { return false };
    Series::of(&version) >= Some(Series::new(11, 4))
}
