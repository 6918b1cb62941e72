"""What `crown` costs and proves on the networks of a run folder, on one core.

`python tests/benchmarks/certificates.py leaderboards/digits --threat Linf:0.02 --threat Linf:0.03`

Adds to `--out` a line of CSV for each ticket and checkpoint and each threat: the images that the network gets
right and those of them that are proved, and for an image the neurons that were propagated and the seconds of
a core it took; and draws the seconds against the neurons beside it.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import pandas as pd
import torch
from machine import processor

from rstbench.certificates.crown import crown_margins
from rstbench.certificates.verdicts import question
from rstbench.data import load
from rstbench.models.wrapper import load_reference
from rstbench.reports.figures.style import MARKERS, SERIES, Drawing, styled, subplots
from rstbench.threat import Threat

COLUMNS = [
    "data",
    "model",
    "threat",
    "right",
    "proved",
    "margin",
    "rounding",
    "neurons",
    "seconds",
    "processor",
    "torch",
]


def line(file: Path, source: str, threat: Threat, images: int, data: str) -> dict[str, object]:
    found = load(f"{data}:{images}")
    x, y = found.at(slice(None))
    asked = question(load_reference(f"{source}:{file}").module, x, y, threat)
    began = time.process_time()
    with torch.no_grad():
        results = [crown_margins(asked, index) for index in range(len(asked.y))]
    seconds = (time.process_time() - began) / len(results)
    certified = asked.certified([margins for margins, _ in results])
    return {
        "data": data,
        "model": file.stem,
        "threat": str(threat),
        "right": len(results),
        "proved": int(certified.proved.sum()),
        "margin": round(float(certified.margins.nanmean()), 4),
        "rounding": f"{certified.error_bound:.1e}",
        "neurons": sum(bounds.propagated for _, bounds in results) // len(results),
        "seconds": round(seconds, 3),
        "processor": processor(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threat", action="append", type=Threat.parse, required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--data", default="digits:test")
    parser.add_argument("--seed", default="", help="only networks whose names end so")
    parser.add_argument("--out", type=Path, default=Path("leaderboards/certified/cost.csv"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    new = not args.out.exists()
    with args.out.open("a", newline="") as table:
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for below, source in (("tickets", "ticket"), ("checkpoints", "checkpoint")):
            for file in sorted((args.folder / below).glob(f"*{args.seed}.safetensors")):
                for threat in args.threat:
                    found = line(file, source, threat, args.images, args.data)
                    writer.writerow(found)
                    table.flush()
                    print(*found.values(), flush=True)
    draw(args.out)


def draw(table: Path) -> None:
    """Draw seconds against neurons, a colour a data set."""
    found = pd.read_csv(table)
    with styled():
        figure, (axes,) = subplots(1, size=(3.2, 2.2))
        for (data, part), colour, marker in zip(found.groupby("data"), SERIES, MARKERS, strict=False):
            axes.loglog(
                part["neurons"], part["seconds"], ls="", marker=marker, ms=3, color=colour, label=data
            )
        axes.set(xlabel="neurons propagated, an image", ylabel="seconds, an image")
        axes.legend(frameon=False)
        alt = "Seconds that crown takes for an image against the neurons that it propagates, both logarithmic"
        table.with_suffix(".svg").write_bytes(Drawing(table.stem, "Cost of crown", alt, figure).svg())


if __name__ == "__main__":
    main()
