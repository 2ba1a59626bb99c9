//! Makes a staged tree durable, and checks it in two ways.
//!
//! `syncfs` alone does not report failed writes on stacked filesystems (overlayfs) or, before Linux 5.8, anywhere. So
//! every file and directory is synced too: `fsync` reports a failed write of that file to whoever opens it next. After
//! `syncfs` they are clean, so only one flush each is left to wait for, many at a time.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use rustix::fs::FileType;

use super::dir::Dir;
use crate::error::{Error, Result};
use crate::threads::{ended, lock};

/// They wait for the device, which handles many flushes at once, and use no CPU.
const THREADS: usize = 16;
/// How many names a thread takes at a time.
const BATCH: usize = 64;

type Batch = (Arc<Dir>, Vec<OsString>);

/// `syncfs` on each filesystem behind `directories`, then `fsync` on them and everything beneath.
///
/// The descriptors must be older than the writes: `syncfs` reports what failed since its own was
/// opened.
///
/// # Errors
/// What could not be brought to disk, by its path.
pub(super) fn make_durable(directories: &[&Dir]) -> Result<()> {
    let mut devices = Vec::new();
    for dir in directories {
        let device = dir.stat()?.st_dev;
        if !devices.contains(&device) {
            dir.sync_filesystem()?;
            devices.push(device);
        }
    }
    let (give, take) = sync_channel::<Batch>(THREADS);
    let take = Mutex::new(take);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| sync_files(&take))).collect();
        let walked = directories.iter().try_for_each(|dir| walk(Arc::new(dir.again()?), &give));
        drop(give);
        // A failed file says more than the walk that was broken off because of it.
        for worker in workers {
            ended("a thread that syncs", worker.join())?;
        }
        walked
    })
}

/// Hands out everything beneath a directory. One descriptor per level is open.
fn walk(dir: Arc<Dir>, give: &SyncSender<Batch>) -> Result<()> {
    let mut files = Vec::new();
    for (name, kind) in dir.entries()? {
        match kind {
            FileType::Directory => walk(Arc::new(dir.child(&name)?), give)?,
            FileType::RegularFile => files.push(name),
            _ => {}
        }
    }
    let mut rest = files.into_iter();
    loop {
        let batch: Vec<OsString> = rest.by_ref().take(BATCH).collect();
        let last = batch.len() < BATCH;
        if !batch.is_empty() && give.send((Arc::clone(&dir), batch)).is_err() {
            return Ok(());
        }
        if last {
            return dir.sync();
        }
    }
}

fn sync_files(take: &Mutex<Receiver<Batch>>) -> Result<()> {
    let mut first = Ok(());
    loop {
        let Ok((dir, names)) = lock(take).recv() else { return first };
        // After a failure the rest is taken but ignored, so that the walk can end.
        for name in &names {
            if first.is_err() {
                break;
            }
            let synced = |fd: OwnedFd| {
                rustix::fs::fsync(fd).map_err(|e| {
                    Error::io("cannot bring to disk", &dir.join(name), e)
                        .remedy("check the kernel log for errors of that disk, and start again")
                })
            };
            if let Err(error) = dir.open_any(name).and_then(synced) {
                first = Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_kind_of_entry_is_passed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("a/b")).unwrap();
        for number in 0..300 {
            fs::write(temp.path().join(format!("a/b/{number}")), "x").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", temp.path().join("a/link")).unwrap();
        for (name, mode) in [("a/b/none", 0o000), ("a/b/write-only", 0o200), ("a/b/read-only", 0o400)] {
            fs::write(temp.path().join(name), "x").unwrap();
            fs::set_permissions(temp.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let dir = Dir::open(temp.path()).unwrap();
        make_durable(&[&dir, &dir]).unwrap();
        let mode = fs::metadata(temp.path().join("a/b/none")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0);
    }
}
