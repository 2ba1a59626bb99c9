//! What `highline certs` makes secures a real cluster: clients, replication and state transfer; and `highline check`
//! agrees with what the servers do, here and in other clusters.

use crate::support::cluster::Cluster;
use crate::support::command::{bounded, run, succeed, text};
use crate::support::template::own;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn highline() -> Command {
    let mut command = bounded(LIMIT, env!("CARGO_BIN_EXE_highline"));
    // What the server would find: this program and its wrapper first.
    let program = Path::new(env!("CARGO_BIN_EXE_highline")).parent().unwrap();
    let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{}:{path}", program.display(), wrapper.display()));
    command
}

/// Makes an authority and two nodes' certificates, and gives each node its own three files.
fn give_certificates(cluster: &Cluster, authority: &Path, key: &[&str]) -> [PathBuf; 2] {
    let certs = |words: &[&str]| succeed(highline().arg("certs").args(words).arg("--dir").arg(authority));
    certs(&[&["ca", "--name", "Lab CA"], key].concat());
    [1, 2].map(|n| {
        let name = format!("node{n}");
        let made = certs(&[&["node", &name, "--ip", &cluster.address(n)], key].concat());
        assert!(made.contains("[mysqld]") && made.contains("wsrep_provider_options") && made.contains("[highline]"));
        let folder = cluster.folder(n).join("tls");
        std::fs::create_dir(&folder).unwrap();
        own(&folder);
        for file in ["ca.pem".to_owned(), format!("{name}.pem"), format!("{name}-key.pem")] {
            std::fs::copy(authority.join(&file), folder.join(&file)).unwrap();
            own(&folder.join(&file));
        }
        folder
    })
}

/// A cluster of two with TLS everywhere, not started. `key` chooses the kind of key.
fn secured(method: &str, authority: &Path, key: &[&str]) -> Cluster {
    let mut cluster = Cluster::plan(2, method)
        .server("ssl_ca={node}/tls/ca.pem")
        .highline("ssl-mode=VERIFY_IDENTITY")
        .highline("ca={node}/tls/ca.pem")
        .build();
    for (n, folder) in (1..).zip(give_certificates(&cluster, authority, key)) {
        let at = |file: &str| folder.join(file).display().to_string();
        let (cert, key, ca) = (at(&format!("node{n}.pem")), at(&format!("node{n}-key.pem")), at("ca.pem"));
        let options = cluster.options(n);
        options.server.extend([format!("ssl_cert={cert}"), format!("ssl_key={key}")]);
        options.highline.extend([format!("cert={cert}"), format!("key={key}")]);
        options.provider.push(format!("socket.ssl_cert={cert};socket.ssl_key={key};socket.ssl_ca={ca}"));
        cluster.write_options(n);
    }
    cluster
}

/// `highline check` of a node: exit code and table.
fn check(cluster: &Cluster, n: usize, more: &[&str]) -> (Option<i32>, String) {
    let file = cluster.folder(n).join("my.cnf");
    let output = run(highline().arg("check").arg(format!("--defaults-file={}", file.display())).args(more));
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn serves_all_channels_with_tls(method: &str) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("certs");
    let mut cluster = secured(method, &authority, &[]);
    for n in [1, 2] {
        let (code, said) = check(&cluster, n, &[]);
        assert_eq!(code, Some(0), "node {n}\n{said}");
    }
    cluster.start(1);
    cluster.sql(1, "CREATE DATABASE lab; CREATE TABLE lab.t (id INT PRIMARY KEY); INSERT INTO lab.t VALUES (1), (2)");
    cluster.start(2);
    cluster.assert_equal_tables();

    let client = |ca: &Path| {
        let mut client = bounded(LIMIT, "mariadb");
        client.args([
            "--no-defaults",
            "-uroot",
            "-N",
            "--ssl-verify-server-cert",
            "-e",
            "SHOW STATUS LIKE 'Ssl_version'",
        ]);
        client.arg(format!("--host={}", cluster.address(2))).arg(format!("--ssl-ca={}", ca.display()));
        run(&mut client)
    };
    let accepted = client(&authority.join("ca.pem"));
    assert!(text(&accepted.stdout).contains("TLSv1.3"), "{accepted:?}");
    let strange = dir.path().join("strange");
    succeed(highline().args(["certs", "ca", "--dir"]).arg(&strange));
    let refused = client(&strange.join("ca.pem"));
    assert!(text(&refused.stderr).contains("TLS/SSL error"), "{refused:?}");

    let (code, said) = check(&cluster, 1, &["--peer", &format!("{}:4567", cluster.address(2))]);
    assert!(said.contains("certificate \"CN=node2\"") && said.contains("it is signed by an authority in"), "{said}");
    assert_eq!(code, Some(0), "{said}");
    cluster
}

#[test]
fn a_stock_method_runs_on_what_certs_made() {
    serves_all_channels_with_tls("rsync");
}

#[test]
fn highline_runs_on_what_certs_made() {
    let cluster = serves_all_channels_with_tls("highline");
    let (donor, joiner) = (cluster.log(1), cluster.log(2));
    assert!(donor.contains("peer \"CN=node2\" verified by pin, chain and name"), "{donor}");
    assert!(joiner.contains("peer \"CN=node1\" verified by chain"), "{joiner}");

    // With the servers running: they are found, and judged by what they pass to their scripts.
    let (code, said) = check(&cluster, 2, &[]);
    assert!(code == Some(0) && said.contains("has the permissions that a transfer needs"), "{said}");
}

/// mariadb-backup's script silently treats VERIFY_CA without a CA as no verification; `check` reports it.
#[test]
fn a_silent_fault_of_a_stock_method_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = secured("mariabackup", &dir.path().join("certs"), &["--rsa", "2048"]);
    for n in [1, 2] {
        let at = |file: String| cluster.folder(n).join("tls").join(file).display().to_string();
        let (cert, key) = (at(format!("node{n}.pem")), at(format!("node{n}-key.pem")));
        let options = cluster.options(n);
        options.server.push("wsrep_sst_auth=root:".to_owned());
        options.sst.extend(["ssl-mode=VERIFY_CA".to_owned(), format!("tcert={cert}"), format!("tkey={key}")]);
        cluster.write_options(n);
    }
    let (code, said) = check(&cluster, 1, &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("ssl-mode=VERIFY_CA without a CA: the script verifies nothing (verify=0)"), "{said}");
    cluster.start(1);
    cluster.start(2);
    assert!(cluster.log(1).contains(",verify=0"), "the server's own log shows it:\n{}", cluster.log(1));
}
