"""Craft and judge one span of images: the one place where model, attack and images meet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .. import __version__
from ..attacks import Attack, Crafted, mean_log_probability
from ..data import Images
from ..errors import ModelFault
from ..evidence.trial import ShardResult, Trial, crafting_seed
from ..models.contents import uses_only_libraries
from ..models.fast_copy import crafting_copy
from ..models.frozen import frozen_eval, weights_unchanged
from ..models.wrapper import EvalModel
from ..threat import Threat
from .judge import Verdict, graphs_hushed, judge, one_line, seeded, why_no_gradient


@dataclass(frozen=True)
class Shard:
    """Images [start, start + len(images)), crafted once against `source`, judged by every target.

    trials: one a target, in the same order; they differ in the target alone.
    """

    source: EvalModel
    targets: tuple[EvalModel, ...]
    trials: tuple[Trial, ...]
    attack: Attack | None  # None for the clean images
    threat: Threat
    images: Images
    start: int
    device: torch.device

    @property
    def name(self) -> str:
        return f"{self.source.info.name}, {self.trials[0].attack}"

    @property
    def portable(self) -> bool:
        """Whether another process would run the same models: code of a user's may read what it set up in
        this one, which no copy brings along."""
        return all(uses_only_libraries(entry.module) for entry in (self.source, *self.targets))


@dataclass(frozen=True)
class Answer:
    """Tallies by trial key, the crafted images (on the CPU), and the class the source itself sees in each
    where it judged them (-1: its logits are not finite).

    faults: of targets that failed, by trial key; right_under: the source's, where it was asked on clean
    images (see `Verdict`)."""

    tallies: dict[str, ShardResult] = field(default_factory=dict)
    images: Tensor | None = None
    predicted: Tensor | None = None
    faults: Mapping[str, ModelFault] = field(default_factory=dict)
    right_under: Mapping[str, Tensor] = field(default_factory=dict)


def run(shard: Shard) -> Answer:
    """Crafts, checks every image against the threat, and judges on the exact modules in float32.

    A target that fails is named in the answer, and the others judge on. Raises ModelFault where the source
    or the only target fails: where it raises, has the wrong shape of output, or gives non-finite logits on
    clean images; OutsideBall where an attack cheats.
    """
    began = time.perf_counter()
    trial, clean = shard.trials[0], shard.attack is None
    x, y = (part.to(shard.device) for part in shard.images.at(slice(None)))
    cost, seed, judged = Cost(), crafting_seed(trial, shard.start), dict[str, Verdict]()
    with _Resting(shard) as resting:
        resting.refuse(shard.source)
        crafted = _craft(shard, shard.attack, cost, x, y, seed) if shard.attack else Crafted(x)
        adv = crafted.images.detach()
        for target in (one for one in shard.targets if one.digest not in resting.faults):
            with resting.excused(target):
                judged[target.digest] = judge(
                    target,
                    adv,
                    y,
                    classes=shard.images.classes,
                    exact=shard.images.classes_known,
                    seed=seed,
                    clean_from=shard.start if clean else None,
                )
    resting.refuse(shard.source, *(shard.targets if len(shard.targets) == 1 else ()))
    where = SimpleNamespace(
        forwards=cost.forwards,
        backwards=cost.backwards,
        seconds=round(time.perf_counter() - began, 3),
        device=device_name(shard.device),
        threads=torch.get_num_threads(),
        versions=versions(),
    )
    tallies, predicted = dict[str, ShardResult](), None
    right_under: Mapping[str, Tensor] = {}
    for target, own_trial in zip(shard.targets, shard.trials, strict=True):
        if target.digest in resting.faults:
            continue
        verdict, own = judged[target.digest], own_trial.source == own_trial.target
        predicted, right_under = (
            (verdict.seen.cpu(), verdict.right_under) if own else (predicted, right_under)
        )
        stages = {name: as_bits(broken) for name, broken in crafted.stages.items()} if own else {}
        raised = {*verdict.flags, *(crafted.flags if own or shard.source.members else ())}
        tallies[own_trial.key] = ShardResult(
            shard.start, as_bits(verdict.seen == y), stages, tuple(sorted(raised)), **vars(where)
        )
    faults = {t.key: resting.faults[t.target] for t in shard.trials if t.target in resting.faults}
    return Answer(tallies, adv.cpu(), predicted, faults, right_under)


class _Resting:
    """The models of a shard at rest while the block lasts. faults: of those that failed, by digest."""

    def __init__(self, shard: Shard) -> None:
        self.entries = {entry.digest: entry for entry in (shard.source, *shard.targets)}
        self.device = shard.device
        self.faults: dict[str, ModelFault] = {}
        self._stacks: list[tuple[EvalModel, ExitStack]] = []

    def __enter__(self) -> _Resting:
        for entry in self.entries.values():
            with self.excused(entry):
                if entry.fault:
                    raise ModelFault(entry.fault)
                stack = ExitStack()
                stack.enter_context(frozen_eval(entry.module, self.device))
                self._stacks.append((entry, stack))
        return self

    def __exit__(self, *raised: object) -> None:
        for entry, stack in reversed(self._stacks):
            with self.excused(entry):
                stack.close()

    @contextmanager
    def excused(self, entry: EvalModel) -> Iterator[None]:
        """A block whose fault is this model's alone; its first one is kept."""
        try:
            yield
        except ModelFault as fault:
            said, name = str(fault), entry.info.name
            own = fault if said.startswith(name) else type(fault)(f"{name}: {said}")
            self.faults.setdefault(entry.digest, own)

    def refuse(self, *entries: EvalModel) -> None:
        """Raises the fault of the first of these models that has one."""
        for entry in entries:
            if entry.digest in self.faults:
                raise self.faults[entry.digest]


def _craft(shard: Shard, attack: Attack, cost: Cost, x: Tensor, y: Tensor, seed: int) -> Crafted:
    """The attack's images, once they are known to be allowed. It gets copies of images and labels."""
    try:
        with seeded(seed), weights_unchanged(shard.source.module), graphs_hushed():
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
    except (Exception, SystemExit) as error:
        reason = why_no_gradient(shard.source, x)
        raise ModelFault(
            f"{shard.name}: {reason}" if reason else f"{shard.name} raised {one_line(error)}"
        ) from error
    return crafted


class Cost:
    """Counts images passed forward and backward through what `counted` returns."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0

    def counted(self, entry: EvalModel, x: Tensor) -> Any:
        """The entry's module, or for a switch all its members behind one face, counted.

        Networks that this tool made are crafted against through a faster copy.
        """
        if entry.members:
            members = [self.counted(member, x) for member in entry.members]
            return _CountedSwitch(members, entry.info.weights)
        return _Counted(crafting_copy(entry.module, x) if entry.recipe else entry.module, self)


class _Counted(nn.Module):
    def __init__(self, module: nn.Module, cost: Cost) -> None:
        super().__init__()
        self.module = module
        self.cost = cost

    def forward(self, x: Tensor) -> Tensor:
        self.cost.forwards += len(x)
        out: Tensor = self.module(x.clone())  # a model may write into its input
        if isinstance(out, Tensor) and out.is_inference():
            out = out.clone()  # which any attack may go on with
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
