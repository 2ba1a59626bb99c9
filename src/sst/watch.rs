//! Whether the database server that started us is still alive.
//!
//! The server does not tell its script when it dies; after a `kill -9` the script would run on. A joiner is given the
//! server's process (`--parent`); a donor has to find it among its ancestors.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open, test_kill_process};

use super::args::{JoinerArgs, Role};
use crate::error::{Error, Kind, Result};

/// One process, held such that a later process with the same number is not mistaken for it.
#[derive(Debug)]
pub struct ServerWatch {
    pid: u32,
    hold: Hold,
}

#[derive(Debug)]
enum Hold {
    /// Becomes readable when the process ends, zombie or not.
    Pidfd(OwnedFd),
    /// Before Linux 5.3, or if a filter forbids the call: the process's start time, in clock ticks after boot.
    Started(u64),
    /// If `/proc` hides that too: only its number, so a zombie, or a later process with that number, counts as alive.
    Number(Pid),
}

impl ServerWatch {
    /// Watches the server that started this role.
    pub fn of_role(role: &Role) -> Result<ServerWatch> {
        match role {
            Role::Joiner(JoinerArgs { parent: Some(pid), .. }) => ServerWatch::of(*pid),
            _ => ServerWatch::of_ancestor(),
        }
    }

    /// Watches the process that `--parent` names.
    pub fn of(pid: u32) -> Result<ServerWatch> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| gone(pid))?;
        let hold = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => Hold::Pidfd(fd),
            Err(rustix::io::Errno::SRCH) => return Err(gone(pid)),
            Err(_) => match Stat::of(Path::new("/proc"), pid) {
                Some(stat) => Hold::Started(stat.started),
                None => Hold::Number(number),
            },
        };
        let watch = ServerWatch { pid, hold };
        if watch.alive() { Ok(watch) } else { Err(gone(pid)) }
    }

    /// Watches the nearest ancestor that is not a shell: the chain is `mariadbd`, `sh -c`, `highline`,
    /// and shells that replace themselves by their last command are missing from it.
    pub fn of_ancestor() -> Result<ServerWatch> {
        let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        let pid = parent.and_then(|pid| server_at_or_above(Path::new("/proc"), pid)).ok_or_else(|| gone(0))?;
        ServerWatch::of(pid)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// False once the process has ended; a zombie has. Costs one system call; ask every 500 ms.
    pub fn alive(&self) -> bool {
        match &self.hold {
            Hold::Pidfd(fd) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                // An interrupted call says nothing; the next one will.
                !matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)), Ok(1..))
            }
            Hold::Started(started) => Stat::of(Path::new("/proc"), self.pid)
                .is_some_and(|stat| stat.started == *started && !matches!(stat.state, 'Z' | 'X' | 'x')),
            Hold::Number(pid) => test_kill_process(*pid) != Err(rustix::io::Errno::SRCH),
        }
    }

    /// [`ServerWatch::alive`] as a result.
    pub fn check(&self) -> Result<()> {
        if self.alive() { Ok(()) } else { Err(gone(self.pid)) }
    }
}

fn gone(pid: u32) -> Error {
    let which = if pid == 0 { String::new() } else { format!(" (process {pid})") };
    Error::new(Kind::ServerGone, format!("the database server that started this transfer is gone{which}"))
}

/// What `/proc/PID/stat` says (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    parent: u32,
    started: u64,
}

impl Stat {
    fn of(proc: &Path, pid: u32) -> Option<Stat> {
        Stat::parse(&String::from_utf8_lossy(&fs::read(proc.join(pid.to_string()).join("stat")).ok()?))
    }

    fn parse(text: &str) -> Option<Stat> {
        // The name is in parentheses and may contain some itself.
        let (head, tail) = text.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let mut fields = tail.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // Field 22; the state was field 3.
        let started = fields.nth(17)?.parse().ok()?;
        Some(Stat { name, state, parent, started })
    }
}

/// `pid`, or the nearest of its ancestors, that is neither a shell nor our wrapper.
///
/// If `/proc` does not show one, that is the server: with `hidepid` (proc(5)) a process sees only those it could trace,
/// and not a server that root started for another user. Any process in between belongs to our own user and is shown.
fn server_at_or_above(proc: &Path, mut pid: u32) -> Option<u32> {
    for _ in 0..4 {
        let Some(stat) = Stat::of(proc, pid) else { return Some(pid) };
        if !is_shell(&stat.name) {
            return Some(pid);
        }
        pid = stat.parent;
    }
    None
}

fn is_shell(name: &str) -> bool {
    const SHELLS: [&str; 9] = ["sh", "dash", "bash", "ash", "ksh", "mksh", "yash", "zsh", "busybox"];
    SHELLS.contains(&name) || name.starts_with("wsrep_sst_")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_zombie_is_dead_by_either_way_of_looking() {
        let mut child = Command::new("sleep").arg("30").stdout(Stdio::null()).spawn().unwrap();
        let watch = ServerWatch::of(child.id()).unwrap();
        let started = Stat::of(Path::new("/proc"), child.id()).unwrap().started;
        let old = ServerWatch { pid: child.id(), hold: Hold::Started(started) };
        let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        let hidden = ServerWatch { pid: child.id(), hold: Hold::Number(number) };
        let recycled = ServerWatch { pid: child.id(), hold: Hold::Started(started + 1) };
        assert!(watch.alive() && old.alive() && watch.check().is_ok());
        assert!(!recycled.alive() && hidden.alive());
        child.kill().unwrap();
        // Nobody has reaped it: it stays in /proc as a zombie.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while (watch.alive() || old.alive()) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Path::new(&format!("/proc/{}", child.id())).exists());
        assert!(!watch.alive() && !old.alive());
        child.wait().unwrap();
        assert!(!hidden.alive());
        assert_eq!(watch.check().unwrap_err().kind(), Kind::ServerGone);
        assert_eq!(ServerWatch::of(child.id()).unwrap_err().kind(), Kind::ServerGone);
    }

    #[test]
    fn the_server_is_found_above_the_shells() {
        let proc = tempfile::tempdir().unwrap();
        let put = |pid: u32, name: &str, parent: u32| {
            let dir = proc.path().join(pid.to_string());
            fs::create_dir_all(&dir).unwrap();
            let rest = "1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
            fs::write(dir.join("stat"), format!("{pid} ({name}) S {parent} {rest}")).unwrap();
        };
        put(1, "systemd", 0);
        put(20, "mariadbd", 1);
        put(30, "sh", 20);
        assert_eq!(server_at_or_above(proc.path(), 30), Some(20), "sh stays above us");
        assert_eq!(server_at_or_above(proc.path(), 20), Some(20), "sh replaced itself");
        put(32, "wsrep_sst_highl", 30);
        assert_eq!(server_at_or_above(proc.path(), 32), Some(20), "a wrapper that does not replace itself");
        assert_eq!(Stat::of(proc.path(), 32).unwrap().started, 12345);
        put(1, "mariadbd", 0);
        put(30, "sh", 1);
        assert_eq!(server_at_or_above(proc.path(), 32), Some(1), "the server is a container's first process");
        put(30, "sh", 21);
        assert_eq!(server_at_or_above(proc.path(), 32), Some(21), "/proc hides the server");
        assert_eq!(server_at_or_above(proc.path(), 21), Some(21), "and we are its child");
        put(30, "sh", 30);
        assert_eq!(server_at_or_above(proc.path(), 30), None, "no end of shells");
    }

    #[test]
    fn odd_names_in_proc() {
        let rest = "S 7 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 99 1 1";
        for name in ["a b", ") S 1 (", ")"] {
            assert_eq!(
                Stat::parse(&format!("5 ({name}) {rest}")),
                Some(Stat { name: name.to_owned(), state: 'S', parent: 7, started: 99 })
            );
        }
        assert_eq!(Stat::parse("5 (x) S 7"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn a_real_ancestor() {
        assert!(ServerWatch::of_ancestor().unwrap().alive());
    }
}
