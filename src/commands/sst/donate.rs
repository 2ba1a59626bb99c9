//! The donor's role: send, with the server frozen at the end, and tell the server when it is done.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Run;
use super::log::Log;
use crate::backup::{Account, Backup, DataSource};
use crate::check::own::Own;
use crate::commands::block_on;
use crate::donor::{self, Keeper, Server};
use crate::error::{Error, Kind, Result, Side};
use crate::link::{Dialer, Lanes};
use crate::pace::Throttle;
use crate::position::GaleraGtid;
use crate::progress::Reporter;
use crate::sst::agreement::Agreement;
use crate::sst::args::DonorArgs;
use crate::sst::binlog::Binlog;
use crate::sst::credentials::{self, Credentials, RemoteAuth};
use crate::sst::dialogue::{Dialogue, Line};
use crate::sst::flush::{Freeze, Waiting};
use crate::sst::options::Binlogs;
use crate::sst::watch::ServerWatch;
use crate::threads::lock;
use crate::tls::{Ticket, client_config};
use crate::tree::Rules;

impl Run {
    fn dialer(&self, donor: &DonorArgs, auth: Option<RemoteAuth>) -> Result<Dialer> {
        let auth = auth.ok_or_else(|| {
            Error::new(Kind::Untrusted, "the joiner sent no ticket with its address")
                .remedy("its node must use wsrep_sst_method=highline too, and the same release")
        })?;
        let credentials = zeroize::Zeroizing::new(format!("{}:{}", auth.user(), auth.secret()));
        let ticket = Ticket::from_halves(&credentials, &donor.address.to_string())?;
        let Own { identity, trust, policy, .. } = self.own(ticket.address.host())?;
        let tls = client_config(identity.as_ref(), ticket.pin, trust.clone(), &policy)?;
        Ok(Dialer { ticket, tls, trust, deadlines: self.deadlines(), software: self.software() })
    }

    /// How a backup is made, where that is the source.
    fn backup(&self, donor: &DonorArgs, account: Option<RemoteAuth>) -> Option<Backup> {
        let settings = &self.settings.backup;
        let given = settings.account.as_deref().and_then(|text| RemoteAuth::of_pair(text));
        (settings.source == DataSource::Mariabackup).then(|| Backup {
            defaults: self.args.defaults.flags(),
            datadir: self.layout.roots.datadir().to_path_buf(),
            socket: donor.socket.clone(),
            account: account.or(given).map(|auth| Account {
                user: auth.user().to_owned(),
                password: zeroize::Zeroizing::new(auth.secret().to_owned()),
            }),
            threads: self.settings.lanes.map(Lanes::get),
            options: settings.backup_options.clone(),
            tmpdir: self.settings.tmpdir.clone(),
        })
    }

    pub(super) fn bypass(&self, donor: &DonorArgs) -> Result<()> {
        let dialer = self.dialer(donor, handed_over()?.remote)?;
        block_on(async {
            let stop = self.stop()?;
            tokio::select! {
                told = donor::bypass(&dialer, donor.gtid.clone()) => told,
                asked = stop.requested() => Err(asked),
            }
        })
        .map_err(|e| e.on(Side::Donor))?;
        lock(&self.dialogue).say(&Line::Done(&donor.gtid.position))
    }

    pub(super) fn donate(&self, donor: &DonorArgs) -> Result<()> {
        let settings = &self.settings;
        let version = self.version();
        match version.explain() {
            (true, line) => self.log.note(&line),
            (false, line) => self.log.warn(&line),
        }
        let rate = Arc::new(Throttle::new(settings.rate_limit.0, Instant::now()));
        let Credentials { remote, account } = handed_over()?;
        let order = donor::SendOptions {
            dialer: self.dialer(donor, remote)?,
            backup: self.backup(donor, account),
            roots: self.layout.roots.clone(),
            lanes: settings.lanes.unwrap_or_default().get(),
            compression: settings.compress,
            checksum: settings.checksum.0,
            rate: Arc::clone(&rate),
            freeze: settings.freeze,
            freeze_limit: settings.freeze_limit.0,
            position: Some(donor.gtid.clone()),
            server_version: version.text().map(str::to_owned),
            lower_case_table_names: Agreement::of(&self.files).lower_case_table_names,
            live: true,
            verify_pages: settings.verify_pages,
        };
        let server = Arc::new(Galera {
            dialogue: Arc::clone(&self.dialogue),
            datadir: self.layout.roots.datadir().to_path_buf(),
            deadline: settings.timeouts.lock.limit(),
            watch: Arc::clone(&self.watch),
            log: Arc::clone(&self.log),
            keep: self.settings.keep.clone(),
            own: self.layout.own.clone(),
            binlog: self.layout.binlog.clone(),
            binlogs: settings.max_binlogs,
            frozen: Mutex::new(None),
            held: AtomicBool::new(false),
        });
        let published = self.published(Some(rate));
        let sent = block_on(async {
            let stop = self.stop()?;
            donor::send(order, Arc::clone(&server) as _, Arc::clone(&published) as _, &stop).await
        });
        published.end(sent.as_ref().map(|report| report.reused_bytes));
        let report = sent?;
        self.log.note(&format!("done: {report}"));
        let frozen = lock(&server.frozen).take().map(|(_, frozen)| frozen);
        lock(&self.dialogue).say(&Line::Done(&frozen.as_ref().unwrap_or(&donor.gtid).position))
    }
}

fn handed_over() -> Result<Credentials> {
    let variable = |name| std::env::var_os(name);
    Credentials::read(std::io::stdin(), variable(credentials::VARIABLE), variable(credentials::ACCOUNT))
}

/// The donor's server, frozen and released through the dialogue.
#[derive(Debug)]
struct Galera {
    dialogue: Arc<Mutex<Dialogue<File>>>,
    datadir: PathBuf,
    deadline: Duration,
    watch: Arc<ServerWatch>,
    log: Arc<Log>,
    keep: Vec<String>,
    own: crate::tree::Own,
    binlog: Option<Binlog>,
    binlogs: Binlogs,
    frozen: Mutex<Option<(Freeze, GaleraGtid)>>,
    /// It is frozen now.
    held: AtomicBool,
}

impl Server for Galera {
    fn freeze(&self) -> Result<Option<GaleraGtid>> {
        let watch = Arc::clone(&self.watch);
        let (started, mut waiting) = (Instant::now(), Waiting::default());
        let check = || {
            if let Some(line) = waiting.line(started.elapsed(), self.deadline) {
                self.log.warn(&line);
            }
            watch.check()
        };
        let frozen = Freeze::begin(&mut *lock(&self.dialogue), &self.datadir, self.deadline, check)?;
        self.held.store(true, Ordering::Relaxed);
        self.log.note(&format!("frozen at {}", frozen.1.position));
        let told = frozen.1.clone();
        *lock(&self.frozen) = Some(frozen);
        Ok(Some(told))
    }

    fn release(&self) -> Result<()> {
        if !self.held.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        lock(&self.dialogue).say(&Line::Continue)?;
        self.log.note("released: writes continue");
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        Binlog::rules(self.binlog.as_ref(), self.binlogs, &self.keep, &self.own)
    }

    fn keeper(&self) -> Keeper {
        Keeper::Galera
    }
}
