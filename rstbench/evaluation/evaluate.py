"""From questions to evidence: find the shards that are missing, run them, store their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..attacks import AttackSpec
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

BATCH = {"cpu": 100, "cuda": 500}  # images of a shard where none are named, by the type of the device
Keep = Callable[[Shard, Answer], None]


@dataclass(frozen=True)
class Question:
    """Images crafted against `source` by `attack` within `threat`, judged by each of `targets`.

    attack: None for the clean images, which depend on no threat and no seed.
    """

    source: EvalModel
    targets: tuple[EvalModel, ...]
    attack: AttackSpec | None = None
    threat: Threat | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        attack = f"{self.attack} {self.threat}" if self.attack else CLEAN
        return f"{self.source.card.name} {attack}"

    def trials(self, data: Images, batch: int) -> tuple[Trial, ...]:
        """Return one trial a target."""
        clean = self.attack is None
        return tuple(
            Trial(
                source=target.digest if clean else self.source.digest,
                target=target.digest,
                attack=str(self.attack or CLEAN),
                threat="" if clean else str(self.threat),
                data=data.digest,
                batch=batch,
                seed=0 if clean else self.seed,
            )
            for target in self.targets
        )


def clean(model: EvalModel) -> Question:
    """Ask how a model does on the images as they are."""
    return Question(model, (model,))


@dataclass(frozen=True)
class EvalSetting:
    """What all questions of one run share. data: exactly the images that are attacked."""

    data: Images
    batch: int
    device: torch.device
    executor: Executor = field(default_factory=Local)


def pick_device(text: str) -> torch.device:
    """Read 'auto', 'cpu', 'cuda', 'cuda:1' as a device that exists. Raises BadRequest."""
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
    """Read 'auto' (see `BATCH`) or a whole number. Raises BadRequest."""
    if text == "auto":
        return BATCH[device.type]
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise BadRequest(f"--batch-size reads auto or a number of images, got {text!r}")
    return int(text)


def whole_shards(images: int, batch: int, available: int) -> int:
    """Round `images` up to whole shards, as far as there are images."""
    return min(available, -(-images // batch) * batch)


def run_questions(
    questions: Sequence[Question],
    setting: EvalSetting,
    store: Store,
    progress: Progress | None = None,
    keep: Sequence[Keep] = (),
    has: Callable[[Trial, int], bool] = lambda trial, start: True,
) -> list[ModelFault]:
    """Answer what the store does not hold yet, each shard written as it is done; return what failed.

    A model that fails on clean images is asked nothing more. Each of `keep` sees every answer with its
    images before it is stored; `has` says whether those of a shard are still kept, else it is run again.
    """
    evaluation = _Evaluation(setting, store, progress or Silent(), keep, has)
    executor = setting.executor
    # Clean images take no time, and tell which models are asked no more.
    serial = [q for q in questions if q.attack is None or executor.width == 1]
    for question in serial:
        evaluation.run([question], question.name, Local())
    parallel = [q for q in questions if q.attack is not None and executor.width > 1]
    evaluation.run(parallel, f"{len(parallel)} attacks, {executor.width} at a time", executor)
    return evaluation.faults


@dataclass
class _Evaluation:
    """A run over questions. broken: digests of models that failed on clean images."""

    setting: EvalSetting
    store: Store
    progress: Progress
    keep: Sequence[Keep]
    has: Callable[[Trial, int], bool]
    faults: list[ModelFault] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def run(self, questions: Sequence[Question], title: str, executor: Executor) -> None:
        """Run the missing shards of all questions as one stage, as many at a time as the executor takes."""
        setting, failed, failed_trials = self.setting, set[int](), set[str]()
        open_questions = [
            replace(question, targets=tuple(t for t in question.targets if t.digest not in self.broken))
            for question in questions
            if question.source.digest not in self.broken
        ]
        gaps = [
            (index, gap)
            for index, question in enumerate(open_questions)
            for gap in _gaps(question, setting, self.store, self.has)
        ]
        if not gaps:
            return
        question_of: dict[int, int] = {}

        def shards() -> Iterator[Shard]:
            for index, gap in gaps:
                missing = tuple(pair for pair in gap.missing if pair[1].key not in failed_trials)
                if index not in failed and missing:  # what has failed is asked no more
                    shard = _shard(open_questions[index], setting, replace(gap, missing=missing))
                    question_of[id(shard)] = index
                    yield shard

        accuracies = [_RunningAccuracy(question) for question in open_questions]
        total = len(open_questions) * len(setting.data)
        with self.progress.stage(title, total, "image") as stage:
            stage.advance(total - sum(gap.length for _, gap in gaps))
            for shard, answer in executor.map(run, shards()):
                index = question_of.pop(id(shard))
                if isinstance(answer, WorkerDied):
                    answer = WorkerDied(f"{shard.name}: {answer}")
                if isinstance(answer, ModelFault):
                    if index not in failed:
                        self._fail(answer, open_questions[index])
                    failed.add(index)
                    continue
                for key, fault in answer.faults.items():
                    if key not in failed_trials:
                        self._fail(fault, open_questions[index])
                    failed_trials.add(key)
                self._write(shard, answer, open_questions[index])
                stage.advance(len(shard.images), **accuracies[index].add(shard, answer))
        for question, accuracy in zip(open_questions, accuracies, strict=True):
            if warning := accuracy.normalisation_warning():
                self.progress.note(f"{question.source.card.name}: {warning}")

    def _fail(self, fault: ModelFault, question: Question) -> None:
        if question.attack is None:
            self.broken.add(question.source.digest)
        if str(fault) not in map(str, self.faults):  # a judge may fail in many questions alike
            self.faults.append(fault)
            run_log.add(self.store.root, "fault", str(fault))

    def _write(self, shard: Shard, answer: Answer, question: Question) -> None:
        for keep in self.keep:
            keep(shard, answer)
        cards = {model.digest: model.card for model in (question.source, *question.targets)}
        for trial in (trial for trial in shard.trials if trial.key in answer.results):
            result = answer.results[trial.key]
            involved = {trial.source: cards[trial.source], trial.target: cards[trial.target]}
            if not _holds(self.store.read(trial.key), result.start, len(result.bits)):
                self.store.add(trial, result, involved, self.setting.data.name)


class _RunningAccuracy:
    """The accuracy of a question so far, and under other normalisations of clean images."""

    def __init__(self, question: Question) -> None:
        card = question.source.card
        self.label = "clean" if question.attack is None else "robust"
        self.weights = dict(zip(card.members, card.weights, strict=True)) or {question.source.digest: 1.0}
        self.correct = self.images = 0.0
        self.right_under: list[Mapping[str, Tensor]] = []

    def add(self, shard: Shard, answer: Answer) -> dict[str, float]:
        for trial in shard.trials:
            if trial.key in answer.results:
                bits = answer.results[trial.key].bits
                self.correct += self.weights.get(trial.target, 0) * bits.count("1")
        self.images += len(shard.images)
        self.right_under += [answer.right_under] if answer.right_under else []
        return {self.label: self.correct / self.images}

    def normalisation_warning(self) -> str:
        """Return what to say of another normalisation that suits the model better; '' where none does."""
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
    missing: tuple[tuple[EvalModel, Trial], ...]


def _gaps(
    question: Question, setting: EvalSetting, store: Store, has: Callable[[Trial, int], bool]
) -> Iterator[_Gap]:
    trials = question.trials(setting.data, setting.batch)
    stored = {trial.key: store.read(trial.key) for trial in trials}
    for start in range(0, len(setting.data), setting.batch):
        length = min(setting.batch, len(setting.data) - start)
        missing = tuple(
            (target, trial)
            for target, trial in zip(question.targets, trials, strict=True)
            if not _holds(stored[trial.key], start, length) or not has(trial, start)
        )
        if missing:
            yield _Gap(start, length, missing)


def _shard(question: Question, setting: EvalSetting, gap: _Gap) -> Shard:
    return Shard(
        question.source,
        tuple(target for target, _ in gap.missing),
        tuple(trial for _, trial in gap.missing),
        question.attack.attack if question.attack else None,
        question.threat,
        setting.data.take(torch.arange(gap.start, gap.start + gap.length)),
        gap.start,
        setting.device,
    )


def _holds(record: TrialResult | None, start: int, length: int) -> bool:
    shards = record.shards if record else ()
    return any(shard.start == start and len(shard.bits) >= length for shard in shards)
