//! What tells whether a file has changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What `stat` says about a file's identity and age. Equal stamps mean that the file was not written in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub size: u64,
    inode: u64,
    device: u64,
    /// Seconds since 1970 and, in `nanos`, nanoseconds.
    mtime: i64,
    ctime: i64,
    nanos: (u32, u32),
}

impl Stamp {
    pub fn of(stat: &fs::Metadata) -> Stamp {
        let nanos = |nanos| u32::try_from(nanos).unwrap_or_default();
        Stamp {
            size: stat.size(),
            inode: stat.ino(),
            device: stat.dev(),
            mtime: stat.mtime(),
            ctime: stat.ctime(),
            nanos: (nanos(stat.mtime_nsec()), nanos(stat.ctime_nsec())),
        }
    }

    /// The filesystem that the file is on.
    pub fn device(&self) -> u64 {
        self.device
    }

    pub fn inode(&self) -> u64 {
        self.inode
    }

    pub fn is_same_file(self, other: Stamp) -> bool {
        (self.inode, self.device) == (other.inode, other.device)
    }

    /// Whether it was last written before `when`, by both of its times.
    pub fn is_older_than(&self, when: SystemTime) -> bool {
        let when = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        let when = (i64::try_from(when.as_secs()).unwrap_or(i64::MAX), when.subsec_nanos());
        self.times().into_iter().all(|time| time < when)
    }

    /// Its modification and its change.
    fn times(self) -> [(i64, u32); 2] {
        [(self.mtime, self.nanos.0), (self.ctime, self.nanos.1)]
    }

    /// When it last changed, since 1970; `None` if earlier.
    pub fn changed(self) -> Option<Duration> {
        let (secs, nanos) = self.times().into_iter().max()?;
        Some(Duration::new(u64::try_from(secs).ok()?, nanos))
    }
}
