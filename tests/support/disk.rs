//! A small filesystem of its own for a node, so that a disk can be full or of another kind. Needs root.

use super::command::{bounded, run, server_user, succeed, text};
use super::template;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A filesystem in memory, mounted until this is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts `mebibytes` on the empty directory `place`; `None` without the right to mount.
    pub fn mount(place: &Path, mebibytes: u32) -> Option<Self> {
        server_user()?;
        let mut mount = bounded(LIMIT, "mount");
        mount.args(["-t", "tmpfs", "-o"]).arg(format!("size={mebibytes}m")).arg("highline-test").arg(place);
        if !run(&mut mount).status.success() {
            return None;
        }
        template::own(place);
        Some(Self(place.to_owned()))
    }

    /// Mounts a new filesystem of that kind on the empty directory `place`, on a device with sectors of
    /// 4,096 bytes; `None` without the right to. The device goes with the last that uses it.
    pub fn format(place: &Path, kind: &str, mebibytes: u32) -> Option<Self> {
        server_user()?;
        let image = place.with_extension("image");
        std::fs::File::create(&image).unwrap().set_len(u64::from(mebibytes) << 20).unwrap();
        let mut attach = bounded(LIMIT, "losetup");
        let attached = run(attach.args(["--find", "--show", "--sector-size", "4096"]).arg(&image));
        if !attached.status.success() {
            return None;
        }
        let device = text(&attached.stdout).trim().to_owned();
        succeed(bounded(LIMIT, format!("mkfs.{kind}")).arg("-q").arg(&device));
        succeed(bounded(LIMIT, "mount").arg(&device).arg(place));
        succeed(bounded(LIMIT, "losetup").arg("--detach").arg(&device));
        template::own(place);
        Some(Self(place.to_owned()))
    }

    /// Gives the disk more room.
    pub fn grow(&self, mebibytes: u32) {
        let mut mount = bounded(LIMIT, "mount");
        succeed(mount.arg("-o").arg(format!("remount,size={mebibytes}m")).arg(&self.0));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server of a failing test may still have its working directory there.
        let _ = bounded(LIMIT, "umount").arg("-l").arg(&self.0).output();
    }
}
