//! Which names never travel: what belongs to one node alone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::path::RootName;
use super::roots::matches;

/// Names directly beneath a root that belong to a node and not to its data: the provider's state and
/// cache, certificates, logs, sockets, and the marker files of this and other SST methods.
const PRIVATE: &[&str] = &[
    ".highline*",
    ".snapshot",
    ".sst",
    ".zfs",
    "*.err",
    "*.log",
    "*.pem",
    "*.pid",
    "*.sock",
    "auto.cnf",
    "backup_sst_complete",
    "donor_galera_info",
    "galera.cache",
    "gcache.page.*",
    "grastate.dat",
    "gvwstate.dat",
    "ib_buffer_pool",
    "ib_lru_dump",
    "ibtmp*",
    "lost+found",
    "mariadb_backup_galera_info",
    "rsync_sst_complete",
    "sst_error*",
    "sst_in_progress",
    "tables_flushed*",
    "tc.log",
    "wsrep_sst.pid",
    "wsrep_sst_binlog.tar",
    "xtrabackup_galera_info",
    "xtrabackup_ist",
];

/// What a replica keeps about its source, which another node does not replicate from.
pub const REPLICA: &[&str] = &[
    "*-relay-bin*.#",
    "*-relay-bin*.index",
    "master-*.info",
    "master.info",
    "multi-master.info",
    "relay-log-*.info",
    "relay-log.info",
];

/// What stays on the donor.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    more: Vec<String>,
    binlogs: Option<Vec<String>>,
}

impl Rules {
    /// The standing rules, and `more` patterns of the operator's (see [`super::Scope::Names`]).
    pub fn new(more: Vec<String>) -> Rules {
        Rules { more, binlogs: None }
    }

    /// Of the root `binlog` only these names travel.
    #[must_use]
    pub fn with_binlogs(self, names: Vec<String>) -> Rules {
        Rules { binlogs: Some(names), ..self }
    }

    /// Whether an entry called `name` directly beneath `root` travels.
    pub fn travels(&self, root: &RootName, name: &OsStr) -> bool {
        if let (RootName::BINLOG, Some(only)) = (root.as_str(), &self.binlogs) {
            return only.iter().any(|known| name == known.as_str());
        }
        let name = name.as_bytes();
        let private = PRIVATE.iter().chain(REPLICA).any(|pattern| matches(pattern, name));
        !private && !self.more.iter().any(|pattern| matches(pattern, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_travels_and_the_node_stays() {
        let rules = Rules::new(vec!["mine.*".into()]);
        for name in ["ibdata1", "ib_logfile0", "undo001", "aria_log.00000001", "mysql", "binlog.000001", "#rocksdb"] {
            assert!(rules.travels(&RootName::datadir(), name.as_ref()), "{name}");
        }
        for name in ["grastate.dat", "galera.cache", "server-key.pem", "host.err", "ddl_recovery.log", "mine.x"] {
            assert!(!rules.travels(&RootName::datadir(), name.as_ref()), "{name}");
        }
        let binlog = "binlog".parse().unwrap();
        let rules = rules.with_binlogs(vec!["b.000002".into()]);
        assert!(rules.travels(&binlog, "b.000002".as_ref()));
        assert!(!rules.travels(&binlog, "b.000001".as_ref()));
        assert!(!rules.travels(&binlog, "b.index".as_ref()));
    }
}
