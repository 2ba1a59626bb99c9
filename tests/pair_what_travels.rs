//! What travels by hand: a directory that is no server's is refused, links that stand for data bring it along, and an option
//! file says where the rest is.

use crate::support::pair::Pair;
use crate::support::tree::{self, file};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

#[test]
fn a_directory_that_is_no_servers_is_not_sent() {
    let pair = Pair::default();
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    let refused = |lacks: &str| {
        let joiner = pair.receive(&["--install", "inplace"]);
        let donor = pair.send(&joiner.ticket, &[]).end(crate::support::pair::SECONDS);
        donor.failed(22, &["donor: ", "is not a server's whole data directory: it lacks ", lacks]);
        assert!(donor.stderr.contains("check the path of the data directory"), "{}", donor.stderr);
        drop(joiner);
        tree::assert_same(&before, &tree::read(&pair.joiner));
    };
    for name in ["my.cnf", "conf.d/50-server.cnf", "debian.cnf"] {
        file(&pair.donor, name, "[mysqld]");
    }
    refused("the system tablespace (ibdata1), the redo log (ib_logfile0), the schema mysql, Aria's control file");
    tree::complete(&pair.donor);
    for (name, lacks) in [
        ("ibdata1", "lacks the system tablespace (ibdata1)"),
        ("ib_logfile0", "lacks the redo log (ib_logfile0)"),
        ("aria_log_control", "lacks Aria's control file (aria_log_control)"),
        ("mysql", "lacks the schema mysql"),
    ] {
        fs::rename(pair.donor.join(name), pair.home().join(name)).unwrap();
        refused(lacks);
        fs::rename(pair.home().join(name), pair.donor.join(name)).unwrap();
    }
    pair.arrives(&["--install", "inplace"], &[]);
}

#[test]
fn a_linked_data_file_comes_along_or_is_refused() {
    for name in ["ibdata1", "ib_logfile0", "undo001", "aria_log_control", "shop/t.ibd", "shop/t.frm", "shop/u.MYD"] {
        let pair = Pair::default();
        tree::plain(&pair.donor, 1);
        tree::old(&pair.joiner);
        let far = pair.home().join("far");
        let place = file(&far, Path::new(name).file_name().unwrap(), tree::noise(5, 50_000));
        let _ = fs::remove_file(pair.donor.join(name));
        fs::create_dir_all(pair.donor.join("shop")).unwrap();
        symlink(&place, pair.donor.join(name)).unwrap();
        // On one host both nodes have one path for it: the joiner agrees to that.
        let agreed = format!("external-1={}", far.canonicalize().unwrap().display());
        let inode = fs::metadata(&place).unwrap().ino();
        pair.arrives(&["--root", &agreed], &[]);
        assert_ne!(fs::metadata(&place).unwrap().ino(), inode, "{name} did not arrive");
        assert_eq!(fs::read(&place).unwrap(), tree::noise(5, 50_000), "{name}");

        fs::remove_file(&place).unwrap();
        let before = tree::read(&pair.joiner);
        let joiner = pair.receive(&[]);
        let refused = pair.send(&joiner.ticket, &[]).end(crate::support::pair::SECONDS);
        refused.failed(22, &[name, "is a link in place of a data file, and leads to nothing"]);
        drop(joiner);
        tree::assert_same(&before, &tree::read(&pair.joiner));
    }
}

#[test]
fn an_option_file_says_where_the_rest_is_and_what_is_the_nodes_own() {
    let pair = Pair::default();
    for (data, number) in [(&pair.donor, 1), (&pair.joiner, 2)] {
        tree::plain(data, 1);
        let own = format!("node {number}");
        for name in
            ["logs/error.log", "logs/error.log.1", "schema/general", "tls/key", "tmp/#sql_1.MAD", "binlogs/b.000002"]
        {
            file(data, name, &own);
        }
        file(data, "binlogs/b.index", format!("{}/binlogs/b.000002\n", data.display()));
        for (name, place) in [("ib_logfile0", format!("redo{number}")), ("undo001", format!("undo{number}"))] {
            let place = pair.home().join(place);
            fs::create_dir(&place).unwrap();
            file(data, name, &own);
            fs::rename(data.join(name), place.join(name)).unwrap();
        }
        let options = format!(
            "[mysqld{number}]\ninnodb_log_group_home_dir={home}/redo{number}\ninnodb_undo_directory={home}/undo{number}\n\
             log_error=logs/error.log\ngeneral_log_file=schema/general\ntmpdir={data}/tmp\nlog_bin=binlogs/b\n\
             ssl_key=tls/key\n[highline{number}]\nkeep=mine\n",
            home = pair.home().display(),
            data = data.display()
        );
        file(data, "mine", &own);
        file(pair.home(), format!("my{number}.cnf"), options);
    }
    let of = |number: u8| {
        [
            format!("--defaults-file={}/my{number}.cnf", pair.home().display()),
            format!("--defaults-group-suffix={number}"),
        ]
    };
    let (there, here) = (of(1), of(2));
    fn words(of: &[String; 2]) -> Vec<&str> {
        of.iter().map(String::as_str).collect()
    }
    let inode = |name: &str| fs::metadata(pair.joiner.join(name)).unwrap().ino();
    let own = ["logs/error.log", "logs/error.log.1", "schema/general", "tls/key", "tmp/#sql_1.MAD", "mine"];
    let before = own.map(inode);
    // Without the option file the redo log is missing.
    let joiner = pair.receive(&words(&here));
    let blind = pair.send(&joiner.ticket, &[]).end(crate::support::pair::SECONDS);
    blind.failed(22, &["it lacks the redo log"]);
    drop(joiner);
    let both = pair.transfer(&words(&here), &words(&there));
    both.succeeded();
    assert!(both.donor.stderr.contains("logs/error.log (log-error)"), "{}", both.donor.stderr);
    for (name, inode_before) in own.iter().zip(before) {
        assert_eq!(fs::read_to_string(pair.joiner.join(name)).unwrap(), "node 2", "{name}");
        assert_eq!(inode(name), inode_before, "{name}");
    }
    let read = |place: &Path| fs::read_to_string(place).unwrap();
    assert_eq!(read(&pair.home().join("redo2/ib_logfile0")), "node 1");
    assert_eq!(read(&pair.home().join("undo2/undo001")), "node 1");
    assert_eq!(read(&pair.joiner.join("binlogs/b.000002")), "node 1");
    assert!(
        read(&pair.joiner.join("binlogs/b.index")).starts_with(pair.joiner.canonicalize().unwrap().to_str().unwrap())
    );
    let data = pair.joiner.to_str().unwrap();
    let verify = [vec!["verify", "--datadir", data], words(&here)].concat();
    pair.run(&verify).succeeded();
    let conflict = [verify, vec!["--root", "innodb-undo=/x"]].concat();
    pair.run(&conflict).failed(22, &["--root innodb-undo and --defaults-file both say where files are"]);
}

/// A joiner's own file in a schema that the donor has too, where the old tree goes first.
#[test]
fn files_of_the_nodes_own_outlive_an_old_tree_that_goes_first() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 1);
    tree::old(&pair.joiner);
    for name in ["schema/general", "old_schema/tmp/deep/x", "logs/e"] {
        file(&pair.joiner, name, "mine");
    }
    let options = format!(
        "[mysqld]\ngeneral_log_file=schema/general\ntmpdir={}/old_schema/tmp\nlog_error=logs/e\n",
        pair.joiner.display()
    );
    let options = file(pair.home(), "my.cnf", options);
    let flag = format!("--defaults-file={}", options.display());
    for install in ["inplace", "staged"] {
        pair.transfer(&["--install", install, &flag], &[]).succeeded();
        for name in ["schema/general", "old_schema/tmp/deep/x", "logs/e"] {
            assert_eq!(fs::read_to_string(pair.joiner.join(name)).unwrap(), "mine", "{install} {name}");
        }
        assert!(!pair.joiner.join("old_schema/t1.ibd").exists());
        pair.run(&["verify", "--datadir", pair.joiner.to_str().unwrap(), &flag]).succeeded();
    }
}
