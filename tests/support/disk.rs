//! Filesystems of a chosen size.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A filesystem of its own, when this process may mount one.
#[derive(Debug)]
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    pub fn mount(place: &Path, mib: u64) -> Option<Tmpfs> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        fs::create_dir_all(place).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place).output().unwrap();
        mounted.status.success().then(|| Tmpfs(place.into()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
