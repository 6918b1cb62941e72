"""The adversary inside a search or a training: weaker and cheaper than the ones that measure."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from ..attacks.attack import read_options
from ..errors import BadRequest, unknown
from ..plugins import parse_options
from ..threat import Threat


@dataclass(frozen=True)
class InnerPGD:
    """The last iterate of `steps` steps of `step` * eps from a random start, batch-mean cross-entropy.

    The network stays in the mode it is in: train mode, as in the RST paper, so batch norm uses and
    updates batch statistics in every pass. Gradients are taken for the images alone.
    """

    steps: int = 7
    step: Fraction = Fraction(1, 4)

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Tensor:
        adv, size = threat.sample(x, generator), float(self.step * threat.eps)
        for _ in range(self.steps):
            adv = adv.detach().requires_grad_(True)
            gradient = torch.autograd.grad(cross_entropy(net(adv), y), adv)[0]
            adv = threat.project(x, threat.step(adv.detach(), gradient, size))
        return adv.detach()


def parse_adversary(text: str) -> InnerPGD | None:
    """`pgd:steps=7` or `none`. Raises BadRequest for anything else."""
    name, _, options = text.partition(":")
    if name == "none" and not options:
        return None
    if name != "pgd":
        raise unknown("inner adversary", name, ("none", "pgd"))
    adversary = InnerPGD(**read_options(InnerPGD, name, parse_options(options, text)))
    if adversary.steps < 1 or adversary.step <= 0:
        raise BadRequest(f"steps and step must be positive, got {text!r}")
    return adversary
