//! What the option files say about transfers: found, checked, and explained.
//!
//! `[highline]` uses the names of the command line; names that users of the server's own scripts have in `[sst]` and in
//! the server's groups are honoured, noted or refused, never silently ignored. If several groups set an option, the
//! more specific one wins.

mod backup;
mod files;
mod foreign;
mod keep;
mod listen;
mod lookup;
mod provider;
mod quotes;
mod tls;

use std::path::{Path, PathBuf};

pub use backup::{BackupSettings, plugins_with_keys};
pub use files::{Item, OptionFiles, Tier};
pub use listen::ListenOn;
pub use lookup::{Requested, Source};
pub use provider::{Lost, ProviderOptions, provider_pairs};
pub use quotes::odd_quotes;
pub use tls::{SslMode, TlsSettings};

use crate::donor::{Compression, FreezeMode};
use crate::error::{Error, Kind, Result, Side};
use crate::install::Reuse;
use crate::joiner::InstallMode;
use crate::link::{Lanes, Timeout};
use crate::manifest::ChecksumChoice;
use crate::pace::RateLimit;
use Tier::{Backup, Highline, Server, Sst};
use lookup::{Lookup, everywhere};

/// The checked settings of one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub tls: TlsSettings,
    /// Where to listen; the caller resolves names.
    pub listen: Option<ListenOn>,
    pub lanes: Option<Lanes>,
    pub compress: Compression,
    pub checksum: ChecksumChoice,
    pub rate_limit: RateLimit,
    pub install: InstallMode,
    pub reuse: Reuse,
    pub freeze: FreezeMode,
    pub backup: BackupSettings,
    /// By default forever: a freeze may take as long as it must.
    pub freeze_limit: Timeout,
    pub verify_pages: bool,
    pub timeouts: Timeouts,
    pub max_binlogs: Binlogs,
    /// Top-level names of the data directory that stay in addition to the usual ones: patterns of
    /// `tree::Roots`.
    pub keep: Vec<String>,
    pub progress: ProgressTo,
    /// The file for Prometheus.
    pub metrics: Option<PathBuf>,
    /// Where the server or the operator wants temporary files.
    pub tmpdir: Option<PathBuf>,
    /// Where each effective value came from, for one line of the log.
    pub sources: Vec<Source>,
    /// Options that have no effect, or not the expected one: one line of the log each.
    pub notes: Vec<String>,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// How long the donor waits to reach the joiner.
    pub connect: Timeout,
    /// How long the joiner waits for the donor.
    pub initial: Timeout,
    /// How long both wait for any progress.
    pub idle: Timeout,
    /// How long the donor waits for the server to freeze its tables.
    pub lock: Timeout,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let (initial, lock) = (Timeout::seconds(300), Timeout::seconds(300));
        Timeouts { connect: Timeout::CONNECT, initial, idle: Timeout::IDLE, lock }
    }
}

/// How many of the newest binary logs are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binlogs {
    Newest(u32),
    All,
}

impl Default for Binlogs {
    /// The same as the server's own scripts.
    fn default() -> Binlogs {
        Binlogs::Newest(1)
    }
}

/// Where progress goes, in addition to the status file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProgressTo {
    /// The error log.
    #[default]
    Log,
    Nowhere,
    /// A file or FIFO.
    File(PathBuf),
}

impl Settings {
    /// The settings for the role `side` of a node with this data directory, where relative paths start.
    ///
    /// # Errors
    /// A wrong value, or an unknown name in `[highline]`.
    pub fn resolve(files: &OptionFiles, side: Side, datadir: &Path) -> Result<Settings> {
        Self::gather(files, side, datadir).map_err(|error| error.on(side))
    }

    fn gather(files: &OptionFiles, side: Side, datadir: &Path) -> Result<Settings> {
        let (donor, joiner) = (Side::Donor, Side::Joiner);
        let look = &mut Lookup::new(files, side, datadir);
        let settings = Settings {
            tls: TlsSettings::resolve(look, side)?,
            listen: look.parsed_for(joiner, &[(Highline, "listen")], str::parse)?,
            lanes: lanes(look)?,
            compress: compression(look)?,
            checksum: look.parsed(&[(Highline, "checksum")], str::parse)?.unwrap_or_default(),
            rate_limit: look
                .parsed_for(donor, &[(Highline, "rate-limit"), (Sst, "rlimit")], str::parse)?
                .unwrap_or_default(),
            install: look.parsed_for(joiner, &[(Highline, "install")], str::parse)?.unwrap_or_default(),
            reuse: look.parsed_for(joiner, &[(Highline, "reuse")], str::parse)?.unwrap_or_default(),
            freeze: look.parsed_for(donor, &[(Highline, "freeze")], str::parse)?.unwrap_or_default(),
            backup: BackupSettings::resolve(look)?,
            freeze_limit: look.parsed_for(donor, &[(Highline, "freeze-limit")], str::parse)?.unwrap_or(Timeout(None)),
            verify_pages: look.parsed_for(donor, &[(Highline, "verify-pages")], switch)?.unwrap_or_default(),
            timeouts: timeouts(look)?,
            max_binlogs: max_binlogs(look)?,
            keep: kept(look)?,
            progress: progress(look)?,
            metrics: look.path(&[(Highline, "metrics")]),
            tmpdir: look.path(&[
                (Highline, "tmpdir"),
                (Sst, "tmpdir"),
                (Server, "wsrep-sst-tmp-dir"),
                (Backup, "tmpdir"),
            ]),
            sources: Vec::new(),
            notes: Vec::new(),
        };
        leftovers(look)?;
        let (sources, notes) = (std::mem::take(&mut look.sources), std::mem::take(&mut look.notes));
        Ok(Settings { sources, notes, ..settings })
    }
}

/// Unknown names: an error in our own group, a note in `[sst]`.
fn leftovers(look: &mut Lookup<'_>) -> Result<()> {
    if let Some(item) = look.unasked(Highline).first() {
        let error = Error::new(Kind::Usage, format!("{} is not known", item.name()));
        return Err(match look.nearest(Highline, &item.key) {
            Some(near) => error.remedy(format!("did you mean {near}?")),
            None => error.remedy("the names are those of the command line, see `highline send --help`"),
        });
    }
    for item in look.unasked(Sst) {
        let note = match (foreign::without_effect(&item.key), look.nearest(Sst, &item.key)) {
            (Some(why), _) => format!("{} has no effect: {why}", item.name()),
            (None, Some(near)) => {
                format!("WARNING: {} is not known and has no effect; did you mean {near}?", item.name())
            }
            (None, None) => format!("WARNING: {} is not known and has no effect", item.name()),
        };
        look.note(note);
    }
    // These groups also hold mariadb-backup's own options, which are not ours to judge.
    for item in look.unasked(Backup) {
        if let Some(why) = foreign::without_effect(&item.key) {
            look.note(format!("{} has no effect: {why}", item.name()));
        } else if look.knows(Sst, &item.key) {
            look.note(format!("WARNING: {} has no effect: {} counts in [sst] only", item.name(), item.key));
        }
    }
    Ok(())
}

fn lanes(look: &mut Lookup<'_>) -> Result<Option<Lanes>> {
    let own = look.parsed(&[(Highline, "lanes")], str::parse)?;
    let places = everywhere("backup-threads");
    if own.is_some() {
        look.quietly(&places);
        return Ok(own);
    }
    look.parsed(&places, |text| {
        text.parse().map(Lanes::near).map_err(|_| format!("`{text}` is not a number of threads"))
    })
}

fn compression(look: &mut Lookup<'_>) -> Result<Compression> {
    let own = look.parsed_for(Side::Donor, &[(Highline, "compress")], str::parse)?;
    let mut mapped = None;
    for key in ["decompressor", "compressor"] {
        if let Some(item) = look.quietly(&[(Sst, key)]) {
            mapped = foreign::compressor(look, item).and_then(|choice| choice.parse().ok()).or(mapped);
        }
    }
    // mariadb-backup's own compression, or one of our values.
    if let Some(item) = look.quietly(&everywhere("compress")) {
        match item.text()?.parse() {
            Ok(choice) => mapped = mapped.or(Some(choice)),
            Err(_) => look.note(format!("{}: qpress is not used; compression is chosen to suit the link", item.name())),
        }
    }
    Ok(own.or(mapped).unwrap_or_default())
}

fn timeouts(look: &mut Lookup<'_>) -> Result<Timeouts> {
    let default = Timeouts::default();
    let (donor, joiner) = (Side::Donor, Side::Joiner);
    let mut of =
        |whose, places: &[_], default| Ok::<_, Error>(look.parsed_for(whose, places, str::parse)?.unwrap_or(default));
    let connect = of(donor, &[(Highline, "connect-timeout")], default.connect)?;
    let initial = of(joiner, &[(Highline, "initial-timeout"), (Sst, "sst-initial-timeout")], default.initial)?;
    let lock = of(donor, &[(Highline, "lock-timeout")], default.lock)?;
    let idle = look.parsed(&[(Highline, "idle-timeout"), (Sst, "sst-idle-timeout")], str::parse)?;
    Ok(Timeouts { connect, initial, idle: idle.unwrap_or(default.idle), lock })
}

fn max_binlogs(look: &mut Lookup<'_>) -> Result<Binlogs> {
    let [sst, server, backup] = everywhere("sst-max-binlogs");
    let count = look.parsed_for(Side::Donor, &[(Highline, "max-binlogs"), sst, server, backup], |text| {
        match text.parse::<i32>() {
            Ok(count) => Ok(u32::try_from(count).map_or(Binlogs::All, Binlogs::Newest)),
            Err(_) => Err(format!("`{text}` is not a number; negative means all")),
        }
    })?;
    Ok(count.unwrap_or_default())
}

/// Only the names that the operator keeps.
pub fn keep(files: &OptionFiles, datadir: &Path) -> Result<Vec<String>> {
    kept(&mut Lookup::new(files, Side::Here, datadir))
}

fn kept(look: &mut Lookup<'_>) -> Result<Vec<String>> {
    let mut kept = look.parsed(&[(Highline, "keep")], keep::list)?.unwrap_or_default();
    kept.extend(look.parsed(&[(Sst, "cpat")], keep::of_cpat)?.unwrap_or_default());
    Ok(kept)
}

fn progress(look: &mut Lookup<'_>) -> Result<ProgressTo> {
    let places = [(Highline, "progress"), (Sst, "progress")];
    let to = look.parsed(&places, |text| {
        Ok(match text {
            "" | "1" | "log" => ProgressTo::Log,
            "0" | "none" => ProgressTo::Nowhere,
            path if path.contains('/') => ProgressTo::File(PathBuf::from(path)),
            _ => return Err(format!("`{text}` is none of 1, none and a path")),
        })
    })?;
    Ok(match (to, look.quietly(&places)) {
        (Some(ProgressTo::File(path)), Some(item)) => ProgressTo::File(look.path_of(item).unwrap_or(path)),
        (to, _) => to.unwrap_or_default(),
    })
}

/// A switch that may have no value.
fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "" | "1" | "on" | "yes" | "true" => Ok(true),
        "0" | "off" | "no" | "false" => Ok(false),
        _ => Err(format!("`{text}` is neither on nor off")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::files::tests::read;
    pub(in crate::sst) use super::files::tests::read_with;
    use super::*;

    fn resolve(text: &str) -> Result<Settings> {
        role(text, Side::Donor)
    }

    fn role(text: &str, side: Side) -> Result<Settings> {
        Settings::resolve(&read(text), side, Path::new("/data"))
    }

    #[test]
    fn nothing_given_is_a_complete_configuration() {
        let settings = resolve("[mysqld]\nbinlog_format=ROW\n").unwrap();
        assert_eq!(settings.timeouts, Timeouts::default());
        assert_eq!((settings.max_binlogs, settings.progress), (Binlogs::Newest(1), ProgressTo::Log));
        assert_eq!((settings.lanes, settings.compress, settings.tmpdir), (None, Compression::Auto, None));
        assert_eq!((settings.rate_limit, settings.install), (RateLimit(None), InstallMode::Auto));
        assert_eq!((settings.sources.len(), settings.notes.len()), (0, 0));
    }

    #[test]
    fn every_own_name_is_understood() {
        let settings = resolve(
            "[highline]\nlisten=:4445\nlanes=4\ncompress=zstd:3\nchecksum=SHA256\nrate_limit=200M\ninstall=staged\n\
             connect-timeout=5\ninitial-timeout=0\nidle-timeout=90s\nlock-timeout=1m\nmax-binlogs=-1\nkeep=a, *.b\nverify-pages=on\n\
             progress=/run/p\nmetrics=h.prom\ntmpdir=/t\nca=/ca\ncert=/c\nkey=/k\nssl-mode=VERIFY_IDENTITY\ncrl=/r\npeer-name=n\n\
             match-common-name=on\ntls-version=TLSv1.3\nssl-cipher=c\ncapath=/cas\n",
        )
        .unwrap();
        let seconds = Timeout::seconds;
        let timeouts = Timeouts { connect: seconds(5), initial: seconds(300), idle: seconds(90), lock: seconds(60) };
        assert_eq!(settings.timeouts, timeouts);
        assert_eq!((settings.lanes, settings.rate_limit), (Some(Lanes::near(4)), RateLimit(Some(200 << 20))));
        assert_eq!([settings.compress.to_string(), settings.checksum.to_string()], ["zstd:3", "sha256"]);
        let joiner = role("[highline]\nlisten=:4445\ninstall=staged\nreuse=off\n", Side::Joiner).unwrap();
        assert_eq!(joiner.reuse, Reuse::Off);
        assert_eq!((joiner.listen.unwrap().port, joiner.install), (Some(4445), InstallMode::Staged));
        assert_eq!((settings.max_binlogs, settings.keep), (Binlogs::All, vec!["a".into(), "*.b".to_owned()]));
        assert_eq!((settings.progress, settings.tmpdir), (ProgressTo::File("/run/p".into()), Some("/t".into())));
        assert_eq!(settings.metrics, Some("/data/h.prom".into()));
        assert!(settings.verify_pages);
        assert!(settings.tls.match_common_name && settings.notes.is_empty(), "{:?}", settings.notes);
    }

    #[test]
    fn the_names_that_users_have_are_honoured() {
        let settings = resolve(
            "[mysqld]\nsst-max-binlogs=3\nbackup_threads=100\n[sst]\nrlimit=10m\nsst-initial-timeout=60\n\
             sst-idle-timeout=0\nprogress=none\ncpat=.*\\.pem$\\|.*/x\ntmpdir=/t\ncompressor=zstd -T4 -5\n\
             decompressor=zstd -d -c\nsockopt=,cipher=C,commonname=db1,retry=30,odd\n",
        )
        .unwrap();
        assert_eq!((settings.lanes, settings.rate_limit), (Some(Lanes::near(32)), RateLimit(Some(10 << 20))));
        assert_eq!((settings.timeouts.initial, settings.timeouts.idle), (Timeout::seconds(300), Timeout(None)));
        assert_eq!((settings.progress, settings.max_binlogs), (ProgressTo::Nowhere, Binlogs::Newest(3)));
        assert_eq!(
            (settings.keep, settings.compress.to_string()),
            (vec!["*.pem".into(), "x".to_owned()], "zstd:5".into())
        );
        assert_eq!(settings.tls.peer_name.as_ref().map(|wish| wish.text.as_str()), Some("db1"));
        let source = "backup-threads=100 ([mysqld])";
        assert!(settings.sources.iter().any(|given| given.to_string() == source), "{:?}", settings.sources);
        assert!(
            settings.notes.contains(&"sockopt in [sst]: odd: WARNING: it is not understood and has no effect".into())
        );
    }

    #[test]
    fn the_more_specific_group_wins() {
        let settings = resolve(
            "[mysqld]\nbackup-threads=2\nssl-cert=/m\nssl-key=/mk\n[sst]\nbackup-threads=3\nrlimit=1m\nssl-cert=/s\n\
             ssl-key=/sk\n[highline]\nrate-limit=2m\n",
        )
        .unwrap();
        assert_eq!((settings.lanes, settings.rate_limit), (Some(Lanes::near(3)), RateLimit(Some(2 << 20))));
        let note =
            "ssl-cert in [sst] wins over ssl-cert in [mysqld]; the server's own scripts do it the other way round";
        assert!(settings.notes.iter().any(|given| given == note), "{:?}", settings.notes);
    }

    #[test]
    fn nothing_in_sst_is_passed_over_in_silence() {
        let settings = resolve(
            "[sst]\nstreamfmt=mbstream\ntransferfmt=socat\ncompress\ncompress-threads=2\nencrypt-key=s3cret\n\
             ssl-dhparams=/d\ninno-backup-opts=x\nsst-log-archive=1\ntime=1\nwsrep-sst-auth=u:p4ss\nencrypt=0\nrlimt=1m\nzzz=1\n",
        )
        .unwrap();
        assert_eq!(settings.notes.len(), 13, "{:#?}", settings.notes);
        let notes = settings.notes.join("\n");
        assert!(
            notes.contains("WARNING: rlimt in [sst] is not known and has no effect; did you mean rlimit?"),
            "{notes}"
        );
        assert!(notes.contains("WARNING: zzz in [sst] is not known and has no effect"), "{notes}");
        assert!(notes.contains("streamfmt in [sst] has no effect: there is only one stream format"), "{notes}");
        assert!(!format!("{settings:?}").contains("s3cret") && !format!("{settings:?}").contains("p4ss"));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (text, says) in [
            ("[highline]\nlane=4", "donor: lane in [highline] is not known\n  remedy: did you mean lanes?"),
            ("[highline]\nqqq=4", "donor: qqq in [highline] is not known\n  remedy: the names are"),
            ("[highline]\nlanes=0", "donor: lanes in [highline]: `0` is not a number from 1 to 32"),
            ("[highline]\ncompress=zip", "donor: compress in [highline]: `zip` is none of auto"),
            ("[highline]\nchecksum=md5", "donor: checksum in [highline]: `md5` is none of auto, sha256 and blake3"),
            ("[highline]\nrate-limit=fast", "donor: rate-limit in [highline]: `fast` is not a rate"),
            ("[highline]\nidle-timeout=soon", "donor: idle-timeout in [highline]: `soon` is not a time"),
            ("[highline]\nkeep=a/b", "donor: keep in [highline]: `a/b` contains a slash"),
            ("[sst]\nsst-max-binlogs=x", "donor: sst-max-binlogs in [sst]: `x` is not a number"),
            ("[sst]\nprogress=loud", "donor: progress in [sst]: `loud` is none of"),
            ("[sst]\ncpat=.*[a]", "donor: cpat in [sst]: `.*[a]`: `[` is not understood"),
        ] {
            let report = resolve(text).unwrap_err().report();
            assert!(report.starts_with(says), "{text}: {report}");
        }
    }

    #[test]
    fn a_role_is_not_stopped_by_what_only_the_other_needs() {
        for (whose, line) in [
            (Side::Donor, "[highline]\nrate-limit=fast"),
            (Side::Donor, "[sst]\nrlimit=fast"),
            (Side::Donor, "[highline]\ncompress=zip"),
            (Side::Donor, "[highline]\nconnect-timeout=soon"),
            (Side::Donor, "[highline]\nlock-timeout=soon"),
            (Side::Donor, "[sst]\nsst-max-binlogs=x"),
            (Side::Joiner, "[highline]\ninstall=never"),
            (Side::Joiner, "[highline]\nreuse=on"),
            (Side::Joiner, "[highline]\nlisten=a b"),
            (Side::Joiner, "[sst]\nsst-initial-timeout=soon"),
        ] {
            let other = if whose == Side::Donor { Side::Joiner } else { Side::Donor };
            let error = role(line, whose).unwrap_err().sentence();
            let notes = role(line, other).unwrap().notes;
            let note = format!("WARNING: {error}; this node cannot be a {whose} until it is corrected");
            assert_eq!(notes, [note], "{line}");
        }
    }

    #[test]
    fn unknown_compressors_stop_nobody() {
        for (line, why) in [
            ("compressor=qpress -io", "compressor in [sst]: `qpress -io` is none of zstd, lz4, gzip and pigz"),
            (
                "decompressor='sh -c \"x\"'",
                "decompressor in [sst]: `sh -c \"x\"` is more than one program with its options",
            ),
        ] {
            for side in [Side::Donor, Side::Joiner] {
                let settings = role(&format!("[sst]\n{line}"), side).unwrap();
                let [note] = settings.notes.as_slice() else { panic!("{:?}", settings.notes) };
                assert!(
                    note.starts_with(&format!("WARNING: {why}; commands from option files are never run")),
                    "{note}"
                );
                assert_eq!(settings.compress, Compression::Auto);
            }
        }
    }

    #[test]
    fn the_groups_of_mariabackup_are_honoured_or_noted() {
        let settings = resolve(
            "[mariabackup]\nencrypt=3\nssl-cert=/c\nssl-key=/k\nbackup-threads=3\nuser=u\npassword=s3cret\nparallel=4\n\
             compress\ncompress-threads=2\ntcert=/t\n[xtrabackup]\nuse-memory=1G\nbackup-threads=5\n",
        )
        .unwrap();
        assert_eq!((settings.tls.cert, settings.lanes), (Some("/c".into()), Some(Lanes::near(5))));
        assert_eq!(
            settings.notes,
            [
                "compress in [mariabackup]: qpress is not used; compression is chosen to suit the link",
                "compress-threads in [mariabackup] has no effect: every lane compresses on its own",
                "WARNING: tcert in [mariabackup] has no effect: tcert counts in [sst] only",
            ]
        );
    }

    #[test]
    fn sources_show_whole_paths() {
        let settings = resolve("[mysqld]\nssl-cert=c.pem\nssl-key=/k\n[highline]\nprogress=run/p\n").unwrap();
        let sources: Vec<String> = settings.sources.iter().map(ToString::to_string).collect();
        assert_eq!(
            sources,
            ["ssl-cert=/data/c.pem ([mysqld])", "ssl-key=/k ([mysqld])", "progress=run/p ([highline])"]
        );
        assert_eq!(settings.progress, ProgressTo::File("/data/run/p".into()));
    }

    proptest::proptest! {
        #[test]
        fn no_output_ends_the_process(
            own in "(--[a-z-]{0,14}=[ -~]{0,12}\n){0,3}",
            sst in "(--(sockopt|cpat|rlimit|compressor|encrypt|progress|tca|x)=[ -~]{0,16}\n){0,4}",
            other in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let files = OptionFiles::of_output(own.as_bytes(), sst.as_bytes(), &other);
            if let Err(error) = Settings::resolve(&files, Side::Joiner, Path::new("/d")) {
                proptest::prop_assert_eq!(error.kind(), Kind::Usage);
                proptest::prop_assert!(error.sentence().contains(" in ["), "{}", error.sentence());
            }
        }
    }
}
