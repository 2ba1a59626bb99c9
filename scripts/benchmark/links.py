"""Over what: loopback, or two network namespaces joined by a veth pair with a token bucket, and a delay if asked for.

Every link but a loopback without root has namespaces of its own, so its byte counters see this benchmark alone.
"""

import os
import pathlib
import socket
import subprocess
import sys
import time

PORT = 4444
NAMES = ("loopback", "1gbit", "100mbit", "1gbit-40ms")
RATES = {"1gbit": 125_000_000, "100mbit": 12_500_000, "1gbit-40ms": 125_000_000}


def run(*words):
    """What the command prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def listening(pid, port):
    """Whether somebody listens on the port, in the network namespace of that process."""
    for family in ("tcp", "tcp6"):
        try:
            lines = pathlib.Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[1].endswith(f":{port:04X}") and words[3] == "0A":
                return True
    return False


def namespace(pid, end="a"):
    return f"hlb{pid}{end}"


class Link:
    """`address` and `port` are what the sender dials; the receiver binds `address` and PORT. For a `with`."""

    def __init__(self, name):
        self.name, self.port, self.proxy = name, PORT, None
        self.sender = self.receiver = None
        self.address, self.device = "127.0.0.1", "lo"
        self.rate = RATES.get(name)
        if name != "loopback" and os.geteuid() != 0:
            raise PermissionError("links with a rate need root: they are network namespaces")

    def __enter__(self):
        if os.geteuid() != 0:
            with socket.socket() as probe:
                probe.bind((self.address, 0))
                self.port = probe.getsockname()[1]
            return self
        self.sender = self.receiver = namespace(os.getpid())
        run("ip", "netns", "add", self.sender)
        run("ip", "-n", self.sender, "link", "set", "lo", "up")
        if self.rate:
            self._pair()
        return self

    def _pair(self):
        self.receiver, self.address, self.device = namespace(os.getpid(), "b"), "10.77.0.2", "hl0"
        run("ip", "netns", "add", self.receiver)
        run("ip", "-n", self.receiver, "link", "set", "lo", "up")
        run("ip", "-n", self.sender, "link", "add", "hl0", "type", "veth", "peer", "name", "hl0", "netns", self.receiver)
        for end, address in ((self.sender, "10.77.0.1/24"), (self.receiver, "10.77.0.2/24")):
            run("ip", "-n", end, "address", "add", address, "dev", "hl0")
            run("ip", "-n", end, "link", "set", "hl0", "up")
            run("tc", "-n", end, "qdisc", "add", "dev", "hl0", "root", "tbf", "rate", f"{self.rate * 8}bit",
                "burst", "512kb", "latency", "50ms")
        if self.name.endswith("40ms"):
            self.port = PORT + 1
            command = ["ip", "netns", "exec", self.receiver, sys.executable, str(pathlib.Path(__file__).with_name("delay.py")),
                       f"{self.address}:{self.port}", f"{self.address}:{PORT}", "0.020"]
            self.proxy = subprocess.Popen(command, start_new_session=True)
            while not listening(self.proxy.pid, self.port):
                if self.proxy.poll() is not None:
                    raise RuntimeError("the delaying proxy did not start")
                time.sleep(0.01)

    @property
    def bind_port(self):
        return PORT if self.sender else self.port

    def bytes(self):
        """Bytes that crossed so far, both ways."""
        command = ["cat", "/proc/net/dev"]
        if self.sender:
            command = ["ip", "netns", "exec", self.sender, *command]
        for line in run(*command).splitlines():
            name, _, rest = line.strip().partition(":")
            if name == self.device:
                counts = [int(word) for word in rest.split()]
                return counts[0] if name == "lo" else counts[0] + counts[8]
        raise RuntimeError(f"no device {self.device}")

    def carries(self):
        """Bytes a second that cross, counted as `bytes` counts them, while plain TCP fills the link; None on loopback."""
        if not self.rate:
            return None
        ends = [(self.receiver, "drain", f"{self.address}:{PORT}"), (self.sender, "fill", f"{self.address}:{self.port}")]
        running = []
        try:
            for end, what, address in ends:
                command = ["ip", "netns", "exec", end, sys.executable, str(pathlib.Path(__file__).with_name("fill.py")), what, address]
                running.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL))
                deadline = time.monotonic() + 10
                while what == "drain" and not listening(running[0].pid, PORT) and time.monotonic() < deadline:
                    time.sleep(0.01)
            time.sleep(2)
            before, start = self.bytes(), time.monotonic()
            time.sleep(3)
            return (self.bytes() - before) / (time.monotonic() - start)
        finally:
            for process in running:
                process.kill()
                process.wait()

    def __exit__(self, *_):
        if self.proxy:
            self.proxy.kill()
            self.proxy.wait()
        for namespace in {self.sender, self.receiver} - {None}:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)
