//! What is sent arrives: trees of all kinds, each codec and checksum, the position, what a joiner keeps,
//! and what is left after either end was killed.

use crate::support::disk::SmallDisk;
use crate::support::faulty_link::{FaultyLink, WELL};
use crate::support::pair::{Both, LIMIT, Pair, redirected};
use crate::support::tree::{self, MIB, file};
use highline::manifest::CHUNK;
use proptest::prelude::*;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// All holes of the donor are holes on the joiner.
#[track_caller]
fn same_room(pair: &Pair) {
    let (there, here) = (tree::allocated(&pair.donor), tree::allocated(&pair.joiner));
    let manifest = fs::metadata(pair.joiner.join(".highline.manifest")).unwrap().blocks() * 512;
    let here = here - manifest;
    assert!(here.abs_diff(there) <= there / 20, "{there} bytes are allocated on the donor, {here} on the joiner");
}

#[test]
fn everything_arrives_by_one_lane_and_by_eight() {
    for lanes in ["1", "8"] {
        let pair = Pair::default();
        tree::everything(&pair.donor);
        tree::old(&pair.joiner);
        pair.arrives(&[], &["--lanes", lanes]);
        same_room(&pair);
        let verified = pair.verify();
        verified.succeeded();
        assert!(verified.stdout.starts_with("verified: "), "{}", verified.stdout);
        assert!(!pair.joiner.join(".highline").exists(), "the server would list it as a schema");
    }
}

/// Each wants something else of those who go past its page cache, and one has nothing else.
#[test]
fn between_filesystems_of_every_kind() {
    for kind in ["xfs", "btrfs", "ext4", "tmpfs"] {
        let mut pair = Pair::default();
        let place = pair.home().join(kind);
        fs::create_dir(&place).unwrap();
        let mounted =
            if kind == "tmpfs" { SmallDisk::mount(&place, 600) } else { SmallDisk::format(&place, kind, 600) };
        let Some(_disk) = mounted else {
            eprintln!("not run: this needs the right to mount");
            return;
        };
        tree::everything(&pair.donor);
        file(&pair.donor, "odd/tail", tree::noise(1, 5 * MIB as usize + 333));
        let (plain, on_disk) = (pair.joiner.clone(), place.join("data"));
        fs::create_dir(&on_disk).unwrap();
        pair.joiner = on_disk.clone();
        pair.arrives(&[], &["--compress", "none"]);
        pair.verify().succeeded();
        fs::remove_file(on_disk.join(".highline.manifest")).unwrap();
        (pair.donor, pair.joiner) = (on_disk, plain);
        pair.arrives(&[], &["--compress", "zstd"]);
        pair.verify().succeeded();
    }
}

#[test]
fn each_codec_and_checksum() {
    for (codec, checksum) in
        [("none", "sha256"), ("lz4", "blake3"), ("zstd", "sha256"), ("zstd:19", "blake3"), ("auto", "auto")]
    {
        let pair = Pair::default();
        tree::everything(&pair.donor);
        let both = pair.arrives(&[], &["--compress", codec, "--checksum", checksum, "--json"]);
        same_room(&pair);
        let report: serde_json::Value = serde_json::from_str(&both.donor.stdout).unwrap();
        if checksum != "auto" {
            assert_eq!(report["checksum"], checksum);
        }
        if codec.starts_with("zstd") {
            // The compressible files weigh 3.2 MB, the noise 13 MB.
            assert!(report["wire_bytes"].as_u64().unwrap() < 15_000_000, "{report}");
        }
    }
}

#[test]
fn no_file_arrives_with_the_right_to_be_another_user() {
    let pair = Pair::default();
    tree::complete(&pair.donor);
    let file = pair.donor.join("ibdata1");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
    pair.transfer(&[], &[]).succeeded();
    assert_eq!(fs::metadata(pair.joiner.join("ibdata1")).unwrap().mode() & 0o7777, 0o755);
    pair.verify().succeeded();
}

#[test]
fn checksums_that_nobody_shares() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 1);
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    let both = pair.transfer(&["--checksum", "sha256"], &["--checksum", "blake3"]);
    both.failed(93, &["joiner: donor and joiner have no checksum in common"]);
    tree::assert_same(&before, &tree::read(&pair.joiner));
}

fn sizes() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 511, 512, 513, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1];
    prop_oneof![prop::sample::select(edges.to_vec()), 0..5000u64]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn small_trees_arrive(
        files in prop::collection::vec(("[a-z]{1,3}(/[a-zA-Z0-9#@ .]{1,6}x){0,2}", sizes(), 0u32..0o1000), 0..8),
        lanes in 1..4u16,
        codec in prop::sample::select(vec!["none", "lz4", "zstd"]),
    ) {
        let pair = Pair::default();
        tree::complete(&pair.donor);
        for (number, (name, size, mode)) in (0u64..).zip(&files) {
            let place = pair.donor.join(name);
            if place.ancestors().skip(1).all(|above| !above.is_file()) && !place.exists() {
                file(&pair.donor, name, tree::noise(number, *size as usize));
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
        pair.arrives(&[], &["--lanes", &lanes.to_string(), "--compress", codec]);
        pair.verify().succeeded();
    }
}

#[test]
fn a_rate_is_kept() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 8);
    let both = pair.arrives(&[], &["--rate-limit", "4M", "--compress", "none", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&both.donor.stdout).unwrap();
    let rate = report["wire_bytes"].as_f64().unwrap() / report["seconds"].as_f64().unwrap();
    let asked = 4.0 * MIB as f64;
    // A busy machine may be slower.
    assert!((0.65..1.2).contains(&(rate / asked)), "{rate} instead of {asked} bytes a second");
}

#[test]
fn verify_names_what_differs() {
    let pair = Pair::default();
    tree::everything(&pair.donor);
    pair.arrives(&[], &[]);
    let there = |name: &str| pair.joiner.join(name);
    let mut page = fs::read(there("ibdata1")).unwrap();
    page[2_000_000] ^= 1;
    fs::write(there("ibdata1"), page).unwrap();
    fs::remove_file(there("odd/up")).unwrap();
    fs::write(there("hollow/more"), "").unwrap();
    fs::write(there("text"), "short").unwrap();
    fs::set_permissions(there("hole last"), fs::Permissions::from_mode(0o600)).unwrap();
    let verified = pair.verify();
    verified.failed(74, &["5 entries are not what was sent; the transfer had 101 entries"]);
    let lines: Vec<&str> = verified.stdout.lines().collect();
    let expected = [
        "datadir/hole last: its mode is 0600, 0644 was sent",
        "datadir/hollow/more: extra, it was not sent",
        "datadir/odd/up: missing",
        "datadir/text: has 5 bytes, 1200000 were sent",
        "innodb-data/ibdata1: its content differs",
    ];
    assert_eq!(lines, expected);
}

/// As Galera brings it: the logs have the names of the wire in the manifest and the node's own on its disk.
#[test]
fn verify_reads_the_layout_from_the_option_file() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 1);
    let [there, here] = ["there", "here"].map(|name| pair.home().join(name));
    file(&there, "binlog.000007", "events");
    fs::create_dir(&here).unwrap();
    let root = |path: &Path| format!("--root=binlog={}", path.display());
    pair.transfer(&[&root(&here)], &[&root(&there)]).succeeded();
    fs::rename(here.join("binlog.000007"), here.join("db1.000007")).unwrap();
    file(&here, "db1.index", "db1.000007\n");
    file(&pair.joiner, "slow", "a log of the node's own");
    let options = format!("[mysqld]\nlog_bin={}/db1\nslow_query_log_file=slow\n", here.display());
    let options = file(pair.home(), "my.cnf", options);

    let datadir = pair.joiner.to_str().unwrap();
    let configured = ["verify", "--datadir", datadir, "--defaults-file", options.to_str().unwrap()];
    pair.run(&configured).succeeded();
    file(&here, "db1.000008", "");
    fs::write(here.join("db1.000007"), "others").unwrap();
    let verified = pair.run(&configured);
    verified.failed(74, &["2 entries are not what was sent"]);
    assert_eq!(
        verified.stdout.lines().collect::<Vec<_>>(),
        ["binlog/binlog.000007: its content differs", "binlog/binlog.000008: extra, it was not sent"]
    );
    pair.run(&["verify", "--datadir", datadir, &root(&here)]).failed(74, &["entries are not what was sent"]);
}

fn grastate(root: &Path, seqno: i64, bootstrap: u8) {
    let text = format!(
        "# GALERA saved state\nversion: 2.1\nuuid:    5d1fa5a7-0e29-11f0-8b7e-0242ac120002\nseqno:   {seqno}\nsafe_to_bootstrap: {bootstrap}\n"
    );
    file(root, "grastate.dat", text);
}

#[test]
fn a_known_position_travels() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 1);
    grastate(&pair.donor, 4711, 1);
    let both = pair.arrives(&[], &[]);
    let written = fs::read_to_string(pair.joiner.join("grastate.dat")).unwrap();
    for line in ["uuid:    5d1fa5a7-0e29-11f0-8b7e-0242ac120002", "seqno:   4711", "safe_to_bootstrap: 0"] {
        assert!(written.lines().any(|found| found == line), "{written}");
    }
    assert!(
        both.joiner.stderr.contains("position 5d1fa5a7-0e29-11f0-8b7e-0242ac120002:4711"),
        "{}",
        both.joiner.stderr
    );
}

#[test]
fn an_unknown_position_does_not() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 1);
    grastate(&pair.donor, -1, 0);
    // A position of the old tree would be a lie about the new one.
    grastate(&pair.joiner, 17, 0);
    let both = pair.arrives(&[], &[]);
    for end in [&both.donor, &both.joiner] {
        assert!(end.stderr.contains("the joiner will ask for a full SST"), "{}", end.stderr);
    }
    let left = fs::read_to_string(pair.joiner.join("grastate.dat")).unwrap_or_default();
    assert!(!left.contains("seqno:   17"), "the position of the old tree stayed: {left}");
}

#[test]
fn what_belongs_to_the_node_stays() {
    let kept = ["galera.cache", "server-key.pem", "gvwstate.dat", "db1.err", "mysqld.pid"];
    for install in ["staged", "inplace"] {
        let pair = Pair::default();
        tree::plain(&pair.donor, 1);
        tree::old(&pair.joiner);
        for name in kept {
            file(&pair.donor, name, "the donor's");
            file(&pair.joiner, name, "the joiner's");
        }
        file(&pair.joiner, "tc.log", "stale");
        pair.transfer(&["--install", install], &[]).succeeded();
        for name in kept {
            assert_eq!(fs::read_to_string(pair.joiner.join(name)).unwrap(), "the joiner's", "{name}");
            fs::remove_file(pair.joiner.join(name)).unwrap();
            fs::remove_file(pair.donor.join(name)).unwrap();
        }
        tree::assert_equal(&pair.donor, &pair.joiner);
        pair.verify().succeeded();
    }
}

#[test]
fn one_transfer_after_another() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 2);
    pair.arrives(&[], &[]);
    fs::remove_dir_all(pair.donor.join("schema")).unwrap();
    file(&pair.donor, "ibdata1", tree::noise(99, 1_500_000));
    pair.arrives(&[], &[]);
    pair.arrives(&["--install", "inplace"], &[]);
    assert!(!pair.joiner.join("schema").exists());
    pair.verify().succeeded();
}

#[test]
fn roots_of_their_own_on_each_side() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 1);
    let (there, here) = (pair.home().join("donor undo"), pair.home().join("joiner undo"));
    file(&there, "undo001", tree::noise(5, 100_000));
    file(&here, "undo001", "old");
    file(&here, "somebody else's", "stays");
    let root = |path: &Path| format!("--root=innodb-undo={}", path.display());
    pair.transfer(&[&root(&here)], &[&root(&there)]).succeeded();
    assert_eq!(fs::read(here.join("undo001")).unwrap(), fs::read(there.join("undo001")).unwrap());
    assert_eq!(fs::read_to_string(here.join("somebody else's")).unwrap(), "stays");
    tree::assert_equal(&pair.donor, &pair.joiner);
}

/// Kills one end when so many bytes have passed; the old tree must be as it was, and the next transfer works.
fn killed(joiners: bool, moment: u64) {
    let pair = Pair::default();
    tree::plain(&pair.donor, 6);
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    let joiner = pair.receive(&["--idle-timeout", "2s"]);
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let donor =
        pair.send(&redirected(&joiner.ticket, link.address), &["--rate-limit", "4M", "--connect-timeout", "2s"]);
    link.passed(moment);
    if joiners {
        joiner.running.signal(Signal::KILL)
    } else {
        donor.signal(Signal::KILL)
    }
    let both = Both::of(donor, joiner, Duration::from_secs(15));
    let (victim, other) = if joiners { (&both.joiner, &both.donor) } else { (&both.donor, &both.joiner) };
    assert_eq!(victim.code(), -9, "{}", victim.stderr);
    // Before its proof it was never reached.
    let code = if joiners && moment < 2_000 { 111 } else { 32 };
    other.failed(code, &[if joiners { " the joiner at " } else { "joiner: the donor at " }]);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    pair.arrives(&[], &[]);
    pair.verify().succeeded();
}

#[test]
fn the_joiner_is_killed() {
    for moment in [1_000, 100_000, 3 * MIB, 5 * MIB] {
        killed(true, moment);
    }
}

#[test]
fn the_donor_is_killed() {
    // Before its proof it would be a stranger, and the wait would go on.
    for moment in [10_000, 100_000, 3 * MIB, 5 * MIB] {
        killed(false, moment);
    }
}

/// Killed around the switch, which takes milliseconds: whatever the moment, the tree is wholly old or wholly new.
#[test]
fn the_joiner_is_killed_around_the_switch() {
    let mut ends = [0, 0];
    for step in 0..12 {
        let pair = Pair::default();
        tree::plain(&pair.donor, 1);
        tree::old(&pair.joiner);
        let before = tree::read(&pair.joiner);
        let joiner = pair.receive(&[]);
        let donor = pair.send(&joiner.ticket, &[]);
        donor.says("verified by the joiner");
        std::thread::sleep(Duration::from_millis(2) * step);
        // It may have ended by itself already.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(joiner.running.child.id().cast_signed()).unwrap(),
            Signal::KILL,
        );
        let _ = Both::of(donor, joiner, LIMIT);
        let recovered = pair.run(&["recover", "--datadir", pair.joiner.to_str().unwrap()]);
        recovered.succeeded();
        let now = tree::read(&pair.joiner);
        let new = now == tree::read(&pair.donor);
        assert!(new || now == before, "step {step}: neither the old nor the new tree after: {}", recovered.stdout);
        ends[usize::from(new)] += 1;
        pair.arrives(&[], &[]);
    }
    println!("old tree {} times, new tree {} times", ends[0], ends[1]);
}
