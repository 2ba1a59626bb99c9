//! A private certificate authority, in a directory, and the node certificates it signs.
//!
//! In the directory: `ca.pem` (the authorities to trust, the signing one first), `ca-key.pem`, and for each node
//! `NAME.pem` and `NAME-key.pem`. `highline certs` is the command for it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::Authorities;
use super::certificate::{Certificate, Moment, Purpose};
use super::pem::{Pem, files_of};
use super::pin::Pin;
use super::random;
use super::safe_file::{self, Existing, Secrecy};
use super::verification::{check_path, unix_time};
use crate::error::{Error, Kind, Printable, Result};

/// Nodes' clocks differ, so a certificate is valid from this long before it was made.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The kind of key to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewKey {
    #[default]
    EcdsaP256,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

/// A node's name, and the base name of its files: at most 64 letters, digits, `.`, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's name has 1 to 64 letters, digits, '.', '-' or '_', begins with a letter or digit, and is not \"ca\"")]
pub struct NodeNameError;

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<NodeName, NodeNameError> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        // "ca" would share its files with the authority, and so would "x-key" with the key of "x".
        let taken = text == "ca" || text.ends_with("-key");
        if plain && starts && !taken && text.len() <= 64 { Ok(NodeName(text.to_owned())) } else { Err(NodeNameError) }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node's certificate should say.
#[derive(Clone, Debug)]
pub struct NodeRequest {
    pub name: NodeName,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub days: u32,
    pub key: NewKey,
    /// Make a new key even if there is one.
    pub replace_key: bool,
}

/// A certificate that was made.
#[derive(Debug)]
pub struct Made {
    pub certificate: Certificate,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    /// It replaces an existing certificate of that name.
    pub renewed: bool,
    /// The existing key was kept.
    pub kept_key: bool,
    /// Names that the previous certificate had and this one does not.
    pub dropped: Vec<String>,
    /// Fewer days than asked for, because the authority itself expires then.
    pub shortened: bool,
}

/// The directory with an authority in it.
#[derive(Debug)]
pub struct AuthorityDir {
    dir: PathBuf,
}

impl AuthorityDir {
    pub fn new(dir: impl Into<PathBuf>) -> AuthorityDir {
        AuthorityDir { dir: dir.into() }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub fn ca_key_file(&self) -> PathBuf {
        self.dir.join("ca-key.pem")
    }

    /// Makes a new authority.
    ///
    /// # Errors
    /// There is one already and `existing` does not allow replacing it; or a file cannot be
    /// written.
    pub fn create(&self, name: &str, days: u32, key: NewKey, existing: Existing, now: SystemTime) -> Result<Made> {
        safe_file::make_dir(&self.dir)?;
        if existing == Existing::Refuse && self.ca_file().exists() {
            return Err(Error::new(
                Kind::Usage,
                format!("there is already an authority: {}", Printable::path(&self.ca_file())),
            )
            .remedy(
                "--renew extends it; --rotate adds a new one, so that both are trusted; --force replaces it for good",
            ));
        }
        let key = generate(key)?;
        let pem = self_signed(name, days, &key, now)?;
        safe_file::write(&self.ca_key_file(), &Zeroizing::new(key.serialize_pem()), Secrecy::Private, existing)?;
        safe_file::write(&self.ca_file(), &pem, Secrecy::Public, existing)?;
        self.made_authority(false, false)
    }

    /// Gives the authority new dates; its key stays, so every certificate it has signed remains valid.
    pub fn renew(&self, days: u32, now: SystemTime) -> Result<Made> {
        let signer = self.signer()?;
        let name = signer.certificate.common_name.clone().unwrap_or_default();
        let mut bundle = self_signed(&name, days, &signer.key, now)?;
        for der in self.bundle()? {
            if der != signer.der {
                bundle.push_str(&to_pem(&der));
            }
        }
        safe_file::write(&self.ca_file(), &bundle, Secrecy::Public, Existing::Replace)?;
        self.made_authority(true, true)
    }

    /// Adds a new authority: it signs new certificates, and both are trusted until [`AuthorityDir::retire`].
    pub fn rotate(&self, name: &str, days: u32, key: NewKey, now: SystemTime) -> Result<Made> {
        let old = self.signer()?;
        let key = generate(key)?;
        let mut bundle = self_signed(name, days, &key, now)?;
        for der in self.bundle()? {
            bundle.push_str(&to_pem(&der));
        }
        let kept = self.dir.join(format!("ca-key-{}.pem", old.certificate.serial.replace(':', "")));
        safe_file::write(&kept, &Zeroizing::new(old.key.serialize_pem()), Secrecy::Private, Existing::Replace)?;
        safe_file::write(
            &self.ca_key_file(),
            &Zeroizing::new(key.serialize_pem()),
            Secrecy::Private,
            Existing::Replace,
        )?;
        safe_file::write(&self.ca_file(), &bundle, Secrecy::Public, Existing::Replace)?;
        self.made_authority(true, false)
    }

    /// Ends the overlap: only the signing authority stays in `ca.pem`. Returns the removed ones.
    ///
    /// # Errors
    /// Certificates in the directory, valid at `now`, that the signing authority did not sign; all are named.
    pub fn retire(&self, now: SystemTime) -> Result<Vec<Certificate>> {
        let signer = self.signer()?;
        let (kept, left): (Vec<_>, Vec<_>) = self.bundle()?.into_iter().partition(|der| *der == signer.der);
        let orphans = self.orphans(&kept, now)?;
        if !orphans.is_empty() {
            let (is, them) = if orphans.len() == 1 { ("is", "it") } else { ("are", "them") };
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "{} {is} not signed by the signing authority {}, and peers would refuse {them} without the older one; nothing was changed",
                    orphans.join(", "),
                    signer.certificate.title()
                ),
            )
            .remedy(format!(
                "renew {them} first (highline certs node NAME) and copy {them} to the nodes; move away files that no node uses any more"
            )));
        }
        safe_file::write(&self.ca_file(), &to_pem(&signer.der), Secrecy::Public, Existing::Replace)?;
        Ok(left.iter().filter_map(|der| Certificate::parse(der).ok()).collect())
    }

    /// Makes a node's certificate, or renews it: then key and names stay unless the request asks for others.
    pub fn sign(&self, request: &NodeRequest, now: SystemTime) -> Result<Made> {
        let signer = self.signer()?;
        if signer.certificate.not_after < Moment::from(now) {
            return Err(Error::new(
                Kind::Usage,
                format!("the authority {} expired on {}", signer.certificate.title(), signer.certificate.not_after),
            )
            .remedy("extend it with highline certs ca --renew"));
        }
        let certificate_file = self.dir.join(format!("{}.pem", request.name));
        let key_file = self.dir.join(format!("{}-key.pem", request.name));
        let old = match certificate_file.exists() {
            true => Some(first_certificate(&certificate_file)?),
            false => None,
        };
        let kept_key = key_file.exists() && !request.replace_key;
        let key = if kept_key { load_key(&key_file)? } else { generate(request.key)? };

        let mut params = dated(request.days, now);
        let end = OffsetDateTime::from(signer.certificate.not_after.to_system_time());
        let shortened = params.not_after > end;
        params.not_after = params.not_after.min(end);
        params.distinguished_name.push(DnType::CommonName, request.name.0.as_str());
        params.subject_alt_names = names_of(request, old.as_ref())?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if key.algorithm() == &PKCS_RSA_SHA256 {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        // A node may be donor or joiner, and is both client and server in replication.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        let issuer = Issuer::from_ca_cert_der(&signer.der, &signer.key).map_err(cannot_make)?;
        let signed = params.signed_by(&key, &issuer).map_err(cannot_make)?;

        if !kept_key {
            let existing = if request.replace_key { Existing::Replace } else { Existing::Refuse };
            safe_file::write(&key_file, &Zeroizing::new(key.serialize_pem()), Secrecy::Private, existing)?;
        }
        // An authority signed by another one is an intermediate, which the peer needs to see.
        let chain = if signer.certificate.is_self_signed { String::new() } else { to_pem(&signer.der) };
        safe_file::write(&certificate_file, &(signed.pem() + &chain), Secrecy::Public, Existing::Replace)?;
        let certificate = Certificate::parse(signed.der()).map_err(cannot_make)?;
        let mut dropped = old.as_ref().map(|old| old.names.clone()).unwrap_or_default();
        dropped.retain(|name| !certificate.names.contains(name));
        Ok(Made { certificate, certificate_file, key_file, renewed: old.is_some(), kept_key, dropped, shortened })
    }

    /// The files of certificates that are valid at `now` but that `kept` does not vouch for.
    fn orphans(&self, kept: &[CertificateDer<'static>], now: SystemTime) -> Result<Vec<String>> {
        let authorities = Authorities::of(kept, &self.ca_file())?;
        let mut orphans = Vec::new();
        for path in files_of(&self.dir, "directory")? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path == self.ca_file() || !name.ends_with(".pem") || name.ends_with("-key.pem") {
                continue;
            }
            let Ok(pem) = Pem::read(&path, "certificate") else { continue };
            let Some((leaf, intermediates)) = pem.certificates.split_first() else { continue };
            let Ok(facts) = Certificate::parse(leaf) else { continue };
            if facts.is_authority || facts.not_after < Moment::from(now) {
                continue;
            }
            let purpose = if facts.serves() { Purpose::Server } else { Purpose::Client };
            if check_path(leaf, intermediates, &authorities, unix_time(now), purpose).is_err() {
                orphans.push(format!("{} ({})", Printable::path(&path), facts.title()));
            }
        }
        Ok(orphans)
    }

    fn bundle(&self) -> Result<Vec<CertificateDer<'static>>> {
        let path = self.ca_file();
        Pem::read(&path, "CA").map(|pem| pem.certificates).map_err(|e| match e.kind() {
            Kind::NotFound => {
                Error::new(Kind::NotFound, format!("there is no authority in {}", Printable::path(&self.dir)))
                    .remedy("make one first: highline certs ca --dir DIR")
            }
            _ => e,
        })
    }

    /// The authority whose key is here.
    fn signer(&self) -> Result<Signer> {
        let bundle = self.bundle()?;
        let key = load_key(&self.ca_key_file())?;
        let pin = Pin::of_spki(&key.subject_public_key_info());
        let mut parsed = bundle.into_iter().filter_map(|der| Some((Certificate::parse(&der).ok()?, der)));
        let found = parsed.find(|(certificate, _)| certificate.pin == pin && certificate.is_authority);
        let Some((certificate, der)) = found else {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "no authority in {} has the key of {}",
                    Printable::path(&self.ca_file()),
                    Printable::path(&self.ca_key_file())
                ),
            )
            .remedy("put the two files that were made together into that directory"));
        };
        Ok(Signer { certificate, der, key })
    }

    fn made_authority(&self, renewed: bool, kept_key: bool) -> Result<Made> {
        let signer = self.signer()?;
        Ok(Made {
            certificate: signer.certificate,
            certificate_file: self.ca_file(),
            key_file: self.ca_key_file(),
            renewed,
            kept_key,
            dropped: Vec::new(),
            shortened: false,
        })
    }
}

struct Signer {
    certificate: Certificate,
    der: CertificateDer<'static>,
    key: KeyPair,
}

fn names_of(request: &NodeRequest, old: Option<&Certificate>) -> Result<Vec<SanType>> {
    let mut names: Vec<SanType> = Vec::new();
    let mut add = |text: &str| -> Result<()> {
        let name = match text.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                let good = crate::tls::verification::peer_name(text.strip_prefix("*.").unwrap_or(text));
                good?;
                SanType::DnsName(text.try_into().map_err(cannot_make)?)
            }
        };
        if !names.contains(&name) {
            names.push(name);
        }
        Ok(())
    };
    match old {
        Some(old) if request.dns.is_empty() && request.addresses.is_empty() => {
            old.names.iter().try_for_each(|name| add(name))?;
        }
        _ => {
            if crate::tls::verification::peer_name(&request.name.0).is_ok() {
                add(&request.name.0)?;
            }
            request.dns.iter().try_for_each(|name| add(name))?;
            request.addresses.iter().try_for_each(|address| add(&address.to_string()))?;
        }
    }
    Ok(names)
}

fn self_signed(name: &str, days: u32, key: &KeyPair, now: SystemTime) -> Result<String> {
    let mut params = dated(days, now);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial()?);
    Ok(params.self_signed(key).map_err(cannot_make)?.pem())
}

fn dated(days: u32, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::from(now.checked_sub(CLOCK_SKEW).unwrap_or(now));
    params.not_after = OffsetDateTime::from(now.checked_add(DAY.saturating_mul(days)).unwrap_or(now));
    params
}

/// 127 random bits: a renewed certificate needs a new serial number (RFC 5280 §4.1.2.2).
fn random_serial() -> Result<SerialNumber> {
    let mut bytes = random::<16>()?;
    let [first, ..] = &mut bytes;
    *first = (*first & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn generate(kind: NewKey) -> Result<KeyPair> {
    match kind {
        NewKey::EcdsaP256 => KeyPair::generate(),
        NewKey::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        NewKey::Rsa3072 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        NewKey::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
    }
    .map_err(cannot_make)
}

fn load_key(path: &Path) -> Result<KeyPair> {
    let pem = Pem::read(path, "private key")?;
    let shown = Printable::path(path);
    let Some(key) = pem.keys.into_iter().next() else {
        return Err(match pem.encrypted_key {
            true => Error::new(Kind::Usage, format!("the private key in {shown} is encrypted with a passphrase"))
                .remedy(format!("write it without a passphrase: (umask 077; openssl pkey -in {shown} -out FILE)")),
            false => Error::new(Kind::Usage, format!("there is no private key in {shown}"))
                .remedy("put the key that belongs to the certificate there"),
        });
    };
    key_pair(&key).map_err(|e| {
        Error::new(Kind::Usage, format!("cannot use the private key in {shown}"))
            .because(e)
            .remedy("use an RSA, ECDSA (P-256, P-384) or Ed25519 key")
    })
}

fn key_pair(key: &PrivateKeyDer<'_>) -> Result<KeyPair, rcgen::Error> {
    KeyPair::try_from(key)
}

fn first_certificate(path: &Path) -> Result<Certificate> {
    let pem = Pem::read(path, "certificate")?;
    pem.certificates.first().and_then(|der| Certificate::parse(der).ok()).ok_or_else(|| {
        Error::new(Kind::Usage, format!("{} exists but is not a certificate", Printable::path(path)))
            .remedy("move that file away")
    })
}

fn to_pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn cannot_make(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Usage, "cannot make the certificate").because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tls::certificate::Purpose;
    use crate::tls::verification::peer_name;
    use crate::tls::{Authorities, Identity};

    fn request(name: &str) -> NodeRequest {
        NodeRequest {
            name: name.parse().unwrap(),
            dns: vec!["db1.example".to_owned()],
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            days: 90,
            key: NewKey::default(),
            replace_key: false,
        }
    }

    fn new_dir() -> (tempfile::TempDir, AuthorityDir) {
        let dir = tempfile::tempdir().unwrap();
        let authority = AuthorityDir::new(dir.path().join("certs"));
        (dir, authority)
    }

    fn judge(dir: &AuthorityDir, made: &Made, now: SystemTime) -> Result<Identity> {
        let identity = Identity::load(&made.certificate_file, Some(&made.key_file), now)?;
        let authorities = Authorities::load(&[dir.ca_file()], &[])?;
        identity.check_chain(&authorities, Purpose::Server, now)?;
        identity.check_chain(&authorities, Purpose::Client, now)?;
        Ok(identity)
    }

    #[test]
    fn what_is_made_is_accepted_and_private() {
        let now = SystemTime::now();
        for key in [NewKey::EcdsaP256, NewKey::Rsa2048] {
            let (_keep, dir) = new_dir();
            dir.create("Lab CA", 3650, key, Existing::Refuse, now).unwrap();
            let made = dir.sign(&NodeRequest { key, ..request("node1") }, now).unwrap();
            let identity = judge(&dir, &made, now).unwrap();
            let facts = identity.certificate();
            assert_eq!(facts.names, ["node1", "db1.example", "192.0.2.1", "2001:db8::1"]);
            assert_eq!(facts.purposes.as_deref().unwrap(), ["serverAuth", "clientAuth"]);
            assert_eq!(facts.days_left(now), 89 + i64::from(facts.days_left(now) == 90));
            assert!(Certificate::is_for(&identity.chain()[0], &peer_name("[2001:db8::1]").unwrap()));
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&made.key_file), 0o600);
            assert_eq!(mode(&dir.ca_key_file()), 0o600);
            assert_eq!(mode(&made.certificate_file), 0o644);
        }
    }

    #[test]
    fn renewal_keeps_key_and_names_but_not_the_number() {
        let (_keep, dir) = new_dir();
        let now = SystemTime::now();
        dir.create("Lab CA", 3650, NewKey::default(), Existing::Refuse, now).unwrap();
        let first = dir.sign(&request("node1"), now).unwrap();
        assert!(!first.renewed && !first.kept_key);
        let bare = NodeRequest { dns: Vec::new(), addresses: Vec::new(), ..request("node1") };
        let second = dir.sign(&bare, now + 10 * DAY).unwrap();
        assert!(second.renewed && second.kept_key);
        assert_eq!(second.certificate.names, first.certificate.names);
        assert_eq!(second.certificate.pin, first.certificate.pin);
        assert_ne!(second.certificate.serial, first.certificate.serial);
        let third = dir.sign(&NodeRequest { replace_key: true, ..request("node1") }, now).unwrap();
        assert_ne!(third.certificate.pin, first.certificate.pin);
        judge(&dir, &third, now).unwrap();
    }

    #[test]
    fn two_authorities_overlap_at_rotation() {
        let (_keep, dir) = new_dir();
        let now = SystemTime::now();
        dir.create("Lab CA", 3650, NewKey::default(), Existing::Refuse, now).unwrap();
        let old = dir.sign(&request("node1"), now).unwrap();
        dir.rotate("Lab CA 2", 3650, NewKey::default(), now).unwrap();
        let new = dir.sign(&request("node2"), now).unwrap();
        assert_eq!(new.certificate.issuer, "CN=Lab CA 2");
        judge(&dir, &old, now).unwrap();
        judge(&dir, &new, now).unwrap();
        dir.renew(10, now).unwrap();
        judge(&dir, &old, now).unwrap();
        judge(&dir, &new, now).unwrap();
        let before = std::fs::read(dir.ca_file()).unwrap();
        let error = dir.retire(now).unwrap_err();
        let node1 = old.certificate_file.display();
        assert_eq!(
            error.sentence(),
            format!(
                "{node1} (\"CN=node1\") is not signed by the signing authority \"CN=Lab CA 2\", and peers would refuse it \
                 without the older one; nothing was changed"
            )
        );
        assert_eq!((error.kind(), std::fs::read(dir.ca_file()).unwrap()), (Kind::Usage, before));
        // An expired one is in no use.
        let late = now + 100 * DAY;
        assert!(dir.orphans(&[dir.signer().unwrap().der], late).unwrap().is_empty());
        let old_alone = dir.dir.parent().unwrap().join("kept.pem");
        std::fs::rename(&old.certificate_file, &old_alone).unwrap();
        let old = Made { certificate_file: old_alone, ..old };
        let left: Vec<String> = dir.retire(now).unwrap().into_iter().map(|c| c.subject).collect();
        assert_eq!(left, ["CN=Lab CA"]);
        // Once more is harmless, unless somebody needs what has left.
        assert!(dir.retire(now).unwrap().is_empty());
        std::fs::copy(&old.certificate_file, dir.dir.join("node1.pem")).unwrap();
        assert_eq!(dir.retire(now).unwrap_err().kind(), Kind::Usage);
        judge(&dir, &new, now).unwrap();
        assert_eq!(judge(&dir, &old, now).unwrap_err().kind(), Kind::Untrusted);
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let (_keep, dir) = new_dir();
        let now = SystemTime::now();
        assert_eq!(
            dir.sign(&request("node1"), now).unwrap_err().remedy_text(),
            Some("make one first: highline certs ca --dir DIR")
        );
        dir.create("Lab CA", 30, NewKey::default(), Existing::Refuse, now).unwrap();
        let before = std::fs::read(dir.ca_key_file()).unwrap();
        let error = dir.create("Other", 30, NewKey::default(), Existing::Refuse, now).unwrap_err();
        assert!(error.sentence().starts_with("there is already an authority: "));
        assert_eq!(std::fs::read(dir.ca_key_file()).unwrap(), before);
        let made = dir.sign(&request("node1"), now).unwrap();
        assert!(made.shortened, "a certificate cannot outlive its authority");
        std::fs::remove_file(dir.ca_file()).unwrap();
        assert!(dir.create("Other", 30, NewKey::default(), Existing::Refuse, now).is_err(), "the key is still there");
        assert_eq!(std::fs::read(dir.ca_key_file()).unwrap(), before);
    }

    #[test]
    fn an_authority_of_openssl_can_sign() {
        let (_keep, dir) = new_dir();
        safe_file::make_dir(&dir.dir).unwrap();
        crate::tls::testing::openssl(
            &dir.dir,
            "req -x509 -newkey rsa:2048 -nodes -keyout {}/ca-key.pem -out {}/ca.pem -subj /CN=Lab_CA -days 99",
        );
        let now = SystemTime::now();
        let made = dir.sign(&request("node1"), now).unwrap();
        judge(&dir, &made, now).unwrap();
        std::fs::write(dir.ca_key_file(), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(dir.sign(&request("node1"), now).unwrap_err().sentence().starts_with("no authority in "));
    }

    #[test]
    fn names_of_nodes_are_names_of_files() {
        for good in ["node1", "db-1.example.com", "a_b", "1"] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "-x", "a b", "ca", "node1-key", "é", "a;b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<NodeName>(), Err(NodeNameError), "{bad}");
        }
    }
}
