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
OURS = (SECONDS + CLAUSE + r"\bours?\b", r"\b(?:ours?|released|held)\b" + CLAUSE + r"\b(?:after|for|in|were) " + SECONDS)
UNDER_LOCK = (SECONDS + " under the lock",)
ON_WIRE = (BYTES + CLAUSE + r"\b(?:on the wire|sent)", r"\bsent " + BYTES)
READ = (BYTES + CLAUSE + r"\bread\b", r"\bread " + BYTES)
FILES = (NUMBER + r"(?: of \d[\d,]*)? (?:changed |hot )?(?:files|entries)",)
PAGES = (NUMBER + r"(?: changed)?(?: 16 KiB)? pages",)
CLONES = (NUMBER + r" (?:files? )?(?:were )?clone[sd]?\b", r"\bcloned " + NUMBER)
ROUND = re.compile(r"\b(?:round (?P<number>\d+)|(?:the )?last round)\b", re.IGNORECASE)

SERVER = {"asked": r"Flushing tables for SST", "still": r"Tables flushed", "resumed": r"resuming provider at|Provider resumed"}


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


def of(lines):
    """The facts of one state transfer, from [(time, line)] of the donor's error log."""
    moments = {name: next((t for t, line in lines if re.search(pattern, line)), None) for name, pattern in SERVER.items()}
    told = [(t, POSITION.sub("POSITION", line.partition("Highline donor: ")[2])) for t, line in lines if "Highline donor: " in line]
    frozen, released = (next((t for t, text in told if re.search(word, text)), None) for word in (r"\bfrozen\b", r"\breleased\b"))
    spoken = "\n".join(text for _, text in told)
    by_lines = {"stood_still": span(moments["asked"], frozen or moments["still"]), "ours": span(frozen, released),
                "server_held": span(moments["still"], moments["resumed"])}
    facts = {"told_stood_still": first(spoken, STOOD_STILL), "told_ours": first(spoken, OURS), "told_lock": first(spoken, UNDER_LOCK)}
    rounds = [round_of(text) for _, text in told if ROUND.search(text)]
    last = rounds[-1] if rounds else {}
    facts |= {f"seen_{name}": value for name, value in by_lines.items()}
    facts["stood_still"] = better(facts["told_stood_still"], by_lines["stood_still"])
    facts["ours"] = better(facts["told_ours"], by_lines["ours"])
    facts |= {"told_wire": first(next((text for _, text in told if text.startswith("done")), ""), ON_WIRE),
              "clones": first(spoken, CLONES), "rounds": len({r["number"] for r in rounds}) or None,
              "last_wire": last.get("wire"), "last_pages": last.get("pages"), "last_files": last.get("files"),
              "said": [text for _, text in told if re.search(r"frozen|released|round|clone|done|stood still|ours|estimate", text)],
              "every_round": rounds}
    return facts


def round_of(text):
    number = ROUND.search(text)["number"]
    return {"number": int(number) if number else "last", "wire": first(text, ON_WIRE), "read": first(text, READ),
            "bytes": first(text, (BYTES,)), "files": first(text, FILES), "pages": first(text, PAGES)}


def span(start, end):
    return end - start if start and end else None


def better(told, seen):
    """Highline's own figure, exact where it agrees with what was seen from outside; otherwise the larger one."""
    if told is None or seen is None:
        return seen if told is None else told
    return told if abs(told - seen) <= 0.05 + 0.05 * seen else max(told, seen)
