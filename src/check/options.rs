//! What the option files say, also in the groups that other programs read.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::error::{Error, Kind, Printable, Result};
use crate::sst::args::Defaults;
use crate::sst::options::{Item, OptionFiles, Tier};
use crate::sst::server_args::ServerArgs;

/// Whose options they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// All groups that the server reads.
    Server,
    /// `[sst]`
    Sst,
    /// `[xtrabackup]` and `[mariabackup]`
    Backup,
    /// `[client]` and those that the client programs read with it
    Client,
}

/// Everything that was given; of several mentions the last one counts.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The groups that a transfer of ours reads.
    pub files: OptionFiles,
    backup: OptionFiles,
    client: OptionFiles,
}

impl Options {
    /// Runs `my_print_defaults`, found through `PATH`.
    ///
    /// # Errors
    /// It is missing, or it cannot read the files.
    pub fn read(defaults: &Defaults) -> Result<Options> {
        let others = |groups: &[&str]| Ok::<_, Error>(OptionFiles::of_output(&[], &run(defaults, groups)?, &[]));
        Ok(Options {
            files: OptionFiles::read(defaults, &ServerArgs::default())?,
            backup: others(&["xtrabackup", "mariabackup"])?,
            client: others(&["client", "client-server", "client-mariadb", "mysql", "mariadb-client"])?,
        })
    }

    /// The last value of `key` in the first of `groups` that has one; an empty value is none.
    pub fn first(&self, groups: &[Group], key: &str) -> Option<&str> {
        groups.iter().find_map(|group| self.get(*group, key))
    }

    pub fn get(&self, group: Group, key: &str) -> Option<&str> {
        let value = self.last(group, key)?.value.as_deref()?.to_str()?;
        (!value.is_empty()).then_some(value)
    }

    pub fn server(&self, key: &str) -> Option<&str> {
        self.get(Group::Server, key)
    }

    /// A switch, which may stand alone: `None` when it is not given.
    pub fn switch(&self, group: Group, key: &str) -> Option<bool> {
        let item = self.last(group, key)?;
        let word = item.value.as_ref().map(|value| value.to_string_lossy().to_ascii_lowercase());
        Some(!matches!(word.as_deref(), Some("0" | "off" | "no" | "false")))
    }

    fn last(&self, group: Group, key: &str) -> Option<&Item> {
        match group {
            Group::Server => self.files.last(Tier::Server, key),
            Group::Sst => self.files.last(Tier::Sst, key),
            Group::Backup => self.backup.last(Tier::Sst, key),
            Group::Client => self.client.last(Tier::Sst, key),
        }
    }
}

const PROGRAM: &str = "my_print_defaults";

fn run(defaults: &Defaults, groups: &[&str]) -> Result<Vec<u8>> {
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
    let output = command.args(groups).stdin(Stdio::null()).output().map_err(|e| {
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
    fn every_group_has_its_own_values() {
        let options = read(
            "[mysqld]\nssl_ca=/one\nloose-SSL-CA = /two \nskip_ssl\nempty=\n[sst]\nssl-ca=/three\n[mariabackup]\nencrypt=4\n\
             [client]\nssl-verify-server-cert=off\n",
        );
        assert_eq!(options.server("ssl-ca"), Some("/two"));
        assert_eq!(options.get(Group::Sst, "ssl-ca"), Some("/three"));
        assert_eq!(options.first(&[Group::Sst, Group::Backup], "encrypt"), Some("4"));
        assert_eq!(options.server("empty"), None);
        assert_eq!(options.switch(Group::Server, "skip-ssl"), Some(true));
        assert_eq!(options.switch(Group::Server, "skip-nothing"), None);
        assert_eq!(options.switch(Group::Client, "ssl-verify-server-cert"), Some(false));
    }
}
