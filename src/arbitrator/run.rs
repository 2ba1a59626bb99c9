//! One run of the program: into the cluster, the request, and out again.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::cluster::{Cluster, PORT};
use super::words::{Heard, listen};
use crate::error::{Error, Kind, Printable, Result};
use crate::programs::find;
use crate::progress::Reporter;
use crate::threads::{Killed, ended_within, joined_within, lock};
use crate::tls::{Ticket, random};

/// How long a node that answers may take to let it in.
const LET_IN: Duration = Duration::from_secs(10);
/// How long it may take to leave the cluster before it is killed. Killed, it costs the cluster its suspicion of five
/// seconds (`evs.suspect_timeout`).
const LEAVE: Duration = Duration::from_secs(5);

/// The program in `PATH`.
pub fn program() -> Result<PathBuf> {
    let found = find(&["garbd"]).map(|place| std::path::absolute(&place).unwrap_or(place));
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, "the program garbd, which asks a cluster for a copy, is not installed here")
            .remedy("install the package galera-arbitrator-4 (Debian, Ubuntu) or galera-4 (rpm), of the nodes' version")
    })
}

/// What is asked, and of whom.
#[derive(Clone, Debug)]
pub struct Request {
    pub program: PathBuf,
    pub cluster: Cluster,
    /// `wsrep_cluster_name`.
    pub group: String,
    /// `wsrep_node_name`, or several as in `wsrep_sst_donor`.
    pub donor: String,
    /// As [`super::carried`] gives them.
    pub provider: Vec<(String, String)>,
    /// Where the program listens for the nodes.
    pub listen: SocketAddr,
}

/// Refuses an address that garbd could not listen on, which it would not always say.
fn can_listen(at: SocketAddr) -> Result<()> {
    let Err(error) = TcpListener::bind(at) else { return Ok(()) };
    let (kind, why) = match error.kind() {
        std::io::ErrorKind::AddrInUse => (Kind::Busy, "which is in use".to_owned()),
        _ => (Kind::Usage, error.to_string()),
    };
    Err(Error::new(kind, format!("garbd cannot listen on {at}, {why}"))
        .remedy("name another address of this host, and a free port, with --group-listen; or leave it out"))
}

/// An address for the program to listen on: Galera's own port, or one that is free where a server has that.
pub fn listen_near(here: IpAddr) -> Result<SocketAddr> {
    let free = |port| TcpListener::bind((here, port)).and_then(|listener| listener.local_addr());
    free(PORT).or_else(|_| free(0)).map_err(|e| Error::net(format!("cannot listen on {here}"), e))
}

impl Request {
    /// Asks for a transfer to the holder of `ticket`; returns the node that sends. When this ends, or is dropped, the
    /// program has left the cluster.
    ///
    /// Call it on a thread that lives as long as the process: the program is told to end when that thread does.
    ///
    /// # Errors
    /// Nobody is donor within `limit`, and why.
    pub async fn ask(&self, ticket: &Ticket, reporter: &dyn Reporter, limit: Duration) -> Result<String> {
        let mut running = self.start(ticket, limit)?;
        let (started, mut answered, mut told) = (Instant::now(), None, false);
        loop {
            let ended =
                running.child.0.try_wait().map_err(|e| Error::new(Kind::Io, "cannot wait for garbd").because(e))?;
            if ended.is_some()
                && let Some(listener) = running.listener.take()
            {
                // What the program has left behind may keep it listening.
                let _ = joined_within(listener, LEAVE).await;
            }
            let heard = lock(&running.heard).clone();
            let late = started.elapsed() > limit || (started.elapsed() > LET_IN && !heard.let_in);
            match heard.donor {
                // It leaves by itself now, or is made to.
                Some(donor) if ended.is_some() || answered.get_or_insert_with(Instant::now).elapsed() > LEAVE => {
                    return Ok(donor);
                }
                // A release that words it otherwise, and has nothing to complain of.
                None if ended.is_some_and(|status| status.success()) && heard.is_content() => {
                    return Ok(self.donor.clone());
                }
                None if ended.is_some() || late => return Err(self.failure(&heard)),
                _ => {}
            }
            if let (Some(why), false) = (&heard.refusal, told) {
                told = true;
                reporter.note(&format!("no donor yet ({why}): garbd asks again every second"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn start(&self, ticket: &Ticket, limit: Duration) -> Result<Running> {
        can_listen(self.listen)?;
        let failed = |e| Error::io("cannot run", &self.program, e);
        // It keeps its view of the cluster in the directory where it runs.
        let dir = tempfile::Builder::new().prefix("highline-pull-").tempdir().map_err(|e| {
            Error::io("cannot make a directory in", &std::env::temp_dir(), e)
                .remedy("set TMPDIR to one that can be written")
        })?;
        // Members hear what all of them ask for, and in containers every process may have the same number.
        let name = format!("highline-pull-{:08x}", u32::from_be_bytes(random()?));
        // This program once more, which asks to be told of this one's death and then becomes garbd.
        let mut command = Command::new("/proc/self/exe");
        command.args(["arbitrate", "--parent"]).arg(std::process::id().to_string()).arg("--").arg(&self.program);
        command.args(["--cfg", "/dev/stdin", "--name", &name]);
        command.arg(format!("--address={}", self.cluster)).arg(format!("--group={}", self.group));
        command.arg(format!("--donor={}", self.donor)).arg(format!("--options={}", self.options(limit)));
        command.current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (input, said) = (child.stdin.take(), child.stderr.take());
        let mut running = Running { child: Killed(child), heard: Arc::default(), listener: None, _dir: dir };
        let text = ticket.reveal();
        // Not in the list of processes.
        let asked = zeroize::Zeroizing::new(format!("sst=highline:{}\n", *text));
        if let Some(mut input) = input {
            input.write_all(asked.as_bytes()).map_err(failed)?;
        }
        running.listener = said.map(|said| listen(said, name, text, Arc::clone(&running.heard)));
        Ok(running)
    }

    /// A member for a second: it has no vote, remembers nothing, and is not waited for.
    fn options(&self, limit: Duration) -> String {
        let limit = limit.as_secs().saturating_add(60).min(86_400);
        let ours = [
            ("gmcast.listen_addr", format!("tcp://{}", self.listen)),
            ("pc.weight", "0".to_owned()),
            ("pc.recovery", "false".to_owned()),
            ("pc.wait_prim_timeout", format!("PT{limit}S")),
        ];
        let given = self.provider.iter().map(|(key, value)| (key.as_str(), value.clone()));
        let all: Vec<String> = given.chain(ours).map(|(key, value)| format!("{key}={value}")).collect();
        all.join(";")
    }

    fn failure(&self, heard: &Heard) -> Error {
        let (group, donor) = (Printable(self.group.as_bytes()), Printable(self.donor.as_bytes()));
        if let Some(why) = &heard.refusal {
            // Galera, `group_select_donor` (gcs_group.cpp): for now, or for good.
            return if why.contains("temporarily") {
                Error::new(Kind::Busy, format!("the donor {donor} was not ready in time: {why}")).remedy(
                    "wait until wsrep_local_state_comment there is Synced (it may be donor for another node), or name \
                     another donor",
                )
            } else {
                Error::new(Kind::Usage, format!("the cluster {group} has no donor {donor}: {why}")).remedy(
                    "give the wsrep_node_name of a node of the cluster: SELECT node_name FROM mysql.wsrep_cluster_members",
                )
            };
        }
        let error = heard.error.as_deref().unwrap_or_default();
        if heard.let_in {
            let what = format!("garbd was let into the cluster {group} and did not come to ask{}", told(error));
            return Error::new(Kind::Timeout, what)
                .remedy("see whether wsrep_cluster_status is Primary on the nodes, and what their logs say");
        }
        if !error.is_empty() && !error.contains("primary view") {
            return Error::new(Kind::Io, format!("garbd ended before it could ask the cluster {group}: {error}"))
                .remedy("try again; if it goes on, run garbd by hand with the same --address and --group");
        }
        let why = heard.connection.as_deref().unwrap_or(error);
        let why = told(why);
        let what = format!("nodes answer at {}, but none lets garbd into a cluster {group}{why}", self.cluster);
        Error::new(Kind::Untrusted, what).remedy(
            "compare --cluster-name with wsrep_cluster_name; if replication is encrypted, give socket.ssl_ca, socket.ssl_cert \
             and socket.ssl_key in --provider-options, or a node's option file as --defaults-file; the nodes' logs say why \
             they refused",
        )
    }
}

fn told(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

/// The program while it runs. Dropped, it leaves the cluster.
#[derive(Debug)]
struct Running {
    child: Killed,
    heard: Arc<Mutex<Heard>>,
    listener: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let child = &mut self.child.0;
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            let _ = ended_within(child, LEAVE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            program: "/usr/bin/garbd".into(),
            cluster: "10.0.0.1".parse().unwrap(),
            group: "lab".into(),
            donor: "node9".into(),
            provider: vec![("gmcast.segment".into(), "1".into())],
            listen: "10.0.0.9:4567".parse().unwrap(),
        }
    }

    #[test]
    fn it_has_no_vote_and_listens_where_it_is_told() {
        assert_eq!(
            request().options(Duration::from_secs(30)),
            "gmcast.segment=1;gmcast.listen_addr=tcp://10.0.0.9:4567;pc.weight=0;pc.recovery=false;pc.wait_prim_timeout=PT90S"
        );
    }

    #[test]
    fn each_failure_has_its_cause() {
        let heard = |refusal: &str, error: &str, connection: &str, let_in| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Heard { let_in, donor: None, refusal: some(refusal), error: some(error), connection: some(connection) }
        };
        for (heard, kind, says) in [
            (
                heard("Requested donor is not available", "State transfer request failed: -113", "", true),
                Kind::Usage,
                "the cluster lab has no donor node9: Requested donor is not available",
            ),
            (
                heard("No donor candidates temporarily available in suitable state", "", "", true),
                Kind::Busy,
                "the donor node9 was not ready in time: No donor candidates temporarily available in suitable state",
            ),
            (
                heard("", "failed to open gcomm backend connection: 3: Failed to set thread schedparams", "", false),
                Kind::Io,
                "garbd ended before it could ask the cluster lab: failed to open gcomm backend connection: 3: Failed to set \
                 thread schedparams",
            ),
            (
                heard(
                    "",
                    "failed to open gcomm backend connection: 110: failed to reach primary view",
                    "short read",
                    false,
                ),
                Kind::Untrusted,
                "nodes answer at gcomm://10.0.0.1, but none lets garbd into a cluster lab: short read",
            ),
            (heard("", "", "", true), Kind::Timeout, "garbd was let into the cluster lab and did not come to ask"),
        ] {
            let error = request().failure(&heard);
            assert_eq!((error.kind(), error.sentence().as_str()), (kind, says));
            assert!(error.remedy_text().is_some());
        }
    }

    #[test]
    fn a_port_that_is_taken_is_avoided() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        let _taken = TcpListener::bind((here, PORT));
        let chosen = listen_near(here).unwrap();
        assert!(chosen.port() != 0 && chosen.ip() == here && chosen.port() != PORT);
    }
}
