//! The joiner's part: `mariadb-backup --prepare`, which turns a backup into the files of a stopped server.
//!
//! What the donor's server has set, the program reads from `backup-my.cnf` in the backup. That file comes from the donor,
//! and could have the program load any library, so this node writes its own.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::run::{cause, failure};
use super::{CHECKPOINTS, ProgramOptions, program, settings, words};
use crate::error::{Error, Kind, Result};
use crate::progress::Reporter;
use crate::stop::Stop;
use crate::threads::{Killed, exited};

/// How a backup is prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepare {
    /// `use-memory`, in bytes.
    pub memory: Option<u64>,
    /// The operator's own.
    pub options: ProgramOptions,
    /// The names of the system tablespace's files, in order. Without any they are `ibdata1`, `ibdata2`, …
    pub data_files: Vec<String>,
    /// This node's own options for its plugins with keys and compression: names and values.
    pub plugins: Vec<(String, OsString)>,
}

/// The file with the options that were the server's.
const SETTINGS: &str = "backup-my.cnf";

impl Prepare {
    /// Whether encrypted files can be read.
    pub fn has_keys(&self) -> bool {
        self.plugins.iter().any(|(name, _)| name == "plugin-load")
    }

    /// Writes this node's own settings into the backup in `dir`, instead of the donor's.
    fn write_settings(&self, dir: &Path, page_size: Option<u32>) -> Result<()> {
        let path = dir.join(SETTINGS);
        let failed = |e| Error::io("cannot write", &path, e);
        let mut text = b"[mysqld]\n".to_vec();
        if let Some(size) = page_size {
            text.extend(settings::line("innodb_page_size", size.to_string().as_ref()));
        }
        let files = self.system_files(dir)?;
        if !files.is_empty() {
            text.extend(settings::line("innodb_data_file_path", files.as_ref()));
        }
        for (name, value) in &self.plugins {
            text.extend(settings::line(name, value));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        file.write_all(&text).map_err(failed)
    }

    /// `innodb_data_file_path`, with the lengths that the files have.
    fn system_files(&self, dir: &Path) -> Result<String> {
        let numbered: Vec<String>;
        let names = if self.data_files.is_empty() {
            numbered = (1..).map(|n| format!("ibdata{n}")).take_while(|name| dir.join(name).exists()).collect();
            &numbered
        } else {
            &self.data_files
        };
        let mut files = Vec::new();
        for name in names {
            let stat = std::fs::metadata(dir.join(name)).map_err(|e| {
                let what = format!("the backup has no {name}, which is part of this node's system tablespace");
                Error::new(Kind::Incompatible, what)
                    .because(e)
                    .remedy("set innodb_data_file_path to the same value on all nodes")
            })?;
            // The server counts in these, too.
            files.push(format!("{name}:{}M", stat.len() >> 20));
        }
        if let Some(last) = files.last_mut() {
            last.push_str(":autoextend");
        }
        Ok(files.join(";"))
    }

    /// Prepares the backup in `dir`, whose pages have `page_size` bytes. The program is killed when `stop` asks for it, or
    /// this is dropped.
    ///
    /// # Errors
    /// Also if the program succeeds and the backup does not say that it is prepared.
    pub async fn run(
        &self,
        dir: &Path,
        page_size: Option<u32>,
        reporter: Arc<dyn Reporter>,
        stop: &Stop,
    ) -> Result<()> {
        let program = program()?;
        self.write_settings(dir, page_size)?;
        let memory = self.memory.unwrap_or_else(spare_memory);
        let mut command = Command::new(&program);
        command.arg("--prepare").arg(format!("--use-memory={memory}"));
        let mut target = std::ffi::OsString::from("--target-dir=");
        target.push(dir);
        command.arg(target).args(&self.options.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| Error::io("cannot run", &program, e))?;
        let mut child = Killed(child);
        let said = child.0.stderr.take().map(|said| words::listen(said, reporter, || {}));
        let status = tokio::select! {
            ended = exited(&mut child.0) => ended.map_err(waiting)?,
            asked = stop.requested() => return Err(asked),
        };
        if status.success() {
            return is_prepared(dir);
        }
        let said = cause(said).await;
        Err(failure("cannot prepare the backup", status, said).remedy(
            "see what mariadb-backup says in the joiner's log: its version must be the server's, and use-memory must fit",
        ))
    }
}

/// Whether the backup in `dir` says so: some options have the program succeed and do nothing.
fn is_prepared(dir: &Path) -> Result<()> {
    let said = CHECKPOINTS.iter().find_map(|name| std::fs::read_to_string(dir.join(name)).ok()).unwrap_or_default();
    let kind = said.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == "backup_type");
    if kind.is_some_and(|(_, kind)| kind.trim() == "log-applied") {
        return Ok(());
    }
    Err(Error::new(Kind::Integrity, "mariadb-backup reports success but has not prepared the backup")
        .remedy("remove inno-apply-opts from the joiner's options; see what mariadb-backup says in the joiner's log"))
}

fn waiting(error: std::io::Error) -> Error {
    Error::new(Kind::Io, "cannot wait for mariadb-backup").because(error)
}

/// A quarter of the free memory, from 128 MiB to 1 GiB: with a long redo log, more is faster.
fn spare_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
    (free.saturating_mul(1024) / 4).clamp(128 << 20, 1 << 30)
}

/// Whether a first-level file of a prepared backup is only for the program itself: no server reads it.
pub fn is_left_over(name: &str) -> bool {
    name == SETTINGS || name.starts_with("xtrabackup_") || name.starts_with("mariadb_backup_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_this_nodes_and_the_lengths_those_of_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, len: u64| {
            std::fs::File::create(dir.path().join(name)).unwrap().set_len(len).unwrap();
        };
        std::fs::write(dir.path().join(SETTINGS), "[mysqld]\nplugin_dir=/tmp/evil\n").unwrap();
        file("ibdata1", 12 << 20);
        file("ibdata2", (14 << 20) + 4096);
        let text = || std::fs::read_to_string(dir.path().join(SETTINGS)).unwrap();
        Prepare::default().write_settings(dir.path(), Some(8192)).unwrap();
        let expected =
            "[mysqld]\ninnodb_page_size=\"8192\"\ninnodb_data_file_path=\"ibdata1:12M;ibdata2:14M:autoextend\"\n";
        assert_eq!(text(), expected);
        let plugins = vec![("plugin-load".to_owned(), "file_key_management".into())];
        let named = Prepare { data_files: vec!["ibdata2".into(), "ibdata1".into()], plugins, ..Prepare::default() };
        named.write_settings(dir.path(), None).unwrap();
        assert_eq!(
            text(),
            "[mysqld]\ninnodb_data_file_path=\"ibdata2:14M;ibdata1:12M:autoextend\"\nplugin-load=\"file_key_management\"\n"
        );
        let missing = Prepare { data_files: vec!["ibdata1".into(), "other".into()], ..Prepare::default() };
        let error = missing.write_settings(dir.path(), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
        assert!(error.sentence().starts_with("the backup has no other, which is part of"), "{}", error.sentence());
    }

    #[test]
    fn success_alone_is_no_evidence_of_a_prepared_backup() {
        let dir = tempfile::tempdir().unwrap();
        for (said, good) in [
            (None, false),
            (Some("backup_type = full-backuped\nto_lsn = 7\n"), false),
            (Some("backup_type = log-applied\nto_lsn = 7\n"), true),
        ] {
            if let Some(said) = said {
                std::fs::write(dir.path().join(CHECKPOINTS[1]), said).unwrap();
            }
            let kind = is_prepared(dir.path()).map_err(|error| error.kind());
            assert_eq!(kind, if good { Ok(()) } else { Err(Kind::Integrity) }, "{said:?}");
        }
    }
}
