//! Servers that cannot be run here, as an SST method sees them: they start it, read it and judge it as
//! `sql/wsrep_sst.cc` of mysql-wsrep 8.0 and of Percona XtraDB Cluster does, and do no more than that.
//!
//! A thread writes to the donor's data as clients would, until it is frozen, and again once it is released.

use super::command::bounded;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const UUID: &str = "848c3c55-e803-11f1-bdd2-6275f5042ecd";

/// A method that runs longer than this is ended, and has failed.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    MysqlWsrep,
    /// Since the release that has the method `clone`.
    PerconaXtraDb,
    /// Before: no authentication part in a request.
    EarlyPerconaXtraDb,
}
use Kind::{MysqlWsrep, PerconaXtraDb};

impl Kind {
    fn is_percona(self) -> bool {
        self != MysqlWsrep
    }
}

/// One node; its data is in `datadir`.
#[derive(Debug)]
pub struct FakeServer {
    kind: Kind,
    folder: PathBuf,
    address: String,
    /// `wsrep_sst_allowed_methods`.
    pub allowed: &'static str,
}

/// A method that a server has started.
#[derive(Debug)]
pub struct Method {
    child: Child,
    out: BufReader<ChildStdout>,
    /// The lines that Percona's server read from standard error, with its level for each.
    log: Option<JoinHandle<Vec<(String, String)>>>,
    log_file: PathBuf,
}

/// What a joiner's server has after `ready`.
#[derive(Debug)]
pub struct Joining {
    kind: Kind,
    pub method: Method,
    /// What it puts into its request to the donor, besides the method.
    pub ready: String,
}

/// How a server judged its method, and what that wrote to the log.
#[derive(Debug)]
pub struct Ended {
    pub gtid: Result<String, String>,
    pub status: ExitStatus,
    /// With the levels that Percona's server reads; for mysql-wsrep the plain lines.
    pub log: Vec<(String, String)>,
    /// What the donor's method asked for, in order.
    pub asked: Vec<String>,
}

impl FakeServer {
    pub fn new(kind: Kind, folder: &Path, address: &str) -> FakeServer {
        let server = FakeServer { kind, folder: folder.to_owned(), address: address.to_owned(), allowed: "highline" };
        for part in ["bin", "data", "plugin"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/wsrep_sst_highline");
        fs::copy(wrapper, folder.join("bin/wsrep_sst_highline")).unwrap();
        symlink(env!("CARGO_BIN_EXE_highline"), folder.join("bin/highline")).unwrap();
        fs::write(folder.join("my.cnf"), format!("[mysqld]\ndatadir={}\n", server.datadir().display())).unwrap();
        server
    }

    pub fn datadir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What every command line has, after the role's own flags.
    fn common(&self) -> String {
        let (folder, data) = (self.folder.display(), self.datadir());
        let data = data.display();
        match self.kind {
            MysqlWsrep => format!(
                "--datadir '{data}/' --defaults-file '{folder}/my.cnf' --defaults-group-suffix '' --mysqld-version '8.0.34-26.15' \
                 --plugin-dir '{folder}/plugin'"
            ),
            _ => format!(
                "--datadir '{data}/' --basedir '{folder}/' --plugindir '{folder}/plugin/' --defaults-file '{folder}/my.cnf' \
                 --defaults-group-suffix '' --mysqld-version '8.0.36-28.1'"
            ),
        }
    }

    /// `wsp::process`: a shell, with the server's environment; Percona's in a group of its own, and with three pipes.
    fn start(&self, command: &str, remote_auth: Option<&str>, stdin: &str) -> Method {
        let log_file = self.folder.join("error.log");
        let mut shell = bounded(LIMIT, "sh");
        shell.arg("-c").arg(command).current_dir(self.datadir());
        shell
            .env("PATH", format!("{}/bin:/usr/bin:/bin", self.folder.display()))
            .env_remove("WSREP_SST_OPT_REMOTE_AUTH");
        shell.stdout(Stdio::piped());
        if self.kind.is_percona() {
            shell.stdin(Stdio::piped()).stderr(Stdio::piped());
        } else {
            let log = OpenOptions::new().create(true).append(true).open(&log_file).unwrap();
            shell.stdin(Stdio::null()).stderr(log).env("WSREP_SST_OPT_AUTH", "");
            if let Some(auth) = remote_auth {
                shell.env("WSREP_SST_OPT_REMOTE_AUTH", auth);
            }
        }
        // MySQL's would be its server's group, and that is the test's.
        let mut child = shell.process_group(0).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(stdin.as_bytes()).unwrap();
        }
        let log = child.stderr.take().map(|pipe| std::thread::spawn(move || levels(pipe)));
        Method { child, out, log, log_file }
    }

    /// `sst_joiner_thread` up to `ready`; or what the method said and did if it failed before.
    pub fn join(&self) -> Result<Joining, Ended> {
        let (common, address) = (self.common(), &self.address);
        let parent = std::process::id();
        let line =
            format!("wsrep_sst_highline --role 'joiner' --address '{address}' {common} --parent '{parent}'  '' ");
        let mut method = self.start(&line, None, "");
        let first = method.line(512);
        match first.as_deref() {
            Some(line) if line.len() >= 7 && line[..5].eq_ignore_ascii_case("ready") => {
                Ok(Joining { kind: self.kind, ready: line[6..].to_owned(), method })
            }
            _ => Err(method.end(Err(format!("no ready: {first:?}")), Vec::new())),
        }
    }

    /// `wsrep_sst_donate`: judges the joiner's request and runs the method, whose freeze is `engine`'s.
    pub fn donate(&self, request: &str, seqno: u64, bypass: bool, engine: &Engine) -> Result<Ended, String> {
        let of_address = |c: char| c.is_ascii_alphanumeric() || "_:/.[]-".contains(c);
        let listed = self.allowed.split(',').any(|name| name == "highline");
        let at_is_fine = self.kind == PerconaXtraDb;
        let (auth, address) = match request.rsplit_once('@') {
            Some((auth, address)) => (Some(auth), address),
            None => (None, request),
        };
        if self.kind.is_percona() && !listed {
            return Err("Invalid sst_request: the method is not allowed".to_owned());
        }
        let judged = if self.kind.is_percona() { request } else { address };
        if !judged.chars().all(|c| of_address(c) || (c == '@' && at_is_fine)) {
            return Err(format!("Invalid sst_request: {judged}"));
        }
        let (user, secret) = auth.and_then(|auth| auth.split_once(':')).unwrap_or_default();
        let remote = if auth.is_some() {
            format!("sst_remote_user={user}\nsst_remote_password={secret}\n")
        } else {
            String::new()
        };
        let stdin = format!("sst_user=mysql.pxc.sst.user\nsst_password=yx9!A-0123456789\n{remote}");

        let (common, folder) = (self.common(), self.folder.display());
        let bypass = if bypass { " --bypass" } else { "" };
        let line = match self.kind {
            MysqlWsrep => format!(
                "wsrep_sst_highline --role 'donor' --address '{address}' --local-port '3306' --socket '{folder}/socket' {common} \
                  '' --gtid '{UUID}:{seqno}' --local-gtid '{UUID}:1' --server-id '7'{bypass}"
            ),
            _ => format!(
                "wsrep_sst_highline --role 'donor' --address '{address}' --socket '{folder}/socket' {common}  '' --gtid '{UUID}:{seqno}'{bypass}"
            ),
        };
        let mut method = self.start(&line, auth, &stdin);
        let mut asked = Vec::new();
        let gtid = loop {
            let Some(line) = method.line(if self.kind.is_percona() { 1024 } else { 128 }) else {
                break Err("the method ended and said no more".to_owned());
            };
            asked.push(line.clone());
            match line.to_ascii_lowercase().as_str() {
                "flush tables" => {
                    engine.freeze();
                    let more = if self.kind.is_percona() { "" } else { " 11111111-e803-11f1-bdd2-6275f5042ecd:1 7" };
                    let (answer, new) =
                        (self.datadir().join("tables_flushed"), self.datadir().join("tables_flushed.tmp"));
                    fs::write(&new, format!("{UUID}:{}{more}\n", seqno + 1)).unwrap();
                    fs::rename(new, answer).unwrap();
                }
                "continue" => engine.release(),
                _ if line.starts_with("done ") => break parsed(&line[5..]),
                _ => break Err(format!("Received unknown signal: '{line}'")),
            }
        };
        engine.release();
        Ok(method.end(gtid, asked))
    }
}

fn parsed(text: &str) -> Result<String, String> {
    let known =
        text.split_whitespace().next().and_then(|gtid| gtid.strip_prefix(UUID)?.strip_prefix(':')?.parse::<u64>().ok());
    known.map(|seqno| format!("{UUID}:{seqno}")).ok_or_else(|| format!("Failed to parse uuid:seqno pair: '{text}'"))
}

impl Method {
    /// `my_fgets`: a line that does not fit into the buffer is not a line.
    fn line(&mut self, buffer: usize) -> Option<String> {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert!(line.len() < buffer, "a line of {} bytes for a buffer of {buffer}", line.len());
        (!line.is_empty()).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// The group that Percona's server signals when it cancels.
    pub fn cancel(&self) {
        kill_process_group(self.group(), Signal::TERM).unwrap();
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }

    fn end(mut self, gtid: Result<String, String>, asked: Vec<String>) -> Ended {
        let status = self.child.wait().unwrap();
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "after the last line that the server reads");
        // `timeout` may be gone before what it ran.
        let deadline = Instant::now() + Duration::from_secs(5);
        while test_kill_process_group(self.group()).is_ok() {
            assert!(Instant::now() < deadline, "the method has left processes behind");
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = match self.log.take() {
            Some(thread) => thread.join().unwrap(),
            None => fs::read_to_string(&self.log_file)
                .unwrap()
                .lines()
                .map(|line| (String::new(), line.to_owned()))
                .collect(),
        };
        Ended { gtid, status, log, asked }
    }
}

impl Joining {
    /// `sst_joiner_thread` after `ready`: one line, and Percona's server counts the exit code too.
    pub fn end(mut self) -> Ended {
        let line = self.method.line(512);
        let counts = self.kind.is_percona();
        let gtid =
            line.as_deref().map_or_else(|| Err("Failed to read uuid:seqno from joiner script.".to_owned()), parsed);
        let mut ended = self.method.end(gtid, Vec::new());
        if counts && !ended.status.success() {
            ended.gtid = Err(format!("SST script aborted with error {:?}", ended.status.code()));
        }
        ended
    }
}

/// `sst_logger_thread`: the level is in the first four characters; a line without one is logged as it is.
fn levels(pipe: impl Read) -> Vec<(String, String)> {
    let known: BTreeSet<&str> = ["ERR:", "WRN:", "INF:", "DBG:"].into();
    BufReader::new(pipe)
        .lines()
        .map(|line| {
            let line = line.unwrap();
            assert!(line.len() < 1023, "the server's buffer cuts this line: {line}");
            let (level, text) = line.split_at_checked(4).unwrap_or(("", &line));
            if known.contains(level) { (level.to_owned(), text.to_owned()) } else { (String::new(), line) }
        })
        .collect()
}

/// The donor's storage engine under its clients: writes to a file until it is frozen.
#[derive(Debug)]
pub struct Engine {
    frozen: Arc<Mutex<bool>>,
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
    /// What the file held at each freeze.
    pub states: Mutex<Vec<Vec<u8>>>,
    file: PathBuf,
}

impl Engine {
    /// Writes somewhere in the file every millisecond.
    pub fn start(file: &Path) -> Engine {
        let (frozen, stop) = (Arc::new(Mutex::new(false)), Arc::new(AtomicBool::new(false)));
        let (held, ended, table) =
            (Arc::clone(&frozen), Arc::clone(&stop), File::options().write(true).open(file).unwrap());
        let pages = table.metadata().unwrap().len() / 16384;
        let writer = std::thread::spawn(move || {
            for n in 0.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                {
                    let frozen = held.lock().unwrap();
                    if !*frozen {
                        table.write_all_at(&u64::to_be_bytes(n), (n * 7919 % pages) * 16384 + 128).unwrap();
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Engine { frozen, stop, writer: Some(writer), states: Mutex::default(), file: file.to_owned() }
    }

    fn freeze(&self) {
        *self.frozen.lock().unwrap() = true;
        self.states.lock().unwrap().push(fs::read(&self.file).unwrap());
    }

    fn release(&self) {
        *self.frozen.lock().unwrap() = false;
    }

    pub fn is_frozen(&self) -> bool {
        *self.frozen.lock().unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}
