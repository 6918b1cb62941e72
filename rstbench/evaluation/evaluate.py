"""From questions to evidence: which shards are missing, who runs them, what was answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..attacks import parse_attack
from ..data import Images
from ..errors import BadRequest, ModelFault
from ..evidence import run_log
from ..evidence.store import Store
from ..evidence.trial import CLEAN, Trial, TrialResult
from ..models.normalise import OWN, better_by_pairs
from ..models.wrapper import EvalModel
from ..progress import Progress, Silent
from ..threat import Threat
from .executors import Executor, Local, WorkerDied
from .shard import Answer, Shard, run

BATCH = {"cpu": 100, "cuda": 500}
Keep = Callable[[Shard, Answer], None]


@dataclass(frozen=True)
class Question:
    """Images crafted against `source` by `attack` within `threat`, judged by each of `targets`."""

    source: EvalModel
    targets: tuple[EvalModel, ...]
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


def clean(entry: EvalModel) -> Question:
    """The question how a model does on the images as they are."""
    return Question(entry, (entry,))


@dataclass(frozen=True)
class EvalSetting:
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


def run_questions(
    questions: Sequence[Question],
    setting: EvalSetting,
    store: Store,
    progress: Progress | None = None,
    keep: Sequence[Keep] = (),
    has: Callable[[Trial, int], bool] = lambda trial, start: True,
) -> list[ModelFault]:
    """Answers what the store does not know yet, each shard written as it is done; returns what failed.

    A model that fails on clean images is asked nothing more. Each of `keep` sees every answer with its
    images before it counts; `has` says whether those of a shard are still held, else it is run again.
    """
    asking = _Asking(setting, store, progress or Silent(), keep, has)
    executor = setting.executor
    # Clean images take no time, and tell who is asked no more.
    alone = [q for q in questions if q.attack == CLEAN or executor.width == 1]
    for question in alone:
        asking.ask([question], question.name, Local())
    together = [q for q in questions if q.attack != CLEAN and executor.width > 1]
    asking.ask(together, f"{len(together)} attacks, {executor.width} at a time", executor)
    return asking.faults


@dataclass
class _Asking:
    """Questions under way. broken: models that failed on clean images."""

    setting: EvalSetting
    store: Store
    progress: Progress
    keep: Sequence[Keep]
    has: Callable[[Trial, int], bool]
    faults: list[ModelFault] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def ask(self, questions: Sequence[Question], name: str, executor: Executor) -> None:
        """One stage: the shards of all questions, as many at a time as the executor takes."""
        setting, failed, lost = self.setting, set[int](), set[str]()
        open_questions = [
            replace(question, targets=tuple(t for t in question.targets if t.digest not in self.broken))
            for question in questions
            if question.source.digest not in self.broken
        ]
        gaps = [
            (place, gap)
            for place, question in enumerate(open_questions)
            for gap in _gaps(question, setting, self.store, self.has)
        ]
        if not gaps:
            return
        owner: dict[int, int] = {}

        def shards() -> Iterator[Shard]:
            for place, gap in gaps:
                left = tuple(one for one in gap.lacking if one[1].key not in lost)
                if place not in failed and left:  # what has failed is asked no more
                    shard = _shard(open_questions[place], setting, replace(gap, lacking=left))
                    owner[id(shard)] = place
                    yield shard

        score = {place: _Score(question) for place, question in enumerate(open_questions)}
        total = len(open_questions) * len(setting.data)
        with self.progress.stage(name, total, "image") as stage:
            stage.advance(total - sum(gap.length for _, gap in gaps))
            for shard, answer in executor.map(run, shards()):
                place = owner.pop(id(shard))
                if isinstance(answer, WorkerDied):
                    answer = WorkerDied(f"{shard.name}: {answer}")
                if isinstance(answer, ModelFault):
                    if place not in failed:
                        self._fail(answer, open_questions[place])
                    failed.add(place)
                    continue
                for key, fault in answer.faults.items():
                    if key not in lost:
                        self._fail(fault, open_questions[place])
                    lost.add(key)
                self._write(shard, answer, open_questions[place])
                stage.advance(len(shard.images), **score[place].add(shard, answer))
        for place, question in enumerate(open_questions):
            if text := score[place].doubt():
                self.progress.note(f"{question.source.card.name}: {text}")

    def _fail(self, fault: ModelFault, question: Question) -> None:
        if question.attack == CLEAN:
            self.broken.add(question.source.digest)
        if str(fault) not in map(str, self.faults):  # a judge may fail in many questions alike
            self.faults.append(fault)
            run_log.add(self.store.root, "fault", str(fault))

    def _write(self, shard: Shard, answer: Answer, question: Question) -> None:
        for keep in self.keep:
            keep(shard, answer)
        cards = {entry.digest: entry.card for entry in (question.source, *question.targets)}
        for trial in (trial for trial in shard.trials if trial.key in answer.tallies):
            tally = answer.tallies[trial.key]
            both = {trial.source: cards[trial.source], trial.target: cards[trial.target]}
            if not _knows(self.store.read(trial.key), tally.start, len(tally.bits)):
                self.store.add(trial, tally, both, self.setting.data.name)


class _Score:
    """The accuracy of a question so far, for the eye, and under other normalisations, for the doubt."""

    def __init__(self, question: Question) -> None:
        card = question.source.card
        self.label = "clean" if question.attack == CLEAN else "robust"
        self.weights = dict(zip(card.members, card.weights, strict=True)) or {question.source.digest: 1.0}
        self.right = self.seen = 0.0
        self.right_under: list[Mapping[str, Tensor]] = []

    def add(self, shard: Shard, answer: Answer) -> dict[str, float]:
        for trial in shard.trials:
            if trial.key in answer.tallies:
                bits = answer.tallies[trial.key].bits
                self.right += self.weights.get(trial.target, 0) * bits.count("1")
        self.seen += len(shard.images)
        self.right_under += [answer.right_under] if answer.right_under else []
        return {self.label: self.right / self.seen}

    def doubt(self) -> str:
        """What to tell of another normalisation that suits the model better; '' where none does."""
        if not self.right_under:
            return ""
        known = set.intersection(*(set(under) for under in self.right_under))
        joined = {name: torch.cat([under[name] for under in self.right_under]) for name in sorted(known)}
        name = better_by_pairs(joined)
        if not name:
            return ""
        own, other = (f"{100 * float(joined[key].float().mean()):.1f} %" for key in (OWN, name))
        how = "without normalisation" if name == "none" else f"with [normalize={name}]"
        return (
            f"right on {own} of {len(joined[OWN])} clean images as it stands, on {other} {how}; "
            f"was it trained on other pixels?"
        )


@dataclass(frozen=True)
class _Gap:
    """Images [start, start + length) that some targets have not judged yet."""

    start: int
    length: int
    lacking: tuple[tuple[EvalModel, Trial], ...]


def _gaps(
    question: Question, setting: EvalSetting, store: Store, has: Callable[[Trial, int], bool]
) -> Iterator[_Gap]:
    trials = question.trials(setting.data, setting.batch)
    known = {trial.key: store.read(trial.key) for trial in trials}
    for start in range(0, len(setting.data), setting.batch):
        length = min(setting.batch, len(setting.data) - start)
        lacking = tuple(
            (target, trial)
            for target, trial in zip(question.targets, trials, strict=True)
            if not _knows(known[trial.key], start, length) or not has(trial, start)
        )
        if lacking:
            yield _Gap(start, length, lacking)


def _shard(question: Question, setting: EvalSetting, gap: _Gap) -> Shard:
    return Shard(
        question.source,
        tuple(target for target, _ in gap.lacking),
        tuple(trial for _, trial in gap.lacking),
        None if question.attack == CLEAN else parse_attack(question.attack)[1],
        question.threat or Threat.parse("Linf:0"),
        setting.data.take(torch.arange(gap.start, gap.start + gap.length)),
        gap.start,
        setting.device,
    )


def _knows(record: TrialResult | None, start: int, length: int) -> bool:
    """Whether a record holds the shard from `start` on."""
    shards = record.shards if record else ()
    return any(shard.start == start and len(shard.bits) >= length for shard in shards)
