//! The `rustls` configurations of both ends.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::refusal::explain;
use super::verification::{DonorVerifier, JoinerVerifier};
use super::{Identity, Pin, Policy, Trust};
use crate::error::{Error, Kind, Result};

/// The name of our protocol in the TLS handshake (ALPN, RFC 7301).
pub const ALPN: &[u8] = b"highline/1";

/// Both sides must have agreed on Highline's protocol by ALPN.
pub(crate) fn require_alpn(agreed: Option<&[u8]>, subject: &str) -> Result<()> {
    match agreed {
        Some(protocol) if protocol == ALPN => Ok(()),
        _ => Err(explain(rustls::Error::NoApplicationProtocol, subject)),
    }
}

/// The donor's end: it always requires `pin`, checks the joiner's certificate by `trust`, and presents `identity`, if
/// any, when the joiner asks.
pub fn client_config(
    identity: Option<&Identity>,
    pin: Pin,
    trust: Trust,
    policy: &Policy,
) -> Result<Arc<ClientConfig>> {
    let verifier = JoinerVerifier { pin: Some(pin), trust, provider: policy.provider() };
    let mut config = client(identity, verifier, policy)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// For examining a peer without trusting it: accepts every certificate and offers no ALPN. Use it for a handshake only.
pub fn look_config(identity: Option<&Identity>) -> Result<Arc<ClientConfig>> {
    let policy = Policy::default();
    let verifier = JoinerVerifier { pin: None, trust: Trust::Pin, provider: policy.provider() };
    client(identity, verifier, &policy).map(Arc::new)
}

fn client(identity: Option<&Identity>, verifier: JoinerVerifier, policy: &Policy) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(policy.provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The joiner's end. With authorities in `trust` it requires a certificate from the donor.
pub fn server_config(identity: &Identity, trust: Trust, policy: &Policy) -> Result<Arc<ServerConfig>> {
    let builder =
        ServerConfig::builder_with_provider(policy.provider()).with_protocol_versions(&[&TLS13]).map_err(unusable)?;
    let builder = match trust.of_joiner() {
        Trust::Pin => builder.with_no_client_auth(),
        trust => builder.with_client_cert_verifier(Arc::new(DonorVerifier::new(trust, policy.provider()))),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Session tickets that the donor never reads would turn its close into a reset, which can destroy the last bytes.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn unusable(error: rustls::Error) -> Error {
    Error::new(Kind::Usage, "this choice of cipher suites cannot make a TLS configuration")
        .because(error)
        .remedy("remove ssl-cipher from the option file")
}

#[cfg(all(test, feature = "fips"))]
mod fips_tests {
    use super::*;

    #[test]
    fn both_ends_are_approved_and_offer_nothing_else() {
        let identity = Identity::ephemeral().unwrap();
        for ciphers in [None, Some("DEFAULT"), Some("ECDHE-RSA-AES256-GCM-SHA384")] {
            let policy = Policy::parse(None, ciphers).unwrap();
            let client = client_config(Some(&identity), identity.pin(), Trust::Pin, &policy).unwrap();
            let server = server_config(&identity, Trust::Pin, &policy).unwrap();
            assert!(client.fips() && server.fips(), "{ciphers:?}");
            for provider in [client.crypto_provider(), server.crypto_provider()] {
                assert!(provider.fips());
                assert!(provider.cipher_suites.iter().all(|suite| suite.fips()));
                assert!(provider.kx_groups.iter().all(|group| group.fips()));
                let groups: Vec<String> =
                    provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect();
                assert_eq!(groups, ["X25519MLKEM768", "secp256r1", "secp384r1"]);
            }
        }
        assert!(look_config(None).unwrap().fips());
    }

    #[test]
    fn the_module_itself_says_that_it_is_in_fips_mode() {
        assert_eq!(aws_lc_rs::try_fips_mode(), Ok(()));
    }
}
