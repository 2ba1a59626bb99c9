//! What the option files say, including the groups that other programs read.

use std::path::PathBuf;

use crate::error::Result;
use crate::sst::options::{Item, OptionFiles, Tier};
use crate::sst::server_args::{Defaults, ServerArgs};

/// Whose options they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// All groups that the server reads.
    Server,
    /// `[sst]`
    Sst,
    /// `[xtrabackup]` and `[mariabackup]`
    Backup,
    /// `[client]` and the other groups that client programs read
    Client,
}

/// Everything that was given; the last mention counts.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The groups that our transfers read.
    pub files: OptionFiles,
    client: Vec<Item>,
}

const CLIENTS: [&str; 5] = ["client", "client-server", "client-mariadb", "mysql", "mariadb-client"];

impl Options {
    /// Where the server's data is.
    pub fn datadir(&self) -> PathBuf {
        self.files.datadir()
    }

    /// Runs `my_print_defaults`, found through `PATH`.
    ///
    /// # Errors
    /// It is missing, or it cannot read the files.
    pub fn read(defaults: &Defaults) -> Result<Options> {
        Ok(Options {
            files: OptionFiles::read(defaults, &ServerArgs::default())?,
            client: OptionFiles::group(defaults, &CLIENTS)?,
        })
    }

    /// The last value of `key` in the first of `groups` that sets it; empty values do not count.
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

    /// A switch, which may have no value; `None` if it is not given.
    pub fn switch(&self, group: Group, key: &str) -> Option<bool> {
        let item = self.last(group, key)?;
        Some(!item.value.as_ref().is_some_and(|value| is_off(&value.to_string_lossy())))
    }

    /// The last mention of `key`, even an empty one.
    pub fn last(&self, group: Group, key: &str) -> Option<&Item> {
        match group {
            Group::Server => self.files.last(Tier::Server, key),
            Group::Sst => self.files.last(Tier::Sst, key),
            Group::Backup => self.files.last(Tier::Backup, key),
            Group::Client => self.client.iter().rev().find(|item| item.key == key),
        }
    }
}

/// Whether a switch's value means off.
pub(super) fn is_off(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "0" | "off" | "no" | "false")
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
