"""Run the epochs of a search or of a training: one loop for scores and for weights."""

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
from ..errors import ModelFault
from ..networks.subnormals import flush_buffers
from ..threat import Threat
from . import resume
from .adversaries import Adversary, Batch, parse_adversary
from .recipe import Recipe

HELD_OUT = 0.02


@dataclass(frozen=True)
class TrainSplit:
    """Hold the images to train on and those to select the kept epoch on; on_test: the latter are test
    images."""

    train: Images
    select: Images
    on_test: bool = False


@dataclass(frozen=True)
class Epoch:
    """Hold one row of the history. loss: mean over the steps; clean, robust: accuracy on the selection
    images, robust under PGD-10; lr: of the last step."""

    epoch: int
    loss: float
    clean: float
    robust: float
    lr: float


EpochCallback = Callable[[Epoch], None]
BeforeStep = Callable[[Generator], None]


def hold_out(train: Images, seed: int) -> tuple[Images, Images]:
    """Split training images into (the rest, 2 % for selection) by the seed."""
    order = torch.randperm(len(train), generator=Generator().manual_seed(seed))
    held = max(1, round(HELD_OUT * len(train)))
    return train.take(order[held:].sort().values), train.take(order[:held].sort().values)


def fit(
    net: nn.Module,
    parameters: Sequence[nn.Parameter],
    split: TrainSplit,
    recipe: Recipe,
    on_epoch: EpochCallback,
    *,
    before_step: BeforeStep = lambda generator: None,
    adversary: Adversary | None = None,
    resume_file: Path | None = None,
) -> list[Epoch]:
    """Minimise the loss on adversarial images over `parameters`; the network ends in the state of the epoch
    that `recipe.select` keeps.

    before_step: called with the generator of the fit before each step's masks are computed. adversary: in
    place of the recipe's. resume_file: written after each epoch and removed at the end; where one of the
    same recipe exists, the fit resumes from it and ends as it would have without the interruption.
    Raises ModelFault where the loss is no longer finite, BadFile for the resume file of another fit.
    """
    adversary = adversary or parse_adversary(recipe.adversary)
    trainer = _Trainer(net, parameters, split, recipe, before_step, adversary)
    if resume_file and resume_file.exists():
        trainer.restore(resume_file)
        for row in trainer.history:
            on_epoch(row)
    gpus = [trainer.device] if trainer.device.type == "cuda" else []
    while len(trainer.history) < recipe.epochs:
        with _deterministic_kernels(), torch.random.fork_rng(devices=gpus):
            torch.manual_seed(recipe.seed + len(trainer.history))  # for what draws globally, such as dropout
            try:
                trainer.run_epoch()
            except ModelFault:
                if resume_file:
                    resume_file.unlink(missing_ok=True)  # the same again would fail again
                raise
        if resume_file:
            trainer.save(resume_file)
        on_epoch(trainer.history[-1])
    net.load_state_dict(trainer.best_state)
    net.eval()
    if resume_file:
        resume_file.unlink(missing_ok=True)
    return trainer.history


@contextmanager
def _deterministic_kernels() -> Iterator[None]:
    """Ask oneDNN for kernels whose results do not depend on the timing of threads."""
    before = torch.backends.mkldnn.deterministic
    torch.backends.mkldnn.deterministic = True  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.deterministic = before


class _Trainer:
    """Hold what a fit carries from epoch to epoch."""

    def __init__(
        self,
        net: nn.Module,
        parameters: Sequence[nn.Parameter],
        split: TrainSplit,
        recipe: Recipe,
        before_step: BeforeStep,
        adversary: Adversary,
    ) -> None:
        self.net, self.parameters, self.split, self.recipe = net, list(parameters), split, recipe
        self.before_step = before_step
        self.device = self.parameters[0].device
        if recipe.channels_last:
            net.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.SGD(
            self.parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.generator = Generator().manual_seed(recipe.seed)
        self.adversary, self.threat = adversary, Threat.parse(recipe.threat)
        self.history: list[Epoch] = []
        self.best, self.best_state = -1.0, net.state_dict()

    def run_epoch(self) -> None:
        """Pass over the training images once, then measure on the selection images."""
        recipe = self.recipe
        self.net.train()
        losses: list[Tensor] = []
        steps = max(1, len(self.split.train) // recipe.batch)
        for step, (x, y) in enumerate(batches(self.split.train, recipe, self.generator)):
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
        # Steps in train mode never read them; eval mode would be slowed, and feels no difference this small.
        flush_buffers(self.net)
        clean, robust = measure_accuracy(self.net, self.split.select, recipe)
        self.history.append(Epoch(len(self.history) + 1, mean, clean, robust, rate))
        score = clean if recipe.adversary == "none" else robust
        if recipe.select == "last" or score >= self.best:
            self.best = score
            self.best_state = {k: v.detach().clone() for k, v in self.net.state_dict().items()}

    def _steps(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Take the optimiser steps on one batch; yield their losses, detached."""
        batch = Batch(self.net, x, y, self.threat, self.generator, self._loss, self.recipe.attack_bn)
        losses = self.adversary.losses(batch)
        while True:
            self.before_step(self.generator)
            # Masks are computed once a step: the cache spans the attack and one backward pass.
            with parametrize.cached(), self._precision():
                loss = next(losses, None)
                if loss is None:
                    return
                gradients = torch.autograd.grad(loss, self.parameters)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            self.optimiser.step()
            yield loss.detach().float()

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits.float(), y, label_smoothing=self.recipe.label_smoothing)

    def _precision(self) -> AbstractContextManager[object]:
        if self.recipe.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def save(self, path: Path) -> None:
        """Write everything that the next epoch depends on."""
        state = {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "noise": getattr(self.adversary, "noise", None),
            "history": [astuple(row) for row in self.history],
            "best": self.best,
            "best_state": self.best_state,
        }
        resume.save(path, self.recipe, state)

    def restore(self, path: Path) -> None:
        """Take up what `save` wrote. Raises BadFile."""
        with resume.restoring(path, self.recipe, self.device) as state:
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.generator.set_state(state["generator"].cpu())
            if state["noise"] is not None:
                self.adversary.noise = state["noise"]  # type: ignore[attr-defined]
            self.history = [Epoch(*row) for row in state["history"]]
            self.best, self.best_state = state["best"], state["best_state"]


def kept_epoch(history: Sequence[Epoch], recipe: Recipe) -> Epoch:
    """Return the epoch whose state `fit` left in the network: of equal ones the later."""
    if recipe.select == "last":
        return history[-1]
    natural = recipe.adversary == "none"
    return max(history, key=lambda row: (row.clean if natural else row.robust, row.epoch))


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Return the learning rate at `progress` in [0, 1) of all steps."""
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "piecewise":
        return recipe.lr * 0.1 ** sum(progress >= milestone for milestone in recipe.milestones())
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
    warmup = 0.3
    return recipe.lr * (progress / warmup if progress < warmup else (1 - progress) / (1 - warmup))


def batches(
    images: Images, recipe: Recipe, generator: Generator, size: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented batches of `size`, or of the recipe's; a last short one is left out, as
    batch norm dislikes it."""
    size = min(size or recipe.batch, len(images))
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(images) - size + 1, size):
        x, y = images.at(order[start : start + size])
        yield (_crop_flip(x, generator) if recipe.augment == "crop-flip" else x), y


def _crop_flip(x: Tensor, generator: Generator, margin: int = 4) -> Tensor:
    """Crop at random out of images padded with `margin` black pixels, and flip horizontally at random."""
    n, _, height, width = x.shape
    padded = pad(x, (margin,) * 4)
    corners = torch.randint(0, 2 * margin + 1, (n, 2), generator=generator)
    rows = corners[:, :1, None] + torch.arange(height)[None, :, None]
    columns = torch.arange(width).expand(n, width)
    flips = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flips, columns.flip(1), columns) + corners[:, 1:]
    cropped = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows, columns[:, None]]
    # Channels-last images would put the whole network in that order, unasked; and torch 2.15's CPU kernels
    # corrupt memory there where a layer has an odd number of channels.
    return cropped.permute(0, 3, 1, 2).contiguous()


def measure_accuracy(net: nn.Module, images: Images, recipe: Recipe) -> tuple[float, float]:
    """Return (clean, robust) accuracy in eval mode, robust under PGD-10 at the recipe's threat."""
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
