//! Identities and authorities from files: every form that works, and every fault by its sentence.

use std::path::Path;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use super::certificate::{KeyType, Purpose};
use super::testing::{Ca, DAY, named, openssl, write};
use super::verification::check_path;
use super::{Authorities, Certificate, Identity};
use crate::error::Kind;

#[test]
fn keys_and_certificates_of_openssl_are_read_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    openssl(dir, "req -x509 -newkey rsa:2048 -nodes -keyout {}/ca.key -out {}/ca.pem -subj /CN=Lab_CA -days 9");
    write(dir, "ext", "subjectAltName=DNS:node1.example,IP:192.0.2.1\nextendedKeyUsage=serverAuth,clientAuth\n");
    for (name, how, kind) in [
        ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", KeyType::Rsa(2048)),
        ("p256", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", KeyType::Ecdsa(256)),
        ("p384", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", KeyType::Ecdsa(384)),
        ("p521", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521", KeyType::Ecdsa(521)),
        ("ed25519", "genpkey -algorithm ED25519", KeyType::Ed25519),
    ] {
        openssl(dir, &format!("{how} -out {{}}/{name}.key"));
        openssl(dir, &format!("req -new -key {{}}/{name}.key -subj /CN={name} -out {{}}/{name}.csr"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {{}}/{name}.csr -CA {{}}/ca.pem -CAkey {{}}/ca.key -CAcreateserial -days 9 -extfile {{}}/ext -out {{}}/{name}.pem"
            ),
        );
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        let identity = Identity::load(&certificate, Some(&key), SystemTime::now()).unwrap();
        assert_eq!(identity.certificate().key, kind);
        assert_eq!(identity.certificate().names, ["node1.example", "192.0.2.1"]);
        let authorities = Authorities::load(&[dir.join("ca.pem")], &[]).unwrap();
        for purpose in [Purpose::Server, Purpose::Client] {
            identity.check_chain(&authorities, purpose, SystemTime::now()).unwrap();
        }
    }
    // The older forms: PKCS#1 and SEC1, and one file with both.
    openssl(dir, "rsa -traditional -in {}/rsa.key -out {}/rsa.pkcs1");
    openssl(dir, "ec -in {}/p256.key -out {}/p256.sec1");
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert!(text("rsa.pkcs1").contains("BEGIN RSA PRIVATE KEY") && text("p256.sec1").contains("BEGIN EC PRIVATE KEY"));
    for (certificate, key) in [("rsa.pem", "rsa.pkcs1"), ("p256.pem", "p256.sec1")] {
        Identity::load(&dir.join(certificate), Some(&dir.join(key)), SystemTime::now()).unwrap();
        let bundle = write(dir, "bundle.pem", &format!("{}{}", text(key), text(certificate)));
        Identity::load(&bundle, None, SystemTime::now()).unwrap();
    }
}

#[test]
fn a_pin_is_what_openssl_computes() {
    let dir = tempfile::tempdir().unwrap();
    let identity = {
        let ca = Ca::new("Lab CA");
        let (certificate, key) = ca.sign(&named("node1", &[]));
        write(dir.path(), "k.pem", &key);
        ca.identity(&(certificate, key), SystemTime::now())
    };
    openssl(dir.path(), "pkey -in {}/k.pem -pubout -outform DER -out {}/spki");
    let spki = std::fs::read(dir.path().join("spki")).unwrap();
    assert_eq!(identity.pin(), crate::tls::Pin::of_spki(&spki));
}

#[test]
fn every_fault_of_a_file_has_its_sentence_and_remedy() {
    let ca = Ca::new("Lab CA");
    let now = SystemTime::now();
    let dir = ca.dir.path().to_owned();
    let (certificate, key) = ca.sign(&named("node1", &["node1.example"]));
    ca.write("good.pem", &certificate);
    ca.write("good.key", &key);
    ca.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
    ca.write("empty.pem", " \n");
    ca.write("text.pem", "hello\n");
    ca.write("cut.pem", &certificate[..certificate.len() / 2]);
    ca.write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let mut old = named("node1", &[]);
    old.not_after = OffsetDateTime::from(now - DAY / 2);
    ca.write("old.pem", &ca.sign(&old).0);
    let mut early = named("node1", &[]);
    early.not_before = OffsetDateTime::from(now + DAY);
    ca.write("early.pem", &ca.sign(&early).0);
    openssl(&dir, "pkey -in {}/good.key -aes256 -passout pass:secret -out {}/encrypted.key");
    openssl(&dir, "genrsa -traditional -aes128 -passout pass:secret -out {}/old-encrypted.key 2048");
    openssl(&dir, "req -x509 -newkey rsa:1024 -nodes -keyout {}/weak.key -out {}/weak.pem -subj /CN=node1 -days 9");
    let date = |date: OffsetDateTime| crate::tls::certificate::Moment::from_unix(date.unix_timestamp());
    let expired = format!("the certificate \"CN=node1\" in DIR/old.pem expired on {}", date(old.not_after));
    let too_new =
        format!("the certificate \"CN=node1\" in DIR/early.pem is valid only from {}", date(early.not_before));
    for (certificate, key, sentence, remedy) in [
        ("empty.pem", "good.key", "the certificate file DIR/empty.pem is empty", "highline certs"),
        ("good.pem", "empty.pem", "the private key file DIR/empty.pem is empty", "again"),
        ("text.pem", "good.key", "the certificate file DIR/text.pem has no PEM in it", "openssl x509 -inform DER"),
        ("cut.pem", "good.key", "the certificate file DIR/cut.pem is damaged: ", "copy the whole file again"),
        (
            "garbage.pem",
            "good.key",
            "cannot understand the first certificate in DIR/garbage.pem: it is not an X.509 certificate",
            "highline certs node",
        ),
        ("good.key", "good.key", "there is no certificate in DIR/good.key", "BEGIN CERTIFICATE"),
        ("good.pem", "good.pem", "there is no private key in DIR/good.pem", "BEGIN PRIVATE KEY"),
        (
            "good.pem",
            "other.key",
            "the private key in DIR/other.key is not the key of the certificate in DIR/good.pem",
            "made together",
        ),
        (
            "good.pem",
            "encrypted.key",
            "the private key in DIR/encrypted.key is encrypted with a passphrase",
            "openssl pkey -in ",
        ),
        (
            "good.pem",
            "old-encrypted.key",
            "the private key in DIR/old-encrypted.key is encrypted with a passphrase",
            "openssl pkey -in ",
        ),
        ("old.pem", "good.key", &expired, "highline certs node NAME"),
        ("early.pem", "good.key", &too_new, "clock"),
        (
            "weak.pem",
            "weak.key",
            "the certificate \"CN=node1\" in DIR/weak.pem has a key of RSA 1024, which is too weak",
            "2048 bits or more",
        ),
    ] {
        let sentence = sentence.replace("DIR", dir.to_str().unwrap());
        // Not `now`: some were made since.
        let error = Identity::load(&dir.join(certificate), Some(&dir.join(key)), SystemTime::now()).unwrap_err();
        assert!(error.sentence().starts_with(&sentence), "{}\n{sentence}", error.sentence());
        assert_eq!(error.kind(), Kind::Usage, "{sentence}");
        assert!(error.remedy_text().unwrap_or_default().contains(remedy), "{sentence}: {:?}", error.remedy_text());
    }
    let missing = dir.join("missing.pem");
    let error = Identity::load(&missing, Some(&dir.join("good.key")), now).unwrap_err();
    let sentence = format!("cannot open the certificate file {}: No such file or directory", missing.display());
    assert!(error.sentence().starts_with(&sentence), "{}", error.sentence());
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn a_file_without_permission_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "key.pem", "x");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o0)).unwrap();
    if std::fs::File::open(&file).is_ok() {
        return; // root reads everything
    }
    let error = Identity::load(&file, None, SystemTime::now()).unwrap_err();
    assert_eq!(error.kind(), Kind::Permission);
}

#[test]
fn authorities_come_from_bundles_and_directories() {
    let (old, new) = (Ca::new("Old CA"), Ca::new("New CA"));
    let both = old.write("both.pem", &format!("{}{}{}", old.pem, new.pem, old.pem));
    let names = |authorities: &Authorities| -> Vec<String> {
        authorities.iter().map(|a| a.certificate.subject.clone()).collect()
    };
    assert_eq!(names(&Authorities::load(&[both], &[]).unwrap()), ["CN=Old CA", "CN=New CA"]);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b.pem", &new.pem);
    write(dir.path(), "a.pem", &old.pem);
    write(dir.path(), "README", "no PEM here");
    write(dir.path(), "nothing", "");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let path = || vec![dir.path().to_owned()];
    assert_eq!(names(&Authorities::load(&path(), &[]).unwrap()), ["CN=Old CA", "CN=New CA"]);

    let shown = dir.path().display();
    let refused = |paths: &[std::path::PathBuf], lists: &[std::path::PathBuf]| {
        Authorities::load(paths, lists).unwrap_err().sentence()
    };
    assert_eq!(refused(&path(), &[dir.path().join("a.pem")]), format!("there is no revocation list in {shown}/a.pem"));
    assert_eq!(refused(&[dir.path().join("nothing")], &[]), format!("the CA file {shown}/nothing is empty"));
    std::fs::remove_file(dir.path().join("a.pem")).unwrap();
    std::fs::remove_file(dir.path().join("b.pem")).unwrap();
    assert_eq!(refused(&path(), &[]), format!("there is no CA certificate in {shown}"));
}

#[test]
fn weak_and_old_certificates_of_a_peer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    openssl(dir, "req -x509 -newkey rsa:2048 -nodes -keyout {}/ca.key -out {}/ca.pem -subj /CN=Lab_CA -days 9");
    write(dir, "ext", "subjectAltName=DNS:node1.example\n");
    for (bits, ext, fault) in [
        (1024, "-extfile {}/ext", "has a key of RSA 1024, which is too weak"),
        (2048, "", "is an old X.509 version, which has neither names nor usages"),
        (
            2048,
            "-sha1 -extfile {}/ext",
            "or one above it is signed with a broken or unknown algorithm (SHA-1 and MD5 are broken)",
        ),
        (2048, "-extfile {}/ext", ""),
    ] {
        openssl(dir, &format!("req -newkey rsa:{bits} -nodes -keyout {{}}/n.key -subj /CN=node1 -out {{}}/n.csr"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {{}}/n.csr -CA {{}}/ca.pem -CAkey {{}}/ca.key -set_serial 2 -days 9 {ext} -out {{}}/n.pem"
            ),
        );
        let leaf = certificate_in(&dir.join("n.pem"));
        let authorities = Authorities::load(&[dir.join("ca.pem")], &[]).unwrap();
        let verdict = check_path(&leaf, &[], &authorities, UnixTime::now(), Purpose::Server);
        let said = verdict.map_err(|refusal| refusal.to_string());
        match fault {
            "" => assert_eq!(said, Ok(())),
            fault => assert_eq!(said, Err(format!("the certificate \"CN=node1\" {fault}"))),
        }
    }
}

#[test]
fn a_weak_authority_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    openssl(dir, "req -x509 -newkey rsa:1024 -nodes -keyout {}/ca.key -out {}/ca.pem -subj /CN=Weak_CA -days 9");
    openssl(dir, "req -newkey rsa:2048 -nodes -keyout {}/n.key -subj /CN=node1 -out {}/n.csr");
    write(dir, "ext", "subjectAltName=DNS:node1.example\n");
    openssl(
        dir,
        "x509 -req -in {}/n.csr -CA {}/ca.pem -CAkey {}/ca.key -set_serial 2 -days 9 -extfile {}/ext -out {}/n.pem",
    );
    let authorities = Authorities::load(&[dir.join("ca.pem")], &[]).unwrap();
    let leaf = certificate_in(&dir.join("n.pem"));
    let refusal = check_path(&leaf, &[], &authorities, UnixTime::now(), Purpose::Server).unwrap_err();
    let expected = format!(
        "the certificate \"CN=node1\" was issued by \"CN=Weak_CA\" in {}, whose key (RSA 1024) is too weak",
        authorities.source()
    );
    assert_eq!(refusal.to_string(), expected);
}

fn certificate_in(path: &Path) -> CertificateDer<'static> {
    crate::tls::pem::Pem::read(path, "certificate").unwrap().certificates.remove(0)
}

#[test]
fn hostile_names_cannot_forge_lines() {
    let ca = Ca::new("Lab CA");
    let identity = ca.node("node1\nERROR: all is lost\u{1b}[2J", &[]);
    let facts: &Certificate = identity.certificate();
    assert!(!facts.title().chars().any(char::is_control), "{:?}", facts.title());
    assert!(!facts.all_names().chars().any(char::is_control));
}

proptest::proptest! {
    /// A peer's certificate is hostile input: whatever it is, it is judged, and nothing panics.
    #[test]
    fn damaged_certificates_are_judged(cut in 0_usize..900, flips in proptest::collection::vec((0_usize..900, 0_u8..), 0..6)) {
        let (leaf, authorities) = sample();
        let mut bytes = leaf.to_vec();
        for (at, with) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= with;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(600)));
        let changed = bytes != leaf.to_vec();
        let damaged = CertificateDer::from(bytes.clone());
        let _ = Certificate::parse(&damaged);
        let verdict = check_path(&damaged, std::slice::from_ref(&damaged), authorities, UnixTime::now(), Purpose::Server);
        assert_eq!(verdict.is_err(), changed, "only the certificate itself is accepted");
        let _ = crate::tls::pem::Pem::parse(&bytes);
    }
}

/// A good certificate and whom it is believed by.
fn sample() -> &'static (CertificateDer<'static>, std::sync::Arc<Authorities>) {
    static SAMPLE: std::sync::OnceLock<(CertificateDer<'static>, std::sync::Arc<Authorities>)> =
        std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| {
        let ca = Ca::new("Lab CA");
        (ca.node("node1", &["node1.example", "192.0.2.1"]).chain()[0].clone(), ca.authorities())
    })
}

#[test]
fn an_ephemeral_identity_is_new_each_time_and_never_shows_its_key() {
    let (one, two) = (Identity::ephemeral().unwrap(), Identity::ephemeral().unwrap());
    assert_ne!(one.pin(), two.pin());
    assert_eq!(format!("{one:?}"), "Identity { subject: \"CN=highline, this run only\", source: None }");
}
