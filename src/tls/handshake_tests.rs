//! Whole handshakes in memory: every mode of trust against every fault of a certificate, on both sides.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SerialNumber};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;
use time::OffsetDateTime;

use crate::error::Kind;
use crate::tls::testing::{Ca, DAY, named};
use crate::tls::verification::{Trust, peer_name};
use crate::tls::{Authorities, Identity, Policy, Session, client_config, explain, server_config};

type Outcome = (Result<(), rustls::Error>, Result<(), rustls::Error>);

/// Carries bytes between the two ends until both are done or one refused; the alert is carried too.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Outcome {
    let (mut client_said, mut server_said) = (Ok(()), Ok(()));
    for _ in 0..20 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() && server_said.is_ok() {
            server.read_tls(&mut bytes).unwrap();
            server_said = server.process_new_packets().map(|_| ());
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() && client_said.is_ok() {
            client.read_tls(&mut bytes).unwrap();
            client_said = client.process_new_packets().map(|_| ());
        }
    }
    (client_said, server_said)
}

struct Ends<'a> {
    donor: Option<&'a Identity>,
    donor_trust: Trust,
    joiner: &'a Identity,
    joiner_trust: Trust,
}

impl Ends<'_> {
    fn connect(&self) -> (ClientConnection, ServerConnection, Outcome) {
        self.connect_with(&Policy::default(), &Policy::default())
    }

    fn connect_with(&self, donor: &Policy, joiner: &Policy) -> (ClientConnection, ServerConnection, Outcome) {
        let config = client_config(self.donor, self.joiner.pin(), self.donor_trust.clone(), donor).unwrap();
        let name = ServerName::try_from("node1.lab.example").unwrap();
        let mut client = ClientConnection::new(config, name).unwrap();
        let config = server_config(self.joiner, self.joiner_trust.clone(), joiner).unwrap();
        let mut server = ServerConnection::new(config).unwrap();
        let outcome = shake(&mut client, &mut server);
        (client, server, outcome)
    }
}

/// What is wrong with a certificate, and the sentences that it leads to.
struct Case {
    what: &'static str,
    identity: Identity,
    /// The fault after "the certificate "CN=node1" ", when the chain is verified; empty: accepted.
    chain: String,
    /// The same when the name is verified as well.
    name: String,
    authorities: Arc<Authorities>,
}

fn text(date: OffsetDateTime) -> String {
    crate::tls::certificate::Moment::from_unix(date.unix_timestamp()).to_string()
}

fn cases(own_purpose: &ExtendedKeyUsagePurpose) -> Vec<Case> {
    let ca = Ca::new("Lab CA");
    let authorities = ca.authorities();
    let source = authorities.source().to_owned();
    let now = SystemTime::now();
    let node = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = named("node1", &["node1.lab.example", "192.0.2.1"]);
        change(&mut params);
        params
    };
    let good = node(&|_| ());
    let same = |what, identity: Identity, fault: String| Case {
        what,
        identity,
        chain: fault.clone(),
        name: fault,
        authorities: Arc::clone(&authorities),
    };
    let mut cases = vec![same("nothing is wrong", ca.identity(&ca.sign(&good), now), String::new())];

    let other = Ca::new("Other CA");
    cases.push(same(
        "wrong CA",
        other.identity(&other.sign(&good), now),
        format!("was issued by \"CN=Other CA\", which is not among the authorities in {source}: \"CN=Lab CA\""),
    ));
    let namesake = Ca::new("Lab CA");
    cases.push(same(
        "wrong CA of the same name",
        namesake.identity(&namesake.sign(&good), now),
        format!("was not signed by the authority \"CN=Lab CA\" in {source}, but by another one of the same name"),
    ));
    let expired = node(&|params| params.not_after = OffsetDateTime::from(now - DAY / 2));
    cases.push(same(
        "expired",
        ca.identity(&ca.sign(&expired), now - 3 * DAY / 4),
        format!("expired on {}", text(expired.not_after)),
    ));
    let early = node(&|params| params.not_before = OffsetDateTime::from(now + DAY));
    cases.push(same(
        "not yet valid",
        ca.identity(&ca.sign(&early), now + 2 * DAY),
        format!("is valid only from {}", text(early.not_before)),
    ));
    let (other_purpose, fault) = match own_purpose {
        ExtendedKeyUsagePurpose::ServerAuth => (
            ExtendedKeyUsagePurpose::ClientAuth,
            "is not for a TLS server (serverAuth): its extended key usage is clientAuth",
        ),
        _ => (
            ExtendedKeyUsagePurpose::ServerAuth,
            "is not for a TLS client (clientAuth): its extended key usage is serverAuth",
        ),
    };
    let wrong_purpose = node(&|params| params.extended_key_usages = vec![other_purpose.clone()]);
    cases.push(same("wrong purpose", ca.identity(&ca.sign(&wrong_purpose), now), fault.to_owned()));
    let right_purpose = node(&|params| params.extended_key_usages = vec![own_purpose.clone()]);
    cases.push(same("the one purpose that is needed", ca.identity(&ca.sign(&right_purpose), now), String::new()));
    let any_purpose = node(&|params| params.extended_key_usages.clear());
    cases.push(same("no purpose named", ca.identity(&ca.sign(&any_purpose), now), String::new()));

    let key = KeyPair::generate().unwrap();
    let alone = (good.self_signed(&key).unwrap().pem(), key.serialize_pem());
    cases.push(same(
        "self-signed",
        ca.identity(&alone, now),
        format!("is self-signed and not among the authorities in {source}"),
    ));
    let intermediate = ca.intermediate("Lab intermediate");
    let (leaf, key) = intermediate.sign(&good);
    cases.push(same(
        "intermediate missing",
        ca.identity(&(leaf.clone(), key.clone()), now),
        format!("was issued by \"CN=Lab intermediate\", which is not among the authorities in {source}: \"CN=Lab CA\""),
    ));
    let bundle = (format!("{leaf}{}", intermediate.pem), key);
    cases.push(same("intermediate in the bundle", ca.identity(&bundle, now), String::new()));
    let end = OffsetDateTime::from(now - DAY / 2);
    let old = ca.intermediate_with("Old intermediate", |params| params.not_after = end);
    let (leaf, key) = old.sign(&good);
    cases.push(same(
        "intermediate expired",
        ca.identity(&(format!("{leaf}{}", old.pem), key), now),
        format!(
            "comes with the intermediate certificate \"CN=Old intermediate\", which is valid only from {} to {}",
            text(OffsetDateTime::from(now - DAY)),
            text(end)
        ),
    ));
    let authority = node(&|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    cases.push(same(
        "an authority's certificate",
        ca.identity(&ca.sign(&authority), now),
        "is the certificate of an authority (CA:TRUE), which cannot stand for a node".to_owned(),
    ));

    let with_serial = node(&|params| params.serial_number = Some(SerialNumber::from(7_u64)));
    let listed = |list: &str| ca.authorities_with(&[], Some(list));
    let revocable = || ca.identity(&ca.sign(&with_serial), now);
    let with_list = |what, authorities, fault: &str| Case {
        what,
        identity: revocable(),
        chain: fault.to_owned(),
        name: fault.to_owned(),
        authorities,
    };
    cases.push(with_list(
        "revoked",
        listed(&ca.revocation_list(&[5, 7], now + DAY)),
        "was revoked by its authority \"CN=Lab CA\"",
    ));
    cases.push(with_list("others are revoked", listed(&ca.revocation_list(&[5, 8], now + DAY)), ""));
    let yesterday = OffsetDateTime::from(now - DAY);
    cases.push(with_list(
        "old revocation list",
        listed(&ca.revocation_list(&[], now - DAY)),
        &format!("cannot be checked, because the revocation list of its authority expired on {}", text(yesterday)),
    ));
    cases.push(with_list(
        "revocation list of another authority",
        listed(&other.revocation_list(&[], now + DAY)),
        "cannot be checked: there is no revocation list of its authority \"CN=Lab CA\", or of one above it",
    ));

    let old_ca = Ca::with("Old CA", |params| params.not_after = OffsetDateTime::from(now - DAY / 2));
    let old_authorities = old_ca.authorities();
    let fault = format!(
        "was issued by \"CN=Old CA\", whose own certificate in {} expired on {}",
        old_authorities.source(),
        text(OffsetDateTime::from(now - DAY / 2)),
    );
    cases.push(Case {
        what: "expired authority",
        identity: old_ca.identity(&old_ca.sign(&good), now),
        chain: fault.clone(),
        name: fault,
        authorities: old_authorities,
    });
    let early_ca = Ca::with("Early CA", |params| params.not_before = OffsetDateTime::from(now + DAY));
    let early_authorities = early_ca.authorities();
    let fault = format!(
        "was issued by \"CN=Early CA\", whose own certificate in {} is valid only from {}",
        early_authorities.source(),
        text(OffsetDateTime::from(now + DAY)),
    );
    cases.push(Case {
        what: "authority of tomorrow",
        identity: early_ca.identity(&early_ca.sign(&good), now),
        chain: fault.clone(),
        name: fault,
        authorities: early_authorities,
    });
    cases.push(Case {
        what: "two authorities, at rotation",
        identity: other.identity(&other.sign(&good), now),
        chain: String::new(),
        name: String::new(),
        authorities: ca.authorities_with(&[&other], None),
    });

    // Self-signed, and in the CA file: trusted for itself.
    let key = KeyPair::generate().unwrap();
    let alone = (good.self_signed(&key).unwrap().pem(), key.serialize_pem());
    let trusted = Ca::holding(&alone.0);
    cases.push(Case {
        what: "self-signed and trusted",
        identity: trusted.identity(&alone, now),
        chain: String::new(),
        name: String::new(),
        authorities: trusted.authorities(),
    });

    let mut named_only = |what, alternatives: &[&str], presented: &str| {
        cases.push(Case {
            what,
            identity: ca.identity(&ca.sign(&named("node1", alternatives)), now),
            chain: String::new(),
            name: match presented {
                "" => String::new(),
                _ => format!("is for another host: we wanted node1.lab.example or 192.0.2.1, it has {presented}"),
            },
            authorities: Arc::clone(&authorities),
        });
    };
    named_only("wrong name", &["node2.lab.example"], "node2.lab.example");
    named_only("wrong address", &["192.0.2.2", "2001:db8::1"], "192.0.2.2, 2001:db8::1");
    named_only("a common name alone", &[], "no subjectAltName, and the common name node1");
    named_only("right name", &["node1.lab.example"], "");
    named_only("right address", &["192.0.2.1"], "");
    named_only("wildcard", &["*.lab.example"], "");
    named_only("wildcard of another domain", &["*.example.net"], "*.example.net");
    cases
}

fn wanted() -> Vec<ServerName<'static>> {
    vec![peer_name("node1.lab.example").unwrap(), peer_name("192.0.2.1").unwrap()]
}

#[test]
fn the_donor_judges_the_joiner_in_every_mode() {
    for case in cases(&ExtendedKeyUsagePurpose::ServerAuth) {
        let authorities = || Arc::clone(&case.authorities);
        let name = Trust::ChainAndName { authorities: authorities(), names: wanted(), common_name: false };
        for (mode, trust, fault) in [
            ("pin", Trust::Pin, ""),
            ("chain", Trust::Chain(authorities()), case.chain.as_str()),
            ("name", name, case.name.as_str()),
        ] {
            let ends = Ends { donor: None, donor_trust: trust, joiner: &case.identity, joiner_trust: Trust::Pin };
            let (_, _, (client, server)) = ends.connect();
            if fault.is_empty() {
                assert_eq!((client, server), (Ok(()), Ok(())), "{} in mode {mode}", case.what);
                continue;
            }
            let error = explain(client.unwrap_err(), "the joiner at 192.0.2.1:4444");
            assert_eq!(
                error.sentence(),
                format!("the joiner at 192.0.2.1:4444: the certificate \"CN=node1\" {fault}"),
                "{} in mode {mode}",
                case.what
            );
            assert_eq!(error.kind(), Kind::Untrusted);
            assert!(error.remedy_text().is_some_and(|remedy| remedy.len() > 10));
            let error = explain(server.unwrap_err(), "the donor at 192.0.2.9");
            assert_eq!(
                error.sentence(),
                "the donor at 192.0.2.9 refused our certificate (TLS alert CertificateUnknown)"
            );
        }
    }
}

#[test]
fn the_joiner_judges_the_donor_in_every_mode() {
    let joiner = Identity::ephemeral().unwrap();
    for case in cases(&ExtendedKeyUsagePurpose::ClientAuth) {
        let authorities = || Arc::clone(&case.authorities);
        let name = Trust::ChainAndName { authorities: authorities(), names: wanted(), common_name: false };
        for (mode, trust, fault) in [
            ("pin", Trust::Pin, ""),
            ("chain", Trust::Chain(authorities()), case.chain.as_str()),
            ("name", name, case.name.as_str()),
        ] {
            let ends =
                Ends { donor: Some(&case.identity), donor_trust: Trust::Pin, joiner: &joiner, joiner_trust: trust };
            let (_, _, (client, server)) = ends.connect();
            if fault.is_empty() {
                assert_eq!((client, server), (Ok(()), Ok(())), "{} in mode {mode}", case.what);
                continue;
            }
            let error = explain(server.unwrap_err(), "the donor at 192.0.2.9");
            assert_eq!(
                error.sentence(),
                format!("the donor at 192.0.2.9: the certificate \"CN=node1\" {fault}"),
                "{} in mode {mode}",
                case.what
            );
            let error = explain(client.unwrap_err(), "the joiner");
            assert_eq!(error.sentence(), "the joiner refused our certificate (TLS alert CertificateUnknown)");
        }
    }
}

#[test]
fn another_key_than_the_tickets_is_refused_in_every_mode() {
    let ca = Ca::new("Lab CA");
    let (real, middle) = (ca.node("node1", &["node1.lab.example"]), ca.node("node1", &["node1.lab.example"]));
    let name = Trust::ChainAndName { authorities: ca.authorities(), names: wanted(), common_name: false };
    for trust in [Trust::Pin, Trust::Chain(ca.authorities()), name] {
        let config = client_config(None, real.pin(), trust, &Policy::default()).unwrap();
        let mut client = ClientConnection::new(config, ServerName::try_from("node1.lab.example").unwrap()).unwrap();
        let config = server_config(&middle, Trust::Pin, &Policy::default()).unwrap();
        let mut server = ServerConnection::new(config).unwrap();
        let (client, _) = shake(&mut client, &mut server);
        let error = explain(client.unwrap_err(), "the joiner");
        assert_eq!(
            error.sentence(),
            format!(
                "the joiner: the certificate \"CN=node1\" is not the one that the ticket names: \
                 its pin is {}, the ticket's is {}",
                middle.pin(),
                real.pin()
            )
        );
    }
}

#[test]
fn a_joiner_with_an_authority_demands_a_certificate() {
    let ca = Ca::new("Lab CA");
    let joiner = ca.node("node1", &["node1.lab.example"]);
    let ends = Ends {
        donor: None,
        donor_trust: Trust::Chain(ca.authorities()),
        joiner: &joiner,
        joiner_trust: Trust::Chain(ca.authorities()),
    };
    let (_, _, (client, server)) = ends.connect();
    assert_eq!(
        explain(server.unwrap_err(), "the donor").sentence(),
        "the donor presented no certificate, though an authority is configured here"
    );
    assert_eq!(
        explain(client.unwrap_err(), "the joiner").sentence(),
        "the joiner demands a certificate, and none is configured here"
    );
}

#[test]
fn without_names_a_joiner_takes_any_donor_of_the_chain_and_a_donor_takes_nobody() {
    let ca = Ca::new("Lab CA");
    let (donor, joiner) = (ca.node("node2", &["node2.lab.example"]), ca.node("node1", &["node1.lab.example"]));
    let nameless = Trust::ChainAndName { authorities: ca.authorities(), names: Vec::new(), common_name: false };
    let mut ends =
        Ends { donor: Some(&donor), donor_trust: Trust::Pin, joiner: &joiner, joiner_trust: nameless.clone() };
    let (_, server, outcome) = ends.connect();
    assert_eq!(outcome, (Ok(()), Ok(())));
    assert_eq!(Session::of(&server, &nameless, false, "the donor").unwrap().verified, "chain");
    ends.donor_trust = nameless;
    let (_, _, (client, _)) = ends.connect();
    assert_eq!(explain(client.unwrap_err(), "the joiner").kind(), Kind::Untrusted);
}

#[test]
fn a_common_name_counts_only_when_it_is_asked_for() {
    let ca = Ca::new("Lab CA");
    for (cn, alternatives, common_name, accepted) in [
        ("node1.lab.example", &[][..], true, true),
        ("NODE1.lab.example", &[], true, true),
        ("node1.lab.example", &[], false, false),
        ("node2.lab.example", &[], true, false),
        ("node1.lab.example", &["node2.lab.example"], true, false),
    ] {
        let joiner = ca.node(cn, alternatives);
        let donor_trust = Trust::ChainAndName { authorities: ca.authorities(), names: wanted(), common_name };
        let ends = Ends { donor: None, donor_trust, joiner: &joiner, joiner_trust: Trust::Pin };
        let (_, _, (client, _)) = ends.connect();
        assert_eq!(client.is_ok(), accepted, "{cn} {alternatives:?} {common_name}");
    }
}

#[test]
fn a_session_says_what_was_agreed() {
    let ca = Ca::new("Lab CA");
    let (donor, joiner) = (ca.node("node2", &["node2.lab.example"]), ca.node("node1", &["node1.lab.example"]));
    let ends = Ends {
        donor: Some(&donor),
        donor_trust: Trust::ChainAndName { authorities: ca.authorities(), names: wanted(), common_name: false },
        joiner: &joiner,
        joiner_trust: Trust::Chain(ca.authorities()),
    };
    let (client, server, outcome) = ends.connect();
    assert_eq!(outcome, (Ok(()), Ok(())));
    let session = Session::of(&client, &ends.donor_trust, true, "the joiner").unwrap();
    assert_eq!(
        session.to_string(),
        "TLSv1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768, peer \"CN=node1\" verified by pin, chain and name"
    );
    let session = Session::of(&server, &ends.joiner_trust, false, "the donor").unwrap();
    assert_eq!(
        session.to_string(),
        "TLSv1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768, peer \"CN=node2\" verified by chain"
    );
    let only = Policy::parse(None, Some("TLS_AES_128_GCM_SHA256")).unwrap();
    let (client, _, outcome) = ends.connect_with(&only, &Policy::default());
    assert_eq!(outcome, (Ok(()), Ok(())));
    assert_eq!(Session::seen(&client).cipher, "TLS_AES_128_GCM_SHA256");
    let other = Policy::parse(None, Some("TLS_AES_256_GCM_SHA384")).unwrap();
    let (_, _, (client, _)) = ends.connect_with(&only, &other);
    assert_eq!(
        explain(client.unwrap_err(), "the joiner").sentence(),
        "the joiner has no cipher suite or key exchange in common with us"
    );
}

#[test]
fn no_tickets_are_sent_and_no_other_protocol_is_spoken() {
    let joiner = Identity::ephemeral().unwrap();
    let ends = Ends { donor: None, donor_trust: Trust::Pin, joiner: &joiner, joiner_trust: Trust::Pin };
    let (client, _, _) = ends.connect();
    assert_eq!(client.tls13_tickets_received(), 0);

    let config = crate::tls::config::look_config(None).unwrap();
    let mut looking = ClientConnection::new(config, ServerName::try_from("node1.lab.example").unwrap()).unwrap();
    let config = server_config(&joiner, Trust::Pin, &Policy::default()).unwrap();
    let mut server = ServerConnection::new(config).unwrap();
    assert_eq!(shake(&mut looking, &mut server), (Ok(()), Ok(())));
    assert_eq!(
        Session::of(&server, &Trust::Pin, false, "192.0.2.7").unwrap_err().sentence(),
        "192.0.2.7 speaks TLS, but not Highline's protocol"
    );
}

#[test]
fn a_node_in_the_ca_file_cannot_make_nodes() {
    let ca = Ca::new("Lab CA");
    for self_signed in [false, true] {
        // The thief of a node's key signs a certificate of his own with it.
        let node = named("node1", &["node1.lab.example"]);
        let thief = Ca::with("node1", |params| *params = node.clone());
        let in_file = if self_signed { thief.pem.clone() } else { ca.reissue(&node, &thief) };
        let joiner = thief.node("forged", &["node1.lab.example"]);
        let bundle = Ca::holding(&in_file);
        let authorities = ca.authorities_with(&[&bundle], None);
        let ends =
            Ends { donor: None, donor_trust: Trust::Chain(authorities), joiner: &joiner, joiner_trust: Trust::Pin };
        let (_, _, (client, _)) = ends.connect();
        let error = explain(client.unwrap_err(), "the joiner");
        assert_eq!(error.kind(), Kind::Untrusted);
        assert!(error.sentence().starts_with("the joiner: the certificate \"CN=forged\" was "), "{}", error.sentence());
    }
}

#[test]
fn bytes_that_are_not_tls_are_explained() {
    let joiner = Identity::ephemeral().unwrap();
    let mut server = ServerConnection::new(server_config(&joiner, Trust::Pin, &Policy::default()).unwrap()).unwrap();
    server.read_tls(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).unwrap();
    let error = explain(server.process_new_packets().unwrap_err(), "192.0.2.7");
    assert!(error.sentence().starts_with("192.0.2.7 sent something that is not TLS: "), "{}", error.sentence());
}
