//! `highline check`: is this node's traffic secured, and what to do if it is not.

use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

use super::print;
use crate::check::options::Options;
use crate::check::{Level, Node, Report, check, peer};
use crate::cli::CheckArgs;
use crate::error::{Error, Kind, Result};
use crate::sst::options::ProviderOptions;
use crate::sst::server_args::Defaults;
use crate::tls::{Authorities, Identity};

/// Reports on `out` and returns the exit code: 0, 1 (warnings) or 2 (errors). With `--json` it prints an object
/// whatever happens.
pub fn run(args: &CheckArgs, now: SystemTime, out: &mut dyn Write) -> Result<u8> {
    let (code, text) = match (examine(args, now), args.json) {
        (Ok(report), true) => {
            let (worst, exit) = (report.worst(), report.exit_code());
            (exit, json(&Printed { worst, failure: None, report: &report })?)
        }
        (Ok(report), false) => (report.exit_code(), report.to_string()),
        (Err(error), true) => (error.kind().exit_code(), failed(&error)?),
        (Err(error), false) => return Err(error),
    };
    print(out, &format!("{}\n", text.trim_end()))?;
    Ok(code)
}

/// What `--json` prints if there is no report.
pub(super) fn failed(error: &Error) -> Result<String> {
    let failure = Failure { kind: error.kind(), text: error.sentence(), remedy: error.remedy_text() };
    json(&Printed { worst: Level::Error, failure: Some(failure), report: &Report::default() })
}

fn examine(args: &CheckArgs, now: SystemTime) -> Result<Report> {
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
    Ok(report)
}

#[derive(serde::Serialize)]
struct Printed<'a> {
    worst: Level,
    /// Why the check itself failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure<'a>>,
    #[serde(flatten)]
    report: &'a Report,
}

#[derive(serde::Serialize)]
struct Failure<'a> {
    kind: Kind,
    text: String,
    remedy: Option<&'a str>,
}

fn json(printed: &Printed<'_>) -> Result<String> {
    serde_json::to_string_pretty(printed).map_err(|e| Error::new(Kind::Io, "cannot print the findings").because(e))
}

/// The peer gets our certificate if it asks, and is checked against our CA: those of replication first.
fn look(args: &CheckArgs, node: &Node, address: &str, report: &mut Report) -> Result<()> {
    let provider = ProviderOptions::of(&node.options.files);
    let galera = |key| provider.get(key);
    let server = |key| node.options.server(key);
    let cert = galera("socket.ssl_cert").or_else(|| server("ssl-cert"));
    let key = galera("socket.ssl_key").or_else(|| server("ssl-key"));
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Identity::load(&node.path(cert), Some(&node.path(key)), node.now).ok(),
        _ => None,
    };
    let cas = match &args.ca {
        Some(ca) => vec![ca.clone()],
        None => node.paths([galera("socket.ssl_ca").or_else(|| server("ssl-ca"))]),
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
        assert!(
            table.starts_with("Clients and this server\n")
                && table.contains("  ERROR    the certificate file /missing.pem does not exist"),
            "{table}"
        );
        let (code, json) = checked(config, &["--json"]);
        assert_eq!(code, 2);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["worst"], "error");
        let first = &value["findings"][0];
        assert!(first["channel"].is_string() && first["level"].is_string() && first["text"].is_string(), "{json}");
    }

    #[test]
    fn a_check_that_fails_is_an_object_too() {
        let (code, json) = checked("no group\n", &["--json"]);
        assert_eq!(code, Kind::Usage.exit_code());
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["worst"], &value["failure"]["kind"]), (&"error".into(), &"usage".into()), "{json}");
        assert!(
            value["failure"]["text"].as_str().unwrap().starts_with("my_print_defaults cannot read the option files")
        );
        assert!(value["findings"].as_array().is_some_and(Vec::is_empty) && value["failure"]["remedy"].is_string());
    }
}
