"""By what: each contestant is a command for the receiving end and one for the sending end.

The options are those of the scripts that ship with the server; nobody is handicapped. The report prints the commands.
"""

import dataclasses
import os
import pathlib
import re
import subprocess


@dataclasses.dataclass
class Setting:
    """Where a transfer happens."""

    source: pathlib.Path
    target: pathlib.Path
    work: pathlib.Path
    certificates: pathlib.Path
    address: str
    port: int  # what the sender dials
    bind_port: int  # what the receiver binds
    socket: pathlib.Path | None  # of a live server on a copy of the source
    program: pathlib.Path
    highline_receive: list
    highline_send: list


@dataclasses.dataclass
class Ends:
    receiver: str
    sender: str
    ends_alone: bool = True  # False: a daemon that is stopped when the sender is done
    gives_ticket: bool = False  # the receiver prints a line that the sender needs as $TICKET


RSYNC = "--owner --group --perms --links --specials --ignore-times --inplace --delete --quiet --whole-file"


def rsync_sender(setting, shell):
    """The order and the filters of wsrep_sst_rsync: folders, InnoDB's files, redo, undo, Aria, then one rsync a schema."""
    url = f"rsync://{setting.address}:{setting.port}/rsync_sst"
    rsync = f"rsync {shell} {RSYNC}"
    inner = "-f '- /ib_lru_dump' -f '- /ibdata*' -f '- /undo*' -f '- /ib_logfile[0-9]*' -f '- /aria_log_control' -f '- /aria_log.*'"
    lines = [f"set -eu; cd {setting.source}"]
    lines.append(f"{rsync} --dirs -f '- /lost+found' {inner} -f '+ /*/' -f '- /*' ./ {url}")
    for module, wanted in (("data_dir", "-f '+ /ibdata*' -f '+ /ib_lru_dump'"), ("log_dir", "-f '+ /ib_logfile[0-9]*'"),
                           ("undo_dir", "-f '+ /undo*'"), ("aria_log", "-f '+ /aria_log_control' -f '+ /aria_log.*'")):
        lines.append(f"{rsync} --dirs {wanted} -f '- **' ./ {url}-{module}")
    lines.append(f"find -L . -maxdepth 1 -mindepth 1 -type d -not -name lost+found -print0 | xargs -I{{}} -0 -P {os.cpu_count()} "
                 f"{rsync} --recursive {inner} {setting.source}/{{}}/ {url}/{{}}")
    return "\n".join(lines)


def rsync_configuration(setting):
    modules = "".join(f"[rsync_sst{name}]\n    path = {setting.target}\n" for name in ("", "-log_dir", "-data_dir", "-undo_dir", "-aria_log"))
    own = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""  # in an SST the daemon runs as the server's account
    file = setting.work / "rsyncd.conf"
    file.write_text(f"pid file = {setting.work}/rsync.pid\nuse chroot = no\nread only = no\ntimeout = 300\n{own}{modules}")
    return file


def rsync_plain(setting):
    configuration = rsync_configuration(setting)
    receiver = f"rsync --daemon --no-detach --port {setting.bind_port} --address {setting.address} --config {configuration}"
    return Ends(f"rm -f {setting.work}/rsync.pid; exec {receiver}", rsync_sender(setting, ""), ends_alone=False)


def rsync_stunnel(setting):
    configuration, work, tls = rsync_configuration(setting), setting.work, setting.certificates
    common = (f"key = {tls}/key.pem\ncert = {tls}/cert.pem\nCAfile = {tls}/ca.pem\nforeground = yes\n"
              "debug = warning\nverifyChain = yes\n")
    (work / "stunnel-joiner.conf").write_text(
        f"{common}pid = {work}/stunnel-joiner.pid\nclient = no\n[rsync]\naccept = {setting.address}:{setting.bind_port}\n"
        f"exec = /usr/bin/rsync\nexecargs = rsync --server --daemon --config={configuration} .\n")
    (work / "stunnel-donor.conf").write_text(
        f"{common}pid = {work}/stunnel-donor.pid\nclient = yes\nconnect = {setting.address}:{setting.port}\nTIMEOUTclose = 0\n")
    sender = rsync_sender(setting, f'--rsh="stunnel {work}/stunnel-donor.conf"')
    return Ends(f"exec stunnel {work}/stunnel-joiner.conf", sender, ends_alone=False)


def socat(setting):
    tls = f"cert={setting.certificates}/cert.pem,key={setting.certificates}/key.pem,cafile={setting.certificates}/ca.pem,commonname=''"
    listen = f"socat -u openssl-listen:{setting.bind_port},bind={setting.address},reuseaddr,{tls} stdio"
    connect = f"socat -u stdio openssl-connect:{setting.address}:{setting.port},no-sni=1,{tls}"
    return listen, connect


def tar_zstd(setting):
    listen, connect = socat(setting)
    return Ends(f"set -euo pipefail; {listen} | zstd -q -d -c | tar -x -C {setting.target} -f -",
                f"set -euo pipefail; tar -c -C {setting.source} -f - . | zstd -q -1 -c | {connect}")


def mariabackup(setting):
    if not setting.socket:
        return None
    listen, connect = socat(setting)
    backup = (f"mariadb-backup --no-defaults --backup --galera-info --stream=mbstream --databases-exclude=lost+found "
              f"--user=root --socket={setting.socket} --target-dir={setting.work}/backup")
    return Ends(f"set -euo pipefail; {listen} | mbstream -x -C {setting.target}",
                f"set -euo pipefail; rm -rf {setting.work}/backup; {backup} | {connect}")


def highline(setting):
    if not has_verbs(setting.program):
        return None
    receive, send = (" ".join(words) for words in (setting.highline_receive, setting.highline_send))
    return Ends(f"exec {setting.program} receive --datadir {setting.target} --listen {setting.address}:{setting.bind_port} {receive}",
                f'exec {setting.program} send --datadir {setting.source} {send} "$TICKET"', gives_ticket=True)


def bare_loop(setting):
    """The upper bound: read, TLS, write, sync in one process, see benches/bare_loop.rs. `cargo bench --no-run` builds it.

    It keeps every file open, so it cannot be used for the small tables."""
    if setting.source.name.startswith("small"):
        return None
    built = [p for p in (pathlib.Path(__file__).parents[2] / "target/release/deps").glob("bare_loop-*") if os.access(p, os.X_OK)]
    if not built or setting.address != "127.0.0.1":
        return None
    program = max(built, key=lambda p: p.stat().st_mtime)
    lanes = min(max(len(os.sched_getaffinity(0)), 8), 16)  # as many as Highline takes
    return Ends("echo none; exec sleep 3600", f"exec {program} {setting.source} {setting.target} {lanes}", ends_alone=False, gives_ticket=True)


def has_verbs(program):
    """Whether the program can send and receive."""
    try:
        asked = [subprocess.run([program, verb, "--help"], capture_output=True, text=True) for verb in ("send", "receive")]
    except OSError:
        return False
    return all(done.returncode == 0 and "--datadir" in done.stdout for done in asked)


def through(ticket, setting):
    """The ticket as it is dialled through a proxy on another port."""
    if setting.port == setting.bind_port:
        return ticket
    return re.sub(rf":{setting.bind_port}\b", f":{setting.port}", ticket, count=1)


CONTESTANTS = {
    "rsync+stunnel": rsync_stunnel,
    "rsync (plain)": rsync_plain,
    "tar+zstd+socat": tar_zstd,
    "mariabackup+TLS": mariabackup,
    "highline": highline,
    "bare loop": bare_loop,
}
REFERENCE = "rsync+stunnel"
