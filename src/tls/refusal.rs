//! Why a certificate or a handshake was refused, in words.

use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, OtherError};
use rustls_pki_types::CertificateDer;

use super::certificate::{Certificate, Moment, Purpose};
use super::{Authorities, Pin};
use crate::error::{Error, Kind};

/// A refused certificate: whose it is, and what is wrong with it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the certificate {title} {fault}")]
pub struct Refusal {
    title: String,
    pub fault: Fault,
}

/// What is wrong with a certificate. The text follows "the certificate NAME".
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    #[error("is not the one that the ticket names: its pin is {presented}, the ticket's is {expected}")]
    Pin { expected: Pin, presented: Pin },
    #[error("is self-signed and not among the authorities in {source_files}")]
    SelfSigned { source_files: String },
    #[error("was issued by {issuer}, which is not among the authorities in {source_files}: {known}")]
    UnknownIssuer { issuer: String, source_files: String, known: String },
    #[error("was not signed by the authority {issuer} in {source_files}, but by another one of the same name")]
    OtherIssuer { issuer: String, source_files: String },
    #[error("was issued by {issuer}, whose own certificate in {source_files} expired on {not_after}")]
    ExpiredIssuer { issuer: String, source_files: String, not_after: Moment },
    #[error("was issued by {issuer}, whose own certificate in {source_files} is valid only from {not_before}")]
    EarlyIssuer { issuer: String, source_files: String, not_before: Moment },
    #[error("was issued by {issuer} in {source_files}, whose key ({key}) is too weak")]
    WeakIssuer { issuer: String, source_files: String, key: String },
    #[error("expired on {0}")]
    Expired(Moment),
    #[error("is valid only from {0}")]
    NotYetValid(Moment),
    #[error("comes with the intermediate certificate {title}, which is valid only from {not_before} to {not_after}")]
    IntermediateDates { title: String, not_before: Moment, not_after: Moment },
    #[error("or one above it is signed with a broken or unknown algorithm (SHA-1 and MD5 are broken)")]
    Signature,
    #[error("is for another host: expected {}, it has {presented}", .wanted.join(" or "))]
    WrongName { wanted: Vec<String>, presented: String },
    #[error("was revoked by its authority {issuer}")]
    Revoked { issuer: String },
    #[error("cannot be checked: there is no revocation list of its authority {issuer}, or of one above it")]
    NoRevocationList { issuer: String },
    #[error("cannot be checked, because the revocation list of its authority expired on {0}")]
    OldRevocationList(Moment),
    #[error("is not for {}: its extended key usage is {presented}", match .needed { Purpose::Server => "a TLS server (serverAuth)", Purpose::Client => "a TLS client (clientAuth)" })]
    WrongPurpose { needed: Purpose, presented: String },
    #[error("has a key of {key}, which is too weak")]
    WeakKey { key: String },
    #[error("is an old X.509 version, which has neither names nor usages")]
    OldVersion,
    #[error("is the certificate of an authority (CA:TRUE), which cannot be a node's")]
    AuthorityAsNode,
    #[error("cannot be understood")]
    Unreadable,
    #[error("is not acceptable: {0}")]
    Other(webpki::Error),
}

impl Refusal {
    pub(crate) fn of(facts: &Certificate, fault: Fault) -> Refusal {
        Refusal { title: facts.title(), fault }
    }

    pub(crate) fn unreadable() -> Refusal {
        Refusal { title: "of the peer".to_owned(), fault: Fault::Unreadable }
    }

    /// `subject` is whose certificate it is: "the joiner at 192.0.2.1:4444".
    pub fn about(&self, subject: &str) -> Error {
        Error::new(Kind::Untrusted, format!("{subject}: {self}")).remedy(self.fault.remedy())
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

impl Fault {
    /// Translates the verdict of `webpki` on a chain whose node certificate is `facts`.
    pub(crate) fn of(
        error: webpki::Error,
        facts: &Certificate,
        intermediates: &[CertificateDer<'_>],
        authorities: &Authorities,
        now: Moment,
        purpose: Purpose,
    ) -> Fault {
        use webpki::Error as E;
        let top = intermediates.iter().filter_map(|der| Certificate::parse(der).ok()).next_back();
        let issuer_subject = top.as_ref().map_or(&facts.issuer, |top| &top.issuer);
        let issuer = format!("\"{issuer_subject}\"");
        let source_files = authorities.source().to_owned();
        let out_of_dates = |der: &CertificateDer<'_>| {
            Certificate::parse(der).ok().filter(|found| found.not_after < now || found.not_before > now)
        };
        let namesake = authorities.iter().find(|authority| authority.certificate.subject == *issuer_subject);
        match error {
            E::CertExpired { .. } if facts.not_after < now => Fault::Expired(facts.not_after),
            E::CertNotValidYet { .. } if facts.not_before > now => Fault::NotYetValid(facts.not_before),
            E::CertExpired { .. } | E::CertNotValidYet { .. } => match intermediates.iter().find_map(out_of_dates) {
                Some(found) => Fault::IntermediateDates {
                    title: found.title(),
                    not_before: found.not_before,
                    not_after: found.not_after,
                },
                None => Fault::Other(error),
            },
            E::UnsupportedSignatureAlgorithmContext(_) => Fault::Signature,
            E::CaUsedAsEndEntity => Fault::AuthorityAsNode,
            E::CertRevoked => Fault::Revoked { issuer: format!("\"{}\"", facts.issuer) },
            E::UnknownRevocationStatus => Fault::NoRevocationList { issuer: format!("\"{}\"", facts.issuer) },
            E::CrlExpired { next_update, .. } => Fault::OldRevocationList(Moment::from(next_update)),
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Fault::WrongPurpose {
                needed: purpose,
                presented: facts.purposes.as_ref().map(|named| named.join(", ")).unwrap_or_default(),
            },
            E::UnknownIssuer
            | E::InvalidSignatureForPublicKey
            | E::SignatureAlgorithmMismatch
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => match namesake {
                Some(authority) if authority.certificate.not_before > now => {
                    Fault::EarlyIssuer { issuer, source_files, not_before: authority.certificate.not_before }
                }
                Some(authority) if !authority.is_valid_at(now) => {
                    Fault::ExpiredIssuer { issuer, source_files, not_after: authority.certificate.not_after }
                }
                Some(authority) if authority.certificate.key.is_weak() => {
                    Fault::WeakIssuer { issuer, source_files, key: authority.certificate.key.to_string() }
                }
                None if facts.is_self_signed => Fault::SelfSigned { source_files },
                None => Fault::UnknownIssuer { issuer, source_files, known: authorities.titles() },
                Some(_) => Fault::OtherIssuer { issuer, source_files },
            },
            other => Fault::Other(other),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Fault::Pin { .. } => {
                "use the ticket that this run of the joiner printed; if you did, something sits between the two hosts"
            }
            Fault::SelfSigned { .. } => {
                "one called `highline, this run only` was made because none is configured on that node: set cert and key there, signed by an authority of ca here (`highline certs node NAME`); or leave ssl-mode unset on both to trust the ticket alone"
            }
            Fault::UnknownIssuer { .. } => {
                "if that issuer is an intermediate authority, append its certificate to the node's certificate file; if it is a new CA, add it to ssl-ca here"
            }
            Fault::OtherIssuer { .. } => "give every node the same CA file, or put both authorities into it",
            Fault::ExpiredIssuer { .. } | Fault::WeakIssuer { .. } => {
                "make a new authority with `highline certs ca`, and new certificates for every node"
            }
            Fault::Expired(_) | Fault::IntermediateDates { .. } => {
                "renew the certificate (`highline certs node NAME`), and check the clocks of both hosts"
            }
            Fault::NotYetValid(_) | Fault::EarlyIssuer { .. } => "check the clocks of both hosts, or wait",
            Fault::WrongName { .. } => {
                "add that name to the certificate (`highline certs node NAME --dns … --ip …`), or use ssl-mode=VERIFY_CA"
            }
            Fault::Revoked { .. } => {
                "make a new key and certificate for that node: `highline certs node NAME --new-key`"
            }
            Fault::NoRevocationList { .. } => "add the current list of every authority in the chain to ssl-crl",
            Fault::OldRevocationList(_) => "fetch the authority's current revocation list and put it into ssl-crl",
            Fault::WrongPurpose { .. } => {
                "make a certificate with both serverAuth and clientAuth, because a node may be donor or joiner:  `highline certs node NAME`"
            }
            Fault::WeakKey { .. } => "make a new key: ECDSA P-256, or RSA of 2048 bits or more",
            Fault::OldVersion => {
                "make a new one with `highline certs node NAME`; with openssl, use `openssl x509 -req` with -extfile"
            }
            Fault::AuthorityAsNode => {
                "make a certificate for the node, signed by that authority: `highline certs node NAME`"
            }
            Fault::Unreadable | Fault::Signature | Fault::Other(_) => "make a new one with `highline certs node NAME`",
        }
    }
}

/// Explains a failed handshake. `subject` is the peer: "the joiner at 192.0.2.1:4444".
pub fn explain(error: rustls::Error, subject: &str) -> Error {
    use AlertDescription as A;
    let say = |kind: Kind, what: &str, remedy: &str| Error::new(kind, format!("{subject} {what}")).remedy(remedy);
    if let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = &error
        && let Some(refusal) = inner.downcast_ref::<Refusal>()
    {
        return refusal.about(subject);
    }
    match error {
        rustls::Error::NoCertificatesPresented => say(
            Kind::Untrusted,
            "presented no certificate, although an authority is configured here",
            "set cert and key on that node (in [highline], or any place that docs/galera.md names), or leave ssl-mode unset here",
        ),
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => say(
            Kind::Untrusted,
            "does not have the private key of the certificate it presented",
            "something may sit between the two hosts; try again, and check the network if this persists",
        ),
        rustls::Error::AlertReceived(A::CertificateRequired) => say(
            Kind::Untrusted,
            "requires a certificate, but none is configured here",
            "set cert and key on this node (in [highline], or any place that docs/galera.md names; by hand --cert and --key)",
        ),
        rustls::Error::AlertReceived(
            alert @ (A::UnknownCA
            | A::BadCertificate
            | A::CertificateUnknown
            | A::CertificateExpired
            | A::CertificateRevoked
            | A::UnsupportedCertificate
            | A::AccessDenied),
        ) => say(
            Kind::Untrusted,
            &format!("refused our certificate (TLS alert {alert:?})"),
            "its log names the reason; `highline check` here examines our certificate",
        ),
        rustls::Error::AlertReceived(A::NoApplicationProtocol) | rustls::Error::NoApplicationProtocol => say(
            Kind::Incompatible,
            "speaks TLS, but not Highline's protocol",
            "check the address and port, and the Highline versions on both hosts",
        ),
        rustls::Error::AlertReceived(A::ProtocolVersion) | rustls::Error::PeerIncompatible(_) => say(
            Kind::Incompatible,
            "has no TLS 1.3, cipher suite or key exchange in common with us",
            "check the address and port, ssl-cipher and tls-version on both hosts, and any proxy between them",
        )
        .because(error),
        rustls::Error::AlertReceived(A::HandshakeFailure) => say(
            Kind::Incompatible,
            "has no cipher suite or key exchange in common with us",
            "set ssl-cipher to the same value on both hosts, or remove it",
        ),
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => say(
            Kind::Protocol,
            "sent something that is not TLS",
            "check the address and port: another program may be listening there",
        )
        .because(error),
        rustls::Error::InvalidCertificate(_) => {
            say(Kind::Untrusted, "presented a certificate that was refused", "examine it with `highline certs show`")
                .because(error)
        }
        other => Error::new(Kind::Protocol, format!("{subject} broke the TLS connection")).because(other),
    }
}

/// The same for what `tokio-rustls` returns: an I/O error, perhaps with a TLS error inside.
pub fn explain_io(error: std::io::Error, subject: &str) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => explain(tls.clone(), subject),
        None => Error::net(format!("{subject}: the TLS handshake failed"), error),
    }
}
