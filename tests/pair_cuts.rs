//! The whole link is cut, at random and at the moments that count: one transfer, nothing lost, nothing done twice.

use crate::pair_rounds::Mapper;
use crate::support::ends::{receiving, sending};
use crate::support::faulty_link::{Fate, Fault, FaultyLink, WELL};
use crate::support::pair::{Both, LIMIT, Pair, SECONDS, redirected};
use crate::support::tree::{self, MIB, random};
use highline::donor::{self, FreezeMode, Keeper, Server};
use highline::error::Result;
use highline::install::OwnFile;
use highline::joiner::{self, Facts, Node, Outcome, Waiting};
use highline::link::Deadlines;
use highline::pace::Throttle;
use highline::position::GaleraGtid;
use highline::progress::{Recorder, Reporter, Snapshot};
use highline::stop::Stop;
use highline::tls::Ticket;
use highline::tree::Rules;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long one cut lasts.
const CUT: Duration = Duration::from_millis(700);

/// What happens at which moment; each hook may block.
type Hook = Box<dyn Fn(&Arc<Link>) + Send + Sync>;

/// The link that hooks act on, once there is one.
struct Link {
    link: OnceLock<FaultyLink>,
    /// What happened, in its order.
    events: Mutex<Vec<(&'static str, Instant)>>,
}

impl Link {
    fn get(&self) -> &FaultyLink {
        self.link.get().unwrap()
    }

    fn happened(&self, what: &'static str) {
        self.events.lock().unwrap().push((what, Instant::now()));
    }

    fn down(&self) {
        self.happened("cut");
        self.get().down();
    }

    fn up(&self) {
        self.happened("mended");
        self.get().up();
    }
}

/// What one case hooks into.
type Prepare<'a> = &'a dyn Fn(&mut Acts);

/// A cut that starts now and ends by itself.
fn cut(link: &Arc<Link>, length: Duration) {
    link.down();
    let link = Arc::clone(link);
    std::thread::spawn(move || {
        std::thread::sleep(length);
        link.up();
    });
}

/// A server that does something when it is frozen and released, a node that does when it installs, and a log that
/// does when it reads a line.
struct Acts {
    link: Arc<Link>,
    freeze: Hook,
    release: Hook,
    own_files: Hook,
    installed: Hook,
    /// In which log, at which words.
    line: (&'static str, &'static str, Hook),
    told: AtomicBool,
}

impl Acts {
    fn new(link: &Arc<Link>) -> Acts {
        let nothing = || -> Hook { Box::new(|_| {}) };
        let line = ("", "", nothing());
        let (freeze, release, own_files, installed) = (nothing(), nothing(), nothing(), nothing());
        Acts { link: Arc::clone(link), freeze, release, own_files, installed, line, told: AtomicBool::new(false) }
    }
}

impl std::fmt::Debug for Acts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acts")
    }
}

impl Server for Acts {
    fn freeze(&self) -> Result<Option<GaleraGtid>> {
        self.link.happened("frozen");
        (self.freeze)(&self.link);
        Ok("5d1fa5a7-0e29-11f0-8b7e-0242ac120002:9".parse().ok())
    }

    fn release(&self) -> Result<()> {
        self.link.happened("released");
        (self.release)(&self.link);
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        Ok(Rules::default())
    }

    fn keeper(&self) -> Keeper {
        Keeper::Galera
    }
}

impl Node for Acts {
    fn facts(&self) -> Facts {
        Facts::default()
    }

    fn own_files(&self, _: &highline::wire::Round) -> Result<Vec<OwnFile>> {
        (self.own_files)(&self.link);
        Ok(Vec::new())
    }

    fn installed(&self) -> Result<()> {
        self.link.happened("installed");
        (self.installed)(&self.link);
        Ok(())
    }
}

#[derive(Debug)]
struct Log {
    side: &'static str,
    lines: Recorder,
    acts: Arc<Acts>,
}

impl Log {
    fn look(&self, line: &str) {
        let (side, words, act) = &self.acts.line;
        if *side == self.side && line.contains(words) && !self.acts.told.swap(true, Ordering::Relaxed) {
            act(&self.acts.link);
        }
    }
}

impl Reporter for Log {
    fn note(&self, line: &str) {
        self.lines.note(line);
        self.look(line);
    }

    fn warn(&self, line: &str) {
        self.lines.warn(line);
        self.look(line);
    }

    fn progress(&self, _: &Snapshot) {}

    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

/// How a transfer is started.
struct Order {
    freeze: FreezeMode,
    freeze_limit: Option<Duration>,
    rate: Option<u64>,
    idle: Duration,
    silence: Duration,
    /// What happens to the first control connection.
    fate: Fate,
}

const PLAIN: Order = Order {
    freeze: FreezeMode::Whole,
    freeze_limit: None,
    rate: None,
    idle: Duration::from_secs(20),
    silence: Duration::from_secs(30),
    fate: WELL,
};

struct Ends {
    sent: Result<donor::Report>,
    received: Result<Outcome>,
    /// When the donor and the joiner ended.
    ended: [Instant; 2],
    events: Vec<(&'static str, Instant)>,
    logs: [Vec<String>; 2],
    /// Bytes from the donor.
    bytes: u64,
}

impl Ends {
    fn order(&self) -> Vec<&'static str> {
        self.events.iter().map(|(what, _)| *what).collect()
    }

    fn at(&self, what: &str) -> Instant {
        self.events.iter().find(|(event, _)| *event == what).unwrap().1
    }

    #[track_caller]
    fn succeeded(&self) {
        let said = |result: Option<String>| result.unwrap_or_default();
        let (sent, received) = (self.sent.as_ref().err(), self.received.as_ref().err());
        let words = (said(sent.map(|e| e.report())), said(received.map(|e| e.report())));
        assert!(sent.is_none() && received.is_none(), "{words:?} {:#?} {:?}", self.logs, self.order());
    }
}

const LANES: u16 = 4;

/// Both ends in this process, over a link that `acts` can cut.
fn transfer(pair: &Pair, order: &Order, acts: Acts) -> Ends {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let acts = Arc::new(acts);
    let deadlines = Deadlines { idle: order.idle, silence: order.silence, ..Deadlines::default() };
    let options =
        joiner::ReceiveOptions { deadlines, lanes: LANES, node: Arc::clone(&acts) as _, ..receiving(&pair.joiner) };
    let log = |side| Arc::new(Log { side, lines: Recorder::default(), acts: Arc::clone(&acts) });
    let logs = [log("donor"), log("joiner")];
    let done = runtime.block_on(async {
        let waiting = Waiting::bind(options, &*logs[1]).unwrap();
        let ticket = waiting.ticket().reveal().to_string();
        let fate = order.fate;
        let link = FaultyLink::to(crate::support::pair::address(&ticket), move |n| if n == 0 { fate } else { WELL });
        let ticket: Ticket = redirected(&ticket, link.address).parse().unwrap();
        acts.link.link.set(link).unwrap();
        let mut options = donor::SendOptions {
            lanes: LANES,
            rate: Arc::new(Throttle::new(order.rate, Instant::now())),
            freeze: order.freeze,
            freeze_limit: order.freeze_limit,
            ..sending(&pair.donor, ticket)
        };
        options.dialer.deadlines = deadlines;
        let stop = Stop::never();
        let sent = async {
            let sent = donor::send(options, Arc::clone(&acts) as _, Arc::clone(&logs[0]) as _, &stop).await;
            (sent, Instant::now())
        };
        let received = async {
            let received = waiting.receive(Arc::clone(&logs[1]) as _, &stop).await;
            (received, Instant::now())
        };
        tokio::time::timeout(Duration::from_secs(150), async { tokio::join!(sent, received) }).await
    });
    let ((sent, first), (received, second)) =
        done.unwrap_or_else(|_| panic!("no end: {:#?}", logs.each_ref().map(|log| log.lines.lines())));
    let bytes = acts.link.get().bytes().0;
    let events = acts.link.events.lock().unwrap().clone();
    Ends { sent, received, ended: [first, second], events, logs: logs.map(|log| log.lines.lines()), bytes }
}

fn link() -> Arc<Link> {
    Arc::new(Link { link: OnceLock::new(), events: Mutex::default() })
}

/// Writes pages of `ibdata1` until it is stopped, and counts them.
struct Writer {
    stop: Arc<AtomicBool>,
    pages: Arc<AtomicU64>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Writer {
    fn start(root: &Path, pause: Duration) -> Writer {
        let (stop, pages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let file = OpenOptions::new().write(true).open(root.join("ibdata1")).unwrap();
        let thread = std::thread::spawn({
            let (stop, pages) = (Arc::clone(&stop), Arc::clone(&pages));
            move || {
                let length = file.metadata().unwrap().len() / 16_384;
                while !stop.load(Ordering::Relaxed) {
                    let number = pages.fetch_add(1, Ordering::Relaxed);
                    let place = random(number) % length;
                    file.write_all_at(&tree::noise(number, 16_384), place * 16_384).unwrap();
                    std::thread::sleep(pause);
                }
            }
        });
        Writer { stop, pages, thread: Mutex::new(Some(thread)) }
    }

    fn end(&self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().unwrap().take() {
            thread.join().unwrap();
        }
        self.pages.load(Ordering::Relaxed)
    }
}

/// All connections at once, 25 times for 0.7 s, in the passes while the server runs and under its lock.
#[test]
fn twenty_five_of_everything() {
    const CUTS: u64 = 25;
    let pair = Pair::default();
    tree::plain(&pair.donor, 64);
    tree::old(&pair.joiner);
    let (link, writer) = (link(), Arc::new(Writer::start(&pair.donor, Duration::from_millis(20))));
    let mut acts = Acts::new(&link);
    let writes = Arc::clone(&writer);
    acts.freeze = Box::new(move |_| {
        writes.end();
    });
    let over = Arc::new(AtomicBool::new(false));
    let cutter = std::thread::spawn({
        let (link, over) = (Arc::clone(&link), Arc::clone(&over));
        move || {
            while link.link.get().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut cuts = 0;
            while cuts < CUTS && !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100 + random(cuts) % 1000));
                link.down();
                std::thread::sleep(CUT);
                link.up();
                cuts += 1;
            }
            cuts
        }
    });
    let order = Order { freeze: FreezeMode::Rounds, rate: Some(5 << 20), ..PLAIN };
    let ends = transfer(&pair, &order, acts);
    over.store(true, Ordering::Relaxed);
    let (cuts, pages) = (cutter.join().unwrap(), writer.end());
    ends.succeeded();
    tree::assert_equal(&pair.donor, &pair.joiner);
    let report = ends.sent.unwrap();
    let once = report.bytes + pages * 16_384;
    let again = ends.bytes.saturating_sub(once);
    println!(
        "{cuts} cuts, {} rounds, {:.1} s; {} bytes passed, of these at most {once} once; {} a lane and cut again",
        report.rounds.len(),
        report.seconds,
        ends.bytes,
        again / cuts / u64::from(LANES)
    );
    assert_eq!(cuts, CUTS, "the transfer was over too soon: {:?}", report.rounds);
    assert!(report.rounds.iter().filter(|round| round.live).count() >= 2, "{:?}", report.rounds);
    assert!(again <= cuts * u64::from(LANES) * MIB, "{again}");
    assert_eq!(ends.logs[1].iter().filter(|line| line.contains("has proven itself")).count(), 1);
}

/// While the joiner reports what it has, and while that is compared: everything is reported once.
#[test]
fn while_both_compare() {
    for (side, words, length) in
        [("joiner", "the donor compares", CUT), ("donor", "pages sampled", CUT), ("joiner", "agreed with", CUT / 7)]
    {
        let pair = Pair::default();
        tree::plain(&pair.donor, 96);
        tree::plain(&pair.joiner, 96);
        tree::file(&pair.donor, "ib_logfile0", tree::noise(99, 70_000));
        let link = link();
        let mut acts = Acts::new(&link);
        acts.line = (side, words, Box::new(move |link| cut(link, length)));
        let ends = transfer(&pair, &Order { freeze: FreezeMode::Rounds, ..PLAIN }, acts);
        ends.succeeded();
        assert!(ends.order().contains(&"cut"), "{words}: {:#?}", ends.logs);
        tree::assert_equal(&pair.donor, &pair.joiner);
        let report = ends.sent.unwrap();
        assert!(report.reused_bytes > 90 * MIB && report.wire_bytes < 2 * MIB, "{words}: {report}");
    }
}

/// Whatever was going on, the transfer continues from there, and the joiner installs once.
#[test]
fn at_the_moments_that_count() {
    let now = || -> Hook { Box::new(|link| cut(link, CUT)) };
    let moments: [(&str, Prepare); 11] = [
        ("between offer and accept", &|acts| acts.line = ("joiner", "could not tell its server's version", now())),
        ("after accept", &|acts| acts.line = ("donor", "agreed with", now())),
        ("under the lock", &|acts| acts.freeze = now()),
        ("at the release", &|acts| acts.release = now()),
        ("between seal and verified", &|acts| acts.line = ("joiner", "verified: every byte", now())),
        ("between verified and durable", &|acts| acts.line = ("donor", "verified by the joiner", now())),
        ("in a long install", &|acts| {
            acts.own_files = Box::new(|link| {
                cut(link, CUT);
                std::thread::sleep(Duration::from_secs(2));
            });
        }),
        ("before durable", &|acts| acts.installed = now()),
        ("about durable", &|acts| acts.installed = soon(100)),
        ("between durable and bye", &|acts| acts.installed = soon(300)),
        ("about bye", &|acts| acts.installed = soon(500)),
    ];
    for (name, prepare) in moments {
        let pair = Pair::default();
        tree::plain(&pair.donor, 2);
        tree::old(&pair.joiner);
        let link = link();
        let mut acts = Acts::new(&link);
        prepare(&mut acts);
        let started = Instant::now();
        let ends = transfer(&pair, &PLAIN, acts);
        println!("{name}: {:.2} s, {:?}", started.elapsed().as_secs_f64(), ends.order());
        ends.succeeded();
        // After the installation it is a matter of microseconds.
        let timed = name.contains("about") || name.contains("bye");
        assert!(timed || ends.order().contains(&"cut"), "{name}: {:#?}", ends.logs);
        assert_eq!(ends.order().iter().filter(|event| **event == "installed").count(), 1, "{name}");
        assert!(started.elapsed() < Duration::from_secs(8), "{name}: {:?}", started.elapsed());
        tree::assert_equal(&pair.donor, &pair.joiner);
    }
}

/// This many microseconds from now.
fn soon(micros: u64) -> Hook {
    Box::new(move |link| {
        let link = Arc::clone(link);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(micros));
            cut(&link, CUT);
        });
    })
}

/// Under the lock a cut has a limit of its own: the server is released first, and keeps writing. Then the link is waited
/// for; when it is back the server is frozen again.
#[test]
fn under_the_lock_release_the_server_first() {
    const BOUND: Duration = Duration::from_millis(1500);
    for freeze in [FreezeMode::Whole, FreezeMode::Rounds] {
        let pair = Pair::default();
        tree::plain(&pair.donor, 4);
        let page = pair.donor.join("ibdata1");
        let link = link();
        let mut acts = Acts::new(&link);
        let first = AtomicBool::new(true);
        acts.freeze = Box::new(move |link| {
            if first.swap(false, Ordering::Relaxed) {
                cut(link, BOUND * 3);
            }
        });
        let written = AtomicBool::new(false);
        acts.release = Box::new(move |_| {
            if !written.swap(true, Ordering::Relaxed) {
                let file = OpenOptions::new().write(true).open(&page).unwrap();
                file.write_all_at(&tree::noise(1, 16_384), 65_536).unwrap();
            }
        });
        let order = Order { freeze, freeze_limit: Some(BOUND), ..PLAIN };
        let ends = transfer(&pair, &order, acts);
        ends.succeeded();
        tree::assert_equal(&pair.donor, &pair.joiner);
        let (cut, released, mended) = (ends.at("cut"), ends.at("released"), ends.at("mended"));
        println!("{freeze:?}: released {:?} after the cut, {:?}", released - cut, ends.order());
        assert!(released - cut >= BOUND && released - cut < BOUND + Duration::from_secs(1), "{:?}", released - cut);
        assert!(released < mended);
        let order = ends.order();
        let again = order.iter().rposition(|event| *event == "frozen").unwrap();
        let mended = order.iter().position(|event| *event == "mended").unwrap();
        assert!(again > mended, "frozen again while the link was cut: {order:?}");
        assert!(order[again..].contains(&"released"), "{order:?}");
        let said = ends.logs[0].iter().any(|line| line.contains("s under the lock; the server is released"));
        assert!(said || freeze == FreezeMode::Rounds, "{:#?}", ends.logs[0]);
    }
}

/// What was read whole under the lock is read again after a round there was broken off: a store to a mapped page that
/// was written to before does not change the file's times.
#[test]
fn under_the_lock_and_a_mapped_file() {
    const BOUND: Duration = Duration::from_secs(1);
    let pair = Pair::default();
    tree::plain(&pair.donor, 4);
    let (page, other) = (pair.donor.join("ibdata1"), pair.donor.join("schema/t1.ibd"));
    let link = link();
    let mut acts = Acts::new(&link);
    let mapper = Arc::new(Mutex::new(Mapper::start()));
    let (first, second) = (AtomicBool::new(true), AtomicBool::new(true));
    let (mapped, stored) = (page.clone(), Arc::clone(&mapper));
    acts.freeze = Box::new(move |_| {
        if first.swap(false, Ordering::Relaxed) {
            stored.lock().unwrap().store(&mapped, 70_000, 1);
            std::thread::sleep(Duration::from_millis(200));
            // So that there is a second look.
            let other = other.clone();
            std::thread::spawn(move || {
                for number in 0..100 {
                    std::fs::write(&other, tree::noise(number, 100_000)).unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
    });
    acts.line = ("donor", "are looked at again", Box::new(|link| cut(link, BOUND * 3)));
    acts.release = Box::new(move |_| {
        if second.swap(false, Ordering::Relaxed) {
            mapper.lock().unwrap().store(&page, 70_000, 2);
        }
    });
    let ends = transfer(&pair, &Order { freeze_limit: Some(BOUND), ..PLAIN }, acts);
    ends.succeeded();
    assert_eq!(ends.order().iter().filter(|event| **event == "frozen").count(), 2, "{:?}", ends.order());
    tree::assert_equal(&pair.donor, &pair.joiner);
}

/// A link that stays cut: the server is released long before the transfer is given up, which both ends do.
#[test]
fn one_that_lasts_ends_the_transfer_after_the_release() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 4);
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    let link = link();
    let mut acts = Acts::new(&link);
    acts.freeze = Box::new(|link| link.down());
    let (bound, idle) = (Duration::from_secs(1), Duration::from_secs(4));
    let order = Order { freeze_limit: Some(bound), idle, ..PLAIN };
    let ends = transfer(&pair, &order, acts);
    let (cut, released) = (ends.at("cut"), ends.at("released"));
    assert!(released - cut >= bound && released - cut < bound * 2, "{:?}", released - cut);
    for (ended, error) in ends.ended.iter().zip([ends.sent.unwrap_err(), ends.received.unwrap_err()]) {
        println!("{:?} after the cut: {}", *ended - cut, error.report());
        assert!(*ended - cut >= idle && *ended - cut < idle * 3, "{:?}", *ended - cut);
        assert!(error.is_of_the_line(), "{}", error.report());
    }
    assert_eq!(ends.events.iter().filter(|(what, _)| *what == "frozen").count(), 1);
    tree::assert_same(&before, &tree::read(&pair.joiner));
}

/// Nothing passes on control any more, and neither side, or only one, is told: they notice the silence, and the donor's next
/// connection replaces the one that the joiner still has.
#[test]
fn one_that_nobody_is_told_of() {
    let none = Fault::None;
    for (there, back) in [
        (Fault::Stall(2_600), none),
        (Fault::Stall(3_400), none),
        (none, Fault::Stall(2_150)),
        (none, Fault::Stall(2_300)),
        (Fault::Lost(2_600), none),
        (Fault::Lost(3_400), none),
    ] {
        let pair = Pair::default();
        tree::plain(&pair.donor, 4);
        let order = Order {
            freeze: FreezeMode::Rounds,
            rate: Some(2 << 20),
            silence: Duration::from_millis(600),
            fate: Fate { there, back, ..WELL },
            ..PLAIN
        };
        let ends = transfer(&pair, &order, Acts::new(&link()));
        ends.succeeded();
        tree::assert_equal(&pair.donor, &pair.joiner);
        let told = |side: usize, words: &str| ends.logs[side].iter().any(|line| line.contains(words));
        assert!(told(0, "the control connection is back after"), "{there:?} {back:?} {:#?}", ends.logs);
        assert!(
            told(1, "the donor has dialled the control connection again") || told(1, "is back after"),
            "{there:?} {back:?} {:#?}",
            ends.logs
        );
    }
}

/// Each side hears from the other although neither has anything to say, however long the lanes work.
#[test]
fn a_long_round_is_none() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 4);
    let order = Order { rate: Some(1 << 20), silence: Duration::from_millis(500), ..PLAIN };
    let ends = transfer(&pair, &order, Acts::new(&link()));
    ends.succeeded();
    assert!(!ends.logs.iter().flatten().any(|line| line.contains("cut")), "{:#?}", ends.logs);
}

/// While the link is cut the joiner still has its donor, and tells another one with the ticket so.
#[test]
fn no_other_donor_is_let_in() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 6);
    let joiner = pair.receive(&[]);
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let donor = pair.send(&redirected(&joiner.ticket, link.address), &["--rate-limit", "4M"]);
    link.passed(2 * MIB);
    link.down();
    let second = pair.home().join("second");
    tree::plain(&second, 1);
    let words = ["send", "--datadir", second.to_str().unwrap(), &joiner.ticket];
    pair.run(&words).failed(16, &["joiner: this joiner has a donor already"]);
    link.up();
    let both = Both::of(donor, joiner, LIMIT);
    both.succeeded();
    both.donor.said("the control connection is lost: ");
    both.joiner.said("the control connection is back after ");
    tree::assert_equal(&pair.donor, &pair.joiner);
}

/// A dead joiner is distinguished from a lost link: its host refuses.
#[test]
fn a_joiner_that_is_gone_is_none() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 6);
    let joiner = pair.receive(&[]);
    let donor = pair.send(&joiner.ticket, &["--rate-limit", "2M"]);
    joiner.running.says("agreed with the donor");
    joiner.running.signal(rustix::process::Signal::KILL);
    let killed = Instant::now();
    donor
        .end(SECONDS)
        .failed(32, &["the joiner at 127.0.0.1:", "closed the connection, and nobody is listening there any more"]);
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
}
