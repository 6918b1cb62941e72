"""Find masks that keep the dense network's outputs and its mixed tangent kernel: AWT.

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
from pathlib import Path
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ...errors import BadRequest, ModelFault
from ...networks.network import build
from ...threat import Threat
from ...training import resume
from ...training.adversaries import Batch, parse_adversary, require_image_adversary
from ...training.epochs import Epoch, batches, measure_accuracy
from ..seeds import AWT_SAMPLE
from ..ticket import Ticket
from .memory import count_activations, free_memory
from .search import Search, calibrate_batch_norm, require_elementwise_scores, require_storable_weights
from .tangent_kernel import KERNELS, Parameters, kernel_distances


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
    moves: ClassVar[bool] = False  # whether the ticket takes the student's weights

    def extra_epochs(self, remaining: Fraction) -> int:
        """Return the passes over the training images before batch norm is calibrated."""
        return self.passes

    def check(self, search: Search) -> None:
        """Raise BadRequest for patterns, adversaries whose images depend on what is trained on them,
        periods that never end in a new mask, and, with the figure, kernels that would not fit."""
        name = search.recipe.method.partition(":")[0]
        require_elementwise_scores(search)
        require_image_adversary(parse_adversary(search.recipe.adversary))
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
        """Return the steps of the whole search."""
        train = len(search.split.train)
        return self.passes * (train // min(self.batch, train))

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        masks, weights, history = _transfer(self, search)
        return search.calibrated_ticket(masks, weights=weights if self.moves else None, history=history)


@dataclass(frozen=True)
class AWTMoved(AWT):
    """`awt-moved`: the same search, and the weights as it moved them. The norm's statistics are those of the
    sparse network, no longer the dense one's under which the search compared outputs."""

    moves = True

    def check(self, search: Search) -> None:
        """Raise BadRequest as `awt` does, and where weights are scaled or may not be stored."""
        super().check(search)
        require_storable_weights(search)


def _transfer(method: AWT, search: Search) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Epoch]]:
    """Return (masks, student weights on the CPU, one row a pass)."""
    transfer, file = _TangentTransfer(method, search), search.resume_file
    if file and file.exists():
        transfer.restore(file)
        for row in transfer.history:
            search.on_epoch(row)
    while len(transfer.history) < method.passes:
        transfer.run_pass()
        if file:
            transfer.save(file)
        search.on_epoch(transfer.history[-1])
    weights = {name: transfer.student[name].detach().cpu() for name in search.weights}
    return transfer.masks, weights, transfer.history


class _TangentTransfer:
    """Hold what the search carries from step to step."""

    def __init__(self, method: AWT, search: Search) -> None:
        self.method, self.search = method, search
        self.threat = Threat.parse(search.recipe.threat)
        self.adversary = require_image_adversary(parse_adversary(search.recipe.adversary))
        self.batch_size = min(method.batch, len(search.split.train))
        # No new mask in the last period: the weights that it keeps have to settle.
        self.last_mask_step = method.steps(search) - method.period
        self.net = search.network()
        calibrate_batch_norm(self.net, search)
        self.net.eval()
        state = {name: tensor.detach() for name, tensor in self.net.state_dict().items()}
        self.teacher = {name: state[name] for name in search.weights}
        self.buffers = {name: tensor for name, tensor in state.items() if name not in search.weights}
        self.student = {name: w.clone().requires_grad_(True) for name, w in self.teacher.items()}
        self.generator = Generator().manual_seed(search.recipe.seed + AWT_SAMPLE)
        # Equal magnitudes, as of signed constants, must not be chosen among by their position.
        self.jitter = {
            name: 1 + 1e-9 * torch.rand(w.shape, generator=self.generator, dtype=torch.float64).to(w.device)
            for name, w in self.teacher.items()
        }
        self.masks = self._magnitude_masks()
        self.optimiser = torch.optim.Adam(self.student.values(), method.lr)
        self.steps = 0
        self.history: list[Epoch] = []

    def logits(self, weights: Parameters, x: Tensor) -> Tensor:
        """Return the network's logits with these weights, (n, classes)."""
        logits: Tensor = functional_call(self.net, {**self.buffers, **weights}, (x,))
        return logits

    def run_pass(self) -> None:
        """Pass over the training images once, then measure on the selection images."""
        lr, recipe, device = self.method.lr, self.search.recipe, self.search.device
        total, count = 0.0, 0
        for x, y in batches(self.search.split.train, recipe, self.generator, self.batch_size):
            total, count = total + self._step(x.to(device), y.to(device)), count + 1
        mean = total / count
        if not math.isfinite(mean):
            raise ModelFault(f"the distance to the dense network is {mean}; try a lower lr than {lr:g}")
        student = self.search.network()
        student.load_state_dict({**self.buffers, **self._sparse_student()})
        accuracies = measure_accuracy(student, self.search.split.select, recipe)
        self.history.append(Epoch(len(self.history) + 1, mean, *accuracies, lr=lr))

    def _step(self, x: Tensor, y: Tensor) -> float:
        """Take one step of Adam; return the distance before it."""
        batch = Batch(self.net, x, y, self.threat, self.generator, cross_entropy, "eval")
        adv = self.adversary.craft(batch)
        gradients = [torch.zeros_like(weight) for weight in self.student.values()]
        total = 0.0
        for part in self._distances(x, adv):
            # The kernel of a single layer does not depend on its weights.
            terms = torch.autograd.grad(part, list(self.student.values()), allow_unused=True)
            for gradient, term in zip(gradients, terms, strict=True):
                if term is not None:
                    gradient += term
            total += float(part.detach())
        for weight, gradient in zip(self.student.values(), gradients, strict=True):
            weight.grad = gradient
        self.optimiser.step()
        self.steps += 1
        if self.steps % self.method.period == 0 and self.steps <= self.last_mask_step:
            self.masks = self._magnitude_masks()
        return total

    def _distances(self, x: Tensor, adv: Tensor) -> Iterator[Tensor]:
        """Yield the terms of the loss, each with its own graph."""
        method, half = self.method, len(x) // 2
        with torch.no_grad():
            expected = self.logits(self.teacher, adv)
        yield (self.logits(self._sparse_student(), adv) - expected).square().mean()
        terms = kernel_distances(
            method.kernel,
            (lambda weights, images: self.logits(_masked(weights, self.masks), images), self.student),
            (self.logits, self.teacher),
            x[:half],
            adv[half : 2 * half],
            chunk=method.chunk,
            probes=method.probes,
            generator=self.generator,
        )
        yield from (method.weight * term for term in terms)
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        density = kept / sum(mask.numel() for mask in self.masks.values())
        squares = [w.square().sum() for w in self._sparse_student().values()]
        yield method.decay / density * sum(squares)  # type: ignore[misc]

    def _sparse_student(self) -> Parameters:
        return _masked(self.student, self.masks)

    def _magnitude_masks(self) -> dict[str, Tensor]:
        scores = {n: self.student[n].detach().double() * self.jitter[n] for n in self.search.budgets}
        return self.search.masks(scores)

    def save(self, path: Path) -> None:
        """Write everything that the next pass depends on."""
        state = {
            "student": {name: weight.detach() for name, weight in self.student.items()},
            "masks": self.masks,
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "history": [astuple(row) for row in self.history],
        }
        resume.save(path, self.search.recipe, state)

    def restore(self, path: Path) -> None:
        """Take up what `save` wrote. Raises BadFile."""
        with resume.restoring(path, self.search.recipe, self.search.device) as state:
            with torch.no_grad():
                for name, weight in self.student.items():
                    weight.copy_(state["student"][name])
            self.masks = state["masks"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.generator.set_state(state["generator"].cpu())
            self.steps, self.history = state["steps"], [Epoch(*row) for row in state["history"]]


def _masked(weights: Parameters, masks: Mapping[str, Tensor]) -> Parameters:
    """Return the products, which kernels are differentiated through."""
    return {name: w * masks[name] if name in masks else w for name, w in weights.items()}


def _check_memory(method: AWT, search: Search) -> None:
    """Raise BadRequest, with the figure, where the search would not fit.

    An explicit kernel holds, for `chunk` images and each class, Jacobians and activations of both networks
    and the student's graph; a product with it the activations of a batch and a few copies of the weights.
    """
    weights = sum(weight.numel() for weight in search.weights.values())
    outputs = count_activations(build(search.spec), search.spec.shape)
    size = min(method.batch, len(search.split.train))
    needed = 4 * (12 * size * outputs + 16 * weights)
    if method.kernel != "probe":
        needed += 4 * 8 * min(method.chunk, size // 2) * search.spec.classes * (weights + outputs)
    free = free_memory(torch.device(search.device))
    if needed > free:
        smaller = "a smaller batch" if method.kernel == "probe" else "kernel=probe or a smaller chunk"
        raise BadRequest(
            f"kernel={method.kernel} needs about {needed / 2**30:.1f} GiB at batch={method.batch}, "
            f"chunk={method.chunk}; {free / 2**30:.1f} are free; use {smaller}"
        )
