"""Runs one end of a transfer and says what it cost: CPU seconds and peak memory of all its processes.

    python3 meter.py RESULT.json -- COMMAND...

As a subreaper it inherits and waits for every descendant, so daemons' children count too. SIGTERM ends them all.
"""

import ctypes
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
SAMPLE_EVERY = 0.1


class Side:
    """One end, running under measurement."""

    def __init__(self, command, work, name, namespace=None, **popen):
        self.result = work / f"{name}.json"
        self.errors = open(work / f"{name}.err", "wb")
        self.result.unlink(missing_ok=True)
        prefix = ["ip", "netns", "exec", namespace] if namespace else []
        full = [*prefix, sys.executable, __file__, self.result, "--", *command]
        self.process = subprocess.Popen(full, stderr=self.errors, start_new_session=True, **popen)

    def poll(self):
        return self.process.poll()

    def wait(self, limit):
        return self.process.wait(limit)

    def end(self):
        """Ends what is still running; returns {"cpu": s, "memory": bytes, "code": n}."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.errors.close()
        return json.loads(self.result.read_text()) if self.result.exists() else {"cpu": 0, "memory": 0, "code": -1}

    def said(self):
        return pathlib.Path(self.errors.name).read_text(errors="replace")[-2000:]


def descendants(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                yield int(child)
                yield from descendants(int(child))
        except OSError:
            continue


def proportional_memory(pids):
    """Bytes; memory that several processes share is counted once."""
    total = 0
    for pid in pids:
        try:
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except (OSError, ValueError):
            continue
    return total


def main(result, command):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    peak, done = [0], threading.Event()

    def sample():
        while not done.wait(SAMPLE_EVERY):
            peak[0] = max(peak[0], proportional_memory(descendants(os.getpid())))

    main_child = subprocess.Popen(command, start_new_session=True)
    threading.Thread(target=sample, daemon=True).start()
    ending = [0.0]

    def end(*_):
        ending[0] = time.monotonic()
        for pid in list(descendants(os.getpid())):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    signal.signal(signal.SIGTERM, end)
    code, late = None, None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == main_child.pid:
            code, late = os.waitstatus_to_exitcode(status), time.monotonic() + 5
        if pid == 0:
            now = time.monotonic()
            if (late and now > late) or (ending[0] and now > ending[0] + 5):
                for child in list(descendants(os.getpid())):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.002)
    done.set()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = max(peak[0], used.ru_maxrss * 1024 if peak[0] == 0 else 0)
    report = {"cpu": used.ru_utime + used.ru_stime, "memory": memory, "largest": used.ru_maxrss * 1024, "code": code}
    pathlib.Path(result).write_text(json.dumps(report))
    sys.exit(code if code is not None and code >= 0 else 1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3:])
