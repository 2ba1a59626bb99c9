//! Finds out in advance whether an old tree can be moved or removed: otherwise the switch would fail after the whole
//! copy.
//!
//! It changes nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, FileType, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::dir::Dir;
use super::keep::{HOME, KeepRules};
use super::resolved_roots::ResolvedRoots;
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Root, Scope};

const PROBE: &str = "rehearsal";
/// A directory that is not empty, so nothing can replace it.
const FULL: &str = "full";

/// This process's mount points.
#[derive(Debug)]
pub(super) struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// `proc_pid_mountinfo(5)`. Empty if `/proc` cannot be read; trying each entry then finds those at the top level.
    pub(super) fn read() -> Mounts {
        let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let point = |line: &[u8]| line.split(|&b| b == b' ').nth(4).map(unescaped);
        Mounts(text.split(|&b| b == b'\n').filter_map(point).collect())
    }
}

/// Space, tab, line feed and backslash are written as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\') {
            Some(code) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Refuses what would stop a switch in `root`. With `removes`, looks at everything beneath too: the old tree must be
/// removed before the new one arrives, and anything left would take its room.
pub(super) fn rehearse(resolved: &ResolvedRoots, root: &Root, mounts: &Mounts, removes: bool) -> Result<()> {
    let dir = Dir::open(&root.path)?;
    if root.scope == Scope::Listed {
        return Ok(());
    }
    for point in &mounts.0 {
        let Some(first) = point.strip_prefix(&root.path).ok().and_then(|beneath| beneath.iter().next()) else {
            continue;
        };
        if first == HOME || resolved.switches_here(root, &dir, first)? {
            return Err(mounted(point));
        }
    }
    let home = dir.make(HOME)?;
    let probe = home.make(PROBE)?;
    probe.make(FULL)?.make("x")?;
    let tried = dir.entries()?.into_iter().try_for_each(|(name, kind)| {
        if !resolved.switches_here(root, &dir, &name)? || KeepRules::keeps_type(kind) {
            return Ok(());
        }
        can_move(&dir, &name, kind, &probe)?;
        if removes { can_remove(&dir, &name, kind) } else { Ok(()) }
    });
    home.remove(PROBE)?;
    tried
}

fn mounted(point: &Path) -> Error {
    let what = format!("{} is a mount point, so it can be neither moved nor removed", Printable::path(point));
    Error::new(Kind::Usage, what).remedy(
        "unmount it; or, if the new data should go there, name it as a root; or leave it alone with keep= in [highline]",
    )
}

/// Tries to rename `name` over a directory that is not empty. That cannot succeed, but the kernel checks everything
/// else first: layer, mount, permissions, attributes (`vfs_rename`, `fs/namei.c`).
fn can_move(dir: &Dir, name: &OsStr, kind: FileType, probe: &Dir) -> Result<()> {
    let Err(errno) = rustix::fs::renameat(dir, name, probe, FULL) else {
        return probe.rename(FULL, dir, name);
    };
    let directory = kind == FileType::Directory;
    match errno {
        Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR | Errno::NOENT => Ok(()),
        // The server's own directory may be closed by its mode; it is opened when it moves.
        Errno::ACCESS if directory && own(dir, name)? => Ok(()),
        // Such a directory is moved entry by entry.
        Errno::XDEV if directory && on_overlay(dir)? => Ok(()),
        Errno::XDEV if directory => Err(mounted(&dir.join(name))),
        _ => Err(refused(dir, name, errno)),
    }
}

fn can_remove(dir: &Dir, name: &OsStr, kind: FileType) -> Result<()> {
    if attributes(dir, name).intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND) {
        return Err(refused(dir, name, Errno::PERM));
    }
    if kind != FileType::Directory {
        return Ok(());
    }
    if !own(dir, name)? {
        let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(dir, name, access, AtFlags::EACCESS).map_err(|errno| refused(dir, name, errno))?;
    }
    let child = match dir.child(name) {
        // The server's own, which is opened when it is removed.
        Err(error) if error.kind() == Kind::Permission => return Ok(()),
        child => child?,
    };
    child.entries()?.into_iter().try_for_each(|(inner, kind)| can_remove(&child, &inner, kind))
}

fn own(dir: &Dir, name: &OsStr) -> Result<bool> {
    let user = rustix::process::geteuid();
    Ok(user.is_root() || dir.stat_of(name)?.is_some_and(|stat| stat.st_uid == user.as_raw()))
}

fn on_overlay(dir: &Dir) -> Result<bool> {
    const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
    let stat = rustix::fs::fstatfs(dir).map_err(|e| Error::io("cannot ask for the filesystem of", dir.path(), e))?;
    Ok(stat.f_type as u64 == OVERLAYFS_SUPER_MAGIC)
}

fn attributes(dir: &Dir, name: &OsStr) -> StatxAttributes {
    let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    stat.map_or(StatxAttributes::empty(), |stat| stat.stx_attributes)
}

/// Why `name` cannot be moved.
fn refused(dir: &Dir, name: &OsStr, errno: Errno) -> Error {
    let place = dir.join(name);
    let shown = Printable::path(&place);
    let found = attributes(dir, name);
    if found.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND) {
        let what = format!("{shown} has an attribute that forbids moving or removing it (see lsattr)");
        return Error::new(Kind::Permission, what).remedy(format!("chattr -i -a {shown}"));
    }
    let kind = match errno {
        Errno::ACCESS | Errno::PERM => Kind::Permission,
        Errno::BUSY => Kind::Busy,
        Errno::XDEV => Kind::Usage,
        _ => Kind::Io,
    };
    Error::new(kind, format!("{shown} cannot be moved or removed by this user")).because(errno).remedy(
        "make it belong to the owner of the data directory, move it away, or leave it alone with keep= in [highline]",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_read_as_it_is_called() {
        assert_eq!(unescaped(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescaped(br"/a\04"), Path::new(r"/a\04"));
    }
}
