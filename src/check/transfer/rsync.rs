//! `wsrep_sst_rsync`: rsync, inside stunnel if TLS is configured.

use super::script::{Script, ScriptTls};
use super::{HERE, USE_HIGHLINE, check_program, check_script};
use crate::check::certificates::Materials;
use crate::check::options::Group;
use crate::check::{Node, Report};
use crate::error::Side;

pub(super) fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    check_script(node, node.method(), report);
    check_program(node, "wsrep_sst_rsync", "rsync", report);
    let script = Script { node, method: "rsync", groups: &[Group::Server, Group::Sst] };
    script.tell_precedence(report);
    if let Some(encrypt) = script.get("encrypt")
        && encrypt != "0"
    {
        report.error(
            HERE,
            format!("encrypt={encrypt} is for mariabackup: rsync ignores it"),
            "set ssl-mode and certificates, or use wsrep_sst_method=highline",
        );
    }
    for side in [Side::Joiner, Side::Donor] {
        check_role(&script, &script.tls(side), materials, report);
    }
}

fn check_role(script: &Script<'_>, tls: &ScriptTls, materials: &mut Materials, report: &mut Report) {
    let node = script.node;
    let given = script.mode();
    let mode = match given.as_deref() {
        Some(mode) => mode,
        None if tls.has_ca() => "VERIFY_CA",
        None if tls.has_identity() => "REQUIRED",
        None => "",
    };
    // The script looks at certificate, key and CA in every mode.
    tls.check_ca(report);
    if tls.has_identity() || tls.has_ca() && tls.cert.is_some() {
        tls.add_to(node, materials, true);
    }
    if mode.is_empty() || mode == "DISABLED" {
        let why = if mode.is_empty() { "no certificate is configured" } else { "ssl-mode=DISABLED" };
        report.warning(
            HERE,
            format!("rsync copies the whole database unencrypted ({why}), and while this node joins anyone who can reach port {} can write into its data directory", node.transfer_port()),
            format!("set ssl_cert, ssl_key, ssl_ca and install stunnel; or {USE_HIGHLINE}"),
        );
        return;
    }
    if !script.knows(mode, report) {
        return;
    }
    let strict = mode.starts_with("VERIFY");
    if strict && !tls.has_ca() {
        report.error(HERE, format!("ssl-mode={mode} without a CA: the script ends with error 22"), script.ca_remedy());
    } else if !tls.has_identity() {
        report.error(
            HERE,
            format!(
                "ssl-mode={mode} without both certificate and key: stunnel does not start, and every transfer fails"
            ),
            script.identity_remedy(),
        );
    } else if mode == "REQUIRED" {
        report.warning(
            HERE,
            "ssl-mode=REQUIRED: stunnel encrypts but verifies nothing, so any host can pose as the peer",
            format!("set a CA ({}), and ssl-mode=VERIFY_CA in {}", script.ca_remedy(), script.place("ssl-mode")),
        );
    } else {
        script.check_common_name(tls, report);
        if mode == "VERIFY_CA" {
            report.ok(HERE, "rsync runs inside stunnel, which verifies the chain of the peer's certificate");
        } else {
            check_pinning(script, tls, report);
        }
    }
    if !node.has("stunnel") {
        report.error(
            HERE,
            format!("ssl-mode is {mode} but stunnel is not installed: every transfer ends with error 2"),
            format!("install stunnel (stunnel4) on every node; or {USE_HIGHLINE}"),
        );
    }
    report.note(
        HERE,
        "the joiner checks the donor's secret only after the data was written; rsync verifies no file afterwards",
    );
}

/// `VERIFY_IDENTITY` becomes stunnel's `verifyPeer`, which requires the peer's own certificate in the CA file, and
/// `checkHost` with the joiner's common name.
fn check_pinning(script: &Script<'_>, tls: &ScriptTls, report: &mut Report) {
    if !tls.is_pinned() {
        report.error(
            HERE,
            "ssl-mode=VERIFY_IDENTITY: stunnel requires every node's own certificate in the CA file (verifyPeer), but not even this node's is there, so transfers are refused",
            format!(
                "set ssl-mode=VERIFY_CA in {}, or append every node's certificate to the CA file; highline verifies chain and name with a plain CA",
                script.place("ssl-mode")
            ),
        );
        return;
    }
    // OpenSSL looks at the common name only if there is no DNS name (X509_check_host).
    if let Some(facts) = tls.certificate()
        && let Some(common) = &facts.common_name
        && facts.names.iter().any(|name| name.parse::<std::net::IpAddr>().is_err())
        && !facts.names.iter().any(|name| name.eq_ignore_ascii_case(common))
    {
        report.error(
            HERE,
            format!("stunnel asks for this node's common name {common}, but its certificate has {}", facts.all_names()),
            "make a new certificate with the common name among its DNS names: highline certs node NAME",
        );
        return;
    }
    report
        .ok(HERE, "rsync runs inside stunnel, which accepts only the certificates in the CA file and checks the name");
    report.note(HERE, "a renewed certificate must be added to the CA file of every other node before it is used");
}
