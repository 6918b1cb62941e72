"""Let Atheris look for inputs that reach new lines of a parser, where it is installed.

python tests/fuzz/guided.py --runs 2000 --only references

Cases are made as in `run.py`, but by the fuzzer's bytes in place of random numbers, so that it steers what is
damaged and how. Every parser has a process of its own, for Atheris ends the one that it runs in.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from random import Random

ROOT = Path(__file__).parent.parent.parent
EVERY = 50  # cases, after which the counts are written


class Bytes(Random):
    """Numbers drawn from given bytes, zeros after their end: what a case is made of is theirs."""

    def __new__(cls, content: bytes) -> Bytes:
        return super().__new__(cls)

    def __init__(self, content: bytes) -> None:
        super().__init__(0)
        self.content, self.place = content, 0

    def getrandbits(self, k: int) -> int:
        size = (k + 7) // 8
        found = self.content[self.place : self.place + size].ljust(size, b"\0")
        self.place += size
        return int.from_bytes(found, "little") >> (8 * size - k)

    def random(self) -> float:
        return self.getrandbits(53) / 2**53


def fuzz(name: str, runs: int, seed: int, counts: Path) -> None:
    """Try one parser, and end the process."""
    import atheris

    with atheris.instrument_imports(include=["rstbench"]):
        from run import PARSERS, Outcome, attempt, empty

        from rstbench.errors import BadRequest, ModelFault

    (parser,) = (each for each in PARSERS if each.name == name)
    outcome, folder = Outcome(), Path.cwd() / "case"
    folder.mkdir()
    os.chdir(folder)
    with suppress(BadRequest, ModelFault):  # what is made once, also by libraries, is not watched
        parser.run(parser.make(Random(seed)), folder)
    empty(folder)

    def one(content: bytes) -> None:
        attempt(parser.run, parser.make(Bytes(content)), folder, outcome)
        empty(folder)
        if outcome.cases % EVERY == 0 or outcome.cases >= runs or outcome.faults:
            faults = [(problem, repr(case)[:400]) for problem, case in outcome.faults]
            counts.write_text(json.dumps([outcome.cases, outcome.read, outcome.refused, faults]))

    options = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=4096", "-timeout=120", "-rss_limit_mb=8192"]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    options.add_argument("--runs", type=int, default=2_000, help="of each parser")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="", help="parsers whose name holds this")
    options.add_argument("--parser", help=argparse.SUPPRESS)
    options.add_argument("--counts", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("guided fuzzing wants Atheris: pip install atheris", file=sys.stderr)
        return 2
    if given.parser:
        fuzz(given.parser, given.runs, given.seed, given.counts)
    from run import PARSERS

    total = faulty = 0
    for parser in (each for each in PARSERS if given.only in each.name):
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            counts = Path(folder) / "counts.json"
            command = [sys.executable, __file__, "--parser", parser.name, "--counts", str(counts)]
            command += ["--runs", str(given.runs), "--seed", str(given.seed)]
            log = Path(folder) / "log"
            with log.open("w") as file:
                done = subprocess.run(command, cwd=folder, stdout=file, stderr=file, check=False)
            ended = [] if done.returncode == 0 else [("the process ended", log.read_text()[-400:])]
            cases, read, refused, faults = (
                json.loads(counts.read_text()) if counts.exists() else (0, 0, 0, [])
            )
            covered = [line for line in log.read_text().splitlines() if " cov: " in line]
        units = covered[-1].partition(" cov: ")[2].split()[0] if covered else "0"
        print(parser.name, cases, read, refused, len(faults + ended), units, sep="\t", flush=True)
        for problem, case in {problem[:60]: (problem, case) for problem, case in faults + ended}.values():
            print(f"  {problem}\n    {case}", flush=True)
        total, faulty = total + cases, faulty + len(faults) + len(ended)
    print(f"{total} cases, {faulty} faults")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
