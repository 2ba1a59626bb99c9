//! Clones of the server's files: unnamed files that share its blocks until those are written (`FICLONE`,
//! ioctl_ficlone(2)). Under the lock they take the place of reading: the server is released, and the clones are read.
//!
//! While one is held, whatever the server writes needs new blocks, even where it writes in place. On a full filesystem
//! InnoDB would abort on its own redo log, so room is asked for before and watched, and clones go long before the
//! server could feel it. A process that is killed leaves none behind: they have no name.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{IFlags, Mode, OFlags, ioctl_ficlone, ioctl_getflags, ioctl_setflags, open, statvfs};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::error::{Error, Kind, Printable, Result};
use crate::progress::bytes;

/// Below this mean length of an extent a clone costs more than reading: each of them takes as long as some 32 KiB.
const SHORTEST_EXTENT: u64 = 64 << 10;
/// Descriptors that a transfer needs beside its clones: lanes, files under way, the control connection.
const OTHERS: u64 = 256;
/// Room that must stay free on a filesystem while clones are held there.
const RESERVE: u64 = 256 << 20;

/// A clone of `file`, in `directory`, which must be on the same filesystem.
pub(super) fn clone(file: &File, directory: &Path) -> std::io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let unnamed = open(directory, flags, Mode::RUSR | Mode::WUSR)?;
    match ioctl_ficlone(&unnamed, file) {
        Ok(()) => Ok(unnamed.into()),
        // btrfs: a file without checksums can only be cloned into another one (`chattr +C`, btrfs(5)).
        Err(Errno::INVAL) if ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::NOCOW)) => {
            let unnamed = open(directory, flags, Mode::RUSR | Mode::WUSR)?;
            let now = ioctl_getflags(&unnamed)?;
            ioctl_setflags(&unnamed, now | IFlags::NOCOW)?;
            ioctl_ficlone(&unnamed, file)?;
            Ok(unnamed.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether cloning `file` of `size` bytes is cheaper than reading it, by how many extents it lies in (FIEMAP). Where
/// nobody can tell, it is.
pub(super) fn is_cheap(file: impl AsFd, size: u64) -> bool {
    let most = size / SHORTEST_EXTENT + 1;
    let extents = fiemap::Fiemap::new(file).take_while(std::result::Result::is_ok).take(most as usize + 1).count();
    extents as u64 <= most
}

/// How many clones this process may hold: each is open twice, once past the page cache.
pub(super) fn most() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX).min(1 << 20)
}

/// Whether the filesystem of `directory` has room for clones of so many bytes, should the server write all of them.
pub(super) fn fits(directory: &Path, cloned: u64) -> Result<bool> {
    Ok(free(directory)? > cloned.saturating_add(cloned / 10).saturating_add(RESERVE))
}

/// Fails when the filesystem of `directory`, on which clones are held, runs out of room.
pub(super) fn watch(directory: &Path) -> Result<()> {
    let free = free(directory)?;
    if free > RESERVE {
        return Ok(());
    }
    let what = format!("only {} are free on the filesystem of {}", bytes(free), Printable::path(directory));
    Err(Error::new(Kind::NoSpace, format!("{what}, and clones of the server's files were held there"))
        .remedy("free space there, or set freeze=rounds, which needs none"))
}

fn free(directory: &Path) -> Result<u64> {
    let stat = statvfs(directory).map_err(|e| Error::io("cannot ask for the space of", directory, e))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
