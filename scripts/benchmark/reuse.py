"""What a node that comes back costs: it was away, or its last state transfer was cut short, and it has most of the data.

Both nodes are real servers in a network namespace whose loopback device has the rate of the link. Each is compared with a full copy
to an empty node in the same run.
"""

import os
import re
import subprocess
import time

import lab
from benchmark import bars, links, shapes
from benchmark.freeze import Scratch, end_strays, place, status, sweep, until

TABLES = 80
LARGE = 64 << 10  # smaller files are sent, whatever the joiner has
CASES = {
    "full": "the node is empty",
    "same": "the node was killed, and nothing was written meanwhile",
    "tables": f"the node was killed, and every row of 8 of {TABLES} tables was written",
    "rows": f"the node was killed, and 1 % of the rows, one after another, of {TABLES // 8} of {TABLES} tables were written",
    "killed-50": "the joiner was killed when half of the bytes had come; the next transfer is from another donor",
    "killed-90": "the joiner was killed when nine tenths had come; the next transfer is from another donor",
    "nothing-off": "no page of the node's old tables matches, reuse=off",
    "nothing": "no page of the node's old tables matches",
}
# (case, key, the case and key it is compared with, limit)
BARS = (
    ("killed-50", "wire", ("full", "wire"), 0.55), ("killed-90", "wire", ("full", "wire"), 0.15), ("tables", "wire", ("full", "wire"), 0.12),
    ("tables", "script", ("full", "script"), 1 / 5), ("rows", "wire", ("full", "wire"), 1 / 20), ("same", "wire", ("full", "wire"), 0.002),
    ("same", "script", ("same", "reading"), 1), ("nothing", "script", ("nothing-off", "script"), 1.05),
)
WORDS = {("full", "wire"): "bytes against those of 'full'", ("full", "script"): "time against that of 'full'",
         ("same", "reading"): "time against reading both trees from the disk once", ("nothing-off", "script"): "time against that with reuse=off"}
NOTE = (
    "Both nodes are real servers, and their loopback device has the rate of the link. The node that comes back has lost its grastate.dat, so it asks "
    "for all of the data. Script: start to end of the joiner's script. Bytes on the wire are the device's without the replicated transactions.")
REUSED = re.compile(r"([0-9.]+) ([kMGT]?B) reused of (the old data|an earlier attempt)")


def run(options, record):
    if os.geteuid() != 0:
        raise PermissionError("reuse is measured over a link with a rate: it needs root")
    sweep(options.cache)
    size = options.size or ((200 << 20) if options.quick else 2 << 30)
    tree = shapes.get("sysbench", size, options.cache, TABLES)
    for name in options.links or ["1gbit"]:
        for filesystem in options.filesystems or ["ext4", "xfs"]:
            measure(options, name, filesystem, size, tree, record)


def measure(options, name, filesystem, size, tree, record):
    room = 8 * size + (4 << 30)
    with Scratch(options.cache) as scratch, links.Link("loopback") as link, place(scratch, filesystem, room, options.cache) as top:
        if name in links.RATES:
            links.run("tc", "-n", link.sender, "qdisc", "add", "dev", "lo", "root", "tbf", "rate", f"{links.RATES[name] * 8}bit",
                      "burst", "512kb", "latency", "50ms")
        with lab.Lab(top / "lab", program=options.program, namespace=link.sender, nodes=3) as cluster:
            cluster.install(tree)
            cluster.nodes[0].start()
            cluster.nodes[0].wait_synced()
            facts = {"kind": "reuse", "shape": "sysbench", "link": f"{name}, {filesystem}", "size": size,
                     "bytes": shapes.usage(cluster.nodes[0].datadir)[1]}
            for number in range(options.runs):
                for case, result in chain(cluster, link):
                    result = {"script": None, "wire": None, **result}
                    print(f"  reuse {name} {filesystem} run {number + 1} {case}: script {result['script']:.2f} s, "
                          f"{result['wire'] / 1e6:.1f} MB on the wire; {result['reused']}", flush=True)
                    record({**facts, "contestant": case, **result})


def chain(cluster, link):
    """(case, result) of each: most start from what the one before left."""
    donor, joiner, other = cluster.nodes
    full = once(cluster, link, joiner)
    yield "full", full
    away(cluster, [])
    yield "same", {**once(cluster, link, joiner), "reading": reading(donor, joiner)}
    away(cluster, [f"UPDATE sb.sbtest{n * 10 + 1} SET c = REVERSE(c), pad = REVERSE(pad)" for n in range(8)])
    yield "tables", once(cluster, link, joiner)
    tables = [f"sb.sbtest{n * 8 + 2}" for n in range(TABLES // 8)]
    rows = int(donor.sql(f"SELECT COUNT(*) FROM {tables[0]}"))
    away(cluster, [f"UPDATE {table} SET c = REVERSE(c), pad = REVERSE(pad) WHERE id BETWEEN {rows // 2} AND {rows // 2 + rows // 100}"
                   for table in tables])
    yield "rows", once(cluster, link, joiner)

    kill(cluster, joiner)
    other.start()
    other.wait_synced()
    for case, share in (("killed-50", 0.5), ("killed-90", 0.9)):
        joiner.wipe()
        joiner.donor = donor.name
        before = link.bytes()
        joiner.start()
        until(lambda: link.bytes() - before >= share * full["wire"], joiner, 600)
        kill(cluster, joiner)
        joiner.donor = other.name
        yield case, once(cluster, link, joiner)
        kill(cluster, joiner)
    joiner.donor = ""
    other.stop()
    other.wipe()

    for case, lines in (("nothing-off", "[highline]\nreuse=off"), ("nothing", "")):
        for file in joiner.datadir.rglob("*"):
            if file.is_file() and file.stat().st_size >= LARGE and file.name != "galera.cache":
                scramble(file)
        cluster.use("highline", lines)
        yield case, once(cluster, link, joiner)
        kill(cluster, joiner)
    joiner.wipe()


def once(cluster, link, joiner):
    donor = cluster.nodes[0]
    subprocess.run(["sync"], check=True)
    for node in cluster.nodes:
        node.forget_runs()
    with lab.ScriptEnd(joiner, "joiner") as joining:
        joiner.start()
        until(lambda: joining.start, joiner, 60)
        wire, group = link.bytes(), status(donor, "wsrep_replicated_bytes")
        until(lambda: joining.end, joiner, 600)
        wire, group = link.bytes() - wire, status(donor, "wsrep_replicated_bytes") - group
    joiner.wait_synced()
    if donor.checksums("sb") != joiner.checksums("sb"):
        raise lab.LabError("the nodes differ after the transfer")
    installed = [line for line in joiner.log.read_text(errors="replace").splitlines() if "installed: " in line][-1]
    reused = ", ".join(found[0] for found in REUSED.finditer(installed))
    return {"script": joining.end - joining.start, "wire": wire - group, "reused": reused or "nothing reused"}


def kill(cluster, joiner):
    """As a crash does, and then waits until the others have noticed."""
    joiner.stop(clean=False)
    end_strays(joiner.folder)
    # Otherwise a node that was synced comes back by IST.
    (joiner.datadir / "grastate.dat").unlink(missing_ok=True)
    donor, left = cluster.nodes[0], sum(node.process is not None for node in cluster.nodes)
    deadline = time.monotonic() + 60
    while status(donor, "wsrep_cluster_size") != left or donor.state() != "Synced":
        if time.monotonic() > deadline:
            raise lab.LabError(f"the group still has {status(donor, 'wsrep_cluster_size')} nodes\n{donor.tail()}")
        time.sleep(0.1)


def away(cluster, statements):
    """First all of the tables' pages reach both disks, as they do on a node that has been up for a while."""
    donor, joiner, _ = cluster.nodes
    kill(cluster, joiner)
    if statements:
        donor.sql(";\n".join(statements))


def reading(*nodes):
    """Seconds to read all their files from the disk, two at a time."""
    command = "find \"$@\" -type f -print0 | xargs -0 -P2 -n1 sh -c 'dd if=\"$0\" of=/dev/null bs=1M iflag=direct status=none 2>/dev/null || true'"
    start = time.monotonic()
    subprocess.run(["bash", "-c", command, "-", *(str(node.datadir) for node in nodes)], check=True)
    return time.monotonic() - start


def scramble(file):
    left = file.stat().st_size
    with open(file, "r+b") as out:
        while left > 0:
            out.write(os.urandom(min(left, 1 << 20)))
            left -= 1 << 20


def section(where, group):
    some = next(iter(group.values()))[0]
    full = group["full"]
    lines = [f"## Reuse: {where}", "", f"{some['bytes'] / 1e6:.0f} MB in {TABLES} sysbench tables; {len(full)} runs of each.", "",
             "| | | script s | of full | wire MB | of full | reused |", "|---|---|---|---|---|---|---|"]
    for case, runs in group.items():
        times = [run["script"] for run in runs]
        lines.append(f"| {case} | {CASES[case]} | {bars.typical(runs, 'script'):.2f} ({min(times):.2f}–{max(times):.2f}) | {of(runs, full, 'script'):.2f} | "
                     f"{bars.typical(runs, 'wire') / 1e6:.1f} | {of(runs, full, 'wire'):.4f} | {runs[-1]['reused']} |")
    lines += ["", "| asked | at most | measured | met |", "|---|---|---|---|"]
    for case, key, (base, base_key), limit in BARS:
        value = None
        if case in group and base in group:
            value = bars.typical(group[case], key) / bars.typical(group[base], base_key)
        lines.append(f"| {case}: {WORDS[base, base_key]} | {limit:g} | {bars.figure(value, 4)} | {bars.verdict(value, limit)} |")
    return [*lines, ""]


def of(runs, full, key):
    return bars.typical(runs, key) / bars.typical(full, key)
