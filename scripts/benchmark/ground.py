"""Where a joiner's end writes: a folder, or for very many files a new filesystem each time.

ext4 does not take an inode again that was freed within the last minutes, and searches long past those. Who comes after somebody else's
removed 100,000 files would pay for them.
"""

import os
import shutil
import subprocess
import time

from benchmark.links import run

ROOM = 6 << 30
INODES = 400_000
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-K", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q", "-K"],
}


class Image:
    """A new filesystem in a file beside `mount`, where it is mounted. For a `with`; nothing is left of it.

    A solid file has all its room from the start: what is on it cannot run into a full disk below.
    """

    def __init__(self, mount, kind, size, *words, solid=False):
        self.mount, self.file, self.size, self.solid = mount, mount.with_suffix(".image"), size, solid
        self.make = [*MAKE[kind], *words]

    def __enter__(self):
        self.mount.mkdir()
        with open(self.file, "wb") as file:
            if self.solid:
                os.posix_fallocate(file.fileno(), 0, self.size)
            file.truncate(self.size)
        run(*self.make, self.file)
        device = run("losetup", "--find", "--show", "--direct-io=on", self.file).strip()
        try:
            run("mount", device, self.mount)
        finally:
            # It goes with the mount.
            run("losetup", "--detach", device)
        return self

    def __exit__(self, *_):
        unmount(self.mount)
        shutil.rmtree(self.mount, ignore_errors=True)
        self.file.unlink(missing_ok=True)


def unmount(place, limit=20):
    """A killed server releases its files a moment later."""
    deadline = time.monotonic() + limit
    while os.path.ismount(place):
        done = subprocess.run(["umount", place], capture_output=True, text=True)
        if done.returncode and time.monotonic() > deadline:
            raise OSError(f"{place} is still mounted: {done.stderr.strip()}")
        time.sleep(0.1 if done.returncode else 0)


def kind_of(place):
    """The filesystem's name as `mount` knows it."""
    return run("findmnt", "-n", "-o", "FSTYPE", "--target", place).strip()


class Ground:
    """`place` does not exist yet. For a `with`; nothing is left of it."""

    def __init__(self, place, fresh):
        self.place, self.mount = place, place.parent
        self.image = Image(self.mount, "ext4", ROOM, "-N", str(INODES)) if fresh and os.geteuid() == 0 else None

    def __enter__(self):
        if self.image:
            self.image.__enter__()
        else:
            self.mount.mkdir()
        return self

    def __exit__(self, *_):
        if self.image:
            self.image.__exit__()
        shutil.rmtree(self.mount, ignore_errors=True)
