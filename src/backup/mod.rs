//! `mariadb-backup`, MariaDB's own program for copying a running server: on the donor it is run and its stream taken
//! apart, and on the joiner it prepares what has arrived.
//!
//! Knows the program and its formats. Knows no network and no protocol.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod mbstream;
mod options;
mod prepare;
mod program;
mod run;
mod settings;
mod words;

use serde::{Deserialize, Serialize};

pub use options::ProgramOptions;
pub use prepare::{Prepare, is_left_over};
pub use program::program;
pub use run::{Account, Backup, Running};

use crate::choice::words;
use crate::position::GaleraGtid;

/// Where a donor takes its data from: `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSource {
    /// The server's files, frozen for the last round.
    #[default]
    Files,
    /// A backup that the joiner prepares.
    Mariabackup,
}

words!(DataSource { Files = "files", Mariabackup = "mariabackup" | "mariadb-backup" });

/// The backup's file with the server's position in the cluster: its name until 11.0, and since.
pub const GALERA_INFO: [&str; 2] = ["xtrabackup_galera_info", "mariadb_backup_galera_info"];
/// A backup without this file is incomplete.
pub const CHECKPOINTS: [&str; 2] = ["xtrabackup_checkpoints", "mariadb_backup_checkpoints"];

/// Reads the first line of such a file: `uuid:seqno`, and the domain if the server reported it.
pub fn position(info: &[u8]) -> Option<GaleraGtid> {
    let line = std::str::from_utf8(info).ok()?.lines().next()?.trim();
    let gtid: GaleraGtid = line.parse().ok()?;
    gtid.position.is_known().then_some(gtid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_info_file_tells_position_and_domain() {
        let uuid = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";
        let read = |text: String| position(text.as_bytes()).map(|gtid| (gtid.position.seqno(), gtid.domain));
        assert_eq!(read(format!("{uuid}:7")), Some((7, None)));
        assert_eq!(read(format!("{uuid}:7 3\n")), Some((7, Some(3))));
        for bad in [String::new(), format!("{uuid}:-1"), format!("{uuid}:x"), "00".into()] {
            assert_eq!(read(bad), None);
        }
        assert_eq!(position(&[0xff]), None);
    }
}
