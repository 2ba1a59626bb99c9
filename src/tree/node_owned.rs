//! The names that belong to a node rather than to its data: one table for what a donor leaves out and what a joiner
//! keeps.
//!
//! It applies to names directly beneath a root. A top-level *directory* is a schema, whatever its name, so a pattern
//! never matches one: it stays behind only if this table has its exact name, or if the configuration says so
//! ([`super::Own`]).

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::data_files::is_data_file;
use super::roots::{Shape, matches, names};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// For files, patterns as in [`super::matches`]; for directories, exact names.
    pub names: &'static [&'static str],
    pub shape: Shape,
    /// Whether a donor sends it.
    pub sent: bool,
    /// Whether a joiner keeps its own when its tree is replaced.
    pub kept: bool,
    pub why: &'static str,
}

const fn files(names: &'static [&'static str], kept: bool, why: &'static str) -> Row {
    Row { names, shape: Shape::File, sent: false, kept, why }
}

const fn directories(names: &'static [&'static str], kept: bool, why: &'static str) -> Row {
    Row { names, shape: Shape::Directory, sent: false, kept, why }
}

/// The first matching row counts. Regular files, sockets, pipes and symlinks that do not lead to a directory are files
/// here.
pub const TABLE: &[Row] = &[
    Row {
        names: &["mariadb_upgrade_info", "mysql_upgrade_info"],
        shape: Shape::File,
        sent: true,
        kept: false,
        why: "says which release wrote the tables",
    },
    files(&["grastate.dat", "gvwstate.dat"], true, "where the provider stands"),
    files(&["galera.cache", "gcache.page.*"], true, "the provider's write-set cache"),
    files(
        &[".highline", ".highline.lock", ".highline.manifest", ".highline.status"],
        true,
        "lock, manifest and status of this program",
    ),
    files(&[".highline.kept.*"], true, "what an earlier attempt has left for the next"),
    directories(&[".highline"], true, "where this program stages a tree"),
    files(
        &["ddl_log.log", "ddl_recovery*.log", "tc.log"],
        false,
        "the server would replay it on whatever tree it finds",
    ),
    files(&["*.err", "*.log"], true, "a log of the server, or of a plugin"),
    files(
        &[
            "*.err.#",
            "*.err.#.*",
            "*.err-#*",
            "*.err.old",
            "*.err.gz",
            "*.log.#",
            "*.log.#.*",
            "*.log-#*",
            "*.log.old",
            "*.log.gz",
        ],
        true,
        "a log that was rotated",
    ),
    files(&["innodb_status.#"], true, "InnoDB's report on itself (innodb-status-file)"),
    files(&["*.pid", "*.sock", "*.sock.lock"], true, "of the running server"),
    files(KEYS, true, "a certificate or key"),
    directories(&[".ssh", ".gnupg"], true, "keys of the server's account"),
    files(
        &[".my.cnf", ".mylogin.cnf", ".netrc", ".*_history"],
        true,
        "of the server's account, whose home the data directory is",
    ),
    files(&["auto.cnf"], true, "the server's identity"),
    files(
        &[
            "*-relay-bin*.#",
            "*-relay-bin*.index",
            "master-*.info",
            "master.info",
            "multi-master.info",
            "relay-log-*.info",
            "relay-log.info",
        ],
        true,
        "what a replica keeps about its source, from which another node does not replicate",
    ),
    files(&["ibtmp*"], true, "temporary tables, made anew at each start"),
    files(&["#sql*"], false, "a temporary table of a statement, where tmpdir is the data directory"),
    files(
        &["ib_buffer_pool", "ib_buffer_pool.incomplete", "ib_lru_dump"],
        false,
        "which pages of its tree were in memory",
    ),
    files(&["core", "core.#"], true, "the memory of a server that crashed"),
    files(
        &["sst_error", "sst_in_progress", "tables_flushed", "wsrep_sst.pid"],
        true,
        "by which the server and a transfer talk",
    ),
    files(
        &[
            "backup_sst_complete",
            "donor_galera_info",
            "mariadb_backup_galera_info",
            "rsync_sst_complete",
            "sst_error.*",
            "tables_flushed.*",
            "wsrep_sst_binlog.tar",
            "xtrabackup_galera_info",
            "xtrabackup_ist",
        ],
        false,
        "left by a transfer of another method",
    ),
    directories(&[".sst"], false, "where another method stages a tree"),
    directories(&["lost+found", ".snapshot", ".zfs"], true, "of the filesystem"),
];

/// Names of certificates, keys and key stores, in any directory.
const KEYS: &[&str] = &["*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"];

/// Whether a file, in any directory, is a key by its name.
pub(super) fn is_key(name: &OsStr) -> bool {
    KEYS.iter().any(|pattern| matches(pattern, name.as_bytes()))
}

/// Whether a file is a key by its name, or contains a private key. Data files, unreadable files and files longer than
/// any key are not examined.
pub fn is_key_file(place: &Path) -> bool {
    const LONGEST: u64 = 64 * 1024;
    let name = place.file_name().unwrap_or_default();
    if is_key(name) {
        return true;
    }
    if is_data_file(name) || !place.symlink_metadata().is_ok_and(|stat| stat.is_file() && stat.len() <= LONGEST) {
        return false;
    }
    let mut text = Vec::new();
    let read = File::open(place).and_then(|file| file.take(LONGEST).read_to_end(&mut text));
    let marked = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    // Table rows may contain a key too, but those files are not text.
    let is_text = || {
        std::str::from_utf8(&text).is_ok_and(|text| !text.contains(|c: char| c.is_control() && !"\t\r\n".contains(c)))
    };
    read.is_ok() && marked(b"-----BEGIN ") && marked(b"PRIVATE KEY") && is_text()
}

/// The row for a top-level name.
pub fn row(name: &OsStr, shape: Shape) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.shape == shape && names(row.names, name, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_row() {
        for (name, sent, kept) in [
            ("grastate.dat", false, true),
            ("gcache.page.000001", false, true),
            ("server-key.pem", false, true),
            ("client.key", false, true),
            ("db1.err", false, true),
            ("db1.err.1", false, true),
            ("general.log", false, true),
            ("general.log-20260101.gz", false, true),
            ("server_audit.log.3", false, true),
            (".highline.manifest", false, true),
            (crate::progress::status::FILE, false, true),
            (".highline.kept.shop%2ft.ibd", false, true),
            ("ddl_recovery.log", false, false),
            ("ddl_recovery-backup.log", false, false),
            ("tc.log", false, false),
            ("innodb_status.4711", false, true),
            ("ibtmp1", false, true),
            ("donor_galera_info", false, false),
            ("db1-relay-bin.000003", false, true),
            ("multi-master.info", false, true),
            ("core.77", false, true),
            ("mysql_upgrade_info", true, false),
        ] {
            let row = row(name.as_ref(), Shape::File).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((row.sent, row.kept), (sent, kept), "{name}");
        }
        for name in ["ibdata1", "ib_logfile0", "undo001", "aria_log_control", "aria_log.00000001", "mysql-bin.000001"] {
            assert!(row(name.as_ref(), Shape::File).is_none(), "{name}");
        }
    }

    #[test]
    fn a_private_key_is_known_by_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = "a: certificate\n-----BEGIN EC PRIVATE KEY-----\nMHc=\n";
        for (name, content, is_key) in [
            ("any name", key.as_bytes().to_vec(), true),
            ("x.pem", b"".to_vec(), true),
            ("certificate", b"-----BEGIN CERTIFICATE-----\n".to_vec(), false),
            ("t.CSV", key.as_bytes().to_vec(), false),
            ("binlog.000001", [b"\xfebin\0", key.as_bytes()].concat(), false),
            ("000012.sst", [key.as_bytes(), b"\0\x01"].concat(), false),
            ("long", [key.as_bytes(), &[b' '; 70_000]].concat(), false),
        ] {
            std::fs::write(dir.path().join(name), content).unwrap();
            assert_eq!(is_key_file(&dir.path().join(name)), is_key, "{name}");
        }
        assert!(!is_key_file(&dir.path().join("nowhere")));
    }

    #[test]
    fn a_schema_is_never_taken_for_a_file_of_the_node() {
        for name in [
            "ibtmp_archive",
            "ibtmp1",
            "undo7",
            "sst_errors",
            "sst_error",
            "tables_flushed",
            "donor_galera_info",
            "grastate.dat",
            "core",
            "x.log",
            "x.pem",
            "galera.cache",
            "auto.cnf",
            "mysql",
            "ib_buffer_pool",
            "#rocksdb",
            ".highline.kept.x",
        ] {
            assert!(row(name.as_ref(), Shape::Directory).is_none(), "{name}");
        }
        for name in ["lost+found", ".snapshot", ".zfs", ".highline", ".ssh"] {
            assert!(row(name.as_ref(), Shape::Directory).is_some_and(|row| row.kept), "{name}");
        }
    }
}
