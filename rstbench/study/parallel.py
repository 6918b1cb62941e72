"""Make the tickets and networks of many jobs, one after the other or several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch

from ..errors import ModelFault
from ..evaluation.executors import Executor
from ..evaluation.workers import WORTH, at_once, torch_threads
from ..progress import Silent
from .build import Builder, Network
from .jobs import Job

SOON = 10.0  # estimated seconds of a network that is attacked before longer ones are made


@dataclass
class BuildResult:
    """on_fault: called with each fault at once; several: whether the run makes more than one network; made:
    networks by file; faults: what could not be made."""

    on_fault: Callable[[str], None]
    several: bool
    made: dict[Path, Network] = field(default_factory=dict)
    faults: dict[Path, ModelFault] = field(default_factory=dict)

    def fail(self, job: Job, reason: object) -> None:
        self.faults[job.path] = ModelFault(f"{job.name}: {reason}")
        self.on_fault(str(self.faults[job.path]))


def soon_made(jobs: Mapping[int, Sequence[Job]], builder: Builder) -> dict[int, list[Job]]:
    """Return of each seed the jobs of those tables that take seconds, where the others take much longer.

    Tables are taken whole, for what one of them makes is judged by one another, and need no other job.
    """
    seconds = {job.path: builder.estimate(job) for of_seed in jobs.values() for job in of_seed}
    long = {
        job.family
        for of_seed in jobs.values()
        for job in of_seed
        if seconds[job.path] > SOON or job.needs in seconds
    }
    soon = {seed: [job for job in of_seed if job.family not in long] for seed, of_seed in jobs.items()}
    paths = [job.path for of_seed in soon.values() for job in of_seed]
    if not paths or sum(seconds.values()) - sum(seconds[path] for path in paths) < WORTH:
        return {}
    return soon


def make_all(
    jobs: Sequence[Job],
    builder: Builder,
    executor: Executor,
    result: BuildResult,
    idle: Callable[[], None] = lambda: None,
) -> BuildResult:
    """Make the jobs, which come in an order in which each finds what it needs, several at a time.

    Threads follow from the network: what one of several jobs makes does not depend on how many are made at
    once; a single job has those of the process. Raises BadRequest; what fails while learning is in the
    result, with everything that would begin from it. What the result holds already is not made again.
    idle: called after each network, and each second in which workers make some.
    """
    known = {*result.made, *result.faults}
    makings = [
        _Making(job, builder.threads(job) if result.several else 0) for job in jobs if job.path not in known
    ]
    missing = [making for making in makings if not making.job.path.exists()]
    width = at_once(
        executor,
        max((making.threads for making in missing), default=1),
        sum(builder.estimate(making.job) for making in missing),
    )
    if width > 1 and len(missing) > 1:  # in this process each network shows its own progress
        _make_in_parallel(missing, builder, executor, width, result, idle)
    for making in makings:
        job = making.job
        if job.path not in result.faults and not _blocked(job, result):
            try:
                with torch_threads(making.threads):
                    result.made[job.path] = builder.make(job)
            except ModelFault as fault:
                result.fail(job, fault)
            idle()
    return result


@dataclass(frozen=True)
class _Making:
    """A job with the threads it has, 0 for those of the process."""

    job: Job
    threads: int

    @property
    def folder(self) -> Path:
        """Return where its file is written."""
        return self.job.path.parent


def _blocked(job: Job, result: BuildResult) -> bool:
    """Return whether what a job begins from has failed, and record the fault as the job's own."""
    if job.needs in result.faults:
        result.fail(job, f"{job.needs.stem} is missing")
        return True
    return False


def _make_in_parallel(
    makings: Sequence[_Making],
    builder: Builder,
    executor: Executor,
    width: int,
    result: BuildResult,
    idle: Callable[[], None],
) -> None:
    """Write the files of the jobs; only faults enter the result."""
    waiting, pending = list(makings), {making.job.path for making in makings}

    def ready() -> Iterator[_Making | None]:
        while waiting:
            making = next((making for making in waiting if making.job.needs not in pending), None)
            if making is None:
                yield None
                continue
            waiting.remove(making)
            if _blocked(making.job, result):
                pending.remove(making.job.path)
            else:
                yield making

    make = partial(_make_in_worker, builder.root, builder.device)
    title = f"make {len(makings)} networks, {width} at a time"
    with builder.progress.stage(title, len(makings), "network") as stage:
        for making, accuracy in executor.map(make, ready(), at_once=width, retry=False, idle=idle):
            pending.remove(making.job.path)
            if isinstance(accuracy, ModelFault):
                result.fail(making.job, accuracy)
                stage.advance(1)
            else:
                clean, robust = accuracy
                stage.advance(1, clean=clean, robust=robust)


@cache
def _worker_builder(root: Path, device: torch.device) -> Builder:
    """Return the builder of this process, with the data it has read."""
    return Builder(root, device, Silent())


def _make_in_worker(root: Path, device: torch.device, making: _Making) -> tuple[float, float]:
    """Make one job and return its (clean, robust) accuracy on held-out images."""
    with torch_threads(making.threads):
        kept = _worker_builder(root, device).make(making.job).facts["kept_epoch"]
    return float(kept["clean"]), float(kept["robust"])
