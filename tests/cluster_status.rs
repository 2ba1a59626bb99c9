//! A transfer between real servers, seen from outside: by root and by the server's user, on both nodes.

use crate::support::cluster::Cluster;
use crate::support::command::{bounded, run, server_user, text};
use crate::support::scripts::ScriptRun;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// `highline status` of node `n`: the code and what it prints.
fn status(cluster: &Cluster, n: usize, user: Option<&str>, more: &[&str]) -> (Option<i32>, String) {
    let mut command = match user {
        Some(user) => {
            let mut command = bounded(LIMIT, "setpriv");
            command.args(["--reuid", user, "--regid", user, "--init-groups"]).arg(cluster.program());
            command
        }
        None => bounded(LIMIT, cluster.program()),
    };
    let output = run(command.args(["status", "--datadir"]).arg(cluster.datadir(n)).args(more));
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

#[track_caller]
fn becomes(cluster: &Cluster, n: usize, words: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (_, told) = status(cluster, n, None, &[]);
        if told.contains(words) {
            return told;
        }
        assert!(Instant::now() < deadline, "node {n} is not `{words}` but: {told}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_transfer_is_seen_on_both_nodes_and_what_holds_it_too() {
    let mut cluster = Cluster::plan(2, "highline").highline("rate-limit=16M").highline("compress=none").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 5_000);
    cluster.sql(1, "CREATE TABLE sb.held (id INT PRIMARY KEY)");
    cluster.spawn(2);
    for n in [1, 2] {
        assert!(becomes(&cluster, n, " on the wire").contains("state  copying for "));
        for user in [None, server_user()] {
            let (code, told) = status(&cluster, n, user, &[]);
            assert_eq!(code, Some(0), "{told}");
            assert!(told.contains("peer  127."), "{told}");
        }
    }
    assert!(cluster.log(2).contains(" on node1): TLSv1.3"), "the donor's name, not its address alone");
    let schemas = cluster.sql(1, "SHOW DATABASES");
    assert!(!schemas.contains("highline"), "{schemas}");
    // A client's lock prevents the freeze.
    let mut holder = bounded(LIMIT, "mariadb");
    holder.args(["--no-defaults", "--skip-ssl", "-u", "root", "-S"]).arg(cluster.socket(1));
    let mut holder = holder.args(["-e", "LOCK TABLES sb.held WRITE; SELECT SLEEP(50)"]).spawn().unwrap();
    becomes(&cluster, 1, "waiting for the server to freeze its tables");
    becomes(&cluster, 2, "waiting for the donor's next round for ");
    std::thread::sleep(Duration::from_millis(3000));
    let (code, told) = status(&cluster, 1, None, &["--stuck-after", "1s"]);
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("writes waited"), "{told}");
    assert_eq!(status(&cluster, 2, None, &["--stuck-after", "1s"]).0, Some(0));
    let pid = rustix::process::Pid::from_raw(holder.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    holder.wait().unwrap();
    cluster.wait_synced(2, LIMIT);
    for n in [1, 2] {
        let (code, told) = status(&cluster, n, None, &[]);
        assert_eq!(code, Some(3));
        assert!(told.contains("state  done "), "{told}");
    }
    let (_, told) = status(&cluster, 1, None, &["--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["frozen_seconds"].as_f64().unwrap() > 1.5, "{told}");
    assert!(!cluster.log(1).contains("look again") && !cluster.log(1).contains("changed while the tree was read"));
    cluster.assert_equal_tables();
}

/// What docs/galera.md says about cancelling.
#[test]
fn a_transfer_is_cancelled_from_either_side_as_the_page_says() {
    let mut cluster = Cluster::plan(2, "highline").highline("rate-limit=2M").build();
    cluster.start(1);
    for (by, side) in [("the donor's program", "donor"), ("the joiner's", "joiner"), ("the unit's stop", "joiner")] {
        cluster.spawn(2);
        becomes(&cluster, 2, "state  copying for ");
        let program = |n: usize| cluster.script_times(n).into_iter().rfind(ScriptRun::is_running).unwrap();
        match by {
            "the donor's program" => program(1).signal(Signal::TERM),
            "the joiner's" => program(2).signal(Signal::TERM),
            _ => {
                cluster.signal(2, Signal::TERM);
                std::thread::sleep(Duration::from_secs(1));
                assert!(status(&cluster, 2, None, &[]).1.contains("copying"), "a server alone does not hear it");
                // As `systemctl stop` does, to everything that the server has started.
                let group = rustix::process::Pid::from_raw(cluster.pid(2).cast_signed()).unwrap();
                rustix::process::kill_process_group(group, Signal::TERM).unwrap();
            }
        }
        let asked = Instant::now();
        assert!(!cluster.wait_exit(2, Duration::from_secs(10)).success());
        cluster.wait_scripts_gone(1, Duration::from_secs(5));
        cluster.wait_synced(1, LIMIT);
        assert!(asked.elapsed() < Duration::from_secs(5), "{by}: {:?}", asked.elapsed());
        for n in [1, 2] {
            let (code, told) = status(&cluster, n, None, &[]);
            assert_eq!(code, Some(3), "{told}");
            assert!(told.contains(&format!("on the {side}'s side: ended by SIGTERM")), "{by}: {told}");
        }
        assert!(cluster.log(2).contains("Highline joiner: this node's data is unchanged"));
    }
}
