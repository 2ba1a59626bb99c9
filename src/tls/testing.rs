//! Certificates with every fault, for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

use super::{Authorities, Identity};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// An authority with its key, and a folder to write into.
pub(crate) struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) pem: String,
    pub(crate) dir: Arc<tempfile::TempDir>,
}

pub(crate) fn named(name: &str, alternatives: &[&str]) -> CertificateParams {
    let alternatives: Vec<String> = alternatives.iter().map(|s| (*s).to_owned()).collect();
    let mut params = CertificateParams::new(alternatives).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from(SystemTime::now() - DAY);
    params.not_after = OffsetDateTime::from(SystemTime::now() + 30 * DAY);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = named(name, &[]);
    params.extended_key_usages.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Ca {
    pub(crate) fn new(name: &str) -> Ca {
        Ca::with(name, |_| ())
    }

    pub(crate) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let mut params = authority(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { params, key, pem, dir: Arc::new(tempfile::tempdir().unwrap()) }
    }

    /// One whose CA file holds `pem` instead of its own certificate.
    pub(crate) fn holding(pem: &str) -> Ca {
        Ca { pem: pem.to_owned(), ..Ca::new("unused") }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// An authority that this one signed.
    pub(crate) fn intermediate(&self, name: &str) -> Ca {
        self.intermediate_with(name, |_| ())
    }

    pub(crate) fn intermediate_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let mut params = authority(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer()).unwrap().pem();
        Ca { params, key, pem, dir: Arc::clone(&self.dir) }
    }

    /// A certificate and its key, in PEM.
    pub(crate) fn sign(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer()).unwrap().pem(), key.serialize_pem())
    }

    /// A certificate of `params` for the key of `other`.
    pub(crate) fn reissue(&self, params: &CertificateParams, other: &Ca) -> String {
        params.signed_by(&other.key, &self.issuer()).unwrap().pem()
    }

    pub(crate) fn revocation_list(&self, serials: &[u64], next_update: SystemTime) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: OffsetDateTime::now_utc(),
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: OffsetDateTime::from(SystemTime::now() - 3 * DAY),
            next_update: OffsetDateTime::from(next_update),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer())
        .unwrap()
        .pem()
        .unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        write(self.dir.path(), name, text)
    }

    /// An identity of the two PEM texts, loaded as if at `when`, so that expired ones can be made.
    pub(crate) fn identity(&self, (certificate, key): &(String, String), when: SystemTime) -> Identity {
        let file = self.write("identity.pem", &format!("{certificate}\n{key}"));
        Identity::load(&file, None, when).unwrap()
    }

    pub(crate) fn node(&self, name: &str, alternatives: &[&str]) -> Identity {
        self.identity(&self.sign(&named(name, alternatives)), SystemTime::now())
    }

    pub(crate) fn authorities(&self) -> Arc<Authorities> {
        self.authorities_with(&[], None)
    }

    pub(crate) fn authorities_with(&self, more: &[&Ca], list: Option<&str>) -> Arc<Authorities> {
        let bundle: String = std::iter::once(&self).chain(more).map(|ca| ca.pem.as_str()).collect();
        let file = self.write("ca.pem", &bundle);
        let lists: Vec<PathBuf> = list.map(|text| self.write("crl.pem", text)).into_iter().collect();
        Arc::new(Authorities::load(&[file], &lists).unwrap())
    }
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Runs the `openssl` command, for what `rcgen` does not make. `{}` in `command` stands for `dir`.
pub(crate) fn openssl(dir: &Path, command: &str) {
    let args = command.split_whitespace().map(|word| word.replace("{}", dir.to_str().unwrap()));
    let out = std::process::Command::new("openssl").args(args).output().unwrap();
    assert!(out.status.success(), "openssl {command}: {}", String::from_utf8_lossy(&out.stderr));
}
