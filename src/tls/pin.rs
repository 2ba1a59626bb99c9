//! The fingerprint of a public key.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// SHA-256 of a certificate's `SubjectPublicKeyInfo` (RFC 7469 §2.4): it identifies the key, so it stays the same when
/// a certificate is renewed with the same key. As text: 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

/// Why a text is not a pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pin has 43 characters of base64url: letters, digits, '-' and '_'")]
pub struct PinError;

impl Pin {
    pub fn from_bytes(bytes: [u8; 32]) -> Pin {
        Pin(bytes)
    }

    /// `spki` is the DER of a `SubjectPublicKeyInfo`.
    pub fn of_spki(spki: &[u8]) -> Pin {
        let mut pin = [0; 32];
        pin.copy_from_slice(digest(&SHA256, spki).as_ref());
        Pin(pin)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Pin, PinError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| PinError)?;
        bytes.try_into().map(Pin).map_err(|_| PinError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_survives_its_text() {
        let pin = Pin::of_spki(b"some key");
        let text = pin.to_string();
        assert_eq!(text.len(), 43);
        assert_eq!(text.parse::<Pin>(), Ok(pin));
        assert_eq!(Pin::of_spki(b"").to_string(), "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
    }

    #[test]
    fn other_texts_are_refused() {
        let good = Pin::of_spki(b"k").to_string();
        for bad in ["", "abc", &good[1..], &format!("{good}="), &format!("{good}A"), &good.replace(&good[..1], "+")] {
            assert_eq!(bad.parse::<Pin>(), Err(PinError), "{bad}");
        }
    }
}
