//! What a certificate says about itself. This only reads; `verification` decides whether to believe it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name, X509Version};
use x509_parser::public_key::PublicKey;

use super::Pin;
use crate::error::Printable;

/// A certificate's contents, safe to print.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    pub common_name: Option<String>,
    /// The names in subjectAltName: DNS names and IP addresses.
    pub names: Vec<String>,
    /// The extended key usages; `None` means any.
    pub purposes: Option<Vec<String>>,
    pub not_before: Moment,
    pub not_after: Moment,
    pub key: KeyType,
    /// It may sign others: CA:TRUE, or self-signed version 1, which had no way to say so.
    pub is_authority: bool,
    /// Its subject is its issuer.
    pub is_self_signed: bool,
    /// X.509 version: 1 to 3.
    pub version: u32,
    pub serial: String,
    pub pin: Pin,
    pub spki: SubjectPublicKeyInfoDer<'static>,
}

/// What a peer's certificate must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The joiner, which listens.
    Server,
    /// The donor, which dials.
    Client,
}

/// Kind and size of a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// Size of the modulus in bits.
    Rsa(usize),
    /// Size of the field in bits.
    Ecdsa(usize),
    Ed25519,
    /// Its object identifier.
    Other(String),
}

/// A date in a certificate, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

/// The bytes are not a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not an X.509 certificate")]
pub struct NoCertificate;

impl Certificate {
    pub fn parse(der: &CertificateDer<'_>) -> Result<Certificate, NoCertificate> {
        let (rest, x509) = X509Certificate::from_der(der).map_err(|_| NoCertificate)?;
        if !rest.is_empty() {
            return Err(NoCertificate);
        }
        let spki = x509.public_key();
        let key = match spki.parsed() {
            Ok(PublicKey::RSA(rsa)) => KeyType::Rsa(rsa.key_size()),
            // The size comes in whole bytes, which 521 bits are not.
            Ok(PublicKey::EC(point)) => KeyType::Ecdsa(if point.key_size() == 528 { 521 } else { point.key_size() }),
            _ if spki.algorithm.algorithm.to_id_string() == "1.3.101.112" => KeyType::Ed25519,
            _ => KeyType::Other(spki.algorithm.algorithm.to_id_string()),
        };
        let alternatives = x509.subject_alternative_name().ok().flatten();
        let purposes = x509.extended_key_usage().map_err(|_| NoCertificate)?;
        let name_of = |name: &X509Name<'_>| printable(&name.to_string());
        let is_self_signed = x509.subject().as_raw() == x509.issuer().as_raw();
        Ok(Certificate {
            subject: name_of(x509.subject()),
            issuer: name_of(x509.issuer()),
            common_name: x509.subject().iter_common_name().last().and_then(|cn| cn.as_str().ok()).map(printable),
            names: alternatives
                .map(|extension| extension.value.general_names.iter().filter_map(name_text).collect())
                .unwrap_or_default(),
            purposes: purposes.map(|extension| {
                let usage = extension.value;
                let mut named = Vec::new();
                let known = [
                    (usage.any, "any"),
                    (usage.server_auth, "serverAuth"),
                    (usage.client_auth, "clientAuth"),
                    (usage.code_signing, "codeSigning"),
                    (usage.email_protection, "emailProtection"),
                    (usage.time_stamping, "timeStamping"),
                    (usage.ocsp_signing, "OCSPSigning"),
                ];
                named.extend(known.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()));
                named.extend(usage.other.iter().map(|oid| oid.to_id_string()));
                named
            }),
            not_before: Moment(x509.validity().not_before.timestamp()),
            not_after: Moment(x509.validity().not_after.timestamp()),
            key,
            is_authority: x509.is_ca() || (x509.version() == X509Version::V1 && is_self_signed),
            is_self_signed,
            version: match x509.version() {
                X509Version::V1 => 1,
                X509Version::V2 => 2,
                X509Version(_) => 3,
            },
            serial: x509.raw_serial_as_string(),
            pin: Pin::of_spki(spki.raw),
            spki: SubjectPublicKeyInfoDer::from(spki.raw.to_vec()),
        })
    }

    /// Whether a TLS server can use it: no purposes named, or `serverAuth` among them.
    pub fn serves(&self) -> bool {
        self.permits("serverAuth")
    }

    /// Whether a TLS client can use it: no purposes named, or `clientAuth` among them.
    pub fn dials(&self) -> bool {
        self.permits("clientAuth")
    }

    fn permits(&self, purpose: &str) -> bool {
        self.purposes.as_ref().is_none_or(|named| named.iter().any(|name| name == purpose))
    }

    /// Whether it is for `name`, by RFC 6125: a DNS name or address in subjectAltName, never the common name.
    pub fn is_for(der: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
        webpki::EndEntityCert::try_from(der)
            .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(name).is_ok())
    }

    /// Whole days from `now` until it expires; negative when it has expired.
    pub fn days_left(&self, now: SystemTime) -> i64 {
        self.not_after.0.saturating_sub(Moment::from(now).0).div_euclid(86_400)
    }

    /// A name for messages: `"CN=node1"`.
    pub fn title(&self) -> String {
        match (self.subject.is_empty(), self.names.first()) {
            (true, Some(name)) => format!("\"{name}\""),
            _ => format!("\"{}\"", self.subject),
        }
    }

    /// All its names, for messages.
    pub fn all_names(&self) -> String {
        match (&self.common_name, self.names.is_empty()) {
            (None, true) => "no name".to_owned(),
            (Some(name), true) => format!("no subjectAltName, and the common name {name}"),
            (_, false) => self.names.join(", "),
        }
    }
}

fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let cut: String = text.chars().take(MAX_CHARS).collect();
    Printable(cut.as_bytes()).to_string()
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(printable(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
            let v6 = <[u8; 16]>::try_from(*bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

impl KeyType {
    /// Too short to be safe, and refused by the TLS library: RSA below 2048 bits (NIST SP 800-131A).
    pub fn is_weak(&self) -> bool {
        matches!(self, KeyType::Rsa(bits) if *bits < 2048)
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyType::Rsa(bits) => write!(f, "RSA {bits}"),
            KeyType::Ecdsa(bits) => write!(f, "ECDSA P-{bits}"),
            KeyType::Ed25519 => f.write_str("Ed25519"),
            KeyType::Other(oid) => write!(f, "key type {oid}"),
        }
    }
}

impl Moment {
    pub fn from_unix(seconds: i64) -> Moment {
        Moment(seconds)
    }

    /// Before 1970 becomes 1970.
    pub fn to_system_time(self) -> SystemTime {
        let seconds = u64::try_from(self.0).unwrap_or(0);
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Moment {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        Moment(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

impl From<rustls_pki_types::UnixTime> for Moment {
    fn from(time: rustls_pki_types::UnixTime) -> Moment {
        Moment(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    }
}

/// `2026-11-24 10:41:19 UTC`
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(at) = OffsetDateTime::from_unix_timestamp(self.0) else {
            return write!(f, "second {} of the Unix epoch", self.0);
        };
        let (hour, minute, second) = at.to_hms();
        write!(f, "{:04}-{:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", at.year(), u8::from(at.month()), at.day())
    }
}
