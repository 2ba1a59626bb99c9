//! Transfers that an operator starts: `highline receive` and `highline send` around real servers.

use crate::support::cluster::Cluster;
use crate::support::command::{bounded, run, server_user, succeed, text};
use crate::support::load::Load;
use crate::support::template;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// `highline receive` into `datadir`, and the ticket that it printed.
fn receive(cluster: &Cluster, datadir: &Path, address: &str) -> (Child, String) {
    receive_with(cluster, datadir, address, &[])
}

fn receive_with(cluster: &Cluster, datadir: &Path, address: &str, more: &[&str]) -> (Child, String) {
    let mut command = bounded(LIMIT, cluster.program());
    command.arg("receive").arg("--datadir").arg(datadir).arg("--listen").arg(format!("{address}:4444")).args(more);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut ticket = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ticket).unwrap();
    (child, ticket.trim().to_owned())
}

fn finished(mut child: Child) -> String {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    said
}

/// Two nodes are stopped, one is seeded from the other by hand, and both join by receiving only what they missed.
#[test]
fn a_node_that_was_reseeded_joins_by_ist() {
    let mut cluster = Cluster::plan(3, "highline").build();
    for n in 1..=3 {
        cluster.start(n);
    }
    cluster.prepare_sysbench(1, 2, 3000);
    cluster.stop(2);
    cluster.stop(3);
    cluster.wipe(2);

    let (receiver, ticket) = receive(&cluster, &cluster.datadir(2), &cluster.address(2));
    let mut send = bounded(LIMIT, cluster.program());
    succeed(send.arg("send").arg("--datadir").arg(cluster.datadir(3)).arg(&ticket));
    finished(receiver);
    let mut verify = bounded(LIMIT, cluster.program());
    succeed(verify.arg("verify").arg("--datadir").arg(cluster.datadir(2)));
    template::own(&cluster.datadir(2));

    cluster.sql(1, "CREATE TABLE sb.late (id INT PRIMARY KEY); INSERT INTO sb.late VALUES (1)");
    cluster.start(2);
    cluster.start(3);
    cluster.assert_equal_tables();
    cluster.check(2);
    let to_two = format!("{}:4444", cluster.address(2));
    let given = (1..=3).flat_map(|n| cluster.script_times(n)).filter(|run| run.is_donor());
    let given: Vec<_> = given.filter(|run| run.arguments.contains(&to_two)).collect();
    let full = given.iter().filter(|run| !run.arguments.contains("--bypass")).count();
    assert_eq!((full, given.len()), (1, 2), "the first start took a full transfer, the second none: {given:?}");
}

/// `send --source mariabackup` beside a server that works on, and a node that starts on what was prepared.
#[test]
fn a_backup_of_a_running_server_is_sent_by_hand() {
    let mut cluster = Cluster::plan(3, "highline").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    let user = server_user().unwrap_or("root");
    let account = format!("'{user}'@localhost");
    cluster.sql(
        1,
        &format!("CREATE USER IF NOT EXISTS {account} IDENTIFIED VIA unix_socket; GRANT ALL ON *.* TO {account}"),
    );
    let load = Load::start(&cluster, 1, 2, 20_000);
    let (datadir, address) = (cluster.datadir(2), cluster.address(2));
    let preparing = ["--use-memory", "64M", "--inno-apply-opts", "--innodb-max-dirty-pages-pct=90"];
    let (receiver, ticket) = receive_with(&cluster, &datadir, &address, &preparing);
    let mut send = bounded(LIMIT, cluster.program());
    send.arg("send").arg("--datadir").arg(cluster.datadir(1)).args(["--source", "mariabackup"]);
    send.arg(format!("--defaults-file={}", cluster.folder(1).join("my.cnf").display()));
    let sent = run(send.args(["--inno-backup-opts", "--throttle=1000"]).arg(&ticket));
    let (donor, joiner) = (text(&sent.stderr), finished(receiver));
    println!("{donor}\n{joiner}\n{:?}", load.stop());
    assert!(sent.status.success(), "{donor}");
    // The backup itself tells where it stands: nobody is told that nothing does.
    assert!(!donor.contains("has no position") && !joiner.contains("has no position"), "{donor}\n{joiner}");
    assert!(joiner.contains("prepared; syncing and installing"), "{joiner}");
    assert!(joiner.contains("the node can join by IST from there"), "{joiner}");
    template::own(&datadir);
    cluster.start(2);
    cluster.assert_equal_tables();
    cluster.check(2);
    let to_two = cluster.script_times(1).into_iter().filter(|run| run.is_donor());
    let kinds: Vec<bool> = to_two.map(|run| run.arguments.contains("--bypass")).collect();
    assert_eq!(kinds, [true], "it came by IST");
}

/// An arbitrator asks a serving node for its data, and a hand-started receiver takes it: a backup over the method's own wire.
#[test]
fn an_arbitrator_asks_and_a_receiver_takes() {
    let mut cluster = Cluster::plan(1, "highline").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 3000);
    let copy = tempfile::tempdir().unwrap();
    let address = cluster.address(1);
    let other = format!("{}.3", address.rsplit_once('.').unwrap().0);
    let (receiver, ticket) = receive(&cluster, copy.path(), &other);
    cluster.donate_to(1, &ticket);
    finished(receiver);
    cluster.wait_scripts_gone(1, LIMIT);
    cluster.wait_synced(1, LIMIT);
    for file in ["ibdata1", "ib_logfile0", "sb/sbtest1.ibd", "mysql/global_priv.MAD"] {
        assert!(copy.path().join(file).exists(), "{file} is missing");
    }
    cluster.sql(1, "CREATE TABLE sb.after (id INT PRIMARY KEY)");
}
