//! What stays where it is when a joiner's tree is replaced: names that belong to this node, not to the data.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;

use crate::tree::{REPLICA, matches};

/// Our own directory in each root, there while a transfer or a switch is unfinished.
///
/// It must not outlive them: a server lists it as a schema `#mysql50#.highline`, at which
/// `mariadb-dump --all-databases` and `mariadb-upgrade` stop (10.11.19). Files beside it are not listed.
pub const HOME: &str = ".highline";
/// The lock of [`super::DirLock`], in the data directory.
pub const LOCK: &str = ".highline.lock";
/// The manifest of the tree that is in place, in the data directory.
pub const MANIFEST: &str = ".highline.manifest";
/// The manifest of the staged tree, beneath [`HOME`] in the data directory.
pub(super) const NEW_MANIFEST: &str = "manifest.new";

/// First-level names that belong to the node. Owned by, in this order: the Galera provider, the
/// operator, the server process, the filesystem, this program, the server's scripts.
pub const NODE: &[&str] = &[
    "grastate.dat",
    "gvwstate.dat",
    "galera.cache",
    "gcache.page.*",
    "*.pem",
    "*.err",
    "*.log",
    "*.pid",
    "*.sock",
    "lost+found",
    ".snapshot",
    ".zfs",
    HOME,
    LOCK,
    MANIFEST,
    "sst_in_progress",
    "wsrep_sst.pid",
    "tables_flushed",
    "sst_error",
];

/// Logs that the server would replay on whatever tree it finds: stale ones go with the old tree.
pub const REPLAYED: &[&str] = &["ddl_recovery*.log", "tc.log"];

/// The rules of one node: [`NODE`], [`REPLICA`], and what its configuration adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepRules {
    extra: Vec<String>,
}

impl KeepRules {
    /// `extra` are names or patterns as in [`crate::tree::matches`], from the server's configuration:
    /// its log files, certificates, socket.
    pub fn new(extra: impl IntoIterator<Item = String>) -> KeepRules {
        KeepRules { extra: extra.into_iter().collect() }
    }

    pub fn extra(&self) -> &[String] {
        &self.extra
    }

    /// Whether the first-level `name` stays in place.
    pub fn keeps(&self, name: &OsStr) -> bool {
        let any = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, name.as_bytes()));
        ((any(NODE) || any(REPLICA)) && !any(REPLAYED))
            || self.extra.iter().any(|pattern| matches(pattern, name.as_bytes()))
    }

    /// Whether something of this type is never data, whatever its name.
    pub fn keeps_type(kind: FileType) -> bool {
        matches!(kind, FileType::Socket | FileType::Fifo | FileType::BlockDevice | FileType::CharacterDevice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_names_stay() {
        let rules = KeepRules::new(["slow-*".to_owned()]);
        for (name, kept) in [
            ("grastate.dat", true),
            ("gcache.page.000001", true),
            ("server-key.pem", true),
            ("db1.err", true),
            ("general.log", true),
            ("slow-queries", true),
            (".highline", true),
            ("ddl_recovery.log", false),
            ("ddl_recovery-backup.log", false),
            ("tc.log", false),
            ("ibdata1", false),
            ("mysql", false),
            ("aria_log_control", false),
            ("mysql-bin.000001", false),
        ] {
            assert_eq!(rules.keeps(OsStr::new(name)), kept, "{name}");
        }
    }
}
