"""What `crown` costs and proves on the networks of a run folder, on one core.

`python tests/benchmarks/certificates.py leaderboards/digits --threat Linf:0.02 --threat Linf:0.03`

Prints a line of CSV for each ticket and checkpoint and each threat: the images that the network gets right
and those of them that are proved, and for an image the neurons that were propagated and the seconds it took.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import torch
from machine import processor

from rstbench.certificates.crown import crown_margins
from rstbench.certificates.verdicts import question
from rstbench.data import load
from rstbench.models.wrapper import load_reference
from rstbench.threat import Threat

COLUMNS = [
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
    began = time.perf_counter()
    with torch.no_grad():
        results = [crown_margins(asked, index) for index in range(len(asked.y))]
    seconds = (time.perf_counter() - began) / len(results)
    certified = asked.certified([margins for margins, _ in results])
    return {
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
    args = parser.parse_args()
    torch.set_num_threads(1)
    writer = csv.DictWriter(sys.stdout, COLUMNS)
    writer.writeheader()
    for below, source in (("tickets", "ticket"), ("checkpoints", "checkpoint")):
        for file in sorted((args.folder / below).glob("*.safetensors")):
            for threat in args.threat:
                writer.writerow(line(file, source, threat, args.images, args.data))
                sys.stdout.flush()


if __name__ == "__main__":
    main()
