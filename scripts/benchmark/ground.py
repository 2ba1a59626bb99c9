"""Where a joiner's end writes: a folder, or for very many files a new filesystem each time.

ext4 does not take an inode again that was freed within the last minutes, and searches long past those. Who comes after somebody else's
removed 100,000 files would pay for them.
"""

import os
import shutil

from benchmark.links import run

ROOM = 6 << 30
INODES = 400_000


class Ground:
    """`place` does not exist yet. For a `with`; nothing is left of it."""

    def __init__(self, place, fresh):
        self.place, self.fresh = place, fresh and os.geteuid() == 0
        self.mount, self.image = place.parent, place.parent.with_suffix(".image")

    def __enter__(self):
        self.mount.mkdir()
        if self.fresh:
            with open(self.image, "wb") as image:
                image.truncate(ROOM)
            run("mkfs.ext4", "-q", "-N", str(INODES), "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", self.image)
            device = run("losetup", "--find", "--show", "--direct-io=on", self.image).strip()
            try:
                run("mount", device, self.mount)
            finally:
                # It goes with the mount.
                run("losetup", "--detach", device)
        return self

    def __exit__(self, *_):
        if os.path.ismount(self.mount):
            run("umount", self.mount)
        shutil.rmtree(self.mount, ignore_errors=True)
        self.image.unlink(missing_ok=True)
