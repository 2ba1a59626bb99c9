//! A program at one end of a stream: started, watched, killed with all that it started.

use std::ffi::OsString;
use std::io::{PipeReader, PipeWriter, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::error::{Error, Kind, Printable, Result};
use crate::programs::lines;
use crate::progress::Reporter;
use crate::threads::{ended_within, lock};

/// How often it is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of what it says that are taken for one line.
const LINE: u64 = 2000;

/// The stream at whose end a program is.
pub(super) enum Stream {
    From(PipeWriter),
    /// What that program prints becomes lines of the log, too.
    To(PipeReader),
}

/// A program in a process group of its own. Dropped before it has ended well, the whole group is killed.
#[derive(Debug)]
pub struct Program {
    name: String,
    group: Pid,
    /// Not waited for before the drop, so that nobody else gets its number.
    child: Mutex<Child>,
    pid: Pid,
    listener: Mutex<Option<JoinHandle<()>>>,
    /// The last line that it said.
    said: Arc<Mutex<String>>,
    killed: AtomicBool,
}

impl Program {
    /// Starts `words`, as a producer or a consumer. What it says on its standard error becomes lines of the log. `group`: of a
    /// process that is there already.
    pub(super) fn start(
        words: &[OsString],
        stream: Stream,
        group: Option<Pid>,
        reporter: Arc<dyn Reporter>,
    ) -> Result<Program> {
        let [program, arguments @ ..] = words else {
            return Err(Error::new(Kind::Usage, "there is no program to run"));
        };
        let base = std::path::Path::new(program).file_name().unwrap_or(program);
        let name = Printable(base.as_encoded_bytes()).to_string();
        let failed = |e: std::io::Error| {
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            let kind = if missing { Kind::NotFound } else { Kind::Program };
            let made = Error::new(kind, format!("cannot run {}", Printable(program.as_encoded_bytes()))).because(e);
            made.remedy("check that it is installed on this side, and executable")
        };
        let (listens, speaks) = std::io::pipe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(group.map_or(0, Pid::as_raw_pid));
        let prints = match stream {
            Stream::From(writes) => {
                command.stdin(Stdio::null()).stdout(writes);
                None
            }
            Stream::To(reads) => {
                let (prints, writes) = std::io::pipe().map_err(failed)?;
                command.stdin(reads).stdout(writes);
                Some(prints)
            }
        };
        command.stderr(speaks);
        let child = command.spawn().map_err(failed)?;
        // Its ends of the pipes are held by it alone.
        drop(command);
        let pid = pid_of(&child)?;
        if let Some(prints) = prints {
            let (name, reporter) = (name.clone(), Arc::clone(&reporter));
            std::thread::spawn(move || listen(prints, &name, &*reporter, |_| {}));
        }
        let said = Arc::new(Mutex::new(String::new()));
        let listener = std::thread::spawn({
            let (said, name) = (Arc::clone(&said), name.clone());
            move || listen(listens, &name, &*reporter, |line| *lock(&said) = line)
        });
        let (child, listener) = (Mutex::new(child), Mutex::new(Some(listener)));
        Ok(Program { name, group: group.unwrap_or(pid), child, pid, listener, said, killed: AtomicBool::new(false) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has ended: well, or the error that tells how.
    pub fn outcome(&self) -> Option<Result<()>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = match waitid(WaitId::Pid(self.pid), options) {
            Ok(status) => status?,
            Err(error) => {
                let what = format!("cannot learn how {} ended", self.name);
                return Some(Err(Error::new(Kind::Io, what).because(std::io::Error::from(error))));
            }
        };
        let how = if let Some(code) = status.exit_status() {
            if code == 0 {
                return Some(Ok(()));
            }
            format!("ended with exit status {code}")
        } else if let Some(signal) = status.terminating_signal() {
            format!("was killed by signal {signal}")
        } else if [Signal::TTIN, Signal::TTOU].map(Signal::as_raw).map(Some).contains(&status.stopping_signal()) {
            // In a group of its own it is in the terminal's background, and would be stopped forever.
            let what = format!("{} wants to ask at the terminal, which it cannot do here", self.name);
            let remedy = "put what it asks for, such as a password, into its option file";
            return Some(Err(Error::new(Kind::Program, what).remedy(remedy)));
        } else {
            return None;
        };
        Some(Err(self.failure(&how)))
    }

    /// That it did `how`, and the last that it said.
    pub(super) fn failure(&self, how: &str) -> Error {
        // It may have started others that still hold its standard error.
        let deadline = Instant::now() + Duration::from_millis(200);
        let heard = || lock(&self.listener).as_ref().is_none_or(JoinHandle::is_finished);
        while !heard() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let said = lock(&self.said).clone();
        let said = if said.is_empty() { "it did not say why".to_owned() } else { format!("the last it said: {said}") };
        Error::new(Kind::Program, format!("{} {how}; {said}", self.name))
            .remedy(format!("see what {} says in the output of that side, and start again", self.name))
    }

    /// Resolves once it has ended badly. Cancel-safe.
    pub async fn failed(&self) -> Error {
        loop {
            if let Some(Err(error)) = self.outcome() {
                return error;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for its end as long as `go_on` holds; `None`: no longer.
    pub(super) fn wait(&self, go_on: impl Fn() -> bool) -> Option<Result<()>> {
        loop {
            match self.outcome() {
                None if go_on() => std::thread::sleep(LOOK),
                ended => return ended,
            }
        }
    }

    /// Kills it and what it started. None of them runs any more when this returns, so none sees an end of its input.
    pub fn kill(&self) {
        if !self.killed.swap(true, Ordering::Relaxed) {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }
}

/// What one that ended well has left running goes on.
impl Drop for Program {
    fn drop(&mut self) {
        if !matches!(self.outcome(), Some(Ok(()))) {
            self.kill();
        }
        // Of one that a dead disk holds not even a kill is heard.
        let _ = ended_within(&mut lock(&self.child), Duration::from_secs(2));
    }
}

pub(super) fn pid_of(child: &Child) -> Result<Pid> {
    Pid::from_raw(child.id().cast_signed()).ok_or_else(|| Error::new(Kind::Io, "a process has no number"))
}

fn listen(from: impl Read, name: &str, reporter: &dyn Reporter, mut heard: impl FnMut(String)) {
    lines(from, LINE, |text| {
        if !text.is_empty() {
            reporter.note(&format!("{name}: {text}"));
            heard(text.to_owned());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Recorder;

    fn shell(script: &str, reporter: Arc<dyn Reporter>) -> Program {
        let words = ["sh", "-c", script].map(OsString::from);
        Program::start(&words, Stream::From(std::io::pipe().unwrap().1), None, reporter).unwrap()
    }

    #[test]
    fn how_it_ended_and_the_last_that_it_said() {
        for (script, told) in [
            ("exit 0", None),
            (
                "echo first >&2; echo 'Got error: 1045' >&2; exit 2",
                Some("sh ended with exit status 2; the last it said: Got error: 1045"),
            ),
            ("exit 7", Some("sh ended with exit status 7; it did not say why")),
            ("kill -TTIN $$; exit 0", Some("sh wants to ask at the terminal, which it cannot do here")),
            ("kill -9 $$", Some("sh was killed by signal 9; it did not say why")),
        ] {
            let recorder = Arc::new(Recorder::default());
            let program = shell(script, Arc::clone(&recorder) as _);
            let ended = program.wait(|| true).unwrap();
            let error = ended.err().map(|error| (error.kind(), error.sentence()));
            assert_eq!(error, told.map(|told| (Kind::Program, told.to_owned())), "{script}");
            assert!(program.outcome().is_some(), "it can be asked again");
            let lines = recorder.lines();
            assert!(!script.contains("first") || lines.iter().any(|line| line.contains("sh: first")), "{lines:?}");
        }
    }

    #[test]
    fn what_it_started_dies_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        let program = shell(&script, Arc::new(Recorder::default()));
        let deadline = Instant::now() + Duration::from_secs(10);
        let pid = loop {
            match std::fs::read_to_string(&file).unwrap_or_default().trim().parse::<i32>() {
                Ok(pid) => break Pid::from_raw(pid).unwrap(),
                Err(_) => assert!(Instant::now() < deadline),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        drop(program);
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        while !gone() {
            assert!(Instant::now() < deadline, "{pid:?} lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_is_not_there_is_named() {
        let words = [OsString::from("/nowhere/mariadb")];
        let stream = Stream::To(std::io::pipe().unwrap().0);
        let started = Program::start(&words, stream, None, Arc::new(Recorder::default()));
        let error = started.map(|_| ()).unwrap_err();
        assert_eq!(
            (error.kind(), error.sentence().as_str()),
            (Kind::NotFound, "cannot run /nowhere/mariadb: No such file or directory (os error 2)")
        );
    }
}
