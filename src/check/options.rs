//! The option files as `my_print_defaults` reads them, group by group.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{Error, Kind, Printable, Result};

/// Which option files to read; the server's own flags of these names.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    pub file: Option<PathBuf>,
    pub extra_file: Option<PathBuf>,
    pub group_suffix: Option<OsString>,
}

/// Whose options they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// All groups that the server reads.
    Server,
    /// `[sst]`
    Sst,
    /// `[highline]`
    Highline,
    /// `[xtrabackup]` and `[mariabackup]`
    Backup,
    /// `[client]` and those that the client programs read with it
    Client,
}

const GROUPS: [(Group, &[&str]); 5] = [
    (Group::Server, &["--mysqld"]),
    (Group::Sst, &["sst"]),
    (Group::Highline, &["highline"]),
    (Group::Backup, &["xtrabackup", "mariabackup"]),
    (Group::Client, &["client", "client-server", "client-mariadb", "mysql", "mariadb-client"]),
];

impl Group {
    fn title(self) -> &'static str {
        match self {
            Group::Server => "[mysqld]",
            Group::Sst => "[sst]",
            Group::Highline => "[highline]",
            Group::Backup => "[mariabackup]",
            Group::Client => "[client]",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    group: Group,
    key: String,
    value: Option<String>,
}

/// One value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given<'a> {
    pub group: Group,
    pub value: &'a str,
}

/// Everything that was given, in the order in which it was given: the last one counts.
#[derive(Clone, Debug, Default)]
pub struct Options {
    items: Vec<Item>,
}

impl Options {
    /// Runs `my_print_defaults`, found through `PATH`.
    ///
    /// # Errors
    /// It is missing, or it cannot read the files.
    pub fn read(defaults: &Defaults) -> Result<Options> {
        let mut items = Vec::new();
        for (group, names) in GROUPS {
            let output = run(defaults, names)?;
            items.extend(parse(&output, group));
        }
        Ok(Options { items })
    }

    /// The last value of `key` in the first of `groups` that has one; an empty value is none.
    pub fn first(&self, groups: &[Group], key: &str) -> Option<Given<'_>> {
        groups.iter().find_map(|group| self.get(*group, key).map(|value| Given { group: *group, value }))
    }

    pub fn get(&self, group: Group, key: &str) -> Option<&str> {
        let last = self.items.iter().rev().find(|item| item.group == group && item.key == key)?;
        last.value.as_deref().filter(|value| !value.is_empty())
    }

    pub fn server(&self, key: &str) -> Option<&str> {
        self.get(Group::Server, key)
    }

    /// A switch, which may stand alone: `None` when it is not given.
    pub fn switch(&self, group: Group, key: &str) -> Option<bool> {
        let last = self.items.iter().rev().find(|item| item.group == group && item.key == key)?;
        let word = last.value.as_deref().unwrap_or("1").to_ascii_lowercase();
        Some(!matches!(word.as_str(), "0" | "off" | "no" | "false"))
    }
}

impl Given<'_> {
    /// `ssl-ca in [sst]`
    pub fn named(&self, key: &str) -> String {
        format!("{key} in {}", self.group.title())
    }
}

const PROGRAM: &str = "my_print_defaults";

fn run(defaults: &Defaults, names: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new(PROGRAM);
    let mut flag = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            let mut arg = OsString::from(name);
            arg.push(value);
            command.arg(arg);
        }
    };
    // The program wants these first, in this order.
    flag("--defaults-file=", defaults.file.clone().map(Into::into));
    flag("--defaults-extra-file=", defaults.extra_file.clone().map(Into::into));
    flag("--defaults-group-suffix=", defaults.group_suffix.clone());
    let output = command.args(names).stdin(Stdio::null()).output().map_err(|e| {
        Error::new(Kind::NotFound, format!("cannot run {PROGRAM}, which reads the option files"))
            .because(e)
            .remedy("it comes with the database server: install it, or put its folder into PATH")
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = Printable(output.stderr.trim_ascii()).to_string();
    Err(Error::new(Kind::Usage, format!("{PROGRAM} cannot read the option files: {said}"))
        .remedy("correct the option file; the server would refuse it too"))
}

fn parse(output: &[u8], group: Group) -> Vec<Item> {
    let text = String::from_utf8_lossy(output);
    let options = text.lines().filter_map(|line| line.strip_prefix("--"));
    options
        .map(|option| {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value.trim().to_owned())),
                None => (option, None),
            };
            let key = key.trim().to_ascii_lowercase().replace('_', "-");
            let key = key.strip_prefix("loose-").unwrap_or(&key).to_owned();
            Item { group, key, value }
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a real option file with this text gives.
    pub(in crate::check) fn read(text: &str) -> Options {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Options::read(&Defaults { file: Some(file.path().to_owned()), ..Defaults::default() }).unwrap()
    }

    #[test]
    fn names_are_normal_and_the_last_value_counts() {
        let options = read(
            "[mysqld]\nssl_ca=/one\nloose-SSL-CA = /two \nskip_ssl\nempty=\n[sst]\nssl-ca=/three\n[mariabackup]\nencrypt=4\n",
        );
        assert_eq!(options.server("ssl-ca"), Some("/two"));
        assert_eq!(options.get(Group::Sst, "ssl-ca"), Some("/three"));
        let first = options.first(&[Group::Sst, Group::Backup], "encrypt").unwrap();
        assert_eq!(first.named("encrypt"), "encrypt in [mariabackup]");
        assert_eq!(options.server("empty"), None);
        assert_eq!(options.switch(Group::Server, "skip-ssl"), Some(true));
        assert_eq!(options.switch(Group::Server, "skip-nothing"), None);
    }

    #[test]
    fn a_missing_file_is_named() {
        let defaults = Defaults { file: Some("/nonexistent/my.cnf".into()), ..Defaults::default() };
        let error = Options::read(&defaults).unwrap_err();
        assert!(error.sentence().contains("/nonexistent/my.cnf"), "{}", error.sentence());
    }
}
