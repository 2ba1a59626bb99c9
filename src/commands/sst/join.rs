//! The joiner's role: announce, receive, install, tell the position.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Run, version_of};
use crate::check::own::{Own, listen_at};
use crate::commands::block_on;
use crate::config::{self, SOFTWARE};
use crate::error::{Error, Kind, Result};
use crate::install::OwnFile;
use crate::joiner::{self, Node, Outcome, Waiting};
use crate::link::Lanes;
use crate::progress::Reporter;
use crate::sst::address::SstAddress;
use crate::sst::args::JoinerArgs;
use crate::sst::binlog::Binlog;
use crate::sst::dialogue::{Line, Ready};
use crate::sst::marker::InProgress;
use crate::threads::lock;
use crate::tls::{Identity, Ticket};
use crate::wire::Round;

impl Run {
    pub(super) fn join(&self, joiner: &JoinerArgs) -> Result<()> {
        let advertise = match joiner.address.host() {
            "" => config::advertised(SocketAddr::from(([0; 16], 0))),
            host => host.to_owned(),
        };
        let listen = listen_at(self.settings.listen.as_ref(), &advertise, joiner.address.port())?;
        let Own { identity, trust, policy, .. } = self.own(&advertise)?;
        let identity = identity.map_or_else(Identity::ephemeral, Ok)?;
        let order = joiner::ReceiveOptions {
            roots: self.layout.roots.clone(),
            keep: self.keep(),
            install: self.settings.install,
            listen,
            advertise,
            identity,
            trust,
            policy,
            deadlines: self.deadlines(),
            lanes: self.settings.lanes.map_or(Lanes::MAX, Lanes::get),
            checksum: self.settings.checksum.0,
            server_version: self.version_of_server(),
            node: Arc::new(Joined),
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
        let position = match outcome {
            Outcome::Bypass(position) => {
                self.log.note("bypass: nothing was touched, the rest comes by IST");
                position
            }
            Outcome::Installed(report) => {
                self.index_binlogs()?;
                self.log.note(&format!("installed: {report}"));
                report.position
            }
        };
        let position = position.ok_or_else(|| Error::new(Kind::Protocol, "the donor told no position"))?;
        lock(&self.dialogue).say(&Line::Position(&position))
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
    fn own_files(&self, _: &Round) -> Result<Vec<OwnFile>> {
        Ok(Vec::new())
    }
}
