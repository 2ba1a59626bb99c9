"""A database of which a part is written to: hot sysbench tables, and cold copies of their tablespaces in other schemas.

Made once and kept: the hot part as a folder, the cold part as an archive in which the copies cost next to nothing.
"""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess

import lab
from benchmark import shapes
from benchmark.links import run

HOT = 20  # one part in so many is hot; small tables take more room than their rows
# In the archive a copy of a table follows the previous copy, so the window has to hold two tables.
ZSTD = ["zstd", "-q", "-T0", "--long=28"]


class Database:
    """`tree` is the folder of everything hot, including the dictionary; `lay` adds the cold rest to a datadir."""

    def __init__(self, tree, archive=None):
        self.tree, self.archive = tree, archive

    def lay(self, datadir):
        if self.archive:
            pipe = 'zstd -q -d --long=28 -c "$0" | tar -x -C "$1" -f -'
            subprocess.run(["bash", "-o", "pipefail", "-c", pipe, str(self.archive), str(datadir)], check=True)
            lab.own(datadir)


def get(size, cache):
    place = cache / f"cold-{size >> 20}M"
    if not place.exists():
        source = shapes.get("sysbench", size // HOT, cache)
        copies = max(1, size // shapes.usage(source / "sb")[1] - 1)
        print(f"making the data '{place.name}' ({copies} cold copies of {shapes.TABLES} sysbench tables)", flush=True)
        partial = cache / f"{place.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        os.chmod(partial, 0o755)
        with lab.Lab(partial / "lab", "rsync", buffer_pool="1G") as cluster:
            node = cluster.nodes[0]
            cluster.install(source)
            node.start()
            node.wait_synced()
            copy(node, copies)
            node.stop()
            for name in shapes.PRIVATE:
                (node.datadir / name).unlink(missing_ok=True)
            pack(node.datadir, partial / "cold.tar.zst")
            node.datadir.rename(partial / "tree")
        run("sync", "-f", partial)
        partial.rename(place)
    return Database(place / "tree", place / "cold.tar.zst")


def copy(node, copies):
    """Imports the tables' own files as tables of other schemas, which is much faster than inserting rows."""
    export = node.folder / "export"
    export.mkdir()
    tables = [f"sbtest{number + 1}" for number in range(shapes.TABLES)]
    files = " ".join(f"{node.datadir}/sb/{table}.ibd {node.datadir}/sb/{table}.cfg" for table in tables)
    node.sql(f"FLUSH TABLES {', '.join('sb.' + table for table in tables)} FOR EXPORT;\nsystem cp -p {files} {export}\nUNLOCK TABLES")

    def schema(number):
        name = f"cold{number + 1:02}"
        # If replicated, each statement would wait for that of the other schema.
        lines = [f"SET SESSION wsrep_on = OFF; CREATE DATABASE {name};"]
        for table in tables:
            lines += [f"CREATE TABLE {name}.{table} LIKE sb.{table}; ALTER TABLE {name}.{table} DISCARD TABLESPACE;",
                      f"system cp -p {export}/{table}.ibd {export}/{table}.cfg {node.datadir}/{name}",
                      f"ALTER TABLE {name}.{table} IMPORT TABLESPACE;",
                      f"system rm {node.datadir}/{name}/{table}.cfg"]
        node.sql("\n".join(lines), limit=1200)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(schema, range(copies)))
    shutil.rmtree(export)


def pack(datadir, archive):
    """Takes the cold schemas out of the datadir."""
    schemas = sorted(datadir.glob("cold*"))
    names = sorted((path.relative_to(datadir) for schema in schemas for path in schema.iterdir()), key=lambda p: (p.name, p))
    listing = pathlib.Path(f"{archive}.list")
    listing.write_text("".join(f"{name}\n" for name in names))
    with open(archive, "wb") as out:
        tar = subprocess.Popen(["tar", "-C", datadir, "-c", "-T", listing, "-f", "-"], stdout=subprocess.PIPE)
        subprocess.run([*ZSTD, "-1", "-c"], stdin=tar.stdout, stdout=out, check=True)
        if tar.wait():
            raise lab.LabError(f"tar could not read the cold tables: {tar.returncode}")
    listing.unlink()
    for schema in schemas:
        shutil.rmtree(schema)
