//! Clones of the server's files: unnamed files that share their blocks until those are written (`FICLONE`,
//! ioctl_ficlone(2)). Under the lock files are cloned instead of read: the server is released, and then the clones are
//! read.
//!
//! While a clone exists, whatever the server writes needs new blocks, even in place. On a full filesystem InnoDB would
//! abort on its own redo log, so free space is checked before and watched meanwhile, and clones are dropped long before
//! the server could run short. A killed process leaves none behind: they have no name.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{IFlags, Mode, OFlags, ioctl_ficlone, ioctl_getflags, ioctl_setflags, open};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::plan::{Had, Plan, Planned, Task};
use crate::direct::{Direct, PAGE};
use crate::error::{Error, Kind, Printable, Result};
use crate::progress::{bytes, counted};
use crate::tree::{Filesystems, RelPath, Roots, Source, free_space, locate};

/// Bytes. If extents are shorter than this on average, cloning costs more than reading: cloning one takes as long as
/// reading some 32 KiB.
const SHORTEST_EXTENT: u64 = 64 << 10;
/// Descriptors a transfer needs in addition to its clones: lanes, open files, the control connection.
const OTHERS: u64 = 256;
/// Bytes that must stay free on a filesystem while it has clones.
const RESERVE: u64 = 256 << 20;

/// A clone of `file`, in `directory`, which must be on the same filesystem.
fn clone(file: &File, directory: &Path) -> std::io::Result<File> {
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

/// What the filesystem of a directory can do for a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    pub clones: bool,
    /// Reading past the page cache.
    pub direct: bool,
}

impl Abilities {
    /// Tries it with unnamed files.
    ///
    /// # Errors
    /// No unnamed file can be made there.
    pub fn of(directory: &Path) -> std::io::Result<Abilities> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(open(directory, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all_at(&[1; PAGE], 0)?;
        Ok(Abilities { clones: clone(&file, directory).is_ok(), direct: Direct::reading(&file).is_some() })
    }
}

/// Whether cloning `file` of `size` bytes is cheaper than reading it, judging by its number of extents (FIEMAP). True
/// if that is unknown.
pub(super) fn is_cheap(file: impl AsFd, size: u64) -> bool {
    let most = size / SHORTEST_EXTENT + 1;
    let extents = fiemap::Fiemap::new(file).take_while(std::result::Result::is_ok).take(most as usize + 1).count();
    extents as u64 <= most
}

/// How many clones this process may hold open: each takes two descriptors, one of them past the page cache.
fn most() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX).min(1 << 20)
}

/// Whether the filesystem of `directory` has room if the server rewrites all of `cloned` bytes.
fn fits(directory: &Path, cloned: u64) -> Result<bool> {
    Ok(free_space(directory)? > cloned.saturating_add(cloned / 10).saturating_add(RESERVE))
}

/// Fails if the filesystem of `directory`, which holds clones, is running out of room.
pub(super) fn watch(directory: &Path) -> Result<()> {
    let free = free_space(directory)?;
    if free > RESERVE {
        return Ok(());
    }
    let what = format!("only {} are free on the filesystem of {}", bytes(free), Printable::path(directory));
    Err(Error::new(Kind::NoSpace, format!("{what}, and clones of the server's files were held there"))
        .remedy("free space there, or set freeze=rounds, which needs none"))
}

/// Bytes. Smaller files are read, not cloned.
pub(super) const SMALLEST: u64 = 64 << 10;

/// What happened to the files that were to be cloned.
#[derive(Debug, Default)]
pub(super) struct Cloned {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// How many are read instead, and why the first of them.
    others: u64,
    why: Option<String>,
}

impl Cloned {
    fn not(&mut self, place: &Path, why: impl fmt::Display) {
        self.others += 1;
        self.why.get_or_insert_with(|| format!("{}: {why}", Printable::path(place)));
    }
}

impl fmt::Display for Cloned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cloned {} of {} under the lock", counted(self.files, "file", "files"), bytes(self.bytes))?;
        match &self.why {
            Some(why) => write!(f, "; {} read instead ({why})", counted(self.others, "is", "are")),
            None => Ok(()),
        }
    }
}

/// Clones the changed files for which that is cheaper than reading, as far as room and descriptors last.
pub(super) fn of_changed(
    mut plan: Plan,
    roots: &Roots,
    filesystems: &Filesystems,
    costly: &HashSet<RelPath>,
) -> Result<(Plan, Cloned)> {
    let mut wanted: Vec<&mut Planned> =
        plan.entries.iter_mut().filter(|planned| planned.task.reads() && planned.found.size() > SMALLEST).collect();
    wanted.sort_by_key(|planned| std::cmp::Reverse(planned.found.size()));
    let mut made = Cloned::default();
    let most = most();
    let mut held: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
    for planned in wanted {
        let device = planned.found.stamp.device();
        let (Some(directory), Some(place)) = (filesystems.directory(device), locate(roots, &planned.found.entry.path))
        else {
            continue;
        };
        if costly.contains(&planned.found.entry.path) {
            made.not(&place, "it has so many extents that reading is cheaper");
            continue;
        }
        let (bytes, possible) = held.entry(device).or_insert((0, true));
        let size = planned.found.allocated.max(planned.found.size().min(1 << 20));
        if !*possible || made.files >= most as u64 {
            made.not(&place, "too few file descriptors");
            continue;
        }
        if !fits(directory, bytes.saturating_add(size))? {
            made.not(&place, "too little room on its filesystem if the server rewrote all of it");
            continue;
        }
        let source = match Source::open(&place, Some(planned.found.stamp), false) {
            Ok(source) => source,
            Err(error) => {
                made.not(&place, error.sentence());
                continue;
            }
        };
        match clone(source.as_file(), directory) {
            Ok(file) => {
                let holed = planned.found.allocated < planned.found.size();
                let had = planned.had.get_or_insert_with(|| Had::nothing(planned.found.size()));
                had.clone = Some(Arc::new(Source::still(file, planned.found.size(), holed)));
                planned.task = Task::Later;
                *bytes = bytes.saturating_add(size);
                made.files += 1;
                made.bytes = made.bytes.saturating_add(size);
            }
            // What cannot be cloned is read.
            Err(error) => {
                *possible = false;
                made.not(&place, error);
            }
        }
    }
    Ok((plan, made))
}
