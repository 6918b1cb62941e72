"""Craft and judge one span of images: the one place where model, attack and images meet."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .. import __version__
from ..adapters.accelerate import crafting_copy
from ..adapters.entry import Entry, at_rest, untouched
from ..adapters.normalise import fits_better
from ..attacks import Attack, Crafted, mean_log_probability
from ..data import Images
from ..errors import ModelFault
from ..threat import Threat
from .trial import CLEAN, Tally, Trial, crafting_seed

SAME = 1e-4  # two runs on one image may differ by this much of the logits' norm before it is noise
SUMS_TO_ONE = 1e-4


@dataclass(frozen=True)
class Shard:
    """Images [start, start + len(images)), crafted once against `source`, judged by every target.

    trials: one a target, in the same order; they differ in the target alone.
    """

    source: Entry
    targets: tuple[Entry, ...]
    trials: tuple[Trial, ...]
    attack: Attack | None  # None for the clean images
    threat: Threat
    images: Images
    start: int
    device: torch.device

    @property
    def name(self) -> str:
        return f"{self.source.card.name}, {self.trials[0].attack}"


@dataclass(frozen=True)
class Answer:
    """Tallies by trial key, the crafted images (on the CPU), and the class the source itself sees in each
    where it judged them (-1: its logits are not finite)."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    images: Tensor | None = None
    predicted: Tensor | None = None


def run(shard: Shard) -> Answer:
    """Crafts, checks every image against the threat, and judges on the exact modules in float32.

    Raises ModelFault where a model raises, has the wrong shape of output, or gives non-finite logits
    on clean images; OutsideBall where an attack cheats.
    """
    began = time.perf_counter()
    trial = shard.trials[0]
    x, y = (part.to(shard.device) for part in shard.images.at(slice(None)))
    with ExitStack() as rest:
        for entry in {id(entry.module): entry for entry in (shard.source, *shard.targets)}.values():
            rest.enter_context(at_rest(entry.module, shard.device))
        cost, seed = Cost(), crafting_seed(trial, shard.start)
        crafted = _craft(shard, shard.attack, cost, x, y, seed) if shard.attack else Crafted(x)
        adv = crafted.images.detach()
        judged = [_judge(target, adv, y, shard, seed) for target in shard.targets]
    where = SimpleNamespace(
        forwards=cost.forwards,
        backwards=cost.backwards,
        seconds=round(time.perf_counter() - began, 3),
        device=device_name(shard.device),
        threads=torch.get_num_threads(),
        versions=versions(),
    )
    tallies, predicted = {}, None
    for own_trial, (seen, flags) in zip(shard.trials, judged, strict=True):
        own = own_trial.source == own_trial.target
        predicted = seen.cpu() if own else predicted
        stages = {name: as_bits(broken) for name, broken in crafted.stages.items()} if own else {}
        raised = {*flags, *(crafted.flags if own or shard.source.members else ())}
        tallies[own_trial.key] = Tally(
            shard.start, as_bits(seen == y), stages, tuple(sorted(raised)), **vars(where)
        )
    return Answer(tallies, adv.cpu(), predicted)


def _craft(shard: Shard, attack: Attack, cost: Cost, x: Tensor, y: Tensor, seed: int) -> Crafted:
    """The attack's images, once they are known to be allowed. It gets copies of images and labels."""
    try:
        with _seeded(seed), untouched(shard.source.module), _graphs_hushed():
            model = cost.counted(shard.source, x)
            generator = Generator().manual_seed(seed)
            crafted = attack(model, x.clone(), y.clone(), shard.threat, generator)
        if not isinstance(crafted, Crafted) or not isinstance(crafted.images, Tensor):
            raise ModelFault(f"wanted Crafted(images), got {type(crafted).__name__}")
        shard.threat.check(x, crafted.images.detach())
        broken = {name: as_bits(part) for name, part in crafted.stages.items()}
        if any(len(bits) != len(x) for bits in broken.values()):
            raise ModelFault(f"wanted {len(x)} bits for each stage")
    except ModelFault as error:
        raise type(error)(f"{shard.name}: {error}") from error
    except Exception as error:
        raise ModelFault(f"{shard.name} raised {_one_line(error)}") from error
    return crafted


def _judge(target: Entry, adv: Tensor, y: Tensor, shard: Shard, seed: int) -> tuple[Tensor, set[str]]:
    """(the class seen in each image, alarms)."""
    clean = shard.trials[0].attack == CLEAN
    classes, exact = shard.images.classes, shard.images.classes_known
    with _seeded(seed):
        logits = answer(target, adv, classes, exact=exact)
        again = answer(target, adv, classes, exact=exact) if clean else logits
    finite = logits.isfinite().all(1)
    flags = set()
    if not bool(finite.all()):
        if clean:
            raise ModelFault(f"{target.card.name} gives non-finite logits on clean images")
        flags.add("non-finite-logits")
    if clean:
        if float(((again - logits).norm(dim=1) / logits.norm(dim=1).clamp_min(1e-12)).max()) > SAME:
            flags.add("random-output")
        if target.card.kind == "external" and shard.start == 0 and fits_better(target.module, adv, y):
            flags.add("normalisation-doubtful")
        if float(logits.min()) >= 0 and float((logits.sum(1) - 1).abs().max()) < SUMS_TO_ONE:
            flags.add("probabilities-not-logits")
    # The argmax of NaN is class 0: it must not look robust.
    return logits.argmax(1).where(finite, -1), flags


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generator seeded for foreign code that reads it, and put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _graphs_hushed() -> Iterator[None]:
    """torch.fx prints a traceback before it raises; what is printed meanwhile is kept only where nothing is
    raised, for the error says it."""
    said = io.StringIO()
    with redirect_stderr(said):
        yield
    sys.stderr.write(said.getvalue())


def answer(entry: Entry, x: Tensor, classes: int, *, exact: bool = True) -> Tensor:
    """Logits (n, classes) of an entry, without gradients. Raises ModelFault for anything else."""
    with torch.no_grad():
        try:
            with _graphs_hushed():
                logits = entry.module(x.clone())  # a model may write into its input
        except Exception as error:
            raise ModelFault(
                f"{entry.card.name} raised on images of shape {tuple(x.shape[1:])}: {_one_line(error)}"
            ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelFault(f"{entry.card.name}: wanted logits of shape ({len(x)}, {classes}), got {got}")
    if logits.shape[1] < classes or (exact and logits.shape[1] != classes):
        least = "" if exact else "at least "
        raise ModelFault(f"{entry.card.name} has {logits.shape[1]} classes, the data {least}{classes}")
    return logits.float()


class Cost:
    """Counts images passed forward and backward through what `counted` returns."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0

    def counted(self, entry: Entry, x: Tensor) -> Any:
        """The entry's module, or for a switch all its members behind one face, counted.

        Networks that this tool made are crafted against through a faster copy.
        """
        if entry.members:
            members = [self.counted(member, x) for member in entry.members]
            return _CountedSwitch(members, entry.card.weights)
        return _Counted(crafting_copy(entry.module, x) if entry.recipe else entry.module, self)


class _Counted(nn.Module):
    def __init__(self, module: nn.Module, cost: Cost) -> None:
        super().__init__()
        self.module = module
        self.cost = cost

    def forward(self, x: Tensor) -> Tensor:
        self.cost.forwards += len(x)
        out: Tensor = self.module(x.clone())  # a model may write into its input
        if isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(self._count_backward)
        return out

    def _count_backward(self, gradient: Tensor) -> None:
        self.cost.backwards += len(gradient)


@dataclass(frozen=True)
class _CountedSwitch:
    """A switch as an attack sees it: members, weights, and as a callable its mean log-probability."""

    members: Sequence[_Counted]
    weights: Sequence[float]

    def __call__(self, x: Tensor) -> Tensor:
        return mean_log_probability(self)(x)


def as_bits(values: Tensor) -> str:
    """A bool tensor as text, '1' for true."""
    return "".join("1" if value else "0" for value in values.tolist())


def device_name(device: torch.device) -> str:
    """'cpu', or the name of the GPU."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {"rstbench": __version__, "torch": torch.__version__, "pyautoattack": _version("pyautoattack")}


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
