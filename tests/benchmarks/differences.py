"""Differences in certified accuracy between the networks of a run, on the same images, with their intervals.

`python tests/benchmarks/differences.py leaderboards/certified/digits --against rst-0.05`

Prints a CSV line for each threat and network: the mean over seeds of the difference, its 95 % interval over
images (bootstrap of the images, 10,000 draws, each image with its mean over seeds), and that of each seed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from rstbench.reports.lookup import Evidence
from rstbench.reports.per_image import per_image_answers

DRAWS = 10_000
COLUMNS = ["threat", "model", "against", "seeds", "images", "difference", "low", "high", "by_seed"]


def certified_of(evidence: Evidence) -> dict[tuple[str, str], dict[int, np.ndarray]]:
    """Return what is certified, by threat, name without the seed, and seed."""
    found: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for row in evidence.manifest.rows:
        answers, name = per_image_answers(evidence, row), evidence.info(row.model).name
        if answers is not None and answers.certified is not None:
            name = name.removesuffix(f"-seed{row.seed}")
            found.setdefault((row.threat, name), {})[row.seed] = answers.certified
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", required=True)
    args = parser.parse_args()
    found, rng = certified_of(Evidence.read(args.folder)), np.random.default_rng(0)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    for (threat, name), by_seed in found.items():
        if name == args.against:
            continue
        other = found[threat, args.against]
        each = np.array([by_seed[seed] - other[seed] for seed in sorted(by_seed)])
        images = each.mean(0)
        means = images[rng.integers(0, len(images), (DRAWS, len(images)))].mean(1)
        figures = [images.mean(), *np.quantile(means, (0.025, 0.975))]
        seeds = " ".join(f"{value:.4g}" for value in each.mean(1))
        table.writerow(
            [threat, name, args.against, len(each), len(images), *(f"{v:.4g}" for v in figures), seeds]
        )


if __name__ == "__main__":
    main()
