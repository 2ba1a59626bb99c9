//! An open directory, and the few changes that an install makes beneath one.
//!
//! Every name is one path component, resolved against an open descriptor and never through a symlink, so that nobody
//! can redirect a switch or a deletion. Each change is a step of [`super::failpoint`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::failpoint;
use crate::error::{Error, Result};
use crate::tree::Shape;

#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

static REMOVED: AtomicU64 = AtomicU64::new(0);

/// How many entries this process has removed so far: shows progress while a large old tree is removed.
pub fn removed() -> u64 {
    REMOVED.load(Ordering::Relaxed)
}

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens a path given by the operator; it may go through symlinks.
    pub(super) fn open(path: &Path) -> Result<Dir> {
        let fd = fs::open(path, OPEN, Mode::empty()).map_err(|e| Error::io("cannot open the directory", path, e))?;
        Ok(Dir { fd, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor of the same open directory.
    pub(super) fn again(&self) -> Result<Dir> {
        let fd = self.fd.try_clone().map_err(|e| Error::io("cannot open the directory", &self.path, e))?;
        Ok(Dir { fd, path: self.path.clone() })
    }

    pub(super) fn join(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(Path::new(name.as_ref()))
    }

    fn failed(&self, doing: &str, name: impl AsRef<OsStr>) -> impl FnOnce(Errno) -> Error {
        let path = self.join(name);
        move |errno| Error::io(doing, &path, errno)
    }

    fn step(&self, what: &str, name: &OsStr) -> Result<()> {
        failpoint::step(&format!("{what} {}", self.join(name).display()))
    }

    pub(super) fn stat(&self) -> Result<Stat> {
        fs::fstat(&self.fd).map_err(|e| Error::io("cannot examine", &self.path, e))
    }

    /// `None` if there is nothing by that name.
    pub(super) fn stat_of(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>> {
        match fs::statat(&self.fd, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("cannot examine", name)(errno)),
        }
    }

    /// What `name` is, through symlinks.
    pub(super) fn shape(&self, name: impl AsRef<OsStr>) -> Shape {
        let stat = fs::statat(&self.fd, name.as_ref(), AtFlags::empty());
        match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Directory) => Shape::Directory,
            _ => Shape::File,
        }
    }

    pub(super) fn child(&self, name: impl AsRef<OsStr>) -> Result<Dir> {
        let fd = fs::openat(&self.fd, name.as_ref(), OPEN | OFlags::NOFOLLOW, Mode::empty())
            .map_err(self.failed("cannot open the directory", &name))?;
        Ok(Dir { fd, path: self.join(name) })
    }

    /// Like `child`; `None` if there is none.
    pub(super) fn find(&self, name: impl AsRef<OsStr>) -> Result<Option<Dir>> {
        self.stat_of(&name)?.map(|_| self.child(name)).transpose()
    }

    /// Opens the directory `name`; if missing, it is made with mode 0700 and this directory's
    /// owner.
    pub(super) fn make(&self, name: impl AsRef<OsStr>) -> Result<Dir> {
        let name = name.as_ref();
        if self.stat_of(name)?.is_none() {
            self.step("mkdir", name)?;
            match fs::mkdirat(&self.fd, name, Mode::RWXU) {
                Ok(()) => self.sync()?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("cannot make the directory", name)(errno)),
            }
        }
        let child = self.child(name)?;
        self.give(&child.fd, &child.path)?;
        Ok(child)
    }

    /// As root, changes the owner of a new file to this directory's, so that the server's user can use it.
    pub(super) fn give(&self, fd: impl AsFd, path: &Path) -> Result<()> {
        let owner = self.stat()?;
        if owner.st_uid == 0 {
            return Ok(());
        }
        give_as_root(fd, &owner).map_err(|e| Error::io("cannot change the owner of", path, e))
    }

    /// The directory `name` in `to`; if missing, it is made with this one's mode and owner.
    pub(super) fn made_in(&self, to: &Dir, name: &OsStr) -> Result<Dir> {
        if let Some(there) = to.find(name)? {
            return Ok(there);
        }
        let (made, stat) = (to.make(name)?, self.stat()?);
        give_as_root(&made.fd, &stat).map_err(|e| Error::io("cannot change the owner of", &made.path, e))?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        fs::fchmod(&made.fd, mode).map_err(|e| Error::io("cannot set the mode of", &made.path, e))?;
        Ok(made)
    }

    /// The names in it, without `.` and `..`, sorted.
    pub(super) fn names(&self) -> Result<Vec<OsString>> {
        Ok(self.entries()?.into_iter().map(|(name, _)| name).collect())
    }

    /// The names with their types, sorted by name.
    pub(super) fn entries(&self) -> Result<Vec<(OsString, FileType)>> {
        let failed = |e| Error::io("cannot list", &self.path, e);
        let mut entries = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes().to_owned();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsString::from_vec(name);
            let kind = match entry.file_type() {
                // Some filesystems do not say.
                FileType::Unknown => match self.stat_of(&name)? {
                    Some(stat) => FileType::from_raw_mode(stat.st_mode),
                    None => continue,
                },
                known => known,
            };
            entries.push((name, kind));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// Opens the file `name` in whatever way its mode allows its owner; if in none, its mode is changed for a moment.
    pub(super) fn open_any(&self, name: &OsStr) -> Result<OwnedFd> {
        let open = |access: OFlags| {
            let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            fs::openat(&self.fd, name, flags, Mode::empty())
        };
        let opened = match open(OFlags::RDONLY) {
            Err(Errno::ACCESS) => match open(OFlags::WRONLY) {
                Err(Errno::ACCESS) => self.stat_of(name)?.ok_or(Errno::NOENT).and_then(|stat| {
                    fs::chmodat(&self.fd, name, Mode::from_raw_mode(stat.st_mode) | Mode::RUSR, AtFlags::empty())?;
                    let opened = open(OFlags::RDONLY);
                    fs::chmodat(&self.fd, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
                    opened
                }),
                other => other,
            },
            other => other,
        };
        opened.map_err(self.failed("cannot open", name))
    }

    pub(super) fn read_link(&self, name: impl AsRef<OsStr>) -> Result<Vec<u8>> {
        let target = fs::readlinkat(&self.fd, name.as_ref(), Vec::new());
        Ok(target.map_err(self.failed("cannot read the link", name))?.into_bytes())
    }

    pub(super) fn symlink(&self, name: impl AsRef<OsStr>, target: &Path) -> Result<()> {
        self.step("symlink", name.as_ref())?;
        fs::symlinkat(target, &self.fd, name.as_ref()).map_err(self.failed("cannot make the link", name))
    }

    /// Replaces whatever `name` is by a symlink, atomically.
    pub(super) fn symlink_over(&self, name: &str, target: &Path) -> Result<()> {
        let temporary = format!("{name}.tmp");
        self.remove(&temporary)?;
        self.symlink(&temporary, target)?;
        self.rename(&temporary, self, name)
    }

    /// Gives `name` a second name in `to`; `false` if the filesystem cannot, or the kernel does not allow it
    /// (`fs.protected_hardlinks`).
    pub(super) fn hard_link(&self, name: &OsStr, to: &Dir) -> Result<bool> {
        self.step("link", name)?;
        match fs::linkat(&self.fd, name, &to.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => Ok(false),
            Err(errno) => Err(self.failed("cannot link", name)(errno)),
        }
    }

    pub(super) fn rename(&self, from: impl AsRef<OsStr>, dir: &Dir, to: impl AsRef<OsStr>) -> Result<()> {
        if self.try_rename(&from, dir, to)? { Ok(()) } else { Err(self.failed("cannot move", from)(Errno::XDEV)) }
    }

    /// The same; `false` for a directory that cannot be renamed even within its filesystem: one in a lower layer of
    /// overlayfs (`ovl_can_move`, `fs/overlayfs/dir.c`).
    pub(super) fn try_rename(&self, from: impl AsRef<OsStr>, dir: &Dir, to: impl AsRef<OsStr>) -> Result<bool> {
        let from = from.as_ref();
        self.step("rename", from)?;
        let times = self.times_of_directory(from)?;
        let closed = self.open_up(from, Mode::WUSR)?;
        match fs::renameat(&self.fd, from, &dir.fd, to.as_ref()) {
            Ok(()) => {
                dir.close_again(to.as_ref(), closed);
                dir.keep_times(to.as_ref(), times);
                Ok(true)
            }
            Err(errno) => {
                self.close_again(from, closed);
                let lower = errno == Errno::XDEV && times.is_some();
                if lower { Ok(false) } else { Err(self.failed("cannot move", from)(errno)) }
            }
        }
    }

    /// Moves the directory `name` into `to` entry by entry, if it cannot be renamed. If interrupted, it is in both
    /// places.
    pub(super) fn carry(&self, name: &OsStr, to: &Dir) -> Result<()> {
        self.open_up(name, Mode::RWXU)?;
        let (from, target) = (self.child(name)?, to.make(name)?);
        for (inner, kind) in from.entries()? {
            if kind == FileType::Directory {
                from.carry(&inner, &target)?;
            } else {
                from.rename(&inner, &target, &inner)?;
            }
        }
        self.carried(name, &from, &target)
    }

    /// Takes back what [`Dir::carry`] left in two places; what is here is newer.
    pub(super) fn carry_back(&self, name: &OsStr, from: &Dir) -> Result<()> {
        if self.stat_of(name)?.is_none() {
            return from.rename(name, self, name);
        }
        let (there, here) = (from.child(name)?, self.child(name)?);
        for (inner, kind) in there.entries()? {
            if kind == FileType::Directory {
                here.carry_back(&inner, &there)?;
            } else if here.stat_of(&inner)?.is_none() {
                there.rename(&inner, &here, &inner)?;
            }
        }
        here.sync()?;
        from.remove(name)
    }

    /// The last step of [`Dir::carry`]: `target` gets the metadata of `from`, which is empty now.
    fn carried(&self, name: &OsStr, from: &Dir, target: &Dir) -> Result<()> {
        let stat = from.stat()?;
        let failed = |e| Error::io("cannot set the metadata of", &target.path, e);
        let times = self.times_of_directory(name)?;
        let (user, group) = (fs::Uid::from_raw(stat.st_uid), fs::Gid::from_raw(stat.st_gid));
        let owner = target.stat()?;
        if (owner.st_uid, owner.st_gid) != (stat.st_uid, stat.st_gid) {
            fs::fchown(&target.fd, Some(user), Some(group)).map_err(failed)?;
        }
        fs::fchmod(&target.fd, Mode::from_raw_mode(stat.st_mode)).map_err(failed)?;
        if let Some(times) = times {
            fs::futimens(&target.fd, &times).map_err(failed)?;
        }
        target.sync()?;
        self.remove(name)
    }

    /// Moving or removing a directory writes to the directory itself: if its mode keeps its owner out, it is given
    /// `bits` for the time being. Returns its former mode.
    pub(super) fn open_up(&self, name: &OsStr, bits: Mode) -> Result<Option<Mode>> {
        let Some(stat) = self.stat_of(name)? else { return Ok(None) };
        let mode = Mode::from_raw_mode(stat.st_mode);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || mode.contains(bits) {
            return Ok(None);
        }
        // Another user's directory stays as it is; the change itself will say what is wrong.
        let opened = fs::chmodat(&self.fd, name, mode | bits, AtFlags::empty());
        Ok(opened.is_ok().then_some(mode))
    }

    fn close_again(&self, name: &OsStr, mode: Option<Mode>) {
        if let Some(mode) = mode {
            let _ = fs::chmodat(&self.fd, name, mode, AtFlags::empty());
        }
    }

    /// Moving a directory changes its times on some filesystems (XFS).
    fn times_of_directory(&self, name: &OsStr) -> Result<Option<Timestamps>> {
        let stat = self.stat_of(name)?;
        let directory = stat.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        let time = |tv_sec, nanos| Timespec { tv_sec, tv_nsec: nanos as _ };
        Ok(directory.map(|stat| Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        }))
    }

    fn keep_times(&self, name: &OsStr, times: Option<Timestamps>) {
        if let Some(times) = times {
            // No server reads them, so a failure is no reason to stop in the middle of a switch.
            let _ = fs::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    /// Swaps `name` here with `name` there atomically; `false` if the filesystem cannot.
    pub(super) fn exchange(&self, name: &OsStr, there: &Dir) -> Result<bool> {
        self.step("exchange", name)?;
        if failpoint::without_exchange() {
            return Ok(false);
        }
        let (ours, theirs) = (self.times_of_directory(name)?, there.times_of_directory(name)?);
        let closed = [self.open_up(name, Mode::WUSR)?, there.open_up(name, Mode::WUSR)?];
        match fs::renameat_with(&self.fd, name, &there.fd, name, RenameFlags::EXCHANGE) {
            Ok(()) => {
                there.close_again(name, closed[0]);
                self.close_again(name, closed[1]);
                there.keep_times(name, ours);
                self.keep_times(name, theirs);
                Ok(true)
            }
            Err(errno) => {
                self.close_again(name, closed[0]);
                there.close_again(name, closed[1]);
                match errno {
                    // A seccomp filter that does not know the call answers EPERM. If EPERM is genuine, the way without
                    // an exchange will meet it again.
                    Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM => Ok(false),
                    Errno::XDEV if ours.is_some() || theirs.is_some() => Ok(false),
                    _ => Err(self.failed("cannot move", name)(errno)),
                }
            }
        }
    }

    /// Removes `name` and everything beneath it. It need not exist.
    ///
    /// # Errors
    /// The first entry that could not be removed; what could is gone.
    pub(super) fn remove(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        let Some(stat) = self.stat_of(name)? else { return Ok(()) };
        let mut flags = AtFlags::empty();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.open_up(name, Mode::RWXU)?;
            let child = self.child(name)?;
            let mut first = Ok(());
            for (inner, kind) in child.entries()? {
                let removed = match kind {
                    FileType::Directory => child.remove(&inner),
                    _ => child.unlink(&inner, AtFlags::empty()),
                };
                first = first.and(failpoint::past(removed)?);
            }
            first?;
            flags = AtFlags::REMOVEDIR;
        }
        self.unlink(name, flags)
    }

    fn unlink(&self, name: &OsStr, flags: AtFlags) -> Result<()> {
        self.step("remove", name)?;
        match fs::unlinkat(&self.fd, name, flags) {
            Ok(()) => {
                REMOVED.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("cannot remove", name)(errno)),
        }
    }

    /// Removes `child`, which is `name` here, if it is empty. Says whether it did.
    pub(super) fn drop_empty(&self, name: &str, child: &Dir) -> Result<bool> {
        let empty = child.names()?.is_empty();
        if empty {
            self.remove(name)?;
        }
        Ok(empty)
    }

    /// Replaces a whole file, durably, so that a reader or a crash sees the old content or the new.
    pub(super) fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        self.write_with(name, mode, |file| file.write_all(content))
    }

    /// The same, for content that is produced while it is written.
    pub(super) fn write_with(
        &self,
        name: &str,
        mode: u32,
        content: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<()> {
        let temporary = format!("{name}.tmp");
        let path = self.join(&temporary);
        self.remove(&temporary)?;
        self.step("write", name.as_ref())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, temporary.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.failed("cannot create", &temporary))?;
        let mut file = File::from(fd);
        let failed = |e| Error::io("cannot write", &path, e);
        content(&mut file).map_err(failed)?;
        fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| Error::io("cannot set the mode of", &path, e))?;
        self.give(&file, &path)?;
        file.sync_all().map_err(failed)?;
        self.rename(&temporary, self, name)?;
        self.sync()
    }

    /// The whole of a regular file of at most `limit` bytes; `None` if there is none.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        use std::io::Read;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(self.failed("cannot open", name))?,
        };
        let mut content = Vec::new();
        let read = File::from(fd).take(limit).read_to_end(&mut content);
        read.map_err(|e| Error::io("cannot read", &self.join(name), e))?;
        Ok(Some(content))
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> Result<()> {
        fs::fsync(&self.fd).map_err(|e| Error::io("cannot sync", &self.path, e))
    }

    /// Makes everything on its filesystem durable.
    pub(super) fn sync_filesystem(&self) -> Result<()> {
        fs::syncfs(&self.fd).map_err(|e| Error::io("cannot sync the filesystem of", &self.path, e))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// If this process is root, changes the owner and group to those of `like`; others cannot.
pub(super) fn give_as_root(fd: impl AsFd, like: &fs::Stat) -> rustix::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fs::fchown(fd, Some(fs::Uid::from_raw(like.st_uid)), Some(fs::Gid::from_raw(like.st_gid)))
}

/// Whether `bytes` end in `suffix`, beginning at a path component.
pub(super) fn ends_with(bytes: &[u8], suffix: &Path) -> bool {
    Path::new(OsStr::from_bytes(bytes)).ends_with(suffix)
}
