//! What `highline check` says about a transfer, and what the transfer then does: for our own method, and for two of the
//! server's own by their scripts. Both ends run here, as the cluster would start them; no server does.

use crate::support::command::{bounded, run, server_user, succeed, text};
use crate::support::template::{own, scratch};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant, SystemTime};

const LIMIT: Duration = Duration::from_secs(20);
const GTID: &str = "848c3c55-e803-11f1-bdd2-6275f5042ecd:5";
const DAY: Duration = Duration::from_secs(86_400);

/// What becomes of a transfer between two nodes with this option file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Works,
    /// It works, but is less safe than the options ask for.
    Weaker,
    /// The joiner ends before it says `ready`: its server keeps its position.
    EndsBefore,
    /// It fails on either side, at any time.
    Fails,
}
use Fate::{EndsBefore, Fails, Weaker, Works};

/// A host with two data directories and all sorts of certificates.
struct Host {
    dir: tempfile::TempDir,
    address: &'static str,
    method: &'static str,
    /// The ports of the rows begin here: not at 4444, where other tests may listen on every address.
    ports: usize,
}

fn highline() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_highline"))
}

/// The program and the wrapper, before all others in PATH.
fn path() -> String {
    let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    format!("{}:{}:{}", highline().parent().unwrap().display(), wrapper.display(), std::env::var("PATH").unwrap())
}

impl Host {
    fn new(method: &'static str, address: &'static str, ports: usize) -> Host {
        let host = Host { dir: scratch("highline-transfers-"), address, method, ports };
        std::fs::create_dir(host.at("tls")).unwrap();
        host.make_certificates();
        own(&host.at("tls"));
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `good` (with its address, and with `localhost`), and what is wrong in one way each.
    fn make_certificates(&self) {
        let authority = |name: &str| {
            let mut params = CertificateParams::new([]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
            let key = KeyPair::generate().unwrap();
            let made = params.self_signed(&key).unwrap().pem();
            self.write("tls", name, &made, &key);
            (params, key, made)
        };
        let (params, key, ca) = authority("ca");
        let issuer = Issuer::from_params(&params, &key);
        authority("other");
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let node = |name: &str, common: &str, names: &[&str], usages: &[ExtendedKeyUsagePurpose], end: i32| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, common);
            params.extended_key_usages = usages.to_vec();
            let now = SystemTime::now();
            params.not_before = (now - 30 * DAY).into();
            let days = DAY * end.unsigned_abs();
            params.not_after = if end < 0 { now - days } else { now + days }.into();
            let key = KeyPair::generate().unwrap();
            self.write("tls", name, &params.signed_by(&key, &issuer).unwrap().pem(), &key);
        };
        let names = [self.address, "localhost", "node1"];
        node("good", "node1", &names, &both, 60);
        node("plain", "node1", &names, &[], 60);
        node("client", "node1", &names, &both[1..], 60);
        node("server", "node1", &names, &both[..1], 60);
        node("expired", "node1", &names, &both, -1);
        node("nameless", "node1", &[], &both, 60);
        node("elsewhere", "node1", &["192.0.2.9", "node1"], &both, 60);
        node("spaced", "node 1", &names, &both, 60);
        let file = |name: &str| self.at("tls").join(name);
        std::fs::copy(file("other-key.pem"), file("foreign-key.pem")).unwrap();
        std::fs::copy(file("good.pem"), file("foreign.pem")).unwrap();
        let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
        std::fs::write(file("bundle.pem"), read("good.pem") + &read("good-key.pem")).unwrap();
        std::fs::write(file("pinned.pem"), ca + &read("good.pem") + &read("nameless.pem")).unwrap();
        std::fs::write(file("empty.pem"), "").unwrap();
        for directory in ["hashed", "bare"] {
            std::fs::create_dir(file(directory)).unwrap();
            std::fs::copy(file("ca.pem"), file(directory).join("ca.pem")).unwrap();
        }
        self.openssl("rehash hashed");
        self.openssl("genrsa -out v1-key.pem 2048");
        self.openssl("req -new -key v1-key.pem -subj /CN=node1 -out v1.csr");
        self.openssl("x509 -req -in v1.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 30 -out v1.pem");
        self.openssl("pkey -in good-key.pem -aes256 -passout pass:x -out locked-key.pem");
        std::fs::copy(file("good.pem"), file("locked.pem")).unwrap();
        for entry in std::fs::read_dir(self.at("tls")).unwrap() {
            let path = entry.unwrap().path();
            let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            if path.is_file() {
                std::fs::set_permissions(path, closed).unwrap();
            }
        }
    }

    fn write(&self, folder: &str, name: &str, certificate: &str, key: &KeyPair) {
        std::fs::write(self.at(folder).join(format!("{name}.pem")), certificate).unwrap();
        std::fs::write(self.at(folder).join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }

    fn openssl(&self, line: &str) {
        succeed(bounded(LIMIT, "openssl").args(line.split(' ')).current_dir(self.at("tls")));
    }

    /// `T/` in `options` is the folder of certificates, a space is the end of a line, and `~` is a space.
    fn write_options(&self, options: &str, port: usize) {
        for folder in ["joiner", "donor", "run"] {
            let _ = std::fs::remove_dir_all(self.at(folder));
            std::fs::create_dir(self.at(folder)).unwrap();
        }
        for (from, to) in [("ca.pem", "ca.pem"), ("good.pem", "cert.pem"), ("good-key.pem", "key.pem")] {
            for folder in ["joiner", "donor"] {
                std::fs::copy(self.at("tls").join(from), self.at(folder).join(to)).unwrap();
            }
        }
        for folder in ["joiner", "donor", "run"] {
            own(&self.at(folder));
        }
        let mut text = format!(
            "[mysqld]\nwsrep_on=ON\nwsrep_provider=/usr/lib/galera/libgalera_smm.so\nwsrep_sst_method={}\n\
             wsrep_sst_receive_address={}:{port}\ndatadir={}\n",
            self.method,
            self.address,
            self.at("joiner").display()
        );
        for line in options.replace("T/", &format!("{}/", self.at("tls").display())).split(' ') {
            text.push_str(&line.replace('~', " "));
            text.push('\n');
        }
        std::fs::write(self.at("my.cnf"), text).unwrap();
    }

    /// Whether `check` reports an error about transfers or their certificates, and what it says.
    fn check(&self) -> (bool, String) {
        let file = format!("--defaults-file={}", self.at("my.cnf").display());
        let output = run(bounded(LIMIT, highline()).args(["check", "--json", &file]).env("PATH", path()));
        let said = text(&output.stdout);
        let object: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        let findings = object["findings"].as_array().unwrap();
        let of_transfers = |channel: &serde_json::Value| channel == "state-transfer" || channel == "certificates";
        let error = findings.iter().any(|found| found["level"] == "error" && of_transfers(&found["channel"]));
        (error || object["failure"].is_object(), said)
    }

    /// The method in one role, as the server would start it, but for the server. `bypass` makes both ends meet, with all
    /// of TLS, and moves the position alone.
    fn role(&self, role: &str, words: &[&str], auth: &str) -> Child {
        let mut line: Vec<String> = Vec::new();
        if let Some(user) = server_user() {
            line.extend([format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()]);
        }
        line.push(format!("wsrep_sst_{}", self.method));
        let file = self.at("my.cnf").display().to_string();
        let datadir = format!("{}/", self.at(role).display());
        let parent = std::process::id().to_string();
        let common = ["--role", role, "--datadir", &datadir, "--defaults-file", &file, "--parent", &parent];
        line.extend(common.iter().chain(words).map(|word| (*word).to_owned()));
        let out = |suffix: &str| File::create(self.at(&format!("run/{role}.{suffix}"))).unwrap();
        // Without root nobody changes the user, and `env` runs the method as it is.
        let through = if server_user().is_some() { "setpriv" } else { "env" };
        let mut command: Command = bounded(LIMIT, through);
        command.args(line).env("PATH", path()).current_dir(self.at(role));
        if !auth.is_empty() {
            command.env("WSREP_SST_OPT_REMOTE_AUTH", auth);
        }
        command.stdin(std::process::Stdio::null()).stdout(out("out")).stderr(out("err")).spawn().unwrap()
    }

    fn said(&self, name: &str) -> String {
        text(&std::fs::read(self.at("run").join(name)).unwrap_or_default())
    }

    /// What becomes of it, and the joiner, whose group may not be empty yet.
    fn transfer(&self, port: usize) -> (Fate, Child) {
        let address = format!("{}:{port}", self.address);
        let mut joiner = self.role("joiner", &["--address", &address], "");
        let end = Instant::now() + LIMIT;
        let ready = loop {
            let said = self.said("joiner.out");
            if let Some(line) = said.lines().find_map(|line| line.strip_prefix("ready ")) {
                break line.to_owned();
            }
            if joiner.try_wait().unwrap().is_some() {
                return (EndsBefore, joiner);
            }
            assert!(Instant::now() < end, "{}", self.said("joiner.err"));
            std::thread::sleep(Duration::from_millis(20));
        };
        let (auth, to) = ready.rsplit_once('@').unwrap_or(("", &ready));
        // The donor's server is as strict (10.11.19).
        let plain = |half: &str| half.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let cancelled = !auth.split(':').all(plain);
        let donated = !cancelled && {
            let socket = self.at("run/s").display().to_string();
            let words = ["--address", to, "--gtid", GTID, "--gtid-domain-id", "0", "--bypass"];
            let more = ["--local-port", "3306", "--socket", &socket];
            let mut donor = self.role("donor", &[&words[..], &more[..]].concat(), auth);
            donor.wait().unwrap().success()
        };
        // The test does not wait for one that waits for another donor, or for data that never comes.
        let patience = Instant::now() + if donated { Duration::from_secs(8) } else { Duration::ZERO };
        let joined = loop {
            if let Some(status) = joiner.try_wait().unwrap() {
                break status.success();
            }
            if Instant::now() > patience {
                break false;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        (if donated && joined && self.said("joiner.out").contains(GTID) { Works } else { Fails }, joiner)
    }

    fn walk(&self, rows: &[(&str, Fate)]) {
        let mut wrong = Vec::new();
        for ((options, fate), port) in rows.iter().zip(self.ports..) {
            // One each: what a row's connections leave behind must not affect the next one.
            self.write_options(options, port);
            let (error, said) = self.check();
            let (seen, mut joiner) = self.transfer(port);
            end_group(&mut joiner);
            let as_told = seen == *fate || (*fate, seen) == (Fails, EndsBefore) || (*fate, seen) == (Weaker, Works);
            if !as_told || error == (*fate == Works) {
                let logs = [self.said("joiner.err"), self.said("donor.err")];
                wrong.push(format!("{options}: {seen:?} for {fate:?}\ncheck: {said}\n{}", logs.join("\n")));
            }
        }
        assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n----\n"));
    }
}

/// `timeout` made a group of its own for what it runs.
fn end_group(child: &mut Child) {
    let group = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
    let _ = child.wait();
}

/// Certificate, key and CA in `[sst]` under their old names.
macro_rules! old {
    ($name:literal, $ca:literal) => {
        concat!("tcert=T/", $name, ".pem tkey=T/", $name, "-key.pem tca=T/", $ca)
    };
}

#[test]
fn ours_does_what_check_says() {
    Host::new("highline", "127.0.85.11", 24_000).walk(&[
        ("", Works),
        // What asks for less.
        ("[sst] ssl-mode=DISABLED encrypt=0", Works),
        ("loose-ssl-mode=DISABLED", Works),
        ("[mariabackup] ssl-mode=PREFERRED", Works),
        ("[highline] ssl-mode=DISABLED", EndsBefore),
        ("[sst] encrypt=1", Works),
        ("[sst] encrypt=9", EndsBefore),
        ("[sst] ssl-mode=VERIFY", EndsBefore),
        ("[sst] sockopt=,verify=0", Works),
        // Which certificates.
        ("[sst] encrypt=3 tcert=T/bundle.pem", Works),
        (concat!("[sst] encrypt=4 ", old!("good", "ca.pem")), Works),
        ("[sst] encrypt=4 tcert=T/bundle.pem", EndsBefore),
        ("[sst] encrypt=4 tca=T/ca.pem", EndsBefore),
        ("[sst] encrypt=2 tcert=T/bundle.pem tca=T/ca.pem", Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("plain", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("nameless", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("spaced", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "bare")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "hashed")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("v1", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("ca", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("client", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("server", "ca.pem")), Fails),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("expired", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("foreign", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("locked", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "other.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "empty.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("none", "none.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ssl-crl=T/none.pem ", old!("good", "ca.pem")), EndsBefore),
        (
            concat!(
                "[sst] ssl-mode=VERIFY_CA ",
                old!("v1", "ca.pem"),
                " [highline] cert=T/good.pem key=T/good-key.pem"
            ),
            Works,
        ),
        ("[sst] ssl-mode=VERIFY_CA tcert=cert.pem tkey=key.pem tca=ca.pem", Works),
        ("[highline] ssl-mode=REQUIRED cert=T/none.pem key=T/none.pem", Works),
        ("[highline] cert=T/v1.pem key=T/v1-key.pem", Works),
        (
            "[sst] ssl-mode=VERIFY_CA ssl-server-cert=T/server.pem ssl-server-key=T/server-key.pem \
             ssl-client-cert=T/client.pem ssl-client-key=T/client-key.pem ssl-ca=T/ca.pem",
            Works,
        ),
        (
            "wsrep_provider_options=socket.ssl_cert=T/good.pem;socket.ssl_key=T/good-key.pem;socket.ssl_ca=T/ca.pem \
             [mariabackup] ssl-mode=VERIFY_CA",
            Works,
        ),
        ("[mariabackup] ssl-mode=VERIFY_CA", EndsBefore),
        // Whose names.
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("good", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("nameless", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("elsewhere", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("elsewhere", "ca.pem"), " [highline] peer-name=node1"), Works),
        (
            concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("elsewhere", "ca.pem"), " sockopt=,commonname='node1'"),
            Works,
        ),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("good", "ca.pem"), " sockopt=\",commonname=''\""), Works),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("good", "ca.pem"), " sockopt=,commonname=a~b"), EndsBefore),
        ("[highline] peer-name=a~b", EndsBefore),
        // The rest.
        ("[highline] listen=127.0.85.11", Works),
        ("[highline] listen=192.0.2.99", EndsBefore),
        ("[highline] listen=a:b:c", EndsBefore),
        ("[highline] lanes=0", EndsBefore),
        ("[highline] lane=4", EndsBefore),
        ("[highline] install=never", EndsBefore),
        ("[highline] idle-timeout=soon", EndsBefore),
        ("[highline] keep=a/b", EndsBefore),
        ("[highline] rate-limit=fast", Fails),
        ("[highline] compress=zip", Fails),
        ("[sst] rlimit=fast", Fails),
        ("[sst] sst-max-binlogs=x", Fails),
        ("[sst] compressor=qpress~-io decompressor=qpress~-dio", Works),
        ("[sst] cpat=.*[a]", EndsBefore),
        ("[highline] ssl-cipher=AES128-SHA", EndsBefore),
        ("ssl_cipher=AES128-SHA tls_version=TLSv1.2", Works),
        ("[sst] sockopt=,cipher=AES128-SHA", Works),
        ("[sst] tls-version=TLSv1.2", EndsBefore),
    ]);
}

#[test]
fn mariabackup_does_what_check_says_of_ssl_mode() {
    Host::new("mariabackup", "127.0.85.12", 24_100).walk(&[
        ("", Works),
        (concat!("[sst] ", old!("good", "ca.pem")), Weaker),
        ("[sst] ssl-mode=VERIFY_CA tcert=T/good.pem tkey=T/good-key.pem", Weaker),
        ("[sst] ssl-mode=REQUIRED tcert=T/good.pem tkey=T/good-key.pem", Works),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("good", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY ", old!("good", "ca.pem")), EndsBefore),
        ("[sst] ssl-mode=VERIFY_CA", EndsBefore),
        ("[sst] ssl-mode=VERIFY_CA tca=T/ca.pem", EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("v1", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("ca", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("client", "ca.pem")), Fails),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("server", "ca.pem")), Fails),
    ]);
}

#[test]
fn mariabackup_does_what_check_says_of_certificates() {
    Host::new("mariabackup", "127.0.85.14", 24_200).walk(&[
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("expired", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("foreign", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("locked", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "other.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("none", "none.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "bare")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "hashed")), Works),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("spaced", "ca.pem")), Fails),
        (concat!("[sst] ssl-mode=VERIFY_CA ", old!("good", "ca.pem"), " sockopt=,verify=0"), Works),
        ("[mariabackup] ssl-mode=VERIFY_CA ssl-cert=T/good.pem ssl-key=T/good-key.pem ssl-ca=T/ca.pem", Works),
        ("[sst] ssl-mode=VERIFY_CA tcert=cert.pem tkey=key.pem tca=ca.pem", EndsBefore),
        (
            "[sst] ssl-mode=VERIFY_CA ssl-server-cert=T/server.pem ssl-server-key=T/server-key.pem \
             ssl-client-cert=T/client.pem ssl-client-key=T/client-key.pem ssl-ca=T/ca.pem",
            Works,
        ),
    ]);
}

#[test]
fn mariabackup_does_what_check_says_of_encrypt() {
    Host::new("mariabackup", "127.0.85.15", 24_300).walk(&[
        (concat!("[sst] encrypt=4 ", old!("good", "ca.pem")), Works),
        (concat!("[sst] encrypt=4 ", old!("nameless", "ca.pem")), Works),
        ("[sst] encrypt=4 tca=T/ca.pem", EndsBefore),
        ("[sst] encrypt=4 tcert=T/bundle.pem", EndsBefore),
        ("[sst] encrypt=4 tcert=T/good.pem tkey=T/good-key.pem", EndsBefore),
        ("[sst] encrypt=3 tcert=T/bundle.pem", EndsBefore),
        ("[sst] encrypt=3 tcert=T/good.pem tkey=T/good-key.pem", Works),
        (concat!("[sst] encrypt=3 ", old!("good", "ca.pem")), Works),
        (concat!("[sst] encrypt=3 ", old!("nameless", "ca.pem")), Fails),
        (concat!("[sst] encrypt=3 ", old!("elsewhere", "ca.pem")), Fails),
        (concat!("[sst] encrypt=3 ", old!("nameless", "ca.pem"), " sockopt=\",commonname=''\""), Fails),
        ("[sst] sockopt=,verify=0", Fails),
        ("[sst] ssl-mode=REQUIRED sockopt=,verify=0 tcert=T/good.pem tkey=T/good-key.pem", Fails),
        ("[sst] encrypt=2 tcert=T/bundle.pem tca=T/ca.pem", Works),
        (concat!("[sst] encrypt=2 ", old!("good", "ca.pem")), Fails),
        ("[sst] encrypt=2 tca=T/ca.pem", EndsBefore),
        ("[sst] encrypt=1", Fails),
        ("[sst] encrypt=1 encrypt-algo=aes-256-cbc encrypt-key=x", Works),
        ("[sst] encrypt=9", EndsBefore),
        ("[sst] compressor=gzip decompressor=gzip~-dc", Works),
        ("[sst] compressor=no-such-program decompressor=no-such-program~-d", Fails),
    ]);
}

#[test]
fn rsync_does_what_check_says() {
    Host::new("rsync", "127.0.85.13", 24_400).walk(&[
        ("", Works),
        ("[sst] encrypt=4", Weaker),
        (concat!("[sst] ", old!("good", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=DISABLED ", old!("good", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=DISABLED ", old!("foreign", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=REQUIRED ", old!("good", "ca.pem")), Works),
        (concat!("[sst] ssl-mode=REQUIRED ", old!("good", "other.pem")), EndsBefore),
        ("[sst] ssl-mode=REQUIRED", Fails),
        ("[sst] ssl-mode=VERIFY_CA tcert=T/good.pem tkey=T/good-key.pem", EndsBefore),
        ("[sst] tca=T/ca.pem", Fails),
        ("[sst] tca=T/ca.pem tcert=T/good.pem", Fails),
        (concat!("[sst] ssl-mode=VERIFY ", old!("good", "ca.pem")), EndsBefore),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("good", "ca.pem")), Fails),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("good", "pinned.pem")), Works),
        (concat!("[sst] ssl-mode=VERIFY_IDENTITY ", old!("nameless", "pinned.pem")), Works),
        (concat!("[sst] ", old!("v1", "ca.pem")), Works),
        (concat!("[sst] ", old!("client", "ca.pem")), Fails),
        (concat!("[sst] ", old!("server", "ca.pem")), Fails),
        (concat!("[sst] ", old!("expired", "ca.pem")), EndsBefore),
        (concat!("[sst] ", old!("locked", "ca.pem")), EndsBefore),
        (concat!("[sst] ", old!("none", "none.pem")), EndsBefore),
        (concat!("[sst] ", old!("good", "bare")), EndsBefore),
        (concat!("[sst] ", old!("good", "hashed")), Works),
        (concat!("[sst] ", old!("spaced", "ca.pem")), Fails),
        (concat!("[sst] ", old!("good", "ca.pem"), " [mariabackup] ssl-mode=DISABLED"), Works),
    ]);
}
