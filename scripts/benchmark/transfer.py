"""A directory from A to B: every contestant in turn, repeated for each pair, with everything synced to disk in the timed part."""

import filecmp
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import lab
from benchmark import contestants, ground, links, meter, shapes

LIMIT = 1800


class Failed(Exception):
    """One contestant failed; the others go on."""


def run(options, record):
    """Measures each (shape, link, size, pairs) of the plan and hands each run to `record`."""
    work = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=options.cache))
    try:
        for shape, name, size, pairs in options.plan:
            source = shapes.get(shape, size, options.cache)
            with Live(source, shape, options) as socket, links.Link(name) as link:
                certificates = lab.make_certificates(work / f"tls-{name}", addresses=[link.address])
                subprocess.run(["chown", "-R", str(os.geteuid()), certificates], check=True)
                measure(options, shape, source, link, pairs, certificates, socket, work, record)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Live:
    """A server on a copy of the source, for the contestant that reads from one; None if the shape is not a database."""

    def __init__(self, source, shape, options):
        self.cluster = None
        if shape == "sysbench" and "mariabackup+TLS" in options.contestants:
            self.source = source
            self.cluster = lab.Lab(tempfile.mkdtemp(prefix="highline-bench-"), "rsync")

    def __enter__(self):
        if not self.cluster:
            return None
        node = self.cluster.nodes[0]
        try:
            self.cluster.install(self.source)
            node.start()
            node.wait_synced()
        except BaseException:
            self.cluster.__exit__()
            raise
        return node.socket

    def __exit__(self, *_):
        if self.cluster:
            self.cluster.__exit__()


def measure(options, shape, source, link, pairs, certificates, socket, work, record):
    count, apparent, allocated = shapes.usage(source)
    facts = {"kind": "transfer", "shape": shape, "link": link.name, "files": count, "bytes": apparent, "allocated": allocated,
             "link_carries": link.carries()}
    setting = contestants.Setting(source, work / "target" / "data", work, certificates, link.address, link.port, link.bind_port, socket,
                                  options.program, options.highline_receive, options.highline_send)
    here = [name for name in options.contestants if name in contestants.CONTESTANTS]
    names = [name for name in here if contestants.CONTESTANTS[name](setting)]
    for name in here:
        if name not in names:
            print(f"{shape}, {link.name}: {name} does not take part")
    shapes.warm(source)
    for pair in range(-1, pairs):
        for name in rotated(names, pair):
            warm_up = pair < 0
            if warm_up and link.name != "loopback" and not options.quick:
                continue  # over a slow link the link is the bottleneck, cold or warm
            try:
                with ground.Ground(setting.target, fresh=shape.startswith("small")):
                    result, ends = once(name, setting, link)
                    if warm_up:
                        compare(name, source, setting.target)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                print(f"  {shape} {link.name} {name}: FAILED: {error}", flush=True)
                record({**facts, "contestant": name, "failed": str(error)})
                continue
            finally:
                subprocess.run(["sync", "-f", work], check=True)
            rate = apparent / result["seconds"] / 1e6
            print(f"  {shape} {link.name} {'warm-up' if warm_up else f'pair {pair + 1}'} {name}: "
                  f"{result['seconds']:.2f} s, {rate:.0f} MB/s", flush=True)
            if not warm_up:
                record({**facts, "contestant": name, "commands": {"joiner": ends.receiver, "donor": ends.sender}, **result})


def rotated(names, pair):
    """No contestant is always first."""
    step = pair % len(names) if names else 0
    return names[step:] + names[:step]


def once(name, setting, link):
    setting.target.mkdir()
    ends = contestants.CONTESTANTS[name](setting)
    label = "".join(c for c in name if c.isalnum())
    pipe = {"stdout": subprocess.PIPE, "text": True} if ends.gives_ticket else {"stdout": subprocess.DEVNULL}
    receiver = meter.Side(["bash", "-c", ends.receiver], setting.work, f"{label}-joiner", link.receiver, **pipe)
    sender, paid = None, {}
    try:
        environment = dict(os.environ)
        if ends.gives_ticket:
            environment["TICKET"] = contestants.through(receiver.process.stdout.readline().strip(), setting)
        else:
            wait_listening(receiver, setting.bind_port)
        before, start = link.bytes(), time.monotonic()
        sender = meter.Side(["bash", "-c", ends.sender], setting.work, f"{label}-donor", link.sender, env=environment,
                            stdout=subprocess.DEVNULL)
        code = sender.wait(LIMIT)
        received = receiver.wait(LIMIT) if ends.ends_alone and code == 0 else 0
        subprocess.run(["sync", "-f", setting.target], check=True)
        seconds = time.monotonic() - start
        wire = link.bytes() - before
        if code or received:
            raise Failed(f"donor's end {code}, joiner's end {received}\n{sender.said()}\n{receiver.said()}")
    finally:
        for role, side in (("donor", sender), ("joiner", receiver)):
            paid[role] = side.end() if side else {}
    _, apparent, allocated = shapes.usage(setting.target)
    result = {"seconds": seconds, "wire": wire, "target_bytes": apparent, "target_allocated": allocated}
    for role, cost in paid.items():
        result[f"{role}_cpu"], result[f"{role}_memory"] = cost["cpu"], cost["memory"]
    return result, ends


def wait_listening(receiver, port):
    deadline = time.monotonic() + 20
    while not links.listening(receiver.process.pid, port):
        if receiver.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"the joiner's end does not listen\n{receiver.said()}")
        time.sleep(0.01)


def compare(name, source, target):
    """Every table of the source is in the target, byte by byte (a backup of a live server: by name)."""
    for folder, _, files in os.walk(source):
        if pathlib.Path(folder) == source:
            continue
        for file in files:
            mine = pathlib.Path(folder) / file
            theirs = target / mine.relative_to(source)
            same = theirs.exists() if name.startswith("mariabackup") else theirs.exists() and filecmp.cmp(mine, theirs, shallow=False)
            if not same:
                raise Failed(f"{theirs} is not what was sent")
