//! `highline check`: is this node's traffic safe, and what to do where it is not.

use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

use crate::check::node::paths;
use crate::check::options::Options;
use crate::check::{Node, Report, check, peer};
use crate::cli::CheckArgs;
use crate::error::{Error, Kind, Result};
use crate::sst::args::Defaults;
use crate::tls::{Authorities, Identity};

/// Looks, tells on `out`, and returns the exit code.
pub fn run(args: &CheckArgs, now: SystemTime, out: &mut dyn Write) -> Result<u8> {
    let defaults = Defaults {
        file: args.defaults_file.clone(),
        extra_file: args.defaults_extra_file.clone(),
        group_suffix: args.defaults_group_suffix.clone(),
    };
    let node = Node { options: Options::read(&defaults)?, path: std::env::var_os("PATH").unwrap_or_default(), now };
    let mut report = Report::default();
    match &args.peer {
        None => report = check(&node),
        Some(address) => look(args, &node, address, &mut report)?,
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(&Printed { worst: report.worst(), report: &report })
            .map_err(|e| Error::new(Kind::Io, "cannot print the findings").because(e))?,
        false => report.to_string(),
    };
    writeln!(out, "{}", text.trim_end())
        .map_err(|e| Error::new(Kind::Io, "cannot write to standard output").because(e))?;
    Ok(report.exit_code())
}

#[derive(serde::Serialize)]
struct Printed<'a> {
    worst: crate::check::Level,
    #[serde(flatten)]
    report: &'a Report,
}

/// The peer is shown our certificate when it asks, and is judged by our CA: those of replication first.
fn look(args: &CheckArgs, node: &Node, address: &str, report: &mut Report) -> Result<()> {
    let galera = |key| crate::check::replication::provider_option(node, key);
    let server = |key| node.options.server(key);
    let cert = galera("socket.ssl_cert").or_else(|| server("ssl-cert"));
    let key = galera("socket.ssl_key").or_else(|| server("ssl-key"));
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Identity::load(cert.as_ref(), Some(key.as_ref()), node.now).ok(),
        _ => None,
    };
    let cas = match &args.ca {
        Some(ca) => vec![ca.clone()],
        None => paths([galera("socket.ssl_ca").or_else(|| server("ssl-ca"))]),
    };
    let authorities = match cas.is_empty() {
        true => None,
        false => Some(Arc::new(Authorities::load(&cas, &[])?)),
    };
    peer::look(address, identity.as_ref(), authorities.as_ref(), node.now, report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn checked(config: &str, more: &[&str]) -> (u8, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let flag = format!("--defaults-file={}", file.path().display());
        let typed = ["highline", "check", flag.as_str()].into_iter().chain(more.iter().copied()).map(Into::into);
        let Command::Check(args) = parse(typed).unwrap().command else { panic!() };
        let mut out = Vec::new();
        let code = run(&args, SystemTime::now(), &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn people_get_a_table_and_programs_an_object() {
        let config = "[mysqld]\nssl_cert=/missing.pem\nssl_key=/missing.pem\n";
        let (code, table) = checked(config, &[]);
        assert_eq!(code, 2);
        assert!(table.starts_with("Clients and this server\n") && table.contains("  ERROR    cannot open"), "{table}");
        let (code, json) = checked(config, &["--json"]);
        assert_eq!(code, 2);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["worst"], "error");
        let first = &value["findings"][0];
        assert!(first["channel"].is_string() && first["level"].is_string() && first["text"].is_string(), "{json}");
    }
}
