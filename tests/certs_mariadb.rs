//! What `certs` makes is accepted by a real MariaDB server, its client and Galera's provider.
//!
//! Needs `mariadbd`, `mariadb-install-db`, `mariadb` and the Galera provider; without them it says so and passes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use highline::check::{Report, peer};
use highline::tls::authority::{AuthorityDir, NewKey, NodeRequest};
use highline::tls::safe_file::Existing;
use highline::tls::{Authorities, Identity};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

struct Server {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    group_port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((ADDRESS, 0)).unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Server {
    fn start(key: NewKey) -> Server {
        let dir = tempfile::Builder::new().prefix("highline-certs").tempdir_in("/tmp").unwrap();
        if is_root() {
            let chown = Command::new("chown").arg("mysql:").arg(dir.path()).status().unwrap();
            assert!(chown.success());
        }
        let certs = AuthorityDir::new(dir.path().join("certs"));
        certs.create("Lab CA", 3650, key, Existing::Refuse, SystemTime::now()).unwrap();
        let request = NodeRequest {
            name: "node1".parse().unwrap(),
            dns: Vec::new(),
            addresses: vec![ADDRESS.into()],
            days: 365,
            key,
            replace_key: false,
        };
        certs.sign(&request, SystemTime::now()).unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        // The files belong to the directory's owner; so does this one, or the server could not enter it.
        if is_root() {
            let chown = Command::new("chown").args(["-R", "mysql:", &at("certs")]).status().unwrap();
            assert!(chown.success());
        }
        let install = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", &format!("--datadir={}", at("data"))])
            .args(is_root().then_some("--user=mysql"))
            .output()
            .unwrap();
        assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));

        let (port, group, ist) = (free_port(), free_port(), free_port());
        let (cert, key, ca) = (at("certs/node1.pem"), at("certs/node1-key.pem"), at("certs/ca.pem"));
        let child = Command::new("mariadbd")
            .arg("--no-defaults")
            .args(is_root().then_some("--user=mysql"))
            .args([
                format!("--datadir={}", at("data")),
                format!("--socket={}", at("s")),
                format!("--pid-file={}", at("pid")),
                format!("--log-error={}", at("log.err")),
                format!("--port={port}"),
                format!("--bind-address={ADDRESS}"),
                format!("--ssl-cert={cert}"),
                format!("--ssl-key={key}"),
                format!("--ssl-ca={ca}"),
                "--wsrep-on=ON".into(),
                "--binlog-format=row".into(),
                "--innodb-autoinc-lock-mode=2".into(),
                "--innodb-buffer-pool-size=32M".into(),
                format!("--wsrep-provider={PROVIDER}"),
                "--wsrep-new-cluster".into(),
                "--wsrep-cluster-address=gcomm://".into(),
                "--wsrep-sst-method=rsync".into(),
                format!("--wsrep-node-address={ADDRESS}"),
                format!(
                    "--wsrep-provider-options=socket.ssl_cert={cert};socket.ssl_key={key};socket.ssl_ca={ca};\
                     gmcast.listen_addr=ssl://{ADDRESS}:{group};ist.recv_addr=ssl://{ADDRESS}:{ist};gcache.size=16M"
                ),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, dir, port, group_port: group };
        server.wait_until_synced();
        server
    }

    fn wait_until_synced(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let state = Command::new("mariadb")
                .args(["--no-defaults", "--skip-ssl", "-uroot", "-N"])
                .arg(format!("--socket={}", self.path("s").display()))
                .args(["-e", "SHOW STATUS LIKE 'wsrep_local_state_comment'"])
                .output()
                .unwrap();
            if String::from_utf8_lossy(&state.stdout).contains("Synced") {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("the server did not start:\n{}", std::fs::read_to_string(self.path("log.err")).unwrap_or_default());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `check --peer` says about Galera's own port.
    fn look_at_replication(&self) -> String {
        let now = SystemTime::now();
        let at = |name: &str| self.path("certs").join(name);
        let identity = Identity::load(&at("node1.pem"), Some(&at("node1-key.pem")), now).unwrap();
        let authorities = Arc::new(Authorities::load(&[at("ca.pem")], &[]).unwrap());
        let mut report = Report::default();
        let address = format!("{ADDRESS}:{}", self.group_port);
        peer::look(&address, Some(&identity), Some(&authorities), now, &mut report).unwrap();
        report.to_string()
    }

    /// Connects by TLS, verifying chain and address, and returns what the client says.
    fn client(&self, ca: &Path) -> (bool, String) {
        let out = Command::new("mariadb")
            .args(["--no-defaults", "-uroot", "-N", "--ssl-verify-server-cert", "-h"])
            .arg(ADDRESS.to_string())
            .arg(format!("--port={}", self.port))
            .arg(format!("--ssl-ca={}", ca.display()))
            .args(["-e", "SHOW STATUS LIKE 'Ssl_version'"])
            .output()
            .unwrap();
        let said = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

#[test]
fn a_real_server_serves_clients_and_replication_with_them() {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !there("mariadbd") || !there("mariadb") || !Path::new(PROVIDER).exists() {
        eprintln!("skipped: needs mariadbd, mariadb and {PROVIDER}");
        return;
    }
    for key in [NewKey::EcdsaP256, NewKey::Rsa2048] {
        let server = Server::start(key);
        let (accepted, said) = server.client(&server.path("certs/ca.pem"));
        assert!(accepted && said.contains("TLSv1.3"), "{said}");
        let other = AuthorityDir::new(server.path("other"));
        other.create("Other CA", 30, key, Existing::Refuse, SystemTime::now()).unwrap();
        let (accepted, said) = server.client(&other.ca_file());
        assert!(!accepted && said.contains("TLS/SSL error"), "{said}");
        let seen = server.look_at_replication();
        assert!(seen.contains("certificate \"CN=node1\"") && seen.contains("it is of an authority in"), "{seen}");
        assert_eq!(seen.lines().last(), Some("0 errors, 0 warnings"), "{seen}");
        let log = std::fs::read_to_string(server.path("log.err")).unwrap();
        assert!(log.contains("ssl://"), "replication must be on TLS:\n{log}");
    }
}
