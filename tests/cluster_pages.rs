//! Pages of real servers: nothing that InnoDB wrote is reported as damaged, one flipped bit is, and `innochecksum` agrees.

use crate::support::cluster::Cluster;
use crate::support::command::{bounded, run, text};
use crate::support::load::Load;
use crate::support::{method, template};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// One of every kind of table that InnoDB has, with pages of `page` KiB.
fn tables(page: u64, encrypted: bool) -> String {
    let applies = |line: &'static str| match line.strip_prefix("--").map(|line| line.split_once(": ")) {
        None => Some(line),
        Some(Some(("encrypted", sql))) => encrypted.then_some(sql),
        Some(Some((least, sql))) if least.parse().is_ok_and(|least: u64| (least..=16).contains(&page)) => Some(sql),
        _ => None,
    };
    include_str!("support/tables.sql").lines().filter_map(applies).collect::<Vec<_>>().join("\n")
}

/// `highline verify --pages` of a data directory.
fn check(cluster: &Cluster, datadir: &Path) -> Output {
    run(bounded(LIMIT, cluster.program()).args(["verify", "--pages", "--datadir"]).arg(datadir))
}

#[track_caller]
fn is_good(cluster: &Cluster, datadir: &Path) -> String {
    let output = check(cluster, datadir);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    said
}

/// InnoDB's files in a data directory, in order.
fn tablespaces(datadir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(datadir).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            found.extend(tablespaces(&path));
        } else if name.ends_with(".ibd") || name.starts_with("undo0") || name == "ibdata1" {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether the server's own tool finds it sound.
fn innochecksum(file: &Path) -> bool {
    run(bounded(LIMIT, "innochecksum").arg(file)).status.success()
}

/// Flips a bit of one page, and returns its number and where it begins. `size` is the page size of that file.
fn flip(place: &Path, number: usize, size: usize) -> (u64, u64) {
    let file = OpenOptions::new().read(true).write(true).open(place).unwrap();
    let content = fs::read(place).unwrap();
    let pages = content.chunks(size).enumerate().filter(|(_, page)| page.iter().any(|&byte| byte != 0));
    // Beyond these some are free by now.
    let pages: Vec<usize> = pages.map(|(page, _)| page).take_while(|page| *page < 8).collect();
    let page = pages[number * 7 % pages.len()];
    let at = page * size + 40 + number * 31 % 150;
    file.write_all_at(&[content[at] ^ 1 << (number % 8)], at as u64).unwrap();
    (page as u64, (page * size) as u64)
}

/// The size of pages in a file, by the name that [`tables`] gave it.
fn page_of(place: &Path, page: u64) -> usize {
    let name = place.file_stem().unwrap().to_str().unwrap();
    let rows = name.strip_prefix("rows").and_then(|size| size.parse().ok());
    rows.unwrap_or(page) as usize * 1024
}

fn server(page: u64, checksum: &str, encrypted: bool) {
    let home = template::scratch("highline-keys-");
    let keys = home.path().join("keys");
    fs::write(&keys, "1;770A8A65DA156D24EE2A093277530142\n").unwrap();
    let mut plan = Cluster::plan(1, "highline")
        .server(&format!("innodb_page_size={page}k"))
        .server(&format!("innodb_checksum_algorithm={checksum}"))
        .server("innodb_undo_tablespaces=3");
    if encrypted {
        plan = plan
            .server("plugin_load_add=file_key_management")
            .server(&format!("file_key_management_filename={}", keys.display()))
            .server("innodb_encrypt_tables=ON")
            .server("innodb_encryption_threads=2")
            .server("innodb_encryption_rotate_key_age=1");
    }
    let mut cluster = plan.build();
    cluster.start(1);
    cluster.sql(1, &tables(page, encrypted));
    let datadir = cluster.datadir(1);
    is_good(&cluster, &datadir);
    cluster.stop(1);
    let said = is_good(&cluster, &datadir);
    // Only what has no checksum is reported.
    let packed: Vec<&str> = said.lines().filter(|line| line.contains("pages cannot be checked, because ")).collect();
    assert_eq!(packed.len(), usize::from(checksum == "crc32"), "{said}");
    assert!(packed.iter().all(|line| line.contains("/d/packed.ibd: ")), "{said}");

    // One page of every file, except those that cannot be checked.
    let files = tablespaces(&datadir);
    let files: Vec<_> = files.iter().filter(|file| checksum != "crc32" || !file.ends_with("packed.ibd")).collect();
    assert!(files.len() > 25, "{files:?}");
    let mut expected = Vec::new();
    for (number, place) in files.iter().enumerate() {
        let (page, from) = flip(place, number, page_of(place, page));
        expected.push(format!("{}: page {page}, at byte {from}: its checksum is wrong", place.display()));
    }
    let output = check(&cluster, &datadir);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(74), "{said}");
    for line in &expected {
        assert!(said.lines().any(|told| told == line), "{line} is missing: {said}");
    }
    // The tool of 10.11 reports the doublewrite buffer of a system tablespace as damaged.
    for place in files.iter().filter(|place| !place.ends_with("ibdata1")) {
        assert!(!innochecksum(place), "{}", place.display());
    }
}

#[test]
fn of_4_k_encrypted() {
    server(4, "full_crc32", true);
}

#[test]
fn of_8_k() {
    server(8, "crc32", false);
}

#[test]
fn of_16_k_by_default() {
    server(16, "full_crc32", false);
}

#[test]
fn of_16_k_encrypted() {
    server(16, "crc32", true);
}

#[test]
fn of_32_k() {
    server(32, "full_crc32", false);
}

#[test]
fn of_64_k() {
    server(64, "crc32", false);
}

/// Under load nothing is reported as damaged; then a bit of an idle table flips, and the table is not sent.
#[test]
fn a_donor_that_serves_does_not_pass_on_its_rot() {
    let mut cluster = Cluster::plan(2, &method()).highline("verify-pages=on").highline("freeze=rounds").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 4, 20_000);
    cluster.sql(1, "USE sb; CREATE TABLE sb.cold SELECT seq a, MD5(seq) b FROM seq_1_to_50000; ALTER TABLE sb.cold ADD PRIMARY KEY (a)");
    let load = Load::start(&cluster, 1, 4, 20_000);
    cluster.start(2);
    load.stop();
    cluster.assert_equal_tables();
    let log = cluster.log(1);
    let told = log.lines().find(|line| line.contains("InnoDB's pages: ")).expect("it is told");
    assert!(told.ends_with(" were read and are as InnoDB wrote them"), "{told}");

    cluster.stop(2);
    cluster.wipe(2);
    let cold = cluster.datadir(1).join("sb/cold.ibd");
    let before = fs::read(&cold).unwrap();
    // In the second extent, which is the table's own: some pages of the first are free.
    let at = 70 * 16_384 + 5_000;
    assert!(before[at - 5_000..].iter().take(16_384).any(|&byte| byte != 0));
    let file = OpenOptions::new().write(true).open(&cold).unwrap();
    file.write_all_at(&[before[at] ^ 16], at as u64).unwrap();
    cluster.start_expecting_failure(2, Duration::from_secs(120));
    // The joiner's server may be gone before its script has said why.
    let refused = "sb/cold.ibd, at byte 1146880, is damaged: its checksum is wrong";
    for n in [1, 2] {
        cluster.wait_log(n, refused, LIMIT);
        assert!(cluster.log(n).contains("page 70 of "), "{}", cluster.log(n));
    }
    let log = cluster.log(1);
    assert!(log.contains("verify-pages"), "{log}");
    assert!(!log.contains("--verify-pages"), "a server's log names options as they are written in its file: {log}");
    cluster.wait_scripts_gone(1, LIMIT);
    cluster.wait_synced(1, LIMIT);
    cluster.sql(1, "CREATE TABLE sb.after (id INT PRIMARY KEY)");

    file.write_all_at(&[before[at]], at as u64).unwrap();
    cluster.wipe(2);
    cluster.start(2);
    cluster.assert_equal_tables();
}
