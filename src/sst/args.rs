//! The flags that the server passes: what it wants, and where its files are.
//!
//! Reads the flags of MariaDB 10.6 to 13, mysql-wsrep and Percona XtraDB Cluster; checks each value's
//! form. Opens no file.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::address::SstAddress;
use super::server_args::{Defaults, ServerArgs, normal_name};
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::position::GaleraGtid;

/// The command line of `sst_prepare_other` and `sst_donate_other` (`sql/wsrep_sst.cc`).
#[derive(Clone, Debug)]
pub struct SstArgs {
    pub role: Role,
    pub datadir: PathBuf,
    /// Whether the server understands `total` and `complete` lines.
    pub progress: bool,
    pub defaults: Defaults,
    pub binlog: Option<OsString>,
    pub binlog_index: Option<OsString>,
    pub log_basename: Option<OsString>,
    pub innodb_data_home_dir: Option<PathBuf>,
    pub innodb_log_group_home_dir: Option<PathBuf>,
    pub innodb_undo_directory: Option<PathBuf>,
    pub aria_log_dir_path: Option<PathBuf>,
    /// Where the server wants a transfer staged (`wsrep_sst_tmp_dir`, MDEV-29909).
    pub tmpdir: Option<PathBuf>,
    /// As mysql-wsrep and Percona XtraDB Cluster pass it; MariaDB does not.
    pub server_version: Option<String>,
    /// Whether the server reads a level from the first characters of each line on standard error: Percona XtraDB Cluster,
    /// which alone spells `--plugindir` so.
    pub reads_levels: bool,
    pub server: ServerArgs,
}

#[derive(Clone, Debug)]
pub enum Role {
    Joiner(JoinerArgs),
    Donor(DonorArgs),
}

#[derive(Clone, Debug)]
pub struct JoinerArgs {
    /// Where the server thinks it can be reached; often without a port.
    pub address: SstAddress,
    /// The server's process.
    pub parent: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct DonorArgs {
    /// What the joiner announced after `ready`.
    pub address: SstAddress,
    /// The donor's position; under `bypass` it is the joiner's own.
    pub gtid: GaleraGtid,
    /// Only the position is sent; the rest comes by IST.
    pub bypass: bool,
    pub socket: Option<PathBuf>,
    pub local_port: Option<u16>,
}

/// Flags without a value.
const SWITCHES: &[&str] = &["bypass"];

/// Flags that always have a value, whatever it looks like.
const VALUED: &[&str] = &[
    "role",
    "address",
    "datadir",
    "defaults-file",
    "defaults-extra-file",
    "defaults-group-suffix",
    "parent",
    "progress",
    "binlog",
    "log-bin",
    "binlog-index",
    "log-bin-index",
    "log-basename",
    "local-port",
    "socket",
    "gtid",
    "gtid-domain-id",
    "innodb-data-home-dir",
    "innodb-log-group-home-dir",
    "innodb-undo-directory",
    "aria-log-dir-path",
    "sst-temp-dir",
    "sst-tmp-dir",
    "mysqld-version",
    "plugin-dir",
    "plugindir",
    "basedir",
    "local-gtid",
    "server-id",
    "host",
    "port",
    "user",
    "password",
    "innodb-buffer-pool-filename",
    "innodb-buffer-pool-size",
];

impl SstArgs {
    /// Reads what follows the program's name. Flags come in any order, as `--flag value` or
    /// `--flag=value`; unknown ones are ignored, along with their value if they have one.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<SstArgs> {
        let (given, server) = Given::read(args)?;
        let side = match given.text("role")?.as_deref().map(str::trim) {
            Some("joiner") => Side::Joiner,
            Some("donor") => Side::Donor,
            Some(other) => {
                return Err(refuse("role", format!("{} is neither donor nor joiner", Printable(other.as_bytes()))));
            }
            None => return Err(missing("role")),
        };
        Self::checked(given, server, side).map_err(|error| error.on(side))
    }

    fn checked(given: Given, server: ServerArgs, side: Side) -> Result<SstArgs> {
        let address = given.text("address")?.ok_or_else(|| missing("address"))?;
        let address: SstAddress =
            address.parse().map_err(|error| refuse("address", "not a usable address").because(error))?;
        let role = if side == Side::Joiner {
            Role::Joiner(JoinerArgs { address, parent: given.number("parent")? })
        } else if address.host().is_empty() {
            return Err(refuse("address", "it names no host"));
        } else {
            let gtid = given.text("gtid")?.ok_or_else(|| missing("gtid"))?;
            Role::Donor(DonorArgs {
                address,
                gtid: GaleraGtid {
                    position: gtid.trim().parse().map_err(|error| refuse("gtid", "not a position").because(error))?,
                    domain: given.number("gtid-domain-id")?,
                },
                bypass: given.0.contains_key("bypass"),
                socket: given.path("socket"),
                local_port: given.number("local-port")?,
            })
        };
        let named = Defaults {
            file: given.path("defaults-file"),
            extra_file: given.path("defaults-extra-file"),
            group_suffix: given.value("defaults-group-suffix").map(OsStr::to_owned),
        };
        let datadir = given.path("datadir").or_else(|| server.value("datadir").map(PathBuf::from));
        Ok(SstArgs {
            role,
            datadir: datadir.ok_or_else(|| missing("datadir"))?,
            progress: given.number::<u8>("progress")?.unwrap_or(0) != 0,
            defaults: if named == Defaults::default() { server.defaults() } else { named },
            binlog: given.either("binlog", "log-bin"),
            binlog_index: given.either("binlog-index", "log-bin-index"),
            log_basename: given.value("log-basename").map(OsStr::to_owned),
            innodb_data_home_dir: given.path("innodb-data-home-dir"),
            innodb_log_group_home_dir: given.path("innodb-log-group-home-dir"),
            innodb_undo_directory: given.path("innodb-undo-directory"),
            aria_log_dir_path: given.path("aria-log-dir-path"),
            tmpdir: given.either("sst-temp-dir", "sst-tmp-dir").map(PathBuf::from),
            server_version: given.text("mysqld-version")?,
            reads_levels: given.0.contains_key("plugindir"),
            server,
        })
    }

    pub fn side(&self) -> Side {
        match self.role {
            Role::Joiner(_) => Side::Joiner,
            Role::Donor(_) => Side::Donor,
        }
    }
}

/// The last value of each flag; a switch has an empty one.
struct Given(BTreeMap<String, OsString>);

impl Given {
    fn read(args: impl Iterator<Item = OsString>) -> Result<(Given, ServerArgs)> {
        let mut given = BTreeMap::new();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            let Some(long) = arg.as_bytes().strip_prefix(b"--") else { continue };
            let mut halves = long.splitn(2, |&b| b == b'=');
            let name = normal_name(&String::from_utf8_lossy(halves.next().unwrap_or_default()));
            if name == "mysqld-args" {
                return Ok((Given(given), ServerArgs::parse(args)));
            }
            let attached = halves.next().map(|value| OsStr::from_bytes(value).to_owned());
            let value = if attached.is_some() || SWITCHES.contains(&name.as_str()) {
                attached.unwrap_or_default()
            } else if VALUED.contains(&name.as_str()) {
                args.next_if(|next| next != "--mysqld-args").ok_or_else(|| refuse(&name, "it has no value"))?
            } else {
                args.next_if(|next| !next.as_bytes().starts_with(b"--")).unwrap_or_default()
            };
            given.insert(name, value);
        }
        Ok((Given(given), ServerArgs::default()))
    }

    /// A value that is not empty.
    fn value(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    fn either(&self, name: &str, other: &str) -> Option<OsString> {
        self.value(name).or_else(|| self.value(other)).map(OsStr::to_owned)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let text = |value: &OsStr| {
            value
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| refuse(name, format!("{} is not UTF-8", Printable(value.as_bytes()))))
        };
        // An empty address is a value: it means that the server knew none.
        self.0.get(name).map(|value| text(value)).transpose()
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| refuse(name, format!("{} is not a number in range", Printable(text.as_bytes()))))
    }
}

fn refuse(flag: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Usage, format!("--{flag}: {why}"))
}

fn missing(flag: &str) -> Error {
    Error::new(Kind::Usage, format!("--{flag} is missing"))
        .remedy("only the database server runs this command; use `highline receive` and `highline send`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GTID: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002:42";

    fn parse(line: &str) -> Result<SstArgs> {
        SstArgs::parse(line.split(' ').map(|word| OsString::from(word.replace('~', " ").replace("''", ""))))
    }

    #[test]
    fn a_mariadb_joiner() {
        let args = parse(
            "--role joiner --address 127.0.0.1 --datadir /d~d/ --defaults-file /e/my.cnf --defaults-group-suffix 1 \
             --parent 77 --progress 0 --binlog bin --binlog-index idx.index --mysqld-args --defaults-file=/x \
             --datadir=/other --log_bin=b --wsrep-new-cluster",
        )
        .unwrap();
        let Role::Joiner(joiner) = &args.role else { panic!("{args:?}") };
        assert_eq!((joiner.address.to_string().as_str(), joiner.parent), ("127.0.0.1", Some(77)));
        assert_eq!(args.datadir, PathBuf::from("/d d/"));
        assert_eq!(args.defaults.file, Some("/e/my.cnf".into()));
        assert_eq!(args.defaults.group_suffix, Some("1".into()));
        assert_eq!((args.binlog, args.binlog_index), (Some("bin".into()), Some("idx.index".into())));
        assert!(!args.progress);
        assert_eq!(args.server.value("log-bin"), Some("b".as_ref()));
    }

    #[test]
    fn a_mariadb_donor() {
        let args = parse(&format!(
            "--role donor --address [::1]:4444/highline/1 --local-port 3306 --socket /run/s --progress 1 --datadir /d/ \
             --gtid {GTID} --gtid-domain-id 9 --bypass"
        ))
        .unwrap();
        let Role::Donor(donor) = &args.role else { panic!("{args:?}") };
        assert_eq!(donor.address.parts(), ["highline", "1"]);
        assert_eq!(donor.gtid.to_string(), format!("{GTID} 9"));
        assert!(donor.bypass && args.progress);
        assert_eq!((donor.socket.clone(), donor.local_port), (Some("/run/s".into()), Some(3306)));
    }

    #[test]
    fn other_servers_and_other_forms() {
        let wsrep = format!(
            "--role donor --address h:1/x --datadir /d --gtid {GTID} --local-gtid {GTID} --server-id 3 --binlog ''"
        );
        let pxc = "--role joiner --address h --datadir /d --basedir /b --plugindir /p --mysqld-version 8.0.33 --parent 1 --binlog ''";
        let equal = format!("--gtid={GTID} --datadir=/d --address=h:1 --role=donor --gtid_domain_id=0");
        let newer = "--future --role joiner --other value --address '' --next=1 --datadir /d";
        for line in [&wsrep, pxc, &equal, newer] {
            let args = parse(line).unwrap();
            assert_eq!((args.datadir, args.binlog), (PathBuf::from("/d"), None), "{line}");
        }
        assert_eq!(parse(pxc).unwrap().server_version.as_deref(), Some("8.0.33"));
        assert_eq!([pxc, &wsrep].map(|line| parse(line).unwrap().reads_levels), [true, false]);
        assert_eq!(parse("--role joiner --address h --mysqld-args -h /d").unwrap().datadir, PathBuf::from("/d"));
        let nested = parse("--role joiner --address h --datadir /d --mysqld-args --defaults-extra-file=/e").unwrap();
        assert_eq!(nested.defaults.extra_file, Some("/e".into()));
    }

    #[test]
    fn errors_name_the_flag() {
        for (line, says) in [
            ("", "--role is missing"),
            ("--role referee", "--role: referee is neither donor nor joiner"),
            ("--role", "--role: it has no value"),
            ("--role joiner --datadir /d", "joiner: --address is missing"),
            ("--role joiner --address h", "joiner: --datadir is missing"),
            ("--role joiner --address h --datadir --mysqld-args", "--datadir: it has no value"),
            ("--role joiner --address h --datadir /d --parent x", "joiner: --parent: x is not a number in range"),
            ("--role joiner --address $(x) --datadir /d", "joiner: --address: not a usable address: the address $(x)"),
            ("--role donor --address :1 --datadir /d", "donor: --address: it names no host"),
            ("--role donor --address h --datadir /d", "donor: --gtid is missing"),
            (
                "--role donor --address h --datadir /d --gtid 5",
                "donor: --gtid: not a position: a position has the form",
            ),
        ] {
            let report = parse(line).unwrap_err().report();
            assert!(report.starts_with(says), "{line}: {report}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_command_line_ends_the_process(
            words in proptest::collection::vec("(--(role|address|gtid|datadir|parent|progress|mysqld-args|bypass))?[=:@/ -~]{0,12}", 0..12),
        ) {
            if let Err(error) = SstArgs::parse(words.into_iter().map(OsString::from)) {
                proptest::prop_assert!(error.sentence().starts_with("--"), "{}", error.sentence());
            }
        }
    }
}
