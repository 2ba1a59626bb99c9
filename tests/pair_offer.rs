//! What the joiner learns from the offer, and refuses before it touches anything.

use crate::support::pair::{Both, Pair};
use crate::support::tree;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const UUID: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";

/// Both ends find a server's program that reports this version.
fn with_server(version: &str) -> Pair {
    let mut pair = Pair::default();
    let bin = pair.home().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("mariadbd"), format!("#!/bin/sh\necho 'mariadbd  Ver {version} for Linux'\n")).unwrap();
    std::fs::set_permissions(bin.join("mariadbd"), PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    pair.wrap = vec!["env".into(), format!("PATH={}:{path}", bin.display())];
    pair
}

fn grastate(dir: &Path, seqno: i64, safe: u8) {
    let text =
        format!("# GALERA saved state\nversion: 2.1\nuuid:    {UUID}\nseqno:   {seqno}\nsafe_to_bootstrap: {safe}\n");
    tree::file(dir, "grastate.dat", text);
}

/// The parts of a redo log from before 10.8 that are read: 10.5.23 wrote them when it was stopped (its last block is filled up
/// to the checkpoint) and while it ran.
fn old_redo_log(dir: &Path, stopped: bool) {
    let mut log = vec![0; 16 * 512];
    log[..4].copy_from_slice(b"PHYS");
    log[16..31].copy_from_slice(b"MariaDB 10.5.23");
    log[519] = 2;
    log[528..536].copy_from_slice(&5810_u64.to_be_bytes());
    let used: u16 = if stopped { 178 } else { 512 };
    log[5636..5638].copy_from_slice(&used.to_be_bytes());
    tree::file(dir, "ib_logfile0", log);
}

/// The first page of a system tablespace, as much of it as is read.
fn tablespace(dir: &Path, flags: u8) {
    let mut page = vec![0; 4096];
    page[25] = 8;
    page[57] = flags;
    tree::file(dir, "ibdata1", page);
}

/// A transfer that the joiner must refuse with these words, on both sides, and its old tree unchanged.
fn refused(pair: &Pair, code: i32, words: &str) -> Both {
    let before = tree::read(&pair.joiner);
    let both = pair.transfer(&[], &[]);
    both.failed(code, &["joiner: ", words]);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    both
}

#[test]
fn an_old_redo_log_is_taken_over_only_when_it_is_empty() {
    let pair = with_server("10.11.19-MariaDB");
    tree::old(&pair.joiner);
    tree::plain(&pair.donor, 1);
    old_redo_log(&pair.donor, false);
    refused(&pair, 93, "can upgrade that format only after a clean shutdown");
    old_redo_log(&pair.donor, true);
    pair.arrives(&[], &[]).joiner.said("this node's server is 10.11.19-MariaDB (the program ");

    // The joiner's own series: any redo log will do.
    let pair = with_server("10.6.5-MariaDB");
    tree::plain(&pair.donor, 1);
    old_redo_log(&pair.donor, false);
    pair.arrives(&[], &[]);
    // A caller's freeze empties no log.
    let pair = with_server("10.11.19-MariaDB");
    tree::plain(&pair.donor, 1);
    old_redo_log(&pair.donor, true);
    pair.transfer(&[], &["--live"]).failed(93, &["joiner: ", "can upgrade that format only after a clean shutdown"]);
}

#[test]
fn files_of_a_newer_server_or_of_other_pages_are_refused() {
    let pair = with_server("10.11.19-MariaDB");
    tree::old(&pair.joiner);
    tree::plain(&pair.donor, 1);
    tree::file(&pair.donor, "mariadb_upgrade_info", "11.8.2-MariaDB");
    refused(
        &pair,
        93,
        "the donor's server is 11.8.2-MariaDB, this node's is 10.11.19-MariaDB, which cannot read its files",
    );
    std::fs::remove_file(pair.donor.join("mariadb_upgrade_info")).unwrap();
    tablespace(&pair.donor, 0x17);
    tablespace(&pair.joiner, 0x15);
    refused(&pair, 93, "the donor's InnoDB pages have 65536 bytes, the data of this node has 16384");
    tablespace(&pair.joiner, 0x17);
    let both = pair.arrives(&[], &[]);
    // Nothing in this tree says which server wrote it.
    both.donor.said("the version of this node's server is not known");
    both.joiner.said("the donor could not tell its server's version");
}

#[test]
fn swapped_roles_are_noticed() {
    let pair = with_server("10.11.19-MariaDB");
    tree::old(&pair.joiner);
    tree::plain(&pair.donor, 1);
    grastate(&pair.joiner, 900, 1);
    grastate(&pair.donor, 100, 0);
    let both = refused(&pair, 22, &format!("this node stands at {UUID}:900"));
    both.failed(22, &[&format!("and the donor at {UUID}:100, which is older")]);
    both.joiner.said("use `highline receive --force-older`");
    grastate(&pair.donor, -1, 0);
    refused(&pair, 22, "and the donor's position is not known");
    grastate(&pair.joiner, -1, 0);
    grastate(&pair.donor, 100, 0);
    pair.transfer(&[], &[]).succeeded();
    grastate(&pair.joiner, 900, 1);
    let both = pair.transfer(&["--force-older"], &[]);
    both.succeeded();
    both.joiner.said("which is older; it replaces this node's data");
}

/// 1,300 tables of MyISAM with a `DATA DIRECTORY`: their files' names alone are more than one message holds.
#[test]
fn of_more_than_one_message() {
    const TABLES: usize = 1_300;
    let pair = with_server("10.11.19-MariaDB");
    tree::old(&pair.joiner);
    tree::plain(&pair.donor, 1);
    let far = pair.home().join("far");
    for dir in [&pair.donor, &pair.joiner] {
        std::fs::create_dir(dir.join("sb")).unwrap();
    }
    for number in 0..TABLES {
        let table = tree::file(&far, format!("{number} {}.MYD", "a table with a long name ".repeat(6).trim()), "rows");
        // The joiner's old tree leads to the same place, so what is there is its own.
        for dir in [&pair.donor, &pair.joiner] {
            std::os::unix::fs::symlink(&table, dir.join(format!("sb/t{number}.MYD"))).unwrap();
        }
    }
    pair.arrives(&[], &[]);
    assert_eq!(std::fs::read_dir(&far).unwrap().filter(|item| item.as_ref().unwrap().path().is_file()).count(), TABLES);
}

#[test]
fn one_that_does_not_even_fit_in_place_of_the_old_tree_spares_it() {
    let mut pair = with_server("10.11.19-MariaDB");
    let Some(_disk) = pair.small_disk(64) else {
        eprintln!("not run: this needs the right to mount");
        return;
    };
    pair.joiner = pair.home().join("disk/joiner");
    std::fs::create_dir(&pair.joiner).unwrap();
    tree::plain(&pair.joiner, 40);
    tree::plain(&pair.donor, 80);
    let before = tree::read(&pair.joiner);
    let both = pair.transfer(&["--install", "inplace"], &[]);
    both.failed(28, &["joiner: ", "the old data that would go first takes", "and the donor sends"]);
    both.failed(28, &["joiner: "]);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    // Not beside the old tree, but in its place.
    std::fs::remove_dir_all(&pair.donor).unwrap();
    std::fs::create_dir(&pair.donor).unwrap();
    tree::plain(&pair.donor, 45);
    pair.transfer(&[], &[]).failed(28, &["joiner: ", "free, and the donor sends"]);
    pair.arrives(&["--install", "inplace"], &[]);
}
