//! The joiner's role: announce the address, receive, install, report the position.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Run;
use crate::backup::Prepare;
use crate::check::own::{Own, listen_at};
use crate::commands::block_on;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::install::OwnFile;
use crate::joiner::{self, Facts, Node, OldData, OlderDonor, Outcome, PageSize, Waiting};
use crate::link::Lanes;
use crate::position::Position;
use crate::progress::Reporter;
use crate::sst::address::SstAddress;
use crate::sst::agreement::Agreement;
use crate::sst::args::JoinerArgs;
use crate::sst::binlog::Binlog;
use crate::sst::dialogue::{Line, Ready};
use crate::sst::grastate::Grastate;
use crate::sst::marker::InProgress;
use crate::threads::lock;
use crate::tls::Identity;
use crate::wire::Round;

impl Run {
    pub(super) fn join(self: &Arc<Self>, joiner: &JoinerArgs) -> Result<()> {
        let advertise = match joiner.address.host() {
            "" => config::advertised(SocketAddr::from(([0; 16], 0))),
            host => host.to_owned(),
        };
        let listen = listen_at(self.settings.listen.as_ref(), &advertise, joiner.address.port())?;
        let Own { identity, trust, policy, .. } = self.own(&advertise)?;
        let identity = identity.map_or_else(Identity::ephemeral, Ok)?;
        let order = joiner::ReceiveOptions {
            roots: self.layout.roots.clone(),
            keep: self.settings.keep.clone(),
            own: self.layout.own.clone(),
            install: self.settings.install,
            reuse: self.settings.reuse,
            prepare: Prepare {
                data_files: self.layout.innodb_data_files.clone(),
                ..self.settings.backup.prepare.clone()
            },
            listen,
            advertise,
            identity,
            trust,
            policy,
            deadlines: self.deadlines(),
            lanes: self.settings.lanes.map_or(Lanes::MAX, Lanes::get),
            checksum: self.settings.checksum.0,
            node: Arc::new(Joined { run: Arc::clone(self), old: self.old_data() }),
            software: self.software(),
        };
        let outcome = block_on(async {
            let stop = self.stop()?;
            let waiting = Waiting::bind(order, &*self.log)?;
            let published = self.published(None);
            let received = async {
                let _marker = InProgress::create(self.layout.roots.datadir())?;
                self.announce(&waiting)?;
                waiting.receive(Arc::clone(&published) as _, &stop).await
            };
            let outcome = received.await;
            published.end(outcome.as_ref().map(Outcome::reused));
            outcome
        })?;
        let position = match outcome {
            Outcome::Bypass(position) => {
                self.log.note("bypass: nothing was changed, the rest comes by IST");
                position
            }
            Outcome::Installed(report) => {
                self.log.note(&format!("installed: {report}"));
                report.position
            }
        };
        let position = position.ok_or_else(|| Error::new(Kind::Protocol, "the donor did not send a position"))?;
        lock(&self.dialogue).say(&Line::Position(&position))
    }

    fn announce(&self, waiting: &Waiting) -> Result<()> {
        let ticket = waiting.ticket();
        let text = ticket.reveal();
        let credentials = text.split_once('@').and_then(|(credentials, _)| credentials.split_once(':'));
        let address = SstAddress::new(ticket.address.host(), ticket.address.port(), &["highline", "1"])?;
        lock(&self.dialogue).say(&Line::Ready(&Ready::new(credentials, address)?))?;
        self.log.note(&format!("waiting for the donor at {}", waiting.place()));
        Ok(())
    }

    /// The position of this node's own data. Read before `ready`, because the provider then resets `grastate.dat`.
    /// While the server runs its `seqno` is -1 anyway, so the position the server was started with comes first.
    fn old_data(&self) -> Option<OldData> {
        let state = Grastate::read(self.layout.roots.datadir()).ok().flatten();
        let started = self.args.server.value("wsrep-start-position").and_then(|text| text.to_str()?.parse().ok());
        let started = started.filter(Position::is_known);
        let last_to_leave = state.as_ref().is_some_and(|state| state.safe_to_bootstrap);
        let position = started.or(state.map(|state| state.position))?;
        Some(OldData { position, last_to_leave, older_donor: OlderDonor::Told })
    }
}

/// A joiner whose server is running: Galera keeps its state itself.
#[derive(Debug)]
struct Joined {
    run: Arc<Run>,
    old: Option<OldData>,
}

impl Node for Joined {
    fn facts(&self) -> Facts {
        let version = self.run.version();
        let Agreement { page_size, lower_case_table_names } = Agreement::of(&self.run.files);
        Facts {
            server_version: version.text().map(str::to_owned),
            about_version: version.explain().1,
            page_size: page_size.map(PageSize::Configured),
            lower_case_table_names,
            old: self.old.clone(),
        }
    }

    fn own_files(&self, _: &Round) -> Result<Vec<OwnFile>> {
        Ok(Vec::new())
    }

    fn needs_position(&self) -> bool {
        true
    }

    fn installed(&self) -> Result<()> {
        self.run.layout.binlog.as_ref().map_or(Ok(()), Binlog::index_arrived)
    }
}
