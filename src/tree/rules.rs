//! What stays on the donor: node-owned names, the node's own paths by its configuration, and what the operator keeps.

use std::ffi::OsStr;
use std::path::Path;

use super::node_owned::{is_key, row};
use super::own::Own;
use super::path::RootName;
use super::roots::{Shape, names};

#[derive(Clone, Debug, Default)]
pub struct Rules {
    more: Vec<String>,
    own: Own,
    binlogs: Option<Vec<String>>,
}

impl Rules {
    /// The standing rules, the operator's names or patterns (`keep`), and the node's own paths.
    pub fn new(more: Vec<String>, own: Own) -> Rules {
        Rules { more, own, binlogs: None }
    }

    /// Of the root `binlog` only these names are sent.
    #[must_use]
    pub fn with_binlogs(self, names: Vec<String>) -> Rules {
        Rules { binlogs: Some(names), ..self }
    }

    /// Whether to send the entry `name` directly beneath `root`, in `directory`.
    pub fn travels(&self, root: &RootName, directory: &Path, name: &OsStr, shape: Shape) -> bool {
        if let (RootName::BINLOG, Some(only)) = (root.as_str(), &self.binlogs) {
            return only.iter().any(|known| name == known.as_str());
        }
        row(name, shape).is_none_or(|row| row.sent)
            && !names(&self.more, name, shape)
            && !self.owns(directory, name, || shape)
    }

    /// Whether `name` in `directory`, at any depth, belongs to the node by the configuration, or is named like a key.
    pub fn owns(&self, directory: &Path, name: &OsStr, shape: impl Fn() -> Shape) -> bool {
        (is_key(name) && shape() == Shape::File)
            || (self.own.is_above(directory) && self.own.claims(directory, name, shape()).is_some())
    }

    /// The option by which `name` in `directory` belongs to the node.
    pub fn option(&self, directory: &Path, name: &OsStr) -> Option<&str> {
        let claimed = |shape| self.own.claims(directory, name, shape);
        claimed(Shape::File).or_else(|| claimed(Shape::Directory)).map(|own| own.option.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_travels_and_the_node_stays() {
        let rules = Rules::new(vec!["mine.*".into(), "import".into()], Own::default());
        let travels = |name: &str, shape| rules.travels(&RootName::datadir(), Path::new("/d"), name.as_ref(), shape);
        for name in ["ibdata1", "ib_logfile0", "undo001", "aria_log.00000001", "binlog.000001", "mysql_upgrade_info"] {
            assert!(travels(name, Shape::File), "{name}");
        }
        for name in ["grastate.dat", "galera.cache", "server-key.pem", "host.err", "ddl_recovery.log", "mine.x"] {
            assert!(!travels(name, Shape::File), "{name}");
        }
        for name in ["mysql", "#rocksdb", "mine.x", "host.err", "undo7"] {
            assert!(travels(name, Shape::Directory), "{name}");
        }
        for name in ["lost+found", "import", ".ssh"] {
            assert!(!travels(name, Shape::Directory), "{name}");
        }
        let binlog: RootName = "binlog".parse().unwrap();
        let rules = rules.with_binlogs(vec!["b.000002".into()]);
        let travels = |name: &str| rules.travels(&binlog, Path::new("/d"), name.as_ref(), Shape::File);
        assert!(travels("b.000002") && !travels("b.000001") && !travels("b.index"));
    }
}
