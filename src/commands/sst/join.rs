//! The joiner's role: announce, receive, install, tell the position.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Run, version_of};
use crate::commands::block_on;
use crate::config::{self, SOFTWARE};
use crate::error::{Error, Kind, Result};
use crate::install::OwnFile;
use crate::joiner::{self, Node, Outcome, Waiting};
use crate::progress::Reporter;
use crate::sst::address::SstAddress;
use crate::sst::args::JoinerArgs;
use crate::sst::binlog::Binlog;
use crate::sst::dialogue::{Line, Ready};
use crate::sst::marker::InProgress;
use crate::threads::lock;
use crate::tls::{Identity, Ticket};
use crate::wire::Round;

/// Where a joiner listens unless it is told otherwise, as with the server's own methods.
const PORT: u16 = 4444;
impl Run {
    pub(super) fn join(&self, joiner: &JoinerArgs) -> Result<()> {
        let (listen, advertise) = self.listen(joiner)?;
        let identity = match self.identity()? {
            Some(identity) => identity,
            None => Identity::ephemeral()?,
        };
        let order = joiner::ReceiveOptions {
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
            node: Arc::new(Joined { binlog: self.layout.binlog.clone() }),
            software: SOFTWARE.into(),
        };
        let reporter: Arc<dyn Reporter> = Arc::clone(&self.log) as _;
        let outcome = block_on(async {
            let stop = self.stop()?;
            let waiting = Waiting::bind(order, &*reporter)?;
            let marker = InProgress::create(self.layout.roots.datadir())?;
            self.announce(waiting.ticket())?;
            let outcome = waiting.receive(Arc::clone(&reporter), &stop).await;
            drop(marker);
            outcome
        })?;
        let (position, domain_id) = match outcome {
            Outcome::Bypass { position, domain } => {
                self.log.note("bypass: nothing was touched, the rest comes by IST");
                (position, domain)
            }
            Outcome::Installed(report) => {
                self.log.note(&format!("installed: {report}"));
                (report.position, report.domain)
            }
        };
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
struct Joined {
    binlog: Option<Binlog>,
}

impl Node for Joined {
    fn own_files(&self, _: &Round) -> Result<Vec<OwnFile>> {
        Ok(Vec::new())
    }

    fn installed(&self) -> Result<()> {
        self.binlog.as_ref().map_or(Ok(()), index_binlogs)
    }
}

/// Lists the binary logs that arrived, in this node's own index.
fn index_binlogs(binlog: &Binlog) -> Result<()> {
    let failed = |e| Error::io("cannot write the index of the binary logs", &binlog.index, e);
    let names = arrived(binlog).map_err(failed)?;
    let parent = binlog.index.parent().unwrap_or(Path::new("."));
    if names.is_empty() {
        match std::fs::remove_file(&binlog.index) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    } else {
        let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
        file.write_all(&binlog.index_of(&names)).map_err(failed)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
        file.as_file().set_permissions(mode).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&binlog.index).map_err(|e| failed(e.error))?;
    }
    std::fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)
}
