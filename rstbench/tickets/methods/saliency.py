"""Find masks without training: at random, by magnitude, by SNIP's and GraSP's saliency at initialisation.

SNIP and GraSP see a class-balanced sample of `PER_CLASS` images a class, crafted against the untouched
network first where the recipe has an adversary. Norm layers are in train mode meanwhile, as in GraSP's code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from ...errors import BadRequest
from ...networks.network import prunable
from ...threat import Threat
from ...training.adversaries import Batch, Free, parse_adversary, require_image_adversary
from ...training.epochs import Epoch, TrainSplit
from ..seeds import SALIENCY_SAMPLE, SCORES
from ..ticket import Ticket
from .search import Search, require_elementwise_scores

PER_CLASS = 10
TEMPERATURE = 200.0  # of GraSP's code, which divides the logits by it


def random(search: Search) -> tuple[Ticket, list[Epoch]]:
    """`random`: choose weights at random, by the mask that a search with this seed begins at, or with
    allocation 'global' one that gives every weight of the network the same chance."""
    scores = search.random_scores()
    if search.recipe.allocation == "global":  # equal chances for every unit, whatever its layer's start
        generator = Generator().manual_seed(search.recipe.seed + SCORES)
        shapes = {name: budget.score_shape for name, budget in search.budgets.items()}
        scores = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return search.calibrated_ticket(search.masks(scores))


@dataclass(frozen=True)
class Magnitude:
    """`magnitude`: the largest weights."""

    def check(self, search: Search) -> None:
        """Raise BadRequest where all weights of a layer are equally large, and for patterns."""
        require_elementwise_scores(search)
        for name in search.budgets:
            magnitude = search.weights[name].abs()
            if bool((magnitude == magnitude.flatten()[0]).all()):
                raise BadRequest(
                    f"method magnitude: all weights of {name} have the magnitude {float(magnitude.max()):g}; "
                    f"choose another init, such as kaiming_normal, or begin at trained weights"
                )

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        return search.calibrated_ticket(
            search.masks({name: search.scaled_weights[name] for name in search.budgets})
        )


@dataclass(frozen=True)
class Snip:
    """`snip`: the largest |w dL/dw|, each divided by the sum of all.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019. With
    an adversary in the recipe, L is the loss it gives.
    """

    def check(self, search: Search) -> None:
        """Raise BadRequest for patterns, and for Free, whose first loss is the clean one."""
        require_elementwise_scores(search)
        if isinstance(parse_adversary(search.recipe.adversary), Free):
            raise BadRequest("method snip sees one loss, and the first of free is that of clean images")

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        net, x, y = _network_and_sample(search)
        scores = connection_sensitivity(net, lambda: _adversarial_loss(search, net, x, y, cross_entropy))
        return search.calibrated_ticket(search.masks({name: scores[name] for name in search.budgets}))


@dataclass(frozen=True)
class Grasp:
    """`grasp`: what preserves gradient flow, the smallest -w (H g), H and g of the loss at initialisation.

    Source: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020,
    and its code: logits divided by 200, the sample in two halves, the Hessian product summed over them. The
    code's fresh Xavier weights for linear layers while scoring are not repeated here. With an adversary in
    the recipe, the loss is that of the images it crafts.
    """

    def check(self, search: Search) -> None:
        """Raise BadRequest for patterns, and for adversaries whose loss is no function of crafted images."""
        require_elementwise_scores(search)
        require_image_adversary(parse_adversary(search.recipe.adversary))

    def __call__(self, search: Search) -> tuple[Ticket, list[Epoch]]:
        self.check(search)
        net, x, y = _network_and_sample(search)
        half = len(y) // 2
        halves = [slice(0, half), slice(half, None)]
        losses = [
            partial(_adversarial_loss, search, net, x[h], y[h], _tempered_cross_entropy) for h in halves
        ]
        scores = gradient_flow(net, losses)
        return search.calibrated_ticket(search.masks(_ranks({name: scores[name] for name in search.budgets})))


def _tempered_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits / TEMPERATURE, y)


def connection_sensitivity(net: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Return SNIP's score |w dL/dw| of every weight, normalised to sum 1 over all layers."""
    weights = prunable(net)
    gradients = torch.autograd.grad(loss(), list(weights.values()))
    scores = [(w * g).abs().detach() for w, g in zip(weights.values(), gradients, strict=True)]
    total = sum(float(score.sum()) for score in scores) or 1.0
    return {name: score / total for name, score in zip(weights, scores, strict=True)}


def gradient_flow(net: nn.Module, losses: Sequence[Callable[[], Tensor]]) -> dict[str, Tensor]:
    """Return w (H g) of every weight, g and H g summed over the losses: GraSP's score with its sign turned,
    large where removal would cost gradient flow."""
    weights = prunable(net)
    leaves = list(weights.values())
    total = [torch.zeros_like(leaf) for leaf in leaves]
    for loss in losses:
        for gradient_sum, gradient in zip(total, torch.autograd.grad(loss(), leaves), strict=True):
            gradient_sum += gradient
    products = [torch.zeros_like(leaf) for leaf in leaves]
    for loss in losses:
        gradients = torch.autograd.grad(loss(), leaves, create_graph=True)
        along = sum((g * t).sum() for g, t in zip(gradients, total, strict=True))
        for product_sum, product in zip(products, torch.autograd.grad(along, leaves), strict=True):  # type: ignore[arg-type]
            product_sum += product
    return {name: (w * p).detach() for (name, w), p in zip(weights.items(), products, strict=True)}


def _network_and_sample(search: Search) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the unmasked network in train mode, and the class-balanced sample."""
    net = search.network().train()
    net.requires_grad_(True)
    x, y = stratified(search.split, Generator().manual_seed(search.recipe.seed + SALIENCY_SAMPLE))
    return net, x.to(search.device), y.to(search.device)


def stratified(split: TrainSplit, generator: Generator, per_class: int = PER_CLASS) -> tuple[Tensor, Tensor]:
    """Return `per_class` training images of each class that has them, class after class in turn, so that the
    first and the second half are balanced too."""
    order = torch.randperm(len(split.train), generator=generator)
    labels = split.train.labels[order]
    by_class = [order[labels == label][:per_class] for label in labels.unique()]
    indices = [images[turn] for turn in range(per_class) for images in by_class if turn < len(images)]
    return split.train.at(torch.stack(indices))


def _adversarial_loss(
    search: Search, net: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the first loss that the recipe's adversary gives; the same at each call."""
    recipe, generator = search.recipe, Generator().manual_seed(search.recipe.seed)
    batch = Batch(net, x, y, Threat.parse(recipe.threat), generator, loss, recipe.attack_bn)
    return next(parse_adversary(recipe.adversary).losses(batch))


def _ranks(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return signed scores as ranks from 1 over all layers, so that |score| orders them as the sign does."""
    flat = torch.cat([score.flatten().cpu().double() for score in scores.values()])
    ranks = torch.empty_like(flat)
    ranks[flat.argsort(stable=True)] = torch.arange(1, len(flat) + 1, dtype=flat.dtype)
    parts = ranks.split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}
