//! What may change in a donor's tree although its server is frozen, and who writes it. The reasons are in
//! `docs/under-the-freeze.md`.

use super::path::{RelPath, RootName};
use super::roots::matches;
use super::scan::Found;
use super::stamp::Stamp;

/// How still a file must hold for its copy to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stillness {
    /// It may not change, from before it is read until the server is released.
    Still,
    /// InnoDB's redo log: it may be written to, provided that its head is read before the rest and no other file
    /// changes.
    Journal,
    /// A log table: it may grow.
    Log,
}

impl Stillness {
    pub fn of(path: &RelPath) -> Stillness {
        let bytes = path.as_bytes();
        let log = |end: &str| bytes.ends_with(end.as_bytes());
        if path.root_str() == RootName::INNODB_LOG
            && matches("ib_logfile#", path.beneath().as_os_str().as_encoded_bytes())
        {
            return Stillness::Journal;
        }
        let tables = [b"datadir/mysql/general_log.".as_slice(), b"datadir/mysql/slow_log."];
        let files = ["CSV", "CSM", "MYD", "MYI", "MAD", "MAI"];
        match tables.iter().any(|table| bytes.starts_with(table)) && files.iter().any(|end| log(end)) {
            true => Stillness::Log,
            false => Stillness::Still,
        }
    }

    /// Whether a file that was `before` and is `now` has held still enough.
    pub fn holds(self, before: Stamp, now: Stamp) -> bool {
        match self {
            Stillness::Still => before == now,
            Stillness::Journal => before.is_same_file(now) && before.size == now.size,
            Stillness::Log => before.is_same_file(now) && before.size <= now.size,
        }
    }
}

impl Found {
    pub fn stillness(&self) -> Stillness {
        Stillness::of(&self.entry.path)
    }
}

/// Whether something may vanish without harm: temporary tables, and what MyRocks has merged into other files.
pub fn may_vanish(path: &RelPath) -> bool {
    let name = path.as_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name.starts_with(b"#sql") || in_rocksdb(path)
}

fn in_rocksdb(path: &RelPath) -> bool {
    path.root_str() == RootName::DATADIR && matches!(path.first().as_encoded_bytes(), b"#rocksdb" | b".rocksdb")
}

/// Who may be writing to a file under the lock, and how to prevent that.
pub fn likely_writer(path: &RelPath) -> &'static str {
    let bytes = path.as_bytes();
    let ends = |ends: &[&str]| ends.iter().any(|end| bytes.ends_with(end.as_bytes()));
    if in_rocksdb(path) {
        "MyRocks writes to it, and its background work ignores the lock: SET GLOBAL rocksdb_pause_background_work=1 on this node during the transfer"
    } else if path.root_str().starts_with("innodb-") || ends(&[".ibd"]) {
        "InnoDB writes to it for a client that creates temporary tables or analyzes tables: keep such clients off this node during the transfer"
    } else if ends(&[".MYI", ".MYD", ".MAI", ".MAD"]) {
        "CHECK TABLE, FLUSH LOCAL TABLES or another maintenance job writes to it: keep such jobs off this node during the transfer"
    } else {
        "a program other than the server may write to it, or it is a log of the server's"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_logs_may_be_written_on() {
        use Stillness::{Journal, Log, Still};
        for (name, stillness) in [
            ("innodb-log/ib_logfile0", Journal),
            ("innodb-log/ib_logfile101", Journal),
            ("innodb-log/ib_logfile0.old", Still),
            ("datadir/ib_logfile0", Still),
            ("datadir/mysql/general_log.CSV", Log),
            ("datadir/mysql/slow_log.MAI", Log),
            ("datadir/mysql/slow_log.frm", Still),
            ("datadir/shop/general_log.CSV", Still),
            ("datadir/mysql/user.MAD", Still),
            ("innodb-data/ibdata1", Still),
        ] {
            assert_eq!(Stillness::of(&path(name)), stillness, "{name}");
        }
    }

    #[test]
    fn what_may_vanish_and_who_writes() {
        for (name, vanishes, writer) in [
            ("datadir/shop/#sql-ib7.ibd", true, "InnoDB"),
            ("datadir/#rocksdb/000012.sst", true, "MyRocks"),
            ("datadir/shop/t.ibd", false, "InnoDB"),
            ("innodb-data/ibdata1", false, "InnoDB"),
            ("datadir/shop/t#sql.MYI", false, "CHECK TABLE"),
            ("datadir/letter", false, "a program other than the server"),
        ] {
            assert_eq!(may_vanish(&path(name)), vanishes, "{name}");
            assert!(likely_writer(&path(name)).starts_with(writer), "{name}");
        }
    }
}
