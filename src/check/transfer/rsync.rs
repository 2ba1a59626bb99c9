//! `wsrep_sst_rsync`: rsync, inside stunnel when TLS is configured.

use super::script::{GROUPS, ScriptTls};
use super::{HERE, USE_HIGHLINE, check_program, check_script};
use crate::check::certificates::Materials;
use crate::check::options::Group;
use crate::check::{Node, Report};
use crate::tls::pem::Pem;

pub(super) fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    check_script(node, node.method(), report);
    check_program(node, "wsrep_sst_rsync", "rsync", report);
    let options = &node.options;
    let tls = ScriptTls::of(node, report);
    if let Some(encrypt) = options.first(&[Group::Sst, Group::Server], "encrypt")
        && encrypt != "0"
    {
        report.error(
            HERE,
            format!("encrypt={encrypt} is for mariabackup: rsync ignores it"),
            "set ssl-mode and certificates, or use wsrep_sst_method=highline",
        );
    }
    let given = options.first(&GROUPS, "ssl-mode").map(str::to_ascii_uppercase);
    let mode = match given.as_deref() {
        Some(mode) => mode,
        None if tls.has_ca() => "VERIFY_CA",
        None if tls.has_identity() => "REQUIRED",
        None => "",
    };
    match mode {
        "" | "DISABLED" => {
            let why = if mode.is_empty() { "no certificate is configured" } else { "ssl-mode=DISABLED" };
            report.warning(
                HERE,
                format!("rsync copies the whole database in the clear ({why}), and while this node joins anybody who reaches port {} can write into its data directory", node.transfer_port()),
                format!("set ssl_cert, ssl_key, ssl_ca and install stunnel; or {USE_HIGHLINE}"),
            );
            return;
        }
        "REQUIRED" => report.warning(
            HERE,
            "ssl-mode=REQUIRED: stunnel encrypts and verifies nothing, so any host can stand in for the peer",
            "set ssl_ca, and ssl-mode=VERIFY_CA in [sst]",
        ),
        "VERIFY_CA" | "VERIFY_IDENTITY" if !tls.has_ca() => {
            report.error(
                HERE,
                format!("ssl-mode={mode} without a CA: the script ends with error 22"),
                "set ssl_ca in [mysqld]",
            );
        }
        "VERIFY_CA" => report.ok(HERE, "rsync runs inside stunnel, which verifies the chain of the peer's certificate"),
        "VERIFY_IDENTITY" => check_pinning(&tls, report),
        _ => report.error(
            HERE,
            format!("ssl-mode={mode} is not known: the script ends with error 22"),
            "use REQUIRED, VERIFY_CA or VERIFY_IDENTITY",
        ),
    }
    if !node.has("stunnel") {
        report.error(
            HERE,
            format!("ssl-mode is {mode} and stunnel is not installed: every transfer ends with error 2"),
            format!("install stunnel (stunnel4) on every node; or {USE_HIGHLINE}"),
        );
    }
    tls.add_to(node, materials, tls.has_ca() && mode != "REQUIRED");
    report.note(
        HERE,
        "the joiner checks the donor's secret only after the data was written; rsync verifies no file afterwards",
    );
}

/// `VERIFY_IDENTITY` becomes stunnel's `verifyPeer`, which wants the peer's own certificate in the CA file.
fn check_pinning(tls: &ScriptTls<'_>, report: &mut Report) {
    let certificates = |file: Option<&str>| {
        file.and_then(|file| Pem::read(file.as_ref(), "certificate").ok())
            .map(|pem| pem.certificates)
            .unwrap_or_default()
    };
    let own = certificates(tls.cert);
    let trusted = certificates(tls.ca);
    if own.first().is_some_and(|leaf| trusted.contains(leaf)) {
        report.ok(
            HERE,
            "rsync runs inside stunnel, which accepts the very certificates in the CA file and checks the name",
        );
        report.note(HERE, "a renewed certificate must be put into the CA file of every other node before it is used");
        return;
    }
    report.error(
        HERE,
        "ssl-mode=VERIFY_IDENTITY: stunnel wants every node's own certificate in the CA file (verifyPeer), and it has not even this node's, so transfers are refused",
        "use ssl-mode=VERIFY_CA in [sst], or append every node's certificate to ssl_ca; highline verifies chain and name with a plain CA",
    );
}
