//! Tests of the fixture itself, with a method that ships with the server.

use crate::support::cluster::Cluster;
use crate::support::load::Load;
use std::time::Duration;

/// A node without a datadir gets a full SST; a node that missed a little gets an IST; both hold the donor's rows.
#[test]
fn a_stock_method_gives_full_and_incremental_transfers() {
    let mut cluster = Cluster::plan(2, "rsync").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 2000);
    let load = Load::start(&cluster, 1, 2, 2000);
    cluster.start(2);
    std::thread::sleep(Duration::from_secs(2));
    let report = load.stop();
    assert!(report.probe.commits > 20, "the probe committed: {report:?}");
    assert!(report.rates.iter().any(|tps| *tps > 1.0), "sysbench wrote: {report:?}");
    cluster.assert_equal_tables();
    let runs = cluster.script_times(2);
    assert!(
        runs.iter().any(|run| run.is_joiner() && run.took().is_some()),
        "a joiner's script ran and ended: {runs:?}"
    );
    assert!(cluster.script_times(1).iter().all(|run| !run.arguments.contains("--bypass")));

    cluster.stop(2);
    cluster.sql(1, "CREATE TABLE sb.late (id INT PRIMARY KEY); INSERT INTO sb.late VALUES (1), (2), (3)");
    cluster.start(2);
    cluster.assert_equal_tables();
    assert_eq!(cluster.sql(2, "SELECT COUNT(*) FROM sb.late"), "3");
    assert!(
        cluster.script_times(1).iter().any(|run| run.arguments.contains("--bypass")),
        "the donor was told of an IST"
    );
}

/// A joiner whose method the donor does not have ends by itself, and says so.
#[test]
fn a_failing_start_is_seen() {
    let mut cluster = Cluster::plan(2, "no-such-method").build();
    cluster.start(1);
    let (status, log) = cluster.start_expecting_failure(2, Duration::from_secs(60));
    assert!(!status.success());
    assert!(log.contains("wsrep_sst_no-such-method"), "{log}");
    cluster.wait_synced(1, Duration::from_secs(20));
}

/// Every file of the server may be in a place of its own.
#[test]
fn a_layout_of_its_own_starts() {
    let mut cluster = Cluster::plan(1, "rsync")
        .server("innodb_data_home_dir={dir:home}")
        .server("innodb_log_group_home_dir={dir:redo}")
        .server("innodb_undo_directory={dir:undo}")
        .server("aria_log_dir_path={dir:aria}")
        .server("log_bin={dir:binlogs}/bin")
        .build();
    cluster.start(1);
    for (dir, file) in
        [("home", "ibdata1"), ("redo", "ib_logfile0"), ("aria", "aria_log_control"), ("binlogs", "bin.index")]
    {
        let path = cluster.folder(1).join(dir).join(file);
        assert!(path.exists(), "{} is missing", path.display());
    }
}
