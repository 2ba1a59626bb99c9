//! Turns the command line into one checked value per role. All checks across options are here.

mod pull;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::backup::{Backup, DataSource, Prepare};
use crate::cli::{DeadlineArgs, IdentityArgs, ProgressStyle, ReceiveArgs, SendArgs, TreeArgs};
use crate::donor::{self, Keeper, Unattended};
use crate::error::{Error, Kind, Result};
use crate::install::OwnFile;
use crate::joiner::{self, Facts, OldData, OlderDonor, PageSize};
use crate::link::{Deadlines, Dialer, Lanes};
use crate::pace::Throttle;
use crate::pipe::End;
use crate::position::Position;
use crate::progress::Style;
use crate::sst::binlog::Binlog;
use crate::sst::grastate::Grastate;
use crate::sst::layout::Layout;
use crate::sst::options::{self, Binlogs, OptionFiles, SslMode, Tier};
use crate::sst::server_args::Defaults;
use crate::sst::server_args::ServerArgs;
use crate::sst::version::ServerVersion;
use crate::tls::verification::peer_name;
use crate::tls::{Authorities, Identity, Policy, Ticket, Trust, client_config};
use crate::tree::{InnodbFiles, Own, Root, RootName, Roots, Rules, Scope};
use crate::wire::Round;
pub use pull::Wish;

/// This program and its version, for the peer's log.
#[cfg(not(feature = "fips"))]
pub const SOFTWARE: &str = concat!("highline ", env!("CARGO_PKG_VERSION"));
#[cfg(feature = "fips")]
pub const SOFTWARE: &str = concat!("highline ", env!("CARGO_PKG_VERSION"), " (FIPS)");

fn bad(option: &str, value: &str, want: &str) -> Error {
    Error::new(Kind::Usage, format!("--{option}: `{}` is not {want}", crate::error::Printable(value.as_bytes())))
        .remedy("see `highline help` and the command's name")
}

impl From<ProgressStyle> for Style {
    fn from(style: ProgressStyle) -> Style {
        match style {
            ProgressStyle::Auto => Style::Auto,
            ProgressStyle::Bar => Style::Bar,
            ProgressStyle::Lines => Style::Lines,
            ProgressStyle::Json => Style::Json,
            ProgressStyle::None => Style::None,
        }
    }
}

/// Where a server's files are, and which belong to this node alone, from options or an option file.
#[derive(Debug)]
pub struct Placed {
    pub roots: Roots,
    pub own: Own,
    /// The operator's names that stay: `keep` in the option file.
    pub keep: Vec<String>,
    /// Known only if there is an option file.
    pub binlog: Option<Binlog>,
    /// Where the server's clients connect, if the option file says.
    pub socket: Option<PathBuf>,
    /// Of an option file: InnoDB's own files, in order, and the options of plugins with keys.
    pub data_files: Vec<String>,
    pub plugins: Vec<(String, OsString)>,
}

impl Placed {
    /// The rules for what is sent of this tree.
    pub fn rules(&self) -> Result<Rules> {
        Binlog::rules(self.binlog.as_ref(), Binlogs::All, &self.keep, &self.own)
    }
}

/// The directories that the options name; they must exist.
pub fn placed(args: &TreeArgs) -> Result<Placed> {
    let mut paths = BTreeMap::new();
    for typed in &args.roots {
        let (name, path) = root(typed)?;
        // As typed, so relative to the current directory; an option file's paths are relative to the datadir.
        let path = std::path::absolute(&path).map_err(|e| Error::io("cannot resolve", &path, e))?;
        if args.defaults_file.is_some() && !name.as_str().starts_with("external-") {
            return Err(Error::new(Kind::Usage, format!("--root {name} and --defaults-file both say where files are"))
                .remedy("leave one of them out"));
        }
        if paths.insert(name.clone(), path).is_some() {
            let what = format!("--root: `{name}` is given twice");
            return Err(Error::new(Kind::Usage, what).remedy("leave one of them out"));
        }
    }
    let placed = match &args.defaults_file {
        None => Placed {
            roots: Roots::new(&args.datadir, &paths)?,
            own: Own::default(),
            keep: Vec::new(),
            binlog: None,
            socket: None,
            data_files: Vec::new(),
            plugins: Vec::new(),
        },
        Some(file) => {
            let defaults = Defaults::of_file(Some(file), args.defaults_group_suffix.as_ref());
            let files = OptionFiles::read(&defaults, &ServerArgs::default())?;
            let socket = files.last(Tier::Server, "socket").and_then(|item| item.value.clone());
            let mut layout = Layout::of_files(&args.datadir, &files)?;
            for (name, path) in paths {
                layout.roots.push(Root { name, path, scope: Scope::Listed, stem: None });
            }
            Placed {
                plugins: options::plugins_with_keys(&files),
                data_files: layout.innodb_data_files,
                roots: layout.roots,
                own: layout.own,
                keep: options::keep(&files, &args.datadir)?,
                binlog: layout.binlog,
                socket: socket.map(|socket| args.datadir.join(socket)),
            }
        }
    };
    for directory in placed.roots.directories() {
        let stat = std::fs::metadata(directory).map_err(|e| {
            Error::io("cannot read the directory", directory, e)
                .remedy("name the server's data directory with --datadir")
        })?;
        if !stat.is_dir() {
            return Err(Error::new(
                Kind::Usage,
                format!("{} is not a directory", crate::error::Printable::path(directory)),
            ));
        }
    }
    Ok(placed)
}

fn root(typed: &OsString) -> Result<(RootName, PathBuf)> {
    let bytes = typed.as_bytes();
    let refuse = || bad("root", &typed.to_string_lossy(), "NAME=PATH with a name such as innodb-undo");
    let equals = bytes.iter().position(|&b| b == b'=').ok_or_else(refuse)?;
    let name = std::str::from_utf8(&bytes[..equals]).ok().and_then(|name| name.parse().ok()).ok_or_else(refuse)?;
    let path = OsString::from_vec(bytes[equals + 1..].to_vec());
    if path.is_empty() { Err(refuse()) } else { Ok((name, path.into())) }
}

fn deadlines(args: &DeadlineArgs) -> Deadlines {
    Deadlines { idle: args.idle_timeout.limit(), ..Deadlines::default() }
}

fn identity(args: &IdentityArgs) -> Result<Option<Identity>> {
    let load = |cert: &PathBuf| Identity::load(cert, args.key.as_deref(), SystemTime::now());
    args.cert.as_ref().map(load).transpose()
}

/// `names` are those the peer's certificate may have, if the mode asks.
fn trust(args: &IdentityArgs, names: &[String]) -> Result<Trust> {
    let by_ca = if args.ca.is_empty() { SslMode::Required } else { SslMode::VerifyCa };
    let mode = args.ssl_mode.unwrap_or(by_ca);
    let authorities = || {
        if args.ca.is_empty() {
            return Err(Error::new(Kind::Usage, format!("--ssl-mode={mode} needs an authority"))
                .remedy("name the authority's certificate with --ca"));
        }
        Ok(Arc::new(Authorities::load(&args.ca, &args.crl)?))
    };
    Ok(match mode {
        SslMode::Unset | SslMode::Required => Trust::Pin,
        SslMode::VerifyCa => Trust::Chain(authorities()?),
        SslMode::VerifyIdentity => Trust::ChainAndName {
            authorities: authorities()?,
            names: names.iter().map(|name| peer_name(name)).collect::<Result<_>>()?,
            common_name: false,
        },
    })
}

/// The donor for `send`; `ticket` has been read already, wherever it came from.
pub fn donor(args: &SendArgs, ticket: Ticket) -> Result<(donor::SendOptions, Unattended)> {
    let tree = tree(args.tree.as_ref(), "stdin")?;
    let placed = placed(tree)?;
    let keeper = if args.live || args.source == DataSource::Mariabackup { Keeper::Caller } else { Keeper::Nobody };
    let server = Unattended { keeper, rules: placed.rules()? };
    let options = donor::SendOptions {
        dialer: dialer(args, ticket)?,
        roots: placed.roots,
        lanes: args.lanes.lanes.unwrap_or_default().get(),
        compression: args.lanes.compress,
        checksum: args.lanes.checksum.0,
        rate: rate(args),
        backup: (args.source == DataSource::Mariabackup).then(|| backup(args, tree, placed.socket)),
        freeze: args.freeze,
        freeze_limit: args.freeze_limit.and_then(|limit| limit.0),
        position: None,
        server_version: None,
        lower_case_table_names: None,
        live: args.live || args.freeze_command.is_some() || args.source == DataSource::Mariabackup,
        verify_pages: args.verify_pages,
    };
    Ok((options, server))
}

/// The data directory; it may be left out only where `other` says what moves instead.
fn tree<'a>(named: Option<&'a TreeArgs>, other: &str) -> Result<&'a TreeArgs> {
    named.ok_or_else(|| {
        Error::new(Kind::Usage, "neither a data directory nor a stream is named").remedy(format!(
            "name a server's data directory with --datadir; or a program after `--`, or --{other}, for a byte stream"
        ))
    })
}

fn rate(args: &SendArgs) -> Arc<Throttle> {
    Arc::new(Throttle::new(args.lanes.rate_limit.unwrap_or_default().0, Instant::now()))
}

fn dialer(args: &SendArgs, ticket: Ticket) -> Result<Dialer> {
    let names = match args.identity.peer_name.as_slice() {
        [] => vec![ticket.address.host().to_owned()],
        named => named.to_vec(),
    };
    let trust = trust(&args.identity, &names)?;
    let tls = client_config(identity(&args.identity)?.as_ref(), ticket.pin, trust.clone(), &Policy::default())?;
    let deadlines = Deadlines { connect: args.connect_timeout.limit(), ..deadlines(&args.deadlines) };
    Ok(Dialer { ticket, tls, trust, deadlines, software: SOFTWARE.into() })
}

/// The donor of a byte stream.
pub fn pipe_donor(args: &SendArgs, ticket: Ticket, producer: End) -> Result<donor::PipeOptions> {
    Ok(donor::PipeOptions {
        dialer: dialer(args, ticket)?,
        lanes: args.lanes.lanes.unwrap_or_default().get(),
        compression: args.lanes.compress,
        checksum: args.lanes.checksum.0,
        rate: rate(args),
        producer,
    })
}

fn backup(args: &SendArgs, tree: &TreeArgs, socket: Option<PathBuf>) -> Backup {
    Backup {
        defaults: Defaults::of_file(tree.defaults_file.as_ref(), tree.defaults_group_suffix.as_ref()).flags(),
        datadir: tree.datadir.clone(),
        socket,
        threads: args.lanes.lanes.map(Lanes::get),
        options: args.inno_backup_opts.clone().unwrap_or_default(),
        ..Backup::default()
    }
}

/// The joiner for `receive`.
pub fn joiner(args: &ReceiveArgs) -> Result<joiner::ReceiveOptions> {
    let placed = placed(tree(args.tree.as_ref(), "stdout")?)?;
    let listen = listen_address("listen", &args.listen)?;
    let roots = placed.roots;
    let older_donor = if args.force_older { OlderDonor::Told } else { OlderDonor::Refused };
    let node = Arc::new(Seeded { roots: roots.clone(), older_donor, binlog: placed.binlog });
    Ok(joiner::ReceiveOptions {
        roots,
        install: args.install,
        reuse: args.reuse,
        prepare: Prepare { data_files: placed.data_files, plugins: placed.plugins, ..Prepare::from(&args.prepare) },
        listen,
        advertise: args.advertise.clone().unwrap_or_else(|| advertised(listen)),
        identity: own_identity(args)?,
        trust: trust(&args.identity, &args.identity.peer_name)?,
        policy: Policy::default(),
        deadlines: waiting(args),
        lanes: Lanes::MAX,
        checksum: args.checksum.0,
        keep: placed.keep,
        own: placed.own,
        node,
        software: SOFTWARE.into(),
    })
}

/// The joiner of a byte stream.
pub fn pipe_joiner(args: &ReceiveArgs, consumer: End) -> Result<joiner::PipeOptions> {
    let listen = listen_address("listen", &args.listen)?;
    Ok(joiner::PipeOptions {
        listen,
        advertise: args.advertise.clone().unwrap_or_else(|| advertised(listen)),
        identity: own_identity(args)?,
        trust: trust(&args.identity, &args.identity.peer_name)?,
        policy: Policy::default(),
        deadlines: waiting(args),
        lanes: Lanes::MAX,
        checksum: args.checksum.0,
        software: SOFTWARE.into(),
        consumer,
    })
}

fn own_identity(args: &ReceiveArgs) -> Result<Identity> {
    identity(&args.identity)?.map_or_else(Identity::ephemeral, Ok)
}

fn waiting(args: &ReceiveArgs) -> Deadlines {
    Deadlines { arrival: args.initial_timeout.and_then(|time| time.0), ..deadlines(&args.deadlines) }
}

/// A node that is seeded by hand: it starts from the donor's position, by IST.
#[derive(Debug)]
struct Seeded {
    roots: Roots,
    older_donor: OlderDonor,
    /// If they are known.
    binlog: Option<Binlog>,
}

impl joiner::Node for Seeded {
    fn facts(&self) -> Facts {
        let version = ServerVersion::of_stopped(&self.roots);
        let old = Grastate::read(self.roots.datadir()).ok().flatten();
        Facts {
            server_version: version.text().map(str::to_owned),
            about_version: version.explain().1,
            page_size: InnodbFiles::of(&self.roots).page_size.map(PageSize::OfOldData),
            lower_case_table_names: None,
            old: old.map(|state| OldData {
                position: state.position,
                last_to_leave: state.safe_to_bootstrap,
                older_donor: self.older_donor,
            }),
        }
    }

    fn own_files(&self, round: &Round) -> Result<Vec<OwnFile>> {
        // An unknown position also replaces a known one, which would belong to the old data.
        let unknown = || Position::new("00000000-0000-0000-0000-000000000000", -1);
        let position = match &round.position {
            Some(gtid) => gtid.position.clone(),
            None => unknown().map_err(|e| Error::new(Kind::Usage, "grastate.dat").because(e))?,
        };
        Ok(vec![OwnFile {
            root: RootName::datadir(),
            name: Grastate::NAME.into(),
            content: Grastate::for_joiner(position).to_string().into_bytes(),
            mode: 0o660,
        }])
    }

    fn installed(&self) -> Result<()> {
        self.binlog.as_ref().map_or(Ok(()), Binlog::index_arrived)
    }

    fn spent(&self) -> &'static [&'static str] {
        &[Grastate::NAME]
    }
}

fn listen_address(option: &str, text: &str) -> Result<SocketAddr> {
    let refuse = || bad(option, text, "HOST:PORT, such as [::]:4444 or 192.0.2.1:4444");
    text.to_socket_addrs().map_err(|_| refuse())?.next().ok_or_else(refuse)
}

/// A host that a donor may reach: the address this node listens on, or else its host name.
pub fn advertised(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() { host_name() } else { listen.ip().to_string() }
}

/// This host's name (`uname(2)`).
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_verify_need_authorities() {
        let mode = |mode: &str| IdentityArgs { ssl_mode: Some(mode.parse().unwrap()), ..IdentityArgs::default() };
        assert!(matches!(trust(&IdentityArgs::default(), &[]).unwrap(), Trust::Pin));
        assert!(matches!(trust(&mode("required"), &[]).unwrap(), Trust::Pin));
        let error = trust(&mode("verify_ca"), &[]).unwrap_err();
        assert_eq!(error.sentence(), "--ssl-mode=VERIFY_CA needs an authority");
    }

    #[test]
    fn roots_are_named_once_and_exist() {
        let dir = tempfile::tempdir().unwrap();
        let args = |roots: &[&str]| TreeArgs {
            datadir: dir.path().into(),
            roots: roots.iter().map(OsString::from).collect(),
            ..TreeArgs::default()
        };
        assert!(placed(&args(&[])).is_ok());
        for (given, sentence) in [
            (&["undo"][..], "--root: `undo` is not NAME=PATH with a name such as innodb-undo"),
            (&["innodb-undo="], "--root: `innodb-undo=` is not NAME=PATH with a name such as innodb-undo"),
            (&["a=/", "a=/"], "--root: `a` is given twice"),
        ] {
            assert_eq!(placed(&args(given)).unwrap_err().sentence(), sentence);
        }
        let error = placed(&args(&["a=/nowhere"])).unwrap_err();
        assert_eq!(error.sentence(), "cannot read the directory /nowhere: No such file or directory (os error 2)");
    }

    #[test]
    fn an_address_that_is_listened_on_is_advertised() {
        assert_eq!(advertised("192.0.2.7:4444".parse().unwrap()), "192.0.2.7");
        assert!(!advertised("[::]:4444".parse().unwrap()).contains(':'));
    }
}
