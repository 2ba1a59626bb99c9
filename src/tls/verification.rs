//! Checks that the peer is who it must be: pin, chain, purpose, revocation and name.
//!
//! `webpki` checks the chain itself; this file decides what is required, and explains what failed.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::certificate::{Certificate, Moment, Purpose};
use super::provider::provider;
use super::refusal::{Fault, Refusal};
use super::{Authorities, Pin};

/// How the peer's certificate is checked, in addition to the pin that a donor always checks.
#[derive(Clone, Debug)]
pub enum Trust {
    /// `ssl-mode` unset or `REQUIRED`: only the ticket. A joiner asks for no client certificate, because the donor
    /// proves that it knows the ticket's secret.
    Pin,
    /// `ssl-mode=VERIFY_CA`: signed by one of the authorities, for this purpose, not revoked.
    Chain(Arc<Authorities>),
    /// `ssl-mode=VERIFY_IDENTITY`: the same, and for one of these names.
    ChainAndName {
        authorities: Arc<Authorities>,
        /// On a donor, the address it dialled. On a joiner, the donors it allows; empty means any, because a joiner
        /// cannot know who will be chosen.
        names: Vec<ServerName<'static>>,
        /// Accept the common name of a certificate without subjectAltName, which RFC 6125 discourages.
        common_name: bool,
    },
}

impl Trust {
    pub fn authorities(&self) -> Option<&Arc<Authorities>> {
        match self {
            Trust::Pin => None,
            Trust::Chain(authorities) | Trust::ChainAndName { authorities, .. } => Some(authorities),
        }
    }

    /// As a joiner uses it: without names only the chain is required.
    pub(crate) fn of_joiner(self) -> Trust {
        match self {
            Trust::ChainAndName { authorities, names, .. } if names.is_empty() => Trust::Chain(authorities),
            other => other,
        }
    }

    /// Checks a presented chain, but not the pin.
    pub(crate) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        purpose: Purpose,
    ) -> Result<(), Refusal> {
        let Some(authorities) = self.authorities() else { return Ok(()) };
        check_path(leaf, intermediates, authorities, now, purpose)?;
        match self {
            Trust::ChainAndName { names, common_name, .. } => check_name(leaf, names, *common_name),
            _ => Ok(()),
        }
    }
}

/// `now` for `webpki`; a time before 1970 becomes 1970.
pub(crate) fn unix_time(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Whether there is a path from `leaf` to an authority, valid at `now`, for `purpose`, with nothing revoked.
pub(crate) fn check_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &Authorities,
    now: UnixTime,
    purpose: Purpose,
) -> Result<(), Refusal> {
    let facts = read(leaf)?;
    if facts.version < 3 {
        return Err(Refusal::of(&facts, Fault::OldVersion));
    }
    if facts.key.is_weak() {
        return Err(Refusal::of(&facts, Fault::WeakKey { key: facts.key.to_string() }));
    }
    let certificate = EndEntityCert::try_from(leaf).map_err(|e| Refusal::of(&facts, Fault::Other(e)))?;
    let lists = authorities.revocation_lists();
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        // If a list is given it is enforced for every authority in the path, as with OpenSSL's CRL_CHECK_ALL.
        options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build()
    });
    let usage = match purpose {
        Purpose::Server => KeyUsage::server_auth(),
        Purpose::Client => KeyUsage::client_auth(),
    };
    let algorithms = provider().signature_verification_algorithms.all;
    let anchors = authorities.vouching(leaf, Moment::from(now));
    certificate.verify_for_usage(algorithms, &anchors, intermediates, now, usage, revocation, None).map(|_| ()).map_err(
        |error| {
            let fault = Fault::of(error, &facts, intermediates, authorities, Moment::from(now), purpose);
            Refusal::of(&facts, fault)
        },
    )
}

fn check_name(leaf: &CertificateDer<'_>, names: &[ServerName<'static>], common_name: bool) -> Result<(), Refusal> {
    if names.iter().any(|name| Certificate::is_for(leaf, name)) {
        return Ok(());
    }
    let facts = read(leaf)?;
    if common_name && facts.names.is_empty() {
        let is_common = |name: &ServerName<'_>| match (name, &facts.common_name) {
            (ServerName::DnsName(dns), Some(common)) => dns.as_ref().eq_ignore_ascii_case(common),
            _ => false,
        };
        if names.iter().any(is_common) {
            return Ok(());
        }
    }
    let wanted = names.iter().map(|name| name.to_str().into_owned()).collect();
    Err(Refusal::of(&facts, Fault::WrongName { wanted, presented: facts.all_names() }))
}

fn read(leaf: &CertificateDer<'_>) -> Result<Certificate, Refusal> {
    Certificate::parse(leaf).map_err(|_| Refusal::unreadable())
}

/// Parses a DNS name or an IP address, the latter with or without brackets.
pub fn peer_name(text: &str) -> crate::error::Result<ServerName<'static>> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    ServerName::try_from(bare.to_owned()).map_err(|_| {
        let shown = crate::error::Printable(text.as_bytes());
        crate::error::Error::new(crate::error::Kind::Usage, format!("{shown} is neither a DNS name nor an IP address"))
            .remedy("write a name such as node1.example.com, or an address such as 192.0.2.1 or [2001:db8::1]")
    })
}

/// How the donor checks the joiner.
#[derive(Debug)]
pub(crate) struct JoinerVerifier {
    /// `None` only if a stranger is examined but not trusted (`highline check --peer`).
    pub(crate) pin: Option<Pin>,
    pub(crate) trust: Trust,
    pub(crate) provider: Arc<CryptoProvider>,
}

/// How the joiner checks the donor.
#[derive(Debug)]
pub(crate) struct DonorVerifier {
    pub(crate) trust: Trust,
    pub(crate) hints: Vec<DistinguishedName>,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl DonorVerifier {
    pub(crate) fn new(trust: Trust, provider: Arc<CryptoProvider>) -> DonorVerifier {
        let anchors = trust.authorities().into_iter().flat_map(|authorities| authorities.iter());
        let hints = anchors.map(|authority| DistinguishedName::in_sequence(&authority.anchor.subject)).collect();
        DonorVerifier { trust, hints, provider }
    }
}

/// Checks the signature with just the key, so that pin mode also accepts X.509 version 1 certificates, which some
/// servers have and `webpki` does not read.
fn check_signature(
    provider: &CryptoProvider,
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let facts = read(leaf)?;
    if facts.key.is_weak() {
        return Err(Refusal::of(&facts, Fault::WeakKey { key: facts.key.to_string() }).into());
    }
    verify_tls13_signature_with_raw_key(message, &facts.spki, signed, &provider.signature_verification_algorithms)
}

/// What both verifiers answer about a signature in the handshake: their traits have the same methods.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _leaf: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            // The library is built without TLS 1.2, so this is never asked.
            Err(rustls::Error::General("TLS below 1.3 is not spoken".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            check_signature(&self.provider, message, leaf, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for JoinerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(expected) = self.pin {
            let facts = read(leaf)?;
            if facts.pin != expected {
                return Err(Refusal::of(&facts, Fault::Pin { expected, presented: facts.pin }).into());
            }
        }
        self.trust.check(leaf, intermediates, now, Purpose::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for DonorVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.check(leaf, intermediates, now, Purpose::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}
