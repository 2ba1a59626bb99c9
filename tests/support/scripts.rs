//! When each SST script of a node began and ended.
//!
//! A shim in front of the real script records its pid and the time and then becomes the script (`exec`), so the process tree is what
//! it is in production. A thread sees the end.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The environment variable that tells the shim where to record its runs.
pub const RUNS: &str = "HIGHLINE_LAB_RUNS";

/// One run of an SST script.
#[derive(Debug, Clone)]
pub struct ScriptRun {
    pub pid: u32,
    /// Every argument that the server passed.
    pub arguments: String,
    pub start: SystemTime,
    /// When the process was gone, to about 5 ms; `None` while it runs.
    pub end: Option<SystemTime>,
}

impl ScriptRun {
    pub fn is_joiner(&self) -> bool {
        self.arguments.contains("--role joiner")
    }

    pub fn is_donor(&self) -> bool {
        self.arguments.contains("--role donor")
    }

    pub fn is_running(&self) -> bool {
        self.end.is_none()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid.cast_signed()).unwrap(), signal).unwrap();
    }

    /// `None` while it runs.
    pub fn took(&self) -> Option<Duration> {
        self.end.and_then(|end| end.duration_since(self.start).ok())
    }
}

/// Writes the shim for `method` into `folder`.
pub fn write_shim(folder: &Path, method: &str, real: &Path) {
    let shim = folder.join(format!("wsrep_sst_{method}"));
    let body = format!(
        "#!/bin/sh\n{{ date +%s%N; printf '%s\\n' \"$*\"; }} >\"${RUNS}/$$.new\"\nmv \"${RUNS}/$$.new\" \"${RUNS}/$$.run\"\nexec '{}' \"$@\"\n",
        real.display()
    );
    std::fs::write(&shim, body).expect("shim");
    std::fs::set_permissions(&shim, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}

type Runs = Arc<Mutex<BTreeMap<(usize, String), ScriptRun>>>;

/// Watches the run folders of all nodes until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    runs: Runs,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watcher {
    /// `folders[i]` belongs to node `i + 1`.
    pub fn start(folders: Vec<PathBuf>) -> Self {
        let runs = Runs::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, ended) = (Arc::clone(&runs), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                look(&folders, &seen);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { runs, stop, thread: Some(thread) }
    }

    /// The runs of node `n`, oldest first.
    pub fn of(&self, n: usize) -> Vec<ScriptRun> {
        let mut found: Vec<ScriptRun> = self
            .runs
            .lock()
            .expect("lock")
            .iter()
            .filter(|((node, _), _)| *node == n)
            .map(|(_, run)| run.clone())
            .collect();
        found.sort_by_key(|run| run.start);
        found
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look(folders: &[PathBuf], runs: &Runs) {
    for (index, folder) in folders.iter().enumerate() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "run")) {
            let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
            let Some((nanos, arguments)) = text.split_once('\n') else { continue };
            let pid = entry.path().file_stem().and_then(|s| s.to_str()?.parse().ok()).unwrap_or(0);
            // A pid can be reused, so the start time is part of the key.
            let mut runs = runs.lock().expect("lock");
            let run = runs.entry((index + 1, format!("{pid}@{nanos}"))).or_insert_with(|| ScriptRun {
                pid,
                arguments: arguments.trim_end().to_owned(),
                start: UNIX_EPOCH + Duration::from_nanos(nanos.parse().unwrap_or(0)),
                end: None,
            });
            if run.end.is_none() && !alive(pid) {
                run.end = Some(SystemTime::now());
            }
        }
    }
}

/// Whether a process runs; a zombie does not.
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with(['Z', 'X'])))
        .unwrap_or(false)
}
