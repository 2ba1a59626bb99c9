//! What clients and the server itself do to a frozen donor's files: `docs/under-the-freeze.md`, on real servers.

use crate::support::cluster::{Cluster, SYNC_LIMIT};
use crate::support::load::meanwhile;
use std::time::{Duration, Instant};

/// Node 1 sends everything while it is frozen, for some seconds; node 2 waits for it.
fn frozen() -> Cluster {
    let plan = Cluster::plan(2, "highline").highline("rate-limit=12M").highline("compress=none");
    let mut cluster = plan.highline("freeze=whole").build();
    began(&mut cluster);
    cluster.wait_log(1, "frozen at ", Duration::from_secs(60));
    assert!(cluster.log(1).contains("at rate-limit: writes wait for up to"), "{}", cluster.log(1));
    // What docs/galera.md says about it.
    let state = "SELECT GROUP_CONCAT(variable_value ORDER BY variable_name) FROM information_schema.global_status
        WHERE variable_name IN ('wsrep_ready', 'wsrep_local_state')";
    assert_eq!(cluster.sql(1, state), "2,ON");
    assert_eq!(cluster.sql(1, "SELECT COUNT(*) FROM d.t"), "2000");
    cluster
}

fn began(cluster: &mut Cluster) {
    cluster.start(1);
    cluster.sql(
        1,
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b INT); CREATE TABLE d.m (a INT) ENGINE=MyISAM;
         CREATE TABLE d.r (a INT) ENGINE=Aria; INSERT INTO d.t SELECT seq, seq FROM d.seq_1_to_2000;
         SET GLOBAL log_output = 'TABLE'; SET GLOBAL slow_query_log = ON; SET GLOBAL long_query_time = 0",
    );
    cluster.spawn(2);
}

fn arrives(mut cluster: Cluster) -> Cluster {
    cluster.wait_synced(2, SYNC_LIMIT);
    assert!(cluster.log(1).contains("released: "), "{}", cluster.log(1));
    cluster.assert_equal_tables();
    cluster.check(2);
    cluster
}

/// Any client that may read may run these.
#[test]
fn a_reader_makes_the_server_write() {
    let cluster = frozen();
    let before = Instant::now();
    for statement in [
        "CREATE TEMPORARY TABLE d.scratch (a INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO d.scratch VALUES (1)",
        "ANALYZE LOCAL TABLE d.t",
        "CHECK TABLE d.r, d.m, mysql.global_priv",
        "CREATE TEMPORARY TABLE d.scratch (a INT) ENGINE=Aria; INSERT INTO d.scratch VALUES (1)",
        "FLUSH LOCAL TABLES d.m",
    ] {
        let said = cluster.try_sql(1, statement, Duration::from_secs(3));
        println!("{:?} {statement}: {said:?}", before.elapsed());
    }
    assert!(!cluster.log(1).contains("released: "), "the transfer was over too soon for this test");
    arrives(cluster);
}

/// Clients that never stop: the redo log and a log table are written to all the time.
#[test]
fn clients_go_on_all_the_time() {
    for mode in ["whole", "rounds", "clone"] {
        let plan = Cluster::plan(2, "highline").highline(&format!("freeze={mode}")).highline("compress=none");
        let mut cluster = plan.highline("rate-limit=20M").build();
        began(&mut cluster);
        busy(cluster);
    }
}

fn busy(cluster: Cluster) {
    let many: String = (0..200)
        .map(|n| format!("CREATE TEMPORARY TABLE d.s{n} (a INT) ENGINE=InnoDB; DROP TEMPORARY TABLE d.s{n};"))
        .collect();
    let work = || _ = cluster.try_sql(1, &many, Duration::from_secs(20));
    meanwhile(work, || cluster.wait_log(1, "released: ", Duration::from_secs(60)));
    let cluster = arrives(cluster);
    cluster.sql(2, "SELECT COUNT(*) FROM mysql.slow_log");
}

/// Statements that change a schema wait, one after another, and none of them gets into the copy.
#[test]
fn schema_changes_wait() {
    let cluster = frozen();
    let waits = |statement: &str| {
        let said = cluster.try_sql(1, statement, Duration::from_secs(60));
        assert!(cluster.log(1).contains("released: "), "`{statement}` did not wait: {said:?}");
        said.unwrap_or_else(|e| panic!("{statement}: {e}"));
    };
    std::thread::scope(|scope| {
        let waits = &waits;
        for statement in [
            "CREATE TABLE d.first (a INT PRIMARY KEY)",
            "CREATE TABLE d.second (a INT PRIMARY KEY)",
            "ALTER TABLE d.t ADD COLUMN c INT",
            "SET SESSION wsrep_OSU_method = 'RSU'; ALTER TABLE d.m ENGINE=MyISAM",
            "TRUNCATE TABLE d.r",
        ] {
            scope.spawn(move || waits(statement));
            std::thread::sleep(Duration::from_millis(100));
        }
        // Reads do not wait.
        assert_eq!(cluster.sql(1, "SELECT COUNT(*) FROM d.t"), "2000");
        assert!(!cluster.log(1).contains("released: "), "the transfer was over too soon for this test");
    });
    let cluster = arrives(cluster);
    assert!(cluster.sql(2, "SHOW TABLES IN d").contains("second"));
}
