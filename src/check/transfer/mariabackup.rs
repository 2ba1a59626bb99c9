//! `wsrep_sst_mariabackup`: mariadb-backup through socat. `xtrabackup-v2` is its forerunner, with the same options.

use super::script::{GROUPS, ScriptTls};
use super::{HERE, USE_HIGHLINE, check_program, check_script};
use crate::check::certificates::Materials;
use crate::check::options::Group;
use crate::check::{Node, Report};
use crate::error::Printable;

pub(super) fn check(node: &Node, method: &str, materials: &mut Materials, report: &mut Report) {
    check_script(node, method, report);
    let backup = if method == "mariabackup" { "mariadb-backup" } else { "xtrabackup" };
    if !(node.has(backup) || method == "mariabackup" && node.has("mariabackup")) {
        check_program(node, method, backup, report);
    }
    let options = &node.options;
    let sst = |key| options.get(Group::Sst, key);
    let netcat = sst("transferfmt") == Some("nc");
    check_program(node, method, if netcat { "nc" } else { "socat" }, report);

    let tls = ScriptTls::of(node, report);
    let encrypt = options.first(&GROUPS, "encrypt").unwrap_or("0");
    // Unset means DISABLED here, where rsync would derive a mode from the same certificates.
    let mode = options.first(&GROUPS, "ssl-mode").map_or("DISABLED".to_owned(), str::to_ascii_uppercase);
    if !matches!(mode.as_str(), "DISABLED" | "REQUIRED" | "VERIFY_CA" | "VERIFY_IDENTITY") {
        report.error(
            HERE,
            format!("ssl-mode={} is not known: the script ends with error 22", Printable(mode.as_bytes())),
            "use REQUIRED, VERIFY_CA or VERIFY_IDENTITY",
        );
        return;
    }
    let encrypted = encrypt != "0" || mode != "DISABLED";
    if encrypted && netcat {
        report.error(
            HERE,
            "transferfmt=nc: netcat has no TLS, so what encrypt and ssl-mode ask for does not happen",
            "take transferfmt out of [sst]",
        );
    }
    match (encrypt, mode.as_str()) {
        ("0", "DISABLED") if tls.is_empty() => report.warning(
            HERE,
            format!("{method} copies the whole database in the clear: it is its default"),
            format!("set ssl_cert, ssl_key, ssl_ca in [mysqld] and ssl-mode=VERIFY_CA in [sst]; or {USE_HIGHLINE}"),
        ),
        ("0", "DISABLED") => report.error(
            HERE,
            format!("certificates are configured, and {method} does not use them: without ssl-mode or encrypt it copies the whole database in the clear"),
            format!("set ssl-mode=VERIFY_CA in [sst] on every node; or {USE_HIGHLINE}"),
        ),
        ("0", _) if !tls.has_identity() => report.error(
            HERE,
            format!("ssl-mode={mode} without certificate and key: the script ends with error 22"),
            "set ssl_cert and ssl_key in [mysqld], or tcert and tkey in [sst]",
        ),
        ("0", "REQUIRED") => {
            unverified("ssl-mode=REQUIRED", report);
            tls.add_to(node, materials, false);
        }
        ("1", _) => report.warning(
            HERE,
            "encrypt=1: one shared key encrypts the stream, and nothing tells who the peer is",
            "set encrypt=4 or ssl-mode=VERIFY_CA with certificates",
        ),
        ("0", mode) if !tls.has_ca() => report.error(
            HERE,
            format!("ssl-mode={mode} without a CA: the script verifies nothing (verify=0) and does not say so"),
            "set ssl_ca in [mysqld], or tca in [sst]",
        ),
        ("3", _) if !tls.has_ca() => {
            unverified("encrypt=3 without a CA", report);
            tls.add_to(node, materials, false);
        }
        ("2" | "4", _) if !tls.has_ca() => report.error(
            HERE,
            format!("encrypt={encrypt} without a CA: the script ends with error 22"),
            "set ssl_ca in [mysqld], or tca in [sst]",
        ),
        ("0" | "2" | "3" | "4", _) => {
            report.ok(HERE, "socat encrypts, and verifies the chain of the peer's certificate");
            report.note(HERE, "the joiner checks the donor's secret on the first connection; the second, with the data, has no such check");
            tls.add_to(node, materials, true);
        }
        (other, _) => report.error(
            HERE,
            format!("encrypt={} is not known: the script ends with error 22", Printable(other.as_bytes())),
            "use ssl-mode=VERIFY_CA in [sst] instead of encrypt",
        ),
    }
    if sst("sockopt").is_some_and(|options| options.split(',').any(|option| option.trim() == "verify=0")) {
        unverified("sockopt has verify=0", report);
    }
    if options.first(&[Group::Server, Group::Sst], "wsrep-sst-auth").is_none() {
        report.note(HERE, "wsrep_sst_auth is not set: mariadb-backup needs an account on every donor");
    }
}

fn unverified(why: &str, report: &mut Report) {
    report.warning(
        HERE,
        format!("{why}: socat encrypts and verifies nothing (verify=0), so any host can stand in for the peer"),
        "set a CA, and ssl-mode=VERIFY_CA in [sst]",
    );
}
