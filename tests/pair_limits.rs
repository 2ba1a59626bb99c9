//! Memory stays within its bound whatever the tree: 256 MiB resident at each end.

use crate::support::pair::{Both, Pair};
use crate::support::tree::{self, MIB};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const MOST: u64 = 256 * 1024;

/// Runs both ends, and prints and checks how much memory they took.
fn within_bounds(pair: &Pair, what: &str) {
    let joiner = pair.receive(&[]);
    let donor = pair.send(&joiner.ticket, &["--lanes", "8"]);
    let both = Both::of(donor, joiner, Duration::from_secs(150));
    both.succeeded();
    let took = both.donor.took.as_secs_f64();
    println!("{what}: {took:.1} s, peak {} KiB at the donor, {} KiB at the joiner", both.donor.peak, both.joiner.peak);
    for end in [&both.donor, &both.joiner] {
        assert!(end.peak <= MOST, "the {} took {} KiB for {what}", end.name, end.peak);
        assert!(end.peak > 1024, "the measuring is broken");
    }
}

#[test]
fn two_hundred_thousand_files() {
    const DIRECTORIES: usize = 200;
    let mut pair = Pair::default();
    // In memory if that is allowed: a disk takes minutes to create and remove so many files.
    let disk = pair.small_disk(4096);
    if disk.is_some() {
        (pair.donor, pair.joiner) = (pair.home().join("disk/donor"), pair.home().join("disk/joiner"));
        fs::create_dir(&pair.donor).unwrap();
        fs::create_dir(&pair.joiner).unwrap();
    }
    for directory in 0..DIRECTORIES {
        let place = pair.donor.join(format!("schema{directory}"));
        fs::create_dir(&place).unwrap();
        for number in 0..200_000 / DIRECTORIES {
            fs::write(place.join(format!("a_table_with_a_long_name_{number}.frm")), [b'x'; 100]).unwrap();
        }
    }
    tree::complete(&pair.donor);
    within_bounds(&pair, "200,000 files");
    let count = fs::read_dir(&pair.joiner).unwrap().map(|item| {
        let place = item.unwrap().path();
        if place.is_dir() { fs::read_dir(place).unwrap().count() } else { 0 }
    });
    assert_eq!(count.sum::<usize>(), 200_001, "the schemas' and mysql/db.opt");
}

/// Chunks without data go as runs, in passes as in a copy of a tree that nobody writes to; and they stay holes.
#[test]
fn three_terabytes_of_holes() {
    const TIB: u64 = 1 << 40;
    let pair = Pair::default();
    for number in 0..3u64 {
        let file = File::create(pair.donor.join(format!("hole{number}.ibd"))).unwrap();
        file.set_len(TIB + number).unwrap();
        for at in [0, TIB / 3, TIB - 5] {
            file.write_all_at(&tree::noise(number, 5), at).unwrap();
        }
    }
    tree::complete(&pair.donor);
    for passes in [&[][..], &["--freeze-command", "echo frozen; cat", "--freeze", "rounds"]] {
        let joiner = pair.receive(&[]);
        let donor = pair.send(&joiner.ticket, passes);
        let both = Both::of(donor, joiner, Duration::from_secs(60));
        both.succeeded();
        let (took, peaks) = (both.donor.took.as_secs_f64(), [both.donor.peak, both.joiner.peak]);
        println!("3 TB of holes, {passes:?}: {took:.1} s, peak {peaks:?} KiB");
        assert!(took < 30.0 && peaks.iter().all(|peak| *peak <= MOST), "{took} {peaks:?}");
        for number in 0..3u64 {
            let file = File::open(pair.joiner.join(format!("hole{number}.ibd"))).unwrap();
            assert_eq!(file.metadata().unwrap().len(), TIB + number);
            for at in [0, TIB / 3, TIB - 5] {
                let mut bytes = [0; 5];
                file.read_exact_at(&mut bytes, at).unwrap();
                assert_eq!(bytes, *tree::noise(number, 5));
            }
        }
        assert!(tree::allocated(&pair.joiner) < 32 * MIB);
        assert!(pair.verify().stdout.starts_with("verified: "));
    }
}

#[test]
fn a_file_of_8_gib() {
    const GIB: u64 = 1024 * MIB;
    let pair = Pair::default();
    let make = |name: &str, size: u64, pieces: &[(u64, u64)]| {
        let file = File::create(pair.donor.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (from, to) in pieces {
            for at in (*from..*to).step_by(MIB as usize) {
                file.write_all_at(&tree::noise(at, MIB as usize), at).unwrap();
            }
        }
    };
    // One GiB of data in all: at both ends of the file and in the middle.
    make("ibdata1", 8 * GIB, &[(0, 400 * MIB), (5 * GIB, 5 * GIB + 324 * MIB), (8 * GIB - 300 * MIB, 8 * GIB)]);
    tree::complete(&pair.donor);
    within_bounds(&pair, "a file of 8 GiB with 1 GiB of data");
    let (there, here) = (tree::allocated(&pair.donor), tree::allocated(&pair.joiner));
    assert!(here.abs_diff(there) <= there / 20, "{there} bytes are allocated on the donor, {here} on the joiner");
    let (there, here) = (File::open(pair.donor.join("ibdata1")), File::open(pair.joiner.join("ibdata1")));
    let (there, here) = (there.unwrap(), here.unwrap());
    assert_eq!(here.metadata().unwrap().len(), 8 * GIB);
    let (mut one, mut other) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    for at in (0..8 * GIB).step_by((37 * MIB) as usize) {
        there.read_exact_at(&mut one, at).unwrap();
        here.read_exact_at(&mut other, at).unwrap();
        assert!(one == other, "the files differ at {at}");
    }
}
