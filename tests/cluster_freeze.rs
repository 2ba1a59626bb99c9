//! The short freeze on real servers: what changes while passes run, clones, and what becomes of a node when a side dies
//! in the middle of it.

use crate::support::cluster::{Cluster, SYNC_LIMIT};
use crate::support::command::{bounded, run, succeed};
use crate::support::disk::SmallDisk;
use crate::support::load::{Load, meanwhile};
use crate::support::scripts::ScriptRun;
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// The tables of every kind that the server has files for.
const TABLES: &str = "CREATE DATABASE d;
    CREATE TABLE d.a (a INT PRIMARY KEY, b VARCHAR(200));
    CREATE TABLE d.p (a INT PRIMARY KEY, b VARCHAR(200)) PARTITION BY HASH (a) PARTITIONS 4;
    CREATE TABLE d.z (a INT PRIMARY KEY, b VARCHAR(200)) PAGE_COMPRESSED=1;
    CREATE TABLE d.m (a INT PRIMARY KEY, b VARCHAR(200)) ENGINE=MyISAM;
    CREATE TABLE d.mf (a INT PRIMARY KEY, b CHAR(200)) ENGINE=MyISAM ROW_FORMAT=FIXED;
    CREATE TABLE d.r (a INT PRIMARY KEY, b VARCHAR(200)) ENGINE=Aria;
    INSERT INTO d.a SELECT seq, REPEAT('a', 150) FROM d.seq_1_to_5000;
    INSERT INTO d.p SELECT * FROM d.a; INSERT INTO d.z SELECT * FROM d.a; INSERT INTO d.m SELECT * FROM d.a;
    INSERT INTO d.mf SELECT * FROM d.a; INSERT INTO d.r SELECT * FROM d.a";

/// One round of changes to data and schemas.
fn turn(n: u32) -> Vec<String> {
    let before = n.saturating_sub(1);
    let row = n % 5000 + 1;
    let mut all: Vec<String> = ["a", "p", "z", "m", "mf", "r"]
        .iter()
        .map(|t| {
            format!("UPDATE d.{t} SET b = REPEAT(CHAR(65 + {n} % 26), {n} % 150) WHERE a BETWEEN {row} AND {row} + 40")
        })
        .collect();
    all.extend([
        format!("CREATE TABLE d.n{n} (a INT PRIMARY KEY, b TEXT)"),
        format!("INSERT INTO d.n{n} SELECT seq, REPEAT('n', 500) FROM d.seq_1_to_300"),
        format!("RENAME TABLE d.n{before} TO d.o{before}"),
        format!("DROP TABLE IF EXISTS d.o{}", n.saturating_sub(3)),
        format!("CREATE DATABASE x{n}"),
        format!("CREATE TABLE x{n}.m (a INT PRIMARY KEY) ENGINE=Aria"),
        format!("DROP DATABASE IF EXISTS x{before}"),
        format!("INSERT INTO d.m VALUES (10000 + {n}, 'more')"),
        format!("INSERT INTO d.r VALUES (10000 + {n}, 'more')"),
    ]);
    all.push(match n % 5 {
        0 => "TRUNCATE TABLE d.p".to_owned(),
        1 => "OPTIMIZE TABLE d.z, d.m, d.r".to_owned(),
        2 => format!("ALTER TABLE d.a ADD COLUMN c{n} INT DEFAULT {n}, ALGORITHM=COPY"),
        3 => "FLUSH BINARY LOGS".to_owned(),
        _ => "ALTER TABLE d.p REBUILD PARTITION ALL".to_owned(),
    });
    all
}

/// Makes changes of every kind until the donor's server has been released; returns how many rounds.
fn changes_until_released(cluster: &Cluster) -> u32 {
    let mut turns = 0;
    let change = || {
        turns += 1;
        for statement in turn(turns) {
            // One may conflict with the load, or find that a table could not be created before.
            if let Err(why) = cluster.try_sql(1, &statement, LIMIT) {
                println!("{statement}: {why}");
            }
        }
    };
    meanwhile(change, || cluster.wait_log(1, "released: ", LIMIT));
    turns
}

/// Both nodes have the same rows, the joiner's tables are sound, and it comes back after a restart.
fn arrives(cluster: &mut Cluster) {
    cluster.wait_synced(2, SYNC_LIMIT);
    cluster.wait_synced(1, LIMIT);
    println!("{}", said(cluster, 1));
    cluster.assert_equal_tables();
    cluster.check(2);
    cluster.stop(2);
    cluster.start(2);
    cluster.assert_equal_tables();
}

/// What Highline said on node `n`.
fn said(cluster: &Cluster, n: usize) -> String {
    cluster.log(n).lines().filter(|line| line.contains("Highline")).collect::<Vec<_>>().join("\n")
}

/// Highline's own seconds under the lock in the last transfer.
fn ours(cluster: &Cluster) -> f64 {
    let log = cluster.log(1);
    let done = log.rsplit_once("until the server stood still, ").unwrap_or_else(|| panic!("{}", said(cluster, 1))).1;
    done.split_whitespace().next().unwrap().parse().unwrap()
}

fn passes_among_changes(server: &[&str]) {
    let plan = Cluster::plan(2, "highline").highline("freeze=rounds").highline("compress=none");
    let mut plan = plan.highline("rate-limit=16M").server("wsrep_mode=REPLICATE_MYISAM,REPLICATE_ARIA");
    for line in ["log_bin=binary", "innodb_undo_tablespaces=3", "innodb_undo_log_truncate=ON"].iter().chain(server) {
        plan = plan.server(line);
    }
    // The data is made by a server that has no keys yet.
    let mut cluster = if server == ENCRYPTED { plan.without_install_options().build() } else { plan.build() };
    for n in 1..=2 {
        std::fs::write(cluster.folder(n).join("keys"), "1;770A8A65DA156D24EE2A093277530142\n").unwrap();
    }
    cluster.start(1);
    cluster.sql(1, TABLES);
    cluster.prepare_sysbench(1, 2, 20_000);
    let load = Load::start(&cluster, 1, 2, 20_000);
    cluster.spawn(2);
    let turns = changes_until_released(&cluster);
    let seen = load.stop();
    let log = cluster.log(1);
    assert!(log.contains(" while the server runs: ") && log.contains(" under the lock: "), "{}", said(&cluster, 1));
    assert!(turns > 2 && seen.probe.commits > 20, "{turns} turns, {seen:?}");
    arrives(&mut cluster);
}

#[test]
fn after_passes_among_changes_of_every_kind() {
    passes_among_changes(&["myisam_use_mmap=1"]);
}

#[test]
fn after_passes_among_changes_in_the_page_cache() {
    passes_among_changes(&["innodb_flush_method=fsync"]);
}

/// Background threads keep encrypting tables while passes run.
const ENCRYPTED: &[&str] = &[
    "plugin_load_add=file_key_management",
    "file_key_management_filename={node}/keys",
    "innodb_encrypt_tables=ON",
    "innodb_encrypt_log=ON",
    "innodb_encryption_threads=2",
    "aria_encrypt_tables=ON",
    "encrypt_binlog=ON",
];

#[test]
fn after_passes_among_changes_to_encrypted_tables() {
    passes_among_changes(ENCRYPTED);
}

/// The first node's files on a filesystem of their own. `attributes`: of its data directory, for chattr(1).
fn on(cluster: &Cluster, kind: &str, mebibytes: u32, attributes: Option<&str>) -> Option<SmallDisk> {
    let (data, before) = (cluster.datadir(1), cluster.folder(1).join("before"));
    std::fs::rename(&data, &before).unwrap();
    std::fs::create_dir(&data).unwrap();
    let Some(disk) = SmallDisk::format(&data, kind, mebibytes) else {
        println!("not run on {kind}: this needs the right to mount");
        return None;
    };
    if let Some(attributes) = attributes {
        succeed(bounded(LIMIT, "chattr").arg(attributes).arg(&data));
    }
    succeed(bounded(LIMIT, "cp").arg("-a").arg(before.join(".")).arg(&data));
    Some(disk)
}

/// Two nodes, of which the first is on `kind` and has two tables.
fn donor_on(kind: &str, mebibytes: u32, attributes: Option<&str>, highline: &[&str]) -> Option<(Cluster, SmallDisk)> {
    let plan = highline.iter().fold(Cluster::plan(2, "highline"), |plan, line| plan.highline(line));
    let mut cluster = plan.build();
    let disk = on(&cluster, kind, mebibytes, attributes)?;
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    Some((cluster, disk))
}

/// The number of files that were cloned, which must not be zero.
fn clones(cluster: &Cluster) -> u32 {
    let log = cluster.log(1);
    let line = log.lines().rfind(|line| line.contains("cloned ")).unwrap_or_else(|| panic!("{}", said(cluster, 1)));
    let count = line.rsplit_once("cloned ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!(count > 0, "{}", said(cluster, 1));
    count
}

fn by_clones(kind: &str, attributes: Option<&str>) {
    let Some((mut cluster, _disk)) = donor_on(kind, 1400, attributes, &["freeze=clone"]) else { return };
    cluster.sql(1, "CREATE DATABASE d; CREATE TABLE d.m (a INT PRIMARY KEY) ENGINE=MyISAM; INSERT INTO d.m VALUES (1)");
    let load = Load::start(&cluster, 1, 2, 20_000);
    cluster.spawn(2);
    cluster.wait_log(1, "released: ", LIMIT);
    cluster.wait_synced(2, SYNC_LIMIT);
    load.stop();
    // The redo log at least, and a table that was written to.
    assert!(clones(&cluster) >= 2);
    assert!(cluster.log(1).contains(", by clones of "), "{}", said(&cluster, 1));
    assert!(cluster.log(1).contains(" from clones, after the server's release: "), "{}", said(&cluster, 1));
    assert!(!cluster.log(1).contains("are read instead"), "{}", said(&cluster, 1));
    let ours = ours(&cluster);
    assert!(ours < 1.0, "{ours} s\n{}", said(&cluster, 1));
    arrives(&mut cluster);
}

#[test]
fn by_clones_on_xfs() {
    by_clones("xfs", None);
}

#[test]
fn by_clones_on_btrfs() {
    by_clones("btrfs", None);
}

#[test]
fn by_clones_on_btrfs_without_copy_on_write() {
    by_clones("btrfs", Some("+C"));
}

/// If nothing can be cloned, the log says why, and what changed is read.
#[test]
fn the_log_says_why_nothing_was_cloned() {
    let mut cluster = Cluster::plan(2, "highline").highline("freeze=clone").build();
    let Some(_disk) = on(&cluster, "ext4", 1000, None) else { return };
    cluster.start(1);
    cluster.prepare_sysbench(1, 1, 5_000);
    cluster.start(2);
    assert!(cluster.log(1).contains("cloned 0 files of 0 B under the lock; "), "{}", said(&cluster, 1));
    assert!(cluster.log(1).contains(" are read instead ("), "{}", said(&cluster, 1));
    assert!(!cluster.log(1).contains("by clones"), "{}", said(&cluster, 1));
    arrives(&mut cluster);
}

/// An idle donor whose files are old: almost nothing is left to do under the lock.
#[test]
fn of_an_idle_donor_it_is_short() {
    let mut cluster = Cluster::plan(2, "highline").highline("freeze=rounds").build();
    cluster.start(1);
    cluster.sql(1, "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b VARBINARY(8000))");
    for part in 0..8 {
        cluster.sql(
            1,
            &format!(
                "SET SESSION wsrep_on=OFF; INSERT INTO d.t SELECT seq + 10000 * {part}, REPEAT(SHA2(seq, 512), 60)
                 FROM d.seq_1_to_3500"
            ),
        );
    }
    // Dirty pages reach the files.
    cluster.stop(1);
    cluster.start(1);
    // Older than the margin within which a stamp proves nothing.
    let deadline = Instant::now() + Duration::from_secs(45);
    let young = || {
        let mut find = bounded(LIMIT, "find");
        find.arg(cluster.datadir(1)).args(["-name", "*.ibd", "-size", "+1M", "-newermt", "11 seconds ago"]);
        succeed(&mut find)
    };
    while !young().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(young(), "");
    cluster.start(2);
    println!("{}", said(&cluster, 1));
    let ours = ours(&cluster);
    assert!(ours < 0.3, "{ours} s\n{}", said(&cluster, 1));
    let log = cluster.log(1);
    let last = log.lines().rfind(|line| line.contains(" under the lock: ")).unwrap();
    let (before, _) = last.split_once(" on the wire").unwrap();
    let small = before.rsplit(' ').next().is_some_and(|unit| matches!(unit, "B" | "KiB" | "kB" | "KB"));
    assert!(small, "{last}");
    arrives(&mut cluster);
}

fn set(cluster: &mut Cluster, lines: &[&str]) {
    for n in 1..=2 {
        cluster.options(n).highline = lines.iter().map(|&line| line.to_owned()).collect();
        cluster.write_options(n);
    }
}

/// Every name in a data directory, with its length.
fn names(data: &Path) -> String {
    let mut find = bounded(LIMIT, "find");
    find.arg(data).args(["-mindepth", "1", "-printf", "%P\n"]);
    let mut names: Vec<String> = String::from_utf8(run(&mut find).stdout).unwrap().lines().map(str::to_owned).collect();
    // What a server creates and removes by itself.
    names.retain(|name| !["gvwstate.dat", "tables_flushed", "ib_buffer_pool"].contains(&name.as_str()));
    names.sort();
    names.join("\n")
}

/// The digests of all files that tables consist of.
fn old_data(data: &Path) -> String {
    let mut sums = bounded(LIMIT, "sh");
    sums.args(["-c", "cd \"$1\" && find mysql sb ibdata1 ib_logfile0 -type f | sort | xargs sha256sum", "sh"])
        .arg(data);
    succeed(&mut sums)
}

/// A joiner that already has data and asks for a full transfer.
fn has_old_data(cluster: &mut Cluster) -> String {
    set(cluster, &[]);
    cluster.start(2);
    cluster.stop(2);
    std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
    old_data(&cluster.datadir(2))
}

/// Kills Highline on node `n` when the donor's log says `words`; returns what becomes of both.
fn killed(cluster: &mut Cluster, n: usize, words: &str, old: &str) {
    let load = Load::start(cluster, 1, 2, 20_000);
    let before = cluster.log(1).len();
    let there = names(&cluster.datadir(1));
    cluster.spawn(2);
    let role = if n == 1 { ScriptRun::is_donor } else { ScriptRun::is_joiner };
    let deadline = Instant::now() + LIMIT;
    while !cluster.log(1).get(before..).unwrap_or_default().contains(words) {
        assert!(Instant::now() < deadline, "the donor never said {words:?}\n{}", said(cluster, 1));
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(300));
    let run = cluster.wait_script(n, role, LIMIT);
    let killed = Instant::now();
    run.signal(Signal::KILL);
    // One second of it is the donor's, which keeps dialling in case the joiner is back.
    const SOON: Duration = Duration::from_secs(5);
    cluster.wait_scripts_gone(1, SOON);
    cluster.sql(1, &format!("CREATE TABLE sb.after_{} (a INT PRIMARY KEY)", cluster.log(1).len()));
    let waited = killed.elapsed();
    println!("{words:?}, node {n}: writes again after {waited:?}");
    assert!(!cluster.wait_exit(2, LIMIT).success(), "a joiner without its data does not serve");
    load.stop();
    assert!(cluster.log(1).get(before..).unwrap_or_default().contains(words));
    assert!(waited < SOON, "no writes for {waited:?}\n{}", cluster.log(1).get(before..).unwrap_or_default());
    cluster.wait_synced(1, LIMIT);
    assert_eq!(old_data(&cluster.datadir(2)), old, "the joiner's data");
    let left: Vec<String> = names(&cluster.datadir(1))
        .lines()
        .filter(|name| {
            !there.lines().any(|known| known == *name) && !name.contains("after_") && !name.contains("probe")
        })
        .map(str::to_owned)
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn recovers(mut cluster: Cluster) {
    set(&mut cluster, &[]);
    cluster.start(2);
    cluster.assert_equal_tables();
    cluster.check(2);
}

#[test]
fn a_side_is_killed_in_a_pass_or_under_the_lock() {
    let mut cluster = Cluster::plan(2, "highline").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    let old = has_old_data(&mut cluster);
    for (mode, words) in [("freeze=rounds", "agreed with "), ("freeze=whole", "frozen at ")] {
        for n in 1..=2 {
            set(&mut cluster, &[mode, "rate-limit=4M", "compress=none"]);
            killed(&mut cluster, n, words, &old);
        }
    }
    recovers(cluster);
}

#[test]
fn a_side_is_killed_while_clones_are_held() {
    let Some((mut cluster, _disk)) = donor_on("xfs", 1400, None, &[]) else { return };
    let old = has_old_data(&mut cluster);
    for n in 1..=2 {
        set(&mut cluster, &["freeze=clone", "rate-limit=16M", "compress=none"]);
        killed(&mut cluster, n, "released: ", &old);
        assert!(clones(&cluster) > 0);
    }
    recovers(cluster);
}

#[test]
fn a_disk_fills_while_clones_are_held() {
    let options = ["freeze=clone", "rate-limit=8M", "compress=none"];
    let Some((mut cluster, _disk)) = donor_on("xfs", 1400, None, &options) else { return };
    let load = Load::start(&cluster, 1, 2, 20_000);
    cluster.spawn(2);
    cluster.wait_log(1, "released: ", LIMIT);
    assert!(clones(&cluster) > 0);
    // All but 200 MiB.
    let filler = cluster.datadir(1).join("galera.filler");
    let free = succeed(bounded(LIMIT, "stat").args(["-f", "-c", "%a %S"]).arg(cluster.datadir(1)));
    let (blocks, size) = free.trim().split_once(' ').unwrap();
    let free: u64 = blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap();
    succeed(bounded(LIMIT, "fallocate").arg("-l").arg((free - (200 << 20)).to_string()).arg(&filler));
    assert!(!cluster.wait_exit(2, LIMIT).success());
    assert!(cluster.is_running(1));
    cluster.sql(1, "CREATE TABLE sb.lives (a INT PRIMARY KEY)");
    for words in ["are free on the filesystem of", "and clones of the server's files were held there", "freeze=rounds"]
    {
        assert!(cluster.log(1).contains(words), "{}", said(&cluster, 1));
    }
    std::fs::remove_file(filler).unwrap();
    load.stop();
    cluster.wait_synced(1, LIMIT);
    cluster.wait_scripts_gone(1, LIMIT);
    recovers(cluster);
}
