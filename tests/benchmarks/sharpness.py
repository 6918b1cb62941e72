"""Sharpness-aware search against the plain one, on real digits, over seeds.

`python tests/benchmarks/sharpness.py --seeds 3`

Each step moves the scores up the loss first, by `radius` times their norm, layer by layer, takes the
gradient there, on the same adversarial images, and goes back (sharpness-aware minimisation, Foret et
al., ICLR 2021, in score space as in S2AP, arXiv 2510.18381). Radius 0 is the search as shipped.
Network, start, order of images and recipe are the same. Every drawing is a line of
`--out`/sharpness.csv, so that a run that was stopped goes on; prints at the end, for each ratio and
radius, the mean paired difference over seeds beside the spread.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import processor
from torch import Tensor
from torch.nn.utils import parametrize

import rstbench
from rstbench.plugins import BUILTIN
from rstbench.tickets.methods.edge_popup import train_scores
from rstbench.tickets.methods.search import Search
from rstbench.tickets.ticket import Ticket
from rstbench.training.adversaries import (
    Batch,
    ImageAdversary,
    parse_adversary,
    require_image_adversary,
)
from rstbench.training.epochs import Epoch

COLUMNS = ["remaining", "radius", "seed", "clean", "pgd", "screen", "processor", "torch"]
MEASURES = ("clean", "pgd", "screen")
SMALL = 1e-12


@dataclass(frozen=True)
class SharpnessAware:
    """The loss on the images of another adversary, at scores that were moved up that loss."""

    base: ImageAdversary
    radius: float

    @property
    def passes(self) -> int:
        return self.base.passes + 2

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        adv, scores = self.base.craft(batch), [p for p in batch.net.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(batch.loss(batch.net(adv), batch.y), scores)
        with torch.no_grad():
            moves = [
                self.radius * score.norm() * gradient / gradient.norm().clamp_min(SMALL)
                for score, gradient in zip(scores, gradients, strict=True)
            ]
            for score, move in zip(scores, moves, strict=True):
                score.add_(move)
        parametrize._cache.clear()  # the masks of the scores that were
        yield batch.loss(batch.net(adv), batch.y)
        with torch.no_grad():  # the optimiser has stepped
            for score, move in zip(scores, moves, strict=True):
                score.sub_(move)


@dataclass(frozen=True)
class Sharp:
    """The method `sharp:radius=0.05`."""

    radius: float = 0.05

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        base = require_image_adversary(parse_adversary(search.recipe.adversary))
        return train_scores(search, search.random_scores(), adversary=SharpnessAware(base, self.radius))


def drawn(remaining: str, radius: str, seed: int) -> dict[str, float]:
    """Return clean accuracy and that under attacks on all test digits."""
    method = f"sharp:radius={radius}" if float(radius) else "rst"
    ticket = rstbench.draw(
        remaining, network="conv4", width=0.5, data="digits", method=method, seed=seed, device="cpu"
    )
    attacks = list(MEASURES[1:])
    table = rstbench.evaluate(
        {"ticket": ticket.module()}, data="digits:test", threat="Linf:0.1", attacks=attacks, device="cpu"
    )
    return {measure: round(float(table[measure].iloc[0]), 6) for measure in MEASURES}


def report(lines: list[dict[str, str]]) -> None:
    found = {(line["remaining"], line["radius"], line["seed"]): line for line in lines}
    for remaining, radius in sorted({key[:2] for key in found}):
        pairs = [
            (line, found[remaining, "0", seed])
            for (*setting, seed), line in found.items()
            if setting == [remaining, radius] and (remaining, "0", seed) in found
        ]
        for measure in MEASURES:
            own = [100 * float(line[measure]) for line, _ in pairs]
            more = [100 * (float(line[measure]) - float(plain[measure])) for line, plain in pairs]
            spread, of_difference = (
                statistics.stdev(values) if len(values) > 1 else 0.0 for values in (own, more)
            )
            print(
                f"{remaining:>5} radius {radius:<5} {measure:>6}: {statistics.mean(own):.1f} ±{spread:.1f}, "
                f"{statistics.mean(more):+.1f} ±{of_difference:.1f} over {len(pairs)} seeds"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--remaining", nargs="+", default=["0.05", "0.2"])
    parser.add_argument("--radius", nargs="+", default=["0", "0.001", "0.003", "0.01"])
    parser.add_argument("--out", type=Path, default=Path("leaderboards/ablations"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    BUILTIN["methods"]["sharp"] = f"{__name__}:Sharp"
    args.out.mkdir(parents=True, exist_ok=True)
    table = args.out / "sharpness.csv"
    if not table.exists():
        table.write_text(",".join(COLUMNS) + "\n")
    for seed in range(args.seeds):
        for remaining in args.remaining:
            for radius in args.radius:
                key = (remaining, radius, str(seed))
                with table.open(newline="") as file:
                    if key in {
                        (line["remaining"], line["radius"], line["seed"]) for line in csv.DictReader(file)
                    }:
                        continue
                figures = drawn(remaining, radius, seed)
                with table.open("a", newline="") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerow([*key, *figures.values(), processor(), torch.__version__])
                print(*key, *figures.values(), flush=True)
    with table.open(newline="") as file:
        report(list(csv.DictReader(file)))


if __name__ == "__main__":
    main()
