"""The adversaries inside a search or a training: weaker and cheaper than the ones that measure.

An adversary turns a batch into losses, one for each optimiser step. Gradients for images are taken for
the images alone. Attacks work in pixel space; the network stays in train mode while they run, as in the
RST paper, unless the recipe says `attack_bn = "eval"`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from ..attacks.spec import read_options
from ..errors import BadRequest, unknown
from ..references import parse_options
from ..threat import Threat

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, labels) to a number


@dataclass(frozen=True)
class Batch:
    """net: the network under search; x, y: clean images and labels; loss: what is minimised;
    attack_bn: mode of batch norm while images are crafted."""

    net: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat
    generator: Generator
    loss: Loss
    attack_bn: str = "train"

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """The network in the mode that attacks see."""
        training = self.net.training
        self.net.train(training and self.attack_bn == "train")
        yield
        self.net.train(training)


class Adversary(Protocol):
    """Yields a differentiable loss for each optimiser step on a batch."""

    def losses(self, batch: Batch) -> Iterator[Tensor]: ...


@dataclass(frozen=True)
class NoAdversary:
    """`none`: the clean images."""

    def craft(self, batch: Batch) -> Tensor:
        return batch.x

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        yield batch.loss(batch.net(batch.x), batch.y)


@dataclass(frozen=True)
class InnerPGD:
    """`pgd:steps=7,step=1/4`: the last iterate of steps of `step` * eps from a random start, batch-mean
    cross-entropy (Madry et al., ICLR 2018)."""

    steps: int = 7
    step: Fraction = Fraction(1, 4)

    def craft(self, batch: Batch) -> Tensor:
        adv = batch.threat.sample(batch.x, batch.generator)
        for _ in range(self.steps):
            adv = _ascend(batch, adv, float(self.step))
        return adv

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        yield batch.loss(batch.net(crafted(self, batch)), batch.y)


@dataclass(frozen=True)
class FGSM:
    """`fgsm`: one step of eps from the clean image (Goodfellow et al., ICLR 2015)."""

    def craft(self, batch: Batch) -> Tensor:
        return _ascend(batch, batch.x, 1.0)

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        yield batch.loss(batch.net(crafted(self, batch)), batch.y)


@dataclass(frozen=True)
class FGSMRS:
    """`fgsm-rs`: one step of 1.25 eps from a random start (Wong et al., ICLR 2020)."""

    step: Fraction = Fraction(5, 4)

    def craft(self, batch: Batch) -> Tensor:
        return _ascend(batch, batch.threat.sample(batch.x, batch.generator), float(self.step))

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        yield batch.loss(batch.net(crafted(self, batch)), batch.y)


@dataclass
class Free:
    """`free:m=4`: each batch is replayed m times; one backward pass moves both the perturbation, by eps,
    and what is learnt. The perturbation is kept from batch to batch (Shafahi et al., NeurIPS 2019)."""

    m: int = 4
    noise: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        if self.noise is None or self.noise.shape != batch.x.shape:
            self.noise = torch.zeros_like(batch.x)
        noise = self.noise.to(batch.x)
        for _ in range(self.m):
            adv = batch.threat.project(batch.x, batch.x + noise).requires_grad_(True)
            loss = batch.loss(batch.net(adv), batch.y)
            gradient = torch.autograd.grad(loss, adv, retain_graph=True)[0]
            yield loss
            moved = batch.threat.step(adv.detach(), gradient, float(batch.threat.eps))
            noise = batch.threat.project(batch.x, moved) - batch.x
        self.noise = noise.detach()


@dataclass(frozen=True)
class Trades:
    """`trades:beta=6,steps=10,step=1/4`: loss on clean images plus beta times the divergence between the
    answers to clean and adversarial ones, which the attack maximises (Zhang et al., ICML 2019)."""

    beta: float = 6.0
    steps: int = 10
    step: Fraction = Fraction(1, 4)

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        with batch.attacked():
            # Not under no_grad: the first pass of a step fills the cache of masked weights.
            clean = softmax(batch.net(batch.x), 1).detach()
            noise = torch.randn(batch.x.shape, generator=batch.generator).to(batch.x)
            adv = batch.threat.project(batch.x, batch.x + 1e-3 * noise)
            for _ in range(self.steps):
                adv = adv.detach().requires_grad_(True)
                gradient = torch.autograd.grad(_divergence(batch.net(adv), clean), adv)[0]
                adv = _moved(batch, adv, gradient, float(self.step))
        logits = batch.net(batch.x)
        # One sum, one backward pass: the masks' graph exists once a step.
        yield batch.loss(logits, batch.y) + self.beta * _divergence(batch.net(adv), softmax(logits, 1))


ADVERSARIES: dict[str, type] = {
    "none": NoAdversary,
    "fgsm": FGSM,
    "fgsm-rs": FGSMRS,
    "pgd": InnerPGD,
    "free": Free,
    "trades": Trades,
}


def parse_adversary(text: str) -> Adversary:
    """`none`, `fgsm`, `fgsm-rs`, `pgd:steps=7`, `free:m=4`, `trades:beta=6`. Raises BadRequest."""
    name, _, options = text.partition(":")
    if name not in ADVERSARIES:
        raise unknown("inner adversary", name, ADVERSARIES)
    adversary: Adversary = ADVERSARIES[name](
        **read_options(ADVERSARIES[name], name, parse_options(options, text))
    )
    for option in ("steps", "step", "m", "beta"):
        if not 0 < getattr(adversary, option, 1) < math.inf:
            raise BadRequest(f"{option} must be positive and finite, got {text!r}")
    return adversary


Crafting = NoAdversary | InnerPGD | FGSM | FGSMRS


def can_craft(adversary: Adversary) -> Crafting:
    """An adversary whose images do not depend on what is learnt from them. Raises BadRequest for others."""
    if not isinstance(adversary, Crafting):
        name = next(name for name, kind in ADVERSARIES.items() if isinstance(adversary, kind))
        raise BadRequest(f"images can be crafted by none, fgsm, fgsm-rs and pgd, got {name}")
    return adversary


def crafted(adversary: Adversary, batch: Batch) -> Tensor:
    """Images crafted in the mode that attacks see. Raises BadRequest as `can_craft`."""
    crafting = can_craft(adversary)
    with batch.attacked():
        return crafting.craft(batch)


def _ascend(batch: Batch, adv: Tensor, step: float) -> Tensor:
    """One step of `step` * eps up the cross-entropy."""
    adv = adv.detach().requires_grad_(True)
    gradient = torch.autograd.grad(cross_entropy(batch.net(adv), batch.y), adv)[0]
    return _moved(batch, adv, gradient, step)


def _moved(batch: Batch, adv: Tensor, gradient: Tensor, step: float) -> Tensor:
    size = step * float(batch.threat.eps)
    return batch.threat.project(batch.x, batch.threat.step(adv.detach(), gradient, size)).detach()


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Batch mean of KL(target || softmax(logits))."""
    return kl_div(log_softmax(logits, 1), target, reduction="batchmean")
