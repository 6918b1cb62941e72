"""Craft and judge one shard of images: the one place where model, attack and images meet."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ..attacks import Attack, Crafted
from ..certificates import Certificate
from ..data import Images
from ..errors import ModelFault, typed_line
from ..evidence.shard_reports import reporting
from ..evidence.trial import COUNTEREXAMPLE, ShardResult, Trial, crafting_seed
from ..models.frozen import frozen_eval, weights_unchanged
from ..models.wrapper import EvalModel
from ..threat import Threat
from .circumstances import device_name, versions
from .copies import CopySetting
from .counting import PassCounter
from .judge import Verdict, fx_output_held, judge, seeded, why_no_gradient
from .memory import halving
from .proving import broken_by, counterexamples, prove
from .watch import Watch
from .workers import torch_threads


@dataclass(frozen=True)
class Shard:
    """Images [start, start + len(images)), crafted once against `source`, judged by every target.

    trials: one a target, in the same order; they differ in the target alone. attack and threat: None for the
    clean images. threads: those of torch, 0 for what the process has; copies: how the source is copied for
    fast crafting, None for exact; progress_folder: where the shard tells how far it is; certificate: what the
    source, the only target, is asked instead of an attack; rows: how many images pass through the source at
    once, 0 for all as long as there is memory; returned: how many of its first crafted images the answer
    holds, None for all.
    """

    source: EvalModel
    targets: tuple[EvalModel, ...]
    trials: tuple[Trial, ...]
    attack: Attack | None
    threat: Threat | None
    images: Images
    start: int
    device: torch.device
    threads: int = 0
    copies: CopySetting | None = None
    progress_folder: Path | None = None
    certificate: Certificate | None = None
    rows: int = 0
    returned: int | None = None

    @property
    def name(self) -> str:
        return f"{self.source.info.name}, {self.trials[0].attack}"

    @property
    def is_watched(self) -> bool:
        """Return whether the model is watched: in the first shard of an attack on itself."""
        return self.start == 0 and any(trial.source == trial.target for trial in self.trials)


@dataclass(frozen=True)
class Answer:
    """Hold the results of a shard.

    results: by trial key; images: the crafted ones, on the CPU, or a certificate's counterexamples (see
    `counterexamples`); predicted: the class the source itself sees in each, where it judged them (-1: its
    logits are not finite); faults: of targets that failed, by trial key; right_under: the source's on clean
    images (see `Verdict`); rows: how many images passed through the source at once, 0 where all did.
    """

    results: dict[str, ShardResult] = field(default_factory=dict)
    images: Tensor | None = None
    predicted: Tensor | None = None
    faults: Mapping[str, ModelFault] = field(default_factory=dict)
    right_under: Mapping[str, Tensor] = field(default_factory=dict)
    rows: int = 0


def run(shard: Shard) -> Answer:
    """Craft, check every image against the threat, and judge on the exact modules in float32.

    A target that fails is named in the answer, and the others judge on. Raises ModelFault where the source
    or the only target fails: where it raises, has the wrong shape of output, or gives non-finite logits on
    clean images; OutsideBall where an attack leaves the threat model.
    """
    with torch_threads(shard.copies.threads if shard.copies else shard.threads):
        return _certify(shard, shard.certificate) if shard.certificate else _run(shard)


def _run(shard: Shard) -> Answer:
    began = time.perf_counter()
    x, y = (part.to(shard.device) for part in shard.images.at(slice(None)))
    seed, counter, rows = crafting_seed(shard.trials[0], shard.start), PassCounter(), len(x)
    watch: Watch | None = None
    with _FrozenModels(shard) as frozen:
        frozen.raise_fault(shard.source)
        crafted = Crafted(x)
        if shard.attack is not None and shard.threat is not None:
            if shard.is_watched:
                watch = Watch(shard.source, x, shard.images.classes, seed)
            name, key = f"{shard.name} {shard.threat}", shard.trials[0].key
            with reporting(shard.progress_folder, key, name, shard.start, len(x)):
                crafted, counter, rows = _craft(shard, shard.attack, shard.threat, x, y, seed)
        adv = crafted.images.detach()
        verdicts = _judged(shard, frozen, adv, y, seed)
        if watch:
            watch.look(adv)
    frozen.raise_fault(shard.source, *(shard.targets if len(shard.targets) == 1 else ()))
    measured: dict[str, Any] = {
        "forwards": counter.forwards,
        "backwards": counter.backwards,
        "copy": shard.copies.as_plain() if shard.copies else {},
        **_circumstances(shard, began),
    }
    doubts = watch.doubts() if watch else set()
    results, predicted = dict[str, ShardResult](), None
    right_under: Mapping[str, Tensor] = {}
    for target, trial in zip(shard.targets, shard.trials, strict=True):
        if target.digest in frozen.faults:
            continue
        verdict, own = verdicts[target.digest], trial.source == trial.target
        if own:
            predicted, right_under = verdict.predicted.cpu(), verdict.right_under
        stages = {name: as_bits(broken) for name, broken in crafted.stages.items()} if own else {}
        flags = {*verdict.flags, *(crafted.flags if own or shard.source.members else ())}
        flags |= doubts if own else set()
        passed = {"crafting": rows, "judging": verdict.rows}
        results[trial.key] = ShardResult(
            shard.start, as_bits(verdict.predicted == y), stages, tuple(sorted(flags)),
            rows={what: count for what, count in passed.items() if count < len(x)},
            **measured,
        )  # fmt: skip
    faults = {t.key: frozen.faults[t.target] for t in shard.trials if t.target in frozen.faults}
    images = adv[: shard.returned].cpu().clone()  # a view would be sent with all that it is a part of
    return Answer(results, images, predicted, faults, right_under, rows if rows < len(x) else 0)


def _judged(shard: Shard, frozen: _FrozenModels, adv: Tensor, y: Tensor, seed: int) -> dict[str, Verdict]:
    """Return the verdicts by digest, of the targets that do not fail."""
    verdicts, images = dict[str, Verdict](), shard.images
    asked = partial(judge, classes=images.classes, exact=images.classes_known, seed=seed)
    for target in (target for target in shard.targets if target.digest not in frozen.faults):
        with frozen.keep_fault(target):
            clean_from = shard.start if shard.attack is None else None
            verdicts[target.digest] = asked(target, adv, y, clean_from=clean_from)
    return verdicts


def _certify(shard: Shard, certificate: Certificate) -> Answer:
    """Prove what can be proved of the source; judge the images that a certificate finds instead."""
    began, trial, source = time.perf_counter(), shard.trials[0], shard.source
    x, y = (part.to(shard.device) for part in shard.images.at(slice(None)))
    threat = Threat.parse(trial.threat)
    with _FrozenModels(shard) as frozen, frozen.keep_fault(source):
        proved = prove(source, certificate, x, y, threat, shard.name)
        broken = broken_by(source, proved, x, y, threat, shard.images)
    frozen.raise_fault(source)
    proof = {"eps": proved.eps_proved, "error": proved.error_bound}
    result = ShardResult(
        shard.start,
        as_bits(proved.proved),
        {COUNTEREXAMPLE: as_bits(broken)} if bool(broken.any()) else {},
        proof={k: v for k, v in proof.items() if math.isfinite(v)},  # the error is not, where values overflow
        **_circumstances(shard, began, *getattr(certificate, "packages", ())),
    )
    return Answer({trial.key: result}, counterexamples(proved, broken, x, shard.returned))


def _circumstances(shard: Shard, began: float, *packages: str) -> dict[str, Any]:
    """Return on what a shard was answered, with the versions of further packages, and how long that took."""
    return {
        "seconds": round(time.perf_counter() - began, 3),
        "device": device_name(shard.device),
        "threads": torch.get_num_threads(),
        "versions": versions(*packages),
    }


class _FrozenModels:
    """The models of a shard, each frozen while the block lasts. faults: of those that failed, by digest."""

    def __init__(self, shard: Shard) -> None:
        self.models = {model.digest: model for model in (shard.source, *shard.targets)}
        self.device = shard.device
        self.faults: dict[str, ModelFault] = {}
        self._stacks: list[tuple[EvalModel, ExitStack]] = []

    def __enter__(self) -> _FrozenModels:
        for model in self.models.values():
            with self.keep_fault(model):
                if model.fault:
                    raise ModelFault(model.fault)
                stack = ExitStack()
                stack.enter_context(frozen_eval(model.module, self.device))
                self._stacks.append((model, stack))
        return self

    def __exit__(self, *raised: object) -> None:
        for model, stack in reversed(self._stacks):
            with self.keep_fault(model):
                stack.close()

    @contextmanager
    def keep_fault(self, model: EvalModel) -> Iterator[None]:
        """Run a block whose fault is this model's alone, and keep its first one."""
        try:
            yield
        except ModelFault as fault:
            message, name = str(fault), model.info.name
            own = fault if message.startswith(name) else type(fault)(f"{name}: {message}")
            self.faults.setdefault(model.digest, own)

    def raise_fault(self, *models: EvalModel) -> None:
        """Raise the fault of the first of these models that has one."""
        for model in models:
            if model.digest in self.faults:
                raise self.faults[model.digest]


def _craft(
    shard: Shard, attack: Attack, threat: Threat, x: Tensor, y: Tensor, seed: int
) -> tuple[Crafted, PassCounter, int]:
    """Run the attack on copies of images and labels, and check what it returns.

    Where there is no memory for all images at once it runs again with half of them in a pass: what it draws
    at random it draws for all, so that its images differ by rounding alone. Returns what it crafted, the
    passes of the run that did, and how many images passed at once.
    """

    def attempt(rows: int) -> tuple[Crafted, PassCounter]:
        with seeded(seed), weights_unchanged(shard.source.module), fx_output_held():
            counter = PassCounter(rows)
            model = counter.counted(shard.source, x, shard.copies.plans if shard.copies else None)
            generator = Generator().manual_seed(seed)
            return attack(model, x.clone(), y.clone(), threat, generator), counter

    try:
        (crafted, counter), rows = halving(attempt, min(shard.rows, len(x)) or len(x))
        if not isinstance(crafted, Crafted) or not isinstance(crafted.images, Tensor):
            raise ModelFault(f"wanted Crafted(images), got {type(crafted).__name__}")
        crafted = replace(crafted, images=threat.pull_back(x, crafted.images.detach()))
        threat.check(x, crafted.images)
        broken = {name: as_bits(part) for name, part in crafted.stages.items()}
        if any(len(bits) != len(x) for bits in broken.values()):
            raise ModelFault(f"wanted {len(x)} bits for each stage")
    except ModelFault as error:
        raise type(error)(f"{shard.name}: {error}") from error
    except (Exception, SystemExit) as error:
        reason = why_no_gradient(shard.source, x)
        raise ModelFault(
            f"{shard.name}: {reason}" if reason else f"{shard.name} raised {typed_line(error)}"
        ) from error
    return crafted, counter, rows


def as_bits(values: Tensor) -> str:
    """Return a bool tensor as text, '1' for true."""
    return "".join("1" if value else "0" for value in values.tolist())
