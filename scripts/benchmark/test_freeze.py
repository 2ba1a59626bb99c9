"""What a freeze is computed from: the donor's log and the commits of the probe."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import lab  # noqa: E402
from benchmark import bars, said  # noqa: E402

POSITION = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002:46"


def log(*lines):
    """[(time, line)] from [(time, what Highline said or, after a '!', the server)]."""
    return [(t, line[1:] if line[0] == "!" else f"2026-11-25 1:00:00 0 [Note] Highline donor: {line}") for t, line in lines]


class Said(unittest.TestCase):
    def test_moments_stand_for_figures_that_are_not_named(self):
        facts = said.of(log((10.0, "connected to 127.0.0.1:4444"), (10.1, "!WSREP: Flushing tables for SST..."),
                            (10.6, "!WSREP: Tables flushed."), (10.6, f"frozen at {POSITION}"), (13.0, "released: every chunk has arrived"),
                            (13.1, "!WSREP: resuming provider at 46"),
                            (14.0, "done: 2.2 GB in 224 entries, 666 MB on the wire, 3.9 s, of which 2.9 s under the lock, 75 MB/s")))
        self.assertAlmostEqual(facts["stood_still"], 0.5)
        self.assertAlmostEqual(facts["ours"], 2.4)
        self.assertAlmostEqual(facts["seen_server_held"], 2.5)
        self.assertEqual((facts["told_lock"], facts["told_wire"], facts["rounds"], facts["clones"]), (2.9, 666e6, None, None))

    def test_named_figures_and_rounds(self):
        facts = said.of(log((1, "round 1: 2.2 GB in 224 files, 2.1 GB on the wire, 3.1 s"),
                            (2, "frozen for about 0.9 s by estimate after another round"),
                            (4, "!WSREP: Flushing tables for SST..."), (4.2, "!WSREP: Tables flushed."),
                            (4.21, f"frozen at {POSITION} after 0.21 s for the dirty pages"), (4.25, "released after 0.034 s: 9 files cloned"),
                            (5, "last round: 9 changed files, 3,700 changed pages, 62.4 MB on the wire"),
                            (6, "done: 2.2 GB in 224 entries, 2.2 GB on the wire; 210 ms until the server stood still, 34 ms ours")))
        self.assertEqual((facts["stood_still"], facts["ours"], facts["clones"], facts["rounds"]), (0.21, 0.034, 9, 2))
        self.assertEqual((facts["last_wire"], facts["last_pages"], facts["last_files"]), (62.4e6, 3700, 9))

    def test_a_figure_that_the_clock_contradicts_is_not_believed(self):
        facts = said.of(log((1, f"frozen at {POSITION}"), (4, "released after 0.05 s")))
        self.assertEqual(facts["ours"], 3)

    def test_of_two_freezes_the_longer(self):
        facts = said.of(log((1, f"frozen at {POSITION}"), (1.5, "released: the limit was reached"), (6, f"frozen at {POSITION}"), (6.2, "released")))
        self.assertEqual(facts["ours"], 0.5)


class Gaps(unittest.TestCase):
    def test_a_gap_counts_with_all_of_it(self):
        probe = lab.Probe.__new__(lab.Probe)
        probe.ends = [1.0, 2.0, 5.0, 5.5, 9.0]
        self.assertEqual(probe.gaps(3, 5.2), [3.0, 0.5])
        self.assertEqual(probe.gaps(9.5, 11), [2.0])
        self.assertEqual(probe.gaps(0.5, 1.5), [0.5, 1.0])


class Bars(unittest.TestCase):
    def test_met_missed_and_unknown(self):
        group = {"rsync+stunnel": [{"freeze": 8.0}], "highline": [{"freeze": 0.8, "ours": 0.6, "last_wire": PAGES * 1.2, "last_pages": 100}]}
        verdicts = [bars.verdict(value, limit) for _, limit, _, value in bars.bars("small", "ext4", group)]
        self.assertEqual(verdicts, ["yes", "**no**", "yes"])
        verdicts = [bars.verdict(value, limit) for _, limit, _, value in bars.bars("small", "xfs", group)]
        self.assertEqual(verdicts[0], "not measured", "nothing was cloned")


PAGES = 100 * bars.PAGE

if __name__ == "__main__":
    unittest.main()
