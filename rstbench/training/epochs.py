"""The epochs of a search or of a training: one loop for scores and for weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils import parametrize

from ..attacks import PGD
from ..data import Images
from ..errors import BadFile, ModelFault
from ..threat import Threat
from . import resume
from .adversaries import Adversary, Batch, parse_adversary
from .recipe import Recipe

HELD_OUT = 0.02


@dataclass(frozen=True)
class TrainSplit:
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


EpochCallback = Callable[[Epoch], None]
BeforeStep = Callable[[Generator], None]


def hold_out(train: Images, seed: int) -> tuple[Images, Images]:
    """(the rest, 2 % of the training images), chosen by the seed."""
    order = torch.randperm(len(train), generator=Generator().manual_seed(seed))
    held = max(1, round(HELD_OUT * len(train)))
    return train.take(order[held:].sort().values), train.take(order[:held].sort().values)


def fit(
    net: nn.Module,
    learnt: Sequence[nn.Parameter],
    lesson: TrainSplit,
    recipe: Recipe,
    watch: EpochCallback,
    *,
    before_step: BeforeStep = lambda generator: None,
    adversary: Adversary | None = None,
    diary: Path | None = None,
) -> list[Epoch]:
    """Minimises the loss on adversarial images over the parameters `learnt`; the network ends in the
    state of the epoch that `recipe.select` keeps.

    before_step: called with the generator of the fit before each step's masks are computed. adversary: in
    place of the recipe's. diary: a file that is written after each
    epoch and removed at the end; where one of the same recipe is found, the fit goes on from it and ends
    as it would have without the interruption.
    Raises ModelFault where the loss is no longer finite, BadFile for a diary of another fit.
    """
    run = _Run(net, learnt, lesson, recipe, before_step, adversary or parse_adversary(recipe.adversary))
    if diary and diary.exists():
        run.restore(diary)
        for row in run.history:
            watch(row)
    while len(run.history) < recipe.epochs:
        with _repeatable(), torch.random.fork_rng(devices=_gpus(run.device)):
            torch.manual_seed(recipe.seed + len(run.history))  # for what draws globally, such as dropout
            try:
                run.epoch()
            except ModelFault:
                if diary:
                    diary.unlink(missing_ok=True)  # the same again would fail again
                raise
        if diary:
            run.save(diary)
        watch(run.history[-1])
    net.load_state_dict(run.best_state)
    net.eval()
    if diary:
        diary.unlink(missing_ok=True)
    return run.history


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


@contextmanager
def _repeatable() -> Iterator[None]:
    """Asks oneDNN for kernels whose results do not depend on the timing of threads."""
    before = torch.backends.mkldnn.deterministic
    torch.backends.mkldnn.deterministic = True  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.deterministic = before


class _Run:
    """A fit under way: what is carried from epoch to epoch."""

    def __init__(
        self,
        net: nn.Module,
        learnt: Sequence[nn.Parameter],
        lesson: TrainSplit,
        recipe: Recipe,
        before_step: BeforeStep,
        adversary: Adversary,
    ) -> None:
        self.net, self.learnt, self.lesson, self.recipe = net, list(learnt), lesson, recipe
        self.before_step = before_step
        self.device = self.learnt[0].device
        if recipe.channels_last:
            net.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.SGD(
            self.learnt, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.generator = Generator().manual_seed(recipe.seed)
        self.adversary, self.threat = adversary, Threat.parse(recipe.threat)
        self.history: list[Epoch] = []
        self.best, self.best_state = -1.0, net.state_dict()

    def epoch(self) -> None:
        """One pass over the training images, then the selection images."""
        recipe = self.recipe
        self.net.train()
        losses: list[Tensor] = []
        steps = max(1, len(self.lesson.train) // recipe.batch)
        for step, (x, y) in enumerate(batches(self.lesson.train, recipe, self.generator)):
            rate = learning_rate(recipe, (len(self.history) + step / steps) / recipe.epochs)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            losses += self._steps(x.to(self.device), y.to(self.device))
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise ModelFault(
                f"the loss is {mean} in epoch {len(self.history) + 1}; try a lower lr than {recipe.lr:g}, "
                f"or a network with norm"
            )
        self.before_step(self.generator)
        clean, robust = measured(self.net, self.lesson.select, recipe)
        self.history.append(Epoch(len(self.history) + 1, mean, clean, robust, rate))
        score = clean if recipe.adversary == "none" else robust
        if recipe.select == "last" or score >= self.best:
            self.best = score
            self.best_state = {k: v.detach().clone() for k, v in self.net.state_dict().items()}

    def _steps(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """The optimiser steps on one batch; yields their losses, detached."""
        batch = Batch(self.net, x, y, self.threat, self.generator, self._loss, self.recipe.attack_bn)
        losses = self.adversary.losses(batch)
        while True:
            self.before_step(self.generator)
            # Masks are computed once a step: the cache spans the attack and one backward pass.
            with parametrize.cached(), self._precision():
                loss = next(losses, None)
                if loss is None:
                    return
                gradients = torch.autograd.grad(loss, self.learnt)
            for parameter, gradient in zip(self.learnt, gradients, strict=True):
                parameter.grad = gradient
            self.optimiser.step()
            yield loss.detach().float()

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits.float(), y, label_smoothing=self.recipe.label_smoothing)

    def _precision(self) -> AbstractContextManager[object]:
        if self.recipe.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def save(self, diary: Path) -> None:
        """Writes everything that the next epoch depends on."""
        state = {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "noise": getattr(self.adversary, "noise", None),
            "history": [astuple(row) for row in self.history],
            "best": self.best,
            "best_state": self.best_state,
        }
        resume.save(diary, self.recipe, state)

    def restore(self, diary: Path) -> None:
        """Takes up what `save` wrote. Raises BadFile."""
        state = resume.load(diary, self.recipe, self.device)
        try:
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.generator.set_state(state["generator"].cpu())
            if state["noise"] is not None:
                self.adversary.noise = state["noise"]  # type: ignore[attr-defined]
            self.history = [Epoch(*row) for row in state["history"]]
            self.best, self.best_state = state["best"], state["best_state"]
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise BadFile(f"{diary} is damaged; delete it: {str(error).splitlines()[0]}") from error


def kept_epoch(history: Sequence[Epoch], recipe: Recipe) -> Epoch:
    """The epoch whose state `fit` left in the network: of equal ones the later."""
    if recipe.select == "last":
        return history[-1]
    natural = recipe.adversary == "none"
    return max(history, key=lambda row: (row.clean if natural else row.robust, row.epoch))


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate at `progress` in [0, 1) of all steps."""
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "piecewise":
        return recipe.lr * 0.1 ** sum(progress >= point for point in recipe.drop_points())
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
    warm = 0.3
    return recipe.lr * (progress / warm if progress < warm else (1 - progress) / (1 - warm))


def batches(
    images: Images, recipe: Recipe, generator: Generator, size: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented whole batches of `size`, or of the recipe's; the last short one is left out, as
    batch norm dislikes it."""
    size = min(size or recipe.batch, len(images))
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
    picked = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows, columns[:, None]]
    # Channels-last images would put the whole network in that order, unasked; and torch 2.15's CPU kernels
    # corrupt memory there where a layer has an odd number of channels.
    return picked.permute(0, 3, 1, 2).contiguous()


def measured(net: nn.Module, images: Images, recipe: Recipe) -> tuple[float, float]:
    """(clean, robust) accuracy on these images, in eval mode, robust under PGD-10 at the recipe's threat."""
    net.eval()
    device, threat = next(net.parameters()).device, Threat.parse(recipe.threat)
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
