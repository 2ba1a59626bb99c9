//! Both ends of a byte stream: the real program, twice, and programs at its ends.

use super::pair::{Both, Joiner, LIMIT, Running};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A directory for what goes in and comes out.
#[derive(Debug)]
pub struct Pipes {
    home: tempfile::TempDir,
}

impl Default for Pipes {
    fn default() -> Pipes {
        let home = tempfile::Builder::new().prefix("pipes").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Pipes { home }
    }
}

/// Writes what comes to `out`, and makes `ended` when it has seen its end.
pub const KEEP: &str = "cat > out && echo > ended";

impl Pipes {
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A file `in` of `size` bytes that nothing compresses.
    pub fn fill(&self, size: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut bytes: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
        bytes.truncate(size);
        std::fs::write(self.path("in"), &bytes).unwrap();
        bytes
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.home.path()).env("HIGHLINE", env!("CARGO_BIN_EXE_highline"));
        command
    }

    /// `highline receive` with `options`, and `script` as the program after `--`.
    pub fn receive(&self, options: &[&str], script: &str) -> Joiner {
        let mut command = self.command(env!("CARGO_BIN_EXE_highline"));
        command.args(["receive", "--listen", "127.0.0.1:0"]).args(options).args(["--", "sh", "-c", script]);
        let mut running = Running::start("joiner", command);
        let ticket = running.first_line();
        Joiner { ticket, running }
    }

    /// `highline receive --stdout` in a shell, with what follows there.
    pub fn receive_stdout(&self, options: &str, rest: &str) -> Joiner {
        let script = format!("$HIGHLINE receive --listen 127.0.0.1:0 --stdout {options} {rest}");
        let mut command = self.command("sh");
        let running = Running::start("joiner", {
            command.args(["-c", &script]);
            command
        });
        let deadline = Instant::now() + LIMIT;
        while !running.said().contains("/highline/1\n") {
            assert!(Instant::now() < deadline, "{}", running.said());
            std::thread::sleep(Duration::from_millis(5));
        }
        let ticket = running.said().lines().next().unwrap().to_owned();
        Joiner { ticket, running }
    }

    /// `highline send` with `options`, and `script` as the program after `--`.
    pub fn send(&self, ticket: &str, options: &[&str], script: &str) -> Running {
        let mut command = self.command(env!("CARGO_BIN_EXE_highline"));
        command.arg("send").args(options).args(["-", "--", "sh", "-c", script]);
        Running::start_with_line("donor", command, ticket)
    }

    /// `highline send --stdin` in a shell, after `before`.
    pub fn send_stdin(&self, ticket: &str, before: &str) -> Running {
        let script = format!("{{ echo '{ticket}'; {before}; }} | $HIGHLINE send --stdin -");
        let mut command = self.command("sh");
        command.args(["-c", &script]);
        Running::start("donor", command)
    }

    pub fn stream(&self, producer: &str, consumer: &str) -> Both {
        let joiner = self.receive(&[], consumer);
        let donor = self.send(&joiner.ticket, &[], producer);
        Both::of(donor, joiner, LIMIT)
    }

    /// What [`KEEP`] has written, if it has seen the end.
    pub fn kept(&self) -> Option<Vec<u8>> {
        self.path("ended").exists().then(|| std::fs::read(self.path("out")).unwrap())
    }

    /// The consumer had come so far, and has not seen an end.
    #[track_caller]
    pub fn never_ended(&self) {
        // Who is only slow to notice it would do so by now.
        std::thread::sleep(Duration::from_millis(300));
        assert!(!self.path("ended").exists(), "the consumer saw an end");
    }

    /// How many processes hold a pipe open for somebody who could not be killed.
    pub fn holders(&self) -> usize {
        let holds = |process: &Path| {
            let here = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == self.home.path());
            here && std::fs::read(process.join("cmdline")).is_ok_and(|words| words.ends_with(b"guard\0--hold\0"))
        };
        std::fs::read_dir("/proc").unwrap().filter(|entry| holds(&entry.as_ref().unwrap().path())).count()
    }

    pub fn wait_for(&self, name: &str) -> String {
        wait_for(&self.path(name))
    }
}

/// The content of a file, once it has some.
pub fn wait_for(file: &Path) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        match std::fs::read(file) {
            Ok(bytes) if !bytes.is_empty() => return String::from_utf8_lossy(&bytes).into_owned(),
            _ => assert!(Instant::now() < deadline, "{} has nothing", file.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
