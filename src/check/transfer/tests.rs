//! Configurations that people have, and what is said about them.

use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use super::*;
use crate::check::options::tests::read;
use crate::check::{Level, check};
use crate::tls::authority::{AuthorityDir, NewKey, NodeRequest};
use crate::tls::safe_file::Existing;

const PROGRAMS: &[&str] = &[
    "wsrep_sst_highline",
    "highline",
    "wsrep_sst_rsync",
    "rsync",
    "stunnel",
    "wsrep_sst_mariabackup",
    "mariadb-backup",
    "mbstream",
    "socat",
    "wsrep_sst_mysqldump",
    "mariadb-dump",
];

/// A host with certificates of `certs`, a data directory, and a folder of programs.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["bin", "data", "tls"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        std::os::unix::fs::symlink("/usr/bin/openssl", dir.path().join("bin/openssl")).unwrap();
        std::fs::write(dir.path().join("galera.so"), "").unwrap();
        let ca = AuthorityDir::new(dir.path().join("tls"));
        ca.create("Lab CA", 3650, NewKey::default(), Existing::Refuse, SystemTime::now()).unwrap();
        let request = NodeRequest {
            name: "node1".parse().unwrap(),
            dns: Vec::new(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            days: 300,
            key: NewKey::default(),
            replace_key: false,
        };
        ca.sign(&request, SystemTime::now()).unwrap();
        // The authority's key is no node's business.
        std::fs::remove_file(ca.ca_key_file()).unwrap();
        Host { dir }
    }

    /// `DIR` in `text` is this host's folder. All programs are there but `missing`.
    fn node(&self, text: &str, missing: &[&str]) -> Node {
        let bin = self.dir.path().join("bin");
        for program in PROGRAMS {
            let file = bin.join(program);
            if missing.contains(program) {
                let _ = std::fs::remove_file(file);
            } else {
                std::fs::write(&file, "").unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let galera = "[mysqld]\nwsrep_on=ON\nwsrep_provider=DIR/galera.so\nwsrep_node_address=192.0.2.1\nwsrep_sst_receive_address=192.0.2.1:1\nuser=root\ndatadir=DIR/data\n";
        let text = format!("{galera}{text}").replace("DIR", self.dir.path().to_str().unwrap());
        Node { options: read(&text), path: bin.into(), now: SystemTime::now() }
    }

    fn transfer(&self, text: &str, missing: &[&str]) -> Report {
        let mut report = Report::default();
        super::check(&self.node(text, missing), &mut Materials::default(), &mut report);
        report
    }
}

const FILES: &str = "ssl_cert=DIR/tls/node1.pem\nssl_key=DIR/tls/node1-key.pem\nssl_ca=DIR/tls/ca.pem\n";
const GALERA: &str = "wsrep_provider_options=\"socket.ssl_cert=DIR/tls/node1.pem;socket.ssl_key=DIR/tls/node1-key.pem;socket.ssl_ca=DIR/tls/ca.pem\"\n";

#[test]
fn every_method_is_judged_by_what_its_script_would_do() {
    let host = Host::new();
    for (text, missing, level, says) in [
        // rsync
        ("", &[][..], Level::Warning, "rsync copies the whole database unencrypted (no certificate is configured)"),
        ("", &["rsync"], Level::Error, "wsrep_sst_rsync runs rsync, which is not installed"),
        ("", &["wsrep_sst_rsync"], Level::Error, "there is no program wsrep_sst_rsync in PATH"),
        (
            "FILES",
            &["stunnel"],
            Level::Error,
            "ssl-mode is VERIFY_CA but stunnel is not installed: every transfer ends with error 2",
        ),
        ("FILES", &[], Level::Note, "checks the donor's secret only after the data was written"),
        ("FILES[sst]\nssl-mode=REQUIRED\n", &[], Level::Warning, "stunnel encrypts but verifies nothing"),
        (
            "FILES[sst]\nssl-mode=verify_identity\n",
            &[],
            Level::Error,
            "stunnel requires every node's own certificate in the CA file",
        ),
        ("FILES[sst]\nssl-mode=DISABLED\n", &[], Level::Warning, "unencrypted (ssl-mode=DISABLED)"),
        ("FILES[sst]\nssl-mode=VERIFY\n", &[], Level::Error, "ssl-mode=VERIFY is not known"),
        ("[sst]\nencrypt=4\n", &[], Level::Error, "encrypt=4 is for mariabackup: rsync ignores it"),
        ("FILES[mariabackup]\nssl-mode=DISABLED\n", &[], Level::Ok, "stunnel, which verifies the chain"),
        ("[sst]\nssl-mode=REQUIRED\n", &[], Level::Error, "ssl-mode=REQUIRED without both certificate and key"),
        (
            "[sst]\nssl-mode=VERIFY_CA\ntcert=DIR/tls/node1.pem\ntkey=DIR/tls/node1-key.pem\n",
            &[],
            Level::Error,
            "without a CA: the script ends with error 22",
        ),
        (
            "FILES[sst]\nssl-cert=/other.pem\n",
            &[],
            Level::Warning,
            "ssl-cert in [sst] has no effect: the script takes DIR/tls/node1.pem",
        ),
        // highline with a backup
        (
            "wsrep_sst_method=highline\n[highline]\nsource=mariabackup\n",
            &[],
            Level::Ok,
            "source=mariabackup: mariadb-backup makes the copy here",
        ),
        (
            "wsrep_sst_method=highline\n[highline]\nsource=mariabackup\n",
            &["mariadb-backup"],
            Level::Error,
            "mariadb-backup is not installed: this node can neither give nor take a backup",
        ),
        (
            "wsrep_sst_method=highline\n[highline]\nsource=mariabackup\n",
            &[],
            Level::Note,
            "wsrep_sst_auth is not set: mariadb-backup logs in as",
        ),
        (
            "wsrep_sst_method=highline\nwsrep_sst_auth=u:p\n[highline]\nsource=mariabackup\n",
            &[],
            Level::Note,
            "whether u of wsrep_sst_auth may log in is not known: no server runs here",
        ),
        // mariabackup
        (
            "wsrep_sst_method=mariabackup\n",
            &[],
            Level::Warning,
            "mariabackup copies the whole database unencrypted, as is its default",
        ),
        (
            "wsrep_sst_method=mariabackup\nFILES",
            &[],
            Level::Error,
            "certificates are configured, but mariabackup does not use them",
        ),
        (
            "wsrep_sst_method=mariabackup\nFILES[sst]\nssl-mode=REQUIRED\n",
            &[],
            Level::Warning,
            "verifies nothing (verify=0)",
        ),
        (
            "wsrep_sst_method=mariabackup\nFILES[sst]\nssl-mode=VERIFY_CA\n",
            &[],
            Level::Note,
            "the second, with the data, has no such check",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\ntcert=DIR/tls/node1.pem\ntkey=DIR/tls/node1-key.pem\nssl-mode=VERIFY_CA\n",
            &[],
            Level::Error,
            "ssl-mode=VERIFY_CA without a CA: the script verifies nothing",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\nssl-mode=VERIFY_CA\n",
            &[],
            Level::Error,
            "without certificate and key: the script ends with error 22",
        ),
        ("wsrep_sst_method=mariabackup\nFILES[sst]\nencrypt=1\n", &[], Level::Warning, "one shared key"),
        (
            "wsrep_sst_method=mariabackup\n[sst]\nencrypt=3\ntcert=DIR/tls/node1.pem\ntkey=DIR/tls/node1-key.pem\n",
            &[],
            Level::Warning,
            "encrypt=3 without a CA: socat encrypts but verifies nothing",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\nencrypt=4\n",
            &[],
            Level::Error,
            "encrypt=4 without a CA: the script ends with error 22",
        ),
        ("wsrep_sst_method=mariabackup\nFILES[sst]\nencrypt=9\n", &[], Level::Error, "encrypt=9 is not known"),
        (
            "wsrep_sst_method=mariabackup\nFILES[sst]\nencrypt=4\nsockopt=,retry=3,verify=0\n",
            &[],
            Level::Warning,
            "sockopt has verify=0",
        ),
        (
            "wsrep_sst_method=mariabackup\nFILES[sst]\nencrypt=4\ntransferfmt=nc\n",
            &[],
            Level::Error,
            "netcat has no TLS",
        ),
        (
            "wsrep_sst_method=mariabackup\nFILES[mariabackup]\nssl-mode=VERIFY_CA\n",
            &[],
            Level::Ok,
            "verifies the chain of the peer's certificate",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\nencrypt=4\ntca=DIR/tls/ca.pem\n",
            &[],
            Level::Error,
            "encrypt=4 without both certificate and key: the script ends with error 22",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\nencrypt=3\ntcert=DIR/tls/node1.pem\n",
            &[],
            Level::Error,
            "encrypt=3 without both certificate and key",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\nencrypt=2\ntca=DIR/tls/ca.pem\ntcert=DIR/tls/node1.pem\n",
            &[],
            Level::Error,
            "encrypt=2 takes the private key from the certificate's file",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\nencrypt=1\n",
            &[],
            Level::Error,
            "encrypt=1 without encrypt-algo, or without a key",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\ncompressor=pigz -p 4\n",
            &[],
            Level::Error,
            "compressor in [sst] runs pigz, which is not installed",
        ),
        (
            "wsrep_sst_method=mariabackup\n[sst]\nrlimit=10m\n",
            &[],
            Level::Warning,
            "rlimit in [sst] needs pv, which is not installed",
        ),
        (
            "wsrep_sst_method=mariabackup\n",
            &["mbstream"],
            Level::Error,
            "mariabackup runs mbstream, which is not installed",
        ),
        ("wsrep_sst_method=mariabackup\n", &["socat"], Level::Error, "mariabackup runs socat, which is not installed"),
        ("wsrep_sst_method=mariabackup\n", &["mariadb-backup"], Level::Error, "mariabackup runs mariadb-backup"),
        ("wsrep_sst_method=xtrabackup-v2\n", &[], Level::Error, "there is no program wsrep_sst_xtrabackup-v2 in PATH"),
        // the others
        ("wsrep_sst_method=mysqldump\n", &[], Level::Warning, "[client] does not ask for TLS"),
        (
            "wsrep_sst_method=mysqldump\n",
            &[],
            Level::Error,
            "wsrep_sst_auth is not set, so the donor has no account on the joiner",
        ),
        (
            "wsrep_sst_method=mysqldump\n[client]\nssl-ca=/ca.pem\n",
            &[],
            Level::Warning,
            "does not verify the other server",
        ),
        (
            "wsrep_sst_method=mysqldump\n[client]\nssl-ca=/ca.pem\nssl-verify-server-cert\n",
            &[],
            Level::Ok,
            "verifies the joiner's certificate",
        ),
        ("wsrep_sst_method=skip\n", &[], Level::Note, "never gets a full copy"),
        ("wsrep_sst_method=other\n", &[], Level::Error, "there is no program wsrep_sst_other in PATH"),
        // highline
        (
            "wsrep_sst_method=highline\n",
            &[],
            Level::Ok,
            "highline encrypts with TLS 1.3; joiner and donor recognise each other by the ticket",
        ),
        (
            "wsrep_sst_method=highline\n",
            &[],
            Level::Note,
            "the ticket travels in the replication traffic, which is not encrypted",
        ),
        ("wsrep_sst_method=highline\n", &["highline"], Level::Error, "the program highline is not in PATH"),
        (
            "wsrep_sst_method=highline\nFILES[sst]\nssl-mode=VERIFY_IDENTITY\n",
            &[],
            Level::Ok,
            "both sides verify ticket and chain, the donor the joiner's name too",
        ),
        ("wsrep_sst_method=highline\nFILES[sst]\nencrypt=4\n", &[], Level::Ok, "both sides verify ticket and chain"),
        (
            "wsrep_sst_method=highline\n[sst]\nssl-mode=DISABLED\n",
            &[],
            Level::Note,
            "ssl-mode in [sst]: DISABLED has no effect: every transfer is encrypted anyway",
        ),
        (
            "wsrep_sst_method=highline\n[highline]\nssl-mode=DISABLED\n",
            &[],
            Level::Error,
            "DISABLED would send a copy of the whole database over the network unencrypted",
        ),
        (
            "wsrep_sst_method=highline\n[highline]\nlisten=192.0.2.99\n",
            &[],
            Level::Error,
            "listen in [highline]: 192.0.2.99 is not an address of this host",
        ),
        (
            "wsrep_sst_method=highline\n[highline]\nlisten=a:b:c\n",
            &[],
            Level::Error,
            "listen in [highline]: `a:b:c` is not HOST, HOST:PORT or :PORT",
        ),
        (
            "wsrep_sst_method=highline\n[highline]\npeer-name=a b\n",
            &[],
            Level::Error,
            "peer-name in [highline]: a b is neither a DNS name nor an IP address",
        ),
        (
            "wsrep_sst_method=highline\nFILES[sst]\nssl-mode=VERIFY_IDENTITY\nsockopt=\",commonname=''\"\n",
            &[],
            Level::Ok,
            "both sides verify ticket and chain, the donor the joiner's name too",
        ),
        (
            "wsrep_sst_method=highline\nFILES[sst]\nssl-mode=VERIFY_IDENTITY\nsockopt=\",commonname=a b\"\n",
            &[],
            Level::Error,
            "commonname of sockopt in [sst]: a b is neither a DNS name nor an IP address",
        ),
        ("wsrep_sst_method=highline\n[sst]\nrlimit=fast\n", &[], Level::Error, "rlimit in [sst]: `fast` is not a rate"),
        (
            "wsrep_sst_method=highline\n[sst]\ncompressor=qpress -io\n",
            &[],
            Level::Warning,
            "`qpress -io` is none of zstd, lz4, gzip and pigz",
        ),
        (
            "wsrep_sst_method=highline\n[sst]\nsockopt=',cipher=AES128-SHA'\n",
            &[],
            Level::Note,
            "cipher of sockopt in [sst] has AES128-SHA, which TLS 1.3 does not have: it is not applied to transfers",
        ),
        (
            "wsrep_sst_method=highline\n[sst]\nssl-mode=VERIFY_CA\ntca=/no/ca.pem\ntcert=/no/c.pem\ntkey=/no/k.pem\n",
            &[],
            Level::Error,
            "the certificate file /no/c.pem, the private key file /no/k.pem, the CA file /no/ca.pem do not exist",
        ),
        (
            "wsrep_sst_method=highline\n[sst]\nssl-mode=VERIFY_CA\ntca=DIR/tls/ca.pem\n",
            &[],
            Level::Error,
            "ssl-mode=VERIFY_CA needs a certificate and key of this node",
        ),
        (
            "wsrep_sst_method=highline\n[sst]\nssl-mode=VERIFY_CA\n",
            &[],
            Level::Error,
            "needs a CA, and none is configured",
        ),
        (
            "wsrep_sst_method=highline\n[sst]\nencrypt=1\n",
            &[],
            Level::Note,
            "encrypt in [sst]: no symmetric key is used",
        ),
        (
            "wsrep_sst_method=highline\n[sst]\ntcrt=/x\n",
            &[],
            Level::Warning,
            "tcrt in [sst] is not known and has no effect; did you mean tcert?",
        ),
        ("wsrep_sst_method=highline\n[highline]\nlane=4\n", &[], Level::Error, "lane in [highline] is not known"),
        (
            "wsrep_sst_method=highline\ntls_version=TLSv1.2\n",
            &[],
            Level::Note,
            "tls-version in [mysqld]: TLSv1.2 leaves TLSv1.3 out, and Highline never goes below it: it is not applied to transfers",
        ),
        (
            "wsrep_sst_method=highline\n[highline]\nssl-cipher=AES128-SHA\n",
            &[],
            Level::Error,
            "ssl-cipher in [highline] has AES128-SHA",
        ),
    ] {
        let report = host.transfer(&text.replace("FILES", FILES), missing);
        let says = says.replace("DIR", host.dir.path().to_str().unwrap());
        let found = report.findings.iter().any(|finding| finding.level == level && finding.text.contains(&says));
        assert!(found, "{text} without {missing:?}: {level:?} {says}\n{report}");
        let bare = report.findings.iter().find(|finding| finding.level >= Level::Warning && finding.remedy.is_none());
        assert_eq!(bare, None, "every warning has a remedy");
    }
}

/// A remedy names only what has an effect there.
#[test]
fn remedies_know_the_precedence() {
    let host = Host::new();
    for (text, remedy) in [
        ("FILES[sst]\nssl-mode=REQUIRED\n", "set a CA (set ssl_ca in [mysqld]), and ssl-mode=VERIFY_CA in [sst]"),
        ("loose-ssl-mode=REQUIRED\nFILES", "set a CA (set ssl_ca in [mysqld]), and ssl-mode=VERIFY_CA in [mysqld]"),
        ("FILES[sst]\nssl-mode=VERIFY_CA\ntcert=DIR/tls/node1.pem\ntkey=DIR/tls/node1-key.pem\n", "set tca in [sst]"),
        (
            "wsrep_sst_method=mariabackup\nFILES[sst]\nencrypt=4\ntcert=DIR/tls/node1.pem\ntkey=DIR/tls/node1-key.pem\n",
            "set tca in [sst]",
        ),
        ("wsrep_sst_method=mariabackup\nFILES[sst]\nencrypt=4\ntca=DIR/tls/ca.pem\n", "set tcert and tkey in [sst]"),
        (
            "wsrep_sst_method=mariabackup\nFILES[mariabackup]\nssl-mode=REQUIRED\n",
            "set a CA (set ssl_ca in [mysqld]), and set ssl-mode=VERIFY_CA in [mariabackup] on every node",
        ),
        (
            "wsrep_sst_method=highline\nssl_ca=DIR/tls/ca.pem\n[sst]\nssl-mode=VERIFY_CA\ntcert=DIR/tls/node1.pem\ntkey=DIR/tls/node1-key.pem\n",
            "name it with ca in [highline], or tca in [sst]",
        ),
    ] {
        let report = host.transfer(&text.replace("FILES", FILES), &[]);
        let found = report.findings.iter().any(|finding| finding.remedy.as_deref() == Some(remedy));
        assert!(found, "{text}: {remedy}\n{report}");
    }
}

/// v1 and CA:TRUE pass OpenSSL; what does not is told in its own words where we have none.
#[test]
fn other_methods_are_judged_by_openssl() {
    let host = Host::new();
    let dir = host.dir.path();
    let (tls, lab) = (dir.join("tls"), dir.join("lab"));
    std::fs::create_dir(&lab).unwrap();
    let openssl = |line: &str| crate::tls::testing::openssl(&lab, line);
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout {}/ca-key.pem -out {}/ca.pem -subj /CN=Root -days 99");
    openssl("req -newkey rsa:2048 -nodes -keyout {}/v1-key.pem -out {}/v1.csr -subj /CN=node1");
    openssl("x509 -req -in {}/v1.csr -CA {}/ca.pem -CAkey {}/ca-key.pem -CAcreateserial -out {}/v1.pem -days 30");
    std::fs::create_dir(lab.join("hashed")).unwrap();
    std::fs::copy(lab.join("ca.pem"), lab.join("hashed/ca.pem")).unwrap();
    let said = |cert: &str, key: &str, ca: &str, level: Level, says: &str| {
        for method in ["rsync", "mariabackup"] {
            let text =
                format!("wsrep_sst_method={method}\n[sst]\nssl-mode=VERIFY_CA\ntcert={cert}\ntkey={key}\ntca={ca}\n");
            let text = text.replace("LAB", lab.to_str().unwrap()).replace("TLS", tls.to_str().unwrap());
            let report = check(&host.node(&text, &[]));
            let found = report.findings.iter().any(|finding| finding.level == level && finding.text.contains(says));
            assert!(found, "{method} {cert}: {level:?} {says}\n{report}");
            let worst = report.findings.iter().filter(|finding| finding.channel == Channel::Certificates);
            assert_eq!(worst.map(|finding| finding.level).max(), Some(level), "{report}");
        }
    };
    let v1 = ("LAB/v1.pem", "LAB/v1-key.pem");
    said(
        v1.0,
        v1.1,
        "LAB/ca.pem",
        Level::Warning,
        "is an old X.509 version, which has neither names nor usages; OpenSSL accepts it",
    );
    said("LAB/ca.pem", "LAB/ca-key.pem", "LAB/ca.pem", Level::Warning, "is the certificate of an authority (CA:TRUE)");
    said(v1.0, v1.1, "TLS/ca.pem", Level::Error, "OpenSSL refuses");
    said(v1.0, v1.1, "LAB/hashed", Level::Error, "OpenSSL refuses");
    said("TLS/node1.pem", "TLS/node1-key.pem", "LAB/ca.pem", Level::Error, "which is not among the authorities in");
    openssl("rehash {}/hashed");
    said(v1.0, v1.1, "LAB/hashed", Level::Warning, "is an old X.509 version");
}

#[test]
fn only_a_file_that_holds_a_key_must_be_closed() {
    let host = Host::new();
    let open = |name: &str| {
        let file = host.dir.path().join("tls").join(name);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    };
    open("node1.pem");
    let report = check(&host.node("ssl_cert=DIR/tls/node1.pem\n", &[]));
    assert!(!report.to_string().contains("everybody on this host"), "{report}");
    open("node1-key.pem");
    let report = check(&host.node("ssl_key=DIR/tls/node1-key.pem\n", &[]));
    assert!(report.to_string().contains("everybody on this host can read the private key"), "{report}");
}

#[test]
fn relative_paths_begin_in_the_data_directory() {
    let host = Host::new();
    let data = host.dir.path().join("data");
    for file in ["node1.pem", "node1-key.pem", "ca.pem"] {
        std::fs::copy(host.dir.path().join("tls").join(file), data.join(file)).unwrap();
    }
    let relative = "ssl_cert=node1.pem\nssl_key=node1-key.pem\nssl_ca=ca.pem\n\
        wsrep_provider_options=socket.ssl_cert=node1.pem;socket.ssl_key=node1-key.pem;socket.ssl_ca=ca.pem\n";
    for method in ["highline", "rsync"] {
        let report =
            check(&host.node(&format!("{relative}wsrep_sst_method={method}\n[sst]\nssl-mode=VERIFY_CA\n"), &[]));
        let shown = format!("{}/node1.pem (clients, replication, state transfer)", data.display());
        assert!(report.to_string().contains(&shown), "{method}\n{report}");
        assert!(report.worst() < Level::Error, "{method}\n{report}");
    }
    // mariabackup's script starts socat in another directory.
    let text = format!("{relative}wsrep_sst_method=mariabackup\n[sst]\nssl-mode=VERIFY_CA\n");
    let report = check(&host.node(&text, &[]));
    let found = report.findings.iter().find(|finding| finding.text.starts_with("ssl-cert=node1.pem is relative"));
    let remedy = found.and_then(|finding| finding.remedy.clone());
    assert_eq!(remedy, Some(format!("use an absolute path: {}/node1.pem", data.display())), "{report}");
}

#[test]
fn a_node_that_certs_set_up_has_no_fault() {
    let host = Host::new();
    let text = format!("{FILES}{GALERA}wsrep_sst_method=highline\n[highline]\nssl-mode=VERIFY_IDENTITY\n");
    let mut node = host.node(&text, &[]);
    // The server itself is asked for its version.
    node.path = std::env::join_paths(
        std::env::split_paths(&node.path).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let report = check(&node);
    assert_eq!(report.worst().max(Level::Note), Level::Note, "{report}");
    assert_eq!(report.exit_code(), 0);
    let certificates = report.findings.iter().filter(|finding| finding.channel == crate::check::Channel::Certificates);
    assert!(certificates.count() >= 2, "{report}");
}

#[test]
fn faults_of_certificates_are_found_before_a_transfer() {
    let host = Host::new();
    let at = |name: &str| host.dir.path().join("tls").join(name);
    let highline = format!("{FILES}wsrep_sst_method=highline\n[sst]\nssl-mode=VERIFY_IDENTITY\n");
    let said = |text: &str, level: Level, says: &str| {
        let report = check(&host.node(text, &[]));
        let found = report.findings.iter().any(|finding| finding.level == level && finding.text.contains(says));
        assert!(found, "{level:?} {says}\n{report}");
    };
    let elsewhere = highline.replace("[sst]", "wsrep_sst_receive_address=192.0.2.7:5555\n[sst]");
    said(
        &elsewhere,
        Level::Error,
        "is not for 192.0.2.7, the address that other nodes connect to; it has node1, 192.0.2.1",
    );
    std::fs::set_permissions(at("node1-key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    said(&highline, Level::Error, "everybody on this host can read the private key");
    std::fs::set_permissions(at("node1-key.pem"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(at("ca-key.pem"), "x").unwrap();
    said(&highline, Level::Warning, "the authority's key is on this node");
    let mut late = host.node(&highline, &[]);
    late.now += std::time::Duration::from_secs(280 * 86_400);
    let report = check(&late);
    assert!(report.to_string().contains("days left\n           -> renew it"), "{report}");
    late.now += std::time::Duration::from_secs(280 * 86_400);
    assert!(check(&late).to_string().contains(" expired on "));
    let role = highline.replace("[sst]", "ssl_client_cert=/donor.pem\nssl_client_key=/donor.pem\n[sst]");
    said(&role, Level::Error, "the certificate file /donor.pem does not exist");
    let other = AuthorityDir::new(host.dir.path().join("other"));
    other.create("Other CA", 30, NewKey::default(), Existing::Refuse, SystemTime::now()).unwrap();
    std::fs::copy(other.ca_file(), at("ca.pem")).unwrap();
    said(&highline, Level::Error, "was issued by \"CN=Lab CA\", which is not among the authorities in");
    said(&highline, Level::Warning, "the authority \"CN=Other CA\" has ");
    std::fs::copy(other.ca_key_file(), at("node1-key.pem")).unwrap();
    said(&highline, Level::Error, "is not the key of the certificate in");
    said(
        "ssl_cert=/missing.pem\nssl_key=/missing.pem\n",
        Level::Error,
        "the certificate file /missing.pem does not exist",
    );
}

#[test]
fn clients_and_replication_are_judged() {
    let host = Host::new();
    for (text, level, says) in [
        ("", Level::Warning, "no TLS: ssl_cert and ssl_key are not set"),
        ("ssl_cert=/c.pem\n", Level::Error, "ssl_cert is set, ssl_key is not, and the file does not contain both"),
        ("FILESskip_ssl\n", Level::Warning, "TLS is off (skip-ssl)"),
        ("FILES", Level::Note, "clients may still connect without TLS"),
        ("tls_version=TLSv1.1,TLSv1.2\n", Level::Warning, "tls_version allows TLSv1.1"),
        ("", Level::Warning, "replication is not encrypted"),
        ("GALERA", Level::Ok, "replication and IST are encrypted"),
        ("GALERA", Level::Note, "Galera verifies the chain but no name"),
        (
            "wsrep_provider_options=\"socket.ssl_cert=/c.pem\"\n",
            Level::Error,
            "socket.ssl_cert is set but socket.ssl_key is not",
        ),
        (
            "wsrep_provider_options=\"socket.ssl_cert=/c.pem;socket.ssl_key=/k.pem\"\n",
            Level::Error,
            "socket.ssl_ca is not set",
        ),
        (
            "wsrep_provider_options=\"socket.ssl=no;socket.ssl_cert=/c;socket.ssl_key=/k\"\n",
            Level::Error,
            "socket.ssl turns TLS off",
        ),
        ("wsrep_provider_options=\"socket.dynamic=true\"\n", Level::Warning, "lets in nodes without TLS"),
        ("wsrep_provider_options=\"socket.ssl_cipher=AES128-SHA\"\n", Level::Warning, "socket.ssl_cipher=AES128-SHA"),
        (
            "wsrep_provider_options=\"socket.ssl_cert=/c;socket.ssl_key=/k;socket.ssl_ca=/a;socket.ssl_password_file=/p\"\n",
            Level::Note,
            "its key has a passphrase",
        ),
        ("wsrep_provider=none\n", Level::Note, "this is not a Galera node"),
        ("wsrep_on=OFF\n", Level::Warning, "wsrep_on is OFF, the default: Galera is not active"),
        (
            "wsrep_provider=/no/such.so\n",
            Level::Error,
            "wsrep_provider=/no/such.so does not exist: the server does not start",
        ),
        ("wsrep_on=OFF\nwsrep_provider=/no/such.so\n", Level::Warning, "wsrep_provider=/no/such.so does not exist"),
        (
            "pxc_encrypt_cluster_traffic=ON\n",
            Level::Warning,
            "pxc-encrypt-cluster-traffic in [mysqld] is an option of Percona XtraDB Cluster",
        ),
        (
            "wsrep_provider_options=\"gcache.size=1G;\nsocket.ssl_cert=/c;socket.ssl_key=/k\"\n",
            Level::Error,
            "wsrep-provider-options in [mysqld]: its quote is not closed on its line",
        ),
        ("wsrep_provider_options=“socket.ssl=yes”\n", Level::Error, "it contains the typographic quote “"),
        (
            "GALERA[mariadb]\nwsrep_provider_options=pc.weight=2\n",
            Level::Warning,
            "wsrep_provider_options is given 2 times, but only the last, in [mariadb], counts: socket.ssl_cert, socket.ssl_key, socket.ssl_ca of an earlier one have no effect",
        ),
        ("ssl_ca=“/ca.pem”\n", Level::Warning, "ssl-ca in [mysqld]: the typographic quote “ does not quote anything"),
    ] {
        let text = text.replace("FILES", FILES).replace("GALERA", GALERA);
        let report = check(&host.node(&text, &[]));
        let found = report.findings.iter().any(|finding| finding.level == level && finding.text.contains(says));
        assert!(found, "{text}: {level:?} {says}\n{report}");
    }
}

#[test]
fn the_two_stock_configurations_do_not_pass() {
    let host = Host::new();
    let rsync = check(&host.node(FILES, &["stunnel"]));
    assert_eq!(rsync.exit_code(), 2, "{rsync}");
    let backup = check(&host.node("wsrep_sst_method=mariabackup\n", &[]));
    assert_eq!(backup.exit_code(), 1, "{backup}");
}

#[test]
fn what_the_server_has_of_its_own_among_the_data_is_warned_of() {
    let host = Host::new();
    std::fs::create_dir(host.dir.path().join("data/tmp")).unwrap();
    for (text, says) in [
        ("tmpdir=tmp\n", "tmpdir: DIR/data/tmp is among the data"),
        ("general_log_file=DIR/data/shop/g\n", "general-log-file: DIR/data/shop/g is among the data"),
        ("wsrep_provider_options=\"gcache.dir=DIR/data/gc\"\n", "gcache.dir: DIR/data/gc/galera.cache is among"),
        ("[highline]\nprogress=DIR/data/progress\n", "progress: DIR/data/progress is among the data"),
        ("[highline]\nmetrics=h.prom\n", "metrics: DIR/data/h.prom is among the data"),
        ("[client]\nssl-key=DIR/data/c-key\n", "ssl-key: DIR/data/c-key is among the data"),
    ] {
        let report = host.transfer(&format!("wsrep_sst_method=highline\n{text}"), &[]);
        let says = says.replace("DIR", host.dir.path().to_str().unwrap());
        let found = report.findings.iter().find(|finding| finding.text.starts_with(&says));
        let found = found.unwrap_or_else(|| panic!("{text}: {report}"));
        assert_eq!(found.level, Level::Warning);
        assert!(found.remedy.as_ref().unwrap().ends_with("to a path outside the data directory"));
    }
    std::fs::write(host.dir.path().join("data/tmp/t.ibd"), "").unwrap();
    let report = host.transfer("wsrep_sst_method=highline\ntmpdir=tmp\n", &[]);
    assert!(report.to_string().contains("and it holds tables"), "{report}");
    let plain = host.transfer("wsrep_sst_method=highline\ntmpdir=DIR\n", &[]);
    assert!(!plain.to_string().contains("is among the data"), "{plain}");
}
