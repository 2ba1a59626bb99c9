//! mysql-wsrep and Percona XtraDB Cluster, which cannot be run here: both roles between stand-ins that keep to those servers'
//! contract (`docs/sst-contract.md`, "Other servers").

use crate::support::fake_server::{Ended, Engine, FakeServer, Kind, UUID};
use crate::support::template::scratch;
use crate::support::tree;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const KINDS: [Kind; 2] = [Kind::MysqlWsrep, Kind::PerconaXtraDb];

/// More than what is copied in one pass under the lock.
const TABLE: usize = 80 << 20;

/// Two nodes and the donor's engine. Each test has an address of its own.
fn pair(kind: Kind, address: &str) -> (tempfile::TempDir, FakeServer, FakeServer, Engine) {
    let folder = scratch("highline-other-");
    let nodes = ["donor", "joiner"].map(|name| FakeServer::new(kind, &folder.path().join(name), address));
    let [donor, joiner] = nodes;
    for (node, id) in [(&donor, "1"), (&joiner, "2")] {
        let data = node.datadir();
        for schema in ["mysql", "shop"] {
            fs::create_dir(data.join(schema)).unwrap();
        }
        for (name, size) in
            [("ibdata1", 4 << 20), ("ib_logfile0", 1 << 20), ("aria_log_control", 52), ("undo_001", 1 << 20)]
        {
            fs::write(data.join(name), id.repeat(size)).unwrap();
        }
        fs::write(data.join("mysql/user.ibd"), id.repeat(100_000)).unwrap();
        fs::write(data.join("auto.cnf"), format!("[auto]\nserver-uuid={id}\n")).unwrap();
        fs::write(data.join("grastate.dat"), "").unwrap();
    }
    fs::write(donor.datadir().join("shop/orders.ibd"), vec![7u8; TABLE]).unwrap();
    let engine = Engine::start(&donor.datadir().join("shop/orders.ibd"));
    (folder, donor, joiner, engine)
}

/// Every line has a level that the server reads, or the format of the server's own log if it reads none.
#[track_caller]
fn assert_told(kind: Kind, ended: &Ended, words: &str) {
    assert!(ended.log.iter().any(|(_, text)| text.contains(words)), "{words}: {:?}", ended.log);
    for (level, text) in &ended.log {
        match kind {
            Kind::MysqlWsrep => assert!(text.contains("] Highline "), "{text}"),
            _ => assert!(!level.is_empty() && text.starts_with("Highline "), "{level}{text}"),
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn a_full_transfer_by_the_contract_of_each() {
    for (kind, address) in KINDS.into_iter().zip(["127.0.86.1:24610", "127.0.86.2:24610"]) {
        let (_folder, donor, joiner, engine) = pair(kind, address);
        let joining = joiner.join().unwrap();
        let sent = donor.donate(&joining.ready, 41, false, &engine).unwrap();
        let received = joining.end();

        assert_eq!(sent.gtid.as_deref(), Ok(&*format!("{UUID}:42")), "{sent:?}");
        assert_eq!(received.gtid, sent.gtid, "{received:?}");
        assert!(sent.status.success() && received.status.success());
        assert_eq!(sent.asked.first().map(String::as_str), Some("flush tables"));
        assert_eq!(&sent.asked[sent.asked.len() - 2..], ["continue".to_owned(), format!("done {UUID}:42")]);
        assert!(!engine.is_frozen() && !donor.datadir().join("tables_flushed").exists());

        let states = engine.states.lock().unwrap();
        assert!(
            read(&joiner.datadir().join("shop/orders.ibd")) == *states.last().unwrap(),
            "not as it was when it was frozen"
        );
        for same in ["ibdata1", "ib_logfile0", "undo_001", "mysql/user.ibd"] {
            assert!(read(&joiner.datadir().join(same)) == read(&donor.datadir().join(same)), "{same}");
        }
        assert_eq!(read(&joiner.datadir().join("auto.cnf")), b"[auto]\nserver-uuid=2\n", "the node's own");
        assert!(!joiner.datadir().join("sst_in_progress").exists());
        assert_told(kind, &sent, "frozen at ");
        assert_told(kind, &received, "installed: ");
    }
}

/// It is not known how MySQL's own data directory differs, so nothing of it is sent.
#[test]
fn a_data_directory_of_mysql_is_refused_before_the_freeze() {
    for (kind, address) in KINDS.into_iter().zip(["127.0.86.9:24610", "127.0.86.10:24610"]) {
        let (_folder, donor, joiner, engine) = pair(kind, address);
        fs::remove_file(donor.datadir().join("aria_log_control")).unwrap();
        fs::write(donor.datadir().join("mysql.ibd"), "").unwrap();
        let before = tree::read(&joiner.datadir());
        let joining = joiner.join().unwrap();
        let sent = donor.donate(&joining.ready, 41, false, &engine).unwrap();
        joining.method.cancel();
        let received = joining.end();
        assert!(sent.gtid.is_err() && received.gtid.is_err(), "{sent:?}");
        assert_eq!(sent.asked, [""; 0], "the server never stood still");
        assert_told(kind, &sent, "is a data directory of MySQL, which Highline does not send");
        assert_told(kind, &sent, "own methods, such as clone or xtrabackup-v2");
        tree::assert_same(&before, &tree::read(&joiner.datadir()));
    }
}

#[test]
fn a_bypass_by_the_contract_of_each() {
    for (kind, address) in KINDS.into_iter().zip(["127.0.86.3:24610", "127.0.86.4:24610"]) {
        let (_folder, donor, joiner, engine) = pair(kind, address);
        let before = tree::read(&joiner.datadir());
        let joining = joiner.join().unwrap();
        let sent = donor.donate(&joining.ready, 41, true, &engine).unwrap();
        let received = joining.end();
        assert_eq!(sent.gtid.as_deref(), Ok(&*format!("{UUID}:41")), "{sent:?}");
        assert_eq!(received.gtid, sent.gtid, "{received:?}");
        assert_eq!(sent.asked, [format!("done {UUID}:41")]);
        tree::assert_same(&before, &tree::read(&joiner.datadir()));
        assert_told(kind, &received, "bypass: nothing was changed");
    }
}

/// Percona's server signals the process group of a method that it cancels.
#[test]
fn a_cancelled_joiner_ends_at_once_and_both_servers_are_told() {
    for (kind, address) in KINDS.into_iter().zip(["127.0.86.5:24610", "127.0.86.6:24610"]) {
        let (_folder, donor, joiner, engine) = pair(kind, address);
        let before = tree::read(&joiner.datadir());
        let joining = joiner.join().unwrap();
        let request = joining.ready.clone();
        let started = Instant::now();
        joining.method.cancel();
        let received = joining.end();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(received.gtid.is_err() && !received.status.success(), "{received:?}");
        tree::assert_same(&before, &tree::read(&joiner.datadir()));

        // Its donor finds nobody.
        fs::write(
            donor.datadir().join("../my.cnf"),
            format!("[mysqld]\ndatadir={}\n[highline]\nconnect-timeout=2s\n", donor.datadir().display()),
        )
        .unwrap();
        let sent = donor.donate(&request, 41, false, &engine).unwrap();
        assert!(sent.gtid.is_err() && sent.status.code().is_some_and(|code| code != 0), "{sent:?}");
        assert!(!engine.is_frozen());
        if kind == Kind::PerconaXtraDb {
            assert!(sent.log.iter().any(|(level, _)| level == "ERR:"), "{:?}", sent.log);
        }
    }
}

/// What the documents say of Percona's server is what these find.
#[test]
fn percona_has_to_allow_the_method_and_the_ticket() {
    let (_folder, mut donor, joiner, engine) = pair(Kind::PerconaXtraDb, "127.0.86.7:24610");
    let joining = joiner.join().unwrap();
    donor.allowed = "xtrabackup-v2,clone";
    assert_eq!(
        donor.donate(&joining.ready, 41, false, &engine).unwrap_err(),
        "Invalid sst_request: the method is not allowed"
    );
    joining.method.cancel();
    joining.end();

    let (_folder, donor, joiner, engine) = pair(Kind::EarlyPerconaXtraDb, "127.0.86.8:24610");
    let joining = joiner.join().unwrap();
    let refused = donor.donate(&joining.ready, 41, false, &engine).unwrap_err();
    assert!(refused.contains('@'), "{refused}");
    joining.method.cancel();
    joining.end();
}
