//! A state transfer that fails on real servers: the donor serves again, and the next transfer needs no human help.

use crate::support::cluster::Cluster;
use crate::support::disk::SmallDisk;
use crate::support::method;
use crate::support::scripts::ScriptRun;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Once the joiner's server logs this, its script is ready and the donor is being asked.
const REQUESTED: &str = "Requesting state transfer: success";
const LIMIT: Duration = Duration::from_secs(60);

/// A donor with enough data for a fault to happen during the transfer.
fn donor() -> Cluster {
    let mut cluster = Cluster::plan(2, &method()).build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 4, 20_000);
    cluster
}

/// The donor is back, takes writes, and seeds a node without help.
fn recovers(cluster: &mut Cluster) {
    cluster.wait_synced(1, LIMIT);
    cluster.wait_scripts_gone(1, LIMIT);
    cluster.wait_scripts_gone(2, LIMIT);
    cluster.sql(1, "CREATE TABLE sb.after (id INT PRIMARY KEY); INSERT INTO sb.after VALUES (1)");
    cluster.start(2);
    cluster.assert_equal_tables();
    cluster.check(2);
}

#[test]
fn the_joiner_server_dies() {
    let mut cluster = donor();
    cluster.spawn(2);
    cluster.wait_log(2, REQUESTED, LIMIT);
    cluster.kill(2);
    recovers(&mut cluster);
}

#[test]
fn the_joiner_script_dies() {
    let mut cluster = donor();
    cluster.spawn(2);
    cluster.wait_log(2, REQUESTED, LIMIT);
    cluster.wait_script(2, ScriptRun::is_joiner, LIMIT).signal(Signal::TERM);
    let status = cluster.wait_exit(2, LIMIT);
    assert!(!status.success());
    recovers(&mut cluster);
}

#[test]
fn the_donor_script_dies() {
    let mut cluster = donor();
    cluster.spawn(2);
    cluster.wait_script(1, ScriptRun::is_donor, LIMIT).signal(Signal::TERM);
    let status = cluster.wait_exit(2, LIMIT);
    assert!(!status.success());
    recovers(&mut cluster);
}

#[test]
fn the_joiner_disk_is_full() {
    let mut cluster = donor();
    // The galera cache of 64 MiB fits, the database does not.
    let Some(disk) = SmallDisk::mount(&cluster.datadir(2), 85) else {
        eprintln!("not run: this needs the right to mount");
        return;
    };
    let (_, log) = cluster.start_expecting_failure(2, LIMIT);
    if method() == "highline" {
        let said: Vec<&str> = log.lines().filter(|line| line.contains("[ERROR] Highline")).collect();
        assert!(said.iter().any(|line| line.contains("free")), "the joiner says what is short: {said:?}");
    }
    cluster.wait_synced(1, LIMIT);
    cluster.wait_scripts_gone(1, LIMIT);
    disk.grow(2000);
    recovers(&mut cluster);
}

/// A donor whose receiver does not exist gives up and serves again.
#[test]
fn nobody_listens() {
    let mut cluster = donor();
    let nobody =
        format!("{}:4444/{}", cluster.address(2), if method() == "rsync" { "rsync_sst" } else { "xtrabackup_sst//1" });
    cluster.donate_to(1, &nobody);
    running_or_done(&cluster, 1);
    cluster.wait_scripts_gone(1, LIMIT);
    cluster.wait_synced(1, LIMIT);
    cluster.sql(1, "CREATE TABLE sb.after (id INT PRIMARY KEY); INSERT INTO sb.after VALUES (1)");
}

fn running_or_done(cluster: &Cluster, n: usize) {
    let deadline = Instant::now() + LIMIT;
    while cluster.script_times(n).is_empty() {
        assert!(Instant::now() < deadline, "no script ran on node {n}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A highline transfer of about half a minute, caught in the middle while the donor is frozen.
fn in_the_middle() -> Cluster {
    let mut cluster = Cluster::plan(2, "highline").highline("freeze=whole").highline("rate-limit=3M").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 4, 20_000);
    cluster.spawn(2);
    cluster.wait_log(2, "has proven itself", LIMIT);
    cluster.wait_log(1, "Provider paused", LIMIT);
    std::thread::sleep(Duration::from_secs(2));
    cluster
}

/// The rate limit was only for the fault; the next transfer is fast.
fn without_limit(cluster: &mut Cluster) {
    for n in 1..=2 {
        cluster.options(n).highline.clear();
        cluster.write_options(n);
    }
}

#[test]
fn the_joiner_server_dies_in_the_middle() {
    let mut cluster = in_the_middle();
    cluster.kill(2);
    let killed = Instant::now();
    cluster.wait_scripts_gone(2, Duration::from_secs(5));
    // The statement waits for the lock; Galera itself holds commits for 5 s until it gives up on the dead node.
    cluster.sql(1, "CREATE TABLE sb.unlocked (id INT PRIMARY KEY)");
    let waited = killed.elapsed();
    assert!(waited < Duration::from_secs(15), "the donor took no writes for {waited:?}");
    without_limit(&mut cluster);
    recovers(&mut cluster);
}

#[test]
fn the_joiner_script_is_killed_in_the_middle() {
    let mut cluster = in_the_middle();
    cluster.wait_script(2, ScriptRun::is_joiner, LIMIT).signal(Signal::KILL);
    cluster.wait_exit(2, Duration::from_secs(10));
    cluster.wait_scripts_gone(1, Duration::from_secs(40));
    without_limit(&mut cluster);
    recovers(&mut cluster);
}

#[test]
fn the_donor_server_dies_in_the_middle() {
    let mut cluster = in_the_middle();
    cluster.kill(1);
    cluster.wait_scripts_gone(1, Duration::from_secs(5));
    let status = cluster.wait_exit(2, LIMIT);
    assert!(!status.success(), "a joiner without its data does not serve");
    without_limit(&mut cluster);
    cluster.start(1);
    recovers(&mut cluster);
}
