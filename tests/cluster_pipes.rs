//! Byte streams between real programs: a dump into a server, a physical backup into a directory, an archive.

use crate::support::cluster::Cluster;
use crate::support::command::{bounded, succeed, text};
use crate::support::pair::{Both, LIMIT};
use crate::support::pipe::Pipes;
use std::collections::BTreeMap;
use std::time::Duration;

fn server() -> Cluster {
    let mut cluster = Cluster::plan(1, "highline").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 2, 20_000);
    cluster.sql(
        1,
        "CREATE TABLE sb.b (id INT PRIMARY KEY, b LONGBLOB);
        INSERT INTO sb.b SELECT seq, REPEAT(UNHEX(SHA1(seq)), 20000) FROM sb.seq_1_to_20; CREATE DATABASE copy",
    );
    cluster
}

fn client(cluster: &Cluster, program: &str) -> String {
    format!("{program} --no-defaults --skip-ssl -u root -S '{}'", cluster.socket(1).display())
}

/// The checksums of a schema's tables, by their names.
fn checksums(cluster: &Cluster, schema: &str) -> BTreeMap<String, String> {
    let all = cluster.checksum_tables(1).into_iter();
    let prefix = format!("{schema}.");
    all.filter_map(|(table, sum)| Some((table.strip_prefix(&prefix)?.to_owned(), sum))).collect()
}

#[test]
fn a_dump_arrives_in_another_server_as_it_was() {
    let cluster = server();
    let (dump, client) = (client(&cluster, "mariadb-dump"), client(&cluster, "mariadb"));
    let sent = checksums(&cluster, "sb");
    assert_eq!(sent.len(), 3);

    let pipes = Pipes::default();
    let both = pipes.stream(&format!("{dump} --single-transaction sb"), &format!("{client} copy"));
    both.succeeded();
    assert_eq!(checksums(&cluster, "copy"), sent);

    // The same by standard input and output.
    cluster.sql(1, "DROP DATABASE copy; CREATE DATABASE copy");
    let joiner = pipes.receive_stdout("", &format!("| {client} copy"));
    let donor = pipes.send_stdin(&joiner.ticket, &format!("{dump} --single-transaction sb"));
    Both::of(donor, joiner, LIMIT).succeeded();
    assert_eq!(checksums(&cluster, "copy"), sent);

    // What fails at either end has its cause at both.
    let both = pipes.stream(&format!("exec {dump} no_such_schema"), &format!("exec {client} copy"));
    both.failed(125, &["sh ended with exit status 2", "Unknown database 'no_such_schema'"]);
    let both = pipes.stream(&format!("exec {dump} sb"), &format!("exec {client} no_such_schema"));
    both.failed(125, &["sh ended with exit status 1", "Unknown database 'no_such_schema'"]);
    cluster.check(1);
}

#[test]
fn a_physical_backup_arrives_and_can_be_prepared() {
    let cluster = server();
    let pipes = Pipes::default();
    let folders = ["target", "backup"].map(|name| pipes.path(name));
    folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let backup = format!(
        "mariadb-backup --no-defaults --backup --stream=mbstream --user=root --socket='{}' --datadir='{}' --target-dir=backup",
        cluster.socket(1).display(),
        cluster.datadir(1).display()
    );
    pipes.stream(&backup, "mbstream -x -C target").succeeded();
    let mut prepare = bounded(Duration::from_secs(60), "mariadb-backup");
    prepare.args(["--no-defaults", "--prepare", "--target-dir"]).arg(&folders[0]);
    let prepared = prepare.output().unwrap();
    assert!(prepared.status.success(), "{}", text(&prepared.stderr));
    assert!(folders[0].join("sb/sbtest1.ibd").exists() && folders[0].join("sb/b.ibd").exists());
}

#[test]
fn an_archive_arrives_as_it_was() {
    let pipes = Pipes::default();
    for (name, size) in [("there/a", 5 << 20), ("there/deep/b", 1), ("there/deep/empty", 0)] {
        std::fs::create_dir_all(pipes.path(name).parent().unwrap()).unwrap();
        std::fs::write(pipes.path(name), vec![7; size]).unwrap();
    }
    std::fs::create_dir(pipes.path("here")).unwrap();
    pipes.stream("tar -C there -cf - .", "tar -C here -xf -").succeeded();
    succeed(bounded(LIMIT, "diff").arg("-r").args([pipes.path("there"), pipes.path("here")]));
}
