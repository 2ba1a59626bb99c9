//! A node's life around state transfers, on real servers: an operator's ordinary day.

use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::{method, template};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// After a full transfer under load the rows are equal; the node can be checked, restarted, and receive another transfer.
#[test]
fn a_node_is_seeded_under_load_twice_and_restarts() {
    let mut cluster = Cluster::plan(2, &method()).build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 4, 5000);
    for round in 1..=2 {
        let load = Load::start(&cluster, 1, 4, 5000);
        cluster.start(2);
        let report = load.stop();
        assert!(report.probe.commits > 10, "round {round}: {report:?}");
        cluster.assert_equal_tables();
        cluster.check(2);
        cluster.stop(2);
        if round == 1 {
            cluster.wipe(2);
        }
    }
    assert!(!cluster.recover_position(2).is_empty());
    cluster.start(2);
    cluster.assert_equal_tables();
    assert_eq!(cluster.state(1), "Synced");
}

/// The node that received a transfer is the donor of the next one, to a third node, while the first is written to.
#[test]
fn a_seeded_node_seeds_the_next() {
    let mut cluster =
        Cluster::plan(3, &method()).node(3, |node| node.server.push("wsrep_sst_donor=node2".to_owned())).build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 3000);
    cluster.start(2);
    let load = Load::start(&cluster, 1, 2, 3000);
    cluster.start(3);
    load.stop();
    let given = cluster.script_times(2).into_iter().filter(|run| run.is_donor()).count();
    assert_eq!(given, 1, "node 2 was the donor");
    cluster.assert_equal_tables();
}

/// What an earlier life left in the joiner's datadir is gone.
#[test]
fn a_stale_datadir_is_replaced() {
    let mut cluster = Cluster::plan(2, &method()).build();
    cluster.start(1);
    cluster.start(2);
    cluster.sql(1, "CREATE DATABASE gone; CREATE TABLE gone.t (id INT PRIMARY KEY); INSERT INTO gone.t VALUES (1)");
    cluster.stop(2);
    std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
    std::fs::create_dir(cluster.datadir(2).join("garbage")).unwrap();
    std::fs::write(cluster.datadir(2).join("garbage/t.ibd"), b"not a tablespace").unwrap();
    template::own(&cluster.datadir(2).join("garbage"));
    cluster.sql(1, "DROP DATABASE gone; CREATE DATABASE fresh; CREATE TABLE fresh.t (id INT PRIMARY KEY); INSERT INTO fresh.t VALUES (7)");
    cluster.start(2);
    cluster.assert_equal_tables();
    let schemas = cluster.sql(2, "SHOW DATABASES");
    assert!(schemas.contains("fresh") && !schemas.contains("gone"), "{schemas}");
    assert!(!cluster.datadir(2).join("gone").exists());
}

/// A node that missed little gets an IST: the scripts on both sides end at once and the datadir is left alone.
#[test]
fn a_bypass_costs_nothing() {
    let mut cluster = Cluster::plan(2, &method()).build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 3000);
    cluster.start(2);
    cluster.stop(2);
    cluster.sql(1, "CREATE TABLE sb.late (id INT PRIMARY KEY); INSERT INTO sb.late VALUES (1), (2)");
    let untouched = std::fs::metadata(cluster.datadir(2).join("sb/sbtest1.frm")).unwrap().ino();
    cluster.start(2);
    cluster.assert_equal_tables();
    assert_eq!(std::fs::metadata(cluster.datadir(2).join("sb/sbtest1.frm")).unwrap().ino(), untouched);
    let giving = cluster.script_times(1).pop().unwrap();
    assert!(giving.arguments.contains("--bypass"), "{giving:?}");
    let limit = if method() == "highline" { 1 } else { 10 };
    for run in [giving, cluster.script_times(2).pop().unwrap()] {
        assert!(run.took().unwrap() < Duration::from_secs(limit), "{run:?} took {:?}", run.took());
    }
}
