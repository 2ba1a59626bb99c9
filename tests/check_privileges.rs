//! What `highline check` says about users, capabilities and mounts, compared with what the kernel does.

use crate::support::command::{bounded, run, server_user, succeed, text};
use crate::support::disk::SmallDisk;
use crate::support::template::{own, scratch};
use highline::donor::Abilities;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// A node's data directory, option file and certificate, and the account that owns them.
struct Node {
    dir: tempfile::TempDir,
    user: &'static str,
}

impl Node {
    /// `None` if this test's user is not root, who alone can become others.
    fn new() -> Option<Node> {
        let user = server_user()?;
        let dir = scratch("highline-check-");
        let at = |name: &str| dir.path().join(name);
        for folder in ["data", "data/shop", "tls"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        std::fs::write(at("data/ibdata1"), "a tablespace").unwrap();
        std::fs::set_permissions(at("data"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        succeed(highline().args(["certs", "ca", "--dir"]).arg(at("tls")));
        succeed(highline().args(["certs", "node", "node1", "--ip", "192.0.2.1", "--dir"]).arg(at("tls")));
        for folder in ["data", "tls"] {
            own(&at(folder));
        }
        let options = "[mysqld]\nwsrep_provider=/p.so\nwsrep_sst_method=highline\nwsrep_node_address=192.0.2.1\n\
            wsrep_sst_receive_address=192.0.2.1:47111\ndatadir=DIR/data\n[highline]\nssl-mode=VERIFY_CA\n\
            ca=DIR/tls/ca.pem\ncert=DIR/tls/node1.pem\nkey=DIR/tls/node1-key.pem\n";
        std::fs::write(at("my.cnf"), options.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        Some(Node { dir, user })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `highline check` under a program like setpriv: the findings that have to do with this host.
    fn check(&self, through: &[&str]) -> String {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_highline"));
        let words = through.iter().map(PathBuf::from).chain([program, "check".into()]).collect::<Vec<_>>();
        let mut command = bounded(LIMIT, &words[0]);
        command.args(&words[1..]).arg(format!("--defaults-file={}", self.at("my.cnf").display()));
        let output = run(&mut command);
        let said = text(&output.stdout) + &text(&output.stderr);
        let said = said.replace(self.dir.path().to_str().unwrap(), "DIR");
        said.split_once("This host\n").unwrap_or_else(|| panic!("{said}")).1.to_owned()
    }

    /// Something that `/proc` shows as a server on this data directory. `before` is run as root in mounts of its own.
    fn server(&self, before: &str) -> Server {
        let program = self.at("mariadbd");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let script = format!(
            "set -e; cd '{0}'; {before}; cd '{0}/data'; exec prlimit --nofile=100:200 setpriv --reuid={1} --regid={1} \
             --clear-groups '{0}/mariadbd' 60",
            self.dir.path().display(),
            self.user
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::null());
        let server = Server(command.spawn().unwrap());
        let comm = format!("/proc/{}/comm", server.0.id());
        let started = Instant::now();
        while std::fs::read_to_string(&comm).unwrap_or_default().trim() != "mariadbd" {
            assert!(started.elapsed() < LIMIT, "the stand-in did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn highline() -> Command {
    bounded(LIMIT, env!("CARGO_BIN_EXE_highline"))
}

#[test]
fn it_says_who_may_run_a_transfer_by_hand() {
    let Some(node) = Node::new() else { return };
    let said = node.check(&["env"]);
    assert!(said.contains("the server's user mysql has the permissions that a transfer needs"), "{said}");
    assert!(!said.contains("by hand"), "{said}");

    let said = node.check(&["setpriv", "--reuid=nobody", "--clear-groups"]);
    assert!(
        said.contains("note     this check runs as nobody: highline receive and send by hand need root or mysql"),
        "{said}"
    );
    assert!(said.contains("note     this check may not look into DIR/data: run it as root or as mysql"), "{said}");

    for (name, capability) in [("setuid", "CAP_SETUID"), ("setgid", "CAP_SETGID")] {
        let without = format!("--bounding-set=-{name}");
        let said = node.check(&["setpriv", &without]);
        assert!(said.contains(&format!("root has no {capability} here: highline receive by hand")), "{said}");
        assert!(said.contains("-> run it as the server's user: setpriv --reuid=mysql"), "{said}");
        // What it says is true, and it leaves nothing behind that would be in the server's way.
        let mut receive = bounded(LIMIT, "setpriv");
        receive.arg(without).arg(env!("CARGO_BIN_EXE_highline")).args([
            "receive",
            "--listen",
            "127.0.0.1:0",
            "--datadir",
        ]);
        let output = run(receive.arg(node.at("data")));
        assert!(text(&output.stderr).contains("cannot become the owner of "), "{output:?}");
        assert!(!node.at("data/.highline.lock").exists());
    }
}

#[test]
fn it_finds_what_a_careless_restore_left() {
    let Some(node) = Node::new() else { return };
    succeed(bounded(LIMIT, "chown").args(["-R", "root:root"]).arg(node.at("data/shop")));
    let said = node.check(&["env"]);
    assert!(said.contains("ERROR    the server's user mysql may not use DIR/data/shop: transfers fail"), "{said}");
    assert!(said.contains("-> chown -R mysql: DIR/data\n"), "{said}");
    succeed(bounded(LIMIT, "chown").args(["-R", "root:root"]).arg(node.at("data")));
    let said = node.check(&["env"]);
    assert!(said.contains("WARNING  DIR/data belongs to root, but the server runs as another user"), "{said}");
}

/// A server of systemd's, with the mounts that ProtectHome, PrivateTmp and ProtectSystem make.
#[test]
fn it_looks_with_the_eyes_of_a_running_server() {
    let Some(node) = Node::new() else { return };
    let server = node.server(":");
    let said = node.check(&["env"]);
    assert!(said.contains("the server's limit of open files is 100, and transfers inherit it"), "{said}");
    assert!(!said.contains("hidden from") && !said.contains("read-only"), "{said}");
    drop(server);

    let server = node.server("mount -t tmpfs none tls; mount --bind data data; mount -o remount,bind,ro data");
    let said = node.check(&["env"]);
    for file in ["ca.pem", "node1.pem", "node1-key.pem"] {
        assert!(said.contains(&format!("ERROR    DIR/tls/{file} is hidden from the running server")), "{said}");
    }
    assert!(said.contains("ERROR    DIR/data is read-only for the running server"), "{said}");
    drop(server);
    assert!(!node.check(&["env"]).contains("running server"), "it is gone");
}

#[test]
fn the_metrics_need_a_directory_that_the_server_may_write() {
    let Some(node) = Node::new() else { return };
    let options = std::fs::read_to_string(node.at("my.cnf")).unwrap();
    std::fs::write(
        node.at("my.cnf"),
        format!("{options}metrics=DIR/prom/h.prom\n").replace("DIR", node.dir.path().to_str().unwrap()),
    )
    .unwrap();
    assert!(node.check(&[]).contains("metrics: there is no directory DIR/prom"), "{}", node.check(&[]));
    std::fs::create_dir(node.at("prom")).unwrap();
    let closed = format!("metrics: the server's user {} may not write in DIR/prom", node.user);
    assert!(node.check(&[]).contains(&closed), "{}", node.check(&[]));
    own(&node.at("prom"));
    assert!(!node.check(&[]).contains("metrics"), "{}", node.check(&[]));
}

#[test]
fn what_the_filesystem_can_do_is_found_out() {
    let home = scratch("highline-check-");
    for (kind, clones) in [("ext4", false), ("xfs", true)] {
        let place = home.path().join(kind);
        std::fs::create_dir(&place).unwrap();
        let Some(disk) = SmallDisk::format(&place, kind, 320) else { return };
        assert_eq!(Abilities::of(&place).unwrap(), Abilities { clones, direct: true }, "{kind}");
        assert!(std::fs::read_dir(&place).unwrap().flatten().all(|entry| entry.file_name() == "lost+found"));
        drop(disk);
    }
    let Some(node) = Node::new() else { return };
    let told = node.check(&[]);
    assert!(told.contains("in DIR/data this node's freeze as a donor: everything is copied under the lock"), "{told}");

    let options = std::fs::read_to_string(node.at("my.cnf")).unwrap();
    std::fs::write(node.at("my.cnf"), format!("{options}source=mariabackup\n")).unwrap();
    let told = node.check(&[]);
    assert!(told.contains("as a donor this node sends a backup (source=mariabackup)"), "{told}");
    assert!(!told.contains("freeze as a donor"), "a backup freezes nobody: {told}");
}
