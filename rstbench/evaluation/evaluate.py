"""Run what tasks lack: find the shards without a stored result, run them and store their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..data import Images
from ..errors import BadRequest, ModelFault
from ..evidence import run_log
from ..evidence.part import ALL_SHARDS, Shards
from ..evidence.shard_reports import PROGRESS_FOLDER, clear_reports, watching
from ..evidence.store import Store
from ..evidence.trial import EXACT, FAST, Trial
from ..models.wrapper import EvalModel
from ..progress import Progress, Silent
from .copies import CopyPlanner, CopySetting
from .executors import Executor, ExecutorFault, Local
from .running import RunningAccuracy
from .shard import Answer, Shard, run
from .task import Task
from .workers import at_once, load_of, seconds_for, threads_for

OnAnswer = Callable[[Shard, Answer], None]
IsKept = Callable[[Trial, int], bool]
# Estimated seconds of tasks that come first where several run at once, and whose copies are not timed.
SHORT = 3.0
CLEAN_WORTH = 60.0  # of judging clean images, from which the models are sent to others
MOST_OPEN = 10_000  # questions of which is remembered what is stored
MOST_SPANS = 128  # of images that are held beside the data


@dataclass(frozen=True)
class EvalSetting:
    """Hold what all tasks of one run share.

    data: exactly the images that are attacked; crafting: what is asked for (see `crafting.settle`);
    timeout: seconds that a shard may take, 0 for any; shards: those that are asked here, where several
    machines share the questions.
    """

    data: Images
    batch: int
    device: torch.device
    executor: Executor = field(default_factory=Local)
    crafting: str = EXACT
    timeout: float = 0.0
    shards: Shards = ALL_SHARDS

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield (first image, number of images) of each shard that is asked here."""
        for number, start in enumerate(range(0, len(self.data), self.batch)):
            if self.shards.holds(number):
                yield start, min(self.batch, len(self.data) - start)


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


def run_tasks(
    tasks: Sequence[Task],
    setting: EvalSetting,
    store: Store,
    progress: Progress | None = None,
    on_answer: Sequence[OnAnswer] = (),
    is_kept: IsKept = lambda trial, start: True,
    update: Callable[[], None] = lambda: None,
    returned: int | None = None,
) -> list[ModelFault]:
    """Run what the store does not hold yet, write each shard as it is done, and return what failed.

    A model that fails on clean images is attacked no more. Each of `on_answer` is called with every answer
    before it is stored, `update` after, and each second while workers work; a shard of which `is_kept` is
    false is run again. returned: answers hold the crafted ones of so many first images, by default all.
    """
    clear_reports(store.root)
    executor, planner = setting.executor, CopyPlanner(setting.device)
    here = executor if setting.timeout else Local()  # nothing can be ended that runs in this process
    progress = progress or Silent()
    evaluation = _Evaluation(setting, store, progress, on_answer, is_kept, planner, update, returned)
    # Clean images tell which models are attacked no more.
    clean, others = ([task for task in tasks if task.is_clean == wanted] for wanted in (True, False))
    groups = [(*item, own) for own in (clean, others) for item in _by_threads(own, setting).items()]
    for threads, group, own in groups:
        seconds = [evaluation.estimate(task) for task in group]
        width = at_once(executor, threads, sum(seconds))
        if width == 1 or (own is clean and sum(seconds) < CLEAN_WORTH):
            for task in group:
                alone = executor.width > 1 or own is clean
                evaluation.run([task], task.name, here if alone else executor)
            continue
        # Short ones first, for there is something to look at then; the longest after them, so that no worker
        # waits long for the last.
        keys = [-each if each > SHORT else -math.inf for each in seconds]
        group = [group[index] for index in sorted(range(len(group)), key=keys.__getitem__)]
        evaluation.run(group, f"{len(group)} questions, {width} at a time", executor, width)
    return evaluation.faults


def _by_threads(tasks: Sequence[Task], setting: EvalSetting) -> dict[int, list[Task]]:
    """Return the tasks by the threads that each has, in their order."""
    found: dict[int, list[Task]] = {}
    for task in tasks:
        found.setdefault(_threads(task, setting), []).append(task)
    return found


def _threads(task: Task, setting: EvalSetting) -> int:
    """Return the threads of torch for a task, 0 for what the process has."""
    return 0 if setting.device.type == "cuda" else threads_for(_load(task, setting))


def _load(task: Task, setting: EvalSetting) -> float:
    _, height, width = setting.data.shape
    return load_of([task.source.module], height * width)


@dataclass
class _Evaluation:
    """A run over tasks. broken: digests of models that failed on clean images; spans: images by place."""

    setting: EvalSetting
    store: Store
    progress: Progress
    on_answer: Sequence[OnAnswer]
    is_kept: IsKept
    planner: CopyPlanner
    update: Callable[[], None]
    returned: int | None
    faults: list[ModelFault] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    spans: dict[tuple[int, int], Images] = field(default_factory=dict)
    stored: dict[str, dict[int, int]] = field(default_factory=dict)

    def estimate(self, task: Task) -> float:
        """Return about how many seconds what is missing of a task takes."""
        missing = sum(gap.length for gap in gaps(task, self.setting, self.store, self.is_kept))
        return seconds_for(task.passes, missing, _load(task, self.setting))

    def run(self, tasks: Sequence[Task], title: str, executor: Executor, width: int = 1) -> None:
        """Run the missing shards of all tasks as one stage, `width` at a time."""
        setting, failed, failed_trials = self.setting, set[int](), set[str]()
        open_tasks = [
            replace(task, targets=tuple(t for t in task.targets if t.digest not in self.broken))
            for task in tasks
            if task.source.digest not in self.broken
        ]
        open_gaps = [
            (index, gap)
            for index, task in enumerate(open_tasks)
            for gap in gaps(task, setting, self.store, self.is_kept)
        ]
        if not open_gaps:
            return
        task_of, copies, rows = dict[int, int](), dict[int, CopySetting](), dict[int, int]()

        def shards() -> Iterator[Shard]:
            for index, gap in open_gaps:
                missing = tuple(pair for pair in gap.missing if pair[1].key not in failed_trials)
                if index not in failed and missing:  # what has failed is asked no more
                    if open_tasks[index].crafting == FAST and index not in copies:
                        copies[index] = self._copies(open_tasks[index], gap)
                    left = replace(gap, missing=missing)
                    shard = self._shard(open_tasks[index], left, copies.get(index), rows.get(index, 0))
                    task_of[id(shard)] = index
                    yield shard

        accuracies = [RunningAccuracy(task) for task in open_tasks]
        total = len(open_tasks) * sum(length for _, length in setting.spans())
        with self.progress.stage(title, total, "image") as stage, watching(self.store.root, stage):
            stage.advance(total - sum(gap.length for _, gap in open_gaps))
            for shard, answer in executor.map(
                run, shards(), at_once=width, idle=self.update, timeout=setting.timeout
            ):
                index = task_of.pop(id(shard))
                if isinstance(answer, ExecutorFault):
                    answer = ExecutorFault(f"{shard.name}: {answer}")
                if isinstance(answer, ModelFault):
                    if index not in failed:
                        self._fail(answer, open_tasks[index])
                    failed.add(index)
                    continue
                for key, fault in answer.faults.items():
                    if key not in failed_trials:
                        self._fail(fault, open_tasks[index])
                    failed_trials.add(key)
                self._write(shard, answer, open_tasks[index])
                self.update()
                if answer.rows and index not in rows:
                    rows[index] = answer.rows  # the next shards begin with as many
                    most = f"{answer.rows} of {len(shard.images)} images pass at once"
                    self.progress.note(f"{shard.name}: {most}, for there is no memory for more")
                stage.advance(len(shard.images), **accuracies[index].add(shard, answer))
        for task, accuracy in zip(open_tasks, accuracies, strict=True):
            if warning := accuracy.normalisation_warning():
                self.progress.note(f"{task.source.info.name}: {warning}")

    def _shard(self, task: Task, gap: Gap, copies: CopySetting | None, rows: int) -> Shard:
        setting, start = self.setting, gap.start
        return Shard(
            task.source,
            tuple(target for target, _ in gap.missing),
            tuple(trial for _, trial in gap.missing),
            task.attack.attack if task.attack else None,
            task.threat,
            self._images(start, gap.length),
            start,
            setting.device,
            _threads(task, setting),
            copies,
            self.store.root / PROGRESS_FOLDER,
            task.certificate.certificate if task.certificate else None,
            rows,
            None if self.returned is None else max(0, self.returned - start),
        )

    def _images(self, start: int, length: int) -> Images:
        """Return some images: the same object for all questions, for it is sent to workers once."""
        if (start, length) not in self.spans:
            self.spans = self.spans if len(self.spans) < MOST_SPANS else {}
            self.spans[start, length] = self.setting.data.take(torch.arange(start, start + length))
        return self.spans[start, length]

    def _copies(self, task: Task, gap: Gap) -> CopySetting:
        """Return how the source of a fast task is copied: as in the shards that are stored."""
        stored = (self.store.read(trial.key) for trial in task.trials(self.setting.data, self.setting.batch))
        images, _ = self.setting.data.at(slice(gap.start, gap.start + gap.length))
        # Where the question is short, to choose takes longer than it saves; where machines share its shards,
        # they would choose differently; and a model that may hang is not timed in this process.
        seconds = seconds_for(task.passes, len(self.setting.data), _load(task, self.setting))
        threads, alone = _threads(task, self.setting), self.setting.shards.count == 1
        timed = seconds > SHORT and alone and not self.setting.timeout
        return self.planner.setting(task.source, filter(None, stored), images, threads, timed=timed)

    def _fail(self, fault: ModelFault, task: Task) -> None:
        if task.is_clean:
            self.broken.add(task.source.digest)
        if str(fault) not in map(str, self.faults):  # a judge may fail in many tasks alike
            self.faults.append(fault)
            run_log.add(self.store.root, "fault", str(fault))

    def _write(self, shard: Shard, answer: Answer, task: Task) -> None:
        for on_answer in self.on_answer:
            on_answer(shard, answer)
        infos = {model.digest: model.info for model in (task.source, *task.targets)}
        for trial in (trial for trial in shard.trials if trial.key in answer.results):
            result = answer.results[trial.key]
            involved = {trial.source: infos[trial.source], trial.target: infos[trial.target]}
            if self._stored(trial.key).get(result.start, 0) < len(result.bits):
                self.store.add(trial, result, involved, self.setting.data.name)
                self.stored[trial.key][result.start] = len(result.bits)

    def _stored(self, key: str) -> dict[int, int]:
        """Return what `_answered` does, read once while a question is open."""
        if key not in self.stored:
            self.stored = self.stored if len(self.stored) < MOST_OPEN else {}
            self.stored[key] = _answered(self.store, key)
        return self.stored[key]


@dataclass(frozen=True)
class Gap:
    """Images [start, start + length) that some targets have not judged yet."""

    start: int
    length: int
    missing: tuple[tuple[EvalModel, Trial], ...]


def gaps(task: Task, setting: EvalSetting, store: Store, is_kept: IsKept) -> Iterator[Gap]:
    """Yield the spans of images without a stored answer by every judge, or whose images are not kept."""
    trials = task.trials(setting.data, setting.batch)
    answered = {trial.key: _answered(store, trial.key) for trial in trials}
    for start, length in setting.spans():
        missing = tuple(
            (target, trial)
            for target, trial in zip(task.targets, trials, strict=True)
            if answered[trial.key].get(start, 0) < length or not is_kept(trial, start)
        )
        if missing:
            yield Gap(start, length, missing)


def _answered(store: Store, key: str) -> dict[int, int]:
    """Return how many images from each first one have an answer."""
    record = store.read(key)
    return {shard.start: len(shard.bits) for shard in record.shards} if record else {}
