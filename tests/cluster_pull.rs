//! `highline pull`: a copy out of a running cluster, to a host where no server waits for it.

use crate::support::cluster::Cluster;
use crate::support::command::{bounded, run, succeed, text};
use crate::support::load::Load;
use crate::support::template;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// `highline pull` from `donor` of this cluster into `to`, listening as node `n`, which need not exist, would.
fn pull(cluster: &Cluster, donor: &str, to: &Path, n: usize) -> Command {
    let mut command = bounded(LIMIT, cluster.program());
    command.arg("pull").arg("--to").arg(to).args(["--donor", donor]);
    command.arg("--listen").arg(format!("{}:4444", address(cluster, n)));
    command
}

/// Says where the cluster is.
fn named<'a>(command: &'a mut Command, cluster: &Cluster, name: &str) -> &'a mut Command {
    command.args(["--cluster-name", name]).arg("--cluster-address").arg(cluster.address(1))
}

fn address(cluster: &Cluster, n: usize) -> String {
    format!("{}.{n}", cluster.address(1).rsplit_once('.').unwrap().0)
}

fn option_file(cluster: &Cluster, n: usize) -> String {
    format!("--defaults-file={}", cluster.folder(n).join("my.cnf").display())
}

/// How a pull that had to fail ended: its exit code, and what it said.
fn failed(output: &Output) -> (Option<i32>, String) {
    let said = text(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("remedy: "), "{said}");
    (output.status.code(), said)
}

/// No arbitrator of this cluster runs.
fn no_garbd(cluster: &Cluster) -> bool {
    let ours = cluster.address(1);
    let is_ours = |dir: std::io::Result<std::fs::DirEntry>| {
        let words = std::fs::read(dir.unwrap().path().join("cmdline")).unwrap_or_default();
        let words = text(&words);
        words.split('\0').next().is_some_and(|word| word.ends_with("garbd")) && words.contains(&ours)
    };
    !std::fs::read_dir("/proc").unwrap().any(is_ours)
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Nothing in it could be taken for a server's data.
fn no_copy(dir: &Path) -> bool {
    ["ibdata1", "ib_logfile0", "mysql", "grastate.dat", ".highline.manifest"]
        .iter()
        .all(|name| !dir.join(name).exists())
}

/// A pull that runs, and what it says; killed when dropped.
struct Pulling {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Pulling {
    fn start(cluster: &Cluster, donor: &str, to: &Path, n: usize) -> Self {
        Self::by(Command::new(cluster.program()), cluster, donor, to, n)
    }

    fn by(mut command: Command, cluster: &Cluster, donor: &str, to: &Path, n: usize) -> Self {
        command.arg("pull").arg("--to").arg(to).args(["--donor", donor, "--connect-timeout", "40s"]);
        command.arg("--listen").arg(format!("{}:4444", address(cluster, n)));
        named(&mut command, cluster, "lab").args(["--progress", "lines"]).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    /// Reads on until a line has these words.
    fn until(&mut self, words: &str) {
        let mut all = String::new();
        while !all.contains(words) {
            assert!(self.said.read_line(&mut all).unwrap() > 0, "it ended without saying {words:?}: {all}");
        }
    }

    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let code = self.child.wait().unwrap().code();
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        (code, rest)
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every file is the server's, and no table another user's to read.
fn ownership(dir: &Path) {
    let owner = std::fs::metadata(dir).unwrap().uid();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for item in std::fs::read_dir(&dir).unwrap() {
            let path = item.unwrap().path();
            let file = path.symlink_metadata().unwrap();
            assert_eq!(file.uid(), owner, "{}", path.display());
            if path.extension().is_some_and(|end| end == "ibd") || path.ends_with("ibdata1") {
                assert_eq!(file.mode() & 0o7777, 0o660, "{}", path.display());
            }
            if file.is_dir() {
                open.push(path);
            }
        }
    }
}

fn joins_by_ist(cluster: &mut Cluster, n: usize) {
    let to = format!("{}:4444", cluster.address(n));
    cluster.sql(1, "CREATE DATABASE late; CREATE TABLE late.t (id INT PRIMARY KEY); INSERT INTO late.t VALUES (1)");
    cluster.start(n);
    cluster.assert_equal_tables();
    cluster.check(n);
    let given = (1..n).flat_map(|n| cluster.script_times(n)).filter(|run| run.arguments.contains(&to));
    let given: Vec<_> = given.filter(|run| run.is_donor()).collect();
    let full = given.iter().filter(|run| !run.arguments.contains("--bypass")).count();
    assert_eq!((full, given.len()), (1, 2), "the pull was one full transfer, the start took none: {given:?}");
    let log = cluster.log(n);
    assert!(log.contains("Highline joiner: bypass: nothing was changed"), "{log}");
    assert!(log.contains("IST received: ") || log.contains("Receiving IST"), "{log}");
}

#[test]
fn a_new_node_starts_on_a_pulled_copy_and_joins_by_ist() {
    let mut cluster = Cluster::plan(4, "highline").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    cluster.start(2);
    cluster.start(3);
    let load = Load::start(&cluster, 1, 2, 20_000);
    std::thread::sleep(Duration::from_secs(1));
    let datadir = cluster.datadir(4);
    // The server's option file says all that is to be said.
    let output = run(pull(&cluster, "node2", &datadir, 4).arg(option_file(&cluster, 4)).arg("--json"));
    let said = text(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}");
    assert!(said.contains("node2 was chosen to send; garbd has left the cluster"), "{said}");
    std::thread::sleep(Duration::from_secs(1));
    println!("{:?}", load.stop());
    assert!(no_garbd(&cluster));
    cluster.wait_synced(2, LIMIT);
    assert_eq!(cluster.sql(1, "SHOW STATUS LIKE 'wsrep_cluster_size'"), "wsrep_cluster_size\t3");
    let gave = |n: usize| cluster.script_times(n).iter().any(|run| run.arguments.contains(&address(&cluster, 4)));
    assert_eq!([gave(1), gave(2), gave(3)], [false, true, false], "the chosen node is the donor");

    // Position, manifest, owner and mode.
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let position = report["position"].as_str().unwrap();
    let (gtid, domain) = position.split_once(' ').unwrap();
    let (uuid, seqno) = gtid.rsplit_once(':').unwrap();
    assert_eq!(domain, "0");
    let state = std::fs::read_to_string(datadir.join("grastate.dat")).unwrap();
    assert!(state.contains(uuid) && state.contains(&format!("seqno:   {seqno}\n")), "{position}: {state}");
    assert!(state.contains("safe_to_bootstrap: 0"), "{state}");
    ownership(&datadir);
    let mut verify = bounded(LIMIT, cluster.program());
    let verified = succeed(verify.arg("verify").arg("--datadir").arg(&datadir));
    assert!(verified.starts_with("verified: "), "{verified}");
    joins_by_ist(&mut cluster, 4);
}

#[test]
fn a_pulled_backup_is_prepared() {
    let mut cluster = Cluster::plan(3, "highline").highline("source=mariabackup").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    let load = Load::start(&cluster, 1, 2, 20_000);
    let datadir = cluster.datadir(2);
    let mut command = pull(&cluster, "node1", &datadir, 2);
    command.arg(option_file(&cluster, 2)).args([
        "--use-memory",
        "64M",
        "--inno-apply-opts",
        "--innodb-max-dirty-pages-pct=90",
    ]);
    let output = run(&mut command);
    let said = text(&output.stderr);
    println!("{said}\n{:?}", load.stop());
    assert!(output.status.success() && said.contains("prepared; syncing and installing"), "{said}");
    ownership(&datadir);
    joins_by_ist(&mut cluster, 2);
}

#[test]
fn what_cannot_be_asked_leaves_nothing_behind() {
    let mut cluster = Cluster::plan(2, "highline").build();
    cluster.start(1);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let to = dir.path().join("copy");
    let attempt_from = |donor: &str, change: &dyn Fn(&mut Command)| {
        let mut command = pull(&cluster, donor, &to, 4);
        change(&mut command);
        let told = failed(&run(&mut command));
        assert!(no_copy(&to) && no_garbd(&cluster));
        assert_eq!(cluster.state(1), "Synced");
        told
    };
    let attempt = |change: &dyn Fn(&mut Command)| attempt_from("node1", change);

    let (code, said) = attempt(&|command| _ = named(command, &cluster, "other"));
    assert!(code == Some(129) && said.contains("none lets garbd into a cluster other"), "{code:?} {said}");
    assert!(said.contains("--cluster-name"), "{said}");
    let (code, said) = attempt_from("node7", &|command| _ = named(command, &cluster, "lab"));
    assert!(code == Some(22) && said.contains("the cluster lab has no donor node7: "), "{code:?} {said}");
    let away = address(&cluster, 7);
    let (code, said) = attempt(&|command| _ = command.args(["--cluster-name", "lab", "--cluster-address", &away]));
    let says = format!("no node of the cluster can be reached: {away}:4567: Connection refused");
    assert!(code == Some(111) && said.contains(&says), "{code:?} {said}");
    let taken = std::net::TcpListener::bind((address(&cluster, 9), 0)).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let listen = ["--group-listen", &taken];
    let (code, said) = attempt(&|command| _ = named(command, &cluster, "lab").args(listen));
    assert!(code == Some(16) && said.contains(&format!("garbd cannot listen on {taken}, which is in use")), "{said}");
    let (code, said) = attempt(&|command| _ = command.args(["--cluster-name", "lab"]));
    assert!(code == Some(22) && said.contains("nothing says where the cluster is"), "{said}");
    // `timeout` is found by its path, and then nothing is.
    let none = dir.path().join("none");
    let mut without = Command::new("/usr/bin/timeout");
    without.arg("60").arg(cluster.program()).args(["pull", "--donor", "node1", "--to"]).arg(&none);
    let (code, said) = failed(&run(named(without.env("PATH", dir.path()), &cluster, "lab")));
    assert!(code == Some(2) && said.contains("garbd, which asks a cluster for a copy, is not installed"), "{said}");
    assert!(said.contains("galera-arbitrator-4") && !none.exists(), "{said}");
}

#[test]
fn a_copy_is_replaced_only_if_it_is_said() {
    let mut cluster = Cluster::plan(2, "highline").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let to = dir.path().join("copy");
    let attempt = |more: &[&str]| run(named(&mut pull(&cluster, "node1", &to, 4), &cluster, "lab").args(more));
    let first = attempt(&[]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    // Where root asked, the server's account can use it.
    if let Some(user) = crate::support::command::server_user() {
        let owner = succeed(Command::new("stat").args(["-c", "%U %a"]).arg(&to));
        assert_eq!(owner.trim(), format!("{user} 700"));
    }
    ownership(&to);
    let before = std::fs::read(to.join("ibdata1")).unwrap();
    let (code, said) = failed(&attempt(&[]));
    assert!(code == Some(22) && said.contains("already holds a copy or a server's data"), "{said}");
    assert!(std::fs::read(to.join("ibdata1")).unwrap() == before);
    cluster.sql(1, "UPDATE sb.sbtest1 SET k = k + 1 WHERE id < 10");
    let again = attempt(&["--replace", "--json"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(report["reused"]["old_tree"].as_u64().unwrap() > 10_000_000, "{report}");
    let strange = dir.path().join("strange");
    std::fs::create_dir(&strange).unwrap();
    std::fs::write(strange.join("thesis.txt"), "x").unwrap();
    for more in [&[][..], &["--replace"]] {
        let (code, said) = failed(&run(named(&mut pull(&cluster, "node1", &strange, 4), &cluster, "lab").args(more)));
        assert!(code == Some(22) && said.contains("is not empty"), "{said}");
        assert_eq!(std::fs::read(strange.join("thesis.txt")).unwrap(), b"x");
    }
}

#[test]
fn a_pull_that_is_killed_frees_the_donor_and_leaves_no_copy() {
    let mut cluster = Cluster::plan(2, "highline").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    cluster.options(1).highline.push("rate-limit=2M".to_owned());
    cluster.write_options(1);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let to = |name: &str| -> PathBuf { dir.path().join(name) };
    let mut first = Pulling::start(&cluster, "node1", &to("first"), 4);
    first.until("agreed with the donor");
    cluster.wait_state(1, "Donor/Desynced", LIMIT);

    // Meanwhile the donor is nobody else's.
    let busy = run(named(pull(&cluster, "node1", &to("second"), 5).args(["--connect-timeout", "4s"]), &cluster, "lab"));
    let (code, said) = failed(&busy);
    assert!(code == Some(16) && said.contains("the donor node1 was not ready in time: No donor candidates"), "{said}");
    assert!(no_garbd(&cluster) && no_copy(&to("second")));
    for (signal, expected) in [(Signal::TERM, Some(4)), (Signal::KILL, None)] {
        let mut waiting = Pulling::start(&cluster, "node1", &to("third"), 6);
        waiting.until("no donor yet");
        assert!(!no_garbd(&cluster));
        let (code, said) = waiting.end(signal);
        assert_eq!(code, expected, "{said}");
        eventually("garbd still runs", || no_garbd(&cluster));
        eventually("it is still a member", || {
            cluster.sql(1, "SHOW STATUS LIKE 'wsrep_cluster_size'") == "wsrep_cluster_size\t1"
        });
        assert!(no_copy(&to("third")));
    }

    let (code, _) = first.end(Signal::KILL);
    assert_eq!(code, None);
    cluster.wait_scripts_gone(1, LIMIT);
    cluster.wait_synced(1, LIMIT);
    assert!(no_copy(&to("first")) && no_garbd(&cluster));
    cluster.sql(1, "CREATE TABLE sb.after (id INT PRIMARY KEY)");

    // What it left is no copy, and in nobody's way.
    cluster.options(1).highline.clear();
    cluster.write_options(1);
    let again = run(named(&mut pull(&cluster, "node1", &to("first"), 4), &cluster, "lab"));
    assert!(again.status.success(), "{}", text(&again.stderr));
}

#[test]
fn an_arbitrator_that_does_not_leave_is_made_to() {
    let mut cluster = Cluster::plan(2, "highline").highline("rate-limit=2M").build();
    cluster.start(1);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The real one, after whose end its process stays.
    let lingers = dir.path().join("garbd");
    let path = std::env::var("PATH").unwrap();
    std::fs::write(&lingers, format!("#!/bin/sh\nPATH='{path}'\ngarbd \"$@\"\nexec sleep 60\n")).unwrap();
    std::fs::set_permissions(&lingers, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(cluster.program());
    command.env("PATH", format!("{}:{path}", dir.path().display()));
    let started = Instant::now();
    let mut pulling = Pulling::by(command, &cluster, "node1", &dir.path().join("copy"), 4);
    pulling.until("node1 was chosen to send; garbd has left the cluster");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(pulling.end(Signal::TERM).0, Some(4));
}

#[test]
fn encrypted_replication_is_joined_with_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("certs");
    let certs = |words: &[&str]| {
        let mut command = bounded(LIMIT, env!("CARGO_BIN_EXE_highline"));
        succeed(command.arg("certs").args(words).arg("--dir").arg(&authority))
    };
    certs(&["ca", "--name", "Lab CA"]);
    let mut cluster = Cluster::plan(2, "highline").highline("ssl-mode=VERIFY_CA").build();
    for n in [1, 2] {
        let name = format!("node{n}");
        certs(&["node", &name, "--ip", &cluster.address(n)]);
        let folder = cluster.folder(n).join("tls");
        std::fs::create_dir(&folder).unwrap();
        template::own(&folder);
        for (from, to) in
            [("ca.pem", "ca.pem"), (&format!("{name}.pem"), "cert.pem"), (&format!("{name}-key.pem"), "key.pem")]
        {
            std::fs::copy(authority.join(from), folder.join(to)).unwrap();
            template::own(&folder.join(to));
        }
        let at = |file: &str| folder.join(file).display().to_string();
        let (ca, cert, key) = (at("ca.pem"), at("cert.pem"), at("key.pem"));
        let options = cluster.options(n);
        options.highline.extend([format!("ca={ca}"), format!("cert={cert}"), format!("key={key}")]);
        options.provider.push(format!("socket.ssl_cert={cert};socket.ssl_key={key};socket.ssl_ca={ca}"));
        cluster.write_options(n);
    }
    cluster.start(1);
    cluster.sql(1, "CREATE DATABASE lab; CREATE TABLE lab.t (id INT PRIMARY KEY); INSERT INTO lab.t VALUES (1), (2)");
    let datadir = cluster.datadir(2);
    let (code, said) = failed(&run(named(&mut pull(&cluster, "node1", &datadir, 2), &cluster, "lab")));
    println!("{said}");
    assert!(code == Some(129) && said.contains("none lets garbd into") && said.contains("socket.ssl_ca"), "{said}");
    assert!(no_copy(&datadir) && no_garbd(&cluster));
    let output = run(pull(&cluster, "node1", &datadir, 2).arg(option_file(&cluster, 2)));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("CN=node1") || said.contains("node1"), "{said}");
    joins_by_ist(&mut cluster, 2);
}
