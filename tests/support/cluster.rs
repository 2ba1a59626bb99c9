//! A real Galera cluster on loopback: `mariadbd` processes with their own folders, started by the test and gone after it.
//!
//! Nodes are counted from 1. Every wait has an end, and dropping the cluster kills what it started.

use super::command::{bounded, run, server_user, succeed, text};
use super::node::{Node, NodeOptions};
use super::scripts::{self, ScriptRun, Watcher};
use super::{block, template};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to be Synced, an SST included, when a test says nothing else.
pub const SYNC_LIMIT: Duration = Duration::from_secs(150);
const SQL_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const LOG_TAIL: usize = 80;

/// What a cluster is to be; `build` makes its folders but starts nothing.
#[derive(Debug, Clone)]
pub struct Plan {
    method: String,
    nodes: Vec<NodeOptions>,
    plain_install: bool,
}

impl Plan {
    /// A line of `[mysqld]` on every node; see [`NodeOptions`] for `{node}` and `{dir:NAME}`.
    pub fn server(self, line: &str) -> Self {
        self.each(|options| options.server.push(line.to_owned()))
    }

    /// A line of `[sst]` on every node.
    pub fn sst(self, line: &str) -> Self {
        self.each(|options| options.sst.push(line.to_owned()))
    }

    /// A line of `[highline]` on every node.
    pub fn highline(self, line: &str) -> Self {
        self.each(|options| options.highline.push(line.to_owned()))
    }

    /// The first node's database is the usual one, whatever its options: they matter from its first start on.
    pub fn without_install_options(mut self) -> Self {
        self.plain_install = true;
        self
    }

    /// Changes the options of node `n` alone.
    pub fn node(mut self, n: usize, change: impl FnOnce(&mut NodeOptions)) -> Self {
        change(self.nodes.get_mut(n - 1).expect("a node of the plan"));
        self
    }

    fn each(mut self, change: impl Fn(&mut NodeOptions)) -> Self {
        self.nodes.iter_mut().for_each(change);
        self
    }

    pub fn build(self) -> Cluster {
        Cluster::build(self)
    }
}

#[derive(Debug)]
pub struct Cluster {
    method: String,
    members: String,
    nodes: Vec<Node>,
    watcher: Watcher,
    path: String,
    /// Process groups whose server has ended while its scripts had not.
    orphans: Vec<u32>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// `method` is the value of `wsrep_sst_method`.
    pub fn plan(nodes: usize, method: &str) -> Plan {
        let mut nodes = vec![NodeOptions::default(); nodes];
        if let [first, _] = nodes.as_mut_slice() {
            // Of two nodes, one must keep its quorum when the other dies.
            first.provider.push("pc.weight=2".to_owned());
        }
        Plan { method: method.to_owned(), nodes, plain_install: false }
    }

    fn build(plan: Plan) -> Self {
        let dir = template::scratch("highline-lab-");
        let block = block::claim();
        let members = (1..=plan.nodes.len()).map(|n| format!("{block}.{n}")).collect::<Vec<_>>().join(",");
        let nodes: Vec<Node> = plan
            .nodes
            .into_iter()
            .enumerate()
            .map(|(i, options)| Node::new(i + 1, &block, dir.path(), options))
            .collect();
        let path = install_programs(dir.path(), &plan.method);
        let watcher = Watcher::start(nodes.iter().map(Node::runs).collect());
        let cluster = Self { method: plan.method, members, nodes, watcher, path, orphans: Vec::new(), dir };
        for n in 1..=cluster.nodes.len() {
            cluster.write_options(n);
        }
        cluster.fill_first_node(plan.plain_install);
        cluster
    }

    /// Starts node `n` and waits until it is Synced. Alone, it bootstraps; otherwise it joins.
    pub fn start(&mut self, n: usize) {
        self.spawn(n);
        self.wait_synced(n, SYNC_LIMIT);
    }

    /// Starts node `n` and waits for nothing.
    pub fn spawn(&mut self, n: usize) {
        let bootstrap = (1..=self.nodes.len()).all(|other| other == n || !self.is_running(other));
        self.write_options(n);
        let path = self.path.clone();
        let node = self.node_mut(n);
        assert!(node.process.is_none(), "node {n} already runs");
        let mut command = node.server_command();
        command.arg(format!("--defaults-file={}", node.option_file().display()));
        if let Some(user) = server_user() {
            command.arg(format!("--user={user}"));
        }
        if bootstrap {
            allow_bootstrap(&node.datadir());
            command.arg("--wsrep-new-cluster");
        }
        command.args(&node.options.arguments);
        command.env("PATH", path).env(scripts::RUNS, node.runs());
        command.envs(node.options.environment.iter().map(|(k, v)| (k, node.expand(v))));
        // A group of its own, so that the scripts that outlive a killed server are found by it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        node.process = Some(command.spawn().expect("mariadbd starts; scripts/test installs it"));
    }

    /// Starts node `n`, which must end by itself; returns its exit status and what it logged meanwhile.
    pub fn start_expecting_failure(&mut self, n: usize, limit: Duration) -> (ExitStatus, String) {
        let before = self.log(n).len();
        self.spawn(n);
        let status = self.wait_exit(n, limit);
        assert!(!status.success(), "node {n} ended without an error");
        (status, self.log(n).get(before..).unwrap_or_default().to_owned())
    }

    /// Waits until node `n` has ended.
    pub fn wait_exit(&mut self, n: usize, limit: Duration) -> ExitStatus {
        let process = self.node_mut(n).process.as_mut().expect("a started node");
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = process.try_wait().expect("wait") {
                self.forget(n);
                return status;
            }
            assert!(Instant::now() < deadline, "node {n} still runs after {limit:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clean shutdown.
    pub fn stop(&mut self, n: usize) {
        let socket = self.socket(n);
        let mut admin = bounded(STOP_LIMIT, "mariadb-admin");
        admin.args(["--no-defaults", "--skip-ssl", "-u", "root", "-S"]).arg(socket).arg("shutdown");
        succeed(&mut admin);
        let status = self.wait_exit(n, STOP_LIMIT);
        assert!(status.success(), "node {n} ended with {status}");
    }

    /// SIGKILL to the server of node `n` alone; its SST script lives on, as in production. In a container nothing does.
    pub fn kill(&mut self, n: usize) {
        let node = self.node_mut(n);
        let container = node.options.container;
        let process = node.process.as_mut().expect("a started node");
        if container {
            // Its process 1 dies, and the others with it.
            kill_process_group(pid_of(process.id()), Signal::KILL).expect("kill");
        }
        process.kill().expect("kill");
        process.wait().expect("wait");
        self.forget(n);
    }

    /// Sends a signal to the server of node `n`.
    pub fn signal(&self, n: usize, signal: Signal) {
        rustix::process::kill_process(pid_of(self.pid(n)), signal).expect("kill");
    }

    pub fn wait_synced(&mut self, n: usize, limit: Duration) {
        self.wait_state(n, "Synced", limit);
    }

    pub fn wait_state(&mut self, n: usize, wanted: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let state = self.state(n);
            if state == wanted {
                return;
            }
            if let Some(process) = &mut self.node_mut(n).process
                && let Some(status) = process.try_wait().expect("wait")
            {
                self.forget(n);
                panic!("node {n} ended with {status} before it was {wanted}");
            }
            assert!(Instant::now() < deadline, "node {n} is {state:?} and not {wanted} after {limit:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// `wsrep_local_state_comment`, or nothing when the node does not answer.
    pub fn state(&self, n: usize) -> String {
        self.try_sql(n, "SHOW STATUS LIKE 'wsrep_local_state_comment'", Duration::from_secs(5))
            .ok()
            .and_then(|line| line.split('\t').nth(1).map(str::to_owned))
            .unwrap_or_default()
    }

    /// Runs statements on node `n`; rows come back as tab-separated lines.
    pub fn sql(&self, n: usize, statements: &str) -> String {
        self.try_sql(n, statements, SQL_LIMIT).unwrap_or_else(|e| panic!("node {n}: {statements}: {e}"))
    }

    /// As [`Self::sql`], with the client's error instead of a panic.
    pub fn try_sql(&self, n: usize, statements: &str, limit: Duration) -> Result<String, String> {
        let mut client = bounded(limit, "mariadb");
        client.args(["--no-defaults", "--skip-ssl", "-u", "root", "-N", "-B", "-S"]).arg(self.socket(n));
        let output = run(client.arg("-e").arg(statements));
        if output.status.success() {
            Ok(text(&output.stdout).trim_end().to_owned())
        } else {
            Err(format!("{} {}", output.status, text(&output.stderr).trim_end()))
        }
    }

    /// `CHECKSUM TABLE` of every table outside the server's own schemas, after node `n` has applied what the cluster committed.
    pub fn checksum_tables(&self, n: usize) -> BTreeMap<String, String> {
        let statements = self.sql(
            n,
            "SELECT CONCAT('CHECKSUM TABLE `', REPLACE(table_schema, '`', '``'), '`.`', REPLACE(table_name, '`', '``'), '` EXTENDED;')
             FROM information_schema.tables WHERE table_type = 'BASE TABLE'
             AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')",
        );
        let sums = self.sql(n, &format!("SET SESSION wsrep_sync_wait = 15; SELECT 'synced', 1; {statements}"));
        sums.lines()
            .skip(1)
            .filter_map(|line| line.split_once('\t'))
            .map(|(t, c)| (t.to_owned(), c.to_owned()))
            .collect()
    }

    /// Asserts that all running nodes hold the same rows, and that there are some.
    pub fn assert_equal_tables(&self) {
        let running: Vec<usize> = (1..=self.nodes.len()).filter(|n| self.is_running(*n)).collect();
        let expected = self.checksum_tables(running.first().copied().expect("a running node"));
        assert!(!expected.is_empty(), "there is no table to compare");
        for n in running.into_iter().skip(1) {
            assert_eq!(self.checksum_tables(n), expected, "the tables of node {n} differ");
        }
    }

    /// Makes `tables` sysbench tables of `rows` rows in schema `sb` on node `n`.
    pub fn prepare_sysbench(&self, n: usize, tables: u32, rows: u32) {
        self.sql(n, "CREATE DATABASE IF NOT EXISTS sb");
        let mut sysbench = bounded(Duration::from_secs(300), "sysbench");
        sysbench.arg("oltp_read_write").arg(format!("--mysql-socket={}", self.socket(n).display()));
        sysbench.args(["--mysql-user=root", "--mysql-db=sb", "--threads=2"]);
        succeed(sysbench.arg(format!("--tables={tables}")).arg(format!("--table-size={rows}")).arg("prepare"));
    }

    /// The whole error log of node `n`.
    pub fn log(&self, n: usize) -> String {
        std::fs::read(self.node(n).log()).map(|bytes| text(&bytes)).unwrap_or_default()
    }

    pub fn datadir(&self, n: usize) -> PathBuf {
        self.node(n).datadir()
    }

    /// The node's folder, parent of its datadir and of the `{dir:NAME}` folders.
    pub fn folder(&self, n: usize) -> PathBuf {
        self.node(n).folder.clone()
    }

    /// The path that the servers of nodes with `private_common` see as their own.
    pub fn common(&self) -> PathBuf {
        self.node(1).common()
    }

    pub fn socket(&self, n: usize) -> PathBuf {
        self.node(n).socket()
    }

    pub fn address(&self, n: usize) -> String {
        self.node(n).address.clone()
    }

    /// The program under test, where the server's account can run it.
    pub fn program(&self) -> PathBuf {
        self.dir.path().join("bin/highline")
    }

    /// The server's process id.
    pub fn pid(&self, n: usize) -> u32 {
        self.node(n).process.as_ref().expect("a started node").id()
    }

    pub fn is_running(&self, n: usize) -> bool {
        self.node(n).process.as_ref().is_some_and(|process| scripts::alive(process.id()))
    }

    /// The node's options; they take effect at its next start, or at the next SST after [`Self::write_options`].
    pub fn options(&mut self, n: usize) -> &mut NodeOptions {
        &mut self.node_mut(n).options
    }

    pub fn write_options(&self, n: usize) {
        self.node(n).make_folders();
        self.node(n).write_options(&self.method, &self.members);
    }

    /// Empties the datadir of node `n` and its other folders, which must be stopped.
    pub fn wipe(&mut self, n: usize) {
        assert!(!self.is_running(n), "node {n} runs");
        for dir in std::iter::once(self.datadir(n)).chain(self.node(n).extra_folders()) {
            // The folder itself may be a mount point.
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let removed = if path.is_symlink() || path.is_file() {
                    std::fs::remove_file(&path)
                } else {
                    std::fs::remove_dir_all(&path)
                };
                removed.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
        }
    }

    /// The SST scripts that ran on node `n`, oldest first.
    pub fn script_times(&self, n: usize) -> Vec<ScriptRun> {
        self.watcher.of(n)
    }

    /// Waits until an SST script of node `n` runs that is the `role`: `ScriptRun::is_joiner` or `is_donor`.
    pub fn wait_script(&self, n: usize, role: fn(&ScriptRun) -> bool, limit: Duration) -> ScriptRun {
        let deadline = Instant::now() + limit;
        loop {
            let run = self.script_times(n).into_iter().find(|run| run.is_running() && role(run));
            if let Some(run) = run {
                return run;
            }
            assert!(Instant::now() < deadline, "no such script runs on node {n} after {limit:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until no SST script of node `n` runs.
    pub fn wait_scripts_gone(&self, n: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        while let Some(run) = self.script_times(n).into_iter().find(ScriptRun::is_running) {
            assert!(Instant::now() < deadline, "node {n}: the SST script {} still runs after {limit:?}", run.pid);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the error log of node `n` contains `words`.
    pub fn wait_log(&self, n: usize, words: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.log(n).contains(words) {
            assert!(Instant::now() < deadline, "the log of node {n} does not say {words:?} after {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `mariadb-check` of everything; panics when it finds a fault.
    pub fn check(&self, n: usize) {
        let mut check = bounded(SQL_LIMIT, "mariadb-check");
        check.args(["--no-defaults", "--skip-ssl", "-u", "root", "--all-databases", "-S"]).arg(self.socket(n));
        let said = succeed(&mut check);
        let bad = said.lines().zip(said.lines().skip(1).chain([""]));
        // A sequence is named, and then a note says that its engine has no check.
        let no_check = |line: &str| line.starts_with("note ") && line.contains("doesn't support check");
        let bad = bad.filter(|(line, next)| !line.trim_end().ends_with("OK") && !no_check(line) && !no_check(next));
        let bad: Vec<&str> = bad.map(|(line, _)| line).collect();
        assert!(bad.is_empty(), "mariadb-check on node {n}: {bad:?}");
    }

    /// What systemd's unit runs before each start: `mariadbd --wsrep-recover` on a stopped node. Gives the position it found.
    pub fn recover_position(&self, n: usize) -> String {
        assert!(!self.is_running(n), "node {n} runs");
        let log = self.node(n).folder.join("recover.log");
        let mut recover = bounded(SQL_LIMIT, "mariadbd");
        recover.arg(format!("--defaults-file={}", self.node(n).option_file().display()));
        recover.arg("--wsrep-recover").arg(format!("--log-error={}", log.display()));
        if let Some(user) = server_user() {
            recover.arg(format!("--user={user}"));
        }
        succeed(&mut recover);
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.rsplit_once("Recovered position: ")
            .and_then(|(_, rest)| rest.lines().next())
            .unwrap_or_default()
            .to_owned()
    }

    /// Makes the donor `n` give a state transfer to `address` with no joining server behind it.
    pub fn donate_to(&self, n: usize, address: &str) {
        let me = format!("{}.9", self.address(n).rsplit_once('.').expect("an address").0);
        let mut garbd = bounded(Duration::from_secs(30), "garbd");
        garbd.arg("-a").arg(format!("gcomm://{}:4567", self.address(n))).args(["-g", "lab", "-n", "arbiter"]);
        garbd.arg("-o").arg(format!("gmcast.listen_addr=tcp://{me}:4567"));
        garbd.arg("--donor").arg(format!("node{n}")).arg("--sst").arg(format!("{}:{address}", self.method));
        succeed(&mut garbd);
    }

    fn node(&self, n: usize) -> &Node {
        self.nodes.get(n - 1).expect("a node of the cluster")
    }

    fn node_mut(&mut self, n: usize) -> &mut Node {
        self.nodes.get_mut(n - 1).expect("a node of the cluster")
    }

    /// Node `n` has ended; what it left behind is remembered.
    fn forget(&mut self, n: usize) {
        let group = self.node_mut(n).process.take().map(|process| process.id());
        self.orphans.extend(group.filter(|group| test_kill_process_group(pid_of(*group)).is_ok()));
    }

    fn fill_first_node(&self, plain: bool) {
        let first = self.node(1);
        let own_layout = !plain && !first.options.server.is_empty();
        template::install(&first.datadir(), own_layout.then(|| first.option_file()).as_deref());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut groups = std::mem::take(&mut self.orphans);
        groups.extend(self.nodes.iter().filter_map(|node| node.process.as_ref().map(Child::id)));
        for group in &groups {
            let _ = kill_process_group(pid_of(*group), Signal::KILL);
        }
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            let _ = process.wait();
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while groups.iter().any(|group| test_kill_process_group(pid_of(*group)).is_ok()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = std::fs::read(node.log()).map(|bytes| text(&bytes)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..).unwrap_or_default().join("\n");
                eprintln!("--- error log of node {} (tail)\n{tail}", node.number);
            }
        }
    }
}

fn pid_of(raw: u32) -> Pid {
    Pid::from_raw(raw.cast_signed()).expect("a process id")
}

/// Puts the binary and the wrapper under test where the server's account can run them; gives the PATH for the server.
fn install_programs(dir: &Path, method: &str) -> String {
    let (shims, programs) = (dir.join("shims"), dir.join("bin"));
    for folder in [&shims, &programs] {
        std::fs::create_dir(folder).expect("mkdir");
    }
    std::fs::copy(env!("CARGO_BIN_EXE_highline"), programs.join("highline")).expect("copy");
    let wrapper = programs.join("wsrep_sst_highline");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/wsrep_sst_highline"), &wrapper).expect("copy");
    let real = if method == "highline" { wrapper } else { Path::new("/usr/bin").join(format!("wsrep_sst_{method}")) };
    scripts::write_shim(&shims, method, &real);
    // The server puts `/usr//bin:` before a PATH that does not contain it, and an installed script would win.
    format!("{}:{}:/usr//bin:/usr/sbin:/usr/local/bin:/sbin:/bin", shims.display(), programs.display())
}

/// After a stop of the whole cluster, tells the provider that this node may begin it anew.
fn allow_bootstrap(datadir: &Path) {
    let file = datadir.join("grastate.dat");
    if let Ok(text) = std::fs::read_to_string(&file) {
        std::fs::write(&file, text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1")).expect("grastate.dat");
    }
}
