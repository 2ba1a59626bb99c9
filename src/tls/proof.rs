//! The proof that a side knows the ticket's secret, bound to one TLS connection.
//!
//! `HMAC-SHA256(secret, role ‖ exporter)`, where the exporter is that of RFC 5705 and RFC 8446 §7.5.
//! The secret never crosses, and a proof is worth nothing on another connection: a man in the middle
//! has two, with different exporters.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::ticket::Secret;
use crate::error::{Error, Kind, Result, Side};
use crate::manifest::Digest;

/// The label under which the exporter's bytes are drawn (RFC 5705 §4).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Highline-Proof";

/// Bytes that only the two ends of one TLS connection can know.
#[derive(Clone, Copy)]
pub struct Channel([u8; 32]);

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channel(…)")
    }
}

impl Channel {
    /// # Errors
    /// The handshake is not finished.
    pub fn of(stream: &tokio_rustls::TlsStream<impl Sized>) -> Result<Channel> {
        let failed = |e| Error::new(Kind::Protocol, "the TLS connection has no exporter").because(e);
        let bytes = match stream {
            tokio_rustls::TlsStream::Client(s) => s.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None),
            tokio_rustls::TlsStream::Server(s) => s.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None),
        };
        bytes.map(Channel).map_err(failed)
    }

    #[cfg(test)]
    fn for_test(byte: u8) -> Channel {
        Channel([byte; 32])
    }
}

/// What `side` says on `channel`.
pub fn prove(secret: &Secret, side: Side, channel: &Channel) -> Digest {
    let role: &[u8] = match side {
        Side::Donor => b"highline donor",
        Side::Joiner => b"highline joiner",
        Side::Here => b"",
    };
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose()) else { return Digest::from_bytes([0; 32]) };
    mac.update(role);
    mac.update(&channel.0);
    Digest::from_bytes(mac.finalize().into_bytes().into())
}

/// Whether `proof` is what `side` must say on `channel`; takes the same time whatever it holds.
pub fn is_proven(proof: &Digest, secret: &Secret, side: Side, channel: &Channel) -> bool {
    prove(secret, side, channel).as_bytes().ct_eq(proof.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_secret_role_and_channel() {
        let (secret, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        let (here, there) = (Channel::for_test(1), Channel::for_test(2));
        let proof = prove(&secret, Side::Donor, &here);
        assert!(is_proven(&proof, &secret, Side::Donor, &here));
        assert!(!is_proven(&proof, &other, Side::Donor, &here), "wrong secret");
        assert!(!is_proven(&proof, &secret, Side::Joiner, &here), "reflected");
        assert!(!is_proven(&proof, &secret, Side::Donor, &there), "replayed on another connection");
    }
}
