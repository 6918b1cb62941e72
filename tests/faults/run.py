"""Write `faults.csv`: every fault that the tests of this folder cause, and what came of it, a line each.

`python tests/faults/run.py --out leaderboards/reliability`; what follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import pytest

COLUMNS = ["fault", "where", "tried", "held", "outcome"]
FAILS = "fails"


class Outcomes:
    """What the tests note by the fixture `outcome`; those that fail, or are skipped, by their names.

    Lines of an earlier run stay where this one tries something else.
    """

    def __init__(self, path):
        self.path, self.lines = path, {}
        earlier = csv.DictReader(path.open()) if path.exists() else []
        self.earlier = {(line["fault"], line["where"]): line for line in earlier if line["outcome"] != FAILS}

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.passed:
            return
        noted = dict(report.user_properties)
        fault, where = noted.get("fault", report.nodeid.rpartition("::")[2]), noted.get("where", "")
        outcome = f"not tried: {report.longrepr[2]}" if report.skipped else noted.get("outcome", FAILS)
        new = {"fault": fault, "where": where, "tried": 0, "held": 0, "outcome": outcome}
        line = self.lines.setdefault((fault, where), new)
        line["tried"] += not report.skipped
        line["held"] += report.passed
        self.write()

    def write(self):
        lines = self.earlier | self.lines
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines[key] for key in sorted(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("more", nargs="*", help="options of pytest, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    outcomes = Outcomes(args.out / "faults.csv")
    return pytest.main([str(Path(__file__).parent), "-m", "faults", *args.more], plugins=[outcomes])


if __name__ == "__main__":
    sys.exit(main())
