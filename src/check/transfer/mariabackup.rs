//! `wsrep_sst_mariabackup`: mariadb-backup through socat. `xtrabackup-v2` is its predecessor, with the same options.

use super::script::{Script, ScriptTls};
use super::{HERE, USE_HIGHLINE, check_program, check_script};
use crate::check::certificates::Materials;
use crate::check::options::Group;
use crate::check::{Node, Report};
use crate::error::{Printable, Side};

pub(super) fn check(node: &Node, method: &str, materials: &mut Materials, report: &mut Report) {
    check_script(node, method, report);
    let script = Script { node, method, groups: &[Group::Server, Group::Sst, Group::Backup] };
    let netcat = script.sst("transferfmt") == Some("nc");
    check_programs(&script, netcat, report);
    if node.options.first(&[Group::Server, Group::Sst], "wsrep-sst-auth").is_none() {
        report.note(HERE, "wsrep_sst_auth is not set: mariadb-backup needs an account on every donor");
    }
    script.tell_precedence(report);
    let encrypt = script.get("encrypt").unwrap_or("0");
    // Unset means DISABLED here, while rsync would derive a mode from the same certificates.
    let mode = script.mode().unwrap_or_else(|| "DISABLED".to_owned());
    if !script.knows(&mode, report) {
        return;
    }
    if netcat && (encrypt != "0" || mode != "DISABLED") {
        report.error(
            HERE,
            "transferfmt=nc: netcat has no TLS, so encrypt and ssl-mode have no effect",
            "remove transferfmt from [sst]",
        );
    }
    for side in [Side::Joiner, Side::Donor] {
        Role { script, tls: script.tls(side), encrypt, mode: &mode }.check(materials, report);
    }
    if script.sst("sockopt").is_some_and(|options| options.split(',').any(|option| option.trim() == "verify=0")) {
        unverified("sockopt has verify=0", "remove verify=0 from sockopt in [sst]", report);
    }
}

/// Programs that its pipelines run.
fn check_programs(script: &Script<'_>, netcat: bool, report: &mut Report) {
    let (node, method) = (script.node, script.method);
    let backup = if method == "mariabackup" { "mariadb-backup" } else { "xtrabackup" };
    check_program(node, method, backup, report);
    check_program(node, method, if netcat { "nc" } else { "socat" }, report);
    if matches!(script.sst("streamfmt"), None | Some("mbstream" | "xbstream")) {
        check_program(node, method, if method == "mariabackup" { "mbstream" } else { "xbstream" }, report);
    }
    for key in ["compressor", "decompressor"] {
        for stage in script.sst(key).unwrap_or_default().split('|') {
            let program = stage.split_ascii_whitespace().next().unwrap_or_default();
            let plain = program.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/+".contains(&b));
            if plain && !program.is_empty() && !node.has(program) {
                report.error(
                    HERE,
                    format!("{key} in [sst] runs {program}, which is not installed: every transfer fails"),
                    format!("install {program} on every node, or remove {key} from [sst]"),
                );
            }
        }
    }
    let progress = script.sst("progress");
    if !node.has("pv") && progress != Some("none") && (progress.is_some() || script.sst("rlimit").is_some()) {
        let key = if script.sst("rlimit").is_some() { "rlimit" } else { "progress" };
        report.warning(
            HERE,
            format!("{key} in [sst] needs pv, which is not installed: the script drops progress and rate limit"),
            "install pv on every node",
        );
    }
}

fn unverified(why: &str, remedy: impl Into<String>, report: &mut Report) {
    let text = format!("{why}: socat encrypts but verifies nothing (verify=0), so any host can pose as the peer");
    report.warning(HERE, text, remedy);
}

/// socat's TLS options.
const OF_TLS: &[&str] =
    &["verify", "commonname", "cn", "cipher", "ciphers", "cafile", "capath", "cert", "key", "no-sni"];

/// What the script does in one role: `read_cnf` and `get_transfer`.
struct Role<'a> {
    script: Script<'a>,
    tls: ScriptTls,
    encrypt: &'a str,
    mode: &'a str,
}

impl Role<'_> {
    fn check(&self, materials: &mut Materials, report: &mut Report) {
        let (script, tls, mode, method) = (&self.script, &self.tls, self.mode, self.script.method);
        let strict = mode.starts_with("VERIFY");
        let verify = format!("set ssl-mode=VERIFY_CA in {} on every node", script.place("ssl-mode"));
        match self.encrypt {
            "0" if mode == "DISABLED" && tls.is_empty() => {
                self.check_socket_options(OF_TLS, report);
                report.warning(
                    HERE,
                    format!("{method} copies the whole database unencrypted, as is its default"),
                    format!("set ssl_cert, ssl_key, ssl_ca in [mysqld], and ssl-mode=VERIFY_CA in {}; or {USE_HIGHLINE}", script.place("ssl-mode")),
                );
            }
            "0" if mode == "DISABLED" => report.error(
                HERE,
                format!("certificates are configured, but {method} does not use them: without ssl-mode or encrypt it copies the whole database unencrypted"),
                format!("{verify}; or {USE_HIGHLINE}"),
            ),
            "0" if !tls.has_identity() => report.error(
                HERE,
                format!("ssl-mode={mode} without certificate and key: the script ends with error 22"),
                script.identity_remedy(),
            ),
            "0" if strict && !tls.has_ca() => {
                report.error(
                    HERE,
                    format!("ssl-mode={mode} without a CA: the script verifies nothing (verify=0) and does not say so"),
                    script.ca_remedy(),
                );
                self.unverified(materials, report);
            }
            "0" if strict => self.verified(materials, report),
            "0" => {
                unverified("ssl-mode=REQUIRED", format!("set a CA ({}), and {verify}", script.ca_remedy()), report);
                self.unverified(materials, report);
            }
            "1" => self.symmetric(report),
            "2" | "4" if !tls.has_ca() => report.error(
                HERE,
                format!("encrypt={} without a CA: the script ends with error 22", self.encrypt),
                script.ca_remedy(),
            ),
            "2" if tls.cert.is_none() => report.error(
                HERE,
                "encrypt=2 without a certificate: the script ends with error 22",
                script.identity_remedy(),
            ),
            "2" if !tls.holds_key() => report.error(
                HERE,
                "encrypt=2 takes the private key from the certificate's file, but there is none in it: every transfer fails",
                "put certificate and key into one file, or set encrypt=4 with certificate and key",
            ),
            // The key in the bundle counts, whatever else is named.
            "2" => Role { tls: ScriptTls { key: None, ..tls.clone() }, ..*self }.verified(materials, report),
            "3" | "4" if !tls.has_identity() => report.error(
                HERE,
                format!("encrypt={} without both certificate and key: the script ends with error 22", self.encrypt),
                script.identity_remedy(),
            ),
            "3" if !tls.has_ca() => {
                unverified("encrypt=3 without a CA", script.ca_remedy(), report);
                self.unverified(materials, report);
            }
            "3" | "4" => self.verified(materials, report),
            other => report.error(
                HERE,
                format!("encrypt={} is not known: the script ends with error 22", Printable(other.as_bytes())),
                format!("use ssl-mode=VERIFY_CA in {} instead of encrypt", script.place("ssl-mode")),
            ),
        }
    }

    /// socat (1.7.4.4) ends if it is given an option it cannot use here, or one the script has already given.
    fn check_socket_options(&self, useless: &[&str], report: &mut Report) {
        let list = self.script.sst("sockopt").unwrap_or_default();
        let keys = list.split(',').filter_map(|option| option.split('=').next()).map(str::trim);
        for key in keys.filter(|key| useless.contains(key)) {
            report.error(
                HERE,
                format!(
                    "socat cannot use {key} of sockopt in [sst] together with what the script gives it: every transfer fails"
                ),
                format!("remove {key} from sockopt in [sst]"),
            );
        }
    }

    fn unverified(&self, materials: &mut Materials, report: &mut Report) {
        self.check_socket_options(&["verify"], report);
        self.check_absolute(report);
        self.tls.add_to(self.script.node, materials, false);
    }

    /// The script has left the data directory when it starts socat.
    fn check_absolute(&self, report: &mut Report) {
        for (name, given) in self.tls.relative.iter() {
            report.error(
                HERE,
                format!(
                    "{name}={given} is relative, but {} starts socat in another directory: every transfer fails",
                    self.script.method
                ),
                format!("use an absolute path: {}", Printable::path(&self.script.node.path(given))),
            );
        }
    }

    fn symmetric(&self, report: &mut Report) {
        report.warning(
            HERE,
            "encrypt=1: one shared key encrypts the stream, and nothing shows who the peer is",
            format!("set encrypt=4 in {} with certificates", self.script.place("encrypt")),
        );
        let key = self.script.get("encrypt-key").is_some()
            || self.script.get("encrypt-key-file").is_some_and(|file| self.script.node.path(file).exists());
        if self.script.get("encrypt-algo").is_none() || !key {
            report.error(
                HERE,
                "encrypt=1 without encrypt-algo, or without a key: the script ends with error 3",
                "set encrypt-algo, and encrypt-key or encrypt-key-file, in [sst]",
            );
        }
    }

    fn verified(&self, materials: &mut Materials, report: &mut Report) {
        report.ok(HERE, "socat encrypts, and verifies the chain of the peer's certificate");
        report.note(HERE, "the joiner checks the donor's secret on the first connection; the second, with the data, has no such check");
        if self.mode.starts_with("VERIFY") {
            self.script.check_common_name(&self.tls, report);
        }
        self.check_name(report);
        self.check_socket_options(&["commonname", "cn"], report);
        self.check_absolute(report);
        self.tls.add_to(self.script.node, materials, true);
    }

    /// With `encrypt=3` the donor's socat requires the joiner's address in its certificate.
    fn check_name(&self, report: &mut Report) {
        if self.tls.side != Side::Joiner || self.encrypt != "3" || self.mode == "VERIFY_CA" {
            return;
        }
        // The joiner's own common name is sent with its address.
        let common = || self.tls.certificate().is_some_and(|facts| facts.common_name.is_some());
        let wanted = match self.script.node.announced() {
            _ if self.mode == "VERIFY_IDENTITY" && common() => return,
            Some(host) if host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) => "localhost".to_owned(),
            Some(host) => host,
            None => return,
        };
        if self.tls.is_for(&wanted) {
            return;
        }
        let names = self.tls.certificate().map(|facts| facts.all_names()).unwrap_or_default();
        report.error(
            HERE,
            format!(
                "socat asks for the name {wanted}, but this node's certificate has {names}: every transfer to it fails"
            ),
            format!(
                "make a new certificate with that name, or set ssl-mode=VERIFY_CA in {}, which checks no name",
                self.script.place("ssl-mode")
            ),
        );
    }
}
