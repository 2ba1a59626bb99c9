"""What is moved: datadirs of different shapes, made once and kept in a cache folder."""

import os
import pathlib
import random
import shutil
import subprocess
import tempfile

import lab

PAGE = 16384
ROWS_OF_2G = 1_000_000
TABLES = 8
# What a node keeps for itself; no method sends it.
PRIVATE = ("galera.cache", "grastate.dat", "gvwstate.dat", "aria_log.pid", "ib_buffer_pool", "auto.cnf", "ibtmp1")

SHAPES = {
    "sysbench": "8 sysbench tables of a real server, stopped cleanly",
    "incompressible": "4 files of random bytes, as encrypted tablespaces are",
    "small-5000": "5,000 tables of one 64 KiB tablespace and one definition each",
    "small-50000": "50,000 tables of one 64 KiB tablespace and one definition each",
    "page-compressed": "4 files whose 16 KiB pages hold 8 KiB of rows and 8 KiB of hole",
    "mostly-zero": "4 files that are allocated and nine tenths zero",
}


def get(name, size, cache, tables=TABLES):
    """The folder of a shape, created if it is not in the cache. `size` is in bytes; the small tables have their own."""
    label = name if name.startswith("small") else f"{name}-{size >> 20}M"
    if tables != TABLES:
        label += f"-{tables}-tables"
    place = cache / label
    if not place.exists():
        print(f"making the data '{label}' ({SHAPES[name]})", flush=True)
        partial = cache / f"{label}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if name == "sysbench":
            sysbench(partial, size, tables)
        else:
            frame(partial)
            make(name, partial / "shape", size)
            lab.own(partial)
        subprocess.run(["sync", "-f", partial], check=True)
        partial.rename(place)
    return place


def warm(place):
    """Reads everything once, so that every contestant finds it in the page cache."""
    subprocess.run(["sh", "-c", 'find "$0" -type f -print0 | xargs -0 cat >/dev/null', str(place)], check=True)


def usage(place):
    """(files, apparent bytes, allocated bytes) of what is sent."""
    count = apparent = allocated = 0
    for folder, names, files in os.walk(place):
        names[:] = [n for n in names if n != ".highline"]
        for file in files:
            stat = os.lstat(os.path.join(folder, file))
            count, apparent, allocated = count + 1, apparent + stat.st_size, allocated + stat.st_blocks * 512
    return count, apparent, allocated


def table_rows(size, tables=TABLES):
    """Of each sysbench table."""
    return max(1000, ROWS_OF_2G * TABLES // tables * size // (2 << 30))


def sysbench(place, size, tables):
    folder = tempfile.mkdtemp(prefix="highline-bench-")
    with lab.Lab(folder, "rsync", buffer_pool="1G") as cluster:
        cluster.install()
        node = cluster.nodes[0]
        node.start()
        node.wait_synced()
        node.sql("CREATE DATABASE sb")
        subprocess.run(lab.sysbench(node, tables, table_rows(size, tables), "prepare"), check=True, stdout=subprocess.DEVNULL)
        node.stop()
        for name in PRIVATE:
            (node.datadir / name).unlink(missing_ok=True)
        subprocess.run(["cp", "-a", f"{node.datadir}/.", place], check=True)


def frame(place):
    """The top-level files that every method asks for by name."""
    (place / "shape").mkdir()
    (place / "mysql").mkdir()
    noise = random.Random(1)
    for name, size in (("ibdata1", 12 << 20), ("ib_logfile0", 8 << 20), ("aria_log_control", 52), ("aria_log.00000001", PAGE)):
        (place / name).write_bytes(noise.randbytes(size))


def rows(noise, size):
    """Bytes that compress about as well as sysbench's rows: digits and padding."""
    text = "".join(f"{noise.randrange(10**11):011d}-" for _ in range(size // 24 + 1))
    return (text.encode() + bytes(size))[: size // 2].ljust(size, b"\0")


def make(name, place, size):
    noise = random.Random(2)
    if name.startswith("small"):
        definition = rows(noise, 1024)
        for number in range(int(name.split("-")[1])):
            pages = rows(noise, PAGE) + rows(noise, 512).ljust(PAGE, b"\0")
            (place / f"t{number}.ibd").write_bytes(pages.ljust(4 * PAGE, b"\0"))
            (place / f"t{number}.frm").write_bytes(definition)
        return
    for number in range(4):
        with open(place / f"t{number}.ibd", "wb") as file:
            left = size // 4
            while left > 0:
                block = min(left, 1 << 20)
                if name == "incompressible":
                    file.write(os.urandom(block))
                elif name == "mostly-zero":
                    file.write(rows(noise, block // 10).ljust(block, b"\0"))
                else:
                    for _ in range(block // PAGE):
                        file.write(noise.randbytes(4096) + rows(noise, 4096))
                        file.seek(PAGE // 2, os.SEEK_CUR)
                left -= block
            file.truncate(size // 4)
