"""Try every parser on damaged and hostile inputs, and write what came of it to `inputs.csv`.

python tests/fuzz/run.py --cases 100000 --out leaderboards/reliability
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Iterable
from pathlib import Path
from random import Random

ROOT = Path(__file__).parent.parent.parent
if "tests" not in sys.modules:  # as pytest does: RobustBench installs a package of this name
    sys.path.insert(0, str(ROOT))
    sys.modules["tests"] = package = types.ModuleType("tests")
    package.__path__ = [str(ROOT / "tests")]

from tests.fuzz.parsers import PARSERS, Parser  # noqa: E402
from tests.fuzz.sandbox import Outcome, attempt  # noqa: E402

MEMORY = Path("/dev/shm")  # where files cost little
COLUMNS = ("input", "cases", "read", "refused", "faults", "slowest_seconds")


def cases_of(parser: Parser, total: int) -> int:
    """Return how many of all cases a parser gets, at least three."""
    return max(3, -(-total * parser.share // sum(each.share for each in PARSERS)))


def try_parser(parser: Parser, count: int, start: int = 0) -> Outcome:
    """Try a parser on so many cases; start: seed of the first, the next have the next ones."""
    outcome, home = Outcome(), os.getcwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as base:
        folder = Path(base)
        os.chdir(folder)
        try:
            parser.make(Random(start))  # what is made once is not watched
            for number in range(start, start + count):
                attempt(parser.run, parser.make(Random(number)), folder, outcome)
                empty(folder)
        finally:
            os.chdir(home)
    return outcome


def empty(folder: Path) -> None:
    for entry in list(os.scandir(folder)):
        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def main(argv: Iterable[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    options.add_argument("--cases", type=int, default=100_000, help="in all")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="", help="parsers whose name holds this")
    options.add_argument("--out", type=Path, help="folder for inputs.csv")
    given_options = options.parse_args(argv if argv is None else list(argv))
    rows, total, faults = [], 0, 0
    for parser in (each for each in PARSERS if given_options.only in each.name):
        began = time.perf_counter()
        outcome = try_parser(parser, cases_of(parser, given_options.cases), given_options.seed)
        rows.append(
            (
                parser.name,
                outcome.cases,
                outcome.read,
                outcome.refused,
                len(outcome.faults),
                f"{outcome.slowest:.2f}",
            )
        )
        total, faults = total + outcome.cases, faults + len(outcome.faults)
        print(*rows[-1], f"{time.perf_counter() - began:.0f} s", sep="\t", flush=True)
        for problem, case in list(
            {problem[:60]: (problem, case) for problem, case in outcome.faults}.values()
        )[:8]:
            print(f"  {problem}\n    {repr(case)[:400]}", flush=True)
    print(f"{total} cases, {faults} faults")
    if given_options.out:
        lines = [",".join(COLUMNS), *(f'"{row[0]}",' + ",".join(map(str, row[1:])) for row in rows)]
        given_options.out.mkdir(parents=True, exist_ok=True)
        (given_options.out / "inputs.csv").write_text("\n".join(lines) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
