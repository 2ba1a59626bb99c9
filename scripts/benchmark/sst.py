"""Real state transfers: a node without data joins a serving node, with each method in turn."""

import subprocess
import tempfile
import time

import lab
from benchmark import contestants, shapes

METHODS = {
    "rsync+stunnel": ("rsync", "tca={tls}/ca.pem\ntcert={tls}/cert.pem\ntkey={tls}/key.pem\nssl-mode=VERIFY_CA"),
    "mariabackup+TLS": ("mariabackup", "tca={tls}/ca.pem\ntcert={tls}/cert.pem\ntkey={tls}/key.pem\nencrypt=4\nssl-mode=VERIFY_CA"),
    "highline": ("highline", ""),
    "highline-mariabackup": ("highline", "[highline]\nsource=mariabackup"),
}


def run(options, record):
    source = shapes.get("sysbench", options.size, options.cache)
    program = options.program if contestants.has_verbs(options.program) else None
    names = [name for name in METHODS if name in options.contestants and (program or not name.startswith("highline"))]
    _, apparent, _ = shapes.usage(source)
    with lab.Lab(tempfile.mkdtemp(prefix="highline-bench-"), program=program) as cluster:
        donor, joiner = cluster.nodes
        tls = lab.make_certificates(cluster.folder / "tls", addresses=[donor.address, joiner.address])
        cluster.install(source)
        cluster.use("rsync", "")
        donor.start()
        donor.wait_synced()
        with lab.Probe(donor) as probe:
            for pair in range(-1, options.sst_pairs):
                for name in names:
                    method, lines = METHODS[name]
                    cluster.use(method, lines.format(tls=tls))
                    try:
                        result = once(donor, joiner, probe, check=pair < 0)
                    except lab.LabError as error:
                        print(f"  sst {name}: FAILED: {error}", flush=True)
                        record({"kind": "sst", "contestant": name, "failed": str(error)})
                        continue
                    finally:
                        # A killed node would stop the group's commits until it is suspected 5 s later.
                        joiner.stop()
                        joiner.wipe()
                        donor.forget_runs()
                    print(f"  sst {'warm-up' if pair < 0 else f'pair {pair + 1}'} {name}: script {result['script']:.2f} s, "
                          f"synced after {result['synced']:.2f} s, freeze {result['freeze']:.2f} s", flush=True)
                    if pair >= 0:
                        record({"kind": "sst", "shape": "sysbench", "link": "loopback", "bytes": apparent, "contestant": name,
                                "options": lines, "method": method, **result})


def once(donor, joiner, probe, check):
    donor.wait_synced()
    while donor.sql("SHOW STATUS LIKE 'wsrep_cluster_size'").split()[-1] != "1":
        time.sleep(0.05)
    subprocess.run(["sync"], check=True)
    time.sleep(0.5)
    probe.reset()
    start = time.time()
    with lab.ScriptEnd(joiner, "joiner") as joining, lab.ScriptEnd(donor, "donor") as giving:
        joiner.start()
        joiner.wait_synced()
        synced = time.time() - start
        time.sleep(0.1)
    if not (joining.end and giving.start):
        raise lab.LabError("no script ran: was it an IST?")
    if check and donor.checksums("sb") != joiner.checksums("sb"):
        raise lab.LabError("the nodes differ after the transfer")
    return {"script": joining.end - joining.start, "synced": synced, "freeze": probe.longest,
            "donor_script": (giving.end or time.time()) - giving.start}

