"""What the donor's error log says about the freeze: the server's own lines, and Highline's.

Highline's figures are taken where it names them. Where it does not, the moments at which lines appeared stand for them,
and what is found in neither is None.
"""

import re

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
NUMBER = r"(?P<n>\d[\d,]*(?:\.\d+)?)"
SECONDS = NUMBER + r" ?(?P<u>ms|s)\b"
BYTES = NUMBER + r" ?(?P<u>[kKMGT]i?B|B|bytes)\b"
# Within one clause and before the next figure, which may be about something else.
CLAUSE = r"[^,;:.\d]*?"
POSITION = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}:\d+")
STOOD_STILL = (SECONDS + CLAUSE + r"(?:until the server|stood still|stands still|dirty pages|to reach)",
               r"(?:stood still|stands still|frozen|reached|dirty pages)" + CLAUSE + r"\b(?:after|within|in) " + SECONDS)
OURS = (SECONDS + CLAUSE + r"\b(?:ours?|for what had changed)\b", r"\b(?:ours?|released|held)\b" + CLAUSE + r"\b(?:after|for|in|were) " + SECONDS)
UNDER_LOCK = (SECONDS + " under the lock",)
ON_WIRE = (BYTES + CLAUSE + r"\b(?:on the wire|sent)", r"\bsent " + BYTES)
READ = (BYTES + CLAUSE + r"\bread\b", r"\bread " + BYTES)
FILES = (NUMBER + r"(?: of \d[\d,]*)? (?:changed |hot )?(?:files|entries)",)
PAGES = (NUMBER + r"(?: changed)?(?: 16 KiB)? pages",)
CLONES = (NUMBER + r" (?:files? )?(?:were )?clone[sd]?\b", r"\bcloned " + NUMBER)
ROUND = re.compile(r"\b(?:round (?P<number>\d+)|(?:the )?last round)\b", re.IGNORECASE)

SERVER = {"asked": r"Flushing tables for SST", "still": r"Tables flushed", "resumed": r"resuming provider at|Provider resumed"}


# What Highline expects is not a measurement.
GUESS = re.compile(r"estimate|expect|would|about|limit", re.IGNORECASE)


def first(text, patterns):
    """The first figure that one of the patterns finds: seconds, bytes or a count."""
    for pattern in patterns:
        found = re.search(pattern, text, re.IGNORECASE)
        if not found:
            continue
        number, unit = float(found["n"].replace(",", "")), found.groupdict().get("u")
        if unit in ("s", "ms"):
            return number / (1000 if unit == "ms" else 1)
        if unit:
            known = {name.lower(): factor for name, factor in UNITS.items()} | {"bytes": 1}
            return number * known[unit.lower()]
        return int(number)
    return None


def largest(texts, patterns):
    return max((figure for figure in (first(text, patterns) for text in texts) if figure is not None), default=None)


def moments(lines, pattern):
    return [t for t, line in lines if re.search(pattern, line)]


def longest(starts, ends):
    """The longest time from a start to the first end after it; a server that was released early is frozen again."""
    pairs = zip(starts, [*starts[1:], float("inf")])
    spans = [end - start for start, later in pairs for end in [t for t in ends if start <= t <= later][:1]]
    return max(spans, default=None)


def of(lines):
    """The facts of one state transfer, from [(time, line)] of the donor's error log."""
    asked, still, resumed = (moments(lines, SERVER[name]) for name in ("asked", "still", "resumed"))
    told = [(t, POSITION.sub("POSITION", line.partition("Highline donor: ")[2])) for t, line in lines if "Highline donor: " in line]
    # The word may occur in a plan too; the freeze itself counts when the server reports it.
    frozen = [t for t in moments(told, r"\bfrozen\b") if not still or t >= still[0] - 0.05]
    released = moments(told, r"\breleased\b")
    texts = [text for _, text in told]
    sure = [text for text in texts if not GUESS.search(text)]
    rounds = [round_of(text) for text in sure if ROUND.search(text)]
    last = rounds[-1] if rounds else {}
    facts = {"told_stood_still": largest(sure, STOOD_STILL), "told_ours": largest(sure, OURS), "told_lock": largest(sure, UNDER_LOCK),
             "seen_stood_still": longest(asked, frozen or still), "seen_ours": longest(frozen, released),
             "seen_server_held": longest(still, resumed)}
    for name in ("stood_still", "ours"):
        facts[name] = better(facts[f"told_{name}"], facts[f"seen_{name}"])
    return facts | {
        "told_wire": largest([text for text in texts if text.startswith("done")], ON_WIRE), "clones": largest(sure, CLONES),
        "rounds": len({r["number"] for r in rounds}) or None, "freezes": len(asked),
        "last_wire": last.get("wire"), "last_pages": last.get("pages"), "last_files": last.get("files"), "every_round": rounds,
        "said": [text for text in texts if re.search(r"frozen|freeze|released|round|clone|done|stood still|ours|estimate", text)]}


def round_of(text):
    number = ROUND.search(text)["number"]
    return {"number": int(number) if number else "last", "wire": first(text, ON_WIRE), "read": first(text, READ),
            "bytes": first(text, (BYTES,)), "files": first(text, FILES), "pages": first(text, PAGES)}


def better(told, seen):
    """Highline's own figure, exact where it agrees with what was seen from outside; otherwise the larger one."""
    if told is None or seen is None:
        return seen if told is None else told
    return told if abs(told - seen) <= 0.05 + 0.05 * seen else max(told, seen)
