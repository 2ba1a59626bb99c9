//! State transfer: what the configured method would do with this configuration.

mod backup;
mod dump;
mod highline;
mod mariabackup;
mod rsync;
mod script;

use crate::check::certificates::Materials;
use crate::check::{Channel, Node, Report};
use crate::error::Printable;

const HERE: Channel = Channel::StateTransfer;

/// The remedy if the method itself is the problem.
const USE_HIGHLINE: &str =
    "wsrep_sst_method=highline needs no helper programs, always encrypts and verifies both sides";

pub fn check(node: &Node, materials: &mut Materials, report: &mut Report) {
    if !node.is_galera() {
        return;
    }
    let method = node.method();
    match method {
        "highline" => highline::check(node, materials, report),
        "rsync" | "rsync_wan" => rsync::check(node, materials, report),
        "mariabackup" | "xtrabackup" | "xtrabackup-v2" => mariabackup::check(node, method, materials, report),
        "mysqldump" | "mariadb-dump" => dump::check(node, report),
        "skip" => report.note(HERE, "wsrep_sst_method=skip: this node never gets a full copy from another one"),
        _ => {
            check_script(node, method, report);
            let shown = Printable(method.as_bytes());
            report.warning(
                HERE,
                format!("wsrep_sst_method={shown} is not known here and cannot be checked"),
                USE_HIGHLINE,
            );
        }
    }
}

/// The method's script, which the server finds through `PATH`.
fn check_script(node: &Node, method: &str, report: &mut Report) {
    let script = format!("wsrep_sst_{}", Printable(method.as_bytes()));
    if !node.has(&script) {
        report.error(
            HERE,
            format!(
                "wsrep_sst_method={}, but there is no program {script} in PATH: every transfer fails",
                Printable(method.as_bytes())
            ),
            "install it, on donors and joiners alike, or choose another wsrep_sst_method",
        );
    }
}

/// A program that the method's script runs.
fn check_program(node: &Node, method: &str, program: &str, report: &mut Report) {
    if !node.has(program) {
        report.error(
            HERE,
            format!("{method} runs {program}, which is not installed: every transfer fails"),
            format!("install {program} on every node; or {USE_HIGHLINE}"),
        );
    }
}

#[cfg(test)]
mod tests;
