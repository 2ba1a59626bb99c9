//! Both ends of a transfer in temporary directories: the real program, twice.

use super::disk::SmallDisk;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than any transfer in these tests takes.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How soon both sides must have refused.
pub const SECONDS: Duration = Duration::from_secs(8);

/// A donor's and a joiner's data directory, on the real filesystem, beside each other.
#[derive(Debug)]
pub struct Pair {
    pub donor: PathBuf,
    pub joiner: PathBuf,
    /// What comes before the program's name: `setpriv` and the like.
    pub wrap: Vec<String>,
    pub program: PathBuf,
    home: tempfile::TempDir,
}

impl Default for Pair {
    fn default() -> Pair {
        Pair::beneath(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }
}

impl Pair {
    pub fn beneath(place: &Path) -> Pair {
        let home = tempfile::Builder::new().prefix("pair").tempdir_in(place).unwrap();
        let (donor, joiner) = (home.path().join("donor"), home.path().join("joiner"));
        std::fs::create_dir(&donor).unwrap();
        std::fs::create_dir(&joiner).unwrap();
        Pair { donor, joiner, wrap: Vec::new(), program: env!("CARGO_BIN_EXE_highline").into(), home }
    }

    /// The directory that holds both.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A separate filesystem on `disk` in that directory, if this process may mount one.
    pub fn small_disk(&self, mebibytes: u32) -> Option<SmallDisk> {
        let place = self.home.path().join("disk");
        std::fs::create_dir(&place).unwrap();
        SmallDisk::mount(&place, mebibytes)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut all = self.wrap.iter().map(PathBuf::from).chain([self.program.clone()]);
        let mut command = Command::new(all.next().unwrap());
        command.args(all).args(words);
        command
    }

    /// A joiner that waits.
    pub fn receive(&self, more: &[&str]) -> Joiner {
        let joiner = self.joiner.to_str().unwrap();
        let words = ["receive", "--listen", "127.0.0.1:0", "--datadir", joiner];
        let mut running = Running::start("joiner", self.command(&[&words, more].concat()));
        let ticket = running.first_line();
        Joiner { ticket, running }
    }

    pub fn send(&self, ticket: &str, more: &[&str]) -> Running {
        let words = ["send", "--datadir", self.donor.to_str().unwrap(), "-"];
        Running::start_with_line("donor", self.command(&[&words, more].concat()), ticket)
    }

    /// Runs both ends to their end.
    pub fn transfer(&self, receive: &[&str], send: &[&str]) -> Both {
        let joiner = self.receive(receive);
        let donor = self.send(&joiner.ticket, send);
        Both::of(donor, joiner, LIMIT)
    }

    /// A transfer that must succeed and leave equal trees.
    pub fn arrives(&self, receive: &[&str], send: &[&str]) -> Both {
        let both = self.transfer(receive, send);
        both.succeeded();
        super::tree::assert_equal(&self.donor, &self.joiner);
        both
    }

    /// `highline verify` on the joiner: the exit code and what it said.
    pub fn verify(&self) -> Ended {
        self.run(&["verify", "--datadir", self.joiner.to_str().unwrap()])
    }

    /// The program with other arguments, run to its end.
    pub fn run(&self, words: &[&str]) -> Ended {
        Running::start(words.first().copied().unwrap_or_default(), self.command(words)).end(LIMIT)
    }
}

#[derive(Debug)]
pub struct Joiner {
    pub ticket: String,
    pub running: Running,
}

impl Joiner {
    pub fn address(&self) -> SocketAddr {
        address(&self.ticket)
    }
}

/// Where a ticket leads.
pub fn address(ticket: &str) -> SocketAddr {
    let place = ticket.rsplit_once('@').unwrap().1;
    place.split_once('/').unwrap().0.parse().unwrap()
}

/// The same ticket, leading elsewhere.
pub fn redirected(ticket: &str, to: SocketAddr) -> String {
    ticket.replace(&address(ticket).to_string(), &to.to_string())
}

/// A process that cannot outlive its test, and what it has said so far.
#[derive(Debug)]
pub struct Running {
    name: String,
    pub child: Child,
    started: Instant,
    stdout: Option<BufReader<std::process::ChildStdout>>,
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
    peak: Arc<AtomicU64>,
}

impl Running {
    pub fn start(name: &str, mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().unwrap();
        let listener = std::thread::spawn({
            let said = Arc::clone(&said);
            move || {
                for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.push_str(&String::from_utf8_lossy(&line));
                    said.push('\n');
                }
            }
        });
        let peak = Arc::new(AtomicU64::new(0));
        std::thread::spawn({
            let (peak, pid) = (Arc::downgrade(&peak), child.id());
            move || {
                while let Some(peak) = peak.upgrade() {
                    peak.fetch_max(high_water(pid), Ordering::Relaxed);
                    drop(peak);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        let stdout = child.stdout.take().map(BufReader::new);
        let listener = Some(listener);
        Running { name: name.into(), child, started: Instant::now(), stdout, said, listener, peak }
    }

    /// And gives it a line on standard input.
    pub fn start_with_line(name: &str, command: Command, line: &str) -> Running {
        let mut running = Running::start(name, command);
        writeln!(running.child.stdin.take().unwrap(), "{line}").unwrap();
        running
    }

    pub fn first_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().unwrap().read_line(&mut line).unwrap();
        if line.is_empty() {
            std::thread::sleep(Duration::from_millis(100));
            panic!("{} printed no line: {}", self.name, self.said());
        }
        line.trim_end().to_owned()
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has said `words` on standard error.
    pub fn says(&self, words: &str) {
        self.says_within(SECONDS, words);
    }

    pub fn says_within(&self, limit: Duration, words: &str) {
        let deadline = Instant::now() + limit;
        while !self.said().contains(words) {
            assert!(Instant::now() < deadline, "{} did not say `{words}`: {}", self.name, self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Peak resident memory so far, in KiB.
    pub fn peak(&self) -> u64 {
        high_water(self.child.id()).max(self.peak.load(Ordering::Relaxed))
    }

    /// Waits for its end; kills it and panics after `limit`.
    pub fn end(mut self, limit: Duration) -> Ended {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + limit;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    panic!("the {} did not end within {limit:?}; it said: {}", self.name, self.said())
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let took = self.started.elapsed();
        let mut stdout = String::new();
        self.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.listener.take().unwrap().join().unwrap();
        Ended { name: self.name.clone(), status, stdout, stderr: self.said(), took, peak: self.peak() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn high_water(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    pub name: String,
    pub status: ExitStatus,
    /// After the ticket's line.
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    /// Peak resident memory in KiB.
    pub peak: u64,
}

impl Ended {
    /// The exit code, or minus the signal that killed it.
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| -signal)).unwrap()
    }

    /// It ended with this code, and one of its lines contains all of these words.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "the {} said: {}", self.name, self.stderr);
        let told = self.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(told, "the {} has no line with {words:?}: {}", self.name, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }

    #[track_caller]
    pub fn succeeded(&self) {
        assert_eq!(self.code(), 0, "the {} said: {}{}", self.name, self.stderr, self.stdout);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

impl Ended {
    #[track_caller]
    pub fn said(&self, words: &str) {
        assert!(self.stderr.contains(words), "the {} did not say `{words}`: {}", self.name, self.stderr);
    }
}

/// Both ends after a transfer.
#[derive(Debug)]
pub struct Both {
    pub donor: Ended,
    pub joiner: Ended,
}

impl Both {
    pub fn of(donor: Running, joiner: Joiner, limit: Duration) -> Both {
        let donor = donor.end(limit);
        let words = donor.stderr.clone();
        let joiner = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| joiner.running.end(limit)));
        let joiner = joiner.unwrap_or_else(|panic| {
            eprintln!("the donor ended with {:?} and said: {words}", donor.status);
            std::panic::resume_unwind(panic)
        });
        Both { donor, joiner }
    }

    #[track_caller]
    pub fn succeeded(&self) {
        assert_eq!((self.donor.code(), self.joiner.code()), (0, 0), "{}\n{}", self.donor.stderr, self.joiner.stderr);
    }

    /// Both ended with this code, and one line of each contains all of these words.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(
            (self.donor.code(), self.joiner.code()),
            (code, code),
            "the donor said: {}\nthe joiner said: {}",
            self.donor.stderr,
            self.joiner.stderr
        );
        self.donor.failed(code, words);
        self.joiner.failed(code, words);
    }
}
