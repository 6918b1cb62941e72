"""Masks that keep the dense network's outputs and its mixed tangent kernel: AWT.

Shi et al., "Finding Dynamics Preserving Adversarial Winning Tickets", AISTATS 2022, has no published code.
What is here follows its abstract and the derivation that networks with equal outputs and equal mixed
kernels Theta(x, z) = J(x) J(z)^T, x clean and z adversarial, learn alike under adversarial training; the loss
and the constants passes, batch, lr, period, weight and decay are those of the code of its ancestor, Liu and
Zenke, "Finding trainable sparse networks through Neural Tangent Transfer", ICML 2020, which computes the
kernel whole. Unconfirmed for the paper: all of these, the normalisation, and where in the loss clean and
adversarial images enter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from fractions import Fraction

import torch
from torch import Generator, Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ...errors import BadFile, BadRequest, ModelFault
from ...networks.network import build
from ...threat import Threat
from ...training import resume
from ...training.adversaries import Batch, can_craft, crafted, parse_adversary
from ...training.epochs import Epoch, batches, measured
from ..ticket import Ticket
from .memory import activations, free_memory
from .search import Search, own_weights, settle_norm, single_weights
from .tangent_kernel import KERNELS, Parameters, kernel_distances

_STREAM = 3_000_017


@dataclass(frozen=True)
class AWT:
    """`awt`: the mask found by the search, over the original weights.

    Student weights begin at the random ones; `passes` over the training images move those that the mask
    keeps (Adam, `lr`), so that on adversarial images, crafted against the dense network by the recipe's
    adversary, outputs and mixed kernel stay the dense network's. Every `period` steps the mask becomes that
    of the largest weights anew. weight, decay: of the kernel's term and, over the density, of the kept
    weights' squares. Norm layers hold the dense network's statistics, from one pass, in eval mode.
    """

    passes: int = 20
    batch: int = 64
    lr: float = 5e-4
    period: int = 100
    kernel: str = "probe"
    probes: int = 4
    chunk: int = 8
    weight: float = 1e-3
    decay: float = 1e-5

    def length(self, remaining: Fraction) -> int:
        """Passes over the training images before the norm is settled."""
        return self.passes

    def check(self, search: Search) -> None:
        """Raises BadRequest for patterns, adversaries whose images depend on what is learnt from them,
        periods that never end in a new mask, and, with the figure, kernels that would not fit."""
        name = search.recipe.method.partition(":")[0]
        single_weights(search)
        can_craft(parse_adversary(search.recipe.adversary))
        if self.kernel not in KERNELS:
            raise BadRequest(f"kernel is one of {', '.join(KERNELS)}, got {self.kernel!r}")
        for option in ("passes", "period", "probes", "chunk", "lr"):
            if not 0 < getattr(self, option) < math.inf:
                raise BadRequest(f"{option} of {name} is above 0 and finite, got {getattr(self, option)}")
        for option in ("weight", "decay"):
            if not 0 <= getattr(self, option) < math.inf:
                raise BadRequest(f"{option} of {name} is 0 or more and finite, got {getattr(self, option)}")
        if self.batch < 2:
            raise BadRequest(f"batch of {name} is at least 2, for the halves of a kernel, got {self.batch}")
        if self.steps(search) < 2 * self.period:
            raise BadRequest(
                f"{name} makes a new mask after every {self.period} steps but the last, and takes "
                f"{self.steps(search)} in {self.passes} passes; add passes, or lower period"
            )
        _check_memory(self, search)

    def steps(self, search: Search) -> int:
        """Steps of the whole search."""
        train = len(search.lesson.train)
        return self.passes * (train // min(self.batch, train))

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        return self._finished(search, moved=False)

    def _finished(self, search: Search, *, moved: bool) -> tuple[Ticket, list[Epoch]]:
        masks, weights, history = _transfer(self, search)
        found = search.settled(masks, weights=weights if moved else None, before=history)
        if search.diary:
            search.diary.unlink(missing_ok=True)
        return found


@dataclass(frozen=True)
class AWTMoved(AWT):
    """`awt-moved`: the same search, and the weights as it moved them. The norm's statistics are those of the
    sparse network, no longer the dense one's under which the search compared outputs."""

    def check(self, search: Search) -> None:
        """Raises BadRequest as `awt` does, and where weights are scaled or may not be stored."""
        super().check(search)
        own_weights(search)

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        return self._finished(search, moved=True)


def _transfer(how: AWT, search: Search) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Epoch]]:
    """(masks, student weights on the CPU, one row a pass)."""
    run = _Transfer(how, search)
    if search.diary and search.diary.exists():
        run.restore()
        for row in run.history:
            search.watch(row)
    while len(run.history) < how.passes:
        run.one_pass()
        if search.diary:
            run.save()
        search.watch(run.history[-1])
    moved = {name: run.student[name].detach().cpu() for name in search.weights}
    return run.masks, moved, run.history


class _Transfer:
    """The search under way."""

    def __init__(self, how: AWT, search: Search) -> None:
        self.how, self.search = how, search
        self.threat = Threat.parse(search.recipe.threat)
        self.adversary = parse_adversary(search.recipe.adversary)
        self.size = min(how.batch, len(search.lesson.train))
        # No new mask in the last period: what it keeps has to settle.
        self.last_masks = how.steps(search) - how.period
        self.net = search.network()
        settle_norm(self.net, search)
        self.net.eval()
        state = {name: tensor.detach() for name, tensor in self.net.state_dict().items()}
        self.teacher = {name: state[name] for name in search.weights}
        self.rest = {name: tensor for name, tensor in state.items() if name not in search.weights}
        self.student = {name: w.clone().requires_grad_(True) for name, w in self.teacher.items()}
        self.generator = Generator().manual_seed(search.recipe.seed + _STREAM)
        # Equal magnitudes, as of signed constants, must not be chosen among by their place.
        self.jitter = {
            name: 1 + 1e-9 * torch.rand(w.shape, generator=self.generator, dtype=torch.float64).to(w.device)
            for name, w in self.teacher.items()
        }
        self.masks = self._by_magnitude()
        self.optimiser = torch.optim.Adam(self.student.values(), how.lr)
        self.steps = 0
        self.history: list[Epoch] = []

    def logits(self, weights: Parameters, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.net, {**self.rest, **weights}, (x,))
        return logits

    def one_pass(self) -> None:
        """Over the training images once, then the selection images."""
        how, recipe = self.how, self.search.recipe
        total, count = 0.0, 0
        for x, y in batches(self.search.lesson.train, recipe, self.generator, self.size):
            total, count = total + self._step(x.to(self.search.device), y.to(self.search.device)), count + 1
        mean = total / count
        if not math.isfinite(mean):
            raise ModelFault(f"the distance to the dense network is {mean}; try a lower lr than {how.lr:g}")
        student = self.search.network()
        student.load_state_dict({**self.rest, **self._masked()})
        accuracies = measured(student, self.search.lesson.select, recipe)
        self.history.append(Epoch(len(self.history) + 1, mean, *accuracies, lr=how.lr))

    def _step(self, x: Tensor, y: Tensor) -> float:
        """One step of Adam; the distance before it."""
        batch = Batch(self.net, x, y, self.threat, self.generator, cross_entropy, "eval")
        adv = crafted(self.adversary, batch)
        gradients = [torch.zeros_like(weight) for weight in self.student.values()]
        total = 0.0
        for part in self._distances(x, adv):
            # The kernel of a single layer does not depend on its weights.
            found = torch.autograd.grad(part, list(self.student.values()), allow_unused=True)
            for place, gradient in enumerate(found):
                if gradient is not None:
                    gradients[place] += gradient
            total += float(part.detach())
        for weight, gradient in zip(self.student.values(), gradients, strict=True):
            weight.grad = gradient
        self.optimiser.step()
        self.steps += 1
        if self.steps % self.how.period == 0 and self.steps <= self.last_masks:
            self.masks = self._by_magnitude()
        return total

    def _distances(self, x: Tensor, adv: Tensor) -> Iterator[Tensor]:
        """Parts of the loss, each with its own graph."""
        how, half = self.how, len(x) // 2
        with torch.no_grad():
            wanted = self.logits(self.teacher, adv)
        yield (self.logits(self._masked(), adv) - wanted).square().mean()
        parts = kernel_distances(
            how.kernel,
            (lambda weights, images: self.logits(_applied(weights, self.masks), images), self.student),
            (self.logits, self.teacher),
            x[:half],
            adv[half : 2 * half],
            chunk=how.chunk,
            probes=how.probes,
            generator=self.generator,
        )
        yield from (how.weight * part for part in parts)
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        density = kept / sum(mask.numel() for mask in self.masks.values())
        yield how.decay / density * sum(w.square().sum() for w in self._masked().values())  # type: ignore[misc]

    def _masked(self) -> Parameters:
        return _applied(self.student, self.masks)

    def _by_magnitude(self) -> dict[str, Tensor]:
        scores = {n: self.student[n].detach().double() * self.jitter[n] for n in self.search.slots}
        return self.search.masks(scores)

    def save(self) -> None:
        state = {
            "student": {name: weight.detach() for name, weight in self.student.items()},
            "masks": self.masks,
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "history": [astuple(row) for row in self.history],
        }
        assert self.search.diary
        resume.save(self.search.diary, self.search.recipe, state)

    def restore(self) -> None:
        assert self.search.diary
        state = resume.load(self.search.diary, self.search.recipe, self.search.device)
        try:
            with torch.no_grad():
                for name, weight in self.student.items():
                    weight.copy_(state["student"][name])
            self.masks = state["masks"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.generator.set_state(state["generator"].cpu())
            self.steps, self.history = state["steps"], [Epoch(*row) for row in state["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise BadFile(f"{self.search.diary} is damaged: {error!r}; delete it") from None


def _applied(weights: Parameters, masks: Mapping[str, Tensor]) -> Parameters:
    return {name: w * masks[name] if name in masks else w for name, w in weights.items()}


def _check_memory(how: AWT, search: Search) -> None:
    """Raises BadRequest, with the figure, where the search would not fit.

    An explicit kernel holds, for `chunk` images and each class, Jacobians and activations of both networks
    and the student's graph; a product with it the activations of a batch and a few copies of the weights.
    """
    weights = sum(weight.numel() for weight in search.weights.values())
    outputs = activations(build(search.spec), search.spec.shape)
    size = min(how.batch, len(search.lesson.train))
    needed = 4 * (12 * size * outputs + 16 * weights)
    if how.kernel != "probe":
        needed += 4 * 8 * min(how.chunk, size // 2) * search.spec.classes * (weights + outputs)
    free = free_memory(torch.device(search.device))
    if needed > free:
        smaller = "a smaller batch" if how.kernel == "probe" else "kernel=probe or a smaller chunk"
        raise BadRequest(
            f"kernel={how.kernel} needs about {needed / 2**30:.1f} GiB at batch={how.batch}, "
            f"chunk={how.chunk}; {free / 2**30:.1f} are free; use {smaller}"
        )
