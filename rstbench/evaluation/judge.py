"""What a model answers, and the alarms that its answers on clean images raise."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import flags
from ..errors import ModelFault
from ..models.frozen import frozen_eval, untouched
from ..models.normalise import clearly_better, right_under
from ..models.wrapper import EvalModel

SAME = 1e-4  # two runs on one image may differ by this much of the logits' norm before it is noise
# An image alone and in its batch may differ by this much of it: kernels for other sizes round otherwise.
SAME_ALONE, SAME_ALONE_COARSE = 1e-3, 3e-2
ALONE = 4  # images of a shard that are asked alone
SUMS_TO_ONE = 1e-4
NORMALISATIONS = 1000  # the first so many images are asked under other normalisations too


@dataclass(frozen=True)
class Verdict:
    """seen: the class seen in each image, -1 where the logits are not finite, (n,) int64; flags: alarms;
    right_under: of some models, on which clean images they are right under other normalisations."""

    seen: Tensor
    flags: frozenset[str] = frozenset()
    right_under: Mapping[str, Tensor] = field(default_factory=dict)


def judge(
    target: EvalModel, x: Tensor, y: Tensor, *, classes: int, exact: bool, seed: int, clean_from: int | None
) -> Verdict:
    """What `target` sees in images x (n, c, h, w) with labels y (n,).

    classes, exact: how many classes there are, at least or exactly; clean_from: the place of the first image
    where the images are clean, and so tell more about the model. Raises ModelFault for any exception of the
    model's, and for logits of another shape, or not finite on clean images.
    """
    try:
        with seeded(seed), untouched(target.module, target.card.name):
            return _judge(target, x, y, classes, exact, clean_from)
    except ModelFault:
        raise
    except (Exception, SystemExit) as error:
        raise ModelFault(f"{target.card.name} raised {one_line(error)}") from error


def _judge(
    target: EvalModel, x: Tensor, y: Tensor, classes: int, exact: bool, clean_from: int | None
) -> Verdict:
    apart = _asked_apart(target, x, classes, exact) if clean_from is not None else []
    logits = answer(target, x, classes, exact=exact)
    finite = logits.isfinite().all(1)
    # The argmax of NaN is class 0: it must not look robust.
    seen = logits.argmax(1).where(finite, -1)
    if clean_from is None:
        return Verdict(seen, frozenset() if bool(finite.all()) else frozenset({flags.NON_FINITE_LOGITS.name}))
    if not bool(finite.all()):
        raise ModelFault(f"{target.card.name} gives non-finite logits on clean images")
    raised = set()
    if _apart(answer(target, x, classes, exact=exact), logits) > SAME:
        raised.add(flags.RANDOM_OUTPUT.name)
    elif not apart or _hangs_on_batch(target, logits, apart):
        raised.add(flags.BATCH_DEPENDENT.name)
    if float(logits.min()) >= 0 and float((logits.sum(1) - 1).abs().max()) < SUMS_TO_ONE:
        raised.add(flags.PROBABILITIES_NOT_LOGITS.name)
    right = {}
    if target.card.kind == "external" and clean_from < NORMALISATIONS:
        right = right_under(target.module, x, y)
        if clean_from == 0 and clearly_better(right):
            raised.add(flags.NORMALISATION_DOUBTFUL.name)
    return Verdict(seen, frozenset(raised), right)


def _asked_apart(target: EvalModel, x: Tensor, classes: int, exact: bool) -> list[tuple[Tensor, Tensor]]:
    """Places of images and their logits: of some alone, then of all in another order, each from a model that
    has seen no image before. What it does not take is left out: all of it where it takes no single image.

    The places follow no pattern, as a model's own might.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    places, found = order[:ALONE], list[tuple[Tensor, Tensor]]()
    images = [x[place : place + 1] for place in places.tolist()]
    if len(x) == 1:  # one image is no batch: its negative makes one of it
        order, x = torch.tensor([0]), torch.cat([x, 1 - x])
    together = [x[order] if len(x) == len(order) else x]
    with suppress(ModelFault):
        for where, batches in ((places, images), (order, together)):
            with frozen_eval(target.module, x.device), torch.random.fork_rng():
                logits = torch.cat([answer(target, batch, classes, exact=exact) for batch in batches])
            found.append((where, logits[: len(where)]))
    return found


def _hangs_on_batch(target: EvalModel, logits: Tensor, apart: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether images get other logits alone, or in another order, than in their batch."""
    halves = (torch.half, torch.bfloat16)
    coarse = logits.is_cuda or any(weight.dtype in halves for weight in target.module.parameters())
    most = SAME_ALONE_COARSE if coarse else SAME_ALONE
    return any(_apart(found, logits[places]) > most for places, found in apart)


def _apart(found: Tensor, logits: Tensor) -> float:
    """The largest distance of two answers to one image, relative to the norm of its logits."""
    return float(((found - logits).norm(dim=1) / logits.norm(dim=1).clamp_min(1e-12)).max())


def answer(entry: EvalModel, x: Tensor, classes: int, *, exact: bool = True) -> Tensor:
    """Logits (n, classes) of an entry, without gradients. Raises ModelFault for anything else."""
    with torch.no_grad():
        try:
            with graphs_hushed():
                logits = entry.module(x.clone())  # a model may write into its input
        except (Exception, SystemExit) as error:
            raise ModelFault(
                f"{entry.card.name} raised on images of shape {tuple(x.shape[1:])}: {one_line(error)}"
            ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelFault(f"{entry.card.name}: wanted logits of shape ({len(x)}, {classes}), got {got}")
    if logits.shape[1] < classes or (exact and logits.shape[1] != classes):
        least = "" if exact else "at least "
        raise ModelFault(f"{entry.card.name} has {logits.shape[1]} classes, the data {least}{classes}")
    return logits.float()


def why_no_gradient(entry: EvalModel, x: Tensor) -> str:
    """What to tell of a model that lets no gradient through to its images; '' of one that does."""
    images, quantised = x[:1].clone().requires_grad_(), _is_quantised(entry.module)
    try:
        with torch.enable_grad():
            logits = entry.module(images)
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


def _is_quantised(module: nn.Module) -> bool:
    return any(".quantized" in type(part).__module__ for part in module.modules())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generator seeded for foreign code that reads it, and put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def graphs_hushed() -> Iterator[None]:
    """torch.fx prints a traceback before it raises; what is printed meanwhile is kept only where nothing is
    raised, for the error says it."""
    said = io.StringIO()
    with redirect_stderr(said):
        yield
    sys.stderr.write(said.getvalue())


def one_line(error: BaseException) -> str:
    """An exception as a line for a person."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
