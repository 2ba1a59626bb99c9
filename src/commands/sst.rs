//! `highline sst`: one run of the method, as the database server asks for it.
//!
//! Standard output belongs to the dialogue with the server; everything else goes to its error log.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use super::block_on;
use crate::cli::SstArgs as Typed;
use crate::config::{self, SOFTWARE};
use crate::donor::{self, Server};
use crate::error::{Error, Kind, Result, Side};
use crate::install::OwnFile;
use crate::joiner::{self, Node, Outcome, Waiting};
use crate::link::{Deadlines, Dialler};
use crate::progress::{ProgressLines, Reporter, ServerLog, Snapshot, bytes};
use crate::sst::address::SstAddress;
use crate::sst::args::{DonorArgs, JoinerArgs, Role, SstArgs};
use crate::sst::binlog::Binlog;
use crate::sst::credentials::{self, RemoteAuth};
use crate::sst::descriptors;
use crate::sst::dialogue::{Dialogue, Line, Ready};
use crate::sst::flush::{Freeze, Frozen};
use crate::sst::layout::{DATA_HOME_VARIABLE, Layout};
use crate::sst::marker::InProgress;
use crate::sst::options::{Binlogs, OptionFiles, ProgressTo, Settings, SslMode, Tier};
use crate::sst::watch::ServerWatch;
use crate::stop::{Reason, Stop, Stopper};
use crate::tls::verification::peer_name;
use crate::tls::{Authorities, Identity, Policy, Ticket, Trust, client_config};
use crate::tree::Rules;
use crate::wire::Offer;

/// Where a joiner listens unless it is told otherwise, as with the server's own methods.
const PORT: u16 = 4444;

/// Runs the role that the server asks for. A failure is told in the form of the server's error log.
pub(super) fn run(typed: &Typed) -> ExitCode {
    let mut side = Side::Here;
    match play(typed, &mut side) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = error.on(side);
            ServerLog::new(side, ProgressLines::Nowhere).error(&error.report());
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn play(typed: &Typed, side: &mut Side) -> Result<()> {
    descriptors::close_inherited()?;
    let args = SstArgs::parse(typed.flags.iter().cloned())?;
    *side = args.side();
    let side = *side;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o007));
    let dialogue = Arc::new(Mutex::new(Dialogue::take_stdout(side, args.progress)?));
    let files = OptionFiles::read(&args.defaults, &args.server)?;
    let settings = Settings::resolve(&files, side)?;
    let log =
        Log { lines: ServerLog::new(side, settings.progress != ProgressTo::Nowhere), dialogue: Arc::clone(&dialogue) };
    let run = Run {
        layout: Layout::of_server(&args, &files, std::env::var_os(DATA_HOME_VARIABLE).as_deref())?,
        watch: Arc::new(ServerWatch::of_role(&args.role)?),
        log: Arc::new(log),
        dialogue,
        settings,
        args: args.clone(),
    };
    run.explain();
    match &args.role {
        Role::Joiner(joiner) => run.join(joiner),
        Role::Donor(donor) if donor.bypass => run.bypass(donor),
        Role::Donor(donor) => run.donate(donor),
    }
}

/// What both roles have.
#[derive(Debug)]
struct Run {
    args: SstArgs,
    settings: Settings,
    layout: Layout,
    watch: Arc<ServerWatch>,
    log: Arc<Log>,
    dialogue: Arc<Mutex<Dialogue<File>>>,
}

/// The error log, and the progress that the server itself may have asked for.
#[derive(Debug)]
struct Log {
    lines: ServerLog,
    dialogue: Arc<Mutex<Dialogue<File>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}

impl Reporter for Log {
    fn note(&self, line: &str) {
        self.lines.note(line);
    }

    fn warn(&self, line: &str) {
        self.lines.warn(line);
    }

    fn progress(&self, now: &Snapshot) {
        self.lines.progress(now);
        let mut dialogue = lock(&self.dialogue);
        // Only where the server asked; a server that is gone is noticed by the watch.
        let _ = dialogue.say(&Line::Total(now.total)).and_then(|()| dialogue.say(&Line::Complete(now.done)));
    }

    fn interval(&self) -> Duration {
        self.lines.interval()
    }
}

impl Run {
    /// Once, where every effective setting came from.
    fn explain(&self) {
        let role = match &self.args.role {
            Role::Joiner(_) => "joiner",
            Role::Donor(donor) if donor.bypass => "donor, bypass: the rest comes by IST",
            Role::Donor(_) => "donor",
        };
        let sources: Vec<String> = self.settings.sources.iter().map(ToString::to_string).collect();
        let sources = if sources.is_empty() { "no option is set".to_owned() } else { sources.join(", ") };
        self.log.note(&format!("{SOFTWARE} starts as {role}; {sources}"));
        self.settings.notes.iter().for_each(|note| self.log.note(note));
    }

    fn deadlines(&self) -> Deadlines {
        let timeouts = &self.settings.timeouts;
        let never = Duration::from_secs(365 * 24 * 3600);
        Deadlines {
            connect: timeouts.connect.unwrap_or(never),
            idle: timeouts.idle.unwrap_or(never),
            arrival: timeouts.initial,
            ..Deadlines::default()
        }
    }

    /// Signals and the server's end, whichever comes first.
    fn stop(&self) -> Result<Stop> {
        let (stopper, stop) =
            Stop::on_signals().map_err(|e| Error::new(Kind::Io, "cannot watch for signals").because(e))?;
        tokio::spawn(watch(Arc::clone(&self.watch), stopper));
        Ok(stop)
    }

    /// This node's certificate: the configured one, or none where it is of no consequence.
    fn identity(&self) -> Result<Option<Identity>> {
        let tls = &self.settings.tls;
        let Some(cert) = &tls.cert else { return Ok(None) };
        match Identity::load(cert, tls.key.as_deref(), SystemTime::now()) {
            Ok(identity) => Ok(Some(identity)),
            // Pin and proof need no certificate of the server's.
            Err(error) if matches!(tls.mode, SslMode::Unset | SslMode::Required) => {
                self.log.note(&format!("not used, for ssl-mode does not ask for it: {}", error.sentence()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// `names` are whom the peer's certificate may be for.
    fn trust(&self, names: &[String]) -> Result<Trust> {
        let tls = &self.settings.tls;
        let authorities = || {
            let paths: Vec<PathBuf> = tls.ca.iter().chain(&tls.capath).cloned().collect();
            Ok::<_, Error>(Arc::new(Authorities::load(&paths, &tls.crls)?))
        };
        Ok(match tls.mode {
            SslMode::Unset | SslMode::Required => Trust::Pin,
            SslMode::VerifyCa => Trust::Chain(authorities()?),
            SslMode::VerifyIdentity if names.is_empty() => Trust::Chain(authorities()?),
            SslMode::VerifyIdentity => Trust::ChainAndName {
                authorities: authorities()?,
                names: names.iter().map(|name| peer_name(name)).collect::<Result<_>>()?,
                common_name: tls.match_common_name,
            },
        })
    }

    /// What the server's own groups say about client connections does not bind a transfer.
    fn policy(&self) -> Result<Policy> {
        let tls = &self.settings.tls;
        let text = |wish: &Option<crate::sst::options::Wish>| wish.as_ref().map(|wish| wish.text.clone());
        match Policy::parse(text(&tls.versions).as_deref(), text(&tls.ciphers).as_deref()) {
            Ok(policy) => {
                policy.notes().iter().for_each(|note| self.log.note(note));
                Ok(policy)
            }
            Err(error) => {
                let servers =
                    |wish: &Option<crate::sst::options::Wish>| wish.as_ref().is_none_or(|w| w.tier == Tier::Server);
                if servers(&tls.versions) && servers(&tls.ciphers) {
                    self.log.note(&format!("not applied to transfers: {}", error.sentence()));
                    return Ok(Policy::default());
                }
                Err(error)
            }
        }
    }

    fn keep(&self) -> Vec<String> {
        self.layout.keep.iter().chain(&self.settings.keep).cloned().collect()
    }

    fn join(&self, joiner: &JoinerArgs) -> Result<()> {
        let marker = InProgress::create(self.layout.roots.datadir())?;
        let (listen, advertise) = self.listen(joiner)?;
        let identity = match self.identity()? {
            Some(identity) => identity,
            None => Identity::ephemeral()?,
        };
        let order = joiner::Order {
            roots: self.layout.roots.clone(),
            keep: self.keep(),
            install: config::install_mode(self.settings.install.as_deref().unwrap_or("auto"))?,
            listen,
            advertise,
            identity,
            trust: self.trust(self.settings.tls.peer_name.as_slice())?,
            policy: self.policy()?,
            deadlines: self.deadlines(),
            lanes: self.settings.lanes.unwrap_or(config::MAX_LANES),
            checksum: config::checksum(self.settings.checksum.as_deref().unwrap_or("auto"))?,
            server_version: self.version_of_server(),
            node: Arc::new(Joined),
            software: SOFTWARE.into(),
        };
        let reporter: Arc<dyn Reporter> = Arc::clone(&self.log) as _;
        let outcome = block_on(async {
            let stop = self.stop()?;
            let waiting = Waiting::bind(order, &*reporter)?;
            self.announce(waiting.ticket())?;
            waiting.receive(Arc::clone(&reporter), &stop).await
        })?;
        let (position, domain_id) = match outcome {
            Outcome::Bypass { position, domain } => {
                self.log.note("bypass: nothing was touched, the rest comes by IST");
                (position, domain)
            }
            Outcome::Installed(report) => {
                self.index_binlogs()?;
                self.log.note(&format!(
                    "installed: {} in {} entries, {} on the wire, {:.1} s, of these {:.1} s for disk and switch",
                    bytes(report.bytes),
                    report.entries,
                    bytes(report.wire_bytes),
                    report.seconds,
                    report.install_seconds,
                ));
                (report.position, report.domain)
            }
        };
        drop(marker);
        let position = position.ok_or_else(|| Error::new(Kind::Protocol, "the donor told no position"))?;
        lock(&self.dialogue).say(&Line::Position { position: &position, domain_id })
    }

    /// Where to listen, and the host that the donor is told.
    fn listen(&self, joiner: &JoinerArgs) -> Result<(SocketAddr, String)> {
        let (mut host, mut port) = (joiner.address.host().to_owned(), joiner.address.port().unwrap_or(PORT));
        let bad = |text: &str| Error::new(Kind::Usage, format!("listen in [highline]: `{text}` is not HOST:PORT"));
        if let Some(text) = &self.settings.listen {
            let (own, number) = match text.rsplit_once(':') {
                Some((own, number)) if !own.contains(':') || own.ends_with(']') => {
                    (own, number.parse().map_err(|_| bad(text))?)
                }
                _ => (text.as_str(), port),
            };
            port = number;
            if !own.is_empty() {
                let bare = own.trim_start_matches('[').trim_end_matches(']');
                let address =
                    (bare, port).to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(|| bad(text))?;
                return Ok((address, host));
            }
        }
        if host.is_empty() {
            host = config::advertised(SocketAddr::from(([0; 16], 0)));
        }
        // The announced address where it is one of this host's; any, where it is a name or lies behind NAT.
        let local = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
        let local = local.filter(|address| std::net::UdpSocket::bind((address.ip(), 0)).is_ok());
        Ok((local.unwrap_or(SocketAddr::from(([0u16; 8], port))), host))
    }

    fn announce(&self, ticket: &Ticket) -> Result<()> {
        let text = ticket.reveal();
        let credentials = text.split_once('@').and_then(|(credentials, _)| credentials.split_once(':'));
        let address = SstAddress::new(ticket.address.host(), ticket.address.port(), &["highline", "1"])?;
        lock(&self.dialogue).say(&Line::Ready(&Ready::new(credentials, address)?))?;
        self.log.note(&format!("waiting for the donor at {}", ticket.address));
        Ok(())
    }

    /// Asks this node's server for its version, beside the wait for the donor.
    fn version_of_server(&self) -> Option<std::thread::JoinHandle<Option<String>>> {
        if let Some(told) = self.args.server_version.clone() {
            return Some(std::thread::spawn(move || Some(told)));
        }
        let program = PathBuf::from(format!("/proc/{}/exe", self.watch.pid()));
        Some(std::thread::spawn(move || version_of(&program)))
    }

    /// Lists the binary logs that arrived, in this node's own index.
    fn index_binlogs(&self) -> Result<()> {
        let Some(binlog) = &self.layout.binlog else { return Ok(()) };
        let failed = |e| Error::io("cannot write the index of the binary logs", &binlog.index, e);
        let names = arrived(binlog).map_err(failed)?;
        if names.is_empty() {
            return match std::fs::remove_file(&binlog.index) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let parent = binlog.index.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
        file.write_all(&binlog.index_of(&names)).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
        file.as_file().set_permissions(mode).map_err(failed)?;
        file.persist(&binlog.index).map_err(|e| failed(e.error))?;
        Ok(())
    }

    fn dialler(&self, donor: &DonorArgs) -> Result<Dialler> {
        let auth = RemoteAuth::read(std::io::stdin(), std::env::var_os(credentials::VARIABLE))?.ok_or_else(|| {
            Error::new(Kind::Untrusted, "the joiner sent no ticket with its address")
                .remedy("its node must use wsrep_sst_method=highline too, of the same release")
        })?;
        let credentials = zeroize::Zeroizing::new(format!("{}:{}", auth.user(), auth.secret()));
        let ticket = Ticket::from_halves(&credentials, &donor.address.to_string())?;
        let names = match &self.settings.tls.peer_name {
            Some(name) => name.clone(),
            None => ticket.address.host().to_owned(),
        };
        let trust = self.trust(&[names])?;
        let tls = client_config(self.identity()?.as_ref(), ticket.pin, trust.clone(), &self.policy()?)?;
        Ok(Dialler { ticket, tls, trust, deadlines: self.deadlines(), software: SOFTWARE.into() })
    }

    fn bypass(&self, donor: &DonorArgs) -> Result<()> {
        let dialler = self.dialler(donor)?;
        block_on(async {
            let stop = self.stop()?;
            tokio::select! {
                told = donor::bypass(&dialler, donor.gtid.clone(), donor.gtid_domain_id) => told,
                asked = stop.requested() => Err(asked),
            }
        })
        .map_err(|e| e.on(Side::Donor))?;
        lock(&self.dialogue).say(&Line::Done(&donor.gtid))
    }

    fn donate(&self, donor: &DonorArgs) -> Result<()> {
        let settings = &self.settings;
        let order = donor::Order {
            dialler: self.dialler(donor)?,
            roots: self.layout.roots.clone(),
            lanes: config::lanes(settings.lanes)?,
            compression: settings
                .compress
                .as_deref()
                .unwrap_or("auto")
                .parse()
                .map_err(|e| Error::new(Kind::Usage, "compress in [highline]").because(e))?,
            checksum: config::checksum(settings.checksum.as_deref().unwrap_or("auto"))?,
            rate: settings.rate_limit,
            position: Some(donor.gtid.clone()),
            domain: donor.gtid_domain_id,
            server_version: self
                .args
                .server_version
                .clone()
                .or_else(|| version_of(&PathBuf::from(format!("/proc/{}/exe", self.watch.pid())))),
        };
        let server = Arc::new(Galera {
            dialogue: Arc::clone(&self.dialogue),
            datadir: self.layout.roots.datadir().to_path_buf(),
            deadline: settings.timeouts.lock.unwrap_or(Duration::from_secs(86_400)),
            watch: Arc::clone(&self.watch),
            log: Arc::clone(&self.log),
            keep: self.keep(),
            binlog: self.layout.binlog.clone(),
            binlogs: settings.max_binlogs,
            frozen: Mutex::new(None),
        });
        let reporter: Arc<dyn Reporter> = Arc::clone(&self.log) as _;
        let report = block_on(async {
            let stop = self.stop()?;
            donor::send(order, Arc::clone(&server) as _, reporter, &stop).await
        })?;
        self.log.note(&format!(
            "done: {} in {} entries, {} on the wire, {:.1} s, of these {:.1} s under the lock; {} lanes, {}, compression {}",
            bytes(report.bytes),
            report.entries,
            bytes(report.wire_bytes),
            report.seconds,
            report.frozen_seconds,
            report.lanes,
            report.checksum,
            report.compression,
        ));
        let frozen = lock(&server.frozen).take().map(|(_, frozen)| frozen.position);
        lock(&self.dialogue).say(&Line::Done(frozen.as_ref().unwrap_or(&donor.gtid)))
    }
}

async fn watch(server: Arc<ServerWatch>, stopper: Stopper) {
    while server.alive() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stopper.stop(Reason::ServerGone { pid: server.pid() });
}

/// `10.11.19-MariaDB` out of `mariadbd  Ver 10.11.19-MariaDB-… for …`.
fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_whitespace().skip_while(|word| *word != "Ver").nth(1)?;
    Some(version.chars().filter(char::is_ascii_graphic).take(64).collect())
}

fn arrived(binlog: &Binlog) -> std::io::Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(&binlog.directory)?
        .filter_map(|item| item.ok()?.file_name().into_string().ok())
        .filter(|name| crate::tree::matches(&format!("{}.#", binlog.base), name.as_bytes()))
        .collect();
    names.sort();
    Ok(names)
}

/// A node under a running server: Galera keeps its state itself.
#[derive(Debug)]
struct Joined;

impl Node for Joined {
    fn own_files(&self, _: &Offer) -> Result<Vec<OwnFile>> {
        Ok(Vec::new())
    }
}

/// The donor's server, frozen and thawed through the dialogue.
#[derive(Debug)]
struct Galera {
    dialogue: Arc<Mutex<Dialogue<File>>>,
    datadir: PathBuf,
    deadline: Duration,
    watch: Arc<ServerWatch>,
    log: Arc<Log>,
    keep: Vec<String>,
    binlog: Option<Binlog>,
    binlogs: Binlogs,
    frozen: Mutex<Option<(Freeze, Frozen)>>,
}

impl Server for Galera {
    fn freeze(&self) -> Result<()> {
        let watch = Arc::clone(&self.watch);
        let frozen = Freeze::begin(&mut *lock(&self.dialogue), &self.datadir, self.deadline, || watch.check())?;
        self.log.note(&format!("frozen at {}", frozen.1.position));
        *lock(&self.frozen) = Some(frozen);
        Ok(())
    }

    fn release(&self) -> Result<()> {
        lock(&self.dialogue).say(&Line::Continue)?;
        self.log.note("released: every chunk has arrived");
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        let rules = Rules::new(self.keep.clone());
        match &self.binlog {
            Some(binlog) => Ok(rules.with_binlogs(binlog.newest(self.binlogs)?)),
            None => Ok(rules),
        }
    }
}
