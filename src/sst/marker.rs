//! `sst_in_progress`: the file by which operators, probes and scripts tell a joining node from a stuck one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Side};

/// The marker; it exists as long as this value.
#[derive(Debug)]
pub struct InProgress(PathBuf);

impl InProgress {
    pub const NAME: &str = "sst_in_progress";

    /// Creates it, empty, mode 0660, or takes over one that an earlier attempt left.
    pub fn create(datadir: &Path) -> Result<InProgress> {
        let path = datadir.join(Self::NAME);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o660)
            .open(&path)
            .map_err(|error| Error::io("cannot create", &path, error).on(Side::Joiner))?;
        Ok(InProgress(path))
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_lives_as_long_as_the_transfer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sst_in_progress");
        fs::write(&path, "left").unwrap();
        let marker = InProgress::create(dir.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        drop(marker);
        assert!(!path.exists());
        let error = InProgress::create(&dir.path().join("missing")).unwrap_err();
        assert!(error.report().starts_with("joiner: cannot create "), "{}", error.report());
    }
}
