//! Whom we trust: certificate authorities and their revocation lists.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::certificate::{Certificate, Moment};
use super::pem::{Pem, files_of};
use crate::error::{Error, Kind, Printable, Result};

/// The authorities of a file or directory: several at once, so that an old and a new one overlap while
/// certificates are replaced.
#[derive(Debug)]
pub struct Authorities {
    authorities: Vec<Authority>,
    revocation_lists: Vec<CertRevocationList<'static>>,
    source: String,
}

/// One authority; or a self-signed certificate that is trusted only for itself and may sign
/// nothing.
#[derive(Debug)]
pub struct Authority {
    pub certificate: Certificate,
    pub(crate) anchor: TrustAnchor<'static>,
    der: CertificateDer<'static>,
}

impl Authorities {
    /// Reads every certificate of `paths`, which are PEM files or directories of them (`ssl-ca`, `ssl-capath`), and
    /// every revocation list of `lists` (`ssl-crl`, `ssl-crlpath`). In a directory, files without PEM are ignored.
    ///
    /// # Errors
    /// A file that is unreadable, empty, or without any certificate (or list), by name.
    pub fn load(paths: &[PathBuf], lists: &[PathBuf]) -> Result<Authorities> {
        let mut authorities: Vec<Authority> = Vec::new();
        for (path, pem) in read_all(paths, "CA")? {
            for der in pem.certificates {
                if authorities.iter().any(|known| known.der == der) {
                    continue;
                }
                // A node's certificate in the file must not be able to vouch for other nodes.
                let found = Authority::new(der, &path)?;
                if found.certificate.is_authority || found.certificate.is_self_signed {
                    authorities.push(found);
                }
            }
        }
        let source = paths.iter().map(|p| Printable::path(p).to_string()).collect::<Vec<_>>().join(", ");
        if authorities.is_empty() {
            return Err(Error::new(Kind::Usage, format!("there is no CA certificate in {source}"))
                .remedy("name the file with the CA's own certificate (CA:TRUE); `highline certs ca` makes one"));
        }
        let mut revocation_lists = Vec::new();
        for (path, pem) in read_all(lists, "CRL")? {
            if pem.revocation_lists.is_empty() {
                return Err(Error::new(
                    Kind::Usage,
                    format!("there is no revocation list in {}", Printable::path(&path)),
                )
                .remedy("name a PEM file that has a BEGIN X509 CRL line, or remove the option"));
            }
            for der in pem.revocation_lists {
                let list = OwnedCertRevocationList::from_der(&der).map_err(|e| {
                    Error::new(Kind::Usage, format!("cannot use the revocation list in {}", Printable::path(&path)))
                        .because(e)
                        .remedy("make a new list; it must be a full list, version 2 (openssl ca -gencrl -crlexts …)")
                })?;
                revocation_lists.push(CertRevocationList::from(list));
            }
        }
        Ok(Authorities { authorities, revocation_lists, source })
    }

    /// Those in `der`, read from the file `path`.
    pub(crate) fn of(der: &[CertificateDer<'static>], path: &Path) -> Result<Authorities> {
        let authorities = der.iter().map(|der| Authority::new(der.clone(), path)).collect::<Result<_>>()?;
        Ok(Authorities { authorities, revocation_lists: Vec::new(), source: Printable::path(path).to_string() })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Authority> {
        self.authorities.iter()
    }

    pub(crate) fn revocation_lists(&self) -> Vec<&CertRevocationList<'static>> {
        self.revocation_lists.iter().collect()
    }

    /// The files and directories they were read from, for messages.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Their names, for messages.
    pub(crate) fn titles(&self) -> String {
        self.iter().map(|authority| authority.certificate.title()).collect::<Vec<_>>().join(", ")
    }

    /// Those that may vouch for `leaf` at `now`.
    pub(crate) fn vouching(&self, leaf: &CertificateDer<'_>, now: Moment) -> Vec<TrustAnchor<'static>> {
        let valid = self.iter().filter(|authority| authority.is_valid_at(now));
        let valid = valid.filter(|authority| authority.certificate.is_authority || authority.der == *leaf);
        valid.map(|authority| authority.anchor.clone()).collect()
    }

    /// # Errors
    /// None of them is valid at `now`.
    pub fn check_dates(&self, now: SystemTime) -> Result<()> {
        let now = Moment::from(now);
        if self.iter().any(|authority| authority.is_valid_at(now)) {
            return Ok(());
        }
        Err(Error::new(Kind::Usage, format!("no authority in {} is valid today", self.source))
            .remedy("make a new one with `highline certs ca`, and check this host's clock"))
    }
}

impl Authority {
    fn new(der: CertificateDer<'static>, path: &Path) -> Result<Authority> {
        let shown = Printable::path(path);
        let unusable = || Error::new(Kind::Usage, format!("cannot use a certificate in the CA file {shown}"));
        let certificate = Certificate::parse(&der).map_err(|e| unusable().because(e))?;
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|e| unusable().because(e))?.to_owned();
        Ok(Authority { certificate, anchor, der })
    }

    pub(crate) fn is_valid_at(&self, now: Moment) -> bool {
        self.certificate.not_before <= now && now <= self.certificate.not_after
    }
}

fn read_all(paths: &[PathBuf], what: &str) -> Result<Vec<(PathBuf, Pem)>> {
    let mut all = Vec::new();
    for path in paths {
        let files = files_of(path, what)?;
        let is_directory = files.first() != Some(path);
        for file in files {
            match Pem::read(&file, what) {
                Ok(pem) => all.push((file, pem)),
                Err(e) if is_directory && e.kind() == Kind::Usage => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(all)
}
