//! What was typed means this: one checked value a role. Every cross-check of options is here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cli::{DeadlineArgs, IdentityArgs, LaneArgs, ProgressStyle, ReceiveArgs, SendArgs, TreeArgs};
use crate::donor::{self, Compression};
use crate::error::{Error, Kind, Result};
use crate::install::OwnFile;
use crate::joiner::{self, Facts, InstallMode, OldData, OlderDonor, PageSize};
use crate::link::{Deadlines, Dialer};
use crate::manifest::Checksum;
use crate::position::Position;
use crate::progress::Style;
use crate::sst::grastate::Grastate;
use crate::sst::version::ServerVersion;
use crate::tls::verification::peer_name;
use crate::tls::{Authorities, Identity, Policy, Ticket, Trust, client_config};
use crate::tree::{InnodbFiles, RootName, Roots};
use crate::wire::Round;

/// This program, as the peer's log names it.
#[cfg(not(feature = "fips"))]
pub const SOFTWARE: &str = concat!("highline ", env!("CARGO_PKG_VERSION"));
#[cfg(feature = "fips")]
pub const SOFTWARE: &str = concat!("highline ", env!("CARGO_PKG_VERSION"), " (FIPS)");

/// The most lanes that either side opens: each has a few MiB in hand on both, and 256 are the bound.
pub const MAX_LANES: u16 = 32;

fn bad(option: &str, value: &str, want: &str) -> Error {
    Error::new(Kind::Usage, format!("--{option}: `{}` is not {want}", crate::error::Printable(value.as_bytes())))
        .remedy("see `highline help` and the command's name")
}

/// `200M`: bytes, with an optional unit k, M, G or T, a power of 1024.
pub fn byte_count(option: &str, text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => 64,
    };
    let number = digits.parse::<u64>().ok().filter(|_| shift < 64);
    let count = number.and_then(|n| n.checked_mul(1 << (shift % 64))).filter(|&n| n > 0);
    count.ok_or_else(|| bad(option, text, "a number of bytes such as 200M"))
}

/// `30`, `30s`, `5min`, `2h`: at least a second, at most a hundred days.
pub fn duration(option: &str, text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let seconds = digits.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    let seconds = seconds.filter(|s| (1..=8_640_000).contains(s));
    seconds.map(Duration::from_secs).ok_or_else(|| bad(option, text, "a time such as 30s, 5min or 2h"))
}

pub fn checksum(text: &str) -> Result<Option<Checksum>> {
    match text {
        "auto" => Ok(None),
        "sha256" => Ok(Some(Checksum::Sha256)),
        "blake3" => Ok(Some(Checksum::Blake3)),
        _ => Err(bad("checksum", text, "auto, sha256 or blake3")),
    }
}

pub fn install_mode(text: &str) -> Result<InstallMode> {
    match text {
        "auto" => Ok(InstallMode::Auto),
        "staged" => Ok(InstallMode::Staged),
        "inplace" => Ok(InstallMode::InPlace),
        _ => Err(bad("install", text, "auto, staged or inplace")),
    }
}

/// By default 8 to 16: as many as cores, and no fewer than 8, because a lane waits now for the disk and now for
/// the link.
pub fn lanes(typed: Option<u16>) -> Result<u16> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    match typed {
        None => Ok(cores.clamp(8, 16) as u16),
        Some(count) if (1..=MAX_LANES).contains(&count) => Ok(count),
        Some(count) => Err(bad("lanes", &count.to_string(), "a number from 1 to 32")),
    }
}

/// The lanes' options, checked: number, compression, checksum, bytes a second.
pub fn lane_options(args: &LaneArgs) -> Result<(u16, Compression, Option<Checksum>, Option<u64>)> {
    let compression = args.compress.parse();
    let compression =
        compression.map_err(|_| bad("compress", &args.compress, "auto, none, lz4, zstd or zstd:1 to zstd:19"))?;
    let rate = args.rate_limit.as_deref().map(|text| byte_count("rate-limit", text)).transpose()?;
    Ok((lanes(args.lanes)?, compression, checksum(&args.checksum)?, rate))
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

/// The roots that the options name; the data directory must be one, the others too.
pub fn roots(args: &TreeArgs) -> Result<Roots> {
    let mut paths = BTreeMap::new();
    for typed in &args.roots {
        let (name, path) = root(typed)?;
        // As typed, so relative to where it was typed; an option file's paths are relative to the datadir.
        let path = std::path::absolute(&path).map_err(|e| Error::io("cannot resolve", &path, e))?;
        if paths.insert(name.clone(), path).is_some() {
            return Err(bad("root", name.as_str(), "named once only"));
        }
    }
    let roots = Roots::new(&args.datadir, &paths)?;
    for directory in roots.directories() {
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
    Ok(roots)
}

fn root(typed: &OsString) -> Result<(RootName, PathBuf)> {
    let bytes = typed.as_bytes();
    let refuse = || bad("root", &typed.to_string_lossy(), "NAME=PATH with a name such as innodb-undo");
    let equals = bytes.iter().position(|&b| b == b'=').ok_or_else(refuse)?;
    let name = std::str::from_utf8(&bytes[..equals]).ok().and_then(|name| name.parse().ok()).ok_or_else(refuse)?;
    let path = OsString::from_vec(bytes[equals + 1..].to_vec());
    if path.is_empty() { Err(refuse()) } else { Ok((name, path.into())) }
}

fn deadlines(args: &DeadlineArgs) -> Result<Deadlines> {
    Ok(Deadlines {
        connect: duration("connect-timeout", &args.connect_timeout)?,
        idle: duration("idle-timeout", &args.idle_timeout)?,
        ..Deadlines::default()
    })
}

fn identity(args: &IdentityArgs) -> Result<Option<Identity>> {
    let load = |cert: &PathBuf| Identity::load(cert, args.key.as_deref(), SystemTime::now());
    args.cert.as_ref().map(load).transpose()
}

/// `names` are whom the peer's certificate may be for, where the mode asks.
fn trust(args: &IdentityArgs, names: &[String]) -> Result<Trust> {
    let mode = match (&args.ssl_mode, args.ca.is_empty()) {
        (None, true) => "REQUIRED".to_owned(),
        (None, false) => "VERIFY_CA".to_owned(),
        (Some(mode), _) => mode.to_ascii_uppercase().replace('-', "_"),
    };
    let authorities = || {
        if args.ca.is_empty() {
            return Err(Error::new(Kind::Usage, format!("--ssl-mode={mode} needs an authority"))
                .remedy("name the authority's certificate with --ca"));
        }
        Ok(Arc::new(Authorities::load(&args.ca, &args.crl)?))
    };
    match mode.as_str() {
        "REQUIRED" => Ok(Trust::Pin),
        "VERIFY_CA" => Ok(Trust::Chain(authorities()?)),
        "VERIFY_IDENTITY" => Ok(Trust::ChainAndName {
            authorities: authorities()?,
            names: names.iter().map(|name| peer_name(name)).collect::<Result<_>>()?,
            common_name: false,
        }),
        "DISABLED" => Err(Error::new(Kind::Usage, "--ssl-mode=DISABLED: Highline has no mode without encryption")
            .remedy("leave --ssl-mode away: no certificates are needed")),
        _ => Err(bad("ssl-mode", &mode, "REQUIRED, VERIFY_CA or VERIFY_IDENTITY")),
    }
}

/// The donor that `send` is asked to be; `ticket` has been read from wherever it came.
pub fn donor(args: &SendArgs, ticket: Ticket) -> Result<donor::SendOptions> {
    let (lanes, compression, checksum, rate) = lane_options(&args.lanes)?;
    let names = match args.identity.peer_name.as_slice() {
        [] => vec![ticket.address.host().to_owned()],
        named => named.to_vec(),
    };
    let trust = trust(&args.identity, &names)?;
    let tls = client_config(identity(&args.identity)?.as_ref(), ticket.pin, trust.clone(), &Policy::default())?;
    Ok(donor::SendOptions {
        dialer: Dialer { ticket, tls, trust, deadlines: deadlines(&args.deadlines)?, software: SOFTWARE.into() },
        roots: roots(&args.tree)?,
        lanes,
        compression,
        checksum,
        rate,
        position: None,
        server_version: None,
        lower_case_table_names: None,
        live: args.live,
    })
}

/// The joiner that `receive` is asked to be.
pub fn joiner(args: &ReceiveArgs) -> Result<joiner::ReceiveOptions> {
    let listen = listen_address(&args.listen)?;
    let identity = match identity(&args.identity)? {
        Some(identity) => identity,
        None => Identity::ephemeral()?,
    };
    let arrival = args.initial_timeout.as_deref().map(|text| duration("initial-timeout", text)).transpose()?;
    let roots = roots(&args.tree)?;
    let older_donor = if args.force_older { OlderDonor::Told } else { OlderDonor::Refused };
    let node = Arc::new(Seeded { roots: roots.clone(), older_donor });
    Ok(joiner::ReceiveOptions {
        roots,
        install: install_mode(&args.install)?,
        listen,
        advertise: args.advertise.clone().unwrap_or_else(|| advertised(listen)),
        identity,
        trust: trust(&args.identity, &args.identity.peer_name)?,
        policy: Policy::default(),
        deadlines: Deadlines { arrival, ..deadlines(&args.deadlines)? },
        lanes: MAX_LANES,
        checksum: checksum(&args.checksum)?,
        keep: Vec::new(),
        node,
        software: SOFTWARE.into(),
    })
}

/// A node that is seeded by hand: it starts from the donor's position, by IST.
#[derive(Debug)]
struct Seeded {
    roots: Roots,
    older_donor: OlderDonor,
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
        // An unknown position replaces a known one too, which would belong to the old data.
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

    fn spent(&self) -> &'static [&'static str] {
        &[Grastate::NAME]
    }
}

fn listen_address(text: &str) -> Result<SocketAddr> {
    let refuse = || bad("listen", text, "HOST:PORT, such as [::]:4444 or 192.0.2.1:4444");
    text.to_socket_addrs().map_err(|_| refuse())?.next().ok_or_else(refuse)
}

/// A host that a donor may reach: the address that is listened on, else this host's name.
pub fn advertised(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        listen.ip().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts() {
        for (text, count) in [("1", 1), ("200M", 200 << 20), ("3k", 3072), ("2GiB", 2 << 30), ("1T", 1 << 40)] {
            assert_eq!(byte_count("x", text).unwrap(), count);
        }
        for bad in ["", "M", "0", "-1", "1.5M", "1X", "99999999999T", "1 M"] {
            let error = byte_count("rate-limit", bad).unwrap_err();
            assert_eq!(error.sentence(), format!("--rate-limit: `{bad}` is not a number of bytes such as 200M"));
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("30", 30), ("30s", 30), ("2min", 120), ("1h", 3600)] {
            assert_eq!(duration("x", text).unwrap(), Duration::from_secs(seconds));
        }
        for bad in ["", "0", "s", "1d", "-5", "9999999999h"] {
            assert!(duration("idle-timeout", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_without_authorities_and_without_encryption_are_refused() {
        let mode = |mode: &str| IdentityArgs { ssl_mode: Some(mode.into()), ..IdentityArgs::default() };
        assert!(matches!(trust(&IdentityArgs::default(), &[]).unwrap(), Trust::Pin));
        assert!(matches!(trust(&mode("required"), &[]).unwrap(), Trust::Pin));
        for (given, sentence) in [
            ("DISABLED", "--ssl-mode=DISABLED: Highline has no mode without encryption"),
            ("verify_ca", "--ssl-mode=VERIFY_CA needs an authority"),
            ("on", "--ssl-mode: `ON` is not REQUIRED, VERIFY_CA or VERIFY_IDENTITY"),
        ] {
            assert_eq!(trust(&mode(given), &[]).unwrap_err().sentence(), sentence);
        }
    }

    #[test]
    fn roots_are_named_once_and_exist() {
        let dir = tempfile::tempdir().unwrap();
        let args =
            |roots: &[&str]| TreeArgs { datadir: dir.path().into(), roots: roots.iter().map(OsString::from).collect() };
        assert!(roots(&args(&[])).is_ok());
        for (given, sentence) in [
            (&["undo"][..], "--root: `undo` is not NAME=PATH with a name such as innodb-undo"),
            (&["innodb-undo="], "--root: `innodb-undo=` is not NAME=PATH with a name such as innodb-undo"),
            (&["a=/", "a=/"], "--root: `a` is not named once only"),
        ] {
            assert_eq!(roots(&args(given)).unwrap_err().sentence(), sentence);
        }
        let error = roots(&args(&["a=/nowhere"])).unwrap_err();
        assert_eq!(error.sentence(), "cannot read the directory /nowhere: No such file or directory (os error 2)");
    }

    #[test]
    fn an_address_that_is_listened_on_is_advertised() {
        assert_eq!(advertised("192.0.2.7:4444".parse().unwrap()), "192.0.2.7");
        assert!(!advertised("[::]:4444".parse().unwrap()).contains(':'));
    }
}
