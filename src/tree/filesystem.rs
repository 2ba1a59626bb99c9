//! How far the filesystems beneath the roots can be trusted, and how much room they have left.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open, statfs, statvfs, syncfs};

use super::roots::Roots;
use crate::error::{Error, Result};

/// `f_type` of the filesystems on which every store to a mapped file changes its times, once its pages have been
/// written back: ext2 to ext4, XFS, btrfs (statfs(2)). On others a file may change without a new stamp.
const STAMPS_TELL: [u64; 3] = [0xEF53, 0x5846_5342, 0x9123_683E];

/// The filesystems of a server's directories, by device.
#[derive(Clone, Debug, Default)]
pub struct Filesystems(BTreeMap<u64, Filesystem>);

#[derive(Clone, Debug)]
struct Filesystem {
    /// One of the directories on it.
    directory: PathBuf,
    stamps_tell: bool,
}

impl Filesystems {
    pub fn of(roots: &Roots) -> Result<Filesystems> {
        let mut all = BTreeMap::new();
        for directory in roots.directories() {
            let failed = |e: std::io::Error| Error::io("cannot read", directory, e);
            let device = std::fs::metadata(directory).map_err(failed)?.dev();
            let kind = statfs(directory).map_err(|e| failed(e.into()))?.f_type;
            // The number is signed on some architectures; only its bits matter.
            let stamps_tell = STAMPS_TELL.contains(&(kind as u64 & 0xFFFF_FFFF));
            all.entry(device).or_insert(Filesystem { directory: directory.to_owned(), stamps_tell });
        }
        Ok(Filesystems(all))
    }

    /// Whether a file there gets a new stamp whenever it is written. Filesystems mounted below a root are unknown here.
    pub fn stamps_tell(&self, device: u64) -> bool {
        self.0.get(&device).is_some_and(|filesystem| filesystem.stamps_tell)
    }

    /// A directory on each, and what [`Filesystems::stamps_tell`] says about it.
    pub fn directories(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.0.values().map(|filesystem| (filesystem.directory.as_path(), filesystem.stamps_tell))
    }

    /// A directory on that filesystem.
    pub fn directory(&self, device: u64) -> Option<&Path> {
        self.0.get(&device).map(|filesystem| filesystem.directory.as_path())
    }

    /// Writes back the page cache, so that the next store to a mapped page changes the file's
    /// times.
    pub fn write_back(&self) -> Result<()> {
        for Filesystem { directory, .. } in self.0.values() {
            let fd = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            fd.and_then(syncfs).map_err(|e| Error::io("cannot sync the filesystem of", directory, e))?;
        }
        Ok(())
    }
}

/// Bytes that this process may still write to the filesystem of `directory` (`f_bavail`, statvfs(3)).
pub fn free_space(directory: &Path) -> Result<u64> {
    let stat = statvfs(directory).map_err(|e| Error::io("cannot ask for the space of", directory, e))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
