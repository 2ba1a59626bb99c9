//! One root cause: whatever goes wrong, on whichever side, the first error of both logs names the same cause, the side,
//! and what to do.

use crate::support::command::{bounded, succeed};
use crate::support::disk::SmallDisk;
use crate::support::faulty_link::{FaultyLink, WELL};
use crate::support::pair::{Both, Ended, Joiner, Pair, Running, SECONDS, redirected};
use crate::support::tree::{self, MIB, file};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What happens while 6 MiB are sent at 4 MiB/s, and what both sides say about it.
struct Fault {
    name: &'static str,
    /// Of both.
    code: i32,
    /// Where the cause is.
    side: &'static str,
    /// Words of the cause in both logs.
    cause: &'static [&'static str],
    remedy: &'static str,
    prepare: fn(&mut Stage),
    /// After a third of the data.
    act: fn(&Stage, &mut Running, &mut Joiner, &FaultyLink),
}

struct Stage {
    pair: Pair,
    disk: Option<SmallDisk>,
    receive: Vec<String>,
    send: Vec<String>,
}

impl Stage {
    fn new() -> Stage {
        let pair = Pair::default();
        tree::plain(&pair.donor, 6);
        tree::old(&pair.joiner);
        let waits = ["--idle-timeout", "1s", "--progress", "json"].map(String::from);
        let rate = ["--rate-limit", "4M", "--lanes", "2"].map(String::from);
        Stage { pair, disk: None, receive: waits.to_vec(), send: [waits.to_vec(), rate.to_vec()].concat() }
    }

    fn donor(&self, name: &str) -> PathBuf {
        self.pair.donor.join(name)
    }

    /// A file of the new tree on the joiner, as soon as it is there.
    fn staged(&self, name: &str) -> PathBuf {
        let place = self.pair.joiner.join(".highline/incoming").join(name);
        let deadline = Instant::now() + SECONDS;
        while !place.exists() {
            assert!(Instant::now() < deadline, "{} does not come", place.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        place
    }

    fn on_disk(&mut self, disk: Option<SmallDisk>) {
        self.disk = Some(disk.expect("this needs the right to mount"));
        self.pair.joiner = self.pair.home().join("disk/joiner");
        fs::create_dir(&self.pair.joiner).unwrap();
        tree::old(&self.pair.joiner);
    }

    /// As a user without privileges.
    fn unprivileged(&mut self) {
        let pair = &mut self.pair;
        let program = pair.home().join("highline");
        fs::copy(&pair.program, &program).unwrap();
        pair.program = program;
        pair.wrap = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned).to_vec();
        succeed(bounded(SECONDS, "chown").args(["-R", "65534:65534"]).arg(pair.home()));
    }

    /// Both ends find a server's program of that version.
    fn server(&mut self, version: &str) {
        let bin = self.pair.home().join("bin");
        fs::create_dir(&bin).unwrap();
        let program = file(&bin, "mariadbd", format!("#!/bin/sh\necho 'mariadbd  Ver {version} for Linux'\n"));
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        self.pair.wrap = vec!["env".into(), format!("PATH={}:{}", bin.display(), std::env::var("PATH").unwrap())];
    }

    fn run(&self, act: fn(&Stage, &mut Running, &mut Joiner, &FaultyLink)) -> Both {
        let words = |words: &[String]| words.to_vec();
        let (receive, send) = (words(&self.receive), words(&self.send));
        let mut joiner = self.pair.receive(&receive.iter().map(String::as_str).collect::<Vec<_>>());
        let link = FaultyLink::to(joiner.address(), |_| WELL);
        let ticket = redirected(&joiner.ticket, link.address);
        let mut donor = self.pair.send(&ticket, &send.iter().map(String::as_str).collect::<Vec<_>>());
        act(self, &mut donor, &mut joiner, &link);
        Both::of(donor, joiner, SECONDS)
    }
}

/// The error that a log begins with, and its remedy.
fn error(end: &Ended) -> (&str, &str) {
    let mut lines = end.stderr.lines().skip_while(|line| !line.starts_with("highline: "));
    let (sentence, remedy) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    (sentence, remedy.strip_prefix("  remedy: ").unwrap_or_default())
}

fn nothing(_: &mut Stage) {}

fn passive(_: &Stage, _: &mut Running, _: &mut Joiner, _: &FaultyLink) {}

fn limited(running: &Running, what: &str) {
    succeed(bounded(SECONDS, "prlimit").arg(format!("--pid={}", running.child.id())).arg(what));
}

fn grastate(dir: &Path, seqno: i64) {
    let uuid = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";
    file(dir, "grastate.dat", format!("version: 2.1\nuuid:    {uuid}\nseqno:   {seqno}\nsafe_to_bootstrap: 1\n"));
}

/// The first page of a system tablespace, as much of it as is read.
fn tablespace(dir: &Path, flags: u8) {
    let mut page = vec![0; 4096];
    page[25] = 8;
    page[57] = flags;
    file(dir, "ibdata1", page);
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "the joiner's disk fills up",
        code: 28,
        side: "joiner",
        cause: &["cannot write", "No space left on device"],
        remedy: "free space",
        prepare: |stage| {
            let disk = stage.pair.small_disk(16);
            stage.on_disk(disk);
        },
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            fs::write(stage.pair.home().join("disk/filler"), vec![1; 16 << 20]).unwrap_err();
        },
    },
    Fault {
        name: "there is no room from the start",
        code: 28,
        side: "joiner",
        cause: &["free, and the donor sends"],
        remedy: "free space there",
        prepare: |stage| {
            let disk = stage.pair.small_disk(5);
            stage.on_disk(disk);
        },
        act: passive,
    },
    Fault {
        name: "the joiner is asked to end",
        code: 4,
        side: "joiner",
        cause: &["ended by SIGTERM"],
        remedy: "start the transfer again",
        prepare: nothing,
        act: |_, _, joiner, link| {
            link.passed(2 * MIB);
            joiner.running.signal(Signal::TERM);
        },
    },
    Fault {
        name: "the donor is asked to end",
        code: 4,
        side: "donor",
        cause: &["ended by SIGINT"],
        remedy: "start the transfer again",
        prepare: nothing,
        act: |_, donor, _, link| {
            link.passed(2 * MIB);
            donor.signal(Signal::INT);
        },
    },
    Fault {
        name: "the donor's server is newer",
        code: 93,
        side: "joiner",
        cause: &["the donor's server is 11.8.2-MariaDB, this node's is 10.11.19-MariaDB"],
        remedy: "",
        prepare: |stage| {
            stage.server("10.11.19-MariaDB");
            file(&stage.pair.donor, "mariadb_upgrade_info", "11.8.2-MariaDB");
        },
        act: passive,
    },
    Fault {
        name: "pages of other sizes",
        code: 93,
        side: "joiner",
        cause: &["the donor's InnoDB pages have 65536 bytes, the data of this node has 16384"],
        remedy: "",
        prepare: |stage| {
            stage.server("10.11.19-MariaDB");
            tablespace(&stage.pair.donor, 0x17);
            tablespace(&stage.pair.joiner, 0x15);
        },
        act: passive,
    },
    Fault {
        name: "no checksum in common",
        code: 93,
        side: "joiner",
        cause: &["donor and joiner have no checksum in common"],
        remedy: "",
        prepare: |stage| {
            stage.send.extend(["--checksum".into(), "sha256".into()]);
            stage.receive.extend(["--checksum".into(), "blake3".into()]);
        },
        act: passive,
    },
    Fault {
        name: "the roles are swapped",
        code: 22,
        side: "joiner",
        cause: &["this node stands at ", ":900, ", ":100, which is older"],
        remedy: "--force-older",
        prepare: |stage| {
            grastate(&stage.pair.joiner, 900);
            grastate(&stage.pair.donor, 100);
        },
        act: passive,
    },
    Fault {
        name: "a file is written while it is read",
        code: 116,
        side: "donor",
        cause: &["schema/t9.ibd", "changed while it was read"],
        remedy: "",
        prepare: nothing,
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            let victim = fs::File::options().write(true).open(stage.donor("schema/t9.ibd")).unwrap();
            victim.write_all_at(b"x", 50).unwrap();
        },
    },
    Fault {
        name: "a file vanishes",
        code: 116,
        side: "donor",
        cause: &["schema/t9.ibd", "vanished while the tree was read"],
        remedy: "",
        prepare: nothing,
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            fs::remove_file(stage.donor("schema/t9.ibd")).unwrap();
        },
    },
    Fault {
        name: "a directory that may no longer be read",
        code: 13,
        side: "donor",
        cause: &["cannot read the directory ", "donor/schema: Permission denied"],
        remedy: "",
        prepare: Stage::unprivileged,
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            fs::set_permissions(stage.donor("schema"), fs::Permissions::from_mode(0o0)).unwrap();
        },
    },
    Fault {
        name: "a directory that may no longer be written to",
        code: 13,
        side: "joiner",
        cause: &["cannot make the directory datadir/", "Permission denied"],
        remedy: "",
        prepare: Stage::unprivileged,
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            fs::set_permissions(stage.staged("datadir"), fs::Permissions::from_mode(0o500)).unwrap();
        },
    },
    Fault {
        name: "somebody removes the new tree",
        code: 2,
        side: "joiner",
        cause: &["No such file or directory"],
        remedy: "",
        prepare: nothing,
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            fs::rename(stage.pair.joiner.join(".highline"), stage.pair.home().join("gone")).unwrap();
        },
    },
    Fault {
        name: "the joiner's files may not be longer",
        code: 5,
        side: "joiner",
        cause: &["innodb-data/ibdata1: File too large"],
        remedy: "LimitFSIZE",
        prepare: nothing,
        act: |_, _, joiner, link| {
            link.passed(MIB);
            limited(&joiner.running, "--fsize=65536");
        },
    },
    Fault {
        name: "the joiner may open too few files",
        code: 5,
        side: "joiner",
        cause: &["Too many open files"],
        remedy: "LimitNOFILE",
        prepare: nothing,
        act: |_, _, joiner, link| {
            link.passed(MIB);
            limited(&joiner.running, "--nofile=4");
        },
    },
    Fault {
        name: "the joiner's filesystem breaks",
        code: 13,
        side: "joiner",
        cause: &["cannot ", "Read-only file system"],
        remedy: "dmesg",
        prepare: |stage| {
            let place = stage.pair.home().join("disk");
            fs::create_dir(&place).unwrap();
            let disk = SmallDisk::format(&place, "ext4", 64);
            stage.on_disk(disk);
        },
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            succeed(bounded(SECONDS, "mount").args(["-o", "remount,abort"]).arg(stage.pair.home().join("disk")));
        },
    },
    Fault {
        name: "an immutable file in the old tree",
        code: 13,
        side: "joiner",
        cause: &["joiner/ibdata1 has an attribute that forbids moving or removing it"],
        remedy: "chattr -i",
        prepare: |stage| {
            let place = stage.pair.home().join("disk");
            fs::create_dir(&place).unwrap();
            let disk = SmallDisk::format(&place, "ext4", 64);
            stage.on_disk(disk);
            succeed(bounded(SECONDS, "chattr").arg("+i").arg(stage.pair.joiner.join("ibdata1")));
        },
        act: passive,
    },
    Fault {
        name: "a mount in the old tree",
        code: 22,
        side: "joiner",
        cause: &["joiner/old_schema is a mount point"],
        remedy: "unmount it",
        prepare: |stage| {
            stage.disk = SmallDisk::mount(&stage.pair.joiner.join("old_schema"), 1);
        },
        act: passive,
    },
    Fault {
        name: "the freeze fails",
        code: 16,
        side: "donor",
        cause: &["the freeze command did not freeze the server"],
        remedy: "",
        prepare: |stage| stage.send.extend(["--live".into(), "--freeze-command".into(), "exit 3".into()]),
        act: passive,
    },
    Fault {
        name: "the tree loses a part",
        code: 116,
        side: "donor",
        cause: &["donor/ib_logfile0 vanished"],
        remedy: "",
        prepare: |stage| stage.send.push("--live".into()),
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            fs::remove_file(stage.donor("ib_logfile0")).unwrap();
        },
    },
    Fault {
        name: "a server starts on the joiner",
        code: 16,
        side: "joiner",
        cause: &["a running server is using ", "ibdata1"],
        remedy: "stop",
        prepare: nothing,
        act: |stage, _, _, link| {
            link.passed(2 * MIB);
            let held = fs::File::options().read(true).write(true).open(stage.pair.joiner.join("ibdata1")).unwrap();
            rustix::fs::fcntl_lock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
            // Held until the test's process ends.
            std::mem::forget(held);
        },
    },
];

#[test]
fn they_are_the_same_on_both_sides() {
    let mut wrong = Vec::new();
    for fault in FAULTS {
        println!("{}", fault.name);
        let mut stage = Stage::new();
        (fault.prepare)(&mut stage);
        let both = stage.run(fault.act);
        for end in [&both.donor, &both.joiner] {
            let cause = [&[fault.side, ": "], fault.cause].concat();
            wrong.extend(differs(fault.name, end, fault.code, &cause, fault.remedy));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Why the first error is not the expected one.
fn differs(fault: &str, end: &Ended, code: i32, cause: &[&str], remedy: &str) -> Option<String> {
    let (sentence, told) = error(end);
    let same = cause.iter().all(|words| sentence.contains(words));
    let right = end.code() == code && same && !told.is_empty() && told.contains(remedy);
    (!right).then(|| format!("{fault}: the {} ended with {}:\n{sentence}\n  {told}\n", end.name, end.code()))
}

/// One side is gone or unreachable: the other names it, and says where to look.
#[test]
fn those_that_a_peer_cannot_tell() {
    type Seen = Option<(i32, &'static [&'static str], &'static str)>;
    type Act = fn(&Stage, &mut Running, &mut Joiner, &FaultyLink);
    let faults: [(&str, Seen, Seen, Act); 4] = [
        (
            "the link is cut for good",
            Some((32, &["donor: the joiner at ", " for 1 s"], "")),
            Some((32, &["joiner: the donor at ", " for 1 s"], "")),
            |_, _, _, link| {
                link.passed(2 * MIB);
                link.down();
            },
        ),
        (
            "the link stands still",
            Some((110, &["has written nothing for 1 s"], "")),
            Some((110, &["the donor has sent nothing for 1 s"], "")),
            |_, _, _, link| {
                link.passed(2 * MIB);
                link.stall();
            },
        ),
        ("the joiner is killed", Some((32, &["the joiner at ", "closed"], "log")), None, |_, _, joiner, link| {
            link.passed(2 * MIB);
            joiner.running.signal(Signal::KILL);
        }),
        ("the donor is killed", None, Some((32, &["the donor at ", " for 1 s"], "")), |_, donor, _, link| {
            link.passed(2 * MIB);
            donor.signal(Signal::KILL);
        }),
    ];
    let mut wrong = Vec::new();
    for (name, donor, joiner, act) in faults {
        let both = Stage::new().run(act);
        for (end, seen) in [(&both.donor, donor), (&both.joiner, joiner)] {
            if let Some((code, words, remedy)) = seen {
                wrong.extend(differs(name, end, code, words, remedy));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
