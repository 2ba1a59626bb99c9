//! Several rounds over a tree that is written to all the while, in every way that a filesystem allows, until it stands
//! still: the joiner's tree equals it.

use crate::support::ends::{receiving, sending};
use crate::support::pair::{Both, LIMIT, Pair};
use crate::support::tree::{self, MIB};
use highline::donor::{self, FreezeMode, Keeper, Server};
use highline::error::Result;
use highline::joiner::{self, Waiting};
use highline::pace::Throttle;
use highline::position::GaleraGtid;
use highline::progress::Recorder;
use highline::stop::Stop;
use highline::tree::Rules;
use rustix::fs::FallocateFlags;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }
}

/// Stores to mapped files, from a process of its own that keeps them mapped.
pub struct Mapper {
    child: Child,
    stdin: ChildStdin,
}

impl Mapper {
    pub fn start() -> Mapper {
        let program = "import mmap, sys\nmaps = {}\nfor line in sys.stdin:\n    try:\n        path, at, byte = line.split()\n        \
                       if path not in maps:\n            f = open(path, 'r+b'); maps[path] = mmap.mmap(f.fileno(), 0)\n        \
                       m = maps[path]; m[int(at) % len(m)] = int(byte)\n    except Exception: pass\n";
        let mut child = Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        Mapper { child, stdin }
    }

    pub fn store(&mut self, path: &Path, at: u64, byte: u8) {
        // A store beyond the end of a file that was cut ends the process (SIGBUS).
        if writeln!(self.stdin, "{} {at} {byte}", path.display()).is_err() {
            self.child.wait().unwrap();
            *self = Mapper::start();
        }
    }

    /// Returns when all stores are done.
    fn end(self) {
        let Mapper { mut child, stdin } = self;
        drop(stdin);
        child.wait().unwrap();
    }
}

/// One change somewhere in the tree. What cannot be done there now is not done.
fn change(root: &Path, dice: &mut Dice, mapper: &mut Mapper) {
    let name = |dice: &mut Dice| -> PathBuf {
        let file = format!("t{}.tab", dice.below(8));
        match dice.below(4) {
            0 => root.join(file),
            n => root.join(format!("schema{n}")).join(file),
        }
    };
    let path = name(dice);
    let open = |path: &Path| {
        // Never through a link that leads to another file of the tree: its metadata would change with it.
        let plain = fs::symlink_metadata(path).is_ok_and(|stat| stat.is_file());
        plain.then(|| OpenOptions::new().write(true).open(path).ok()).flatten()
    };
    let bytes = tree::noise(dice.next(), 1 + dice.below(40_000) as usize);
    let at = dice.below(3 * MIB);
    let clear = |path: &Path| {
        let _ = if fs::symlink_metadata(path).is_ok_and(|stat| stat.is_dir()) {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
    };
    let _ = match dice.below(18) {
        0..4 => open(&path).map(|file| file.write_all_at(&bytes, at)).transpose(),
        4 => open(&path).map(|file| file.set_len(dice.below(9 * MIB))).transpose(),
        5 | 6 => {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let len = 1 + dice.below(6 * MIB);
            open(&path).map(|file| rustix::fs::fallocate(&file, hole, at, len).map_err(Into::into)).transpose()
        }
        7 => fs::rename(&path, name(dice)).map(Some),
        8 => {
            clear(&path);
            fs::create_dir(&path).map(Some)
        }
        9 => {
            clear(&path);
            symlink(root.join("ibdata1"), &path).map(Some)
        }
        10 => fs::hard_link(&path, name(dice)).map(Some),
        11 => {
            clear(&path);
            Ok(None)
        }
        12 => fs::set_permissions(&path, PermissionsExt::from_mode(0o600 + dice.below(64) as u32)).map(Some),
        13 => {
            clear(&path);
            fs::write(&path, &bytes).map(Some)
        }
        14 => {
            let schema = root.join(format!("schema{}", 1 + dice.below(5)));
            if dice.below(3) == 0 { fs::remove_dir_all(&schema) } else { fs::create_dir(&schema) }.map(Some)
        }
        15 => OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(&bytes)).map(Some),
        _ => {
            mapper.store(&path, at, dice.below(256) as u8);
            Ok(None)
        }
    };
}

/// Changes to a server's files until they end.
struct Restless {
    stop: Arc<AtomicBool>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Restless {
    fn start(root: &Path, seed: u64) -> Restless {
        let stop = Arc::new(AtomicBool::new(false));
        let (root, ended) = (root.to_owned(), Arc::clone(&stop));
        let writer = std::thread::spawn(move || {
            let (mut dice, mut mapper) = (Dice(seed | 1), Mapper::start());
            while !ended.load(Ordering::Relaxed) {
                change(&root, &mut dice, &mut mapper);
                std::thread::sleep(Duration::from_micros(dice.below(800)));
            }
            mapper.end();
        });
        Restless { stop, writer: Mutex::new(Some(writer)) }
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.lock().unwrap().take().unwrap().join().unwrap();
    }
}

/// A server that does this last when it is frozen.
struct Frozen<F>(F);

impl<F> std::fmt::Debug for Frozen<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frozen")
    }
}

impl<F: Fn() + Send + Sync> Server for Frozen<F> {
    fn freeze(&self) -> Result<Option<GaleraGtid>> {
        (self.0)();
        Ok("5d1fa5a7-0e29-11f0-8b7e-0242ac120002:9".parse().ok())
    }

    fn release(&self) -> Result<()> {
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        Ok(Rules::default())
    }

    fn keeper(&self) -> Keeper {
        Keeper::Galera
    }
}

async fn transfer(from: &Path, to: &Path, server: Arc<dyn Server>, freeze: FreezeMode, passes: bool) -> donor::Report {
    let options = joiner::ReceiveOptions { lanes: 8, ..receiving(to) };
    let reporter = Arc::new(Recorder::default());
    let waiting = Waiting::bind(options, &*reporter).unwrap();
    let options = donor::SendOptions {
        // So slow that a freeze would be long, and passes follow each other.
        rate: Arc::new(Throttle::new(passes.then_some(2 << 20), Instant::now())),
        freeze,
        ..sending(from, waiting.ticket().clone())
    };
    let stop = Stop::never();
    let sent = donor::send(options, server, Arc::<Recorder>::clone(&reporter), &stop);
    let (sent, _) = tokio::try_join!(sent, waiting.receive(reporter, &stop)).unwrap();
    sent
}

fn fill(root: &Path) {
    tree::plain(root, 3);
    for schema in 1..4 {
        for table in 0..6u64 {
            let size = [5_000, 70_000, MIB, 2 * MIB + 9][(table % 4) as usize] as usize;
            tree::file(root, format!("schema{schema}/t{table}.tab"), tree::noise(schema * 10 + table, size));
        }
        // Chunks in a row without data.
        let holed = tree::file(root, format!("schema{schema}/t6.tab"), tree::noise(schema, 5000));
        OpenOptions::new().write(true).open(holed).unwrap().set_len(8 * MIB + 7).unwrap();
    }
}

/// What the same tree has become on another node.
fn old(root: &Path, seed: u64) {
    fill(root);
    let (mut dice, mut mapper) = (Dice(!seed | 1), Mapper::start());
    for _ in 0..dice.below(40) {
        change(root, &mut dice, &mut mapper);
    }
    mapper.end();
    tree::file(root, "ib_logfile0", tree::noise(dice.next(), MIB as usize));
}

fn rounds(seed: u64, freeze: FreezeMode) -> donor::Report {
    let pair = Pair::default();
    let (from, to) = (&pair.donor, &pair.joiner);
    fill(from);
    // With an old tree little is sent, and the first pass may be the only one.
    if seed.is_multiple_of(2) {
        old(to, seed);
    }
    let restless = Restless::start(from, seed);
    let server = Arc::new(Frozen(move || restless.end()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(transfer(from, to, server, freeze, true));
    tree::assert_equal(from, to);
    report
}

#[test]
fn a_restless_tree_arrives_as_it_is_in_the_end() {
    // More seeds: HIGHLINE_SEEDS=1-1000
    let seeds = std::env::var("HIGHLINE_SEEDS").unwrap_or_else(|_| "1-4".into());
    let (from, to) = seeds.split_once('-').expect("HIGHLINE_SEEDS=FROM-TO");
    let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
    let (mut most, mut reused) = (0, 0);
    for seed in from..=to {
        let report = rounds(seed * 7919, FreezeMode::Rounds);
        let live = report.rounds.iter().filter(|round| round.live).count();
        assert!(live >= 1 && report.rounds.len() > live, "seed {seed}: {:?}", report.rounds);
        most = most.max(live);
        reused += report.reused_bytes;
    }
    assert!(most >= 2 && reused > (to - from) * MIB, "{most} {reused}");
}

#[test]
fn only_the_pages_that_changed_are_sent_under_the_lock() {
    let pair = Pair::default();
    let (from, to) = (&pair.donor, &pair.joiner);
    tree::plain(from, 16);
    // Older than any margin: their stamps tell that they stayed.
    for name in ["ib_logfile0", "ibdata1"] {
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(1000);
        File::options().write(true).open(from.join(name)).unwrap().set_modified(long_ago).unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let page = from.join("ibdata1");
    let server = Frozen(move || {
        let file = OpenOptions::new().write(true).open(&page).unwrap();
        for page in [3, 4, 70, 200] {
            file.write_all_at(&tree::noise(page, 16_384), page * 16_384).unwrap();
        }
    });
    let report = runtime.block_on(transfer(from, to, Arc::new(server), FreezeMode::Rounds, false));
    tree::assert_equal(from, to);
    let [live, frozen] = report.rounds.as_slice() else { panic!("{:?}", report.rounds) };
    assert!(live.live && live.wire_bytes > 16 * MIB && !frozen.live, "{:?}", report.rounds);
    assert_eq!((live.pages, frozen.pages), (0, 4), "{:?}", report.rounds);
    // Four pages, their headers, and the small tables' metadata at most.
    assert!(frozen.wire_bytes < 4 * 16_384 + 40_000, "{:?}", report.rounds);
}

/// By hand: the server works on, and a command of the caller's freezes it for the last round.
#[test]
fn by_hand_with_a_freeze_command() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 3);
    let (page, held) = (pair.donor.join("ibdata1"), pair.home().join("held"));
    // "Freezes" after one more change, holds until its input ends, and leaves a sign of that.
    let command = format!(
        "printf changed | dd of={0} bs=1 seek=500000 conv=notrunc 2>/dev/null; echo still; cat; echo let go > {1}",
        page.display(),
        held.display()
    );
    let both = pair.arrives(&[], &["--freeze-command", &command, "--freeze", "rounds", "--json"]);
    assert_eq!(fs::read_to_string(held).unwrap(), "let go\n");
    let report: serde_json::Value = serde_json::from_str(&both.donor.stdout).unwrap();
    assert_eq!(report["rounds"][0]["live"], true, "{report}");
    assert!(report["frozen"]["ours"].as_f64().unwrap() > 0.0, "{report}");
    assert!(both.donor.stderr.contains("the freeze command says: still"), "{}", both.donor.stderr);
    pair.verify().succeeded();

    for (command, words) in
        [("true", "it ended without printing anything"), ("exit 3", "it ended without printing anything")]
    {
        let pair = Pair::default();
        tree::plain(&pair.donor, 1);
        let both = pair.transfer(&[], &["--freeze-command", command]);
        both.failed(16, &["donor: ", "the freeze command did not freeze the server", words]);
    }
}

/// A freeze that takes longer than it may ends: the server is released, another pass follows, and after three the
/// transfer says so. Nothing is installed then.
#[test]
fn a_freeze_limit_releases_the_server() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 8);
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    let (page, count) = (pair.donor.join("ibdata1"), pair.home().join("count"));
    // All of it changes each time, and the link is slow.
    let command = format!(
        "head -c 8000000 /dev/urandom | dd of={0} conv=notrunc 2>/dev/null; echo still; cat; echo >> {1}",
        page.display(),
        count.display()
    );
    let send = [
        "--freeze-command",
        &command,
        "--freeze",
        "rounds",
        "--freeze-limit",
        "20ms",
        "--rate-limit",
        "40M",
        "--lanes",
        "1",
    ];
    let both = pair.transfer(&[], &send);
    both.failed(110, &["donor: ", "could not be sent within the freeze-limit of 0.02 s, 3 times"]);
    assert_eq!(fs::read_to_string(count).unwrap(), "\n\n\n", "released three times");
    tree::assert_same(&before, &tree::read(&pair.joiner));
}

/// What appears while a tree should hold still is noticed by the directory that it is in.
#[test]
fn a_file_that_appears_under_the_lock_comes_along() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 6);
    let joiner = pair.receive(&[]);
    let donor = pair.send(&joiner.ticket, &["--live", "--rate-limit", "3M"]);
    donor.says("agreed with");
    std::thread::sleep(Duration::from_millis(500));
    fs::create_dir(pair.donor.join("late")).unwrap();
    for name in ["late.ibd", "late/t.ibd"] {
        tree::file(&pair.donor, name, tree::noise(7, 50_000));
    }
    let both = Both::of(donor, joiner, LIMIT);
    both.succeeded();
    both.donor.said("changed while the tree was read and are looked at again");
    tree::assert_equal(&pair.donor, &pair.joiner);
}
