//! *Done* means on disk: writes that fail after the kernel took them fail the transfer, even if a filesystem hides them.

use crate::support::disk::Stacked;
use crate::support::pair::{Both, LIMIT, Pair};
use crate::support::tree::{self, file};
use std::fs;
use std::time::Duration;

/// The disk below an overlay is full for a moment. The kernel takes every write, loses some, and reports it only to `fsync`.
#[test]
fn a_lost_write_beneath_an_overlay_is_no_success() {
    let mut pair = Pair::default();
    let stack = pair.home().join("stack");
    fs::create_dir(&stack).unwrap();
    let Some(disk) = Stacked::mount(&stack) else {
        eprintln!("not run: this needs the right to mount");
        return;
    };
    pair.joiner = stack.join("top/joiner");
    fs::create_dir(&pair.joiner).unwrap();
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    tree::complete(&pair.donor);
    for number in 0..2000 {
        file(&pair.donor, format!("schema{}/t{number}.ibd", number / 500), tree::noise(number, 16 << 10));
    }
    let joiner = pair.receive(&[]);
    let donor = pair.send(&joiner.ticket, &["--rate-limit", "8M"]);
    // Three filesystems on one disk: it may stall for a while.
    joiner.running.says_within(LIMIT, "agreed with the donor");
    std::thread::sleep(Duration::from_secs(1));
    // The kernel writes back, as it does on its own every few seconds.
    disk.fill();
    let mut back = disk.write_back();
    std::thread::sleep(Duration::from_millis(500));
    disk.relieve();
    back.wait().unwrap();
    let both = Both::of(donor, joiner, LIMIT);
    both.failed(28, &["cannot bring to disk", ".highline/incoming/"]);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    pair.arrives(&[], &[]);
    assert_eq!(pair.verify().code(), 0);
    drop(disk);
}
