"""Write `faults.csv`: every fault that the tests of this folder cause, and what came of it, a line each.

`python tests/faults/run.py --out leaderboards/reliability`; what follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

import pytest

COLUMNS = ["fault", "where", "tried", "held", "outcome"]


class Outcomes:
    """What the tests note by the fixture `outcome`; those that fail, or are skipped, by their names."""

    def __init__(self):
        self.tried, self.held = Counter(), Counter()

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and not report.failed and not report.skipped:
            return
        noted = dict(report.user_properties)
        reason = f"not tried: {report.longrepr[2]}" if report.skipped else "fails"
        name = report.nodeid.rpartition("::")[2]
        key = noted.get("fault", name), noted.get("where", ""), noted.get("outcome", reason)
        self.tried[key] += not report.skipped
        self.held[key] += report.passed

    def write(self, path):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for fault, where, outcome in sorted(self.tried):
                key = (fault, where, outcome)
                writer.writerow([fault, where, self.tried[key], self.held[key], outcome])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("more", nargs="*", help="options of pytest, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    outcomes = Outcomes()
    status = pytest.main([str(Path(__file__).parent), "-m", "faults", *args.more], plugins=[outcomes])
    outcomes.write(args.out / "faults.csv")
    return status


if __name__ == "__main__":
    sys.exit(main())
