"""The report's part about the freeze: a table for each case and filesystem, and the goals beside what was measured."""

import statistics

from benchmark.contestants import REFERENCE

PAGE = 16384
NOTE = (
    "Both nodes are real servers on that filesystem, each run begins with a fresh copy of the data, which is not in the page cache, and all but 'idle' "
    "are under sysbench with two threads. A client commits one row on the donor every 10 ms. Freeze: the longest time from one of its commits to "
    "the next, from the start of the donor's script to the end of the joiner's. Other gaps: the longest before the joiner started, and the longest "
    "while it joined the group, whatever the method. Until still: from the request to the server until its answer, while it writes its dirty pages. "
    "Held: from then until it was released; for Highline by its own log, which is compared with the moments "
    "when its lines appeared. Script: start to end of the joiner's script; `wsrep_sst_mariabackup` sleeps 10 s of that. Bytes on the wire are "
    "the loopback device's without the replicated transactions; they include the local socket between stunnel and rsync.")


def typical(runs, key):
    """The median of the runs that have the figure."""
    known = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(known) if known else None


def figure(value, places=2, factor=1):
    return "–" if value is None else f"{value * factor:.{places}f}"


def section(case, filesystem, what, group):
    some = next(iter(group.values()))[0]
    lines = [f"## Freeze: {case}, {filesystem}", "", f"{some['bytes'] / 1e6:.0f} MB, {what}; {len(next(iter(group.values())))} runs of each.", "",
             "| | freeze s | gaps over 0.1 s, sum s | until still s | held s | script s | wire MB | last round MB, pages | rounds, clones | "
             "transactions/s before, during | other gaps s |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for name, runs in group.items():
        freezes = [run["freeze"] for run in runs]
        held = typical(runs, "ours" if name.startswith("highline") else "seen_server_held")
        lines.append(
            f"| {name} | {statistics.median(freezes):.3f} ({min(freezes):.3f}–{max(freezes):.3f}) | {figure(typical(runs, 'gaps'), 0)}, "
            f"{figure(typical(runs, 'gaps_sum'))} | {figure(typical(runs, 'stood_still'))} | {figure(held, 3)} | {figure(typical(runs, 'script'))} | "
            f"{figure(typical(runs, 'wire'), 0, 1e-6)} | {figure(typical(runs, 'last_wire'), 0, 1e-6)}, {figure(typical(runs, 'last_pages'), 0)} | "
            f"{figure(typical(runs, 'rounds'), 0)}, {figure(typical(runs, 'clones'), 0)} | {figure(typical(runs, 'tps_before'), 0)}, "
            f"{figure(typical(runs, 'tps_during'), 0)} | {figure(typical(runs, 'before'))}, {figure(typical(runs, 'joining'))} |")
    lines += ["", "| asked | at most | measured | met |", "|---|---|---|---|"]
    lines += [f"| {asked} | {limit:g}{unit} | {figure(value, 3)}{unit if value is not None else ''} | {verdict(value, limit)} |"
              for asked, limit, unit, value in bars(case, filesystem, group)]
    if not some["nominal"]:
        lines += ["", "What was asked is for more data than this."]
    return [*lines, "", f"![freeze: {case}, {filesystem}](freeze-{case}-{filesystem}.svg)", "",
            f"![commits: {case}, {filesystem}](freeze-{case}-{filesystem}-commits.svg)", ""]


def verdict(value, limit):
    return "not measured" if value is None else "yes" if value <= limit else "**no**"


def bars(case, filesystem, group):
    """[(what, limit, unit, measured or None)]."""
    auto = group.get("highline", [])
    cloned = [run for run in auto if run.get("clones")]
    clone, rounds = group.get("highline (clone)") or cloned, group.get("highline (rounds)") or auto
    found = []
    if case == "small" and filesystem == "ext4":
        found += [(f"freeze against {REFERENCE}'s", 1 / 8, "", ratio(auto, group.get(REFERENCE, []), "freeze")),
                  ("our part of it", 0.5, " s", typical(auto, "ours"))]
    elif case == "small":
        found.append(("our part with clones", 0.1, " s", typical(clone, "ours")))
    elif case == "large":
        found.append(("our part", 1, " s", typical(rounds, "ours")))
        if filesystem != "ext4":
            found.append(("our part with clones", 0.1, " s", typical(clone, "ours")))
    elif case == "idle":
        found += [("freeze", 0.1, " s", typical(auto, "freeze")),
                  ("script's time against that of freeze=whole", 1.3, "", ratio(auto, group.get("highline (whole)", []), "script"))]
    for name, runs in group.items():
        shares = [{"share": run["last_wire"] / run["last_pages"] / PAGE} for run in runs if run.get("last_wire") and run.get("last_pages")]
        if shares:
            found.append((f"{name}: bytes of the last round against the pages that changed", 1.3, "", typical(shares, "share")))
    if not any("last round" in what for what, *_ in found) and case != "idle":
        found.append(("bytes of the last round against the pages that changed", 1.3, "", None))
    return found


def ratio(ours, theirs, key):
    mine, other = typical(ours, key), typical(theirs, key)
    return mine / other if mine and other else None


def draw(plot, folder, case, filesystem, group, colours, bin_seconds):
    """Commits in each tenth of a second, of each contestant's run with the median freeze."""
    figure, rows = plot.subplots(len(group), 1, figsize=(8, 1.1 * len(group) + 0.9), sharex=True, sharey=True, squeeze=False)
    for axes, (name, runs) in zip(rows[:, 0], group.items()):
        run = sorted(runs, key=lambda r: r["freeze"])[len(runs) // 2]
        commits = [int(word) for word in run["commits"].split()]
        times = [bin_seconds * place for place in range(len(commits))]
        axes.fill_between(times, commits, step="post", color=colours(name), lw=0)
        axes.set_title(f"{name}: longest gap {run['freeze']:.2f} s", fontsize=9, loc="left")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    rows[-1, 0].set_xlabel("seconds since the joiner's script started")
    rows[0, 0].set_ylim(bottom=0)
    figure.suptitle(f"commits of the probe in each {bin_seconds:g} s: {case}, {filesystem}", fontsize=10)
    figure.tight_layout()
    figure.savefig(folder / f"freeze-{case}-{filesystem}-commits.svg", metadata={"Date": None})
    plot.close(figure)
