"""The screening attack beside AutoAttack on every network of some run folders: what it misses, what it costs.

`python tests/benchmarks/screen.py leaderboards/digits leaderboards/switch/digits`

AutoAttack's accuracy and passes are those that the folder holds; the screen attacks the same images of the
same file at the same threat, through the fast copy. `--out`/screen.csv has a line a network, the largest
difference first.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from machine import processor

import rstbench
from rstbench.evidence.manifest import Row
from rstbench.reports.lookup import AUTOATTACK, Evidence

COLUMNS = ["folder", "model", "seed", "threat", "images", "clean", "autoattack", "screen", "missed", "flags"]
COLUMNS += ["passes", "passes_autoattack", "seconds", "processor", "torch"]


def networks(folder: Path, evidence: Evidence) -> Iterator[tuple[Row, str]]:
    """Yield the rows that AutoAttack answered and whose file is there, with its reference."""
    for row in evidence.manifest.rows:
        for source, below in (("ticket", "tickets"), ("checkpoint", "checkpoints")):
            name = evidence.info(row.model).name
            files = [folder / below / f"{n}.safetensors" for n in (name, f"{name}-seed{row.seed}")]
            found = [file for file in files if file.exists()]
            if AUTOATTACK in row.attacks and found:
                yield row, f"{source}:{found[0]}"


def screened(folder: Path, evidence: Evidence, row: Row, reference: str) -> dict[str, object]:
    images, name = evidence.manifest.images, evidence.info(row.model).name
    clean, robust = (
        evidence.robust(row.model, attack, row.threat, row.seed) for attack in ("clean", AUTOATTACK)
    )
    shards = evidence.shards(row.model, AUTOATTACK, row.threat, row.seed)
    data = f"{evidence.manifest.run['data']}:{images}"
    table = rstbench.evaluate({name: reference}, data=data, threat=row.threat, attacks=["screen"])
    found = table.iloc[0]
    flags = evidence.all_flags(row.model, AUTOATTACK, row.threat, row.seed) | set(str(found["flags"]).split())
    return {
        "folder": str(folder),
        "model": name,
        "seed": row.seed,
        "threat": row.threat,
        "images": images,
        "clean": round(float(clean.mean()), 6),
        "autoattack": round(float(robust.mean()), 6),
        "screen": round(float(found["screen"]), 6),
        "missed": round(float(found["screen"]) - float(robust.mean()), 6),
        "flags": " ".join(sorted(flags - {"few-images"})),
        "passes": round(float(found["forwards"] + found["backwards"]), 1),
        "passes_autoattack": round(sum(s.forwards + s.backwards for s in shards) / images, 1),
        "seconds": found["seconds"],
        "processor": processor(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("leaderboards/speed"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for folder in args.folders:
        evidence = Evidence.read(folder)
        lines += [screened(folder, evidence, *found) for found in networks(folder, evidence)]
    lines.sort(key=lambda line: -float(str(line["missed"])))
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "screen.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    missed = [float(str(line["missed"])) for line in lines]
    passes = [float(str(line["passes"])) for line in lines]
    print(
        f"{len(lines)} networks: missed {100 * sum(missed) / len(missed):.2f} points on average, "
        f"{100 * max(missed):.1f} at most; {sum(passes) / len(passes):.0f} passes an image"
    )


if __name__ == "__main__":
    main()
