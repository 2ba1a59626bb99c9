//! `docs/what-travels.md`, row by row, on two real servers.

use crate::support::cluster::Cluster;
use crate::support::node::NodeOptions;
use crate::support::template;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PAGE: &str = include_str!("../docs/what-travels.md");

#[derive(Debug)]
struct Row {
    name: String,
    is: String,
    /// Empty in the table without that column.
    option: String,
    fate: String,
}

/// The rows of the table that follows this heading.
fn table(heading: &str) -> Vec<Row> {
    let section = PAGE.split(&format!("## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let mut lines = section.lines().filter(|line| line.starts_with('|'));
    let has_option = cells(lines.next().unwrap()).iter().any(|cell| cell == "option");
    lines
        .skip(1)
        .map(|line| {
            let cells = cells(line);
            let option = if has_option { cells[2].clone() } else { String::new() };
            Row {
                name: cells[0].clone(),
                is: cells[1].clone(),
                option,
                fate: cells[if has_option { 3 } else { 2 }].clone(),
            }
        })
        .collect()
}

/// Puts an option from the table where it belongs.
fn set(options: &mut NodeOptions, option: &str) {
    let option = option.replace("DATADIR", "{node}/data");
    match option.split_once(' ') {
        _ if option.is_empty() => {}
        Some(("[highline]", line)) => options.highline.push(line.to_owned()),
        Some((group, line)) if group.starts_with('[') => options.server.push(format!("{group}\n{line}\n[mysqld]")),
        _ => match option.strip_prefix("wsrep_provider_options=") {
            Some(part) => options.provider.push(part.to_owned()),
            None => options.server.push(option),
        },
    }
}

/// Creates what a row names in the data directory of node `n`, with the node's number in it.
fn make(row: &Row, datadir: &Path, n: usize) {
    let place = datadir.join(row.name.trim_end_matches('/'));
    let content = format!("node {n}");
    let write = |place: &Path, content: &str| {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, content).unwrap();
    };
    match row.is.as_str() {
        "a schema" => {}
        "the provider's file" => fs::create_dir_all(place.parent().unwrap()).unwrap(),
        "a file" => write(&place, &content),
        "a private key" => write(&place, &format!("-----BEGIN PRIVATE KEY-----\n{content}\n")),
        "a directory" => write(&place.join("inside"), &content),
        "a directory of the joiner's alone" if n == 1 => {}
        "a directory of the joiner's alone" => write(&place.join("t.ibd"), &content),
        "a socket" => drop(UnixListener::bind(&place).unwrap()),
        other => panic!("a row is `{other}`"),
    }
}

/// The file of a row that shows whose it is, and its content.
fn whose(row: &Row, datadir: &Path) -> Option<String> {
    let place = datadir.join(row.name.trim_end_matches('/'));
    let file = match row.is.as_str() {
        "a directory" => place.join("inside"),
        "a directory of the joiner's alone" => place.join("t.ibd"),
        _ => place,
    };
    if row.is == "a socket" {
        return file.symlink_metadata().ok().map(|stat| stat.ino().to_string());
    }
    let text = String::from_utf8_lossy(&fs::read(file).ok()?).into_owned();
    let says = |n: usize| text.contains(&format!("node {n}"));
    Some(format!("{}{}", if says(1) { "1" } else { "" }, if says(2) { "2" } else { "" }))
}

fn inode(row: &Row, datadir: &Path) -> Option<u64> {
    fs::metadata(datadir.join(row.name.trim_end_matches('/'))).ok().map(|stat| stat.ino())
}

#[test]
fn the_page_says_what_happens() {
    let first = table("At the top level");
    let paths = table("Paths of the configuration");
    assert!(first.len() > 25 && paths.len() > 10, "{} {}", first.len(), paths.len());
    let rows: Vec<&Row> = first.iter().chain(&paths).collect();
    let mut plan =
        Cluster::plan(2, "highline").without_install_options().server("general_log=ON").server("slow_query_log=ON");
    for n in 1..=2 {
        plan = plan.node(n, |options| rows.iter().for_each(|row| set(options, &row.option)));
    }
    let mut cluster = plan.build();
    let data: [PathBuf; 2] = [1, 2].map(|n| cluster.datadir(n));
    for n in 1..=2 {
        rows.iter().for_each(|row| make(row, &data[n - 1], n));
        template::own(&data[n - 1]);
    }
    cluster.start(1);
    let schemas = || rows.iter().filter(|row| row.is == "a schema").map(|row| row.name.trim_end_matches('/'));
    for schema in schemas() {
        cluster.sql(1, &format!("CREATE DATABASE IF NOT EXISTS {schema}; CREATE TABLE {schema}.t (a INT PRIMARY KEY); INSERT INTO {schema}.t VALUES (1), (2)"));
    }
    let socket = rows.iter().find(|row| row.is == "a socket").unwrap();
    let (own_socket, inodes) =
        (whose(socket, &data[1]), rows.iter().map(|row| inode(row, &data[1])).collect::<Vec<_>>());
    cluster.start(2);
    for (row, before) in rows.iter().zip(inodes) {
        let now = whose(row, &data[1]);
        match (row.is.as_str(), row.fate.as_str()) {
            ("a schema", "travels") => {
                let schema = row.name.trim_end_matches('/');
                assert_eq!(cluster.sql(2, &format!("SELECT COUNT(*) FROM {schema}.t")), "2", "{row:?}");
            }
            ("a socket", "stays") => assert_eq!(now, own_socket, "{row:?}"),
            (_, "travels") => assert_eq!(now.as_deref(), Some("1"), "{row:?}"),
            ("the provider's file", "stays") => {
                let both = data.each_ref().map(|data| fs::metadata(data.join(&row.name)).unwrap().ino());
                assert_ne!(both[0], both[1], "{row:?}");
            }
            (_, "stays") => {
                assert_eq!(now.as_deref(), Some("2"), "{row:?}");
                assert_eq!(inode(row, &data[1]), before, "{row:?}");
            }
            (_, "goes") => assert!(now.is_none(), "{row:?}: {now:?}"),
            other => panic!("{row:?} {other:?}"),
        }
    }
    let log = cluster.log(1);
    let told: Vec<&str> =
        log.lines().filter(|line| line.contains("not sent, because it belongs to this node")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    for row in rows.iter().filter(|row| matches!(row.fate.as_str(), "stays" | "goes") && !row.is.contains("alone")) {
        assert!(told[0].contains(row.name.trim_end_matches('/')), "{} in {}", row.name, told[0]);
    }

    for row in table("Refused") {
        assert_eq!(row.fate, "refused");
        cluster.stop(2);
        fs::remove_file(data[1].join("grastate.dat")).unwrap();
        let place = data[0].join(row.name.trim_end_matches('/'));
        match row.is.as_str() {
            "a link to nothing" => symlink("/nowhere/gone.ibd", &place).unwrap(),
            "a schema" => {
                let schema = row.name.trim_end_matches('/');
                cluster.sql(1, &format!("CREATE DATABASE {schema}; CREATE TABLE {schema}.t (a INT PRIMARY KEY)"));
            }
            other => panic!("a row is `{other}`"),
        }
        let extra = row.option.strip_prefix("on the joiner: ").map(|option| option.trim_matches('`').to_owned());
        if let Some(option) = &extra {
            fs::create_dir_all(data[1].join("shop")).unwrap();
            template::own(&data[1]);
            set(cluster.options(2), option);
        }
        let before = cluster.log(1).len();
        cluster.start_expecting_failure(2, Duration::from_secs(60));
        let said = cluster.log(1).get(before..).unwrap_or_default().to_owned();
        assert!(said.contains(place.to_str().unwrap()) && said.contains("remedy"), "{said}");
        assert!(!said.contains("frozen at"), "{said}");
        match row.is.as_str() {
            "a link to nothing" => fs::remove_file(&place).unwrap(),
            _ => drop(cluster.sql(1, &format!("DROP DATABASE {}", row.name.trim_end_matches('/')))),
        }
        // The joiner still has its old data.
        assert!(data[1].join("plain/t.ibd").exists());
        cluster.options(2).server.retain(|line| !line.contains("/shop"));
        cluster.start(2);
    }
}

/// System files and a table's files that are elsewhere, behind links: a server uses them, and they are sent twice, the second
/// time over the joiner's own.
#[test]
fn linked_data_files_come_along() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut cluster = Cluster::plan(2, "highline").build();
    let place = cluster.common();
    for n in 1..=2 {
        cluster.options(n).private_common = true;
        fs::create_dir(cluster.folder(n).join("common")).unwrap();
    }
    let (data, far) = ([1, 2].map(|n| cluster.datadir(n)), [1, 2].map(|n| cluster.folder(n).join("common")));
    let link = |name: &str| {
        let file = Path::new(name).file_name().unwrap();
        fs::rename(data[0].join(name), far[0].join(file)).unwrap();
        symlink(place.join(file), data[0].join(name)).unwrap();
    };
    for name in ["ibdata1", "ib_logfile0", "aria_log_control"] {
        link(name);
    }
    for n in 1..=2 {
        template::own(&far[n - 1]);
    }
    cluster.start(1);
    cluster.sql(1, "CREATE DATABASE shop; CREATE TABLE shop.t (a INT PRIMARY KEY); INSERT INTO shop.t SELECT seq FROM shop.seq_1_to_500");
    cluster.stop(1);
    link("shop/t.ibd");
    cluster.start(1);
    for rows in [500, 501] {
        cluster.start(2);
        cluster.assert_equal_tables();
        assert_eq!(cluster.sql(2, "SELECT COUNT(*) FROM shop.t"), rows.to_string());
        // The server makes a new redo log at its first start, which takes the link's place.
        for name in ["ibdata1", "aria_log_control", "t.ibd"] {
            assert!(far[1].join(name).is_file(), "{name}");
        }
        assert!(data[1].join("ibdata1").is_symlink());
        if rows == 500 {
            cluster.stop(2);
            fs::remove_file(data[1].join("grastate.dat")).unwrap();
            cluster.sql(1, "INSERT INTO shop.t VALUES (1000)");
        }
    }
}
