"""Judge images: the classes a model predicts, and the flags that its answers on clean images raise."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .. import flags
from ..errors import ModelFault, typed_line
from ..models.frozen import frozen_eval, weights_unchanged
from ..models.normalise import clearly_better, right_under
from ..models.wrapper import EvalModel
from .memory import ALL, halving, is_out_of_memory, passed
from .slopes import has_shattered_gradient

REPEAT_TOLERANCE = 1e-4  # of the logits' norm: by more, two runs on one image tell a random output
# An image alone and in its batch may differ by this much of it: kernels for other sizes round otherwise.
BATCH_TOLERANCE, BATCH_TOLERANCE_COARSE = 1e-3, 3e-2
COUNT_ALONE = 4  # images of a shard that are judged alone too
SUMS_TO_ONE = 1e-4
COUNT_NORMALISED = 1000  # the first images, judged under other normalisations too


@dataclass(frozen=True)
class Verdict:
    """What one model answers on the images of a shard.

    predicted: the class of each image, -1 where the logits are not finite, (n,) int64; flags: see `flags`;
    right_under: for some models, on which clean images they are right under other normalisations; rows: how
    many images it judged at once.
    """

    predicted: Tensor
    flags: frozenset[str] = frozenset()
    right_under: Mapping[str, Tensor] = field(default_factory=dict)
    rows: int = 0


def judge(
    target: EvalModel, x: Tensor, y: Tensor, *, classes: int, exact: bool, seed: int, clean_from: int | None
) -> Verdict:
    """Return what `target` predicts on images x (n, c, h, w) with labels y (n,).

    classes, exact: how many classes there are, at least or exactly; clean_from: the index of the first image
    where the images are clean, and so tell more about the model. Fewer are judged at once where there is no
    memory for all. Raises ModelFault for any exception of the model's, and for logits of another shape, or
    not finite on clean images.
    """

    def attempt(rows: int) -> Verdict:
        with seeded(seed), weights_unchanged(target.module, target.info.name):
            # More than there are images, where memory suffices: a single one is judged in a batch of two too.
            return _judge(target, x, y, classes, exact, clean_from, ALL if rows == len(x) else rows)

    try:
        verdict, rows = halving(attempt, len(x))
        return replace(verdict, rows=rows)
    except ModelFault:
        raise
    except (Exception, SystemExit) as error:
        raise ModelFault(f"{target.info.name} raised {typed_line(error)}") from error


def _judge(
    target: EvalModel, x: Tensor, y: Tensor, classes: int, exact: bool, clean_from: int | None, rows: int
) -> Verdict:
    def logits_of(images: Tensor) -> Tensor:
        return _predict(target, images, classes, exact, rows)

    alone = _logits_apart(target, x, logits_of) if clean_from is not None else []
    logits = logits_of(x)
    finite = logits.isfinite().all(1)
    # The argmax of NaN is class 0: it must not look robust.
    predicted = logits.argmax(1).where(finite, -1)
    if clean_from is None:
        return Verdict(
            predicted, frozenset() if bool(finite.all()) else frozenset({flags.NON_FINITE_LOGITS.name})
        )
    if not bool(finite.all()):
        raise ModelFault(f"{target.info.name} gives non-finite logits on clean images")
    raised = set()
    if relative_distance(logits_of(x), logits) > REPEAT_TOLERANCE:
        raised.add(flags.RANDOM_OUTPUT.name)
    else:
        if not alone or _depends_on_batch(target, logits, alone):
            raised.add(flags.BATCH_DEPENDENT.name)
        if has_shattered_gradient(target.module, x, coarse=is_coarse(target, x)):
            raised.add(flags.SHATTERED_GRADIENT.name)
    if float(logits.min()) >= 0 and float((logits.sum(1) - 1).abs().max()) < SUMS_TO_ONE:
        raised.add(flags.PROBABILITIES_NOT_LOGITS.name)
    right = {}
    if target.info.kind == "external" and clean_from < COUNT_NORMALISED:
        right = right_under(target.module, x, y, rows)
        if clean_from == 0 and clearly_better(right):
            raised.add(flags.NORMALISATION_DOUBTFUL.name)
    return Verdict(predicted, frozenset(raised), right)


def _logits_apart(
    target: EvalModel, x: Tensor, logits_of: Callable[[Tensor], Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Return (indices, logits) of some images alone, then of all in another order, from a fresh model each.

    What the model does not take is left out: all of it where it takes no single image. The indices follow no
    pattern, as a model's own might.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    some, pairs = order[:COUNT_ALONE], list[tuple[Tensor, Tensor]]()
    images = [x[index : index + 1] for index in some.tolist()]
    if len(x) == 1:  # one image is no batch: its negative makes one of it
        order, x = torch.tensor([0]), torch.cat([x, 1 - x])
    together = [x[order] if len(x) == len(order) else x]
    with suppress(ModelFault):
        for indices, batches in ((some, images), (order, together)):
            with frozen_eval(target.module, x.device), torch.random.fork_rng():
                logits = torch.cat([logits_of(batch) for batch in batches])
            pairs.append((indices, logits[: len(indices)]))
    return pairs


def _depends_on_batch(target: EvalModel, logits: Tensor, alone: list[tuple[Tensor, Tensor]]) -> bool:
    """Return whether images get other logits alone, or in another order, than in their batch."""
    tolerance = batch_tolerance(target, logits)
    return any(relative_distance(other, logits[indices]) > tolerance for indices, other in alone)


def batch_tolerance(target: EvalModel, x: Tensor) -> float:
    """Return by how much logits may differ that kernels for other sizes compute, of their norm."""
    return BATCH_TOLERANCE_COARSE if is_coarse(target, x) else BATCH_TOLERANCE


def is_coarse(target: EvalModel, x: Tensor) -> bool:
    """Return whether a model rounds much where x lies: on a GPU, or in half precision."""
    halves = (torch.half, torch.bfloat16)
    return x.is_cuda or any(weight.dtype in halves for weight in target.module.parameters())


def relative_distance(other: Tensor, logits: Tensor) -> float:
    """Return the largest distance of two answers to one image, relative to the norm of its logits."""
    return float(((other - logits).norm(dim=1) / logits.norm(dim=1).clamp_min(1e-12)).max())


def predict(model: EvalModel, x: Tensor, classes: int, *, exact: bool = True) -> Tensor:
    """Return the logits (n, classes) of a model, without gradients, from fewer images at a time where memory
    does not suffice. Raises ModelFault for anything else."""
    return halving(lambda rows: _predict(model, x, classes, exact, rows), len(x))[0]


def _predict(model: EvalModel, x: Tensor, classes: int, exact: bool, rows: int) -> Tensor:
    name = model.info.name
    with torch.no_grad():
        try:
            with fx_output_held():
                logits = passed(model.module, x, rows)
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            raise ModelFault(
                f"{name} raised on images of shape {tuple(x.shape[1:])}: {typed_line(error)}"
            ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelFault(f"{name}: wanted logits of shape ({len(x)}, {classes}), got {got}")
    if logits.shape[1] < classes or (exact and logits.shape[1] != classes):
        least = "" if exact else "at least "
        raise ModelFault(f"{name} has {logits.shape[1]} classes, the data {least}{classes}")
    return logits.float()


def why_no_gradient(model: EvalModel, x: Tensor) -> str:
    """Return why a model lets no gradient through to its images; '' where it does."""
    images = x[:1].clone().requires_grad_()
    quantised = any(".quantized" in type(part).__module__ for part in model.module.modules())
    try:
        with torch.enable_grad():
            logits = model.module(images)
    except (Exception, SystemExit):
        if not quantised:
            return ""  # another trouble than its gradient
        logits = None
    try:
        torch.autograd.grad(logits.sum(), images)
        return ""
    except (Exception, SystemExit):
        kind = "is quantised and " if quantised else ""
        return f"it {kind}lets no gradient through; an attack that needs none: autoattack:attacks=square"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generator for foreign code that reads it, and restore it afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def fx_output_held() -> Iterator[None]:
    """Hold back what is printed, and drop it where the block raises: torch.fx prints a traceback first."""
    printed = io.StringIO()
    with redirect_stderr(printed):
        yield
    sys.stderr.write(printed.getvalue())
