//! The option files, as `my_print_defaults` of the installed server reads them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::error::{Error, Kind, Printable, Result};
use crate::sst::credentials;
use crate::sst::server_args::Defaults;
use crate::sst::server_args::{ServerArgs, normal_name};

/// Whose options they are, the most specific first: the first that sets an option wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// `[highline]`.
    Highline,
    /// `[sst]`.
    Sst,
    /// The groups that the server reads, and its command line.
    Server,
    /// `[xtrabackup]` and `[mariabackup]`: mariadb-backup's script reads them last.
    Backup,
}

/// One option as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Normalised: dashes, lower case, no `loose-`.
    pub key: String,
    /// Trimmed; `None` if the option has no value.
    pub value: Option<OsString>,
    /// `[sst]`, or the server's command line.
    pub origin: String,
}

impl Item {
    /// `key in [group]`.
    pub fn name(&self) -> String {
        format!("{} in {}", self.key, self.origin)
    }

    /// The value as text; empty if the option has no value.
    pub fn text(&self) -> Result<&str> {
        let value = self.value.as_deref().unwrap_or_default();
        value.to_str().ok_or_else(|| {
            Error::new(Kind::Usage, format!("{}: {} is not UTF-8", self.name(), Printable(value.as_bytes())))
        })
    }
}

/// Everything that was given, in order: the last mention of an option counts.
#[derive(Clone, Debug, Default)]
pub struct OptionFiles {
    highline: Vec<Item>,
    sst: Vec<Item>,
    backup: Vec<Item>,
    server: Vec<Item>,
    elsewhere: Vec<Item>,
}

/// Groups of other programs that work with a node's files: paths in them belong to the node too.
const ELSEWHERE: [&str; 9] = [
    "mysqld_safe",
    "mariadbd-safe",
    "mariadb_safe",
    "client",
    "client-server",
    "client-mariadb",
    "mysql",
    "mariadb-client",
    "mariadb-backup",
];

/// The server's groups with plain names; `--mysqld` finds those with a version in the name.
const SERVER_GROUPS: [&str; 5] = ["mysqld", "server", "mariadb", "mariadbd", "galera"];

impl OptionFiles {
    /// Runs `my_print_defaults`, found through `PATH`, on the files the server was told to read.
    pub fn read(defaults: &Defaults, server_args: &ServerArgs) -> Result<OptionFiles> {
        let elsewhere = start(defaults, &ELSEWHERE)?;
        let start = |group: &str| start(defaults, &[group]);
        let (highline, sst, server) = (start("highline")?, start("sst")?, start("--mysqld")?);
        // The first of these beats the second, as in the script that reads them.
        let backup = ["mariabackup", "xtrabackup"].map(|group| (group, start(group)));
        let named = SERVER_GROUPS.map(|group| (group, start(group)));
        let mut files = OptionFiles::of_output(&finish(highline)?, &finish(sst)?, &finish(server)?);
        for (group, child) in backup {
            files.backup.extend(items(&finish(child?)?, &format!("[{group}]")));
        }
        for (group, child) in named {
            let label = format!("[{group}]");
            for item in items(&finish(child?)?, &label) {
                let same = |other: &&mut Item| other.key == item.key && other.value == item.value;
                files.server.iter_mut().filter(same).for_each(|other| other.origin.clone_from(&label));
            }
        }
        files.server.extend(server_args.iter().map(|(key, value)| Item {
            key: key.to_owned(),
            value: value.map(trimmed),
            origin: "the server's command line".to_owned(),
        }));
        files.elsewhere = items(&finish(elsewhere)?, "a group of another program");
        Ok(files)
    }

    /// What `my_print_defaults` printed for `[highline]`, `[sst]` and the server's groups.
    pub fn of_output(highline: &[u8], sst: &[u8], server: &[u8]) -> OptionFiles {
        OptionFiles {
            highline: items(highline, "[highline]"),
            sst: items(sst, "[sst]"),
            backup: Vec::new(),
            server: items(server, "[mysqld] or another group of the server"),
            elsewhere: Vec::new(),
        }
    }

    /// What is in these groups, which belong to none of the above.
    pub fn group(defaults: &Defaults, groups: &[&str]) -> Result<Vec<Item>> {
        let started: Vec<_> = groups.iter().map(|group| (group, start(defaults, &[group]))).collect();
        let mut found = Vec::new();
        for (group, child) in started {
            found.extend(items(&finish(child?)?, &format!("[{group}]")));
        }
        Ok(found)
    }

    /// The last mention of an option.
    pub fn last(&self, tier: Tier, key: &str) -> Option<&Item> {
        self.tier(tier).iter().rev().find(|item| item.key == key)
    }

    /// Where the server's data is; without the option where packages put it.
    pub fn datadir(&self) -> PathBuf {
        let given = self.last(Tier::Server, "datadir").and_then(|item| item.value.as_ref());
        PathBuf::from(given.filter(|value| !value.is_empty()).map_or(OsStr::new("/var/lib/mysql"), OsString::as_os_str))
    }

    /// What the groups of other programs say, such as the client's.
    pub fn elsewhere(&self) -> &[Item] {
        &self.elsewhere
    }

    pub fn tier(&self, tier: Tier) -> &[Item] {
        match tier {
            Tier::Highline => &self.highline,
            Tier::Sst => &self.sst,
            Tier::Backup => &self.backup,
            Tier::Server => &self.server,
        }
    }
}

const PROGRAM: &str = "my_print_defaults";

fn start(defaults: &Defaults, groups: &[&str]) -> Result<Child> {
    let mut command = Command::new(PROGRAM);
    command
        .args(defaults.flags())
        .args(groups)
        .env_remove(credentials::VARIABLE)
        .env_remove(credentials::ACCOUNT)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            Error::new(Kind::NotFound, format!("cannot run {PROGRAM}, which reads the option files"))
                .because(error)
                .remedy("it comes with the database server: install it, or add its directory to PATH")
        })
}

fn finish(child: Child) -> Result<Vec<u8>> {
    let output = child
        .wait_with_output()
        .map_err(|error| Error::new(Kind::Io, format!("cannot read what {PROGRAM} prints")).because(error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let error =
        Error::new(Kind::Usage, format!("{PROGRAM} cannot read the option files: {}", Printable(said.as_bytes())));
    Err(match marked(&said) {
        Some(file) => error.remedy(format!(
            "{} begins with a byte order mark, which the server reads as part of an option: remove it \
             (sed -i '1s/^\\xef\\xbb\\xbf//' FILE)",
            Printable(file.as_bytes())
        )),
        None => error.remedy("correct the option file; the server would refuse it too"),
    })
}

/// The option file in which `my_print_defaults` found a byte order mark.
fn marked(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("config file: ")?;
    let (file, _) = rest.split_once(" at line: 1")?;
    let mut start = [0_u8; 3];
    std::fs::File::open(file).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start)).ok()?;
    (start == *b"\xef\xbb\xbf").then_some(file)
}

/// Reads lines `--key=value` and `--key`; any other line continues the value before it.
fn items(output: &[u8], origin: &str) -> Vec<Item> {
    let mut raw: Vec<Vec<u8>> = Vec::new();
    for line in output.strip_suffix(b"\n").unwrap_or(output).split(|&b| b == b'\n') {
        match (line.strip_prefix(b"--"), raw.last_mut()) {
            (Some(option), _) => raw.push(option.to_vec()),
            (None, Some(before)) => {
                before.push(b'\n');
                before.extend_from_slice(line);
            }
            (None, None) => {}
        }
    }
    let item = |option: Vec<u8>| {
        let mut halves = option.splitn(2, |&b| b == b'=');
        let key = normal_name(&String::from_utf8_lossy(halves.next().unwrap_or_default()));
        Item { key, value: halves.next().map(|value| trimmed(OsStr::from_bytes(value))), origin: origin.to_owned() }
    };
    raw.into_iter().map(item).collect()
}

fn trimmed(value: &OsStr) -> OsString {
    OsString::from_vec(value.as_bytes().trim_ascii().to_vec())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a real option file with this text gives.
    pub(in crate::sst) fn read(text: &str) -> OptionFiles {
        read_with(text, &[])
    }

    pub(in crate::sst) fn read_with(text: &str, server_args: &[&str]) -> OptionFiles {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let defaults = Defaults { file: Some(file.path().to_owned()), ..Defaults::default() };
        let server_args = ServerArgs::parse(server_args.iter().map(OsString::from));
        OptionFiles::read(&defaults, &server_args).unwrap()
    }

    fn told(files: &OptionFiles, tier: Tier, key: &str) -> Option<(String, String)> {
        files.last(tier, key).map(|item| (item.text().unwrap().to_owned(), item.origin.clone()))
    }

    #[test]
    fn values_come_with_their_group() {
        let files = read_with(
            "[mysqld]\nssl-cert=/a\nloose_ssl_key =  /k y  \nskip_name_resolve\n[mariadb-10.11]\nold=1\n\
             [mariadb]\nssl_cert = '/b'\n[galera]\nx=\"two\\nlines\"\n[client]\nssl-cert=/no\n\
             [sst]\nTCA=/first\ntca=/ca\nprogress\n[highline]\nlanes=4\n",
            &["--ssl-ca=/argv", "--loose-y=1"],
        );
        for (tier, key, expected) in [
            (Tier::Server, "ssl-cert", Some(("/b", "[mariadb]"))),
            (Tier::Server, "ssl-key", Some(("/k y", "[mysqld]"))),
            (Tier::Server, "skip-name-resolve", Some(("", "[mysqld]"))),
            (Tier::Server, "x", Some(("two\nlines", "[galera]"))),
            (Tier::Server, "ssl-ca", Some(("/argv", "the server's command line"))),
            (Tier::Server, "y", Some(("1", "the server's command line"))),
            (Tier::Sst, "tca", Some(("/ca", "[sst]"))),
            (Tier::Sst, "progress", Some(("", "[sst]"))),
            (Tier::Highline, "lanes", Some(("4", "[highline]"))),
            (Tier::Highline, "tca", None),
        ] {
            let expected = expected.map(|(value, origin)| (value.to_owned(), origin.to_owned()));
            assert_eq!(told(&files, tier, key), expected, "{key}");
        }
    }

    #[test]
    fn suffixed_groups_and_extra_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (file, extra) = (dir.path().join("a b.cnf"), dir.path().join("extra.cnf"));
        std::fs::write(&file, "[sst]\nencrypt=3\n[sst.1]\nencrypt=4\n[mysqld.1]\ndatadir=/one\n").unwrap();
        std::fs::write(&extra, "[sst]\ntime=1\n").unwrap();
        let none = ServerArgs::default();
        let suffixed = Defaults { file: Some(file), group_suffix: Some(".1".into()), ..Defaults::default() };
        let files = OptionFiles::read(&suffixed, &none).unwrap();
        assert_eq!(told(&files, Tier::Sst, "encrypt").unwrap().0, "4");
        assert_eq!(files.datadir().to_str().unwrap(), "/one");
        assert_eq!(OptionFiles::default().datadir().to_str().unwrap(), "/var/lib/mysql");
        let with_extra = Defaults { extra_file: Some(extra), ..Defaults::default() };
        assert_eq!(told(&OptionFiles::read(&with_extra, &none).unwrap(), Tier::Sst, "time").unwrap().0, "1");
    }

    #[test]
    fn a_missing_option_file_is_named() {
        let defaults = Defaults { file: Some("/nonexistent/my.cnf".into()), ..Defaults::default() };
        let error = OptionFiles::read(&defaults, &ServerArgs::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.sentence().contains("/nonexistent/my.cnf"), "{}", error.sentence());
    }
}
