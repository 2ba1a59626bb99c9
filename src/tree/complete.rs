//! What a server's directories must contain between them: a copy without one of these parts is incomplete.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::entry::{Content, Entry};
use super::innodb::undo_tablespaces;
use super::path::RootName;
use super::roots::{Roots, Scope, matches};
use super::scan::{Found, locate};
use crate::error::Printable;

/// A part that a data directory of MariaDB always has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    SystemTablespace,
    RedoLog,
    MysqlSchema,
    AriaControl,
}

impl Part {
    pub const ALL: [Part; 4] = [Part::SystemTablespace, Part::RedoLog, Part::MysqlSchema, Part::AriaControl];

    /// Which part an entry is, if any.
    pub fn of(entry: &Entry) -> Option<Part> {
        let file = entry.content != Content::Directory;
        if entry.path.parent().is_some() {
            return None;
        }
        match (entry.path.root_str(), entry.path.first().to_str()?) {
            _ if file && entry.path.is_in_innodb_data() => Some(Part::SystemTablespace),
            (RootName::INNODB_LOG, _) if file => Some(Part::RedoLog),
            (RootName::ARIA_LOG, "aria_log_control") if file => Some(Part::AriaControl),
            // A symlink may replace the directory.
            (RootName::DATADIR, "mysql") if !matches!(entry.content, Content::File { .. }) => Some(Part::MysqlSchema),
            _ => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::SystemTablespace => "the system tablespace (ibdata1)",
            Part::RedoLog => "the redo log (ib_logfile0)",
            Part::MysqlSchema => "the schema mysql",
            Part::AriaControl => "Aria's control file (aria_log_control)",
        })
    }
}

/// The parts found among these entries.
pub fn parts<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeSet<Part> {
    entries.into_iter().filter_map(Part::of).collect()
}

/// Describes everything a donor's tree lacks; empty if it is complete.
///
/// In addition to the parts: each file of the system tablespace that the configuration names, and as many undo
/// tablespaces as the system tablespace says.
pub fn lacks(roots: &Roots, found: &[Found]) -> Vec<String> {
    let present = parts(found.iter().map(|found| &found.entry));
    let mut lacks: Vec<String> =
        Part::ALL.iter().filter(|part| !present.contains(part)).map(ToString::to_string).collect();
    let here = |root: &str, pattern: &str| {
        let named = |found: &&Found| found.entry.path.root_str() == root && found.entry.path.parent().is_none();
        found.iter().filter(named).filter(|found| matches(pattern, found.entry.path.first().as_encoded_bytes())).count()
    };
    if present.contains(&Part::SystemTablespace) {
        for root in roots.iter() {
            let Scope::Names(patterns) = &root.scope else { continue };
            let system = root.name.is_innodb_data();
            let literal = |pattern: &&String| system && !pattern.contains(['*', '#']);
            for name in patterns.iter().filter(literal).filter(|name| here(root.name.as_str(), name) == 0) {
                lacks.push(format!("{} of the system tablespace", Printable::path(&root.path.join(name))));
            }
        }
    }
    let first = found.iter().find(|found| Part::of(&found.entry) == Some(Part::SystemTablespace));
    let wanted = first.and_then(|found| undo_tablespaces(&locate(roots, &found.entry.path)?));
    if let Some(wanted) = wanted {
        let there = here(RootName::INNODB_UNDO, "undo#");
        if there < wanted {
            lacks.push(format!("{} of {wanted} undo tablespaces (undo001, …)", wanted - there));
        }
    }
    lacks
}

/// Whether MySQL 8.0 or later made the tree: it keeps its data dictionary in one tablespace, MariaDB has none.
pub fn is_of_mysql(found: &[Found]) -> bool {
    found
        .iter()
        .map(|found| &found.entry.path)
        .any(|path| path.root_str() == RootName::DATADIR && path.parent().is_none() && path.first() == "mysql.ibd")
}

#[cfg(test)]
mod tests {
    use super::super::rules::Rules;
    use super::super::scan::{Tolerance, scan};
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    fn lacking(data: &Path) -> Vec<String> {
        let mut roots = Roots::new(data, &BTreeMap::new()).unwrap();
        let found = scan(&mut roots, &Rules::default(), Tolerance::None).unwrap();
        lacks(&roots, &found)
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        fs::write(data.join("my.cnf"), "").unwrap();
        assert_eq!(lacking(data).len(), 4);
        fs::create_dir(data.join("mysql")).unwrap();
        fs::create_dir(data.join("ib_logfile0")).unwrap();
        for name in ["ibdata1", "aria_log_control"] {
            fs::write(data.join(name), name).unwrap();
        }
        assert_eq!(lacking(data), ["the redo log (ib_logfile0)"]);
        fs::remove_dir(data.join("ib_logfile0")).unwrap();
        fs::write(data.join("ib_logfile0"), "").unwrap();
        assert!(lacking(data).is_empty());
    }

    #[test]
    fn undo_tablespaces_that_the_system_tablespace_counts_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        fs::create_dir(data.join("mysql")).unwrap();
        for name in ["ib_logfile0", "aria_log_control", "undo001"] {
            fs::write(data.join(name), name).unwrap();
        }
        let mut system = vec![0; 6 * 16384];
        system[25] = 8;
        system[5 * 16384 + 25] = 7;
        let slots = &mut system[5 * 16384 + 56..][..1024];
        slots.fill(0xff);
        for (slot, space) in [0_u32, 1, 2, 3, 1, 2].into_iter().enumerate() {
            slots[slot * 8..][..4].copy_from_slice(&space.to_be_bytes());
            slots[slot * 8 + 4..][..4].copy_from_slice(&3_u32.to_be_bytes());
        }
        fs::write(data.join("ibdata1"), &system).unwrap();
        assert_eq!(lacking(data), ["2 of 3 undo tablespaces (undo001, …)"]);
        for name in ["undo002", "undo003"] {
            fs::write(data.join(name), name).unwrap();
        }
        assert!(lacking(data).is_empty());
    }
}
