"""One step of the search against a faithful re-statement of the published one.

`python tests/benchmarks/draw.py --network resnet18 --batch 64`

The published step (Fu et al. 2021) sorts every layer's scores again at each of its eight forward passes,
and its attack calls `loss.backward()`, which fills the gradients of all scores seven times for nothing.
Both sides run in turn in one process, on the same network, batch and machine; the printed ratio is the
median of the paired ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from rstbench.threat import Threat
from rstbench.tickets.adversary import Batch, InnerPGD
from rstbench.tickets.init import random_weights
from rstbench.tickets.mask import parse_remaining, put_scores, random_scores, straight_through
from rstbench.tickets.networks import NetworkSpec, build, prunable
from rstbench.tickets.pattern import Slot, plan
from rstbench.tickets.recipe import Recipe

THREAT, STEPS = Threat.parse("Linf:8/255"), 7


class Resorted(nn.Module):
    """The mask by a full sort of |scores|, computed anew at every use."""

    def __init__(self, scores: Tensor, slot: Slot) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.dropped = slot.weights - slot.kept

    def forward(self, weight: Tensor) -> Tensor:
        order = self.scores.detach().abs().flatten().argsort()
        mask = torch.ones_like(order, dtype=torch.bool)
        mask[order[: self.dropped]] = False
        return weight * straight_through(mask.view_as(self.scores), self.scores)


def network(name: str, remaining: str, published: bool, device: str) -> tuple[nn.Module, list[nn.Parameter]]:
    """The network with scores on it, and the scores."""
    net = build(NetworkSpec(name, (3, 32, 32), 10))
    weights = random_weights(prunable(net), "signed_constant", 0)
    net.load_state_dict({**net.state_dict(), **weights})
    shapes = {key: weight.shape for key, weight in weights.items()}
    slots = plan(shapes, parse_remaining(remaining), Recipe(network=name))
    generator = Generator().manual_seed(0)
    scores = {key: random_scores(slot.units, generator) for key, slot in slots.items()}
    if not published:
        popups = put_scores(net, slots, scores)
        return net.to(device).train(), [popup.scores for popup in popups.values()]
    net.requires_grad_(False)
    for key, slot in slots.items():
        layer = net.get_submodule(key.removesuffix(".weight"))
        parametrize.register_parametrization(layer, "weight", Resorted(scores[key], slot))
    return net.to(device).train(), [p for p in net.parameters() if p.requires_grad]


def published_step(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Attack by `backward`, no cache, then the step on the scores."""
    eps = float(THREAT.eps)
    delta = torch.empty_like(x).uniform_(-eps, eps)
    delta = ((x + delta).clamp(0, 1) - x).requires_grad_(True)
    for _ in range(STEPS):
        cross_entropy(net(x + delta), y).backward()
        moved = (delta + eps / 4 * delta.grad.sign()).detach().clamp(-eps, eps)
        delta = ((x + moved).clamp(0, 1) - x).requires_grad_(True)
    optimiser.zero_grad()
    cross_entropy(net(x + delta.detach()), y).backward()
    optimiser.step()


def our_step(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """As in `rstbench.tickets.fit`: masks once, gradients of scores once."""
    scores = optimiser.param_groups[0]["params"]
    batch = Batch(net, x, y, THREAT, Generator().manual_seed(0), cross_entropy)
    with parametrize.cached():
        (loss,) = InnerPGD(STEPS).losses(batch)
        gradients = torch.autograd.grad(loss, scores)
    for parameter, gradient in zip(scores, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds of one step."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="conv4")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--remaining", default="0.1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    generator = Generator().manual_seed(0)
    x = torch.rand(args.batch, 3, 32, 32, generator=generator).to(args.device)
    y = torch.randint(0, 10, (args.batch,), generator=generator).to(args.device)
    sides = {}
    for name, published, step in (("published", True, published_step), ("ours", False, our_step)):
        net, scores = network(args.network, args.remaining, published, args.device)
        optimiser = torch.optim.SGD(scores, 0.1, 0.9, weight_decay=5e-4)
        sides[name] = lambda net=net, optimiser=optimiser, step=step: step(net, optimiser, x, y)
        sides[name]()  # warm-up
    pairs = [[timed(side, args.device) for side in sides.values()] for _ in range(args.repeats)]
    ratios = [theirs / ours for theirs, ours in pairs]
    on_gpu = args.device == "cuda"
    where = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    print(f"{args.network}, batch {args.batch}, {where}, torch {torch.__version__}")
    for place, name in enumerate(sides):
        seconds = statistics.median(pair[place] for pair in pairs)
        print(f"{name:>10}: {seconds:.3f} s a step, {args.batch / seconds:.1f} images/s")
    spread = f"{args.repeats} pairs: {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"     ratio: {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
