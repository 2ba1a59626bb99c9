"""How long the donor's commits stall while it is written to and a node without data joins.

A client that commits every 10 ms tells; what the donor's log says is put beside it. Each run begins with a fresh copy of the data,
for a transfer leaves traces in it: on XFS and btrfs, files that were cloned are in more pieces afterwards.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import lab
from benchmark import cold, ground, links, said, shapes
from benchmark.sst import METHODS
from benchmark.transfer import rotated

LONG = 0.1  # a gap between two commits that is counted
BIN = 0.1  # seconds in which the commits of the picture are counted
MODES = ("auto", "rounds", "clone", "whole")
PREFIX = "freeze-"


@dataclasses.dataclass(frozen=True)
class Case:
    what: str
    size: int
    filesystems: tuple
    modes: dict  # of Highline, by filesystem
    is_cold: bool = False  # but for a twentieth
    load: tuple = ()  # sysbench's script and its distribution

    def data(self, size, cache):
        return cold.get(size, cache) if self.is_cold else cold.Database(shapes.get("sysbench", size, cache))

    def room(self, size):
        """Bytes: both nodes, clones of what is hot plus what may be written meanwhile, logs."""
        hot = size // cold.HOT if self.is_cold else size
        return 2 * size + 3 * hot // 2 + (2 << 30)


CASES = {
    "small": Case("every table written to by sysbench oltp_read_write (special)", 2 << 30, ("ext4", "xfs", "btrfs"),
                  {"ext4": ("auto",), "xfs": ("auto", "clone"), "btrfs": ("auto", "clone")}, load=("oltp_read_write", "special")),
    "large": Case("a twentieth written to by sysbench oltp_write_only (pareto)", 20 * 10**9, ("ext4", "xfs"),
                  {"ext4": ("auto",), "xfs": ("rounds", "clone")}, is_cold=True, load=("oltp_write_only", "pareto")),
    "idle": Case("nobody writes but the probe", 20 * 10**9, ("ext4",), {"ext4": ("auto", "whole")}, is_cold=True),
}
QUICK = 500 << 20


def mode_name(mode):
    return "highline" if mode in (None, "auto") else f"highline ({mode})"


def run(options, record):
    if os.geteuid() != 0:
        raise PermissionError("the freeze is measured with mounts and a network namespace: it needs root")
    sweep(options.cache)
    knows = knows_freeze(options.program)
    print(f"{options.program} {'knows' if knows else 'does not know'} the option 'freeze'", flush=True)
    if options.freeze and not knows:
        raise lab.LabError(f"{options.program} has no option 'freeze', so --freeze {','.join(options.freeze)} can't be measured")
    for name in options.cases:
        for filesystem in options.filesystems or CASES[name].filesystems:
            size = options.size or (QUICK if options.quick else CASES[name].size)
            measure(options, name, filesystem, size, entrants(options, CASES[name], filesystem, knows), record)


def knows_freeze(program):
    """See its help."""
    done = subprocess.run([program, "send", "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    return "--freeze-limit" in done.stdout


def entrants(options, case, filesystem, knows):
    """{name: (method, option file lines)}."""
    found = {}
    for name in options.contestants:
        if name not in METHODS:
            continue
        method, lines = METHODS[name]
        if name != "highline" or not knows:
            found[name] = (method, lines)
            continue
        for mode in options.freeze or case.modes.get(filesystem, ("auto", "clone")):
            found[mode_name(mode)] = (method, f"{lines}\n[highline]\nfreeze={mode}")
    return found


def measure(options, name, filesystem, size, names, record):
    case = CASES[name]
    room, free = case.room(size), shutil.disk_usage(options.cache).free
    if free < room:
        raise lab.LabError(f"'{name}' on {filesystem} needs {room / 1e9:.0f} GB in {options.cache}, and {free / 1e9:.0f} GB are free; "
                           "--cache names another folder, --size another size")
    data = case.data(size, options.cache)
    facts = {"kind": "freeze", "shape": name, "link": filesystem, "size": size, "nominal": size == case.size}
    with Scratch(options.cache) as scratch, links.Link("loopback") as link, place(scratch, filesystem, room, options.cache) as top, \
            lab.Lab(top / "lab", "rsync", buffer_pool=options.buffer_pool, program=options.program, namespace=link.sender) as cluster:
        donor, joiner = cluster.nodes
        tls = lab.make_certificates(cluster.folder / "tls", addresses=[donor.address, joiner.address])
        print(f"{name} on {filesystem}: laying {size / 1e6:.0f} MB", flush=True)
        data.lay(donor.datadir)
        for number in range(options.runs):
            for contestant in rotated(list(names), number):
                method, lines = names[contestant]
                begun = time.monotonic()
                try:
                    cluster.use("rsync", "")
                    refresh(cluster, data)
                    facts["bytes"] = shapes.usage(donor.datadir)[1]
                    donor.start()
                    donor.wait_synced()
                    cluster.use(method, lines.format(tls=tls))
                    result = once(cluster, link, case, options, size, check=number == 0)
                except (lab.LabError, subprocess.SubprocessError) as error:
                    print(f"  {name} {filesystem} {contestant}: FAILED: {error}", flush=True)
                    record({**facts, "contestant": contestant, "failed": str(error)})
                    continue
                finally:
                    joiner.stop(clean=False)
                    donor.stop(clean=False)
                    end_strays(cluster.folder)
                    joiner.wipe()
                    donor.forget_runs()
                print(f"  {name} {filesystem} run {number + 1} {contestant}: {sentence(result)} "
                      f"[{time.monotonic() - begun:.0f} s in all]", flush=True)
                record({**facts, "contestant": contestant, "method": method, "options": lines.strip(), **result})


def sentence(result):
    def seconds(key):
        return "?" if result[key] is None else f"{result[key]:.3f} s"

    return (f"freeze {result['freeze']:.3f} s ({result['gaps']} gaps over {LONG:.1f} s, {result['gaps_sum']:.2f} s), "
            f"still after {seconds('stood_still')}, ours {seconds('ours')}, script {result['script']:.2f} s, "
            f"{result['wire'] / 1e6:.0f} MB on the wire")


def refresh(cluster, data):
    """Restores the donor: all but the cold tables, which nobody writes to. None of it is in the page cache, as with a server
    that reads past it."""
    datadir = cluster.nodes[0].datadir
    for path in datadir.iterdir():
        if path.is_dir() and not path.name.startswith("cold"):
            shutil.rmtree(path)
        elif not path.is_dir():
            path.unlink()
    cluster.install(data.tree)
    subprocess.run(["sync", "-f", datadir], check=True)
    for file in datadir.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def once(cluster, link, case, options, size, check):
    donor, joiner = cluster.nodes
    limit = 180 + size / 20e6
    rows = shapes.table_rows(size // cold.HOT if case.is_cold else size)
    load = contextlib.nullcontext()
    with lab.Probe(donor) as probe, lab.LogTail([donor]) as log, lab.ScriptEnd(joiner, "joiner") as joining, \
            lab.ScriptEnd(donor, "donor") as giving:
        if case.load:
            script, distribution = case.load
            load = lab.Load(donor, shapes.TABLES, rows, f"--rand-type={distribution}", script=script)
        with load:
            settling = time.time()
            time.sleep(options.settle)
            dirty = status(donor, "Innodb_buffer_pool_pages_dirty")
            started = time.time()
            joiner.start()
            until(lambda: joining.start, joiner, 60)
            # Data is not flowing yet, but the group's own traffic is.
            wire, group = link.bytes(), status(donor, "wsrep_replicated_bytes")
            until(lambda: joining.end and giving.start, joiner, limit)
            wire, group = link.bytes() - wire, status(donor, "wsrep_replicated_bytes") - group
            over = time.time()
            time.sleep(0.3)
            if not probe.thread.is_alive():
                raise lab.LabError("the client that commits lost its server")
        joiner.wait_synced(limit)
        time.sleep(0.1)
    # When a node joins, the group itself stalls for half a second; the donor's script comes after that.
    gaps = probe.gaps(giving.start, joining.end)
    long = [gap for gap in gaps if gap > LONG]
    if check:
        compare(donor, joiner)
    rates = load.rates if case.load else []
    return {"script": joining.end - joining.start, "donor_script": (giving.end or over) - giving.start,
            "freeze": max(gaps), "gaps": len(long), "gaps_sum": sum(long), "before": max(probe.gaps(settling, started)),
            "joining": max(probe.gaps(started, giving.start)),
            "wire": wire - group, "group_wire": group, "dirty_pages": dirty,
            "tps_before": mean(rate for when, rate in rates if settling + 1 < when <= started),
            "tps_during": mean(rate for when, rate in rates if joining.start + 1 < when <= joining.end + 1),
            "commits": counts(probe.ends, joining.start, joining.end), **said.of([(t, line) for t, _, line in log.lines])}


def until(happened, joiner, limit):
    deadline = time.monotonic() + limit
    while not happened():
        if joiner.process.poll() is not None:
            raise lab.LabError(f"the joiner ended with {joiner.process.returncode}; logs:\n{joiner.tail()}\n{joiner.lab.nodes[0].tail()}")
        if time.monotonic() > deadline:
            raise lab.LabError(f"the state transfer is not over after {limit:.0f} s; logs:\n{joiner.tail()}\n{joiner.lab.nodes[0].tail()}")
        time.sleep(0.02)


def status(node, name):
    return int(node.sql(f"SHOW GLOBAL STATUS LIKE '{name}'").split()[-1])


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


def counts(ends, start, end):
    """Commits in each tenth of a second, as text: a JSON list would take a line for each."""
    found = [0] * max(1, int((end - start) / BIN + 1))
    for when in ends:
        if start <= when < end:
            found[int((when - start) / BIN)] += 1
    return " ".join(str(number) for number in found)


def compare(donor, joiner):
    """What is written to, and the first schema of the cold tables."""
    for schema in ("sb", "cold01"):
        if (donor.datadir / schema).exists() and donor.checksums(schema) != joiner.checksums(schema):
            raise lab.LabError(f"the nodes differ in {schema} after the transfer")


class Scratch:
    """A folder in the cache that is locked while its owner lives; `sweep` finds what a killed owner left."""

    def __init__(self, cache):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache))
        os.chmod(self.folder, 0o755)
        self.lock = open(self.folder / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print(os.getpid(), file=self.lock, flush=True)

    def __enter__(self):
        return self.folder

    def __exit__(self, *_):
        clear(self.folder)
        self.lock.close()


def sweep(cache):
    for folder in cache.glob(f"{PREFIX}*"):
        try:
            lock = open(folder / "lock")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        print(f"removing what a killed benchmark left in {folder}", flush=True)
        owner = lock.read().strip()
        clear(folder)
        if owner and not lab.alive(owner):
            subprocess.run(["ip", "netns", "delete", links.namespace(owner)], capture_output=True)
        lock.close()


def clear(folder):
    end_strays(folder)
    mount = folder / "disk"
    if mount.exists():
        ground.unmount(mount)
    shutil.rmtree(folder)


def end_strays(folder):
    """Processes of a state transfer that outlived their server: those whose command line names a path in the folder."""
    mark = f"{folder}/".encode()
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "cmdline").read_bytes() and int(place.name) != os.getpid():
                os.kill(int(place.name), signal.SIGKILL)
        except OSError:
            continue


@contextlib.contextmanager
def place(scratch, filesystem, room, cache):
    """Where both nodes are: a folder if the cache is on that filesystem, and it is ext4; otherwise an image."""
    top = scratch / "disk"
    if filesystem == "ext4" == ground.kind_of(cache):
        top.mkdir()
        yield top
        return
    with ground.Image(top, filesystem, room, solid=True):
        os.chmod(top, 0o755)
        yield top
