//! What stays in place when a joiner's tree is replaced: names that belong to this node, not to the data.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::FileType;

use crate::tree::{Own, Shape, names, row};

/// Our own directory in each root; exists while a transfer or a switch is unfinished.
///
/// It must not outlive them: a server lists it as a schema `#mysql50#.highline`, which makes `mariadb-dump
/// --all-databases` and `mariadb-upgrade` stop (10.11.19). Plain files are not listed.
pub const HOME: &str = ".highline";
/// The symlink that selects the tree a server sees, in [`HOME`] in the data directory.
pub(super) const LIVE: &str = "live";
/// The lock of [`super::DirLock`], in the data directory.
pub const LOCK: &str = ".highline.lock";
/// The manifest of the tree that is in place, in the data directory.
pub const MANIFEST: &str = ".highline.manifest";
/// The manifest of the staged tree, in [`HOME`] in the data directory.
pub(super) const NEW_MANIFEST: &str = "manifest.new";

/// What stays on this node: the names in [`crate::tree::TABLE`], the operator's names, and the node's own paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepRules {
    extra: Vec<String>,
    own: Own,
}

impl KeepRules {
    /// `extra` are the operator's names or patterns ([`crate::tree::names`]), `own` what the configuration names.
    pub fn new(extra: impl IntoIterator<Item = String>, own: Own) -> KeepRules {
        KeepRules { extra: extra.into_iter().collect(), own }
    }

    pub fn extra(&self) -> &[String] {
        &self.extra
    }

    pub fn own(&self) -> &Own {
        &self.own
    }

    /// Whether the first-level `name` of a root's `directory` stays in place.
    pub fn keeps(&self, directory: &Path, name: &OsStr, shape: Shape) -> bool {
        row(name, shape).is_some_and(|row| row.kept)
            || names(&self.extra, name, shape)
            || self.own.claims(directory, name, shape).is_some()
    }

    /// Whether a file of this type is never data, whatever its name.
    pub fn keeps_type(kind: FileType) -> bool {
        matches!(kind, FileType::Socket | FileType::Fifo | FileType::BlockDevice | FileType::CharacterDevice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{OwnName, OwnPath};

    #[test]
    fn the_nodes_own_stay_and_what_a_server_would_replay_goes() {
        let log = OwnPath { directory: "/d".into(), name: OwnName::File("mysql".into()), option: "log-error".into() };
        let rules = KeepRules::new(["slow-*".to_owned(), "import".to_owned()], Own::from_iter([log]));
        for (name, file, directory) in [
            ("grastate.dat", true, false),
            ("gcache.page.000001", true, false),
            ("db1.err", true, false),
            ("db1.err.2", true, false),
            ("slow-queries", true, false),
            ("import", true, true),
            ("mysql", true, false),
            (".highline", true, true),
            ("lost+found", false, true),
            ("ddl_recovery.log", false, false),
            ("tc.log", false, false),
            ("ibdata1", false, false),
            ("aria_log_control", false, false),
            ("mysql-bin.000001", false, false),
        ] {
            let keeps = |shape| rules.keeps(Path::new("/d"), OsStr::new(name), shape);
            assert_eq!((keeps(Shape::File), keeps(Shape::Directory)), (file, directory), "{name}");
        }
    }
}
