//! What goes wrong, where and when: the exit code and the words on both sides, and the joiner's old tree
//! afterwards.

use crate::support::disk::SmallDisk;
use crate::support::faulty_link::{Fate, Fault, FaultyLink, WELL};
use crate::support::load::meanwhile;
use crate::support::pair::{Both, Joiner, LIMIT, Pair, Running, SECONDS, redirected};
use crate::support::tree::{self, MIB, Tree, file};
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A donor with 6 MiB and a joiner with an old tree.
struct Ground {
    /// Dropped before the folder that it is mounted in.
    _disk: Option<SmallDisk>,
    pair: Pair,
    before: Tree,
}

impl Ground {
    fn new() -> Ground {
        Ground::on(Pair::default())
    }

    /// The joiner's directory is on a filesystem of this many MiB, if this process may mount one.
    fn on_small_disk(mebibytes: u32) -> Option<Ground> {
        let mut pair = Pair::default();
        let disk = pair.small_disk(mebibytes)?;
        pair.joiner = pair.home().join("disk/joiner");
        fs::create_dir(&pair.joiner).unwrap();
        Some(Ground { _disk: Some(disk), ..Ground::on(pair) })
    }

    fn on(pair: Pair) -> Ground {
        tree::plain(&pair.donor, 6);
        tree::old(&pair.joiner);
        let before = tree::read(&pair.joiner);
        Ground { _disk: None, pair, before }
    }

    /// Both ends, over a link on which each connection has its fate.
    fn over(&self, fate: impl Fn(usize) -> Fate + Send + 'static, more: &[&str]) -> (FaultyLink, Joiner, Running) {
        let waits = ["--idle-timeout", "1s"];
        let joiner = self.pair.receive(&waits);
        let link = FaultyLink::to(joiner.address(), fate);
        let donor = self.pair.send(&redirected(&joiner.ticket, link.address), &[&waits, more].concat());
        (link, joiner, donor)
    }

    /// The old tree is unchanged, and nothing of ours is left in it.
    #[track_caller]
    fn untouched(&self) {
        tree::assert_same(&self.before, &tree::read(&self.pair.joiner));
        assert!(!self.pair.joiner.join(".highline").exists(), "the server would list it as a schema");
    }

    #[track_caller]
    fn and_the_next_one_works(&self) {
        self.untouched();
        self.pair.arrives(&[], &[]);
    }
}

const SLOW: [&str; 2] = ["--rate-limit", "4M"];

fn only(number: usize, there: Fault, back: Fault) -> impl Fn(usize) -> Fate + Send + 'static {
    move |connection| if connection == number { Fate { there, back, ..WELL } } else { WELL }
}

#[test]
fn a_lane_is_cut_and_dialled_again() {
    let none = Fault::None;
    for (there, back) in [
        (Fault::Cut(0), none),
        (Fault::Cut(700), none),
        (Fault::Cut(2_000), none),
        (Fault::Cut(60_000), none),
        (Fault::Cut(2 * MIB), none),
        (none, Fault::Cut(900)),
        (none, Fault::Cut(1_985)),
        (none, Fault::Cut(2_020)),
    ] {
        let ground = Ground::new();
        // One lane: with two, the other may be done before this one is dialled again.
        let (link, joiner, donor) = ground.over(only(1, there, back), &["--lanes", "1"]);
        let both = Both::of(donor, joiner, LIMIT);
        both.succeeded();
        assert!(link.connections() > 2, "{there:?} {back:?}: {}", both.donor.stderr);
        tree::assert_equal(&ground.pair.donor, &ground.pair.joiner);
    }
}

/// Each of the first 25 lane connections ends after 2 KB to 4 MiB.
#[test]
fn twenty_five_cuts_in_one_transfer() {
    for lanes in ["1", "4"] {
        let pair = Pair::default();
        tree::plain(&pair.donor, 48);
        tree::old(&pair.joiner);
        let joiner = pair.receive(&[]);
        let link = FaultyLink::to(joiner.address(), |number| match number {
            1..=25 => {
                let random = tree::random(number as u64);
                let at = 2_000 + random % (4 * MIB);
                let back = random.is_multiple_of(5);
                let (there, back) =
                    if back { (Fault::None, Fault::Cut(1_000 + at % 1_200)) } else { (Fault::Cut(at), Fault::None) };
                Fate { there, back, ..WELL }
            }
            _ => WELL,
        });
        let donor = pair.send(&redirected(&joiner.ticket, link.address), &["--lanes", lanes]);
        Both::of(donor, joiner, LIMIT).succeeded();
        assert!(link.connections() > 25, "{} connections", link.connections());
        tree::assert_equal(&pair.donor, &pair.joiner);
        pair.verify().succeeded();
    }
}

/// Every lane is reset at once, again and again, as by a firewall that loses its table.
#[test]
fn all_lanes_are_cut_again_and_again() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 24);
    tree::old(&pair.joiner);
    let joiner = pair.receive(&["--idle-timeout", "10s"]);
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let more = ["--idle-timeout", "10s", "--rate-limit", "6M", "--lanes", "16"];
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &more);
    for mib in [1, 3, 4, 6, 7, 9, 12] {
        link.passed(mib * MIB);
        link.cut(|number| number > 0);
    }
    Both::of(donor, joiner, LIMIT).succeeded();
    tree::assert_equal(&pair.donor, &pair.joiner);
    pair.verify().succeeded();
}

/// Lanes that die silently take up no room: each one that is dialled again replaces the old one.
#[test]
fn dead_lanes_keep_no_place() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 6);
    tree::old(&pair.joiner);
    let joiner = pair.receive(&[]);
    // The donor's half of the first twenty is cut; the joiner never hears of it.
    let link = FaultyLink::to(joiner.address(), |number| match number {
        1..=20 => Fate { there: Fault::Lost(100_000), ..WELL },
        _ => WELL,
    });
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &["--lanes", "2"]);
    let both = Both::of(donor, joiner, LIMIT);
    both.succeeded();
    assert!(link.connections() > 20, "{}", link.connections());
    tree::assert_equal(&pair.donor, &pair.joiner);
}

/// On a slow link the first frames of many lanes take longer than a transfer may go without progress; bytes move all the time.
#[test]
fn a_slow_link_needs_long_for_the_first_frame() {
    let pair = Pair::default();
    tree::complete(&pair.donor);
    file(&pair.donor, "ibdata1", tree::noise(7, 6 * MIB as usize));
    let waits = ["--idle-timeout", "2s"];
    let joiner = pair.receive(&waits);
    let link = FaultyLink::to(joiner.address(), |number| Fate { rate: if number > 0 { 250_000 } else { 0 }, ..WELL });
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &[&waits[..], &["--lanes", "6"]].concat());
    let both = Both::of(donor, joiner, LIMIT);
    both.succeeded();
    assert!(both.donor.took > Duration::from_secs(4), "the link was not slow: {:?}", both.donor.took);
    tree::assert_equal(&pair.donor, &pair.joiner);
}

/// So they do with a low rate limit.
#[test]
fn a_low_rate_is_no_standstill() {
    let pair = Pair::default();
    tree::complete(&pair.donor);
    file(&pair.donor, "ibdata1", tree::noise(7, MIB as usize));
    let waits = ["--idle-timeout", "1s"];
    let joiner = pair.receive(&waits);
    let donor = pair.send(&joiner.ticket, &[&waits[..], &["--rate-limit", "200K", "--compress", "none"]].concat());
    Both::of(donor, joiner, LIMIT).succeeded();
}

#[test]
fn control_is_cut_and_dialled_again() {
    for (moment, which) in [(20_000, 0), (3 * MIB, 0), (20_000, usize::MAX), (3 * MIB, usize::MAX)] {
        let ground = Ground::new();
        let (link, joiner, donor) = ground.over(|_| WELL, &SLOW);
        link.passed(moment);
        link.cut(|number| number <= which);
        Both::of(donor, joiner, SECONDS).succeeded();
        tree::assert_equal(&ground.pair.donor, &ground.pair.joiner);
    }
}

#[test]
fn the_link_is_cut_for_good() {
    for moment in [20_000, 3 * MIB] {
        let ground = Ground::new();
        let (link, joiner, donor) = ground.over(|_| WELL, &SLOW);
        link.passed(moment);
        link.down();
        let both = Both::of(donor, joiner, SECONDS);
        both.donor.failed(32, &["donor: the joiner at ", " closed ", " for 1 s"]);
        both.joiner
            .failed(32, &["joiner: the donor at ", "closed the connection, and no new one could be made for 1 s"]);
        link.up();
        ground.and_the_next_one_works();
    }
}

/// The joiner still waits, so the donor tries once more.
#[test]
fn control_is_cut_before_the_proof() {
    for (there, back) in
        [(Fault::Cut(0), Fault::None), (Fault::Cut(1_000), Fault::None), (Fault::None, Fault::Cut(1_500))]
    {
        let ground = Ground::new();
        let (link, joiner, donor) = ground.over(only(0, there, back), &["--lanes", "1"]);
        Both::of(donor, joiner, LIMIT).succeeded();
        assert_eq!(link.connections(), 3);
        tree::assert_equal(&ground.pair.donor, &ground.pair.joiner);
    }
}

#[test]
fn everything_stands_still() {
    let ground = Ground::new();
    let (link, joiner, donor) = ground.over(|_| WELL, &SLOW);
    link.passed(MIB);
    link.stall();
    let both = Both::of(donor, joiner, SECONDS);
    both.donor.failed(110, &["donor: ", "has written nothing for 1 s"]);
    both.joiner.failed(110, &["joiner: the donor has sent nothing for 1 s"]);
    ground.and_the_next_one_works();
}

#[test]
fn a_lane_stands_still() {
    for (there, back) in [(Fault::Stall(MIB), Fault::None), (Fault::None, Fault::Stall(2_020))] {
        let ground = Ground::new();
        let (link, joiner, donor) = ground.over(only(1, there, back), &["--lanes", "1"]);
        let both = Both::of(donor, joiner, SECONDS);
        assert_eq!(
            (both.donor.code(), both.joiner.code()),
            (110, 110),
            "{}\n{}",
            both.donor.stderr,
            both.joiner.stderr
        );
        ground.untouched();
        drop(link);
    }
}

/// A bit that flips inside TLS ends the transfer, or the lane is dialled again; nothing wrong is installed.
#[test]
fn a_bit_flips() {
    let none = Fault::None;
    for (number, there, back) in [
        (0, Fault::Flip(40), none),
        (0, Fault::Flip(1_300), none),
        (0, none, Fault::Flip(800)),
        (1, Fault::Flip(50), none),
        (1, Fault::Flip(3_000), none),
        (1, Fault::Flip(MIB), none),
        (1, none, Fault::Flip(700)),
        (1, none, Fault::Flip(1_990)),
    ] {
        let ground = Ground::new();
        let (link, joiner, donor) = ground.over(only(number, there, back), &["--lanes", "1"]);
        let donor = donor.end(LIMIT);
        if donor.code() == 0 {
            joiner.running.end(LIMIT).succeeded();
            tree::assert_equal(&ground.pair.donor, &ground.pair.joiner);
        } else {
            assert!([32, 71, 129].contains(&donor.code()), "{number} {there:?} {back:?}: {}", donor.stderr);
            if number == 0 {
                // Whoever did not prove itself was a stranger, and the wait goes on.
                joiner.running.signal(Signal::TERM);
            }
            let joiner = joiner.running.end(SECONDS);
            assert!([4, 32, 71].contains(&joiner.code()), "{number} {there:?} {back:?}: {}", joiner.stderr);
            ground.untouched();
        }
        drop(link);
    }
}

#[test]
fn a_slow_link_costs_no_round_trip_a_file() {
    let pair = Pair::default();
    tree::complete(&pair.donor);
    for number in 0..2_000 {
        file(&pair.donor, format!("schema/t{number}.frm"), [b'x'; 900]);
    }
    let joiner = pair.receive(&[]);
    let link = FaultyLink::to(joiner.address(), |_| Fate { delay: Duration::from_millis(40), ..WELL });
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &["--lanes", "2"]);
    let both = Both::of(donor, joiner, LIMIT);
    both.succeeded();
    tree::assert_equal(&pair.donor, &pair.joiner);
    assert!(both.donor.took < Duration::from_secs(8), "{:?}", both.donor.took);
}

#[test]
fn the_disk_fills_up() {
    let Some(ground) = Ground::on_small_disk(16) else { return };
    let (link, joiner, donor) = ground.over(|_| WELL, &SLOW);
    link.passed(2 * MIB);
    let filler = file(ground.pair.home(), "disk/filler", "");
    let full = fs::write(&filler, vec![1; 16 * MIB as usize]);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    Both::of(donor, joiner, SECONDS).failed(28, &["joiner: cannot write", "No space left on device"]);
    ground.untouched();
    fs::remove_file(filler).unwrap();
    ground.and_the_next_one_works();
}

#[test]
fn no_room_is_said_before_anything_is_touched() {
    let Some(ground) = Ground::on_small_disk(5) else { return };
    let both = ground.pair.transfer(&[], &[]);
    both.failed(28, &["joiner: ", " has 4.6 MB free, and the donor sends 7.6 MB"]);
    for end in [&both.donor, &both.joiner] {
        assert!(end.stderr.contains("remedy: free space there, or use install=inplace"), "{}", end.stderr);
        assert!(end.took < SECONDS);
    }
    ground.untouched();
}

/// Both ends as a user without privileges.
fn unprivileged() -> Option<Ground> {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        return Some(Ground::new());
    }
    let mut ground = Ground::on(Pair::beneath(&std::env::temp_dir()));
    // That user may be unable to read the build directory.
    let program = ground.pair.home().join("highline");
    if fs::hard_link(&ground.pair.program, &program).is_err() {
        fs::copy(&ground.pair.program, &program).unwrap();
    }
    ground.pair.program = program;
    ground.pair.wrap = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned).to_vec();
    fs::set_permissions(ground.pair.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let everything =
        Command::new("chown").args(["-R", "65534:65534"]).args([&ground.pair.donor, &ground.pair.joiner]).status();
    assert!(everything.unwrap().success());
    ground.before = tree::read(&ground.pair.joiner);
    chown(ground.pair.home(), Some(NOBODY), Some(NOBODY)).unwrap();
    Some(ground)
}

#[test]
fn one_file_may_not_be_read() {
    let Some(ground) = unprivileged() else { return };
    let secret = ground.pair.donor.join("schema/t9.ibd");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o0)).unwrap();
    let other = ground.pair.donor.join("schema/t7.ibd");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o0)).unwrap();
    let joiner = ground.pair.receive(&[]);
    let refused = ground.pair.send(&joiner.ticket, &[]).end(SECONDS);
    refused.failed(13, &["donor: cannot open ", "schema/t7.ibd, ", "schema/t9.ibd: Permission denied"]);
    assert!(!refused.stderr.contains("connected"), "the joiner was troubled: {}", refused.stderr);
    for place in [secret, other] {
        fs::set_permissions(&place, fs::Permissions::from_mode(0o600)).unwrap();
    }
    // The joiner keeps waiting, and its ticket is still good.
    let donor = ground.pair.send(&joiner.ticket, &[]);
    Both::of(donor, joiner, LIMIT).succeeded();
    tree::assert_equal(&ground.pair.donor, &ground.pair.joiner);
}

/// Anything may be in a schema: nobody waits for a pipe, and what is not sent is reported once.
#[test]
fn pipes_and_sockets_stay() {
    let ground = Ground::new();
    let _socket = std::os::unix::net::UnixListener::bind(ground.pair.donor.join("schema/agent")).unwrap();
    for place in [ground.pair.donor.join("queue"), ground.pair.joiner.join("old_schema/queue")] {
        assert!(Command::new("mkfifo").arg(place).status().unwrap().success());
    }
    let both = ground.pair.transfer(&[], &[]);
    both.succeeded();
    let words = format!(
        "not sent, because it belongs to this node: {0}/queue (a pipe), {0}/schema/agent (a socket)",
        ground.pair.donor.display()
    );
    assert_eq!(both.donor.stderr.matches(&words).count(), 1, "{}", both.donor.stderr);
    assert!(!ground.pair.joiner.join("queue").exists() && !ground.pair.joiner.join("schema/agent").exists());
    ground.pair.verify().succeeded();
}

/// A node whose own install was cut short has links where its tree should be.
#[test]
fn a_half_switched_donor_is_refused() {
    let ground = Ground::new();
    let donor = &ground.pair.donor;
    fs::create_dir_all(donor.join(".highline/incoming/datadir")).unwrap();
    fs::rename(donor.join("schema"), donor.join(".highline/incoming/datadir/schema")).unwrap();
    symlink("new", donor.join(".highline/live")).unwrap();
    symlink(".highline/live/datadir/schema", donor.join("schema")).unwrap();
    let joiner = ground.pair.receive(&[]);
    let refused = ground.pair.send(&joiner.ticket, &[]).end(SECONDS);
    refused.failed(16, &["donor: an install was interrupted on this node: ", "/schema leads through its selector"]);
    assert!(refused.stderr.contains("highline recover --datadir"), "{}", refused.stderr);
    fs::remove_file(donor.join("schema")).unwrap();
    fs::rename(donor.join(".highline/incoming/datadir/schema"), donor.join("schema")).unwrap();
    fs::remove_dir_all(donor.join(".highline")).unwrap();
    let donor = ground.pair.send(&joiner.ticket, &[]);
    Both::of(donor, joiner, LIMIT).succeeded();
}

/// A sandbox older than the program: its filter answers unknown calls with EPERM.
#[test]
fn a_seccomp_filter_answers_eperm() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    // copy_file_range, preadv2, pwritev2, statx, renameat2, io_uring_setup, pidfd_open, close_range, openat2,
    // faccessat2, fchmodat2, fallocate, fstatfs, fadvise64
    const FILTER: &str = r#"
import ctypes, os, struct, sys
calls = [326, 327, 328, 332, 316, 425, 434, 436, 437, 439, 452, 285, 138, 221]
code = [struct.pack("HBBI", 0x20, 0, 0, 0)]
for call in calls: code += [struct.pack("HBBI", 0x15, 0, 1, call), struct.pack("HBBI", 6, 0, 0, 0x50001)]
code = b"".join(code + [struct.pack("HBBI", 6, 0, 0, 0x7fff0000)])
class Program(ctypes.Structure): _fields_ = [("len", ctypes.c_ushort), ("code", ctypes.c_char_p)]
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code)), 0, 0): sys.exit("no seccomp")
os.execv(sys.argv[1], sys.argv[1:])
"#;
    let mut pair = Pair::default();
    pair.wrap = ["python3", "-c", FILTER].map(str::to_owned).to_vec();
    tree::everything(&pair.donor);
    tree::old(&pair.joiner);
    pair.arrives(&[], &[]);
    pair.verify().succeeded();
    // Also what a later round overwrites.
    pair.joiner = pair.home().join("second");
    fs::create_dir(&pair.joiner).unwrap();
    let joiner = pair.receive(&[]);
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &["--live", "--rate-limit", "4M"]);
    link.passed(MIB);
    let hole = fs::File::options().write(true).open(pair.donor.join("large")).unwrap();
    hole.set_len(0).unwrap();
    hole.set_len(2 * MIB).unwrap();
    Both::of(donor, joiner, LIMIT).succeeded();
    tree::assert_equal(&pair.donor, &pair.joiner);
}

#[test]
fn a_datadir_may_not_be_used() {
    let Some(ground) = unprivileged() else { return };
    let shut = |place: &Path, mode| fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
    shut(&ground.pair.donor, 0);
    let joiner = ground.pair.receive(&[]);
    ground
        .pair
        .send(&joiner.ticket, &[])
        .end(SECONDS)
        .failed(13, &["cannot open the directory ", "donor: Permission denied"]);
    shut(&ground.pair.donor, 0o700);
    joiner.running.signal(Signal::TERM);
    joiner.running.end(SECONDS).failed(4, &["joiner: ended by SIGTERM"]);

    shut(&ground.pair.joiner, 0o500);
    fs::remove_file(ground.pair.joiner.join(".highline.lock")).unwrap();
    let joiner = ground.pair.joiner.to_str().unwrap().to_owned();
    let refused = ground.pair.run(&["receive", "--listen", "127.0.0.1:0", "--datadir", &joiner]);
    refused.failed(13, &["joiner: cannot open ", ".highline.lock: Permission denied"]);
    assert!(refused.stdout.is_empty(), "a ticket to nowhere: {}", refused.stdout);
    shut(&ground.pair.joiner, 0o700);
    ground.untouched();
}

#[test]
fn a_file_changes_while_it_is_sent() {
    type Act = fn(&Path);
    let acts: [(&str, &str, Act); 6] = [
        ("shrinks", "changed while it was read", |place| {
            fs::File::options().write(true).open(place).unwrap().set_len(100).unwrap();
        }),
        ("grows", "changed while it was read", |place| {
            use std::io::Write;
            fs::File::options().append(true).open(place).unwrap().write_all(b"more").unwrap();
        }),
        ("vanishes", "vanished while the tree was read", |place| fs::remove_file(place).unwrap()),
        ("is written", "changed while it was read", |place| {
            use std::os::unix::fs::FileExt;
            fs::File::options().write(true).open(place).unwrap().write_all_at(b"x", 50).unwrap();
        }),
        ("is replaced", "changed while it was read", |place| {
            let length = fs::metadata(place).unwrap().len() as usize;
            fs::remove_file(place).unwrap();
            fs::write(place, tree::noise(0, length)).unwrap();
        }),
        ("becomes a link", "", |place| {
            fs::remove_file(place).unwrap();
            let there = place.ancestors().map(|above| above.join("schema/t1.ibd")).find(|other| other.is_file());
            symlink(there.unwrap(), place).unwrap();
        }),
    ];
    // One is in progress at that moment, the other still waits for its turn.
    for victim in ["ibdata1", "schema/t9.ibd"] {
        for (name, words, act) in &acts {
            let ground = Ground::new();
            let (link, joiner, donor) = ground.over(|_| WELL, &["--rate-limit", "12M", "--lanes", "2"]);
            link.passed(2 * MIB);
            act(&ground.pair.donor.join(victim));
            let both = Both::of(donor, joiner, SECONDS);
            if both.donor.code() != 116 {
                println!("{victim} {name}: {}", both.donor.stderr);
            }
            both.failed(116, &["donor: ", victim, words]);
            ground.untouched();
        }
    }
}

/// A frozen server's own writes. Whatever they do to a file, the copy is the tree as it finally is.
#[test]
fn live_a_file_changes_while_it_is_sent() {
    use std::os::unix::fs::FileExt;
    type Act = fn(&Path);
    let acts: [(&str, Act); 7] = [
        ("shrinks", |place| fs::File::options().write(true).open(place).unwrap().set_len(100).unwrap()),
        ("grows", |place| {
            let file = fs::File::options().write(true).open(place).unwrap();
            file.write_all_at(b"more", file.metadata().unwrap().len() + 100_000).unwrap();
        }),
        ("is written", |place| {
            fs::File::options().write(true).open(place).unwrap().write_all_at(b"x", 50).unwrap();
        }),
        ("gets a hole", |place| {
            let file = fs::File::options().write(true).open(place).unwrap();
            let len = file.metadata().unwrap().len();
            file.set_len(0).unwrap();
            file.set_len(len).unwrap();
        }),
        ("is replaced", |place| {
            let length = fs::metadata(place).unwrap().len() as usize;
            fs::remove_file(place).unwrap();
            fs::write(place, tree::noise(0, length)).unwrap();
        }),
        ("becomes a directory", |place| {
            fs::remove_file(place).unwrap();
            file(place, "inside", "x");
        }),
        ("gets another mode and a neighbour", |place| {
            fs::set_permissions(place, fs::Permissions::from_mode(0o400)).unwrap();
            file(place.parent().unwrap(), "new/neighbour", tree::noise(4, 2 * MIB as usize));
        }),
    ];
    for (name, act) in &acts {
        for victim in ["ibdata1", "schema/t9.ibd"] {
            // A directory of that name is a schema, and the system tablespace would be gone.
            if (*name, victim) == ("becomes a directory", "ibdata1") {
                continue;
            }
            let ground = Ground::new();
            let (link, joiner, donor) = ground.over(|_| WELL, &["--live", "--rate-limit", "12M", "--lanes", "2"]);
            file(&ground.pair.donor, "schema/#sql-7.ibd", "temporary");
            link.passed(2 * MIB);
            act(&ground.pair.donor.join(victim));
            fs::remove_file(ground.pair.donor.join("schema/#sql-7.ibd")).unwrap();
            let both = Both::of(donor, joiner, LIMIT);
            both.succeeded();
            assert!(both.donor.stderr.contains("changed while the tree was read"), "{name}: {}", both.donor.stderr);
            println!("{victim} {name}");
            tree::assert_equal(&ground.pair.donor, &ground.pair.joiner);
            ground.pair.verify().succeeded();
        }
    }
}

/// A file that never holds still, or one that vanishes, ends the transfer and is named.
#[test]
fn live_a_file_that_never_holds_still() {
    let ground = Ground::new();
    let (link, joiner, donor) = ground.over(|_| WELL, &["--live", "--rate-limit", "12M"]);
    link.passed(MIB);
    let mut number = 0u64;
    let write = || {
        number += 1;
        fs::write(ground.pair.donor.join("schema/t9.ibd"), number.to_string()).unwrap();
        std::thread::sleep(Duration::from_micros(300));
    };
    let both = meanwhile(write, || Both::of(donor, joiner, LIMIT));
    both.failed(116, &["donor: ", "schema/t9.ibd does not hold still: it changed each of the 9 times it was read"]);
    ground.untouched();

    let ground = Ground::new();
    let (link, joiner, donor) = ground.over(|_| WELL, &["--live", "--rate-limit", "12M"]);
    link.passed(2 * MIB);
    fs::remove_file(ground.pair.donor.join("schema/t9.ibd")).unwrap();
    Both::of(donor, joiner, LIMIT).failed(116, &["donor: ", "schema/t9.ibd vanished while the tree was read"]);
    ground.and_the_next_one_works();
}

/// InnoDB's redo log may be written all the time, because its head is read before the rest.
#[test]
fn live_a_redo_log_is_written_on() {
    use std::os::unix::fs::FileExt;
    let ground = Ground::new();
    let redo = file(&ground.pair.donor, "ib_logfile0", vec![0; 4 * MIB as usize]);
    let log = fs::File::options().write(true).open(&redo).unwrap();
    let mut number = 0u64;
    // A record, then the head that points to it.
    let write = || {
        number += 1;
        for place in [3 * MIB, MIB, 0] {
            log.write_all_at(&number.to_be_bytes(), place).unwrap();
        }
        std::thread::sleep(Duration::from_micros(300));
    };
    let both = meanwhile(write, || {
        let (_link, joiner, donor) = ground.over(|_| WELL, &["--live", "--rate-limit", "12M", "--compress", "none"]);
        Both::of(donor, joiner, LIMIT)
    });
    both.succeeded();
    let copy = fs::File::open(ground.pair.joiner.join("ib_logfile0")).unwrap();
    let at = |place| {
        let mut bytes = [0; 8];
        copy.read_exact_at(&mut bytes, place).unwrap();
        u64::from_be_bytes(bytes)
    };
    assert!(at(0) > 0 && at(0) <= at(MIB) && at(0) <= at(3 * MIB), "{} {} {}", at(0), at(MIB), at(3 * MIB));
    ground.pair.verify().succeeded();
}

#[test]
fn datadirs_that_are_none() {
    let ground = Ground::new();
    let file = ground.pair.donor.join("ibdata1");
    let empty = ground.pair.home().join("empty");
    fs::create_dir(&empty).unwrap();
    let joiner = ground.pair.receive(&[]);
    for (datadir, code, words) in [
        (Path::new("/nowhere"), 2, "cannot read the directory /nowhere: No such file or directory"),
        (&file, 22, "ibdata1 is not a directory"),
        (
            &empty,
            22,
            "/empty is not a server's whole data directory: it lacks the system tablespace (ibdata1), the redo log",
        ),
    ] {
        let sent = ground.pair.run(&["send", "--datadir", datadir.to_str().unwrap(), &joiner.ticket]);
        sent.failed(code, &[words]);
    }
    for (datadir, code, words) in [
        (Path::new("/nowhere"), 2, "cannot read the directory /nowhere: No such file or directory"),
        (&file, 22, "ibdata1 is not a directory"),
        (&ground.pair.joiner, 16, "joiner: another highline (process "),
    ] {
        let words_typed = ["receive", "--listen", "127.0.0.1:0", "--datadir", datadir.to_str().unwrap()];
        ground.pair.run(&words_typed).failed(code, &[words]);
    }
    let donor = ground.pair.send(&joiner.ticket, &[]);
    Both::of(donor, joiner, LIMIT).succeeded();
}

/// The test's own process plays the server: all that is checked is a record lock on a file.
#[test]
fn a_running_server_holds_the_datadir() {
    let ground = Ground::new();
    let hold = |root: &Path, name: &str| {
        let held = fs::File::options().read(true).write(true).open(root.join(name)).unwrap();
        rustix::fs::fcntl_lock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        held
    };
    let held = hold(&ground.pair.donor, "ibdata1");
    let joiner = ground.pair.receive(&[]);
    let refused = ground.pair.send(&joiner.ticket, &[]).end(SECONDS);
    refused.failed(16, &["donor: a running server is using ", "ibdata1"]);
    assert!(refused.stderr.contains("--live"), "{}", refused.stderr);
    let donor = ground.pair.send(&joiner.ticket, &["--live"]);
    Both::of(donor, joiner, LIMIT).succeeded();
    drop(held);

    file(&ground.pair.joiner, "aria_log_control", "x");
    let before = tree::read(&ground.pair.joiner);
    let held = hold(&ground.pair.joiner, "aria_log_control");
    let joiner = ground.pair.joiner.to_str().unwrap();
    let refused = ground.pair.run(&["receive", "--listen", "127.0.0.1:0", "--datadir", joiner]);
    refused.failed(16, &["joiner: a running server is using ", "aria_log_control"]);
    drop(held);
    tree::assert_same(&before, &tree::read(&ground.pair.joiner));
}

#[test]
fn either_end_is_asked_to_stop() {
    for (joiners, signal, name) in [
        (true, Signal::TERM, "joiner: ended by SIGTERM"),
        (false, Signal::TERM, "donor: ended by SIGTERM"),
        (true, Signal::INT, "joiner: ended by SIGINT"),
    ] {
        for moment in [10_000, 3 * MIB] {
            let ground = Ground::new();
            let (link, joiner, donor) = ground.over(|_| WELL, &SLOW);
            link.passed(moment);
            if joiners {
                joiner.running.signal(signal)
            } else {
                donor.signal(signal)
            }
            let both = Both::of(donor, joiner, SECONDS);
            both.failed(4, &[name]);
            ground.untouched();
        }
    }
}

#[test]
fn tickets_that_lead_nowhere() {
    let ground = Ground::new();
    let joiner = ground.pair.receive(&[]);
    let good = joiner.ticket.clone();
    let send = |ticket: &str| ground.pair.send(ticket, &["--connect-timeout", "1s"]).end(SECONDS);
    for (ticket, code, words) in [
        (String::new(), 22, "there was no ticket on standard input"),
        (good[..40].to_owned(), 22, "a ticket has the form"),
        (good.replace("/highline/1", "/highline/2"), 93, "the ticket has version 2"),
        (good.replace(':', ";"), 22, "a ticket has the form"),
        (redirected(&good, dead()), 111, " within 1 s: Connection refused"),
    ] {
        let refused = send(&ticket);
        refused.failed(code, &[words]);
        assert!(!refused.stderr.contains(&good[44..80]), "the secret is in the log");
    }
    let donor = ground.pair.send(&good, &[]);
    Both::of(donor, joiner, LIMIT).succeeded();
    let mut none = ground.pair.receive(&["--initial-timeout", "1s"]).running.end(SECONDS);
    none.name = "joiner".into();
    none.failed(110, &["joiner: no donor connected within 1 s"]);
}

/// A port on which nobody listens.
fn dead() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// In place, the old tree is given up explicitly; the file with its position must go with it.
#[test]
fn in_place_a_failure_leaves_no_position() {
    let ground = Ground::new();
    file(&ground.pair.joiner, "grastate.dat", "uuid: 5d1fa5a7-0e29-11f0-8b7e-0242ac120002\nseqno: 17\n");
    file(&ground.pair.joiner, "galera.cache", "kept");
    let joiner = ground.pair.receive(&["--install", "inplace", "--idle-timeout", "1s"]);
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let more = [&SLOW[..], &["--idle-timeout", "1s"]].concat();
    let donor = ground.pair.send(&redirected(&joiner.ticket, link.address), &more);
    link.passed(2 * MIB);
    let started = Instant::now();
    link.down();
    let both = Both::of(donor, joiner, SECONDS);
    assert!(started.elapsed() < SECONDS);
    assert_eq!((both.donor.code(), both.joiner.code()), (32, 32), "{}\n{}", both.donor.stderr, both.joiner.stderr);
    let mut left: Vec<_> = fs::read_dir(&ground.pair.joiner).unwrap().map(|item| item.unwrap().file_name()).collect();
    left.sort();
    // Plain files that no server takes for its data: from the old tree, and what may have arrived.
    left.retain(|name| name != ".highline.kept.ibdata1");
    let kept = ".highline.kept.old_schema%2ft1.ibd";
    assert_eq!(left, [kept, ".highline.lock", ".highline.status", "galera.cache"]);
    assert_eq!(fs::read(ground.pair.joiner.join(kept)).unwrap(), tree::noise(3, 100_000));
    ground.pair.arrives(&["--install", "inplace"], &[]);
    assert!(!ground.pair.joiner.join(kept).exists());
}
