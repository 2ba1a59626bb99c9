//! The proof that a side knows the ticket's secret, bound to one TLS connection.
//!
//! `HMAC-SHA256(secret, role ‖ exporter)`, where the exporter is that of RFC 5705 and RFC 8446 §7.5. The secret is
//! never sent, and a proof is worthless on another connection: a man in the middle has two, with different exporters.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::ticket::Secret;
use crate::error::{Error, Kind, Result, Side};
use crate::manifest::Digest;

/// The exporter's label (RFC 5705 §4).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Highline-Proof";

/// Bytes that only the two ends of one TLS connection know.
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

/// What `side` must send on `channel`.
pub fn prove(secret: &Secret, side: Side, channel: &Channel) -> Digest {
    let role: &[u8] = match side {
        Side::Donor => b"highline donor",
        Side::Joiner => b"highline joiner",
        Side::Here => b"",
    };
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()));
    mac.update(role);
    mac.update(&channel.0);
    let mut proof = [0; 32];
    proof.copy_from_slice(mac.sign().as_ref());
    Digest::from_bytes(proof)
}

/// Whether `proof` is what `side` must send on `channel`; in constant time.
pub fn is_proven(proof: &Digest, secret: &Secret, side: Side, channel: &Channel) -> bool {
    verify_slices_are_equal(prove(secret, side, channel).as_bytes(), proof.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python's `hmac` makes it.
    #[test]
    fn a_proof_is_hmac_sha256() {
        let secret = Secret::for_test([7; 32]);
        assert_eq!(
            prove(&secret, Side::Donor, &Channel::for_test(1)).to_string(),
            "f2d5c0237e069e64cb598bf60f6dba4a66ee3aa8c93cad51e8f09a267c0de995"
        );
    }

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
