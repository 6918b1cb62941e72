"""Attack the network inside a search or a training: weaker and cheaper than the attacks that measure.

An adversary turns a batch into losses, one for each optimiser step. Gradients for images are taken for
the images alone. Attacks work in pixel space; the network stays in train mode while they run, as in the
RST paper, unless the recipe says `attack_bn = "eval"`. They share `Threat.ascend` with `attacks.PGD`, but
not its loop: that one keeps each image's best iterate, on a network in eval mode.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
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
    """Hold what an adversary works on.

    net: the network under search; x, y: clean images and labels; loss: what is minimised; attack_bn: mode of
    batch norm while images are crafted.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat
    generator: Generator
    loss: Loss
    attack_bn: str = "train"

    @contextmanager
    def attack_mode(self) -> Iterator[None]:
        """Put the network in the mode that attacks see."""
        training = self.net.training
        self.net.train(training and self.attack_bn == "train")
        yield
        self.net.train(training)

    def ascend(self, adv: Tensor, steps: int, step: float, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Take `steps` steps of `step` * eps up a loss of the logits, from the images `adv`."""
        for _ in range(steps):
            adv = adv.detach().requires_grad_(True)
            gradient = torch.autograd.grad(loss(self.net(adv)), adv)[0]
            size = step * float(self.threat.eps)
            adv = self.threat.ascend(self.x, adv.detach(), gradient, size).detach()
        return adv

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Return the batch mean that attacks raise, without label smoothing."""
        return cross_entropy(logits, self.y)


class Adversary(Protocol):
    """Yield a differentiable loss for each optimiser step on a batch.

    passes: about how many an image takes, forward and backward, beside those of one optimiser step.
    """

    @property
    def passes(self) -> int: ...

    def losses(self, batch: Batch) -> Iterator[Tensor]: ...


class ImageAdversary(ABC):
    """Craft images that do not depend on what is trained on them, and give the loss on these."""

    @property
    @abstractmethod
    def passes(self) -> int: ...

    @abstractmethod
    def perturb(self, batch: Batch) -> Tensor:
        """Return adversarial images against the network in its present mode."""

    def craft(self, batch: Batch) -> Tensor:
        """Return adversarial images against the network in the mode that attacks see."""
        with batch.attack_mode():
            return self.perturb(batch)

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        yield batch.loss(batch.net(self.craft(batch)), batch.y)


@dataclass(frozen=True)
class NoAdversary(ImageAdversary):
    """`none`: the clean images."""

    passes = 0

    def perturb(self, batch: Batch) -> Tensor:
        return batch.x


@dataclass(frozen=True)
class InnerPGD(ImageAdversary):
    """`pgd:steps=7,step=1/4`: the last iterate of steps of `step` * eps from a random start, batch-mean
    cross-entropy (Madry et al., ICLR 2018)."""

    steps: int = 7
    step: Fraction = Fraction(1, 4)

    @property
    def passes(self) -> int:
        return 2 * self.steps

    def perturb(self, batch: Batch) -> Tensor:
        start = batch.threat.sample(batch.x, batch.generator)
        return batch.ascend(start, self.steps, float(self.step), batch.cross_entropy)


@dataclass(frozen=True)
class FGSM(ImageAdversary):
    """`fgsm`: one step of eps from the clean image (Goodfellow et al., ICLR 2015)."""

    passes = 2

    def perturb(self, batch: Batch) -> Tensor:
        return batch.ascend(batch.x, 1, 1.0, batch.cross_entropy)


@dataclass(frozen=True)
class FGSMRS(ImageAdversary):
    """`fgsm-rs`: one step of 1.25 eps from a random start (Wong et al., ICLR 2020)."""

    step: Fraction = Fraction(5, 4)

    @property
    def passes(self) -> int:
        return 2

    def perturb(self, batch: Batch) -> Tensor:
        start = batch.threat.sample(batch.x, batch.generator)
        return batch.ascend(start, 1, float(self.step), batch.cross_entropy)


@dataclass
class Free:
    """`free:m=4`: each batch is replayed m times; one backward pass moves both the perturbation, by eps,
    and what is trained. The perturbation is kept from batch to batch (Shafahi et al., NeurIPS 2019)."""

    m: int = 4
    noise: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def passes(self) -> int:
        return 3 * self.m

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        if self.noise is None or self.noise.shape != batch.x.shape:
            self.noise = torch.zeros_like(batch.x)
        noise = self.noise.to(batch.x)
        for _ in range(self.m):
            adv = batch.threat.project(batch.x, batch.x + noise).requires_grad_(True)
            loss = batch.loss(batch.net(adv), batch.y)
            gradient = torch.autograd.grad(loss, adv, retain_graph=True)[0]
            yield loss
            noise = batch.threat.ascend(batch.x, adv.detach(), gradient, float(batch.threat.eps)) - batch.x
        self.noise = noise.detach()


@dataclass(frozen=True)
class Trades:
    """`trades:beta=6,steps=10,step=1/4`: loss on clean images plus beta times the divergence between the
    predictions on clean and adversarial ones, which the attack maximises (Zhang et al., ICML 2019)."""

    beta: float = 6.0
    steps: int = 10
    step: Fraction = Fraction(1, 4)

    @property
    def passes(self) -> int:
        return 2 * self.steps + 3

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        with batch.attack_mode():
            # Not under no_grad: the first pass of a step fills the cache of masked weights.
            clean = softmax(batch.net(batch.x), 1).detach()
            noise = torch.randn(batch.x.shape, generator=batch.generator).to(batch.x)
            adv = batch.threat.project(batch.x, batch.x + 1e-3 * noise)
            adv = batch.ascend(adv, self.steps, float(self.step), lambda logits: _kl(logits, clean))
        logits = batch.net(batch.x)
        # One sum, one backward pass: the masks' graph exists once a step.
        yield batch.loss(logits, batch.y) + self.beta * _kl(batch.net(adv), softmax(logits, 1))


# To add an adversary, add its class here and its form to `FORMS` in `recipe`.
ADVERSARIES: dict[str, type] = {
    "none": NoAdversary,
    "fgsm": FGSM,
    "fgsm-rs": FGSMRS,
    "pgd": InnerPGD,
    "free": Free,
    "trades": Trades,
}


def parse_adversary(text: str) -> Adversary:
    """Parse `none`, `fgsm`, `fgsm-rs`, `pgd:steps=7`, `free:m=4` or `trades:beta=6`. Raises BadRequest."""
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


def require_image_adversary(adversary: Adversary) -> ImageAdversary:
    """Return an adversary that crafts its images first. Raises BadRequest for others."""
    if not isinstance(adversary, ImageAdversary):
        name = next(name for name, kind in ADVERSARIES.items() if isinstance(adversary, kind))
        raise BadRequest(f"images can be crafted by none, fgsm, fgsm-rs and pgd, got {name}")
    return adversary


def _kl(logits: Tensor, target: Tensor) -> Tensor:
    """Return the batch mean of KL(target || softmax(logits))."""
    return kl_div(log_softmax(logits, 1), target, reduction="batchmean")
