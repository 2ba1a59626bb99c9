//! Certificates that are not valid: refused on both sides, explained, and the donor unharmed.

use crate::support::cluster::Cluster;
use crate::support::template::own;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::time::{Duration, SystemTime};

const LIMIT: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// Gives node `n` a certificate for `address` that ends at `end`, and this authority as its only one.
    fn equip(&self, cluster: &mut Cluster, n: usize, address: &str, end: SystemTime) {
        let mut params = CertificateParams::new([address.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("node{n}"));
        params.not_before = (SystemTime::now() - 10 * DAY).into();
        params.not_after = end.into();
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap().pem();
        let folder = cluster.folder(n).join("tls");
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in [("cert.pem", &made), ("key.pem", &key.serialize_pem()), ("ca.pem", &self.pem)] {
            std::fs::write(folder.join(file), text).unwrap();
        }
        std::fs::set_permissions(folder.join("key.pem"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        own(&folder);
    }
}

/// Node 2 starts and fails; returns what each side reported as an error or a warning.
fn refused(cluster: &mut Cluster) -> [Vec<String>; 2] {
    let before = [1, 2].map(|n| cluster.log(n).len());
    let runs = [1, 2].map(|n| cluster.script_times(n).len());
    cluster.start_expecting_failure(2, LIMIT);
    for n in [1, 2] {
        cluster.wait_scripts_gone(n, LIMIT);
        for run in cluster.script_times(n).into_iter().skip(runs[n - 1]) {
            let took = run.took().unwrap();
            // The joiner's lives as long as its server, which learns it from the cluster; it checks once a second.
            let limit = if run.is_joiner() { 3000 } else { 1500 };
            assert!(took < Duration::from_millis(limit), "{run:?} took {took:?}");
        }
    }
    cluster.wait_synced(1, LIMIT);
    cluster.sql(1, "REPLACE INTO lab.t VALUES (1)");
    [1, 2].map(|n| {
        let log = cluster.log(n).get(before[n - 1]..).unwrap_or_default().to_owned();
        let errors = log.lines().filter(|line| line.contains("] Highline") && !line.contains("[Note]"));
        errors.map(str::to_owned).collect()
    })
}

fn assert_said(said: &[String], words: &str) {
    assert!(said.iter().any(|line| line.contains(words)), "{words:?} is not in {said:#?}");
}

#[test]
fn what_cannot_be_trusted_is_refused_on_both_sides() {
    let mut cluster = Cluster::plan(2, "highline")
        .highline("ca={node}/tls/ca.pem")
        .highline("cert={node}/tls/cert.pem")
        .highline("key={node}/tls/key.pem")
        .build();
    let [first, second] = [1, 2].map(|n| cluster.address(n));
    let (ours, strange) = (Authority::new("Ours"), Authority::new("Strange"));
    let later = SystemTime::now() + 30 * DAY;
    let past = SystemTime::now() - DAY;
    ours.equip(&mut cluster, 1, &first, later);
    cluster.start(1);
    cluster.sql(1, "CREATE DATABASE lab; CREATE TABLE lab.t (id INT PRIMARY KEY)");
    for mode in ["VERIFY_CA", "VERIFY_IDENTITY"] {
        for n in 1..=2 {
            cluster.options(n).highline.retain(|line| !line.starts_with("ssl-mode"));
            cluster.options(n).highline.push(format!("ssl-mode={mode}"));
            cluster.write_options(n);
        }
        ours.equip(&mut cluster, 1, &first, later);
        strange.equip(&mut cluster, 2, &second, later);
        let [donor, joiner] = refused(&mut cluster);
        assert_said(&donor, "not among the authorities");
        assert_said(&joiner, "refused our certificate");

        ours.equip(&mut cluster, 2, &second, past);
        let [_, joiner] = refused(&mut cluster);
        assert_said(&joiner, "expired");

        ours.equip(&mut cluster, 1, &first, past);
        ours.equip(&mut cluster, 2, &second, later);
        let [donor, joiner] = refused(&mut cluster);
        assert_said(&donor, "expired");
        assert_said(&joiner, "see the donor's log");
    }
    strange.equip(&mut cluster, 1, &first, later);
    std::fs::write(cluster.folder(1).join("tls/ca.pem"), &ours.pem).unwrap();
    // A donor that every joiner would refuse says so itself.
    let [donor, joiner] = refused(&mut cluster);
    assert_said(&donor, "our own certificate in ");
    assert_said(&donor, "issued by \"CN=Strange\", which is not among the authorities");
    assert_said(&joiner, "see the donor's log");

    // So does a joiner, before it has said ready.
    ours.equip(&mut cluster, 1, &first, later);
    ours.equip(&mut cluster, 2, "127.9.9.9", later);
    let [donor, joiner] = refused(&mut cluster);
    assert_eq!(donor, [] as [String; 0]);
    assert_said(&joiner, &format!("is not for {second}, the address that other nodes connect to; it has 127.9.9.9"));

    // If peer-name is set, it cannot know what the donor asks for.
    cluster.options(2).highline.push(format!("peer-name={first}"));
    cluster.write_options(2);
    let [donor, joiner] = refused(&mut cluster);
    assert_said(&donor, "is for another host");
    assert_said(&joiner, "refused our certificate");
    ours.equip(&mut cluster, 2, &second, later);
    cluster.start(2);
    cluster.assert_equal_tables();
}
