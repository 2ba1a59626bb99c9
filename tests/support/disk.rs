//! A small filesystem for one node, so that a disk can be full or of another kind. Needs root.

use super::command::{bounded, run, server_user, succeed, text};
use super::template;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// A filesystem in memory, mounted until this is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `mebibytes` on the empty directory `place`; `None` without the right to mount.
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
        let made = Self::attach(place, &[], |device| {
            succeed(bounded(LIMIT, format!("mkfs.{kind}")).arg("-q").arg(device));
        });
        template::own(place);
        made
    }

    /// Mounts what is in the image of `place`, after `prepare`.
    fn attach(place: &Path, options: &[&str], prepare: impl FnOnce(&str)) -> Option<Self> {
        let mut attach = bounded(LIMIT, "losetup");
        let attached =
            run(attach.args(["--find", "--show", "--sector-size", "4096"]).arg(place.with_extension("image")));
        if !attached.status.success() {
            return None;
        }
        let device = text(&attached.stdout).trim().to_owned();
        prepare(&device);
        succeed(bounded(LIMIT, "mount").args(options).arg(&device).arg(place));
        succeed(bounded(LIMIT, "losetup").arg("--detach").arg(&device));
        Some(Self(place.to_owned()))
    }

    /// Brings everything to the image.
    pub fn sync(&self) {
        succeed(bounded(LIMIT, "sync").arg("-f").arg(&self.0));
    }

    /// Nothing more reaches the image, neither data nor journal; every write fails (ioctl `EXT4_IOC_SHUTDOWN`, which is
    /// `XFS_IOC_GOINGDOWN`, without a flush of the log).
    pub fn lose_power(&self) {
        const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        succeed(bounded(LIMIT, "python3").args(["-c", SHUTDOWN]).arg(&self.0));
    }

    /// Mounts it again: its journal is replayed.
    #[must_use]
    pub fn restart(self, kind: &str) -> Self {
        let place = self.0.clone();
        let deadline = Instant::now() + LIMIT;
        while !run(bounded(LIMIT, "umount").arg(&place)).status.success() {
            assert!(Instant::now() < deadline, "{} cannot be unmounted", place.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        // It is already unmounted.
        std::mem::forget(self);
        // Another test's mount namespace may hold the old mount for a while, and XFS takes each UUID once.
        let options: &[&str] = if kind == "xfs" { &["-o", "nouuid"] } else { &[] };
        Self::attach(&place, options, |_| ()).expect("it was mounted a moment ago")
    }

    /// Makes the disk larger.
    pub fn grow(&self, mebibytes: u32) {
        let mut mount = bounded(LIMIT, "mount");
        succeed(mount.arg("-o").arg(format!("remount,size={mebibytes}m")).arg(&self.0));
    }
}

/// An overlay on a filesystem on an image on a filesystem, so that failures of the lowest are not seen above: `syncfs` on an
/// overlay does not report writes that failed beneath it.
#[derive(Debug)]
pub struct Stacked {
    // In the order of unmounting.
    _overlay: SmallDisk,
    middle: SmallDisk,
    bottom: SmallDisk,
}

impl Stacked {
    /// Makes them beneath the empty directory `home`; `None` without the right to mount. The overlay is `home/top`.
    pub fn mount(home: &Path) -> Option<Self> {
        let [bottom, middle, top] = ["bottom", "middle", "top"].map(|name| home.join(name));
        for place in [&bottom, &middle, &top] {
            std::fs::create_dir(place).unwrap();
        }
        let bottom = SmallDisk::format(&bottom, "ext4", 700)?;
        let image = bottom.0.join("image");
        std::fs::File::create(&image).unwrap().set_len(600 << 20).unwrap();
        succeed(bounded(LIMIT, "mkfs.xfs").arg("-q").arg(&image));
        succeed(bounded(LIMIT, "mount").args(["-o", "loop"]).arg(&image).arg(&middle));
        let middle = SmallDisk(middle);
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(middle.0.join(name)).unwrap();
        }
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| middle.0.join(name));
        let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        succeed(bounded(LIMIT, "mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&top));
        Some(Self { _overlay: SmallDisk(top), middle, bottom })
    }

    /// Fills the lowest filesystem.
    pub fn fill(&self) {
        succeed(bounded(LIMIT, "sync").arg("-f").arg(&self.bottom.0));
        let filler = std::fs::File::create(self.bottom.0.join("filler")).unwrap();
        let (mut size, mut step) = (0, 64 << 20);
        while step >= 4096 {
            match rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), size, step) {
                Ok(()) => size += step,
                Err(_) => step /= 2,
            }
        }
        assert!(rustix::fs::fstatvfs(&filler).unwrap().f_bavail < 16, "the disk is not full");
    }

    /// Begins to write back what the overlay's own filesystem has in memory.
    pub fn write_back(&self) -> std::process::Child {
        bounded(LIMIT, "sync").arg("-f").arg(&self.middle.0).spawn().unwrap()
    }

    /// Frees it again.
    pub fn relieve(&self) {
        std::fs::remove_file(self.bottom.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server of a failing test may still have its working directory there.
        let _ = bounded(LIMIT, "umount").arg("-l").arg(&self.0).output();
    }
}
