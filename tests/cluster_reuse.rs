//! A node that was away comes back with its old tree: what others have not written since is not sent.

use crate::support::cluster::{Cluster, SYNC_LIMIT};
use crate::support::command::{bounded, succeed};
use crate::support::disk::SmallDisk;
use std::time::{Duration, Instant};

/// What the last joiner's line says before `words`, in bytes.
fn told(cluster: &Cluster, words: &str) -> f64 {
    let log = cluster.log(2);
    let line = log.lines().rfind(|line| line.contains("installed: ")).unwrap();
    let before = line.split_once(words).unwrap_or_else(|| panic!("{line}")).0;
    let mut figures = before.rsplit([' ', ',']).filter(|word| !word.is_empty());
    let unit = match figures.next().unwrap() {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        unit => panic!("{unit}: {line}"),
    };
    figures.next().unwrap().parse::<f64>().unwrap() * unit
}

/// Kills the second node, writes one of eight tables on the first, and starts the second so that it needs all.
fn away(cluster: &mut Cluster) {
    cluster.kill(2);
    // Otherwise it would come back by IST.
    std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
    // The first cannot serve until it has noticed.
    let update = "UPDATE sb.sbtest3 SET c = REVERSE(c), pad = REVERSE(pad) WHERE id % 10 = 0";
    let deadline = Instant::now() + SYNC_LIMIT;
    while let Err(why) = cluster.try_sql(1, update, SYNC_LIMIT) {
        assert!(Instant::now() < deadline, "{why}");
        std::thread::sleep(Duration::from_millis(500));
    }
    cluster.start(2);
    cluster.wait_synced(1, SYNC_LIMIT);
    cluster.assert_equal_tables();
    cluster.check(2);
}

fn eight_tables(highline: &[&str]) -> Cluster {
    let plan = Cluster::plan(2, "highline").highline("freeze=rounds").highline("compress=none");
    // Otherwise most of so small a tree is its redo log, which nodes do not share.
    let plan = plan.server("innodb_log_file_size=8M");
    let mut cluster = highline.iter().fold(plan, |plan, line| plan.highline(line)).build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 8, 25_000);
    cluster
}

#[test]
fn of_a_killed_nodes_tables() {
    let mut cluster = eight_tables(&[]);
    cluster.start(2);
    let full = told(&cluster, " on the wire");
    away(&mut cluster);
    let (wire, reused) = (told(&cluster, " on the wire"), told(&cluster, " reused of the old data"));
    println!("{full} {wire} {reused}");
    assert!(wire < full * 0.4 && reused > full * 0.5, "{full} {wire} {reused}");
    assert!(cluster.log(1).contains("its files are compared, and what differs is sent"), "{}", cluster.log(1));
    // It is a node like any other.
    cluster.stop(2);
    cluster.start(2);
    cluster.assert_equal_tables();
}

/// If the filesystem can, what is reused shares its blocks with the old tree until that is removed.
#[test]
fn by_clones() {
    let mut cluster = eight_tables(&[]);
    let data = cluster.datadir(2);
    std::fs::create_dir_all(&data).unwrap();
    let Some(_disk) = SmallDisk::format(&data, "xfs", 700) else {
        println!("not run: this needs the right to mount");
        return;
    };
    cluster.start(2);
    succeed(bounded(Duration::from_secs(20), "sync").arg("-f").arg(&data));
    away(&mut cluster);
    assert!(told(&cluster, " reused of the old data") > 3e7);
}
