"""From questions to evidence: which shards are missing, who runs them, what was answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..adapters.entry import Entry
from ..attacks import parse_attack
from ..data import Images
from ..errors import BadRequest, ModelFault
from ..threat import Threat
from .executors import Executor, Local
from .progress import Progress, Silent, Stage
from .shard import Answer, Shard, run
from .store import Store
from .trial import CLEAN, Trial

BATCH = {"cpu": 100, "cuda": 500}
Keep = Callable[[Answer], None]


@dataclass(frozen=True)
class Question:
    """Images crafted against `source` by `attack` within `threat`, judged by each of `targets`."""

    source: Entry
    targets: tuple[Entry, ...]
    attack: str = CLEAN
    threat: Threat | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.source.card.name, self.attack, str(self.threat or ""))))

    def trials(self, data: Images, batch: int) -> tuple[Trial, ...]:
        """One trial a target. Clean images depend on no threat and no seed."""
        clean = self.attack == CLEAN
        common = Trial(
            source=self.source.digest,
            target="",
            attack=self.attack if clean else parse_attack(self.attack)[0],
            threat="" if clean else str(self.threat),
            data=data.digest,
            batch=batch,
            seed=0 if clean else self.seed,
        )
        return tuple(
            replace(common, target=t.digest, source=t.digest if clean else common.source)
            for t in self.targets
        )


def clean(entry: Entry) -> Question:
    """The question how a model does on the images as they are."""
    return Question(entry, (entry,))


@dataclass(frozen=True)
class Setting:
    """What all questions of one run share. images: exactly those that are asked about."""

    data: Images
    batch: int
    device: torch.device
    executor: Executor = field(default_factory=Local)


def pick_device(text: str) -> torch.device:
    """'auto', 'cpu', 'cuda', 'cuda:1' as a device that is there. Raises BadRequest."""
    kind, colon, index = text.partition(":")
    number = index.isascii() and index.isdigit()
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not number)):
        raise BadRequest(f"--device reads auto, cpu, cuda or cuda:1, got {text!r}")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise BadRequest(f"no device {text!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device(text)


def pick_batch(text: str, device: torch.device) -> int:
    """'auto' (100 images on a CPU, 500 on a GPU) or a whole number. Raises BadRequest."""
    if text == "auto":
        return BATCH[device.type]
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise BadRequest(f"--batch-size reads auto or a number of images, got {text!r}")
    return int(text)


def whole_shards(images: int, batch: int, available: int) -> int:
    """`images` rounded up to whole shards, as far as there are images."""
    return min(available, -(-images // batch) * batch)


def ask(
    questions: Sequence[Question],
    setting: Setting,
    store: Store,
    progress: Progress | None = None,
    keep: Keep | None = None,
    has: Callable[[Trial, int], bool] = lambda trial, start: True,
) -> list[ModelFault]:
    """Answers what the store does not know yet, each shard written as it is done; returns what failed.

    A model that fails on clean images is asked nothing more. `keep` sees every answer with its
    images; `has` says whether it still holds those of a shard, else the shard is run again.
    """
    progress = progress or Silent()
    faults: list[ModelFault] = []
    broken: set[str] = set()
    for question in questions:
        if question.source.digest in broken:
            continue
        targets = tuple(t for t in question.targets if t.digest not in broken)
        question = replace(question, targets=targets)
        shards = list(_missing(question, setting, store, has))
        if not targets or not shards:
            continue
        with progress.stage(question.name, len(setting.data), "image") as stage:
            done = len(setting.data) - sum(len(shard.images) for shard in shards)
            stage.advance(done)
            try:
                _answer(shards, question, setting, store, stage, keep)
            except ModelFault as fault:
                faults.append(fault)
                if question.attack == CLEAN:
                    broken.add(question.source.digest)
    return faults


def _answer(
    shards: list[Shard], question: Question, setting: Setting, store: Store, stage: Stage, keep: Keep | None
) -> None:
    names = {entry.digest: entry.card for entry in (question.source, *question.targets)}
    label = "clean" if question.attack == CLEAN else "robust"
    weights = dict(zip(question.source.card.members, question.source.card.weights, strict=True))
    weights = weights or {question.source.digest: 1.0}
    right = seen = 0.0
    for answer in setting.executor.map(run, shards):
        for trial in answer.shard.trials:
            tally = answer.tallies[trial.key]
            right += weights.get(trial.target, 0) * tally.bits.count("1")
            cards = {trial.source: names[trial.source], trial.target: names[trial.target]}
            if not _knows(store.read(trial.key), tally.start, len(tally.bits)):
                store.add(trial, tally, cards, setting.data.name)
        seen += len(answer.shard.images)
        if keep is not None:
            keep(answer)
        stage.advance(len(answer.shard.images), **{label: right / seen})


def _missing(
    question: Question, setting: Setting, store: Store, has: Callable[[Trial, int], bool]
) -> Iterator[Shard]:
    """The shards that some target has not judged yet, with those targets only."""
    trials = question.trials(setting.data, setting.batch)
    known = {trial.key: store.read(trial.key) for trial in trials}
    attack = None if question.attack == CLEAN else parse_attack(question.attack)[1]
    for start in range(0, len(setting.data), setting.batch):
        images = setting.data.take(torch.arange(start, min(start + setting.batch, len(setting.data))))
        lacking = [
            (target, trial)
            for target, trial in zip(question.targets, trials, strict=True)
            if not _knows(known[trial.key], start, len(images)) or not has(trial, start)
        ]
        if lacking:
            yield Shard(
                question.source,
                tuple(target for target, _ in lacking),
                tuple(trial for _, trial in lacking),
                attack,
                question.threat or Threat.parse("Linf:0"),
                images,
                start,
                setting.device,
            )


def _knows(record: object, start: int, length: int) -> bool:
    tallies = getattr(record, "tallies", ())
    return any(tally.start == start and len(tally.bits) >= length for tally in tallies)
