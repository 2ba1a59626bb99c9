"""What is written: every run as JSON, the medians as a Markdown page, and pictures."""

import json
import os
import pathlib
import platform
import statistics
import subprocess

from benchmark import bars, freeze, reuse, sst
from benchmark.contestants import CONTESTANTS, REFERENCE
from benchmark.shapes import SHAPES

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLOURS = {"bare loop": "#c9c9c9", "rsync+stunnel": "#b5651d", "rsync (plain)": "#d8b48a", "tar+zstd+socat": "#8c8c8c", "mariabackup+TLS": "#4a7a9d",
           "highline": "#1b9e77", "highline (rounds)": "#66c2a4", "highline (clone)": "#0b5d45", "highline (whole)": "#a3d9c5",
           "highline-mariabackup": "#17806d"}


def machine():
    def first(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[0]
        except (OSError, IndexError):
            return "?"

    model = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "?")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "mariadb": first("mariadbd", "--version"),
            "rsync": first("rsync", "--version"), "zstd": first("zstd", "--version")}


def groups(runs, kind):
    """{(shape, link): {contestant: [run, …]}} of the runs that succeeded, in the order of the contestants."""
    found = {}
    for run in runs:
        if run["kind"] == kind and "failed" not in run:
            found.setdefault((run["shape"], run["link"]), {}).setdefault(run["contestant"], []).append(run)
    order = dict.fromkeys([*CONTESTANTS, *sst.METHODS, *map(freeze.mode_name, freeze.MODES), *reuse.CASES])
    return {key: {name: group[name] for name in order if name in group} for key, group in found.items()}


def share(runs):
    """Their share of what plain TCP moves over the link."""
    if not all(run.get("link_carries") for run in runs):
        return ""
    return f"{statistics.median(run['wire'] / run['seconds'] / run['link_carries'] for run in runs):.2f}"


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def write(folder, runs, options):
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "options": options, "runs": runs, "medians": medians(runs)}
    (folder / "results.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
    (folder / "README.md").write_text(page(facts, options))


def medians(runs):
    out = []
    for kind, key in (("transfer", "seconds"), ("sst", "script"), ("freeze", "freeze"), ("reuse", "script")):
        for (shape, link), group in groups(runs, kind).items():
            base = median(group[REFERENCE], key) if REFERENCE in group else None
            for name, some in group.items():
                numbers = {k: bars.typical(some, k) for k, v in some[0].items() if isinstance(v, (int, float))}
                ratio = base / numbers[key] if base else None
                out.append({"kind": kind, "shape": shape, "link": link, "contestant": name, "pairs": len(some), **numbers,
                            f"times_{REFERENCE}": ratio})
    return out


def page(facts, options):
    runs, host = facts["runs"], facts["machine"]
    lines = ["# Benchmarks", "",
             f"{host['cpu']}, {host['cores']} cores, {host['memory'] / 2**30:.0f} GiB, Linux {host['kernel']}; "
             f"{host['mariadb']}; {host['rsync']}. Both ends run on this machine.",
             "", "Written by `scripts/bench`. Contestants alternate within one run after an unmeasured warm-up of each; numbers are "
             "medians (fastest to slowest in brackets). The source is in the page cache. The time ends when everything is synced to "
             "the target's disk, for every contestant. CPU is user and system time of all processes of both ends. Memory is the peak "
             "of an end's processes, shared pages counted once. Bytes on the wire are the device's, both ways; on loopback that includes "
             "the local socket between stunnel and the rsync that it starts. With 40 ms, a proxy delays every byte by 20 ms each "
             "way and allows 4 MiB in flight for each connection and direction. Of the link: the bytes a second on the wire against those of four "
             "plain TCP connections that fill it. "
             "Small tables go onto a new filesystem each time (ext4 in a file), because ext4 searches long past inodes that were freed in the "
             "last minutes. A backup by mariabackup still has to be prepared; the state "
             "transfers below include that.", ""]
    for (shape, link), group in groups(runs, "transfer").items():
        some = next(iter(group.values()))[0]
        lines += [f"## Transfer: {shape}, {link}", "",
                  f"{SHAPES[shape]}: {some['files']} files, {some['bytes'] / 1e6:.0f} MB, {some['allocated'] / 1e6:.0f} MB allocated.", "",
                  f"| | s | MB/s | times {REFERENCE} | CPU s/GB | peak memory donor, joiner (MiB) | wire MB | of the link | allocated after (MB) |",
                  "|---|---|---|---|---|---|---|---|---|"]
        base = median(group[REFERENCE], "seconds") if REFERENCE in group else None
        for name, all_of in group.items():
            seconds, size = median(all_of, "seconds"), all_of[0]["bytes"]
            spread = f"({min(r['seconds'] for r in all_of):.2f}–{max(r['seconds'] for r in all_of):.2f})"
            cpu = (median(all_of, "donor_cpu") + median(all_of, "joiner_cpu")) / (size / 1e9)
            times = f"{base / seconds:.2f}" if base else ""
            lines.append(f"| {name} | {seconds:.2f} {spread} | {size / seconds / 1e6:.0f} | {times} | {cpu:.2f} | "
                         f"{median(all_of, 'donor_memory') / 2**20:.0f}, {median(all_of, 'joiner_memory') / 2**20:.0f} | "
                         f"{median(all_of, 'wire') / 1e6:.0f} | {share(all_of)} | {median(all_of, 'target_allocated') / 1e6:.0f} |")
        lines += ["", f"![{shape}, {link}](transfer-{shape}-{link}.svg)", ""]
    for (shape, link), group in groups(runs, "sst").items():
        some = next(iter(group.values()))[0]
        lines += [f"## State transfer between two real nodes: {shape}, {some['bytes'] / 1e6:.0f} MB", "",
                  "Script: start to end of the joiner's script. Synced: from the start of the joiner's server. Freeze: the longest "
                  "commit on the donor, by a client that commits every 10 ms. "
                  "`wsrep_sst_mariabackup` sleeps 10 s before it sends; that is part of its time, as it is in production.", "",
                  f"| | script s | times {REFERENCE} | joiner synced s | donor freeze s |", "|---|---|---|---|---|"]
        base = median(group[REFERENCE], "script") if REFERENCE in group else None
        for name, all_of in group.items():
            script = median(all_of, "script")
            times = f"{base / script:.2f}" if base else ""
            spread = f"({min(r['script'] for r in all_of):.2f}–{max(r['script'] for r in all_of):.2f})"
            if name.startswith("mariabackup") and base:
                times += f" ({base / (script - 10):.2f} without its sleep)"
            lines.append(f"| {name} | {script:.2f} {spread} | {times} | {median(all_of, 'synced'):.2f} | {median(all_of, 'freeze'):.2f} |")
        lines += ["", "![state transfer](sst.svg)", ""]
    frozen = groups(runs, "freeze")
    if frozen:
        lines += ["## How long a donor is frozen", "", bars.NOTE, ""]
    for (case, filesystem), group in frozen.items():
        lines += bars.section(case, filesystem, freeze.CASES[case].what, group)
    returned = groups(runs, "reuse")
    if returned:
        lines += ["## What it costs to bring a node back", "", reuse.NOTE, ""]
    for (_, where), group in returned.items():
        lines += reuse.section(where, group)
    failed = [run for run in runs if "failed" in run]
    if failed:
        lines += ["## Failed", ""] + [f"- {r.get('shape', 'sst')} {r.get('link', '')} {r['contestant']}: "
                                      f"{r['failed'].splitlines()[0]}" for r in failed] + [""]
    return "\n".join(lines + commands(runs, options)) + "\n"


def commands(runs, options):
    lines = ["## Commands", "", f"    {options['command']}", ""]
    seen = set()
    for run in runs:
        if run["contestant"] in seen or "commands" not in run:
            continue
        seen.add(run["contestant"])
        lines += [f"### {run['contestant']}", ""]
        for role in ("joiner", "donor"):
            lines += [f"{role.capitalize()}:", "", "```sh", run["commands"][role].replace(f"{ROOT}/", ""), "```", ""]
    for run in runs:
        if run["kind"] in ("sst", "freeze") and "options" in run and (run["contestant"], "sst") not in seen:
            seen.add((run["contestant"], "sst"))
            lines += [f"### {run['contestant']}, between real nodes", "", "```ini", f"wsrep_sst_method={run['method']}", "[sst]",
                      run["options"] or "# no key", "```", ""]
    return lines


def draw(folder):
    """Pictures of `results.json`; runs in an environment that has matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "highline", "font.size": 10})
    import matplotlib.pyplot as plot

    runs = json.loads((folder / "results.json").read_text())["runs"]

    def barred(title, unit, values, spreads, file):
        figure, axes = plot.subplots(figsize=(7, 0.55 * len(values) + 1.2))
        names = list(values)[::-1]
        numbers = [values[name] for name in names]
        axes.barh(names, numbers, color=[COLOURS[name] for name in names],
                  xerr=[[v - spreads[n][0] for n, v in zip(names, numbers)], [spreads[n][1] - v for n, v in zip(names, numbers)]],
                  error_kw={"lw": 1, "capsize": 3, "ecolor": "#444444"})
        top = max(spreads[name][1] for name in names)
        for place, (name, number) in enumerate(zip(names, numbers)):
            axes.text(spreads[name][1] + top * 0.02, place, f"{number:.3g}", va="center")
        axes.set(title=title, xlabel=unit, xlim=(0, top * 1.15))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.tight_layout()
        figure.savefig(folder / file, metadata={"Date": None})
        plot.close(figure)

    for kind, key in (("transfer", "seconds"), ("sst", "script"), ("freeze", "freeze")):
        for (shape, link), group in groups(runs, kind).items():
            if kind == "transfer":
                rates = {n: [r["bytes"] / r[key] / 1e6 for r in some] for n, some in group.items()}
                title, unit, file = f"{shape} over {link}", "MB/s, synced to disk", f"transfer-{shape}-{link}.svg"
            elif kind == "freeze":
                rates = {n: [r[key] for r in some] for n, some in group.items()}
                title, unit, file = f"freeze: {shape}, {link}", "seconds, longest gap between commits (less is better)", f"freeze-{shape}-{link}.svg"
                bars.draw(plot, folder, shape, link, group, COLOURS.get, freeze.BIN)
            else:
                rates = {n: [r[key] for r in some] for n, some in group.items()}
                title, unit, file = "state transfer between two real nodes", "seconds, the joiner's script (less is better)", "sst.svg"
            middle = {n: statistics.median(v) for n, v in rates.items()}
            barred(title, unit, middle, {n: (min(v), max(v)) for n, v in rates.items()}, file)
