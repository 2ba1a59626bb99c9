//! The joiner's host loses power: what had not reached the disk is gone, and afterwards nothing wrong is believed.

use crate::support::disk::SmallDisk;
use crate::support::faulty_link::{FaultyLink, WELL};
use crate::support::pair::{Both, LIMIT, Pair, redirected};
use crate::support::tree::{self, MIB};
use std::fs;
use std::time::Duration;

/// When: after this many bytes, or this long after the joiner has verified them all.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Passed(u64),
    Verified(u64),
}

/// A tree whose tables are not on disk merely because they were written.
fn donor(pair: &Pair) {
    tree::plain(&pair.donor, 2);
    for table in 0..8 {
        tree::file(&pair.donor, format!("sb/t{table}.ibd"), tree::noise(50 + table, (MIB + 16384 * table) as usize));
    }
}

/// The filesystem that is told to keep nothing it has not written, again and again, at another moment each time. What the
/// attempt before left is what the next one begins with.
fn again_and_again(kind: &str, install: &str, moments: &[Moment]) {
    let mut pair = Pair::default();
    let place = pair.home().join("disk");
    fs::create_dir(&place).unwrap();
    let Some(mut disk) = SmallDisk::format(&place, kind, 400) else {
        eprintln!("not run: this needs the right to mount");
        return;
    };
    pair.joiner = place.join("joiner");
    fs::create_dir(&pair.joiner).unwrap();
    tree::old(&pair.joiner);
    donor(&pair);
    disk.sync();
    let old = tree::read(&pair.joiner);
    for moment in moments {
        let joiner = pair.receive(&["--install", install, "--idle-timeout", "2s"]);
        let link = FaultyLink::to(joiner.address(), |_| WELL);
        let more = ["--live", "--rate-limit", "16M", "--idle-timeout", "2s"];
        let sending = pair.send(&redirected(&joiner.ticket, link.address), &more);
        match *moment {
            Moment::Passed(bytes) => link.passed(bytes),
            Moment::Verified(millis) => {
                joiner.running.says_within(LIMIT, "verified: every byte");
                std::thread::sleep(Duration::from_millis(millis));
            }
        }
        disk.lose_power();
        let both = Both::of(sending, joiner, LIMIT);
        disk = disk.restart(kind);
        println!("{kind} {install} {moment:?}: {} and {}", both.donor.code(), both.joiner.code());
        let recovered = pair.run(&["recover", "--datadir", pair.joiner.to_str().unwrap()]);
        // In place there may be no database any more, and it says so.
        let spent = install == "inplace" && !pair.joiner.join("ibdata1").exists();
        assert_eq!(recovered.code(), if spent { 2 } else { 0 }, "{}", recovered.stderr);
        if both.joiner.code() == 0 {
            // Done means on disk.
            tree::assert_equal(&pair.donor, &pair.joiner);
        } else if install == "staged" && !pair.joiner.join("sb").exists() {
            tree::assert_same(&old, &tree::read(&pair.joiner));
        }
    }
    let both = pair.transfer(&["--install", install], &[]);
    both.succeeded();
    tree::assert_equal(&pair.donor, &pair.joiner);
    pair.verify().succeeded();
}

const MOMENTS: &[Moment] = &[
    Moment::Passed(MIB),
    Moment::Passed(5 * MIB),
    Moment::Passed(8 * MIB),
    Moment::Verified(0),
    Moment::Verified(3),
    Moment::Verified(10),
    Moment::Verified(25),
];

#[test]
fn lost_on_ext4() {
    again_and_again("ext4", "staged", MOMENTS);
}

#[test]
fn lost_on_xfs() {
    again_and_again("xfs", "staged", MOMENTS);
}

#[test]
fn lost_in_place() {
    again_and_again("ext4", "inplace", MOMENTS);
}
