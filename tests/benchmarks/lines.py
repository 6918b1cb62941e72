"""Whether cost grows in straight lines: seconds of an evaluation against images, models and weights.

`python tests/benchmarks/lines.py`

An evaluation is `rstbench.evaluate` as a user calls it, PGD-20 at Linf 0.1 on scikit-learn's digits, on one
thread; models are random networks `conv4`. Seconds are those of the processor, the fewest of `--repeats`.
Writes `--out`/lines.csv and draws `--out`/lines.svg, with the least-squares line and the share of the
variance that it explains.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from machine import processor
from torch import nn

import rstbench
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.reports.figures.style import Drawing, styled, subplots
from rstbench.tickets.init import random_weights

COLUMNS = ["against", "images", "models", "weights", "seconds", "processor", "torch"]
IMAGES, MODELS, WIDTHS = (50, 100, 200, 300, 400), (1, 2, 4, 6, 8), (0.25, 0.5, 0.75, 1.0, 1.25)
THREAT, DIGITS = "Linf:0.1", (1, 8, 8)


def random_network(width: float, seed: int) -> nn.Module:
    net = build(NetworkSpec("conv4", DIGITS, 10, width))
    net.load_state_dict(net.state_dict() | random_weights(prunable(net), "signed_constant", seed))
    return net.eval()


def settings() -> Iterator[tuple[str, int, int, float]]:
    """Yield what varies, and (images, models, width)."""
    yield from (("images", images, 1, 0.5) for images in IMAGES)
    yield from (("models", 100, models, 0.5) for models in MODELS)
    yield from (("weights", 100, 1, width) for width in WIDTHS)


def seconds(images: int, models: int, width: float) -> float:
    """Return how long an evaluation takes."""
    named = {f"net-{seed}": random_network(width, seed) for seed in range(models)}
    began = time.process_time()
    rstbench.evaluate(
        named, data=f"digits:test:{images}", threat=THREAT, attacks="pgd", device="cpu", batch_size=50
    )
    return time.process_time() - began


def measure(table: Path, repeats: int) -> None:
    seconds(50, 1, 0.25)  # what is imported and read once
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for against, images, models, width in settings():
            weights = sum(weight.numel() for weight in random_network(width, 0).parameters())
            least = min(seconds(images, models, width) for _ in range(repeats))
            writer.writerow(
                [against, images, models, weights, round(least, 3), processor(), torch.__version__]
            )
            print(against, images, models, weights, round(least, 3), flush=True)


def draw(table: Path) -> None:
    found = pd.read_csv(table)
    with styled():
        figure, axes = subplots(3, columns=3)
        for panel, against in zip(axes, ("images", "models", "weights"), strict=True):
            part = found[found["against"] == against]
            x, y = part[against].to_numpy(float), part["seconds"].to_numpy(float)
            slope, start = np.polyfit(x, y, 1)
            explained = 1 - np.var(y - slope * x - start) / np.var(y)
            panel.plot(x, y, "o")
            panel.plot(x, slope * x + start)
            panel.set(xlabel=against, ylabel="seconds", title=f"R² = {explained:.3f}")
            panel.set_ylim(bottom=0)
        alt = "Seconds of an evaluation against images, models and weights, each beside a straight line"
        table.with_suffix(".svg").write_bytes(Drawing("lines", "Cost", alt, figure).svg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="draw what was measured, and measure nothing")
    parser.add_argument("--out", type=Path, default=Path("leaderboards/speed"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = args.out / "lines.csv"
    if not args.draw:
        measure(table, args.repeats)
    draw(table)


if __name__ == "__main__":
    main()
