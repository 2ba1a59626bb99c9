//! `highline sst`: one run of the method, called by the database server.
//!
//! Standard output belongs to the dialogue with the server; everything else goes to its error log.

mod donate;
mod join;
mod log;

use std::fs::File;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::backup::DataSource;
use crate::check::own::Own;
use crate::cli::SstArgs as Typed;
use crate::config::{SOFTWARE, host_name};
use crate::error::{Result, Side};
use crate::link::Deadlines;
use crate::pace::Throttle;
use crate::progress::{LogFormat, ProgressLines, Publish, Published, Reporter, ServerLog};
use crate::sst::args::{Role, SstArgs};
use crate::sst::descriptors;
use crate::sst::dialogue::Dialogue;
use crate::sst::layout::{DATA_HOME_VARIABLE, Layout};
use crate::sst::options::{OptionFiles, Settings, Tier, odd_quotes};
use crate::sst::version::ServerVersion;
use crate::sst::watch::ServerWatch;
use crate::stop::{Reason, Stop, Stopper};
use log::Log;

/// Runs the role the server asks for. A failure is reported in the format of the server's error
/// log.
pub(super) fn run(typed: &Typed) -> ExitCode {
    let mut heard = (Side::Here, LogFormat::Log);
    match play(typed, &mut heard) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (side, format) = heard;
            let error = error.on(side);
            ServerLog::new(side, format, ProgressLines::Nowhere).error(&error.report_on(side));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// `heard` becomes who speaks, and in which form, as soon as that is known.
fn play(typed: &Typed, heard: &mut (Side, LogFormat)) -> Result<()> {
    descriptors::close_inherited()?;
    let args = SstArgs::parse(typed.flags.iter().cloned())?;
    let (side, format) = (args.side(), if args.reads_levels { LogFormat::Levels } else { LogFormat::Log });
    *heard = (side, format);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o007));
    let dialogue = Arc::new(Mutex::new(Dialogue::take_stdout(side, args.progress)?));
    let files = OptionFiles::read(&args.defaults, &args.server)?;
    let settings = Settings::resolve(&files, side, &args.datadir)?;
    let log = Log::new(side, format, &settings.progress, Arc::clone(&dialogue));
    let run = Arc::new(Run {
        layout: Layout::of_server(
            &args,
            &files,
            std::env::var_os(DATA_HOME_VARIABLE).as_deref(),
            std::env::var_os("TMPDIR").as_deref(),
        )?,
        watch: Arc::new(ServerWatch::of_role(&args.role)?),
        log: Arc::new(log),
        dialogue,
        settings,
        files,
        args: args.clone(),
    });
    run.explain();
    odd_quotes(&run.files).iter().for_each(|odd| run.log.warn(odd));
    match &args.role {
        Role::Joiner(joiner) => run.join(joiner),
        Role::Donor(donor) if donor.bypass => run.bypass(donor),
        Role::Donor(donor) => run.donate(donor),
    }
}

/// What both roles need.
#[derive(Debug)]
struct Run {
    args: SstArgs,
    settings: Settings,
    files: OptionFiles,
    layout: Layout,
    watch: Arc<ServerWatch>,
    log: Arc<Log>,
    dialogue: Arc<Mutex<Dialogue<File>>>,
}

impl Run {
    /// Logs, once, where every effective setting came from.
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
        if self.settings.tmpdir.is_some() && self.settings.backup.source == DataSource::Files {
            self.log.note("tmpdir has no effect: the new data is staged on the filesystem where it will stay");
        }
    }

    /// Checked before anything else, because a joiner that fails after `ready` costs its server the position.
    fn own(&self, host: &str) -> Result<Own> {
        let own = Own::of(&self.settings.tls, self.args.side(), Some(host), SystemTime::now())?;
        own.notes.iter().for_each(|note| self.log.note(note));
        Ok(own)
    }

    /// For the peer's log, which would otherwise show only an address: `wsrep_node_name`, by default the host's name.
    fn software(&self) -> String {
        const LONGEST: usize = 64;
        let given = self.files.last(Tier::Server, "wsrep-node-name").and_then(|item| item.text().ok());
        let host = host_name();
        let name: String = given.unwrap_or(&host).chars().take(LONGEST).collect();
        format!("{SOFTWARE} on {name}")
    }

    /// The log, the status file and the metrics of this transfer.
    fn published(&self, rate: Option<Arc<Throttle>>) -> Arc<Published> {
        let (datadir, metrics) = (self.layout.roots.datadir(), self.settings.metrics.as_deref());
        Published::new(
            Arc::clone(&self.log) as _,
            Publish { datadir: Some(datadir), role: self.args.side(), metrics, rate },
        )
    }

    fn deadlines(&self) -> Deadlines {
        let timeouts = &self.settings.timeouts;
        Deadlines {
            connect: timeouts.connect.limit(),
            idle: timeouts.idle.limit(),
            arrival: timeouts.initial.0,
            ..Deadlines::default()
        }
    }

    /// Signals and the server's end, whichever comes first.
    fn stop(&self) -> Result<Stop> {
        let (stopper, stop) = Stop::on_signals()?;
        tokio::spawn(watch(Arc::clone(&self.watch), stopper));
        Ok(stop)
    }

    /// Asks this node's server for its version.
    fn version(&self) -> ServerVersion {
        let basedir = self.files.last(Tier::Server, "basedir").and_then(|item| item.value.as_deref());
        ServerVersion::of_running(self.args.server_version.as_deref(), self.watch.pid(), basedir, &self.layout.roots)
    }
}

async fn watch(server: Arc<ServerWatch>, stopper: Stopper) {
    while server.alive() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stopper.stop(Reason::ServerGone { pid: server.pid() });
}
