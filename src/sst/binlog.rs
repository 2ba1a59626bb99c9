//! Binary logs: which of them are sent, and the index that lists them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::options::Binlogs;
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Own, Rules, matches};

/// The binary log of one node: files `base.000001` and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binlog {
    pub directory: PathBuf,
    pub base: String,
    /// The file that lists them; it may be in another directory.
    pub index: PathBuf,
}

impl Binlog {
    /// The most bytes of an index to read: about 100,000 logs.
    const MAX_BYTES: u64 = 8 << 20;

    /// The rules for what is sent, including which binary logs.
    pub fn rules(binlog: Option<&Binlog>, which: Binlogs, keep: &[String], own: &Own) -> Result<Rules> {
        let rules = Rules::new(keep.to_vec(), own.clone());
        match binlog {
            Some(binlog) => Ok(rules.with_binlogs(binlog.newest(which)?)),
            None => Ok(rules),
        }
    }

    /// The names, oldest first, of the newest logs that the index lists and that exist.
    pub fn newest(&self, which: Binlogs) -> Result<Vec<String>> {
        let mut listed = self.listed()?;
        if let Binlogs::Newest(count) = which {
            let skip = listed.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
            listed.drain(..skip);
        }
        listed.retain(|name| self.directory.join(name).is_file());
        Ok(listed)
    }

    /// The names in the index, oldest first; none if there is no index.
    pub fn listed(&self) -> Result<Vec<String>> {
        let mut text = Vec::new();
        let file = match File::open(&self.index) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("cannot open", &self.index, error)),
        };
        let read = file.take(Self::MAX_BYTES).read_to_end(&mut text);
        read.map_err(|error| Error::io("cannot read", &self.index, error))?;
        let name = |line: &[u8]| {
            let name = Path::new(std::ffi::OsStr::from_bytes(line)).file_name().and_then(|name| name.to_str());
            name.map(str::to_owned).ok_or_else(|| {
                let index = Printable::path(&self.index);
                Error::new(Kind::Usage, format!("{index} has a line that is not a file name: {}", Printable(line)))
            })
        };
        text.split(|&b| b == b'\n').filter(|line| !line.is_empty()).map(name).collect()
    }

    /// Writes the logs that arrived to this node's index, durably; if none arrived there is no index.
    pub fn index_arrived(&self) -> Result<()> {
        let failed = |e| Error::io("cannot write the index of the binary logs", &self.index, e);
        let names = self.arrived().map_err(failed)?;
        let parent = self.index.parent().unwrap_or(Path::new("."));
        if names.is_empty() {
            match std::fs::remove_file(&self.index) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        } else {
            let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
            file.write_all(&self.index_of(&names)).map_err(failed)?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
            file.as_file().set_permissions(mode).map_err(failed)?;
            file.as_file().sync_all().map_err(failed)?;
            file.persist(&self.index).map_err(|e| failed(e.error))?;
        }
        std::fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)
    }

    fn arrived(&self) -> std::io::Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(&self.directory)?
            .filter_map(|item| item.ok()?.file_name().into_string().ok())
            .filter(|name| matches(&format!("{}.#", self.base), name.as_bytes()) && self.directory.join(name).is_file())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The content of an index that lists these names, in this node's own directory.
    pub fn index_of(&self, names: &[String]) -> Vec<u8> {
        let mut text = Vec::new();
        for name in names {
            text.extend_from_slice(self.directory.join(name).as_os_str().as_bytes());
            text.push(b'\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_logs_travel_and_the_index_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let binlog = Binlog { directory: path.clone(), base: "b".into(), index: path.join("b.index") };
        assert_eq!(binlog.newest(Binlogs::All).unwrap(), [""; 0]);
        std::fs::write(&binlog.index, "./b.000001\n/old/place/b.000002\nb.000003\nb.000004\n").unwrap();
        for number in [1, 2, 4] {
            std::fs::write(path.join(format!("b.00000{number}")), "").unwrap();
        }
        for (which, expected) in [
            (Binlogs::All, &["b.000001", "b.000002", "b.000004"][..]),
            (Binlogs::Newest(3), &["b.000002", "b.000004"]),
            (Binlogs::Newest(1), &["b.000004"]),
            (Binlogs::Newest(0), &[]),
            (Binlogs::Newest(u32::MAX), &["b.000001", "b.000002", "b.000004"]),
        ] {
            assert_eq!(binlog.newest(which).unwrap(), expected, "{which:?}");
        }
        let index = String::from_utf8(binlog.index_of(&["b.000004".to_owned()])).unwrap();
        assert_eq!(index, format!("{}/b.000004\n", path.display()));
        std::fs::write(&binlog.index, "/\n").unwrap();
        assert!(binlog.listed().unwrap_err().sentence().ends_with("has a line that is not a file name: /"));
    }
}
