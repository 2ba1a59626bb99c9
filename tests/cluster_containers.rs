//! Servers as containers run them: process 1 of a namespace, a read-only root, and a mounted data directory.
//! `docs/containers.md` marks what is checked here.

use crate::support::cluster::Cluster;
use crate::support::command::{bounded, run, server_user, text};
use crate::support::template;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_container_joins_is_probed_and_evicted() {
    if server_user().is_none() {
        eprintln!("not run: this needs the right to mount");
        return;
    }
    let mut cluster = Cluster::plan(2, "highline").highline("rate-limit=4M").build();
    for n in 1..=2 {
        cluster.options(n).container = true;
        template::own(&cluster.folder(n));
    }
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);

    // What a probe outside the container sees, through the volume alone.
    cluster.spawn(2);
    cluster.wait_log(2, "Highline joiner: waiting for the donor", LIMIT);
    cluster.wait_log(1, "Highline donor: agreed with", LIMIT);
    assert!(cluster.datadir(2).join("sst_in_progress").exists());
    let status = run(bounded(LIMIT, cluster.program()).args(["status", "--json", "--datadir"]).arg(cluster.datadir(2)));
    let said: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((status.status.code(), &said["role"]), (Some(0), &"joiner".into()), "{}", text(&status.stdout));

    // Evicted: every process of the container is killed at once. The donor keeps serving.
    std::thread::sleep(Duration::from_secs(2));
    cluster.kill(2);
    cluster.wait_synced(1, LIMIT);
    let status = run(bounded(LIMIT, cluster.program()).args(["status", "--datadir"]).arg(cluster.datadir(2)));
    assert_eq!(status.status.code(), Some(3), "{}", text(&status.stdout));
    assert!(cluster.datadir(2).join("sst_in_progress").exists());

    // The next container on that volume, once the group has noticed; before that Galera may turn it away.
    let deadline = Instant::now() + LIMIT;
    while !cluster.sql(1, "SHOW STATUS LIKE 'wsrep_cluster_size'").ends_with("\t1") {
        assert!(Instant::now() < deadline, "the group still counts the evicted node");
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.start(2);
    cluster.assert_equal_tables();
    assert!(cluster.log(2).contains("Highline joiner: installed: "));
    assert!(!cluster.datadir(2).join("sst_in_progress").exists());

    cluster.stop(2);
    cluster.sql(1, "CREATE TABLE sb.late (id INT PRIMARY KEY); INSERT INTO sb.late VALUES (1)");
    cluster.start(2);
    cluster.assert_equal_tables();
    assert!(cluster.log(2).contains("bypass: nothing was changed"));
}
