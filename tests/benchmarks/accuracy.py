"""Whole searches with the published step and with ours, on real digits: clean and PGD-20 accuracy.

`python tests/benchmarks/accuracy.py --seeds 3`

Same random network, same starting scores, same order of images; what differs is how a step is computed
and the noise its attack starts from.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from published import network, our_step, published_step
from torch import Generator

from rstbench.attacks import PGD
from rstbench.data import load
from rstbench.networks.network import NetworkSpec
from rstbench.threat import Threat
from rstbench.training.epochs import batches, learning_rate
from rstbench.training.recipe import recipe_for

THREAT = Threat.parse("Linf:0.1")


def search(published: bool, remaining: str, seed: int) -> tuple[float, float]:
    """(clean, PGD-20) accuracy on the test digits after the last epoch of the recipe `digits`."""
    recipe, train, test = recipe_for({"data": "digits"}), load("digits:train"), load("digits:test")
    torch.manual_seed(seed)
    net, scores = network(NetworkSpec("conv4", (1, 8, 8), 10, 0.5), remaining, published, seed=seed)
    step = (published_step if published else our_step)(THREAT)
    optimiser = torch.optim.SGD(scores, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    order = Generator().manual_seed(seed)
    for epoch in range(recipe.epochs):
        net.train()
        for place, (x, y) in enumerate(batches(train, recipe, order)):
            progress = (epoch + place / (len(train) // recipe.batch)) / recipe.epochs
            optimiser.param_groups[0]["lr"] = learning_rate(recipe, progress)
            step(net, optimiser, x, y)
    net.eval()
    x, y = test.at(slice(None))
    adv = PGD()(net, x, y, THREAT, Generator().manual_seed(seed)).images
    with torch.no_grad():
        return tuple(float((net(images).argmax(1) == y).float().mean()) for images in (x, adv))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--remaining", default="0.2")
    args = parser.parse_args()
    for name, published in (("published", True), ("ours", False)):
        found = [search(published, args.remaining, seed) for seed in range(args.seeds)]
        for what, values in zip(("clean", "pgd"), zip(*found, strict=True), strict=True):
            listed = " ".join(f"{value:.3f}" for value in values)
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{name:>10} {what:>5}: {statistics.mean(values):.3f} ±{spread:.3f} ({listed})", flush=True)


if __name__ == "__main__":
    main()
