"""Real Galera nodes on loopback addresses for the demonstration and the benchmark: start, watch, probe, take down.

The tests have a fixture of their own in Rust (tests/support). Nothing here measures or prints a result.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SHIM = """#!/bin/sh
{ date +%s%N; printf '%s\\n' "$*"; } >"$HIGHLINE_LAB_RUNS/$$.new"
mv "$HIGHLINE_LAB_RUNS/$$.new" "$HIGHLINE_LAB_RUNS/$$.run"
exec '@REAL@' "$@"
"""


class LabError(Exception):
    """Something that the person at the terminal must know; printed without a traceback."""


def need(*pairs):
    """Makes sure that programs are installed (PROGRAM:PACKAGE)."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if subprocess.run([HERE / "need", *pairs]).returncode:
        raise LabError("the packages above are needed")


def binary(build=True):
    """The release build of Highline, built if it is missing."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target"))
    found = pathlib.Path(os.environ.get("HIGHLINE", target / "release" / "highline"))
    if not found.exists() and build:
        subprocess.run(["cargo", "build", "--release", "--bin", "highline"], cwd=HERE.parent, check=True)
    if not found.exists():
        raise LabError(f"{found} is missing; build it with 'cargo build --release'")
    return found


def server_user():
    """Servers refuse to run as root."""
    return "mysql" if os.geteuid() == 0 else None


def own(path, root=None):
    """Gives a folder to the server's account, whose numbers differ in another Linux. What already has that owner is
    left alone: its ctime would change."""
    user, group = "mysql", "mysql"
    if root:
        accounts = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
        user, group = next((account[2], account[3]) for account in accounts if account[0] == "mysql")
    if server_user():
        subprocess.run(["find", path, "!", "(", "-user", user, "-group", group, ")", "-exec", "chown", "-h", f"{user}:{group}", "{}", "+"],
                       check=True)


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][:1] not in ("Z", "X", "")


def make_certificates(folder, names=("localhost",), addresses=()):
    """A small CA and one certificate signed by it: ca.pem, cert.pem, key.pem."""
    folder.mkdir(parents=True, exist_ok=True)
    extra = ",".join([f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses])
    (folder / "san").write_text(f"subjectAltName={extra}\nextendedKeyUsage=serverAuth,clientAuth\n")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=lab CA",
            "-keyout", "ca-key.pem", "-out", "ca.pem")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=node", "-keyout", "key.pem", "-out", "request.pem")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
            "-days", "30", "-extfile", "san", "-out", "cert.pem")
    for name in ("ca.pem", "cert.pem", "key.pem"):
        os.chmod(folder / name, 0o600)
    own(folder)
    return folder


def free_block():
    """The start of an unused block of loopback addresses, such as 127.31.7."""
    for step in range(1000):
        number = os.getpid() + step * 7919
        block = f"127.{1 + number // 250 % 250}.{1 + number % 250}"
        try:
            for n in (1, 2, 3):
                with socket.socket() as probe:
                    probe.bind((f"{block}.{n}", 4567))
            return block
        except OSError:
            continue
    raise LabError("no free block of loopback addresses")


class Node:
    def __init__(self, lab, number):
        self.lab, self.number, self.process = lab, number, None
        self.name, self.donor = f"node{number}", ""  # `donor`: the name of the node that is asked
        self.folder = lab.folder / self.name
        self.address = f"{lab.block}.{number}"
        self.datadir = self.folder / "data"
        self.socket = self.folder / "socket"
        self.log = self.folder / "error.log"
        self.runs = self.folder / "runs"
        # A folder with a Linux to run in, and lines for [mysqld] and after it.
        self.root, self.extra = None, ""
        for path in (self.folder, self.datadir, self.folder / "tmp", self.runs):
            path.mkdir()
        self.own(self.folder)

    def own(self, path):
        own(path, self.root)

    def inside(self, *command):
        """A command as it is run on this node's machine."""
        if not self.root:
            return [*map(str, command)]
        return [str(HERE / "inside"), str(self.root), f"{self.lab.folder}:{self.lab.folder}", "--", *map(str, command)]

    def write_options(self):
        lab, folder = self.lab, self.folder
        weight = 2 if self.number == 1 else 1
        (folder / "my.cnf").write_text(f"""[mysqld]
datadir={self.datadir}
tmpdir={folder}/tmp
socket={self.socket}
pid-file={folder}/pid
log-error={self.log}
port=3306
bind-address={self.address}
skip-name-resolve
performance_schema=OFF
innodb_buffer_pool_size={lab.buffer_pool}
innodb_log_file_size=96M
innodb_flush_log_at_trx_commit=0
binlog_format=row
innodb_autoinc_lock_mode=2
wsrep_on=ON
wsrep_provider=/usr/lib/galera/libgalera_smm.so
wsrep_cluster_name=lab
wsrep_cluster_address=gcomm://{",".join(node.address for node in lab.nodes)}
wsrep_node_address={self.address}
wsrep_node_name={self.name}
wsrep_sst_donor={self.donor}
wsrep_sst_method={lab.method}
wsrep_sst_auth=root:
wsrep_sst_receive_address={self.address}:4444
wsrep_provider_options="gmcast.listen_addr=tcp://{self.address}:4567;ist.recv_addr={self.address}:4568;gcache.size=128M;pc.weight={weight}"
{self.extra}
[sst]
{lab.sst}
""")

    def install(self):
        """Creates a new database where the options put it."""
        self.write_options()
        user = [f"--user={server_user()}"] if server_user() else []
        # Galera is not involved.
        command = self.inside("mariadb-install-db", f"--defaults-file={self.folder}/my.cnf", *user, "--skip-test-db",
                              "--auth-root-authentication-method=normal", "--wsrep-on=OFF", "--wsrep-provider=none")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"node {self.number}: mariadb-install-db: {done.stdout.strip()} {done.stderr.strip()}")

    def start(self):
        """Starts the server and waits for nothing; the first node bootstraps the cluster."""
        self.write_options()
        command = self.inside("mariadbd", f"--defaults-file={self.folder}/my.cnf")
        if server_user():
            command.append(f"--user={server_user()}")
        if self.number == 1:
            command.append("--wsrep-new-cluster")
        if self.lab.namespace:
            command = ["ip", "netns", "exec", self.lab.namespace, *command]
        environment = dict(os.environ, HIGHLINE_LAB_RUNS=str(self.runs))
        # If /usr//bin is already in PATH, the server puts nothing before ours.
        environment["PATH"] = f"{self.lab.folder}/shims:{self.lab.folder}/bin:/usr//bin:/usr/sbin:/bin:/sbin"
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)

    def state(self):
        try:
            row = self.sql("SHOW STATUS LIKE 'wsrep_local_state_comment'", limit=5)
            return row.split("\t")[1]
        except (LabError, IndexError):
            return ""

    def wait_synced(self, limit=600):
        deadline = time.monotonic() + limit
        while self.state() != "Synced":
            if self.process.poll() is not None:
                raise LabError(f"node {self.number} ended with {self.process.returncode}; its log says:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"node {self.number} is not synced after {limit} s; its log says:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self, lines=30):
        """The last lines of the error log that report a failure."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        telling = re.compile(r"\[ERROR\]|WSREP_SST|not found|^highline")
        return "\n".join([line for line in text.splitlines() if telling.search(line)][-lines:])

    def sql(self, statements, limit=300):
        command = ["timeout", str(limit), "mariadb", "--no-defaults", "--skip-ssl", "-u", "root", "-N", "-B",
                   "-S", str(self.socket), "-e", statements]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"node {self.number}: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def checksums(self, schema="%"):
        """{table: checksum} of everything outside the server's own schemas, or of one schema."""
        tables = self.sql("SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables WHERE "
                          "table_type = 'BASE TABLE' AND table_schema NOT IN "
                          "('mysql', 'sys', 'information_schema', 'performance_schema') "
                          f"AND table_schema LIKE '{schema}' ORDER BY 1").splitlines()
        rows = self.sql("SET SESSION wsrep_sync_wait = 15; SELECT 'synced', 1; CHECKSUM TABLE " + ", ".join(tables))
        return dict(line.split("\t") for line in rows.splitlines()[1:])

    def script_runs(self):
        """[(start in ns since 1970, pid, arguments)] of the SST scripts, oldest first."""
        found = []
        for path in self.runs.glob("*.run"):
            start, _, words = path.read_text().partition("\n")
            found.append((int(start), int(path.stem), words.strip()))
        return sorted(found)

    def stop(self, clean=True):
        """Stops the server: cleanly, or at once with everything it started."""
        if not self.process:
            return
        if clean:
            subprocess.run(["timeout", "120", "mariadb-admin", "--no-defaults", "--skip-ssl", "-u", "root",
                            "-S", str(self.socket), "shutdown"], capture_output=True)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process = None

    def forget_runs(self):
        for run in self.runs.glob("*"):
            run.unlink()

    def wipe(self):
        shutil.rmtree(self.datadir)
        self.datadir.mkdir()
        self.forget_runs()
        self.own(self.datadir)


class Lab:
    """Nodes in a folder of their own, and in a network namespace where one is named; use it in a `with`, which takes everything down."""

    def __init__(self, folder, method="highline", sst="", buffer_pool="256M", program=None, namespace=None, nodes=2):
        self.folder, self.method, self.sst, self.buffer_pool = pathlib.Path(folder), method, sst, buffer_pool
        self.namespace = namespace
        self.block = free_block()
        for name in ("shims", "bin"):
            (self.folder / name).mkdir(parents=True)
        for path in (self.folder, self.folder / "shims", self.folder / "bin"):
            os.chmod(path, 0o755)
        if program:
            shutil.copy(program, self.folder / "bin" / "highline")
            shutil.copy(HERE / "wsrep_sst_highline", self.folder / "bin" / "wsrep_sst_highline")
        self.nodes = [Node(self, number + 1) for number in range(nodes)]
        self.add_method(method)

    def add_method(self, method):
        real = self.folder / "bin/wsrep_sst_highline" if method == "highline" else f"/usr/bin/wsrep_sst_{method}"
        shim = self.folder / "shims" / f"wsrep_sst_{method}"
        shim.write_text(SHIM.replace("@REAL@", str(real)))
        shim.chmod(0o755)

    def use(self, method, sst):
        """Uses this method from the next state transfer on."""
        self.method, self.sst = method, sst
        self.add_method(method)
        for node in self.nodes:
            node.write_options()

    def install(self, datadir=None):
        """Gives the first node a new database, or a copy of one that was stopped cleanly."""
        first = self.nodes[0]
        if datadir:
            subprocess.run(["cp", "-a", "--reflink=auto", f"{datadir}/.", first.datadir], check=True)
            state = first.datadir / "grastate.dat"
            if state.exists():
                state.write_text(state.read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
        else:
            first.install()
        first.own(first.datadir)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave parts of it running.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for node in self.nodes:
            node.stop(clean=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        signal.signal(signal.SIGINT, before)


def sysbench(node, tables, rows, *words, schema="sb", script="oltp_read_write"):
    return ["sysbench", script, f"--mysql-socket={node.socket}", "--mysql-user=root", f"--mysql-db={schema}",
            f"--tables={tables}", f"--table-size={rows}", "--threads=2", "--mysql-ignore-errors=all",
            "--db-ps-mode=disable", *words]


class Load:
    """sysbench in the background with its transactions per second; for a `with`."""

    def __init__(self, node, tables, rows, *words, script="oltp_read_write"):
        self.rates = []
        command = sysbench(node, tables, rows, "--report-interval=1", "--time=3600", *words, "run", script=script)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            found = re.search(r"tps: ([0-9.]+)", line)
            if found:
                self.rates.append((time.time(), float(found[1])))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.reader.join()


class Probe:
    """Commits a small row every 10 ms; `longest` is the longest that one commit took, in seconds. For a `with`.

    `ends` holds when each commit succeeded, in seconds since 1970."""

    EVERY = 0.010

    def __init__(self, node):
        node.sql("CREATE DATABASE IF NOT EXISTS probe; CREATE TABLE IF NOT EXISTS probe.t (id INT PRIMARY KEY, n BIGINT); "
                 "INSERT IGNORE INTO probe.t VALUES (1, 0)")
        self.longest, self.when, self.ends, self.stopped = 0.0, time.time(), [], False
        self.client = subprocess.Popen(["mariadb", "--no-defaults", "--skip-ssl", "-u", "root", "-N", "-B", "--unbuffered",
                                        "--force", "-S", str(node.socket)], stdin=subprocess.PIPE, text=True, bufsize=1,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def reset(self):
        self.longest = 0.0

    def gaps(self, since, until):
        """Seconds from each commit to the next, for all that overlap that time; one that is still running counts."""
        inside = [end for end in self.ends if since <= end <= until]
        before = [end for end in self.ends if end < since][-1:] or [since]
        after = [end for end in self.ends if end > until][:1] or [until]
        edges = before + inside + after
        return [later - earlier for earlier, later in zip(edges, edges[1:])]

    def _run(self):
        while not self.stopped:
            start = time.time()
            try:
                self.client.stdin.write("UPDATE probe.t SET n = n + 1 WHERE id = 1; SELECT ROW_COUNT();\n")
                answer = self.client.stdout.readline()
            except (OSError, ValueError):
                answer = ""
            took = time.time() - start
            if took > self.longest:
                self.longest, self.when = took, start
            if not answer:
                return
            if answer.strip() == "1":
                self.ends.append(start + took)
            time.sleep(max(0.0, self.EVERY - took))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopped = True
        time.sleep(3 * self.EVERY)
        self.client.kill()
        self.client.wait()
        self.thread.join()


class LogTail:
    """Notes when each new line of the nodes' error logs appeared: (time, node number, line). For a `with`."""

    def __init__(self, nodes):
        self.lines, self.stopped = [], False
        self.thread = threading.Thread(target=self._run, args=(list(nodes),), daemon=True)
        self.thread.start()

    def _run(self, nodes):
        places = {node.number: node.log.stat().st_size if node.log.exists() else 0 for node in nodes}
        rest = dict.fromkeys(places, b"")
        while not self.stopped:
            for node in nodes:
                try:
                    with open(node.log, "rb") as log:
                        log.seek(places[node.number])
                        new = log.read()
                except OSError:
                    continue
                places[node.number] += len(new)
                *whole, rest[node.number] = (rest[node.number] + new).split(b"\n")
                now = time.time()
                self.lines.extend((now, node.number, line.decode(errors="replace")) for line in whole)
            time.sleep(0.01)

    def first(self, node, pattern, after=0.0):
        """When a line of `node` first matched, or None."""
        wanted = re.compile(pattern, re.IGNORECASE)
        return next((t for t, n, line in self.lines if n == node and t >= after and wanted.search(line)), None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.thread.join()


class ScriptEnd:
    """Notes when the first SST script of a role on a node ends. For a `with`."""

    def __init__(self, node, role):
        self.node, self.role = node, role
        self.start = self.end = None
        self.stopped = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.stopped:
            for start, pid, words in self.node.script_runs():
                if f"--role {self.role}" in words:
                    self.start = start / 1e9
                    if not alive(pid):
                        self.end = time.time()
                        return
            time.sleep(0.005)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.thread.join()
