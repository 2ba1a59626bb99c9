//! Whole handshakes in memory: every mode of trust against every fault of a certificate, on both sides.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SerialNumber};
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData};
use rustls_pki_types::ServerName;
use time::OffsetDateTime;

use super::testing::{Ca, DAY, named};
use super::verification::{Trust, peer_name};
use super::{Authorities, Identity, Policy, Session, client_config, explain, server_config};
use crate::error::Kind;

type Outcome = (Result<(), rustls::Error>, Result<(), rustls::Error>);

/// Carries bytes between the two ends until both are done or one refused; the alert is carried too.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Outcome {
    let (mut client_said, mut server_said) = (Ok(()), Ok(()));
    for _ in 0..20 {
        carry(client, server, &mut server_said);
        carry(server, client, &mut client_said);
    }
    (client_said, server_said)
}

fn carry<A, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    said: &mut Result<(), rustls::Error>,
) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut bytes = wire.as_slice();
    while !bytes.is_empty() && said.is_ok() {
        to.read_tls(&mut bytes).unwrap();
        *said = to.process_new_packets().map(|_| ());
    }
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
    authorities: Arc<Authorities>,
    /// The fault after "the certificate "CN=node1" ", when the chain is verified; empty: accepted.
    chain: String,
    /// The same when the name is verified as well.
    name: String,
}

fn text(date: OffsetDateTime) -> String {
    crate::tls::certificate::Moment::from_unix(date.unix_timestamp()).to_string()
}

fn cases(own_purpose: &ExtendedKeyUsagePurpose) -> Vec<Case> {
    let ca = Ca::new("Lab CA");
    let authorities = ca.authorities();
    let source = authorities.source().to_owned();
    let now = SystemTime::now();
    let (yesterday, half_a_day_ago, tomorrow) =
        (OffsetDateTime::from(now - DAY), OffsetDateTime::from(now - DAY / 2), OffsetDateTime::from(now + DAY));
    let node = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = named("node1", &["node1.lab.example", "192.0.2.1"]);
        change(&mut params);
        params
    };
    let good = node(&|_| ());
    let by = |ca: &Ca, params: &CertificateParams| ca.identity(&ca.sign(params), now);
    let mut cases = Vec::new();
    let mut case = |what, identity, authorities: &Arc<Authorities>, fault: &str| {
        let (chain, name) = (fault.to_owned(), fault.to_owned());
        cases.push(Case { what, identity, authorities: Arc::clone(authorities), chain, name });
    };
    case("nothing is wrong", by(&ca, &good), &authorities, "");

    let other = Ca::new("Other CA");
    let not_among = |issuer| {
        format!("was issued by \"CN={issuer}\", which is not among the authorities in {source}: \"CN=Lab CA\"")
    };
    case("wrong CA", by(&other, &good), &authorities, &not_among("Other CA"));
    let both = ca.authorities_with(&[&other], None);
    case("two authorities, at rotation", by(&other, &good), &both, "");
    let fault =
        format!("was not signed by the authority \"CN=Lab CA\" in {source}, but by another one of the same name");
    case("wrong CA of the same name", by(&Ca::new("Lab CA"), &good), &authorities, &fault);

    let expired = ca.sign(&node(&|params| params.not_after = half_a_day_ago));
    let fault = format!("expired on {}", text(half_a_day_ago));
    case("expired", ca.identity(&expired, now - 3 * DAY / 4), &authorities, &fault);
    let early = ca.sign(&node(&|params| params.not_before = tomorrow));
    let fault = format!("is valid only from {}", text(tomorrow));
    case("not yet valid", ca.identity(&early, now + 2 * DAY), &authorities, &fault);

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
    for (what, purposes, fault) in [
        ("wrong purpose", vec![other_purpose], fault),
        ("the one purpose that is needed", vec![own_purpose.clone()], ""),
        ("no purpose named", vec![], ""),
    ] {
        let params = node(&|params| params.extended_key_usages.clone_from(&purposes));
        case(what, by(&ca, &params), &authorities, fault);
    }

    let key = KeyPair::generate().unwrap();
    let alone = (good.self_signed(&key).unwrap().pem(), key.serialize_pem());
    let fault = format!("is self-signed and not among the authorities in {source}");
    case("self-signed", ca.identity(&alone, now), &authorities, &fault);
    let trusted = Ca::holding(&alone.0);
    case("self-signed and trusted", trusted.identity(&alone, now), &trusted.authorities(), "");

    let intermediate = ca.intermediate("Lab intermediate");
    let (leaf, key) = intermediate.sign(&good);
    let bundle = (format!("{leaf}{}", intermediate.pem), key.clone());
    case("intermediate missing", ca.identity(&(leaf, key), now), &authorities, &not_among("Lab intermediate"));
    case("intermediate in the bundle", ca.identity(&bundle, now), &authorities, "");
    let old = ca.intermediate_with("Old intermediate", |params| params.not_after = half_a_day_ago);
    let (leaf, key) = old.sign(&good);
    let fault = format!(
        "comes with the intermediate certificate \"CN=Old intermediate\", which is valid only from {} to {}",
        text(yesterday),
        text(half_a_day_ago)
    );
    case("intermediate expired", ca.identity(&(format!("{leaf}{}", old.pem), key), now), &authorities, &fault);
    let authority = node(&|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let fault = "is the certificate of an authority (CA:TRUE), which cannot be a node's";
    case("an authority's certificate", by(&ca, &authority), &authorities, fault);

    let revocable = node(&|params| params.serial_number = Some(SerialNumber::from(7_u64)));
    let old_list =
        format!("cannot be checked, because the revocation list of its authority expired on {}", text(yesterday));
    let no_list = "cannot be checked: there is no revocation list of its authority \"CN=Lab CA\", or of one above it";
    for (what, list, fault) in [
        ("revoked", ca.revocation_list(&[5, 7], now + DAY), "was revoked by its authority \"CN=Lab CA\""),
        ("others are revoked", ca.revocation_list(&[5, 8], now + DAY), ""),
        ("old revocation list", ca.revocation_list(&[], now - DAY), &old_list),
        ("revocation list of another authority", other.revocation_list(&[], now + DAY), no_list),
    ] {
        case(what, by(&ca, &revocable), &ca.authorities_with(&[], Some(&list)), fault);
    }

    let old_ca = Ca::with("Old CA", |params| params.not_after = half_a_day_ago);
    let early_ca = Ca::with("Early CA", |params| params.not_before = tomorrow);
    for (what, ca, name, state, date) in [
        ("expired authority", old_ca, "Old CA", "expired on", half_a_day_ago),
        ("authority of tomorrow", early_ca, "Early CA", "is valid only from", tomorrow),
    ] {
        let (authorities, date) = (ca.authorities(), text(date));
        let source = authorities.source();
        let fault = format!("was issued by \"CN={name}\", whose own certificate in {source} {state} {date}");
        case(what, by(&ca, &good), &authorities, &fault);
    }

    for (what, alternatives, presented) in [
        ("wrong name", &["node2.lab.example"][..], "node2.lab.example"),
        ("wrong address", &["192.0.2.2", "2001:db8::1"], "192.0.2.2, 2001:db8::1"),
        ("a common name alone", &[], "no subjectAltName, and the common name node1"),
        ("right name", &["node1.lab.example"], ""),
        ("right address", &["192.0.2.1"], ""),
        ("wildcard", &["*.lab.example"], ""),
        ("wildcard of another domain", &["*.example.net"], "*.example.net"),
    ] {
        let name = match presented {
            "" => String::new(),
            _ => format!("is for another host: expected node1.lab.example or 192.0.2.1, it has {presented}"),
        };
        let identity = by(&ca, &named("node1", alternatives));
        cases.push(Case { what, identity, authorities: Arc::clone(&authorities), chain: String::new(), name });
    }
    cases
}

fn wanted() -> Vec<ServerName<'static>> {
    vec![peer_name("node1.lab.example").unwrap(), peer_name("192.0.2.1").unwrap()]
}

/// Every case in every mode. `meet` lets the one side judge the identity by the trust; it returns first what that side
/// says and then what the other hears.
fn judge_in_every_mode(purpose: &ExtendedKeyUsagePurpose, meet: impl Fn(&Identity, Trust) -> Outcome) {
    for Case { what, identity, authorities, chain, name } in cases(purpose) {
        let by_name =
            Trust::ChainAndName { authorities: Arc::clone(&authorities), names: wanted(), common_name: false };
        for (mode, trust, fault) in
            [("pin", Trust::Pin, String::new()), ("chain", Trust::Chain(authorities), chain), ("name", by_name, name)]
        {
            let (judge, judged) = meet(&identity, trust);
            if fault.is_empty() {
                assert_eq!((judge, judged), (Ok(()), Ok(())), "{what} in mode {mode}");
                continue;
            }
            let error = explain(judge.unwrap_err(), "the peer at 192.0.2.1");
            let sentence = format!("the peer at 192.0.2.1: the certificate \"CN=node1\" {fault}");
            assert_eq!(error.sentence(), sentence, "{what} in mode {mode}");
            assert_eq!(error.kind(), Kind::Untrusted);
            assert!(error.remedy_text().is_some_and(|remedy| remedy.len() > 10));
            let sentence = "the judge refused our certificate (TLS alert CertificateUnknown)";
            assert_eq!(explain(judged.unwrap_err(), "the judge").sentence(), sentence);
        }
    }
}

#[test]
fn the_donor_judges_the_joiner_in_every_mode() {
    judge_in_every_mode(&ExtendedKeyUsagePurpose::ServerAuth, |joiner, donor_trust| {
        Ends { donor: None, donor_trust, joiner, joiner_trust: Trust::Pin }.connect().2
    });
}

#[test]
fn the_joiner_judges_the_donor_in_every_mode() {
    let joiner = &Identity::ephemeral().unwrap();
    judge_in_every_mode(&ExtendedKeyUsagePurpose::ClientAuth, |donor, joiner_trust| {
        let ends = Ends { donor: Some(donor), donor_trust: Trust::Pin, joiner, joiner_trust };
        let (_, _, (client, server)) = ends.connect();
        (server, client)
    });
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
        "the donor presented no certificate, although an authority is configured here"
    );
    assert_eq!(
        explain(client.unwrap_err(), "the joiner").sentence(),
        "the joiner requires a certificate, but none is configured here"
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
