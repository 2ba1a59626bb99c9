//! Who we are: a certificate with its intermediates, and its private key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::certificate::{Certificate, Moment, Purpose};
use super::pem::Pem;
use super::refusal::Refusal;
use super::verification::{check_path, unix_time};
use super::{Authorities, Pin, Trust};
use crate::error::{Error, Kind, Printable, Result};

/// A certificate chain and its private key.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    certificate: Certificate,
    source: Option<PathBuf>,
}

impl Identity {
    /// Reads a certificate with its intermediates from `certificate`, and the key from `key`, or from the
    /// certificate's file when that is `None`. Keys may be PKCS#8, PKCS#1 or SEC1; RSA, ECDSA or Ed25519.
    ///
    /// # Errors
    /// Each names the file and the remedy: unreadable, empty, no PEM, no certificate or key in it, an
    /// encrypted key, a key of another certificate, expired or not yet valid at `now`, RSA below 2048 bits.
    pub fn load(certificate: &Path, key: Option<&Path>, now: SystemTime) -> Result<Identity> {
        Identity::read_with(certificate, key, |facts| check_usable(facts, certificate, now))
    }

    /// As [`Identity::load`], whatever the date.
    pub fn read(certificate: &Path, key: Option<&Path>) -> Result<Identity> {
        Identity::read_with(certificate, key, |_| Ok(()))
    }

    /// # Errors
    /// Expired or not yet valid at `now`, or of a key that is too weak.
    pub fn check_usable(&self, now: SystemTime) -> Result<()> {
        check_usable(&self.certificate, self.source.as_deref().unwrap_or(Path::new("memory")), now)
    }

    fn read_with(
        certificate: &Path,
        key: Option<&Path>,
        check: impl Fn(&Certificate) -> Result<()>,
    ) -> Result<Identity> {
        let pem = Pem::read(certificate, "certificate")?;
        let shown = Printable::path(certificate);
        let Some(leaf) = pem.certificates.first() else {
            return Err(Error::new(Kind::Usage, format!("there is no certificate in {shown}"))
                .remedy("name the file that has a BEGIN CERTIFICATE line as certificate"));
        };
        let facts = Certificate::parse(leaf).map_err(|e| {
            Error::new(Kind::Usage, format!("cannot understand the first certificate in {shown}"))
                .because(e)
                .remedy("make the certificate again; `highline certs node` does it")
        })?;
        check(&facts)?;
        let key_file = key.unwrap_or(certificate);
        let key = match key {
            None => private_key(pem.keys, pem.encrypted_key, certificate)?,
            Some(path) => {
                let pem = Pem::read(path, "private key")?;
                private_key(pem.keys, pem.encrypted_key, path)?
            }
        };
        let signer = load_signer(key).map_err(|e| {
            Error::new(Kind::Usage, format!("cannot use the private key in {}", Printable::path(key_file)))
                .because(e)
                .remedy("use an RSA key of 2048 bits or more, an ECDSA key on P-256, P-384 or P-521, or an Ed25519 key")
        })?;
        if signer.public_key().is_some_and(|public| public != facts.spki) {
            return Err(Error::new(
                Kind::Usage,
                format!("the private key in {} is not the key of the certificate in {shown}", Printable::path(key_file)),
            )
            .remedy("name a certificate and a key that were made together, and put the node's own certificate first in its file"));
        }
        Ok(Identity {
            certified: Arc::new(CertifiedKey::new(pem.certificates, signer)),
            certificate: facts,
            source: Some(certificate.to_owned()),
        })
    }

    /// Makes a self-signed ECDSA P-256 certificate that lives as long as this process. Its key is never
    /// written anywhere; the peer trusts it by its pin.
    pub fn ephemeral() -> Result<Identity> {
        let made = |e: rcgen::Error| Error::new(Kind::Io, "cannot make a certificate for this run").because(e);
        let key = KeyPair::generate().map_err(made)?;
        let mut params = CertificateParams::new(vec!["highline.invalid".to_owned()]).map_err(made)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "highline, this run only");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.self_signed(&key).map_err(made)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        let identity = Identity::from_der(vec![certificate.der().clone()], der.into())?;
        // The ticket begins with the pin, and a word that begins with a hyphen is taken for an option.
        if identity.pin().to_string().starts_with('-') { Identity::ephemeral() } else { Ok(identity) }
    }

    fn from_der(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Identity> {
        let unusable = || Error::new(Kind::Usage, "cannot use the certificate");
        let leaf = chain.first().ok_or_else(unusable)?;
        let certificate = Certificate::parse(leaf).map_err(|e| unusable().because(e))?;
        let signer = load_signer(key).map_err(|e| unusable().because(e))?;
        Ok(Identity { certified: Arc::new(CertifiedKey::new(chain, signer)), certificate, source: None })
    }

    /// The pin of our public key, for the ticket.
    pub fn pin(&self) -> Pin {
        self.certificate.pin
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The certificate and its intermediates, the node's own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The file it was read from; `None` if it was made for this run.
    pub fn source(&self) -> Option<&Path> {
        self.source.as_deref()
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The verdict of a peer that uses `trust`.
    pub(crate) fn check_by(&self, trust: &Trust, purpose: Purpose, now: SystemTime) -> Result<(), Refusal> {
        let Some((leaf, intermediates)) = self.chain().split_first() else { return Ok(()) };
        trust.check(leaf, intermediates, unix_time(now), purpose)
    }

    /// Whether a peer that trusts `authorities` would accept this chain. Checked here, before connecting, because a
    /// peer's refusal arrives as a bare alert.
    pub fn check_chain(&self, authorities: &Authorities, purpose: Purpose, now: SystemTime) -> Result<()> {
        let Some((leaf, intermediates)) = self.chain().split_first() else { return Ok(()) };
        let subject = match &self.source {
            Some(path) => format!("our own certificate in {}", Printable::path(path)),
            None => "our own certificate".to_owned(),
        };
        check_path(leaf, intermediates, authorities, unix_time(now), purpose).map_err(|refusal| refusal.about(&subject))
    }
}

/// Passes the key to the TLS library and wipes our copy.
fn load_signer(key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
    let key = Zeroizing::new(key);
    any_supported_type(&key)
}

fn check_usable(facts: &Certificate, path: &Path, now: SystemTime) -> Result<()> {
    let shown = Printable::path(path);
    let refuse =
        |what: String| Err(Error::new(Kind::Usage, format!("the certificate {} in {shown} {what}", facts.title())));
    let renew = "renew it (`highline certs node NAME` keeps the key), and check this host's clock";
    let now = Moment::from(now);
    if facts.not_after < now {
        return refuse(format!("expired on {}", facts.not_after)).map_err(|e| e.remedy(renew));
    }
    if facts.not_before > now {
        return refuse(format!("is valid only from {}", facts.not_before)).map_err(|e| e.remedy(renew));
    }
    if facts.key.is_weak() {
        return refuse(format!("has a key of {}, which is too weak", facts.key))
            .map_err(|e| e.remedy("make a new key: ECDSA P-256, or RSA of 2048 bits or more"));
    }
    Ok(())
}

fn private_key(keys: Vec<PrivateKeyDer<'static>>, encrypted: bool, path: &Path) -> Result<PrivateKeyDer<'static>> {
    let shown = Printable::path(path);
    match keys.into_iter().next() {
        Some(key) => Ok(key),
        None if encrypted => Err(Error::new(
            Kind::Usage,
            format!("the private key in {shown} is encrypted with a passphrase"),
        )
        .remedy(format!(
            "write it without a passphrase, readable only by the server's user: (umask 077; openssl pkey -in {shown} -out FILE)"
        ))),
        None => Err(Error::new(Kind::Usage, format!("there is no private key in {shown}")).remedy(
            "set key to the file that has a BEGIN PRIVATE KEY line, or put the key into the certificate's file",
        )),
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("subject", &self.certificate.subject).field("source", &self.source).finish()
    }
}
