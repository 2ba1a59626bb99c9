//! What the server's own scripts use, by their own rules of precedence: certificates, modes, and where a remedy takes
//! effect.

use std::path::PathBuf;

use super::HERE;
use crate::check::certificates::{Files, Judge, Materials, Need};
use crate::check::options::Group;
use crate::check::{Node, Report};
use crate::error::{Printable, Side};
use crate::tls::pem::Pem;
use crate::tls::verification::peer_name;
use crate::tls::{Authorities, Certificate};

const PARTS: [&str; 4] = ["ca", "capath", "cert", "key"];

/// The options of one script, in the groups it reads: for most of them the server's groups win over `[sst]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script<'a> {
    pub(super) node: &'a Node,
    pub(super) method: &'a str,
    pub(super) groups: &'static [Group],
}

/// The certificates of one role, by `check_server_ssl_config` in `wsrep_sst_common`.
#[derive(Clone, Debug)]
pub(super) struct ScriptTls {
    pub(super) side: Side,
    pub(super) ca: Option<PathBuf>,
    pub(super) capath: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    /// Relative paths: option and value.
    pub(super) relative: Vec<(String, String)>,
}

impl<'a> Script<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.node.options.first(self.groups, key)
    }

    pub(super) fn sst(&self, key: &str) -> Option<&'a str> {
        self.node.options.get(Group::Sst, key)
    }

    /// `ssl-mode` in capitals.
    pub(super) fn mode(&self) -> Option<String> {
        self.get("ssl-mode").map(str::to_ascii_uppercase)
    }

    /// A mode that the scripts do not know ends them with error 22.
    pub(super) fn knows(&self, mode: &str, report: &mut Report) -> bool {
        let known = matches!(mode, "DISABLED" | "REQUIRED" | "VERIFY_CA" | "VERIFY_IDENTITY");
        if !known {
            report.error(
                HERE,
                format!("ssl-mode={} is not known: the script ends with error 22", Printable(mode.as_bytes())),
                format!("use REQUIRED, VERIFY_CA or VERIFY_IDENTITY in {}", self.place("ssl-mode")),
            );
        }
        known
    }

    /// The group in which a change of `key` takes effect.
    pub(super) fn place(&self, key: &str) -> String {
        let item = self.groups.iter().find(|group| self.node.options.get(**group, key).is_some());
        let item = item.and_then(|group| self.node.options.last(*group, key));
        item.map_or("[sst]".to_owned(), |item| item.origin.clone())
    }

    /// `tca`, `tcapath`, `tcert` or `tkey` disables all general names.
    fn has_old_names(&self) -> bool {
        PARTS.iter().any(|part| self.sst(&format!("t{part}")).is_some())
    }

    /// Where to set a CA so that it takes effect.
    pub(super) fn ca_remedy(&self) -> &'static str {
        if self.has_old_names() { "set tca in [sst]" } else { "set ssl_ca in [mysqld]" }
    }

    /// Where to set certificate and key so that they take effect.
    pub(super) fn identity_remedy(&self) -> &'static str {
        if self.has_old_names() { "set tcert and tkey in [sst]" } else { "set ssl_cert and ssl_key in [mysqld]" }
    }

    /// What the script uses in a role.
    pub(super) fn tls(&self, side: Side) -> ScriptTls {
        let prefix = if self.has_old_names() { "t" } else { "ssl-" };
        let role = if side == Side::Joiner { "server" } else { "client" };
        let [ca, capath, cert, key] = PARTS.map(|part| {
            let general = match prefix {
                "t" => self.sst(&format!("t{part}")),
                _ => self.get(&format!("ssl-{part}")),
            };
            self.get(&format!("ssl-{role}-{part}")).or(general)
        });
        let is_directory = ca.is_some_and(|ca| ca.ends_with('/') || self.node.path(ca).is_dir());
        let (ca, capath) = if is_directory { (None, ca) } else { (ca, capath) };
        let path = |given: Option<&str>| given.map(|given| self.node.path(given));
        let given = [("ca", ca), ("capath", capath), ("cert", cert), ("key", key)];
        let relative =
            given.into_iter().filter_map(|(part, given)| Some((format!("{prefix}{part}"), given?.to_owned())));
        let relative = relative.filter(|(_, given)| !given.starts_with('/')).collect();
        ScriptTls { side, ca: path(ca), capath: path(capath), cert: path(cert), key: path(key), relative }
    }

    /// What is set and has no effect.
    pub(super) fn tell_precedence(&self, report: &mut Report) {
        let options = &self.node.options;
        if self.has_old_names() {
            if PARTS.iter().any(|part| self.get(&format!("ssl-{part}")).is_some()) {
                report.note(
                    HERE,
                    "tca, tcapath, tcert or tkey in [sst] is set, so no general ssl-… file is used for transfers",
                );
            }
            return;
        }
        for part in PARTS {
            let name = format!("ssl-{part}");
            if let (Some(server), Some(sst)) = (options.server(&name), options.get(Group::Sst, &name))
                && server != sst
            {
                report.warning(
                    HERE,
                    format!("{name} in [sst] has no effect: the script takes {server} from the server's groups"),
                    format!("use t{part} in [sst]; with wsrep_sst_method=highline, [sst] would win"),
                );
            }
        }
    }

    /// In a mode that verifies, the joiner passes its common name to the donor's server, which allows few characters
    /// (10.11.19), and needs openssl to read it.
    pub(super) fn check_common_name(&self, tls: &ScriptTls, report: &mut Report) {
        if !self.node.has("openssl") {
            report.error(
                HERE,
                format!("{} runs openssl to read this node's common name, but it is not installed: every transfer ends with error 42", self.method),
                "install openssl on every node",
            );
        }
        let Some(facts) = tls.certificate() else { return };
        let plain = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if let Some(name) = facts.common_name.filter(|name| !plain(name)) {
            report.error(
                HERE,
                format!("the certificate's common name \"{name}\" goes to the donor's server, which allows only letters, digits, '.', '_' and '-': every transfer is cancelled there"),
                "make a new certificate with a common name of these characters: highline certs node NAME",
            );
        }
    }
}

impl ScriptTls {
    pub(super) fn is_empty(&self) -> bool {
        [&self.ca, &self.capath, &self.cert, &self.key].iter().all(|path| path.is_none())
    }

    pub(super) fn has_ca(&self) -> bool {
        self.ca.is_some() || self.capath.is_some()
    }

    pub(super) fn has_identity(&self) -> bool {
        self.cert.is_some() && self.key.is_some()
    }

    fn pem(&self) -> Option<Pem> {
        Pem::read(self.cert.as_ref()?, "certificate").ok()
    }

    /// What the certificate says, if it can be read.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        Certificate::parse(self.pem()?.certificates.first()?).ok()
    }

    /// Whether the certificate's file contains a key; `true` if it cannot be read.
    pub(super) fn holds_key(&self) -> bool {
        self.pem().is_none_or(|pem| !pem.keys.is_empty())
    }

    /// Whether socat would find `name` in the certificate: as an alternative name or the common name.
    pub(super) fn is_for(&self, name: &str) -> bool {
        let Some(pem) = self.pem() else { return true };
        let named = |leaf| peer_name(name).is_ok_and(|name| Certificate::is_for(leaf, &name));
        pem.certificates.first().is_some_and(named)
            || self.certificate().and_then(|facts| facts.common_name).is_some_and(|common| common == name)
    }

    /// Whether this node's own certificate is among those in the CA file.
    pub(super) fn is_pinned(&self) -> bool {
        let trusted = self.ca.as_ref().and_then(|ca| Pem::read(ca, "CA").ok());
        let own = self.pem();
        let leaf = own.as_ref().and_then(|pem| pem.certificates.first());
        leaf.zip(trusted).is_some_and(|(leaf, trusted)| trusted.certificates.contains(leaf))
    }

    /// Adds the files for a closer look; the CA only if it is used.
    pub(super) fn add_to(&self, node: &Node, materials: &mut Materials, with_ca: bool) {
        let need = if self.side == Side::Donor { Need::donor() } else { Need::joiner(node) };
        let cas = self.ca.iter().chain(&self.capath).filter(|_| with_ca).cloned().collect();
        let files = Files { cert: self.cert.clone(), key: self.key.clone(), cas, crls: Vec::new() };
        materials.add("state transfer", Judge::OpenSsl, files, need);
    }

    /// Checks a CA that has no certificate to verify: it must exist all the same.
    pub(super) fn check_ca(&self, report: &mut Report) {
        let cas: Vec<PathBuf> = self.ca.iter().chain(&self.capath).cloned().collect();
        if self.cert.is_none()
            && !cas.is_empty()
            && let Err(e) = Authorities::load(&cas, &[])
        {
            report.failure(HERE, crate::check::Level::Error, &e);
        }
    }
}
