//! Keeps servers out of both trees during the whole switch, with the same locks that a server takes: one that starts in
//! between refuses, instead of opening the old tablespace and then the new log.
//!
//! They belong to the open file (`F_OFD_SETLK`, `fcntl_locking(2)`). A lock that belongs to the process would be lost
//! when any other descriptor of the file is closed. The server's locks are of that kind, but they and ours exclude each
//! other all the same.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::dir::Dir;
use super::keep::HOME;
use super::lock::{LOCKED, held_by_server, running};
use super::resolved_roots::ResolvedRoots;
use super::switched_root::{INCOMING, PREVIOUS, Side};
use crate::error::{Error, Result};
use crate::tree::{Root, Scope, matches};

#[derive(Debug)]
pub(super) struct ServerLocks {
    held: Vec<Held>,
    /// A file on a filesystem without such locks.
    pub(super) unguarded: Option<PathBuf>,
}

#[derive(Debug)]
struct Held {
    file: File,
    side: Side,
    inode: (u64, u64),
    /// It has no other name, and was not reached through the operator's symlink.
    of_the_tree_alone: bool,
}

impl ServerLocks {
    /// Takes them on all such files of both trees in these roots; `live` is the side that is in place. Does not wait.
    ///
    /// # Errors
    /// A server that holds one.
    pub(super) fn take(resolved: &ResolvedRoots, live: Side) -> Result<ServerLocks> {
        let mut locks = ServerLocks { held: Vec::new(), unguarded: None };
        for root in resolved.roots.iter().filter(|root| root.scope != Scope::Listed) {
            let dir = Dir::open(&root.path)?;
            locks.take_in(&dir, root, live)?;
            let Some(home) = dir.find(HOME)? else { continue };
            for (kind, side) in [(PREVIOUS, Side::Old), (INCOMING, Side::New)] {
                if let Some(entries) = home.find(kind)?.map(|dir| dir.find(root.name.as_str())).transpose()?.flatten() {
                    locks.take_in(&entries, root, side)?;
                }
            }
        }
        Ok(locks)
    }

    fn take_in(&mut self, dir: &Dir, root: &Root, side: Side) -> Result<()> {
        for name in dir.names()? {
            if !locked_by_servers(root, name.as_encoded_bytes()) {
                continue;
            }
            let path = dir.join(&name);
            let open = |flags: OFlags| {
                rustix::fs::openat(dir, &name, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            };
            let (opened, linked) = match open(OFlags::RDWR | OFlags::NOFOLLOW) {
                // Ours leads to a file that is locked elsewhere here; the operator's is followed, as the server does.
                Err(Errno::LOOP) => (open(OFlags::RDWR), true),
                opened => (opened, false),
            };
            let fd = match opened {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::ISDIR | Errno::LOOP) => continue,
                // A server of this user cannot write to it either.
                Err(_) if held_by_server(dir, &name)? => return Err(running(&path)),
                Err(_) => continue,
            };
            let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("cannot examine", &path, e))?;
            let inode = (stat.st_dev, stat.st_ino);
            let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if regular && self.held.iter().all(|held| held.inode != inode) {
                let file = File::from(fd);
                self.lock(&file, &path)?;
                self.held.push(Held { file, side, inode, of_the_tree_alone: !linked && stat.st_nlink == 1 });
            }
        }
        Ok(())
    }

    fn lock(&mut self, file: &File, path: &Path) -> Result<()> {
        let whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => Ok(()),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Err(running(path)),
            Err(_) => {
                self.unguarded.get_or_insert_with(|| path.to_owned());
                Ok(())
            }
        }
    }

    /// Lets servers in again, on the surviving tree only.
    ///
    /// A waiting server has opened its file before it asks for the lock (`os_file_create_func`, `os0file.cc`, waits 100
    /// s; `lock_control_file`, `ma_control_file.c`, 30 s). If the file was in the tree `gone`, it must find it empty,
    /// and end. In the old tree this applies only to files that no longer have a name: another file by that name may be
    /// one that a server has made since.
    pub(super) fn release(self, gone: Side) {
        let nameless = |file: &File| rustix::fs::fstat(file).is_ok_and(|stat| stat.st_nlink == 0);
        let ended = |held: &&Held| held.side == gone && held.of_the_tree_alone;
        for held in self.held.iter().filter(ended).filter(|held| gone == Side::New || nameless(&held.file)) {
            // Only a server that started at the wrong moment depends on it.
            let _ = held.file.set_len(0);
        }
    }
}

pub(super) fn locked_by_servers(root: &Root, name: &[u8]) -> bool {
    let theirs = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
    LOCKED.iter().any(|pattern| matches(pattern, name))
        || (root.name.is_innodb() && matches!(&root.scope, Scope::Names(patterns) if theirs(patterns)))
}
