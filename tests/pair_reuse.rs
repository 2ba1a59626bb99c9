//! What the joiner has already is not sent again: its old tree, page by page.

use crate::support::disk::SmallDisk;
use crate::support::hostile::{self, Frame};
use crate::support::pair::{Both, Ended, Pair, SECONDS};
use crate::support::tree::{self, MIB};
use highline::archive::Batch;
use highline::link::Control;
use highline::manifest::{Checksum, Item, Manifest, Seal};
use highline::tree::{Content, Entry};
use highline::wire::{Answer, Base64, BasisFile, FrameHeader, Message, Offer, Purpose, Round, SampledChunk};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Eight tables that do not compress, as one server after another would have them.
fn tables(root: &Path, mib: u64) {
    tree::complete(root);
    for table in 0..8u64 {
        tree::file(root, format!("sb/t{table}.ibd"), tree::noise(50 + table, (mib * MIB) as usize));
    }
    for number in 0..20u64 {
        tree::file(root, format!("sb/small{number}.frm"), tree::noise(500 + number, 900));
    }
}

/// The same tree on both sides, but for times.
fn twins(pair: &Pair, mib: u64) {
    tables(&pair.donor, mib);
    tables(&pair.joiner, mib);
    let file = File::options().write(true).open(pair.joiner.join("sb/t1.ibd")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(9999)).unwrap();
}

#[derive(Debug)]
struct Figures {
    bytes: u64,
    wire: u64,
    reused: u64,
}

fn figures(both: &Both) -> Figures {
    let json = |text: &str| -> serde_json::Value {
        let line = text.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
        serde_json::from_str(line).unwrap()
    };
    let report = json(&both.donor.stdout);
    let of = |name: &str| report[name].as_u64().unwrap();
    let joined = json(&both.joiner.stderr);
    let told = |whose: &str| joined["reused"][whose].as_u64().unwrap();
    assert_eq!(told("old_tree") + told("earlier_attempt"), of("reused_bytes"), "both sides tell the same");
    Figures { bytes: of("bytes"), wire: of("wire_bytes"), reused: of("reused_bytes") }
}

/// A transfer that must work, and its figures.
fn arrives(pair: &Pair, receive: &[&str], send: &[&str]) -> (Both, Figures) {
    let both = pair.arrives(&[&["--json"], receive].concat(), &[&["--json", "--compress", "none"], send].concat());
    let figures = figures(&both);
    pair.verify().succeeded();
    (both, figures)
}

#[test]
fn of_an_equal_tree_sends_digests_only() {
    let pair = Pair::default();
    twins(&pair, 25);
    // Two nodes have most of a redo log in common, too.
    for root in [&pair.donor, &pair.joiner] {
        tree::file(root, "ib_logfile0", tree::noise(9, 4 * MIB as usize));
    }
    let (both, figures) = arrives(&pair, &[], &[]);
    assert!(figures.bytes > 200 * MIB && figures.wire < figures.bytes / 500, "{figures:?}");
    assert!(figures.reused >= 204 * MIB, "{figures:?}");
    both.joiner.said("the donor compares 9 files with those already here");
    both.donor.said("its files are compared, and what differs is sent");
}

#[test]
fn only_the_pages_that_differ_are_sent() {
    let pair = Pair::default();
    twins(&pair, 10);
    // One in a hundred of a table, in one piece; of another a page here and there; a third has grown, a fourth shrunk.
    let write = |name: &str, at: u64, length: u64| {
        let file = File::options().write(true).open(pair.donor.join(name)).unwrap();
        file.write_all_at(&tree::noise(at, length as usize), at).unwrap();
    };
    write("sb/t0.ibd", 3 * MIB + 16384, 7 * 16384);
    (0..10).for_each(|page| write("sb/t1.ibd", page * MIB, 100));
    write("sb/t2.ibd", 10 * MIB, MIB + 77);
    File::options().write(true).open(pair.donor.join("sb/t3.ibd")).unwrap().set_len(5 * MIB + 5).unwrap();
    let (_, figures) = arrives(&pair, &[], &[]);
    let pages = (7 + 10) * 16384 + MIB + 77 + 5;
    assert!(figures.wire < pages + 300_000, "{figures:?}");
    assert!(figures.reused > 73 * MIB, "{figures:?}");
}

#[test]
fn of_one_written_table_in_eight() {
    let pair = Pair::default();
    twins(&pair, 10);
    tree::file(&pair.donor, "sb/t5.ibd", tree::noise(9, 10 * MIB as usize));
    let (_, figures) = arrives(&pair, &[], &[]);
    assert!(figures.wire < figures.bytes / 8 + MIB, "{figures:?}");
}

#[test]
fn of_nothing_costs_nothing() {
    let pair = Pair::default();
    tables(&pair.donor, 10);
    tree::complete(&pair.joiner);
    for table in 0..8u64 {
        tree::file(&pair.joiner, format!("sb/t{table}.ibd"), tree::noise(90 + table, 10 * MIB as usize));
    }
    let (both, figures) = arrives(&pair, &[], &[]);
    assert_eq!(figures.reused, 0);
    both.donor.said("pages sampled, 0 are the same here: everything is sent");
    both.joiner.said("too little of this node's data equals the donor's: everything is sent");
    // The same is sent as to a node that has nothing.
    let fresh = Pair::default();
    tables(&fresh.donor, 10);
    let (_, full) = arrives(&fresh, &[], &[]);
    assert!(figures.wire.abs_diff(full.wire) < 10_000, "{figures:?} {full:?}");
}

#[test]
fn it_can_be_switched_off() {
    for off in ["off", "staged"] {
        let pair = Pair::default();
        twins(&pair, 2);
        let (both, figures) = arrives(&pair, &["--reuse", off], &[]);
        assert!(figures.wire > figures.bytes && figures.reused == 0, "{figures:?}");
        assert!(!both.donor.stderr.contains("already"), "{}", both.donor.stderr);
    }
}

/// Holes stay holes, in what is reused and in what is sent of it.
#[test]
fn holes_are_kept() {
    let pair = Pair::default();
    for root in [&pair.donor, &pair.joiner] {
        tree::everything(root);
        tree::file(root, "sb/t.ibd", tree::noise(1, 20 * MIB as usize));
    }
    let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    let punch = |root: &Path, at: u64, len: u64| {
        let file = File::options().write(true).open(root.join("sb/t.ibd")).unwrap();
        rustix::fs::fallocate(&file, hole, at, len).unwrap();
    };
    punch(&pair.donor, 5 * MIB, 3 * MIB + 16384);
    punch(&pair.joiner, 12 * MIB, 3 * MIB + 16384);
    let (_, figures) = arrives(&pair, &[], &[]);
    assert!(figures.reused > 13 * MIB, "{figures:?}");
    let (ours, theirs) = (tree::allocated(&pair.joiner), tree::allocated(&pair.donor));
    assert!(ours < theirs + MIB, "{ours} {theirs}");
}

/// Links that were planted in the old tree lead nowhere, and what is the node's own is not told of.
#[test]
fn of_a_planted_tree_stays_inside_it() {
    let pair = Pair::default();
    twins(&pair, 2);
    let outside = pair.home().join("outside");
    tables(&outside, 2);
    // A schema, and a table, that lead outside the old tree to what the donor has.
    fs::rename(pair.joiner.join("sb"), pair.home().join("away")).unwrap();
    symlink(outside.join("sb"), pair.joiner.join("sb")).unwrap();
    fs::create_dir(pair.donor.join("two")).unwrap();
    fs::create_dir(pair.joiner.join("two")).unwrap();
    for name in ["t0.ibd", "t1.ibd"] {
        fs::copy(outside.join("sb").join(name), pair.donor.join("two").join(name)).unwrap();
        symlink(outside.join("sb").join(name), pair.joiner.join("two").join(name)).unwrap();
    }
    let before = tree::read(&outside);
    let (_, figures) = arrives(&pair, &[], &[]);
    assert_eq!(figures.reused, 0, "{figures:?}");
    tree::assert_same(&before, &tree::read(&outside));
}

/// What arrived before the donor died need not be sent again, whatever the old tree is.
#[test]
fn of_what_a_failed_attempt_left() {
    let pair = Pair::default();
    tables(&pair.donor, 10);
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    let joiner = pair.receive(&["--idle-timeout", "2s"]);
    let donor = pair.send(&joiner.ticket, &["--compress", "none", "--rate-limit", "40M"]);
    // Half of it.
    let staged = pair.joiner.join(".highline/incoming/datadir/sb");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !staged.exists() || tree::allocated(&staged) < 45 * MIB {
        assert!(std::time::Instant::now() < deadline, "{}", joiner.running.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(donor);
    let ended = joiner.running.end(Duration::from_secs(20));
    ended.said("kept for the next attempt: ");
    tree::assert_same(&before, &tree::read(&pair.joiner));
    let joiner = pair.receive(&["--json"]);
    let donor = pair.send(&joiner.ticket, &["--compress", "none", "--json"]);
    let both = Both::of(donor, joiner, Duration::from_secs(60));
    both.succeeded();
    tree::assert_equal(&pair.donor, &pair.joiner);
    let figures = figures(&both);
    assert!(figures.wire < figures.bytes * 6 / 10, "{figures:?}");
    both.joiner.said("reused of an earlier attempt");
    pair.verify().succeeded();
    let left = fs::read_dir(&pair.joiner)
        .unwrap()
        .filter(|item| item.as_ref().unwrap().file_name().to_string_lossy().starts_with(".highline.kept"));
    assert_eq!(left.count(), 0);
}

/// The old tree goes first, and is used all the same.
#[test]
fn of_an_old_tree_that_goes_first() {
    let pair = Pair::default();
    twins(&pair, 4);
    tree::file(&pair.donor, "sb/t5.ibd", tree::noise(9, 4 * MIB as usize));
    let (both, figures) = arrives(&pair, &["--install", "inplace"], &[]);
    assert!(figures.reused >= 28 * MIB && figures.wire < 5 * MIB, "{figures:?}");
    both.joiner.said("reused of the old data");
}

/// A donor of our own making that has been told what the joiner has, and what then became of the joiner.
fn donor(act: impl AsyncFnOnce(&mut Control, &str, Vec<BasisFile>)) -> (Pair, Ended) {
    let pair = Pair::default();
    tree::old(&pair.joiner);
    // What no donor is told of.
    tree::file(&pair.joiner, "server-key.pem", tree::noise(1, 100_000));
    tree::file(&pair.joiner, "old_schema/short.ibd", tree::noise(1, 65_535));
    symlink(pair.joiner.join("ibdata1"), pair.joiner.join("old_schema/linked.ibd")).unwrap();
    let before = tree::read(&pair.joiner);
    let joiner = pair.receive(&["--idle-timeout", "2s"]);
    hostile::converse(async {
        let mut control = hostile::start(&hostile::dialer(&joiner.ticket)).await.unwrap();
        let offer = Offer { reuse: true, ..hostile::offer(9, 1_000_000) };
        control.send(Message::Offer(Box::new(offer))).await.unwrap();
        let accept = control.next().await.unwrap();
        assert!(matches!(accept, Message::Accept(accept) if accept.basis));
        let Ok(Message::Basis { files, last: true }) = control.next().await else { panic!() };
        act(&mut control, &joiner.ticket, files).await;
        while control.next().await.is_ok() {}
    });
    let ended = joiner.running.end(SECONDS);
    if ended.code() != 0 {
        tree::assert_same(&before, &tree::read(&pair.joiner));
    }
    (pair, ended)
}

const T1: &[u8] = b"datadir/old_schema/t1.ibd";

fn sample(files: &[BasisFile]) -> Message {
    let file = files.iter().position(|file| file.path.as_bytes() == T1).unwrap() as u32;
    Message::Sample { seed: 5, chunks: vec![SampledChunk { file, chunk: 0 }] }
}

#[test]
fn of_what_was_not_listed_is_refused() {
    let wanted = |bytes: &[u8]| Message::Reuse { wanted: bytes.to_vec().into() };
    let chunks = |chunks: Vec<(u32, u64)>| Message::Sample {
        seed: 5,
        chunks: chunks.into_iter().map(|(file, chunk)| SampledChunk { file, chunk }).collect(),
    };
    let (_, ended) = donor(async |control, _, files| {
        let names: Vec<&[u8]> = files.iter().map(|file| file.path.as_bytes()).collect();
        assert_eq!(names, [T1], "the only file of this size in a root that was offered");
        control.send(Message::Bye).await.unwrap();
    });
    ended.failed(71, &["joiner: ", "sent `bye` out of turn"]);
    for (said, words) in [
        (vec![chunks(vec![(3, 0)])], "the donor asked about a chunk of a file that was not listed"),
        (vec![chunks(vec![(0, 1)])], "the donor asked about a chunk of a file that was not listed"),
        (vec![chunks(vec![(0, 0); 65])], "the donor asked about 65 chunks at once"),
        (vec![wanted(&[1])], "sent `reuse` out of turn"),
        (vec![chunks(vec![(0, 0)]), chunks(vec![(0, 0)])], "sent `sample` out of turn"),
        (vec![chunks(vec![(0, 0)]), wanted(&[8])], "the donor wants a file that was not listed"),
        (vec![chunks(vec![(0, 0)]), wanted(&[1]), wanted(&[1])], "sent `reuse` out of turn"),
        (vec![Message::SeedsOver], "sent `seeds-over` out of turn"),
    ] {
        let (_, ended) = donor(async |control, _, _| {
            for message in said {
                let _ = control.send(message).await;
            }
        });
        ended.failed(71, &["joiner: ", words]);
    }
}

/// All of a tree is said to be what the joiner has. Only the seal decides, and only over what it has.
#[test]
fn nothing_is_believed() {
    let content = tree::noise(3, 100_000);
    let lie = tree::noise(4, 100_000);
    for (sealed, holds) in [(&content, true), (&lie, false)] {
        let entry = |path: &str, content| hostile::entry(path, content);
        let file = entry("datadir/old_schema/t1.ibd", Content::File { size: 100_000 });
        let entries: [Entry; 2] = [entry("datadir/old_schema", Content::Directory), file];
        let (pair, ended) = donor(async |control, ticket, files| {
            control.send(sample(&files)).await.unwrap();
            let Ok(Message::Sampled { hints }) = control.next().await else { panic!() };
            assert_eq!(hints[0].as_bytes().len(), 7 * 8);
            let Message::Sample { chunks, .. } = sample(&files) else { panic!() };
            let wanted: Base64 = vec![1 << chunks[0].file].into();
            control.send(Message::Reuse { wanted }).await.unwrap();
            let round = Round { number: 0, entries: 2, bytes: 100_000, streamed: false, position: None };
            control.send(Message::Round(round)).await.unwrap();
            let Ok(Message::Seeded { from: 0, digests, .. }) = control.next().await else { panic!() };
            assert_eq!(digests.as_bytes(), Checksum::Blake3.digest(&content).as_bytes());
            assert!(matches!(control.next().await, Ok(Message::SeedsOver)));
            let (mut lane, _) = hostile::dialer(ticket).dial(Purpose::Lane { number: 0 }).await.unwrap();
            let mut batch = Batch::default();
            entries.iter().for_each(|entry| batch.push_entry(entry).unwrap());
            let frame = Frame::of(batch);
            lane.write_all(&[&frame.header.encode()[..], &frame.payload].concat()).await.unwrap();
            lane.flush().await.unwrap();
            lane.read_exact(&mut [0; Answer::LEN]).await.unwrap();
            lane.write_all(&FrameHeader::end().encode()).await.unwrap();
            lane.flush().await.unwrap();
            let digest =
                |entry: &Entry| matches!(entry.content, Content::File { .. }).then(|| Checksum::Blake3.digest(sealed));
            let items = entries.iter().map(|entry| Item { entry: entry.clone(), digest: digest(entry) }).collect();
            let Seal { entries, digest } = Manifest::new(Checksum::Blake3, items).unwrap().seal();
            control.send(Message::Seal { entries, digest }).await.unwrap();
        });
        if holds {
            ended.succeeded();
            assert!(fs::read(pair.joiner.join("old_schema/t1.ibd")).unwrap() == content);
        } else {
            ended.failed(74, &["joiner: ", "the copy is not what the donor sealed"]);
        }
    }
}

/// There is no room for a second copy: the old file itself becomes the new one.
#[test]
fn no_room_for_a_second_copy_is_needed() {
    let mut pair = Pair::default();
    let Some(_disk) = pair.small_disk(120) else {
        println!("not run: this needs the right to mount");
        return;
    };
    pair.joiner = pair.home().join("disk/joiner");
    fs::create_dir(&pair.joiner).unwrap();
    twins(&pair, 10);
    // Of two tables nothing is as it was, and one the donor does not have.
    for name in ["sb/t2.ibd", "sb/t5.ibd"] {
        tree::file(&pair.donor, name, tree::noise(9, 10 * MIB as usize));
    }
    tree::file(&pair.joiner, "sb/gone.ibd", tree::noise(8, 20 * MIB as usize));
    let (both, figures) = arrives(&pair, &["--install", "inplace"], &[]);
    assert!(figures.reused >= 60 * MIB && figures.wire < 22 * MIB, "{figures:?}");
    both.joiner.said("reused of the old data");
}

/// The least that was free on a filesystem of that kind, and how much was before, in bytes, while an old tree of 160 MiB
/// was reused on it.
fn least_free(kind: &str) -> Option<(u64, u64)> {
    let mut pair = Pair::default();
    let place = pair.home().join("disk");
    fs::create_dir(&place).unwrap();
    let Some(disk) = SmallDisk::format(&place, kind, 700) else {
        println!("not run: this needs the right to mount");
        return None;
    };
    pair.joiner = place.join("joiner");
    fs::create_dir(&pair.joiner).unwrap();
    twins(&pair, 20);
    let free = || {
        let stat = rustix::fs::statvfs(&place).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    disk.sync();
    let before = free();
    let over = AtomicBool::new(false);
    let least = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut least = free();
            let end = Instant::now() + Duration::from_secs(60);
            while !over.load(Ordering::Relaxed) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
                least = least.min(free());
            }
            least
        });
        let (_, figures) = arrives(&pair, &[], &[]);
        over.store(true, Ordering::Relaxed);
        assert!(figures.reused >= 160 * MIB, "{figures:?}");
        watch.join().unwrap()
    });
    Some((before, least))
}

#[test]
fn no_room_is_taken_if_the_filesystem_can_clone() {
    for kind in ["xfs", "btrfs"] {
        let Some((before, least)) = least_free(kind) else { return };
        assert!(before - least < 80 * MIB, "{kind}: {before}, {least}");
    }
    let Some((before, least)) = least_free("ext4") else { return };
    assert!(before - least > 120 * MIB, "ext4 has to copy: {before}, {least}");
}
