//! `source=mariabackup` on real servers: a backup is sent while the donor's server runs, is verified, and then prepared.

use crate::support::cluster::{Cluster, Plan};
use crate::support::command::{bounded, run, text};
use crate::support::disk::SmallDisk;
use crate::support::load::{Load, meanwhile};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

const ACCOUNT: &str = "CREATE USER backup@localhost IDENTIFIED BY 'se cret';
    GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICA MONITOR ON *.* TO backup@localhost";

/// Tables of every engine, and one with more than a chunk.
const TABLES: &str = "CREATE DATABASE d; CREATE DATABASE empty;
    CREATE TABLE d.a (a INT PRIMARY KEY, b VARCHAR(200));
    CREATE TABLE d.p (a INT PRIMARY KEY, b VARCHAR(200)) PARTITION BY HASH (a) PARTITIONS 4;
    CREATE TABLE d.z (a INT PRIMARY KEY, b VARCHAR(200)) PAGE_COMPRESSED=1;
    CREATE TABLE d.m (a INT PRIMARY KEY, b VARCHAR(200)) ENGINE=MyISAM;
    CREATE TABLE d.r (a INT PRIMARY KEY, b VARCHAR(200)) ENGINE=Aria;
    INSERT INTO d.a SELECT seq, REPEAT('a', 150) FROM d.seq_1_to_20000;
    INSERT INTO d.p SELECT * FROM d.a; INSERT INTO d.z SELECT * FROM d.a; INSERT INTO d.m SELECT * FROM d.a;
    INSERT INTO d.r SELECT * FROM d.a";

fn plan() -> Plan {
    Cluster::plan(2, "highline").highline("source=mariabackup").server("wsrep_sst_auth=backup:se cret")
}

/// A donor with data and the account.
fn donor(plan: Plan) -> Cluster {
    let mut cluster = plan.without_install_options().build();
    cluster.start(1);
    cluster.sql(1, ACCOUNT);
    cluster.sql(1, TABLES);
    cluster
}

fn said(cluster: &Cluster, n: usize) -> String {
    cluster.log(n).lines().filter(|line| line.contains("Highline")).collect::<Vec<_>>().join("\n")
}

/// Waits for a phase of `highline status`.
#[track_caller]
fn becomes(cluster: &Cluster, n: usize, phase: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut status = bounded(LIMIT, cluster.program());
        let told = text(&run(status.args(["status", "--json", "--datadir"]).arg(cluster.datadir(n))).stdout);
        if told.contains(&format!("\"phase\": \"{phase}\"")) {
            return;
        }
        assert!(Instant::now() < deadline, "node {n} is not {phase}: {told}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Files that only the program itself reads do not stay in the data directory.
fn nothing_is_left(cluster: &Cluster, n: usize) {
    let names = std::fs::read_dir(cluster.datadir(n)).unwrap().map(|item| item.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let left = |name: &&String| {
        name.contains("backup")
            || *name == ".highline"
            || name.starts_with(".highline.kept")
            || *name == ".highline.manifest"
    };
    assert_eq!(names.iter().find(left), None, "{names:?}");
    assert!(names.iter().any(|name| name == "ibdata1"), "{names:?}");
}

#[test]
fn a_backup_under_load_arrives_whole_and_freezes_nobody() {
    let mut cluster = donor(plan().server("log_bin=binary").highline("compress=lz4"));
    cluster.prepare_sysbench(1, 2, 20_000);
    let load = Load::start(&cluster, 1, 2, 20_000);
    cluster.start(2);
    let seen = load.stop();
    println!("{}\n{}\n{seen:?}", said(&cluster, 1), said(&cluster, 2));
    cluster.wait_synced(1, LIMIT);
    let (donor, joiner) = (cluster.log(1), cluster.log(2));
    assert!(donor.contains("mariadb-backup: Acquired locks for BACKUP STAGE BLOCK_COMMIT"), "{donor}");
    assert!(!donor.contains("frozen at"), "{donor}");
    assert!(joiner.contains("the donor sends a backup: what is here is not reused"), "{joiner}");
    assert!(joiner.contains("prepared; syncing and installing"), "{joiner}");
    assert!(donor.contains("verified by the joiner, which is now preparing the backup"), "{donor}");
    assert!(!donor.contains("se cret") && !joiner.contains("se cret"));
    cluster.assert_equal_tables();
    cluster.check(2);
    nothing_is_left(&cluster, 2);
    // As its own donor's heir, and by IST after a restart.
    cluster.sql(1, "CREATE TABLE d.after (a INT PRIMARY KEY); INSERT INTO d.after VALUES (1)");
    cluster.stop(2);
    cluster.sql(1, "INSERT INTO d.after VALUES (2)");
    cluster.start(2);
    cluster.assert_equal_tables();
}

/// A joiner with data that is older than the donor's, so that all of it has to come.
fn aged(cluster: &mut Cluster) {
    cluster.start(2);
    cluster.stop(2);
    std::fs::remove_file(cluster.datadir(2).join("grastate.dat")).unwrap();
    cluster.sql(1, "CREATE TABLE d.later (a INT PRIMARY KEY)");
}

/// Every file of the old tree that a server reads first.
fn old_tree(cluster: &Cluster) -> Vec<Vec<u8>> {
    let read = |name: &&str| std::fs::read(cluster.datadir(2).join(name)).unwrap();
    ["ibdata1", "ib_logfile0", "aria_log_control", "d/a.ibd", "mysql/global_priv.MAD"].iter().map(read).collect()
}

/// A `mariadb-backup` that the joiner finds before the real one, and that runs it so when it prepares.
fn in_place_of_prepare(cluster: &Cluster, how: &str) {
    let script = format!(r#"case "$*" in *--prepare*) {how} /usr/bin/mariadb-backup "$@";; esac"#);
    program_begins(cluster, &script);
}

/// A `mariadb-backup` that both find before the real one, and that begins with this.
fn program_begins(cluster: &Cluster, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let place = cluster.program().with_file_name("mariadb-backup");
    let script = format!("#!/bin/sh\n{script}\nexec /usr/bin/mariadb-backup \"$@\"\n");
    std::fs::write(&place, script).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Starts the joiner, which must end; returns what both nodes logged, including their scripts' last words.
fn failure(cluster: &mut Cluster) -> (String, String) {
    let before = cluster.log(2).len();
    cluster.start_expecting_failure(2, LIMIT);
    for n in 1..=2 {
        cluster.wait_scripts_gone(n, LIMIT);
    }
    (cluster.log(1), cluster.log(2).split_off(before))
}

#[test]
fn a_prepare_that_is_killed_costs_the_joiner_nothing() {
    let mut cluster = donor(plan());
    aged(&mut cluster);
    let before = old_tree(&cluster);
    in_place_of_prepare(&cluster, "exec timeout -s KILL 0.1");
    let (_, joiner) = failure(&mut cluster);
    println!("{}\n{}", said(&cluster, 1), said(&cluster, 2));
    let why = "mariadb-backup cannot prepare the backup (";
    assert!(joiner.contains(why) && joiner.contains("the old data is untouched"), "{joiner}");
    cluster.wait_log(1, &format!("joiner: {why}"), LIMIT);
    assert!(old_tree(&cluster) == before, "the old tree");
    assert!(!cluster.datadir(2).join(".highline").exists());
    std::fs::remove_file(cluster.program().with_file_name("mariadb-backup")).unwrap();
    cluster.wait_synced(1, LIMIT);
    cluster.start(2);
    cluster.assert_equal_tables();
    nothing_is_left(&cluster, 2);
}

#[test]
fn success_is_no_evidence_that_a_backup_is_whole() {
    let mut cluster = donor(plan());
    aged(&mut cluster);
    let before = old_tree(&cluster);
    let no_position = r#"for word; do shift; [ "$word" = --galera-info ] || set -- "$@" "$word"; done"#;
    for (begins, why) in [
        (r#"case "$*" in *--prepare*) exit 0;; esac"#, "reports success but has not prepared the backup"),
        (no_position, "the backup does not say at which position the server was"),
        ("", "mariadb-backup left out datadir/"),
    ] {
        program_begins(&cluster, begins);
        if begins.is_empty() {
            // As an operator does for their own backups.
            cluster.options(1).server.extend(["[mariabackup]".to_owned(), "databases=d".to_owned()]);
            cluster.write_options(1);
        }
        let (donor, joiner) = failure(&mut cluster);
        println!("{}\n{}", said(&cluster, 1), said(&cluster, 2));
        assert!(donor.contains(why) && joiner.contains(why), "{why}: {donor}\n{joiner}");
        assert!(old_tree(&cluster) == before, "{why}: the old tree");
        cluster.wait_synced(1, LIMIT);
    }
}

#[test]
fn a_backup_is_prepared_with_the_page_size_and_the_system_files_of_the_server() {
    let plan = plan().server("innodb_page_size=8k").server("innodb_data_file_path=ibdata1:12M;ibdata2:12M:autoextend");
    // Not what the account has.
    let plan = plan.server("[client]").server("password=wr0ng");
    let mut cluster = plan.build();
    cluster.start(1);
    cluster.sql(1, ACCOUNT);
    cluster.sql(1, TABLES);
    // In the system tablespace.
    cluster.sql(1, "SET GLOBAL innodb_file_per_table=0");
    cluster.prepare_sysbench(1, 2, 50_000);
    let len = std::fs::metadata(cluster.datadir(1).join("ibdata2")).unwrap().len();
    assert!(len > 12 << 20, "{len}");
    let load = Load::start(&cluster, 1, 2, 50_000);
    cluster.start(2);
    let seen = load.stop();
    println!("{}\n{}\n{seen:?}", said(&cluster, 1), said(&cluster, 2));
    cluster.wait_synced(1, LIMIT);
    cluster.assert_equal_tables();
    cluster.check(2);
    nothing_is_left(&cluster, 2);
}

#[test]
fn a_wrong_password_is_named_on_both_sides() {
    let mut cluster = donor(plan().server("wsrep_sst_auth=backup:wr0ng"));
    let mut check = bounded(LIMIT, cluster.program());
    check.arg("check").arg(format!("--defaults-file={}", cluster.folder(1).join("my.cnf").display()));
    let told = text(&run(&mut check).stdout);
    assert!(told.contains("the account backup of wsrep_sst_auth cannot log in"), "{told}");
    let (donor, joiner) = failure(&mut cluster);
    let why = "Access denied for user 'backup'@'localhost' (using password: YES)";
    println!("{}\n{}", said(&cluster, 1), said(&cluster, 2));
    for (log, side) in [(&donor, "donor: mariadb-backup"), (&joiner, "donor: mariadb-backup")] {
        assert!(log.contains(why) && log.contains("wsrep_sst_auth"), "{side}: {log}");
    }
    assert!(!donor.contains("wr0ng") && !joiner.contains("wr0ng"));
    cluster.wait_synced(1, LIMIT);
}

/// From 12.x on the server makes an account for the transfer and names it on standard input (MDEV-31809), as it does with
/// the joiner's: here a wrapper around the method does both. The server alone still runs 10.11.
#[test]
fn an_account_on_standard_input_is_that_of_the_backup() {
    let mut cluster = donor(Cluster::plan(2, "highline").highline("source=mariabackup"));
    let wrapper = cluster.program().with_file_name("wsrep_sst_highline");
    let script = "#!/bin/sh\ncase \"$*\" in *--role?donor*)\n\
                  remote=$WSREP_SST_OPT_REMOTE_AUTH; unset WSREP_SST_OPT_REMOTE_AUTH WSREP_SST_OPT_AUTH\n\
                  printf 'sst_user=backup\\nsst_password=se cret\\nsst_remote_user=%s\\nsst_remote_password=%s\\n' \
                  \"${remote%%:*}\" \"${remote#*:}\" | highline sst \"$@\"\nexit;;\nesac\nexec highline sst \"$@\"\n";
    std::fs::write(&wrapper, script).unwrap();
    in_place_of_prepare(&cluster, "sleep 1.5; exec");
    cluster.spawn(2);
    for n in [1, 2] {
        becomes(&cluster, n, "preparing");
    }
    cluster.wait_synced(2, LIMIT);
    let (donor, joiner) = (cluster.log(1), cluster.log(2));
    assert!(donor.contains("mariadb-backup: Acquired locks for BACKUP STAGE BLOCK_COMMIT"), "{donor}");
    assert!(joiner.contains("prepared; syncing and installing"), "{joiner}");
    assert!(!donor.contains("se cret") && !joiner.contains("se cret"));
    cluster.assert_equal_tables();
}

#[test]
fn directories_of_their_own_get_their_files_and_the_servers_user_needs_no_password() {
    let mut plan = Cluster::plan(2, "highline").highline("source=mariabackup").sst("use-memory=128M");
    for line in [
        "innodb_undo_directory={dir:undo}",
        "innodb_undo_tablespaces=3",
        "innodb_log_group_home_dir={dir:log}",
        "innodb_data_home_dir={dir:data-home}",
        "aria_log_dir_path={dir:aria}",
        "log_bin={dir:binlog}/binary",
        "plugin_load_add=auth_socket",
    ] {
        plan = plan.server(line);
    }
    let mut cluster = plan.build();
    cluster.start(1);
    cluster.sql(1, TABLES);
    let user =
        std::process::Command::new("ps").args(["-o", "user=", "-p", &cluster.pid(1).to_string()]).output().unwrap();
    let user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
    cluster.sql(1, &format!("CREATE USER IF NOT EXISTS {user}@localhost IDENTIFIED VIA unix_socket; GRANT ALL ON *.* TO {user}@localhost"));
    cluster.start(2);
    println!("{}\n{}", said(&cluster, 1), said(&cluster, 2));
    cluster.assert_equal_tables();
    cluster.check(2);
    let there = |dir: &str, name: &str| cluster.folder(2).join(dir).join(name).exists();
    assert!(there("undo", "undo001") && there("log", "ib_logfile0") && there("data-home", "ibdata1"));
    assert!(there("aria", "aria_log_control") && !cluster.datadir(2).join("undo001").exists());
    cluster.stop(2);
    cluster.start(2);
    cluster.assert_equal_tables();
}

#[test]
fn what_a_backup_cannot_carry_is_refused_before_anything_is_touched() {
    let mut cluster = donor(plan());
    let outside = cluster.common();
    std::fs::create_dir_all(&outside).unwrap();
    crate::support::template::own(&outside);
    aged(&mut cluster);
    let before = old_tree(&cluster);
    cluster.sql(1, &format!("CREATE TABLE d.x (a INT PRIMARY KEY) DATA DIRECTORY='{}'", outside.display()));
    let (donor, joiner) = failure(&mut cluster);
    let why = "which source=mariabackup cannot carry";
    assert!(joiner.contains(why) && donor.contains(why), "{donor}\n{joiner}");
    assert!(old_tree(&cluster) == before, "the old tree");
}

#[test]
fn a_backup_is_refused_where_a_root_lies_on_another_filesystem() {
    // The undo directory does not exist yet, which is no reason.
    let mut cluster = donor(plan().node(2, |options| {
        options.server.push("innodb_log_group_home_dir={dir:log}".to_owned());
        options.server.push("innodb_undo_directory={node}/undo/new".to_owned());
    }));
    let place = cluster.folder(2).join("log");
    let Some(_disk) = SmallDisk::mount(&place, 200) else { return };
    let (donor, joiner) = failure(&mut cluster);
    println!("{}\n{}", said(&cluster, 1), said(&cluster, 2));
    let why = format!(
        "{} (innodb-log) is on another filesystem than the data directory, and a backup is prepared in one directory",
        place.display()
    );
    assert!(joiner.contains(&why) && joiner.contains("remedy: set source=files on the donors"), "{joiner}");
    assert!(donor.contains(&why), "{donor}");
    assert!(!cluster.datadir(2).join("ibdata1").exists() && !place.join("ib_logfile0").exists());
    cluster.wait_synced(1, LIMIT);
    // The remedy works.
    cluster.options(1).highline.push("source=files".to_owned());
    cluster.write_options(1);
    cluster.start(2);
    cluster.assert_equal_tables();
    assert!(place.join("ib_logfile0").exists());
}

#[test]
fn tables_that_are_made_renamed_and_dropped_meanwhile_are_as_they_are_at_the_end() {
    let plan = plan().highline("rate-limit=8M").server("wsrep_mode=REPLICATE_MYISAM,REPLICATE_ARIA");
    let mut cluster = donor(plan);
    // No table of Aria: mariadb-backup itself can lose one that is renamed while it runs.
    for n in 1..=20 {
        cluster.sql(1, &format!("CREATE TABLE d.old{n} ENGINE=MyISAM AS SELECT * FROM d.a LIMIT {n}"));
    }
    cluster.spawn(2);
    let mut turns = 0;
    let change = || {
        turns += 1;
        for statement in [
            format!("CREATE TABLE d.n{turns} (a INT PRIMARY KEY, b TEXT)"),
            format!("INSERT INTO d.n{turns} SELECT seq, REPEAT('n', 500) FROM d.seq_1_to_300"),
            format!("RENAME TABLE d.n{turns} TO d.o{turns}"),
            format!("DROP TABLE IF EXISTS d.o{}", turns - turns % 2),
            format!("ALTER TABLE d.o{turns} ADD COLUMN c INT DEFAULT 1, ALGORITHM=COPY"),
            format!("RENAME TABLE d.old{turns} TO d.new{turns}"),
        ] {
            // A table that was dropped or never created cannot be changed.
            let _ = cluster.try_sql(1, &statement, LIMIT);
        }
    };
    meanwhile(change, || cluster.wait_log(1, "Highline donor: done: ", LIMIT));
    println!("{turns} turns\n{}\n{}", said(&cluster, 1), said(&cluster, 2));
    assert!(turns > 2, "{turns}");
    cluster.wait_synced(2, LIMIT);
    cluster.assert_equal_tables();
    cluster.check(2);
    nothing_is_left(&cluster, 2);
}
