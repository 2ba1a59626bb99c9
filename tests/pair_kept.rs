//! What a failed attempt leaves for the next one: plain files beside the old tree, and when they are removed.

use crate::support::faulty_link::{FaultyLink, WELL};
use crate::support::pair::{Both, LIMIT, Pair, SECONDS, redirected};
use crate::support::tree::{self, MIB, file};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const SLOW: [&str; 4] = ["--rate-limit", "4M", "--lanes", "2"];

fn pair() -> Pair {
    let pair = Pair::default();
    tree::plain(&pair.donor, 6);
    file(&pair.donor, "shop/t.ibd", tree::noise(70, 3 * MIB as usize));
    tree::old(&pair.joiner);
    pair
}

/// What is ours in the joiner's directory, except what is always there and a log that may have arrived.
fn ours(joiner: &Path) -> Vec<String> {
    const OTHERS: [&str; 4] =
        [".highline.lock", ".highline.manifest", ".highline.status", ".highline.kept.ib_logfile0"];
    let names = fs::read_dir(joiner).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with(".highline") && !OTHERS.contains(&&**name)).collect();
    names.sort();
    names
}

const KEPT: [&str; 2] = [".highline.kept.ibdata1", ".highline.kept.shop%2ft.ibd"];

/// A transfer whose donor is ended after some of it has arrived.
fn fails(pair: &Pair, receive: &[&str]) -> Both {
    let joiner = pair.receive(&[&["--idle-timeout", "1s"], receive].concat());
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &SLOW);
    link.passed(5 * MIB);
    donor.signal(Signal::TERM);
    let both = Both::of(donor, joiner, SECONDS);
    both.failed(4, &["donor: ended by SIGTERM"]);
    both
}

#[test]
fn a_failed_transfer_leaves_plain_files_and_the_old_tree() {
    let pair = pair();
    let before = tree::read(&pair.joiner);
    let both = fails(&pair, &[]);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    assert_eq!(ours(&pair.joiner), KEPT);
    assert!(KEPT.iter().all(|name| fs::symlink_metadata(pair.joiner.join(name)).unwrap().is_file()));
    both.joiner.said("kept for the next attempt: ");
    both.joiner.said(" files, called .highline.kept.* in the server's directories; a full transfer, an IST or a week");
    let discard = format!("`highline discard --datadir {}`", pair.joiner.display());
    both.joiner.said(&discard);

    // A donor with such files sends none of them, and its tree verifies with them in it.
    pair.arrives(&[], &[]);
    assert_eq!(ours(&pair.joiner), [""; 0], "a new tree is there");
    file(&pair.donor, KEPT[1], tree::noise(1, 100_000));
    pair.arrives(&[], &[]);
    assert_eq!(ours(&pair.joiner), [""; 0]);
    file(&pair.joiner, KEPT[1], tree::noise(1, 100_000));
    pair.verify().succeeded();

    let both = fails(&pair, &["--reuse", "off"]);
    assert_eq!(ours(&pair.joiner), [""; 0], "nor what an attempt before it had left");
    both.joiner.said("removed 102 kB in 1 file, left by an earlier attempt, and reuse=off");
}

#[test]
fn discard_removes_what_failed_transfers_left_and_nothing_else() {
    let pair = pair();
    let before = tree::read(&pair.joiner);
    let datadir = pair.joiner.to_str().unwrap();
    let discard = || pair.run(&["discard", "--datadir", datadir]);
    assert_eq!(discard().stdout, "nothing to discard: no transfer has left anything\n");
    fails(&pair, &[]);
    symlink("/nowhere", pair.joiner.join(".highline.kept.planted")).unwrap();
    let done = discard();
    done.succeeded();
    assert!(done.stdout.starts_with("discarded: "), "{}", done.stdout);
    assert_eq!(ours(&pair.joiner), [""; 0]);
    // A running one is not disturbed.
    let joiner = pair.receive(&[]);
    discard().failed(16, &["another highline (process "]);
    joiner.running.signal(Signal::TERM);
    joiner.running.end(SECONDS).failed(4, &[]);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    pair.run(&["discard", "--datadir", "/nowhere"]).failed(2, &["cannot read the directory /nowhere"]);
}

/// What a killed process could not keep, the next one keeps; and a crash of that one loses nothing.
#[test]
fn after_a_kill_the_next_start_keeps_what_was_staged() {
    let datadir = |pair: &Pair| pair.joiner.to_str().unwrap().to_owned();
    let killed = |pair: &Pair| {
        let mut joiner = pair.receive(&[]);
        let link = FaultyLink::to(joiner.address(), |_| WELL);
        let donor = pair.send(&redirected(&joiner.ticket, link.address), &SLOW);
        link.passed(5 * MIB);
        joiner.running.signal(Signal::KILL);
        joiner.running.child.wait().unwrap();
        let _ = donor.end(LIMIT);
        assert!(ours(&pair.joiner).contains(&".highline".to_owned()));
    };
    let pair = pair();
    let before = tree::read(&pair.joiner);
    killed(&pair);
    let recovered = pair.run(&["recover", "--datadir", &datadir(&pair)]);
    recovered.succeeded();
    assert!(recovered.stdout.contains("a transfer was, and what it had staged is out of the server's way"));
    assert!(recovered.stdout.contains("`highline discard --datadir /"), "{}", recovered.stdout);
    assert_eq!(ours(&pair.joiner), KEPT);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    pair.run(&["discard", "--datadir", &datadir(&pair)]).succeeded();

    killed(&pair);
    // The next attempt gets no further than its consent, and leaves what the one before it had.
    let joiner = pair.receive(&["--idle-timeout", "1s"]);
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &["--rate-limit", "1"]);
    joiner.running.says("agreed with the donor");
    donor.signal(Signal::TERM);
    Both::of(donor, joiner, SECONDS).failed(4, &["donor: ended by SIGTERM"]);
    assert_eq!(ours(&pair.joiner), KEPT);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    // Discarding takes what is staged, too.
    killed(&pair);
    let done = pair.run(&["discard", "--datadir", &datadir(&pair)]);
    assert!(done.stdout.starts_with("discarded: "), "{}", done.stdout);
    assert_eq!(ours(&pair.joiner), [""; 0]);
    pair.arrives(&[], &[]);
}

/// If space is short, what was kept is removed, and the log says so; on a full disk nothing is kept.
#[test]
fn what_was_kept_is_never_in_the_way_of_the_new_tree() {
    let mut pair = Pair::default();
    let Some(_disk) = pair.small_disk(28) else { return };
    pair.joiner = pair.home().join("disk/joiner");
    fs::create_dir(&pair.joiner).unwrap();
    tree::plain(&pair.donor, 12);
    tree::old(&pair.joiner);
    // With the old tree's own files, if that goes first.
    for (mode, gone) in [
        ("auto", "removed 16.8 MB in 1 file, left by an earlier attempt: the new data needs the room"),
        ("inplace", "removed 16.9 MB in 2 files, that the donor does not have: the new data needs the room"),
    ] {
        // With it there is no room for both trees.
        file(&pair.joiner, KEPT[1], tree::noise(1, 16 * MIB as usize));
        let both = pair.transfer(&["--install", mode], &[]);
        both.succeeded();
        tree::assert_equal(&pair.donor, &pair.joiner);
        assert_eq!(ours(&pair.joiner), [""; 0]);
        both.joiner.said(gone);
        fs::remove_file(pair.joiner.join("ibdata1")).unwrap();
        tree::old(&pair.joiner);
    }
    // Not even without it: the room that it takes is the server's.
    file(&pair.joiner, KEPT[1], tree::noise(1, MIB as usize));
    tree::plain(&pair.donor, 40);
    let both = pair.transfer(&[], &[]);
    both.failed(28, &["joiner: ", " free, and the donor sends "]);
    both.joiner.said("nothing is kept for the next attempt, because a filesystem here is, or would be, full");
    assert_eq!(ours(&pair.joiner), [""; 0]);
}

/// With less than a twentieth free, what was staged goes, because the old tree's server needs the room.
#[test]
fn a_short_disk_is_left_to_the_server() {
    let mut pair = Pair::default();
    let Some(_disk) = pair.small_disk(32) else { return };
    pair.joiner = pair.home().join("disk/joiner");
    fs::create_dir(&pair.joiner).unwrap();
    tree::plain(&pair.donor, 6);
    file(&pair.donor, "shop/t.ibd", tree::noise(70, 3 * MIB as usize));
    tree::old(&pair.joiner);
    let joiner = pair.receive(&["--idle-timeout", "1s"]);
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &SLOW);
    link.passed(5 * MIB);
    let free = rustix::fs::statvfs(&pair.joiner).unwrap();
    file(pair.home(), "disk/filler", vec![1; (free.f_bavail * free.f_frsize - MIB) as usize]);
    donor.signal(Signal::TERM);
    let both = Both::of(donor, joiner, SECONDS);
    let kept = ours(&pair.joiner);
    if both.joiner.code() == 28 {
        return assert_eq!(kept, [""; 0]);
    }
    both.joiner.said("nothing is kept for the next attempt, because less than a twentieth of the filesystem of ");
    assert_eq!(kept, [""; 0]);
}
