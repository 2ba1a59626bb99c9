//! What comes before the copy on real servers: whether the joiner can take what is offered, and whether the donor's server
//! can be frozen.

use crate::support::cluster::Cluster;
use crate::support::command::{bounded, server_user};
use crate::support::scripts::ScriptRun;
use crate::support::template;
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A server that root started for another user does not let that user read `/proc/PID/exe`.
#[test]
fn a_newer_donor_is_refused_whoever_started_it() {
    let mut cluster = Cluster::plan(2, "highline").build();
    let newer = cluster.folder(1).join("newer");
    let output =
        std::process::Command::new("sh").args(["-c", "readlink -f \"$(command -v mariadbd)\""]).output().unwrap();
    let mut bytes = std::fs::read(String::from_utf8(output.stdout).unwrap().trim()).unwrap();
    let version = cluster_version();
    let (from, to) = (format!("{version}."), format!("9{}.", &version[1..]));
    let places: Vec<usize> =
        bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    std::fs::write(&newer, bytes).unwrap();
    std::fs::set_permissions(&newer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    cluster.options(1).program = Some(newer);
    cluster.start(1);
    let (_, log) = cluster.start_expecting_failure(2, LIMIT);
    assert!(log.contains("which cannot read its files"), "{log}");
    assert!(!cluster.datadir(2).join("ibdata1").exists(), "nothing was touched");
    assert!(cluster.log(1).contains("this node's server is 9"), "the donor says what it found");
    cluster.wait_synced(1, LIMIT);
}

/// `10.11` of the installed server.
fn cluster_version() -> String {
    let output = std::process::Command::new("mariadbd").arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.split_whitespace().skip_while(|word| *word != "Ver").nth(1).unwrap();
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[test]
fn another_page_size_is_refused() {
    let mut cluster = Cluster::plan(2, "highline").build();
    cluster.options(2).server.push("innodb_page_size=4k".into());
    cluster.start(1);
    let (_, log) = cluster.start_expecting_failure(2, LIMIT);
    assert!(
        log.contains("the donor's InnoDB pages have 16384 bytes, this node has 4096: its server could not start"),
        "{log}"
    );
    assert!(log.contains("remedy: set innodb_page_size=16384 on this node"), "{log}");
    cluster.wait_synced(1, LIMIT);
    cluster.options(2).server.clear();
    cluster.start(2);
    cluster.check(2);
}

/// A client that runs `statements` on node `n` and keeps its connection.
struct Client(Child);

impl Client {
    fn holding(cluster: &Cluster, n: usize, statements: &str) -> Client {
        let mut client = bounded(LIMIT, "mariadb");
        client.args(["--no-defaults", "--skip-ssl", "-u", "root", "-S"]).arg(cluster.socket(n));
        client.arg("-e").arg(format!("{statements}; SELECT SLEEP(50)")).stdout(Stdio::null()).stderr(Stdio::null());
        Client(client.spawn().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // `timeout` passes the signal on to the client.
        let _ = kill_process(Pid::from_raw(self.0.id().cast_signed()).unwrap(), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// The freeze does not come while a client holds a lock: the log says so, the transfer ends within `lock-timeout`, and what the
/// documents say about the writes that wait behind it is true.
#[test]
fn a_client_that_holds_a_lock_is_told_and_ends_the_transfer() {
    let mut cluster = Cluster::plan(2, "highline").highline("lock-timeout=8").build();
    cluster.start(1);
    cluster.sql(
        1,
        "CREATE DATABASE d; CREATE TABLE d.held (id INT PRIMARY KEY); CREATE TABLE d.other (id INT PRIMARY KEY)",
    );
    let holder = Client::holding(&cluster, 1, "LOCK TABLES d.held WRITE");
    let deadline = Instant::now() + LIMIT;
    while cluster.sql(
        1,
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(50)' AND state = 'User sleep'",
    ) != "1"
    {
        assert!(Instant::now() < deadline, "the client holds its lock");
    }
    let (_, joiner) = cluster.start_expecting_failure(2, LIMIT);
    assert!(joiner.contains("the server did not freeze its tables within 8 s"), "{joiner}");
    let donor = cluster.log(1);
    assert!(
        donor.contains(
            "the server has not frozen its tables for 5 s: it is flushing dirty pages, or waiting for a client"
        ),
        "{donor}"
    );
    assert!(
        donor.contains("remedy: a client on the donor holds a lock or runs a long statement: SHOW FULL PROCESSLIST"),
        "{donor}"
    );
    cluster.wait_scripts_gone(1, LIMIT);
    let write = cluster.try_sql(1, "INSERT INTO d.other VALUES (1)", Duration::from_secs(3));
    assert!(write.is_err(), "the server still waits for its lock, and writes wait behind it");
    drop(holder);
    cluster.wait_synced(1, LIMIT);
    cluster.sql(1, "INSERT INTO d.other VALUES (2)");
    cluster.start(2);
    cluster.assert_equal_tables();
}

/// `hidepid=2`: neither side sees the server in `/proc`, and both still notice when it dies.
#[test]
fn a_hidden_proc_hides_no_death() {
    if server_user().is_none() {
        eprintln!("not run: this needs the right to mount");
        return;
    }
    let mut cluster = Cluster::plan(2, "highline").highline("rate-limit=3M").build();
    for n in 1..=2 {
        cluster.options(n).hidden_processes = true;
        template::own(&cluster.folder(n));
    }
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    cluster.start(2);
    cluster.assert_equal_tables();
    for victim in [2, 1] {
        cluster.stop(2);
        cluster.wipe(2);
        cluster.spawn(2);
        cluster.wait_script(1, ScriptRun::is_donor, LIMIT);
        std::thread::sleep(Duration::from_secs(2));
        let gone = format!("the database server (process {}) is gone", cluster.pid(victim));
        cluster.kill(victim);
        cluster.wait_scripts_gone(victim, Duration::from_secs(5));
        assert!(cluster.log(victim).contains(&gone), "node {victim} does not say that {gone}");
        if victim == 2 {
            cluster.wait_synced(1, LIMIT);
            cluster.wipe(2);
            cluster.start(2);
        }
    }
}
