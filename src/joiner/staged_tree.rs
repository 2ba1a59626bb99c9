//! Where a joiner puts what arrives: the directories of the staging area, opened once, and nothing above them.
//!
//! Every step down is one name, opened relative to its parent's descriptor and never through a
//! symlink, so that no path can leave its root, whatever was planted there. (`openat2` would say the
//! same in one call, but the kernels of some supported distributions lack it.)

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::backup::DataSource;
use crate::error::{Error, Kind, Result};
use crate::install::{KeptFile, Staging};
use crate::threads::lock;
use crate::tree::{Content, Metadata, RelPath, is_link_file};

/// Who will own the files: the owner of the data directory, because user numbers differ between hosts and this server
/// must be able to read what the donor's could. A server run by root can read everything, so then the donor's numbers
/// stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    /// User and group of the donor's data directory.
    pub there: (u32, u32),
    /// Of this one, if this process is root and has to change the owner.
    pub here: Option<(u32, u32)>,
}

impl Owners {
    fn here(self, meta: &Metadata) -> Option<(u32, u32)> {
        let here = self.here?;
        if here.0 != 0 {
            return Some(here);
        }
        let user = if meta.uid == self.there.0 { here.0 } else { meta.uid };
        let group = if meta.gid == self.there.1 { here.1 } else { meta.gid };
        Some((user, group))
    }

    /// What the donor's server could do through group or other permissions, this node's may do as owner.
    fn mode(self, meta: &Metadata) -> u32 {
        if meta.uid == self.there.0 || self.here.is_some_and(|here| here.0 == 0) {
            return meta.mode;
        }
        let rights = if meta.gid == self.there.1 { meta.mode >> 3 } else { meta.mode };
        meta.mode | (rights & 0o7) << 6
    }
}

/// The staging directories of all roots.
#[derive(Debug)]
pub struct StagedTree {
    staging: Arc<Staging>,
    owners: Owners,
    /// Another program goes through it before it is installed.
    backup: bool,
    /// Recently opened directories, by path.
    opened: Mutex<HashMap<RelPath, Arc<Directory>>>,
}

#[derive(Debug)]
struct Directory {
    fd: OwnedFd,
    /// The kernel makes one name at a time in a directory, and threads waiting for it spin; with this lock they sleep.
    /// (Not in a root itself, which is opened anew each time: few files are there.)
    making: Mutex<()>,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const CACHED: usize = 256;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl StagedTree {
    pub fn new(staging: Arc<Staging>, owners: Owners) -> StagedTree {
        StagedTree { staging, owners, backup: false, opened: Mutex::new(HashMap::new()) }
    }

    /// For what comes from `source`.
    #[must_use]
    pub fn of(self, source: DataSource) -> StagedTree {
        StagedTree { backup: source == DataSource::Mariabackup, ..self }
    }

    /// Refuses what the install would refuse later, and what would lead the program that prepares a backup out of it: a
    /// backup has no links.
    pub fn examine(&self, path: &RelPath, content: &Content) -> Result<()> {
        let link = matches!(content, Content::Symlink { .. } | Content::HardLink { .. });
        if self.backup && (link || is_link_file(path)) {
            let what = format!("{path}: a backup may not contain links, because mariadb-backup would follow them");
            return Err(Error::new(Kind::Protocol, what));
        }
        if self.staging.accepts(path, content) {
            return Ok(());
        }
        Err(Error::new(Kind::Usage, format!("{path}: this node has no place for it"))
            .remedy("both nodes must have the same directories and files configured: innodb_data_file_path and the like, or --root by hand"))
    }

    /// The directory at `path`, created with its parents if missing.
    fn directory(&self, path: &RelPath) -> Result<Arc<Directory>> {
        if let Some(open) = self.cache().get(path) {
            return Ok(Arc::clone(open));
        }
        let parent = self.parent(path)?;
        let name = self.last(path);
        let failed = |e: Errno| failure("cannot make the directory", path, e);
        let opened = match rustix::fs::openat(&parent, &*name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&parent, &*name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed(error)),
                }
                rustix::fs::openat(&parent, &*name, DIRECTORY, Mode::empty())
            }
            other => other,
        };
        let opened = Arc::new(Directory { fd: opened.map_err(failed)?, making: Mutex::default() });
        let mut cache = self.cache();
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(path.clone(), Arc::clone(&opened));
        Ok(opened)
    }

    /// What `path` is called here, in its parent.
    fn last<'a>(&self, path: &'a RelPath) -> Cow<'a, OsStr> {
        match path.parent() {
            Some(_) => Cow::Borrowed(path.beneath().file_name().unwrap_or_default()),
            None => self.staging.local_name(path),
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<RelPath, Arc<Directory>>> {
        lock(&self.opened)
    }

    fn parent(&self, path: &RelPath) -> Result<Arc<Directory>> {
        match path.parent() {
            Some(parent) => self.directory(&parent),
            None => {
                let root = self.staging.directory(path.root_str());
                let root =
                    root.ok_or_else(|| Error::new(Kind::Protocol, format!("{path}: its root is unknown here")))?;
                let root = root.try_clone_to_owned().map_err(|e| failure("cannot open the place of", path, e))?;
                Ok(Arc::new(Directory { fd: root, making: Mutex::default() }))
            }
        }
    }

    /// A new file of `size` bytes, all of it a hole; pass zero if the writing itself makes it long enough.
    pub fn create(&self, path: &RelPath, size: u64) -> Result<std::fs::File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = self.parent(path)?;
        let made = {
            let _alone = lock(&parent.making);
            rustix::fs::openat(&parent, &*self.last(path), flags, Mode::RUSR | Mode::WUSR)
        };
        let file = made.map_err(|e| failure("cannot make", path, e))?;
        if size > 0 {
            rustix::fs::ftruncate(&file, size).map_err(|e| failure("cannot make room for", path, e))?;
        }
        Ok(file.into())
    }

    /// An existing file, to be written again. It gets `size` bytes.
    pub fn reopen(&self, path: &RelPath, size: u64) -> Result<std::fs::File> {
        let failed = |e| failure("cannot open", path, e);
        let (parent, name) = (self.parent(path)?, self.last(path));
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&parent, &*name, flags | OFlags::WRONLY, Mode::empty()) {
            // It already has its mode, which may lock out even its owner.
            Err(Errno::ACCESS) => {
                let found = rustix::fs::openat(&parent, &*name, flags | OFlags::PATH, Mode::empty()).map_err(failed)?;
                let again = format!("/proc/self/fd/{}", found.as_raw_fd());
                rustix::fs::chmod(&*again, Mode::RUSR | Mode::WUSR).map_err(failed)?;
                rustix::fs::open(&*again, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            }
            other => other,
        };
        let file = file.map_err(failed)?;
        rustix::fs::ftruncate(&file, size).map_err(|e| failure("cannot make room for", path, e))?;
        // Attributes that it no longer has on the donor.
        let mut names = vec![0; 64 << 10];
        let length = rustix::fs::flistxattr(&file, names.as_mut_slice()).unwrap_or(0);
        for name in names[..length].split(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")) {
            rustix::fs::fremovexattr(&file, name).map_err(|e| failure("cannot set the metadata of", path, e))?;
        }
        Ok(file.into())
    }

    fn seeds(&self, path: &RelPath) -> Result<BorrowedFd<'_>> {
        let seeds = self.staging.seeds(path.root_str());
        seeds.ok_or_else(|| Error::new(Kind::Protocol, format!("{path}: its root is unknown here")))
    }

    /// A new empty file that may become `path` later, to be read and written.
    pub(super) fn make_seed(&self, path: &RelPath, name: &OsStr) -> Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(self.seeds(path)?, name, flags, Mode::RUSR | Mode::WUSR);
        Ok(made.map_err(|e| failure("cannot make a copy of", path, e))?.into())
    }

    /// Opens a seed, to read it.
    pub(super) fn open_seed(&self, path: &RelPath, name: &OsStr) -> Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.seeds(path)?, name, flags, Mode::empty());
        Ok(opened.map_err(|e| failure("cannot open what is kept of", path, e))?.into())
    }

    /// Moves a file of an earlier attempt to the seeds; returns its name there, `None` if it has changed.
    pub(super) fn take_kept(&self, kept: &KeptFile) -> Result<Option<OsString>> {
        self.staging.take_kept(kept)
    }

    /// Moves the seed `name` to `path`, where nothing is yet.
    pub(super) fn adopt(&self, path: &RelPath, name: &OsStr) -> Result<()> {
        let parent = self.parent(path)?;
        rustix::fs::renameat(self.seeds(path)?, name, &parent, &*self.last(path))
            .map_err(|e| failure("cannot put in place this node's copy of", path, e))
    }

    pub(super) fn remove_seed(&self, path: &RelPath, name: &OsStr) -> Result<()> {
        match rustix::fs::unlinkat(self.seeds(path)?, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failure("cannot remove the copy of", path, error)),
        }
    }

    /// Opens a file that has arrived, to read it.
    pub fn read(&self, path: &RelPath) -> Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.parent(path)?, &*self.last(path), flags, Mode::empty());
        Ok(opened.map_err(|e| failure("cannot open", path, e))?.into())
    }

    /// Gives a file that has arrived another path.
    pub(super) fn rename(&self, from: &RelPath, to: &RelPath) -> Result<()> {
        rustix::fs::renameat(self.parent(from)?, &*self.last(from), self.parent(to)?, &*self.last(to))
            .map_err(|e| failure("cannot rename", from, e))
    }

    pub fn remove_file(&self, path: &RelPath) -> Result<()> {
        self.unlink(path, AtFlags::empty())
    }

    /// Removes a directory from which everything has been removed.
    pub fn remove_directory(&self, path: &RelPath) -> Result<()> {
        self.cache().remove(path);
        self.unlink(path, AtFlags::REMOVEDIR)
    }

    fn unlink(&self, path: &RelPath, flags: AtFlags) -> Result<()> {
        match rustix::fs::unlinkat(self.parent(path)?, &*self.last(path), flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failure("cannot remove", path, error)),
        }
    }

    /// Gives an open file its mode, owner, attributes and, last, its modification time.
    pub fn settle(&self, path: &RelPath, file: impl AsFd, meta: &Metadata) -> Result<()> {
        let file = file.as_fd();
        let failed = |e| failure("cannot set the metadata of", path, e);
        if let Some((user, group)) = self.owners.here(meta) {
            rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).map_err(failed)?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.owners.mode(meta))).map_err(failed)?;
        for (name, value) in meta.xattrs.iter() {
            rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()).map_err(failed)?;
        }
        rustix::fs::futimens(file, &times(meta)).map_err(failed)
    }

    /// Makes a directory, unless its files have already made it.
    pub fn make_directory(&self, path: &RelPath) -> Result<()> {
        self.directory(path).map(|_| ())
    }

    /// Gives a directory its metadata, once everything in it is in place.
    pub fn settle_directory(&self, path: &RelPath, meta: &Metadata) -> Result<()> {
        self.settle(path, self.directory(path)?, meta)
    }

    pub fn make_symlink(&self, path: &RelPath, target: &[u8], meta: &Metadata) -> Result<()> {
        let failed = |e| failure("cannot make the link", path, e);
        let (parent, name) = (self.parent(path)?, self.last(path));
        rustix::fs::symlinkat(target, &parent, &*name).map_err(failed)?;
        if let Some((user, group)) = self.owners.here(meta) {
            let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            rustix::fs::chownat(&parent, &*name, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        }
        rustix::fs::utimensat(&parent, &*name, &times(meta), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }

    /// Another name for a file that has arrived.
    pub fn make_hard_link(&self, path: &RelPath, to: &RelPath) -> Result<()> {
        let failed = |e| failure("cannot make the link", path, e);
        let target = self.parent(to)?;
        let stat = rustix::fs::statat(&target, &*self.last(to), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(Kind::Protocol, format!("{path}: {to} is not a file to link to")));
        }
        rustix::fs::linkat(&target, &*self.last(to), self.parent(path)?, &*self.last(path), AtFlags::empty())
            .map_err(failed)
    }
}

fn times(meta: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: meta.mtime.secs, tv_nsec: meta.mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

pub(super) fn failure(doing: &str, path: &RelPath, error: impl Into<std::io::Error>) -> Error {
    use std::os::unix::ffi::OsStrExt;
    Error::io(doing, std::path::Path::new(OsStr::from_bytes(path.as_bytes())), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Mtime;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn tree(dir: &std::path::Path) -> StagedTree {
        crate::joiner::staged_tree_for_test(dir)
    }

    fn staged(dir: &std::path::Path) -> std::path::PathBuf {
        dir.join(".highline/incoming/datadir")
    }

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn files_get_their_parents_and_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(dir.path());
        let meta = Metadata {
            mode: 0o640,
            uid: 0,
            gid: 0,
            mtime: Mtime { secs: 1_700_000_000, nanos: 123_456_789 },
            xattrs: Default::default(),
        };
        let file = tree.create(&path("datadir/a/b/c"), 10).unwrap();
        tree.settle(&path("datadir/a/b/c"), &file, &meta).unwrap();
        let stat = std::fs::metadata(staged(dir.path()).join("a/b/c")).unwrap();
        assert_eq!((stat.len(), stat.mode() & 0o7777), (10, 0o640));
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_700_000_000, 123_456_789));
        let parent = std::fs::metadata(staged(dir.path()).join("a")).unwrap();
        assert_eq!(parent.permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_the_donors_server_could_read_this_one_can() {
        let owners = Owners { there: (999, 998), here: None };
        for (uid, gid, mode, expected) in
            [(999, 998, 0o640, 0o640), (0, 998, 0o040, 0o440), (0, 0, 0o604, 0o604), (0, 0, 0o1067, 0o1767)]
        {
            let meta = Metadata { mode, uid, gid, mtime: Mtime { secs: 0, nanos: 0 }, xattrs: Default::default() };
            assert_eq!(owners.mode(&meta), expected, "{mode:o}");
        }
    }

    #[test]
    fn nothing_is_made_through_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let sentinel = outside.path().join("sentinel");
        std::fs::write(&sentinel, "safe").unwrap();
        let tree = tree(dir.path());
        symlink(outside.path(), staged(dir.path()).join("door")).unwrap();
        symlink(&sentinel, staged(dir.path()).join("file")).unwrap();
        for bad in ["datadir/door/x", "datadir/file", "datadir/door/deeper/x"] {
            assert!(tree.create(&path(bad), 0).is_err(), "{bad}");
        }
        assert!(tree.make_directory(&path("datadir/door")).is_err());
        assert!(tree.make_hard_link(&path("datadir/x"), &path("datadir/file")).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(&sentinel).unwrap(), "safe");
        tree.create(&path("datadir/room/x"), 0).unwrap();
    }

    #[test]
    fn a_root_that_was_not_offered_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = tree(dir.path()).create(&path("elsewhere/x"), 0).unwrap_err();
        assert_eq!(error.sentence(), "elsewhere/x: its root is unknown here");
    }
}
