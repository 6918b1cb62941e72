"""The epochs of a search or of a training: one loop for scores and for weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils import parametrize

from ..attacks import PGD
from ..data import Images
from ..errors import ModelFault
from ..threat import Threat
from .adversary import parse_adversary
from .recipe import Recipe

HELD_OUT = 0.02


@dataclass(frozen=True)
class Lesson:
    """What is learnt from (`train`), what the kept epoch is chosen on (`select`), and whether those
    are test images."""

    train: Images
    select: Images
    on_test: bool = False


@dataclass(frozen=True)
class Epoch:
    """One row of the history. clean and robust: accuracy on the selection images, robust under the
    adversary of the recipe (10 steps at least)."""

    epoch: int
    loss: float
    clean: float
    robust: float
    lr: float


Watch = Callable[[Epoch], None]


def hold_out(train: Images, seed: int) -> tuple[Images, Images]:
    """(the rest, 2 % of the training images), chosen by the seed."""
    order = torch.randperm(len(train), generator=Generator().manual_seed(seed))
    held = max(1, round(HELD_OUT * len(train)))
    return train.take(order[held:].sort().values), train.take(order[:held].sort().values)


def fit(
    net: nn.Module, learnt: Sequence[nn.Parameter], lesson: Lesson, recipe: Recipe, watch: Watch
) -> list[Epoch]:
    """Minimises the loss on adversarial images over the parameters `learnt`; the network ends in the
    state of the epoch that `recipe.select` keeps.

    Raises ModelFault where the loss is no longer finite.
    """
    device = learnt[0].device
    optimiser = torch.optim.SGD(learnt, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    generator = Generator().manual_seed(recipe.seed)
    adversary, threat = parse_adversary(recipe.adversary), Threat.parse(recipe.threat)
    batches = max(1, len(lesson.train) // recipe.batch)
    history: list[Epoch] = []
    best, best_state = -1.0, {}
    for epoch in range(recipe.epochs):
        net.train()
        losses = []
        for step, (x, y) in enumerate(_batches(lesson.train, recipe, generator)):
            x, y = x.to(device), y.to(device)
            rate = learning_rate(recipe, (epoch + step / batches) / recipe.epochs)
            for group in optimiser.param_groups:
                group["lr"] = rate
            # Masks are computed once a step: the cache spans the attack, one backward, no optimiser step.
            with parametrize.cached():
                if adversary is not None:
                    x = adversary(net, x, y, threat, generator)
                loss = cross_entropy(net(x), y)
                for parameter, gradient in zip(learnt, torch.autograd.grad(loss, learnt), strict=True):
                    parameter.grad = gradient
            optimiser.step()
            losses.append(loss.detach())
        mean_loss = float(torch.stack(losses).mean())
        if not math.isfinite(mean_loss):
            raise ModelFault(
                f"the loss is {mean_loss} in epoch {epoch + 1}; try a lower lr than {recipe.lr:g}, "
                f"or a network with norm"
            )
        clean, robust = _accuracies(net, lesson.select, recipe, threat)
        history.append(Epoch(epoch + 1, mean_loss, clean, robust, rate))
        watch(history[-1])
        score = robust if adversary is not None else clean
        if recipe.select == "last" or score >= best:
            best, best_state = score, {k: v.detach().clone() for k, v in net.state_dict().items()}
    net.load_state_dict(best_state)
    net.eval()
    return history


def kept_epoch(history: Sequence[Epoch], recipe: Recipe) -> Epoch:
    """The epoch whose state `fit` left in the network: of equal ones the later."""
    if recipe.select == "last":
        return history[-1]
    natural = recipe.adversary == "none"
    return max(history, key=lambda row: (row.clean if natural else row.robust, row.epoch))


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate at `progress` in [0, 1) of all steps."""
    if recipe.schedule == "piecewise":
        return recipe.lr * 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
    warm = 0.3
    return recipe.lr * (progress / warm if progress < warm else (1 - progress) / (1 - warm))


def _batches(images: Images, recipe: Recipe, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled whole batches; the last short one is left out, as batch norm dislikes it."""
    size = min(recipe.batch, len(images))
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(images) - size + 1, size):
        x, y = images.at(order[start : start + size])
        yield (_crop_flip(x, generator) if recipe.augment == "crop-flip" else x), y


def _crop_flip(x: Tensor, generator: Generator, margin: int = 4) -> Tensor:
    """Random crops out of images padded with 4 black pixels, and random horizontal flips."""
    n, _, height, width = x.shape
    padded = pad(x, (margin,) * 4)
    corners = torch.randint(0, 2 * margin + 1, (n, 2), generator=generator)
    rows = corners[:, :1, None] + torch.arange(height)[None, :, None]
    columns = torch.arange(width).expand(n, width)
    flips = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flips, columns.flip(1), columns) + corners[:, 1:]
    return padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows, columns[:, None]].permute(
        0, 3, 1, 2
    )


def _accuracies(net: nn.Module, images: Images, recipe: Recipe, threat: Threat) -> tuple[float, float]:
    net.eval()
    device = next(net.parameters()).device
    attack, generator = PGD(steps=10), Generator().manual_seed(recipe.seed)
    clean = robust = 0
    with parametrize.cached():
        for start in range(0, len(images), 500):
            x, y = (part.to(device) for part in images.at(slice(start, start + 500)))
            adv = attack(net, x, y, threat, generator).images
            with torch.no_grad():
                clean += int((net(x).argmax(1) == y).sum())
                robust += int((net(adv).argmax(1) == y).sum())
    return clean / len(images), robust / len(images)
