"""A byte stream between two programs: a dump into a server on this host, and a stream that compresses over 1 Gbit/s.

Each pair of programs is joined by a plain pipe, by socat with TLS where there is a link between, and by Highline, in turn.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

import lab
from benchmark import contestants, links

LIMIT = 900


def run(options, say=print):
    """Prints what each run took, and the medians with their proportions."""
    work = pathlib.Path(tempfile.mkdtemp(prefix="pipe-", dir=options.cache))
    try:
        if "dump" in options.streams:
            dump(options, work, say)
        if "1gbit" in options.streams:
            over_link(options, work, say)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def dump(options, work, say):
    with lab.Lab(tempfile.mkdtemp(prefix="highline-bench-"), "rsync") as cluster:
        cluster.install()
        node = cluster.nodes[0]
        node.start()
        node.wait_synced()
        fill(node, options.size)
        client = f"--no-defaults --skip-ssl -u root -S {node.socket}"
        producer = f"exec mariadb-dump {client} --single-transaction --quick bench"
        consumer = f"exec mariadb {client} copy"
        size = int(subprocess.run(["bash", "-c", f"({producer}) | wc -c"], check=True, capture_output=True, text=True).stdout)

        def fresh():
            node.sql("DROP DATABASE IF EXISTS copy; CREATE DATABASE copy")

        with links.Link("loopback") as link:
            link.sender = link.receiver = None  # the server is in the namespace of this process
            link.port = free_port()
            ways = {"pipe": lambda: plain(producer, consumer), "highline": lambda: highline(options, link, producer, consumer)}
            tell("dump, one host", size, measure(options, ways, fresh, say), "pipe", say)


def over_link(options, work, say):
    """What a dump looks like to a compressor, from memory, so that the link and the cores are all there is to wait for."""
    source = work / "stream"
    compressible(source, options.size)
    subprocess.run(["cat", source], check=True, stdout=subprocess.DEVNULL)
    producer, consumer = f"exec cat {source}", "exec cat > /dev/null"
    with links.Link("1gbit") as link:
        certificates = lab.make_certificates(work / "tls", addresses=[link.address])
        subprocess.run(["chown", "-R", str(os.geteuid()), certificates], check=True)
        ways = {"socat openssl": lambda: socat(link, certificates, producer, consumer),
                "highline": lambda: highline(options, link, producer, consumer)}
        tell("1 Gbit/s", source.stat().st_size, measure(options, ways, lambda: None, say), "socat openssl", say)


def measure(options, ways, before, say):
    """{way: [seconds, …]}, the ways in turn."""
    taken = {name: [] for name in ways}
    for pair in range(options.pairs):
        for name in sorted(ways, reverse=pair % 2 == 1):
            before()
            start = time.monotonic()
            ways[name]()
            taken[name].append(time.monotonic() - start)
            say(f"  pair {pair + 1} {name}: {taken[name][-1]:.2f} s", flush=True)
    return taken


def tell(what, size, taken, reference, say):
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in medians.items():
        say(f"{what}: {name} {seconds:.2f} s, {size / seconds / 1e6:.0f} MB/s, {medians[reference] / seconds:.2f} of {reference}")


def plain(producer, consumer):
    subprocess.run(["bash", "-c", f"set -o pipefail; ({producer}) | ({consumer})"], check=True, timeout=LIMIT)


def socat(link, certificates, producer, consumer):
    setting = contestants.Setting(None, None, None, certificates, link.address, link.port, link.bind_port, None, None, [], [])
    listen, connect = contestants.socat(setting)
    receiver = start(link.receiver, f"set -o pipefail; {listen} | ({consumer})")
    while not links.listening(receiver.pid, link.bind_port):
        time.sleep(0.01)
    ended(start(link.sender, f"set -o pipefail; ({producer}) | {connect}"), receiver)


def highline(options, link, producer, consumer):
    receiver = start(link.receiver, f"exec {options.program} receive --listen {link.address}:{link.bind_port} --stdout --progress none | ({consumer})",
                     stderr=subprocess.PIPE)
    ticket = receiver.stderr.readline().decode().strip()
    sender = start(link.sender, f"({producer}) | {options.program} send --stdin --progress none {ticket}")
    ended(sender, receiver)


def start(namespace, script, **more):
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    return subprocess.Popen([*prefix, "bash", "-c", script], **more)


def ended(*processes):
    for process in processes:
        if process.wait(LIMIT):
            raise SystemExit(f"{process.args[-1]} ended with {process.returncode}")


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fill(node, size):
    """Rows of digits, as sysbench makes them, and a secondary key."""
    rows = size // 200
    node.sql("CREATE DATABASE bench; CREATE TABLE bench.t (id INT PRIMARY KEY, k INT, c CHAR(120), pad CHAR(60), KEY k (k))")
    for first in range(1, rows, 250_000):
        last = min(first + 249_999, rows)
        node.sql(f"INSERT INTO bench.t SELECT seq, seq * 7 % {rows}, CONCAT(SHA2(seq, 256), SHA2(-seq, 224)), SHA2(seq * 3, 224) FROM bench.seq_{first}_to_{last}")


def compressible(file, size):
    """Lines of an INSERT with random digits: a third of it is information."""
    import random
    source, written = random.Random(1), 0
    with open(file, "w") as out:
        while written < size:
            rows = ",".join(f"({n},{source.getrandbits(20)},'{source.getrandbits(200):060d}','a value that comes again and again')" for n in range(written, written + 5000))
            written += out.write(f"INSERT INTO `t` VALUES {rows};\n")
