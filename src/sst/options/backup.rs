//! How a backup is made and prepared, where that is the source: `source` in `[highline]`, and the names that users of
//! `wsrep_sst_mariabackup` have.

use std::ffi::OsString;
use std::fmt;

use zeroize::Zeroizing;

use super::Tier::{Highline, Server, Sst};
use super::files::OptionFiles;
use super::lookup::{Lookup, Place, everywhere};
use crate::backup::{DataSource, Prepare, ProgramOptions};
use crate::error::{Result, Side};
use crate::pace::ByteCount;

/// The settings of both roles. With `source=files` only `prepare` counts, because a donor's source is its own.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BackupSettings {
    pub source: DataSource,
    pub backup_options: ProgramOptions,
    pub prepare: Prepare,
    /// `user:password`, as `[sst]` has it.
    pub account: Option<Zeroizing<String>>,
}

impl fmt::Debug for BackupSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BackupSettings { source, backup_options, prepare, .. } = self;
        write!(f, "BackupSettings({source}, {backup_options:?}, {prepare:?})")
    }
}

impl BackupSettings {
    pub(super) fn resolve(look: &mut Lookup<'_>) -> Result<BackupSettings> {
        let source = look.parsed(&[(Highline, "source")], str::parse)?.unwrap_or_default();
        let options = look.parsed_for(Side::Joiner, &ours_too("inno-apply-opts"), str::parse)?.unwrap_or_default();
        let memory = look.parsed_for(Side::Joiner, &ours_too("use-memory"), str::parse::<ByteCount>)?;
        let plugins = plugins_with_keys(look.files);
        let prepare = Prepare { memory: memory.map(|count| count.0), options, plugins, ..Prepare::default() };
        if source == DataSource::Files {
            if let Some(item) = look.quietly(&[(Highline, "inno-backup-opts")]) {
                let name = item.name();
                look.note(format!("{name} has no effect: with source=files mariadb-backup makes no backup here"));
            }
            return Ok(BackupSettings { prepare, ..BackupSettings::default() });
        }
        let account = look.quietly(&[(Sst, "wsrep-sst-auth")]).map(|item| item.text()).transpose()?;
        let backup_options = look.parsed_for(Side::Donor, &ours_too("inno-backup-opts"), str::parse)?;
        Ok(BackupSettings {
            source,
            backup_options: backup_options.unwrap_or_default(),
            prepare,
            account: account.map(|text| Zeroizing::new(text.to_owned())),
        })
    }
}

/// What this node's server is told about plugins that have encryption keys, or compress pages, as `mariadb-backup` needs
/// it to prepare a backup: names and values.
pub fn plugins_with_keys(files: &OptionFiles) -> Vec<(String, OsString)> {
    let (mut load, mut options) = (Vec::new(), Vec::new());
    for item in files.tier(Server) {
        let Some(value) = &item.value else { continue };
        let of_one = item.key.contains("key-management") || item.key.starts_with("provider-");
        if item.key == "plugin-load" {
            load.clear();
        }
        if matches!(item.key.as_str(), "plugin-load" | "plugin-load-add") {
            let value = value.to_string_lossy();
            let wanted = value.split(';').filter(|one| one.contains("key_management") || one.contains("provider_"));
            load.extend(wanted.map(str::to_owned));
        } else if of_one || item.key == "plugin-dir" {
            options.push((item.key.clone(), value.clone()));
        }
    }
    if load.is_empty() {
        return Vec::new();
    }
    [vec![("plugin-load".to_owned(), load.join(";").into())], options].concat()
}

/// By the name of the command line in our own group, else where the server's script reads it.
fn ours_too(key: &str) -> [Place<'_>; 4] {
    let [sst, server, backup] = everywhere(key);
    [(Highline, key), sst, server, backup]
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::files::tests::read;
    use super::*;
    use std::path::Path;

    fn role(text: &str, side: Side) -> Result<Settings> {
        Settings::resolve(&read(text), side, Path::new("/data"))
    }

    #[test]
    fn the_names_of_the_servers_script_count_where_a_backup_is_the_source() {
        let text = "[highline]\nsource=mariabackup\n[sst]\nwsrep-sst-auth=u:s3cret\ninno-backup-opts='--throttle=4'\n\
                    inno-apply-opts=--x --y\nuse-memory=1G\nrebuild=1\n";
        let donor = role(text, Side::Donor).unwrap();
        assert_eq!(donor.backup.source, DataSource::Mariabackup);
        assert_eq!(donor.backup.backup_options.0, ["--throttle=4"]);
        assert_eq!(donor.backup.account.as_deref().map(String::as_str), Some("u:s3cret"));
        assert_eq!(donor.notes, ["rebuild in [sst] has no effect: a transfer is always whole"]);
        assert!(!format!("{donor:?}").contains("s3cret"));
        let joiner = role(text, Side::Joiner).unwrap();
        assert_eq!(joiner.backup.prepare.options.0, ["--x", "--y"]);
        assert_eq!(joiner.backup.prepare.memory, Some(1 << 30));
        let ours = role(&text.replace("[sst]", "use-memory=2G\n[sst]"), Side::Joiner).unwrap();
        assert_eq!(ours.backup.prepare.memory, Some(2 << 30));
        // The donor's source decides, whatever the joiner's own is.
        let other = role("[highline]\nuse-memory=2G\ninno-backup-opts=--x\n", Side::Joiner).unwrap();
        assert_eq!(other.backup.prepare.memory, Some(2 << 30));
        let note =
            "inno-backup-opts in [highline] has no effect: with source=files mariadb-backup makes no backup here";
        assert_eq!(other.notes, [note]);
        let files = role(&text.replace("=mariabackup", "=files"), Side::Donor).unwrap();
        assert_eq!(files.backup, BackupSettings::default());
    }

    #[test]
    fn plugins_with_keys_are_found_among_the_others() {
        let text = "[mysqld]\nplugin_load_add=server_audit;file_key_management=file_key_management.so\nplugin_dir=/p\n\
                    loose-file-key-management-filename=/k\nserver_audit_logging=1\n";
        let pairs = plugins_with_keys(&read(text));
        let pairs: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{name}={}", value.to_string_lossy())).collect();
        let expected = [
            "plugin-load=file_key_management=file_key_management.so",
            "plugin-dir=/p",
            "file-key-management-filename=/k",
        ];
        assert_eq!(pairs, expected);
        assert_eq!(plugins_with_keys(&read("[mysqld]\nplugin_dir=/p\nplugin_load=server_audit\n")), []);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("[highline]\nsource=tape", "donor: source in [highline]: `tape` is neither files nor mariabackup"),
            (
                "[highline]\nsource=mariabackup\n[sst]\ninno-backup-opts=--stream=tar",
                "donor: inno-backup-opts in [sst]: --stream: a transfer decides this itself",
            ),
        ] {
            let report = role(text, Side::Donor).unwrap_err().report();
            assert!(report.starts_with(says), "{report}");
        }
    }
}
