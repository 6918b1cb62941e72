"""Draw the band between certified and attacked accuracy of some networks of a run alone.

`python tests/benchmarks/bands.py leaderboards/certified/digits --model rst-0.05 --model dense-adversarial`

Writes `bands.svg` beside the folder: means over its seeds, as in the figure `certified` of all its networks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rstbench.reports.figures.certified import draw_certified
from rstbench.reports.figures.points import points
from rstbench.reports.figures.style import styled
from rstbench.reports.leaderboard import lines_of
from rstbench.reports.lookup import Evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True, help="its name without the seed")
    args = parser.parse_args()
    found = points(lines_of(Evidence.read(args.folder)), ())
    if missing := {*args.model} - {*found["name"]}:
        parser.error(f"no {', '.join(sorted(missing))} in {args.folder}")
    with styled():
        drawing = next(draw_certified(found[found["name"].isin(args.model)]))
        (args.folder.parent / "bands.svg").write_bytes(drawing.svg())


if __name__ == "__main__":
    main()
