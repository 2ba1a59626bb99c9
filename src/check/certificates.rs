//! The certificates in the configuration: readable, matching, trusted, not about to expire; by the rules of the program
//! that uses them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use super::{Channel, Level, Node, Report};
use crate::error::Printable;
use crate::tls::certificate::Purpose;
use crate::tls::pem::{Pem, all_there};
use crate::tls::verification::peer_name;
use crate::tls::{Authorities, Certificate, Identity};

const HERE: Channel = Channel::Certificates;
/// A certificate that expires sooner than this gets a warning.
const SOON_DAYS: i64 = 30;
/// An authority that expires sooner than this does: replacing it takes longer.
const SOON_DAYS_AUTHORITY: i64 = 90;

/// By whose rules a certificate must be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Ours: `check::own` has checked it already.
    Highline,
    /// The server, Galera, socat and stunnel.
    OpenSsl,
}

/// What a certificate must be good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    server: bool,
    client: bool,
    /// The addresses it should name.
    names: Vec<String>,
}

impl Need {
    /// A TLS server only.
    pub fn server() -> Need {
        Need { server: true, ..Need::default() }
    }

    /// The donor's end of a transfer: a client.
    pub fn donor() -> Need {
        Need { client: true, ..Need::default() }
    }

    /// The joiner's end of a transfer: a server, under the addresses that other nodes connect to.
    pub fn joiner(node: &Node) -> Need {
        Need { client: false, ..Need::both(node) }
    }

    /// Both server and client, under the addresses that other nodes connect to.
    pub fn both(node: &Node) -> Need {
        Need { server: true, client: true, names: node.addresses() }
    }

    fn purposes(&self) -> impl Iterator<Item = Purpose> {
        [(self.server, Purpose::Server), (self.client, Purpose::Client)]
            .into_iter()
            .filter(|(needed, _)| *needed)
            .map(|(_, p)| p)
    }
}

/// Files that belong together; if only one is named, it holds both certificate and key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Files and directories; empty if nothing is verified.
    pub cas: Vec<PathBuf>,
    pub crls: Vec<PathBuf>,
}

/// Files, and what uses them.
#[derive(Clone, Debug)]
struct Material {
    cert: PathBuf,
    key: PathBuf,
    files: Files,
    uses: Vec<(Judge, Need)>,
    used_by: BTreeSet<&'static str>,
}

/// All files that the channels name; each set is checked once.
#[derive(Clone, Debug, Default)]
pub struct Materials(Vec<Material>);

impl Materials {
    pub fn add(&mut self, used_by: &'static str, judge: Judge, files: Files, need: Need) {
        let (Some(cert), Some(key)) =
            (files.cert.as_ref().or(files.key.as_ref()), files.key.as_ref().or(files.cert.as_ref()))
        else {
            return;
        };
        if let Some(known) = self.0.iter_mut().find(|known| known.files == files) {
            known.used_by.insert(used_by);
            known.uses.push((judge, need));
            return;
        }
        let (cert, key) = (cert.clone(), key.clone());
        self.0.push(Material { cert, key, files, uses: vec![(judge, need)], used_by: BTreeSet::from([used_by]) });
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
        let there = all_there(&self.cert, &self.key, &self.files.cas, &self.files.crls);
        let identity = match there.and_then(|()| Identity::read(&self.cert, Some(&self.key))) {
            Ok(identity) => identity,
            // Ours has been reported already, with what it means for transfers.
            Err(_) if self.uses.iter().all(|(judge, _)| *judge == Judge::Highline) => return,
            Err(e) => return report.unreadable(HERE, &e),
        };
        let facts = identity.certificate();
        let days = facts.days_left(node.now);
        let shown = Printable::path(&self.cert);
        let what =
            format!("{shown} ({used_by}): {}, {}, {}, {days} days left", facts.title(), facts.all_names(), facts.key);
        match identity.check_usable(node.now) {
            // If nobody verifies it, the date does not matter.
            Err(e) if self.files.cas.is_empty() => report.failure(HERE, Level::Warning, &e),
            Err(e) => report.failure(HERE, Level::Error, &e),
            Ok(()) if days < SOON_DAYS => {
                report.warning(HERE, what, "renew it: highline certs node NAME, then restart or FLUSH SSL");
            }
            Ok(()) => report.ok(HERE, what),
        }
        let needs: Vec<&Need> =
            self.uses.iter().filter(|(judge, _)| *judge == Judge::OpenSsl).map(|(_, need)| need).collect();
        if !needs.is_empty() {
            self.check_form(facts, report);
        }
        for need in needs {
            self.check_names(&identity, need, report);
            self.check_purposes(facts, need, report);
        }
        self.check_authorities(&identity, node, report);
    }

    /// What OpenSSL accepts and we do not.
    fn check_form(&self, facts: &Certificate, report: &mut Report) {
        let what = match facts {
            _ if facts.version < 3 => "is an old X.509 version, which has neither names nor usages",
            _ if facts.is_authority => {
                "is the certificate of an authority (CA:TRUE): whoever has its key can add nodes"
            }
            _ => return,
        };
        report.warning(
            HERE,
            format!(
                "{} {what}; OpenSSL accepts it, but Highline does not if ssl-mode verifies",
                Printable::path(&self.cert)
            ),
            "make a certificate of version 3 for this node: highline certs node NAME",
        );
    }

    fn check_purposes(&self, facts: &Certificate, need: &Need, report: &mut Report) {
        for purpose in need.purposes().filter(|purpose| !permits(facts, *purpose)) {
            let word = if purpose == Purpose::Server { "serverAuth" } else { "clientAuth" };
            let text = format!(
                "{} may not be used as {word}: its extended key usage allows only other purposes",
                Printable::path(&self.cert)
            );
            let remedy =
                "make a certificate with serverAuth and clientAuth, since a node is both: use highline certs node NAME";
            match self.files.cas.is_empty() {
                true => report.warning(HERE, text, remedy),
                false => report.error(HERE, text, remedy),
            }
        }
    }

    fn check_names(&self, identity: &Identity, need: &Need, report: &mut Report) {
        let Some(leaf) = identity.chain().first() else { return };
        for name in &need.names {
            if !peer_name(name).is_ok_and(|name| Certificate::is_for(leaf, &name)) {
                report.note(
                    HERE,
                    format!(
                        "{} is not for {name}, the address that other nodes connect to; it has {}",
                        Printable::path(&self.cert),
                        identity.certificate().all_names()
                    ),
                );
            }
        }
    }

    fn check_authorities(&self, identity: &Identity, node: &Node, report: &mut Report) {
        if self.files.cas.is_empty() {
            return;
        }
        let authorities = match Authorities::load(&self.files.cas, &self.files.crls) {
            Ok(authorities) => authorities,
            Err(_) if self.uses.iter().all(|(judge, _)| *judge == Judge::Highline) => return,
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
        // Several uses ask for the same, and each costs an OpenSSL process.
        let mut asked: Vec<(Judge, Purpose)> = Vec::new();
        for (judge, need) in &self.uses {
            for purpose in need.purposes().filter(|purpose| permits(identity.certificate(), *purpose)) {
                if !asked.contains(&(*judge, purpose)) {
                    asked.push((*judge, purpose));
                }
            }
        }
        let mut good = true;
        for (judge, purpose) in asked {
            good &= match judge {
                Judge::Highline => identity.check_chain(&authorities, purpose, node.now).is_ok(),
                Judge::OpenSsl => self.check_by_openssl(identity, &authorities, purpose, node, report),
            };
        }
        if good {
            report.ok(
                HERE,
                format!("{} is signed by an authority in {}", Printable::path(&self.cert), authorities.source()),
            );
        }
        let beside = self.cert.parent().map(|dir| dir.join("ca-key.pem")).filter(|path| path.exists());
        if let Some(key) = beside {
            report.warning(
                HERE,
                format!("the authority's key is on this node: {}", Printable::path(&key)),
                "keep it on a host that is not a node: whoever has it can add a node",
            );
        }
    }

    /// The verdict is OpenSSL's own, if it is installed; the words are ours, if we agree.
    fn check_by_openssl(
        &self,
        identity: &Identity,
        authorities: &Authorities,
        purpose: Purpose,
        node: &Node,
        report: &mut Report,
    ) -> bool {
        let ours = identity.check_chain(authorities, purpose, node.now);
        let facts = identity.certificate();
        let ours_alone = facts.version < 3 || facts.is_authority;
        let theirs = match verify(node, &self.cert, &self.files.cas, purpose) {
            Some(theirs) => theirs,
            // Without it, what only we refuse is accepted.
            None if ours_alone || ours.is_ok() => Ok(()),
            None => Err(String::new()),
        };
        let Err(said) = theirs else { return true };
        match ours {
            Err(e) if !ours_alone => report.failure(HERE, Level::Error, &e),
            _ => {
                let directory = self.files.cas.iter().find(|path| path.is_dir());
                let remedy = match directory {
                    Some(directory) => format!(
                        "run openssl rehash {}: OpenSSL finds an authority in a directory by a link named after its hash",
                        Printable::path(directory)
                    ),
                    None => "put the whole chain up to a self-signed authority into the CA file".to_owned(),
                };
                let shown = Printable::path(&self.cert);
                report.error(HERE, format!("OpenSSL refuses {shown}: {}", Printable(said.as_bytes())), remedy);
            }
        }
        false
    }
}

fn permits(facts: &Certificate, purpose: Purpose) -> bool {
    if purpose == Purpose::Server { facts.serves() } else { facts.dials() }
}

/// `openssl verify` as the scripts call it, for one purpose: what it said if it refused. `None` if it cannot be run.
fn verify(node: &Node, cert: &Path, cas: &[PathBuf], purpose: Purpose) -> Option<Result<(), String>> {
    let mut command = Command::new(node.program("openssl")?);
    let now = node.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    command.args(["verify", "-attime", &now.to_string(), "-purpose"]);
    command.arg(if purpose == Purpose::Server { "sslserver" } else { "sslclient" });
    for ca in cas {
        command.arg(if ca.is_dir() { "-CApath" } else { "-CAfile" }).arg(ca);
    }
    command.arg("-untrusted").arg(cert).arg(cert);
    let output = command.stdin(Stdio::null()).output().ok()?;
    if output.status.success() {
        return Some(Ok(()));
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find(|line| line.starts_with("error ")).or(said.lines().next()).unwrap_or_default();
    Some(Err(line.to_owned()))
}

/// Checks the permissions of a file that holds a private key.
fn check_permissions(key: &Path, node: &Node, report: &mut Report) {
    let Ok(file) = std::fs::metadata(key) else { return };
    // If this process cannot read it, not everybody can.
    if Pem::read(key, "private key").is_ok_and(|pem| pem.keys.is_empty() && !pem.encrypted_key) {
        return;
    }
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
                    "make it belong to the owner of the data directory: chown --reference={} {shown}",
                    Printable::path(&node.datadir())
                ),
            );
        }
    }
}
