//! `highline certs`: make an authority and node certificates, look at certificates, and show where they go.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use super::print;
use crate::cli::{CaArgs, CertsArgs, CertsVerb, NodeArgs, ShowArgs};
use crate::error::{Printable, Result};
use crate::tls::authority::{AuthorityDir, Made, NodeName, NodeRequest};
use crate::tls::pem::Pem;
use crate::tls::provider::provider;
use crate::tls::safe_file::Existing;
use crate::tls::{Certificate, Pin};

/// Does what `args` ask for and reports it on `out`.
pub fn run(args: &CertsArgs, now: SystemTime, out: &mut dyn Write) -> Result<()> {
    let text = match &args.verb {
        CertsVerb::Ca(args) => ca(args, now)?,
        CertsVerb::Node(args) => node(args, now)?,
        CertsVerb::Show(args) => show(args, now)?,
    };
    print(out, &text)
}

fn ca(args: &CaArgs, now: SystemTime) -> Result<String> {
    let dir = AuthorityDir::new(&args.dir);
    let key = args.rsa.unwrap_or_default();
    if args.retire {
        let left: Vec<String> = dir.retire(now)?.iter().map(Certificate::title).collect();
        let left = if left.is_empty() { "nothing else was in it".to_owned() } else { left.join(", ") + " left it" };
        return Ok(format!(
            "{} holds the signing authority only: {left}.\nCopy it to every node; every node's certificate must be signed by that authority by now.\n",
            Printable::path(&dir.ca_file())
        ));
    }
    let made = match (args.renew, args.rotate) {
        (true, _) => dir.renew(args.days, now)?,
        (_, true) => dir.rotate(&args.name, args.days, key, now)?,
        _ => {
            let existing = if args.force { Existing::Replace } else { Existing::Refuse };
            dir.create(&args.name, args.days, key, existing, now)?
        }
    };
    let next = match (args.renew, args.rotate) {
        (true, _) => "Next: copy ca.pem to every node. Nothing else changes.",
        (_, true) => {
            "ca.pem now holds the new and the old authority. Next: copy it to every node and restart them one by one;\n\
             then `highline certs node NAME` for every node; at the end `highline certs ca --retire`."
        }
        _ => {
            "Next, for every node: highline certs node NAME --ip ADDRESS\nKeep the key off the nodes: whoever has it can add a node."
        }
    };
    Ok(format!("{}{next}\n", describe(&made, now)))
}

fn node(args: &NodeArgs, now: SystemTime) -> Result<String> {
    let request = NodeRequest {
        name: args.name.clone(),
        dns: args.dns.clone(),
        addresses: args.addresses.clone(),
        days: args.days,
        key: args.rsa.unwrap_or_default(),
        replace_key: args.new_key,
    };
    let dir = AuthorityDir::new(&args.dir);
    let made = dir.sign(&request, now)?;
    let mut text = describe(&made, now);
    if made.shortened {
        text.push_str("note: it expires together with its authority; `highline certs ca --renew` extends that\n");
    }
    if !made.dropped.is_empty() {
        text.push_str(&format!(
            "note: it no longer has {}; give every name it should have, or none to keep them all\n",
            made.dropped.join(", ")
        ));
    }
    if made.renewed {
        text.push_str(
            "Once it is on the node, the next transfer uses it, the server reads it on FLUSH SSL, and replication on\n\
             SET GLOBAL wsrep_provider_options='socket.ssl_reload=1' (or restart the server).\n",
        );
    }
    // A renewed one goes where the node's option file already says.
    let absolute = std::path::absolute(&args.dir).unwrap_or_else(|_| args.dir.clone());
    let here = (!made.renewed).then_some(absolute.as_path());
    if let Some(dir) = args.node_dir.as_deref().or(here) {
        text.push_str(&option_lines(&args.name, dir));
    }
    Ok(text)
}

fn describe(made: &Made, now: SystemTime) -> String {
    let verb = if made.renewed { "renewed" } else { "made" };
    let kept = if made.kept_key { "kept" } else { "new, mode 0600" };
    format!(
        "{verb} {}\n{}  key       {} ({kept})\n\n",
        Printable::path(&made.certificate_file),
        facts(&made.certificate, now),
        Printable::path(&made.key_file),
    )
}

/// The option file lines for the three kinds of traffic. `dir` is where the files are on the node.
pub fn option_lines(name: &NodeName, dir: &Path) -> String {
    let at = |file: String| Printable::path(&dir.join(file)).to_string();
    let (ca, cert, key) = (at("ca.pem".to_owned()), at(format!("{name}.pem")), at(format!("{name}-key.pem")));
    format!(
        "\
Option file of {name}; the three files must belong to the server's user (chown mysql: …), the key with mode 0600.

# 1. Clients and this server
[mysqld]
ssl_cert = {cert}
ssl_key  = {key}
ssl_ca   = {ca}

# 2. Replication between the nodes; join it with the wsrep_provider_options that are there.
#    All nodes must have it: a node without TLS cannot talk to one with it.
wsrep_provider_options = \"socket.ssl_cert={cert};socket.ssl_key={key};socket.ssl_ca={ca}\"

# 3. State transfer (SST): each side verifies the other's certificate, and the donor
#    also that the joiner's is for the address that it dials
wsrep_sst_method = highline
[highline]
ssl-mode = VERIFY_IDENTITY
cert = {cert}
key  = {key}
ca   = {ca}
"
    )
}

fn show(args: &ShowArgs, now: SystemTime) -> Result<String> {
    let mut text = String::new();
    for file in &args.files {
        let pem = Pem::read(file, "certificate")?;
        text.push_str(&format!("{}\n", Printable::path(file)));
        for der in &pem.certificates {
            match Certificate::parse(der) {
                Ok(certificate) => text.push_str(&facts(&certificate, now)),
                Err(e) => text.push_str(&format!("  unreadable: {e}\n")),
            }
        }
        for key in pem.keys {
            let signer = provider().key_provider.load_private_key(key);
            let pin = signer.ok().and_then(|signer| signer.public_key().map(|spki| Pin::of_spki(&spki)));
            match pin {
                Some(pin) => text.push_str(&format!("  private key, belongs to the certificate with pin {pin}\n")),
                None => text.push_str("  private key of a kind or size that Highline does not support\n"),
            }
        }
        if pem.encrypted_key {
            text.push_str("  private key, encrypted with a passphrase: the server and Highline need it without one\n");
        }
        if !pem.revocation_lists.is_empty() {
            text.push_str(&format!("  revocation lists: {}\n", pem.revocation_lists.len()));
        }
        text.push('\n');
    }
    Ok(text)
}

/// What a certificate says, one fact per line.
fn facts(certificate: &Certificate, now: SystemTime) -> String {
    let names = if certificate.names.is_empty() { "none".to_owned() } else { certificate.names.join(", ") };
    let usage = match (&certificate.purposes, certificate.is_authority) {
        (_, true) => "authority: signs other certificates".to_owned(),
        (None, _) => "any (no extended key usage)".to_owned(),
        (Some(purposes), _) => purposes.join(", "),
    };
    let days = certificate.days_left(now);
    let left = match days {
        i64::MIN..=-1 => "EXPIRED".to_owned(),
        _ => format!("{days} days left"),
    };
    let old = if certificate.version < 3 { "  version   1: too old for VERIFY_CA and VERIFY_IDENTITY\n" } else { "" };
    let issuer = if certificate.is_self_signed { "itself" } else { certificate.issuer.as_str() };
    format!(
        "  subject   {}\n  names     {names}\n  usage     {usage}\n  issuer    {issuer}\n  expires   {} ({left})\n  \
         key type  {}\n{old}  pin       {}\n",
        certificate.subject, certificate.not_after, certificate.key, certificate.pin
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn certs(dir: &Path, line: &str) -> Result<String> {
        let words = line.split(' ').map(|word| word.replace("DIR", dir.to_str().unwrap()));
        let typed = ["highline".to_owned(), "certs".to_owned()].into_iter().chain(words).map(Into::into);
        let Command::Certs(args) = parse(typed).unwrap().command else { panic!() };
        let mut out = Vec::new();
        run(&args, SystemTime::now(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_three_commands_make_a_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let made = certs(dir.path(), "ca --dir DIR --name Lab").unwrap();
        assert!(made.contains("subject   CN=Lab\n") && made.contains("authority: signs other certificates"), "{made}");
        let made = certs(dir.path(), "node node1 --dir DIR --ip 192.0.2.1 --node-dir /etc/mysql/tls").unwrap();
        for line in [
            "  names     node1, 192.0.2.1\n",
            "  usage     serverAuth, clientAuth\n",
            "ssl_cert = /etc/mysql/tls/node1.pem\n",
            "wsrep_provider_options = \"socket.ssl_cert=/etc/mysql/tls/node1.pem;socket.ssl_key=/etc/mysql/tls/node1-key.pem;socket.ssl_ca=/etc/mysql/tls/ca.pem\"\n",
            "[highline]\nssl-mode = VERIFY_IDENTITY\ncert = /etc/mysql/tls/node1.pem\nkey  = /etc/mysql/tls/node1-key.pem\nca   = /etc/mysql/tls/ca.pem\n",
        ] {
            assert!(made.contains(line), "{line}\n{made}");
        }
        let again = certs(dir.path(), "node node1 --dir DIR").unwrap();
        assert!(
            again.starts_with("renewed ")
                && again.contains("names     node1, 192.0.2.1\n")
                && again.contains("FLUSH SSL"),
            "{again}"
        );
        assert!(
            !again.contains("no longer has") && !again.contains("ssl_cert") && !again.contains("[highline]"),
            "{again}"
        );
        let moved = certs(dir.path(), "node node1 --dir DIR --ip 192.0.2.2 --node-dir /etc/mysql/tls").unwrap();
        let dropped = "note: it no longer has 192.0.2.1; give every name it should have, or none to keep them all\n";
        assert!(moved.contains(dropped) && moved.contains("ssl_cert = /etc/mysql/tls/node1.pem"), "{moved}");
        let shown = certs(dir.path(), "show DIR/node1.pem DIR/node1-key.pem").unwrap();
        let pin = shown.lines().find_map(|line| line.strip_prefix("  pin       ")).unwrap();
        assert!(shown.contains(&format!("private key, belongs to the certificate with pin {pin}\n")), "{shown}");
        assert!(shown.contains("issuer    CN=Lab\n") && shown.contains(" days left)\n"), "{shown}");
    }

    #[test]
    fn a_rotation_is_three_steps() {
        let dir = tempfile::tempdir().unwrap();
        certs(dir.path(), "ca --dir DIR --name Old").unwrap();
        assert!(certs(dir.path(), "ca --dir DIR --name New --rotate").unwrap().contains("new and the old authority"));
        let node = certs(dir.path(), "node n --dir DIR").unwrap();
        assert!(node.contains("issuer    CN=New"), "{node}");
        let retired = certs(dir.path(), "ca --dir DIR --retire").unwrap();
        assert!(retired.contains("\"CN=Old\" left it"), "{retired}");
    }

    #[test]
    fn bad_words_are_refused_with_a_reason() {
        for (line, reason) in [
            ("node ../x", "a node's name has"),
            ("node n --ip 300.1.1.1", "invalid IP address"),
            ("node n --rsa 1024", "2048, 3072 or 4096"),
            ("ca --renew --rotate", "cannot be used with"),
            ("node n --days 0", "not in 1..=36500"),
        ] {
            let typed = ["highline", "certs"].into_iter().chain(line.split(' ')).map(Into::into);
            let error = parse(typed).unwrap_err().to_string();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
