//! The certificates that the configuration names: readable, matching, trusted, for the right names, not too old.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::check::{Channel, Level, Node, Report};
use crate::error::{Kind, Printable};
use crate::tls::verification::{Purpose, peer_name};
use crate::tls::{Authorities, Certificate, Identity};

const HERE: Channel = Channel::Certificates;
/// A certificate that ends sooner is a warning.
const SOON_DAYS: i64 = 30;
/// An authority that ends sooner is one: to replace it takes longer.
const SOON_DAYS_AUTHORITY: i64 = 90;

/// What a certificate must be good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    server: bool,
    client: bool,
    /// The addresses that it must name.
    names: Vec<String>,
    /// Peers verify the name: without it they refuse.
    names_count: bool,
}

impl Need {
    /// A TLS server only.
    pub fn server() -> Need {
        Need { server: true, ..Need::default() }
    }

    /// The joiner's end of a transfer: a server, under the addresses that other nodes dial.
    pub fn joiner(node: &Node, names_count: bool) -> Need {
        Need { client: false, ..Need::both(node, names_count) }
    }

    /// The donor's end of a transfer: a client.
    pub fn donor() -> Need {
        Need { client: true, ..Need::default() }
    }

    /// Server and client in turn, under the addresses that other nodes dial.
    pub fn both(node: &Node, names_count: bool) -> Need {
        Need { server: true, client: true, names: node.addresses(), names_count }
    }
}

/// Files that belong together, and what uses them.
#[derive(Clone, Debug)]
struct Material {
    cert: PathBuf,
    key: PathBuf,
    cas: Vec<PathBuf>,
    crls: Vec<PathBuf>,
    need: Need,
    used_by: BTreeSet<&'static str>,
}

/// All that the channels named; the same files are looked at once.
#[derive(Clone, Debug, Default)]
pub struct Materials(Vec<Material>);

impl Materials {
    pub fn add(
        &mut self,
        used_by: &'static str,
        cert: Option<&(impl AsRef<Path> + ?Sized)>,
        key: Option<&(impl AsRef<Path> + ?Sized)>,
        cas: Vec<PathBuf>,
        crls: Vec<PathBuf>,
        need: Need,
    ) {
        // A file that is named alone holds both.
        let (cert, key) = (cert.map(AsRef::as_ref), key.map(AsRef::as_ref));
        let (Some(cert), Some(key)) = (cert.or(key), key.or(cert)) else { return };
        let (cert, key): (PathBuf, PathBuf) = (cert.to_owned(), key.to_owned());
        let same =
            |known: &&mut Material| known.cert == cert && known.key == key && known.cas == cas && known.crls == crls;
        if let Some(known) = self.0.iter_mut().find(same) {
            known.used_by.insert(used_by);
            known.need.server |= need.server;
            known.need.client |= need.client;
            known.need.names_count |= need.names_count;
            if known.need.names.is_empty() {
                known.need.names = need.names;
            }
            return;
        }
        self.0.push(Material { cert, key, cas, crls, need, used_by: BTreeSet::from([used_by]) });
    }

    pub fn check(&self, node: &Node, report: &mut Report) {
        if self.0.is_empty() {
            report.note(HERE, "no certificate is configured");
        }
        for material in &self.0 {
            material.check(node, report);
        }
    }
}

impl Material {
    fn check(&self, node: &Node, report: &mut Report) {
        check_permissions(&self.key, node, report);
        let used_by = self.used_by.iter().copied().collect::<Vec<_>>().join(", ");
        let identity = match Identity::load(&self.cert, Some(&self.key), node.now) {
            Ok(identity) => identity,
            Err(e) => {
                // Who may not read the key cannot judge it: that is this process's failing, not the node's.
                let level = if e.kind() == Kind::Permission { Level::Warning } else { Level::Error };
                report.failure(HERE, level, &e);
                return;
            }
        };
        let facts = identity.certificate();
        let days = facts.days_left(node.now);
        let shown = Printable::path(&self.cert);
        let what =
            format!("{shown} ({used_by}): {}, {}, {}, {days} days left", facts.title(), facts.all_names(), facts.key);
        if days < SOON_DAYS {
            report.warning(HERE, what, "renew it: highline certs node NAME, then restart or FLUSH SSL");
        } else {
            report.ok(HERE, what);
        }
        self.check_purposes(facts, report);
        self.check_names(&identity, report);
        self.check_authorities(&identity, node, report);
    }

    fn check_purposes(&self, facts: &Certificate, report: &mut Report) {
        for (needed, has, word) in
            [(self.need.server, facts.serves(), "serverAuth"), (self.need.client, facts.dials(), "clientAuth")]
        {
            if needed && !has {
                report.error(
                    HERE,
                    format!("{} may not be used as {word}: its extended key usage has other purposes only", Printable::path(&self.cert)),
                    "make a certificate with serverAuth and clientAuth: a node dials and is dialled; highline certs node NAME does it",
                );
            }
        }
    }

    fn check_names(&self, identity: &Identity, report: &mut Report) {
        let Some(leaf) = identity.chain().first() else { return };
        for name in &self.need.names {
            if peer_name(name).is_ok_and(|name| Certificate::is_for(leaf, &name)) {
                continue;
            }
            let text = format!(
                "{} is not for {name}, the address that other nodes dial; it has {}",
                Printable::path(&self.cert),
                identity.certificate().all_names()
            );
            let remedy = format!("highline certs node NAME --ip or --dns {name}, with every other name that it has");
            match self.need.names_count {
                true => report.error(HERE, text, remedy),
                false => report.note(HERE, text),
            }
        }
    }

    fn check_authorities(&self, identity: &Identity, node: &Node, report: &mut Report) {
        if self.cas.is_empty() {
            return;
        }
        let authorities = match Authorities::load(&self.cas, &self.crls) {
            Ok(authorities) => authorities,
            Err(e) => return report.failure(HERE, Level::Error, &e),
        };
        for authority in authorities.iter() {
            let days = authority.certificate.days_left(node.now);
            if days < SOON_DAYS_AUTHORITY {
                let text = match days {
                    i64::MIN..0 => format!(
                        "the authority {} expired on {}",
                        authority.certificate.title(),
                        authority.certificate.not_after
                    ),
                    _ => format!("the authority {} has {days} days left", authority.certificate.title()),
                };
                report.warning(HERE, text, "highline certs ca --renew or --rotate, and copy ca.pem to every node");
            }
        }
        // The purposes have been judged; the chain is looked at for one that the certificate has.
        let purpose = if identity.certificate().serves() { Purpose::Server } else { Purpose::Client };
        match identity.check_chain(&authorities, purpose, node.now) {
            Ok(()) => report
                .ok(HERE, format!("{} is of an authority in {}", Printable::path(&self.cert), authorities.source())),
            Err(e) => report.failure(HERE, Level::Error, &e),
        }
        let beside = self.cert.parent().map(|dir| dir.join("ca-key.pem")).filter(|path| path.exists());
        if let Some(key) = beside {
            report.warning(
                HERE,
                format!("the authority's key lies on this node: {}", Printable::path(&key)),
                "keep it on a host that is no node: who has it can make a node",
            );
        }
    }
}

fn check_permissions(key: &Path, node: &Node, report: &mut Report) {
    let Ok(file) = std::fs::metadata(key) else { return };
    let shown = Printable::path(key);
    if file.mode() & 0o007 != 0 {
        report.error(
            HERE,
            format!("everybody on this host can read the private key {shown}"),
            format!("chmod 600 {shown}"),
        );
    }
    if let Some((uid, gid)) = node.server_owner() {
        let readable = (file.uid() == uid && file.mode() & 0o400 != 0)
            || (file.gid() == gid && file.mode() & 0o040 != 0)
            || file.mode() & 0o004 != 0
            || uid == 0;
        if !readable {
            report.error(
                HERE,
                format!("the server's user cannot read the private key {shown}"),
                format!(
                    "give it to the owner of the data directory: chown --reference={} {shown}",
                    Printable::path(&node.datadir())
                ),
            );
        }
    }
}
