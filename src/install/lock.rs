//! Who may write into a tree: one process of ours at a time, and none while a server uses it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType};

use super::dir::Dir;
use super::keep::LOCK;
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Roots, Scope, Shape, matches};

/// Exclusive use of a data directory among processes of this program: `flock` on `.highline.lock`,
/// released when the value is dropped or the process ends in any way.
#[derive(Debug)]
pub struct DirLock {
    pub(super) datadir: Dir,
    _held: File,
}

impl DirLock {
    /// Does not wait.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another process holds it, with its number.
    pub fn take(datadir: &Path) -> Result<DirLock> {
        let path = datadir.canonicalize().map_err(|e| Error::io("cannot open the data directory", datadir, e))?;
        let datadir = Dir::open(&path)?;
        let path = datadir.join(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&datadir, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::io("cannot open", &path, e))?;
        let mut held = File::from(fd);
        match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = Read::by_ref(&mut held).take(20).read_to_string(&mut holder);
                let who = holder.trim().parse::<u32>().map_or(String::new(), |pid| format!(" (process {pid})"));
                let what = format!("another highline{who} is working in {}", Printable::path(datadir.path()));
                return Err(Error::new(Kind::Busy, what).remedy("wait until it ends, or end it"));
            }
            Err(errno) => return Err(Error::io("cannot lock", &path, errno)),
        }
        if let Err(error) = datadir.give(&held, &path) {
            // Root without the right to change owners: its file would be in the server's way.
            if rustix::fs::fstat(&held).is_ok_and(|file| file.st_uid == rustix::process::geteuid().as_raw()) {
                let _ = rustix::fs::unlinkat(&datadir, LOCK, AtFlags::empty());
            }
            return Err(error);
        }
        let failed = |e| Error::io("cannot write", &path, e);
        held.set_len(0).map_err(failed)?;
        writeln!(held, "{}", std::process::id()).map_err(failed)?;
        Ok(DirLock { datadir, _held: held })
    }

    pub fn datadir(&self) -> &Path {
        self.datadir.path()
    }
}

/// Files that a running server keeps locked: InnoDB's system tablespace and log (`os_file_lock`,
/// `os0file.cc`) and Aria's control file (`ma_control_file.c`).
pub(super) const LOCKED: &[&str] = &["ibdata#", "ib_logfile#", "undo#", "aria_log_control"];

/// A file in these roots that a running server has locked, or `None`. Asks the kernel about record locks (`F_GETLK`),
/// opens files only for reading, and takes no lock itself.
///
/// Does not see a server on another kernel (a network filesystem without a lock daemon).
pub fn server_holding(roots: &Roots) -> Result<Option<PathBuf>> {
    for path in roots.directories() {
        if !path.exists() {
            continue;
        }
        let dir = Dir::open(path)?;
        for name in dir.names()? {
            let system =
                roots.owner(path, &name, Shape::File).is_some_and(|root| matches!(root.scope, Scope::Names(_)));
            if !system && !LOCKED.iter().any(|pattern| matches(pattern, name.as_bytes())) {
                continue;
            }
            if held_by_server(&dir, &name)? {
                return Ok(Some(dir.join(&name)));
            }
        }
    }
    Ok(None)
}

pub(super) fn held_by_server(dir: &Dir, name: &OsStr) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        other => other.map_err(|e| Error::io("cannot open", &dir.join(name), e))?,
    };
    let failed = |e| Error::io("cannot ask for locks on", &dir.join(name), e);
    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(false);
    }
    let wanted = Flock::from(FlockType::WriteLock);
    Ok(rustix::process::fcntl_getlk(&fd, &wanted).map_err(failed)?.is_some())
}

/// The error when a running server has locked `file`, so that the tree must not be read or written.
pub fn running(file: &Path) -> Error {
    let what = format!("a running server is using {}", Printable::path(file));
    Error::new(Kind::Busy, what).remedy("stop the server first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let first = DirLock::take(temp.path()).unwrap();
        let error = DirLock::take(temp.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
        drop(first);
        DirLock::take(temp.path()).unwrap();
    }
}
