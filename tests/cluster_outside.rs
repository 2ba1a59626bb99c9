//! Files outside the data directory at paths that are the same on all nodes, binary logs that each node names its own way,
//! and very many tables. Two nodes of one host see different files at one path: each in a mount namespace of its own.

use crate::support::cluster::{Cluster, SYNC_LIMIT};
use crate::support::command::server_user;
use crate::support::template;
use rustix::process::Signal;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

/// `DATA DIRECTORY` of each engine, partitions included, and a schema behind a symlink.
#[test]
fn tables_outside_the_data_directory_travel() {
    if server_user().is_none() {
        eprintln!("not run: this needs the right to mount");
        return;
    }
    let mut cluster = Cluster::plan(2, "highline").build();
    for n in 1..=2 {
        cluster.options(n).private_common = true;
    }
    let place = cluster.common().display().to_string();
    let own = |cluster: &Cluster, n: usize| cluster.folder(n).join("common");
    for n in 1..=2 {
        let common = own(&cluster, n);
        std::fs::create_dir(&common).unwrap();
        template::own(&common);
    }
    std::fs::create_dir(own(&cluster, 1).join("linked schema")).unwrap();
    template::own(&own(&cluster, 1));
    garbage(&cluster.datadir(2));

    cluster.start(1);
    symlink(format!("{place}/linked schema"), cluster.datadir(1).join("linked")).unwrap();
    cluster.sql(
        1,
        &format!(
            "CREATE DATABASE far; USE far;
             CREATE TABLE inno (id INT PRIMARY KEY, v VARCHAR(100)) ENGINE=InnoDB DATA DIRECTORY='{place}';
             INSERT INTO inno SELECT seq, REPEAT('x', 100) FROM seq_1_to_3000;
             CREATE TABLE isam (id INT PRIMARY KEY) ENGINE=MyISAM DATA DIRECTORY='{place}' INDEX DIRECTORY='{place}';
             INSERT INTO isam VALUES (1), (2);
             CREATE TABLE aria (id INT PRIMARY KEY) ENGINE=Aria TRANSACTIONAL=0 DATA DIRECTORY='{place}'; INSERT INTO aria VALUES (1);
             CREATE TABLE parted (id INT PRIMARY KEY) ENGINE=InnoDB PARTITION BY RANGE (id) (
               PARTITION p0 VALUES LESS THAN (10) DATA DIRECTORY='{place}', PARTITION p1 VALUES LESS THAN MAXVALUE);
             INSERT INTO parted VALUES (1), (100);
             CREATE TABLE linked.t (id INT PRIMARY KEY); INSERT INTO linked.t VALUES (1), (2), (3);
             CREATE TABLE linked.m (id INT PRIMARY KEY) ENGINE=MyISAM; INSERT INTO linked.m VALUES (1)"
        ),
    );
    cluster.start(2);
    cluster.assert_equal_tables();
    cluster.check(2);
    for file in ["far/inno.ibd", "far/parted#P#p0.ibd", "isam.MYD", "linked schema/t.ibd"] {
        assert!(own(&cluster, 2).join(file).exists(), "{file} is missing");
    }
    assert!(cluster.datadir(2).join("linked").is_symlink());
    assert!(!cluster.datadir(2).join("garbage").exists());

    cluster.stop(2);
    std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
    std::fs::write(own(&cluster, 2).join("far/inno.ibd"), "spoilt").unwrap();
    std::fs::write(own(&cluster, 2).join("not ours"), "of somebody else").unwrap();
    cluster.sql(1, "DROP TABLE far.isam; INSERT INTO far.inno VALUES (5000, 'late')");
    cluster.start(2);
    cluster.assert_equal_tables();
    cluster.check(2);
    assert!(own(&cluster, 2).join("not ours").exists());
    assert!(!own(&cluster, 2).join(".highline").exists(), "nothing of the transfer is left");
    cluster.stop(2);
    cluster.start(2);

    cluster.stop(2);
    std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
    cluster.sql(1, "INSERT INTO far.inno VALUES (5001, 'later')");
    cluster.spawn(2);
    kill_in_the_switch(&mut cluster, Duration::ZERO);
    cluster.wait_scripts_gone(1, Duration::from_secs(40));
    cluster.start(2);
    cluster.assert_equal_tables();
    cluster.check(2);
    assert!(!own(&cluster, 2).join(".highline").exists(), "nothing of the transfer is left");
}

/// What may be in a data directory although it is not data.
fn garbage(datadir: &Path) {
    for (name, text) in
        [("ibdata1", "not InnoDB's"), ("ib_logfile0", ""), ("garbage", "x"), ("binlog.index", "/nowhere\n")]
    {
        std::fs::write(datadir.join(name), text).unwrap();
    }
    std::fs::create_dir_all(datadir.join("schema/deep/er")).unwrap();
    std::fs::write(datadir.join("schema/db.opt"), "nonsense").unwrap();
    symlink("/nowhere/at/all", datadir.join("dangling")).unwrap();
    symlink("/etc", datadir.join("etc")).unwrap();
    symlink("/", datadir.join("everything")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, datadir.join("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    template::own(datadir);
}

/// Binary logs with different names and places on each side, and on one side only; the address is an IPv6 one.
#[test]
fn binary_logs_have_other_names_on_each_node() {
    let free = || TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let plan = Cluster::plan(3, "highline").without_install_options();
    let plan = plan.server("log_slave_updates=ON").server("gtid_strict_mode=ON");
    let mut cluster = plan
        .node(1, |node| {
            node.server.extend(["log_bin=a".to_owned(), "log_bin_index={dir:the index}/other.index".to_owned()])
        })
        .node(2, |node| {
            node.server.extend(["log_bin".to_owned(), "log_basename=second".to_owned()]);
            // A base name names these files too, unless they are named after it.
            node.server.extend(["log_error={node}/error.log".to_owned(), "pid_file={node}/pid".to_owned()]);
            node.server.push(format!("wsrep_sst_receive_address=[::1]:{}", free()));
        })
        .node(3, |node| node.server.push("wsrep_sst_donor=node2".to_owned()))
        .build();
    cluster.start(1);
    cluster.sql(1, "CREATE DATABASE lab; CREATE TABLE lab.t (id INT PRIMARY KEY); INSERT INTO lab.t VALUES (1); FLUSH BINARY LOGS; INSERT INTO lab.t VALUES (2)");
    cluster.start(2);
    assert!(cluster.log(1).contains("connected to the joiner at [::1]:"), "{}", cluster.log(1));
    writes_its_logs(&cluster, 2, "second-bin.", 3);
    cluster.start(3);
    cluster.assert_equal_tables();
    assert_eq!(cluster.sql(3, "SELECT @@log_bin"), "0");

    cluster.stop(2);
    std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
    cluster.options(2).server.push("wsrep_sst_donor=node3".to_owned());
    cluster.start(2);
    let given = cluster.script_times(3).into_iter().filter(|run| run.is_donor()).count();
    assert_eq!(given, 1, "node 3 was the donor");
    writes_its_logs(&cluster, 2, "second-bin.", 4);
    cluster.stop(2);
    cluster.start(2);
    cluster.assert_equal_tables();
}

/// The node's binary logs are called `prefix`… and take what is written, which is then equal everywhere.
fn writes_its_logs(cluster: &Cluster, n: usize, prefix: &str, id: u32) {
    cluster.sql(n, &format!("INSERT INTO lab.t VALUES ({id})"));
    cluster.assert_equal_tables();
    let logs = cluster.sql(n, "SHOW BINARY LOGS");
    assert!(!logs.is_empty() && logs.lines().all(|line| line.starts_with(prefix)), "{logs}");
    let last = logs.lines().last().and_then(|line| line.split('\t').next()).unwrap();
    let events = cluster.sql(n, &format!("SHOW BINLOG EVENTS IN '{last}'"));
    assert!(events.contains("lab.t"), "{last} of node {n}: {events}");
    let files: Vec<_> = std::fs::read_dir(cluster.datadir(n)).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!files.iter().any(|name| name.to_string_lossy().starts_with("a.0")), "a foreign log: {files:?}");
}

const MANY: u32 = 5000;

/// Very many tables, and the joiner's program is killed while it installs: the server can tell its position from what is
/// there then, and joins at its next start.
#[test]
fn many_tables_and_a_kill_in_the_switch() {
    let mut cluster = Cluster::plan(2, "highline").build();
    cluster.start(1);
    let mut script = tempfile::NamedTempFile::new().unwrap();
    writeln!(script, "SET SESSION wsrep_on = OFF; CREATE DATABASE many; USE many;").unwrap();
    for number in 0..MANY {
        // Nine in ten are of the engine that creates files quickly.
        let engine = if number % 10 == 0 { "InnoDB" } else { "MyISAM" };
        writeln!(script, "CREATE TABLE t{number} (id INT PRIMARY KEY) ENGINE={engine};").unwrap();
    }
    script.flush().unwrap();
    cluster.sql(1, &format!("source {}", script.path().display()));
    cluster.start(2);
    assert_eq!(count(&cluster), MANY.to_string());

    for round in 1..=2 {
        cluster.stop(2);
        std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
        cluster.sql(1, &format!("CREATE TABLE many.late{round} (id INT PRIMARY KEY)"));
        cluster.spawn(2);
        kill_in_the_switch(&mut cluster, Duration::from_millis(20 * (round - 1)));
        assert!(cluster.datadir(2).join(".highline/journal").exists(), "the switch was cut short");
        cluster.recover_position(2);
        cluster.wait_scripts_gone(1, Duration::from_secs(40));
        cluster.start(2);
        assert_eq!(count(&cluster), (u64::from(MANY) + round).to_string());
        assert!(!cluster.datadir(2).join(".highline").exists());
        cluster.wait_synced(1, SYNC_LIMIT);
    }
}

fn count(cluster: &Cluster) -> String {
    cluster.sql(2, "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'many'")
}

fn kill_in_the_switch(cluster: &mut Cluster, later: Duration) {
    let journal = cluster.datadir(2).join(".highline/journal");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !journal.exists() {
        assert!(Instant::now() < deadline, "no install began");
        std::thread::sleep(Duration::from_micros(200));
    }
    let run = cluster.script_times(2).into_iter().rfind(|run| run.is_running() && run.is_joiner()).unwrap();
    std::thread::sleep(later);
    run.signal(Signal::KILL);
    let status = cluster.wait_exit(2, Duration::from_secs(30));
    assert!(!status.success());
}
