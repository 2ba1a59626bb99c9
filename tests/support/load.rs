//! Writes on a donor during a state transfer, and how long they wait.

use super::cluster::Cluster;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the probe commits a row of its own.
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// Repeats `work` in a thread of its own until `body` has ended, in whatever way.
pub fn meanwhile<T>(mut work: impl FnMut() + Send, body: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                work();
            }
        });
        body()
    })
}

/// A sysbench run with one probe beside it. Ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    sysbench: Child,
    rates: Option<JoinHandle<Vec<f64>>>,
    probe: Probe,
}

/// What a load measured.
#[derive(Debug)]
pub struct LoadReport {
    /// Transactions a second, one number a second.
    pub rates: Vec<f64>,
    pub probe: ProbeReport,
}

impl Load {
    /// Writes to the tables that [`Cluster::prepare_sysbench`] made with the same `tables` and `rows`.
    pub fn start(cluster: &Cluster, n: usize, tables: u32, rows: u32) -> Self {
        let probe = Probe::start(cluster, n);
        let mut command = Command::new("sysbench");
        command.arg("oltp_read_write").arg(format!("--mysql-socket={}", cluster.socket(n).display()));
        command.args(["--mysql-user=root", "--mysql-db=sb", "--threads=2", "--report-interval=1", "--time=600"]);
        command.args(["--mysql-ignore-errors=all", "--db-ps-mode=disable"]);
        command.arg(format!("--tables={tables}")).arg(format!("--table-size={rows}")).arg("run");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut sysbench = command.spawn().expect("sysbench starts; scripts/test installs it");
        let lines = BufReader::new(sysbench.stdout.take().expect("a pipe"));
        let rates =
            std::thread::spawn(move || lines.lines().map_while(Result::ok).filter_map(|line| rate(&line)).collect());
        Self { sysbench, rates: Some(rates), probe }
    }

    pub fn stop(mut self) -> LoadReport {
        let _ = self.sysbench.kill();
        let _ = self.sysbench.wait();
        let rates = self.rates.take().map(|thread| thread.join().expect("the reader")).unwrap_or_default();
        LoadReport { rates, probe: self.probe.finish() }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.sysbench.kill();
        let _ = self.sysbench.wait();
    }
}

/// The `tps` of a line such as `[ 3s ] thds: 2 tps: 412.98 qps: 8259.51 (r/w/o: …)`.
fn rate(line: &str) -> Option<f64> {
    line.split_once("tps: ")?.1.split_whitespace().next()?.parse().ok()
}

/// Commits one small row every 10 ms and notes how long each commit took.
#[derive(Debug)]
pub struct Probe {
    client: Child,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<ProbeReport>>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct ProbeReport {
    pub commits: u64,
    /// The longest time from the start of a commit to its answer, including one that never came: the donor's freeze.
    pub longest_stall: Duration,
}

impl Probe {
    pub fn start(cluster: &Cluster, n: usize) -> Self {
        cluster.sql(
            n,
            "CREATE DATABASE IF NOT EXISTS probe; CREATE TABLE IF NOT EXISTS probe.t (id INT PRIMARY KEY, n BIGINT);
             INSERT IGNORE INTO probe.t VALUES (1, 0)",
        );
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--skip-ssl", "-u", "root", "-N", "-B", "--unbuffered", "--force", "-S"]);
        command.arg(cluster.socket(n)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut client = command.spawn().expect("mariadb starts");
        let (input, output) = (client.stdin.take().expect("a pipe"), client.stdout.take().expect("a pipe"));
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || probe(input, BufReader::new(output), &ended));
        Self { client, stop, thread: Some(thread) }
    }

    pub fn finish(&mut self) -> ProbeReport {
        self.stop.store(true, Ordering::Relaxed);
        std::thread::sleep(2 * PROBE_EVERY);
        let _ = self.client.kill();
        let _ = self.client.wait();
        self.thread.take().map(|thread| thread.join().expect("the probe")).unwrap_or_default()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn probe(mut input: ChildStdin, mut output: BufReader<ChildStdout>, stop: &AtomicBool) -> ProbeReport {
    let mut report = ProbeReport::default();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let asked =
            input.write_all(b"UPDATE probe.t SET n = n + 1 WHERE id = 1; SELECT 'ok';\n").and_then(|()| input.flush());
        let mut answer = String::new();
        let answered = asked.is_ok() && output.read_line(&mut answer).is_ok_and(|n| n > 0);
        let took = start.elapsed();
        report.longest_stall = report.longest_stall.max(took);
        if !answered {
            break;
        }
        report.commits += 1;
        std::thread::sleep(PROBE_EVERY.saturating_sub(took));
    }
    report
}
