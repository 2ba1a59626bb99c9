//! A link that breaks between real nodes: in one lane, and altogether.

use crate::support::cluster::{Cluster, SYNC_LIMIT};
use crate::support::faulty_link::{FaultyLink, WELL};
use crate::support::load::Load;
use crate::support::tree;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// What an operator finds in the logs of both sides, in this order.
const DONOR: [&str; 7] =
    ["starts as donor", "connected to", "agreed with", "frozen at", "released", "verified by the joiner", "done: "];
const JOINER: [&str; 6] =
    ["starts as joiner", "waiting for the donor", "has proven itself", "agreed with", "verified: ", "installed: "];

fn assert_told(log: &str, side: &str, words: &[&str]) {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&format!("Highline {side}"))).collect();
    let mut rest = lines.iter();
    for word in words {
        assert!(rest.any(|line| line.contains(word)), "{side}: no {word:?} in its place: {lines:#?}");
    }
}

/// A cluster whose node 2 is reached through a proxy.
fn through_a_link() -> (Cluster, FaultyLink) {
    let mut cluster = Cluster::plan(2, "highline").highline("rate-limit=8M").build();
    let joiner = format!("{}:4444", cluster.address(2));
    let announced = format!("{}.7", cluster.address(2).rsplit_once('.').unwrap().0);
    let link = FaultyLink::at(format!("{announced}:4444").parse().unwrap(), joiner.parse().unwrap(), |_| WELL);
    let options = cluster.options(2);
    options.server.push(format!("wsrep_sst_receive_address={announced}:4444"));
    options.highline.push(format!("listen={joiner}"));
    (cluster, link)
}

/// One lane breaks, then everything, and the transfer continues, with the donor's query log in a table. Then the link stays cut:
/// the donor serves again, the joiner keeps what it had, and the next transfer needs no help.
#[test]
fn a_lane_and_then_the_link_are_cut() {
    let (mut cluster, link) = through_a_link();
    cluster.start(1);
    cluster.prepare_sysbench(1, 4, 20_000);
    cluster.sql(1, "SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = ON; SET GLOBAL slow_query_log = ON; SET GLOBAL long_query_time = 0");
    let load = Load::start(&cluster, 1, 4, 20_000);
    cluster.spawn(2);
    link.passed(4 << 20);
    link.cut(|number| number == 2);
    link.passed(8 << 20);
    link.down();
    std::thread::sleep(Duration::from_millis(700));
    link.up();
    cluster.wait_synced(2, SYNC_LIMIT);
    load.stop();
    cluster.sql(1, "SET GLOBAL general_log = OFF; SET GLOBAL slow_query_log = OFF");
    cluster.assert_equal_tables();
    assert!(cluster.log(1).contains("broke and is being dialled again"), "a lane was cut: {}", cluster.log(1));
    for n in 1..=2 {
        assert!(cluster.log(n).contains("the control connection is back"), "{}", cluster.log(n));
    }
    assert!(cluster.sql(2, "SELECT COUNT(*) > 0 FROM mysql.general_log") == "1", "the donor's log came along");
    assert_told(&cluster.log(1), "donor", &DONOR);
    assert_told(&cluster.log(2), "joiner", &JOINER);

    cluster.stop(2);
    std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
    let old = left(&cluster);
    for n in 1..=2 {
        cluster.options(n).highline.push("idle-timeout=5".into());
        cluster.write_options(n);
    }
    let passed = link.bytes().0;
    cluster.spawn(2);
    link.passed(passed + (4 << 20));
    link.down();
    let cut = Instant::now();
    let status = cluster.wait_exit(2, LIMIT);
    assert!(!status.success());
    cluster.wait_scripts_gone(1, LIMIT);
    cluster.sql(1, "CREATE TABLE sb.unlocked (id INT PRIMARY KEY)");
    assert!(cut.elapsed() < Duration::from_secs(15), "the donor took no writes for {:?}", cut.elapsed());
    cluster.wait_synced(1, LIMIT);
    cluster.wait_scripts_gone(2, LIMIT);
    tree::assert_same(&left(&cluster), &old);
    link.up();

    for n in 1..=2 {
        cluster.options(n).highline.retain(|line| !line.starts_with("rate-limit"));
        cluster.write_options(n);
    }
    cluster.start(2);
    cluster.assert_equal_tables();
    cluster.check(2);
}

/// The link is cut while the donor is frozen: it serves again after `freeze-limit`, is frozen once more when the link is
/// back, and what was written in between arrives.
#[test]
fn a_cut_under_the_lock_releases_the_donor() {
    let (mut cluster, link) = through_a_link();
    for n in 1..=2 {
        cluster.options(n).highline.extend(["freeze=whole".into(), "freeze-limit=3".into()]);
    }
    cluster.start(1);
    cluster.prepare_sysbench(1, 4, 20_000);
    cluster.spawn(2);
    link.passed(4 << 20);
    assert!(cluster.log(1).contains("frozen at"), "{}", cluster.log(1));
    link.down();
    let cut = Instant::now();
    cluster.sql(1, "CREATE TABLE sb.meanwhile (id INT PRIMARY KEY); INSERT INTO sb.meanwhile VALUES (7)");
    let waited = cut.elapsed();
    println!("writes again {waited:?} after the cut");
    assert!(waited > Duration::from_secs(2) && waited < Duration::from_secs(6), "no writes for {waited:?}");
    link.up();
    cluster.wait_synced(2, SYNC_LIMIT);
    cluster.assert_equal_tables();
    assert_eq!(cluster.sql(2, "SELECT id FROM sb.meanwhile"), "7");
    let words = ["the control connection is lost", "released", "the control connection is back", "frozen at", "done: "];
    assert_told(&cluster.log(1), "donor", &words);
}

/// What a failed transfer must not change: the datadir, except for what Galera itself keeps there.
fn left(cluster: &Cluster) -> tree::Tree {
    let mut tree = tree::read(&cluster.datadir(2));
    tree.retain(|name, _| name != b"gvwstate.dat");
    tree
}
