//! PEM files: certificates, keys, revocation lists. This reads and sorts them, but does not check them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::error::{Error, Kind, Printable, Result};

/// Bytes. Certificates and keys are small; revocation lists can be large.
const MAX_BYTES: u64 = 64 << 20;

/// What was found in one PEM file.
#[derive(Debug, Default)]
pub struct Pem {
    pub certificates: Vec<CertificateDer<'static>>,
    pub keys: Vec<PrivateKeyDer<'static>>,
    pub revocation_lists: Vec<CertificateRevocationListDer<'static>>,
    /// There is a private key that needs a passphrase; it is not in `keys`.
    pub encrypted_key: bool,
}

impl Pem {
    /// Reads the file at `path`. `what` says what it should contain: "certificate", "private key".
    ///
    /// # Errors
    /// The file, by name, if it is unreadable, empty, not PEM, or damaged PEM.
    pub fn read(path: &Path, what: &str) -> Result<Pem> {
        let shown = Printable::path(path);
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        let file = File::open(path).map_err(|e| Error::io(&format!("cannot open the {what} file"), path, e))?;
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io(&format!("cannot read the {what} file"), path, e))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::new(Kind::Usage, format!("the {what} file {shown} is empty"))
                .remedy("put the certificate there again; `highline certs` makes one"));
        }
        let pem = Pem::parse(&bytes).map_err(|e| {
            Error::new(Kind::Usage, format!("the {what} file {shown} is damaged"))
                .because(e)
                .remedy("copy the whole file again, from BEGIN to END")
        })?;
        if pem.is_empty() {
            return Err(Error::new(Kind::Usage, format!("the {what} file {shown} has no PEM in it")).remedy(format!(
                "if it is DER, convert it: openssl {} -inform DER -in {shown} -out FILE.pem",
                if what == "private key" { "pkey" } else { "x509" }
            )));
        }
        Ok(pem)
    }

    /// Sorts the sections of a PEM text; other sections (parameters, requests) are left out.
    pub fn parse(bytes: &[u8]) -> Result<Pem, rustls_pki_types::pem::Error> {
        let mut pem = Pem::default();
        // A key in the old format names its cipher in header lines, which a PEM reader mistakes for base64.
        if contains(bytes, b"Proc-Type: 4,ENCRYPTED") {
            pem.encrypted_key = true;
            return Ok(pem);
        }
        pem.encrypted_key = contains(bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----");
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            let (kind, der) = section?;
            match kind {
                SectionKind::Certificate => pem.certificates.push(der.into()),
                SectionKind::Crl => pem.revocation_lists.push(der.into()),
                other => pem.keys.extend(<PrivateKeyDer<'_> as PemObject>::from_pem(other, der)),
            }
        }
        Ok(pem)
    }

    fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty() && self.revocation_lists.is_empty() && !self.encrypted_key
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Fails with the names of all missing files at once.
///
/// # Errors
/// One or more of the files does not exist.
pub(crate) fn all_there(cert: &Path, key: &Path, cas: &[PathBuf], crls: &[PathBuf]) -> Result<()> {
    let files = [("certificate", cert), ("private key", key)].into_iter();
    let files = files.chain(cas.iter().map(|ca| ("CA", ca.as_path())));
    let files = files.chain(crls.iter().map(|crl| ("CRL", crl.as_path())));
    let mut missing: Vec<String> = Vec::new();
    for (what, path) in files {
        let gone = std::fs::metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
        // Name a file only once, even if it holds two things.
        if gone && !missing.iter().any(|known| known.ends_with(&format!(" {}", Printable::path(path)))) {
            missing.push(format!("the {what} file {}", Printable::path(path)));
        }
    }
    match missing.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::new(Kind::NotFound, format!("{one} does not exist"))),
        several => Err(Error::new(Kind::NotFound, format!("{} do not exist", several.join(", ")))),
    }
    .map_err(|e| e.remedy("put it there, or correct the path in the option file"))
}

/// The files that `path` means: itself, or the regular files of a directory, sorted by name.
pub(crate) fn files_of(path: &Path, what: &str) -> Result<Vec<PathBuf>> {
    let about = |e| Error::io(&format!("cannot read the {what}"), path, e);
    if !std::fs::metadata(path).map_err(about)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(about)? {
        let file = entry.map_err(about)?.path();
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
