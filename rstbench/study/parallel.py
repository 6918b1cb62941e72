"""Make the tickets and networks of many jobs, one after the other or several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch

from ..errors import ModelFault
from ..evaluation.executors import Executor, Local, executor_for
from ..progress import Silent
from .build import Builder, Network
from .jobs import Job


@dataclass
class BuildResult:
    """on_fault: called with each fault at once; made: networks by file; faults: what could not be made."""

    on_fault: Callable[[str], None]
    made: dict[Path, Network] = field(default_factory=dict)
    faults: dict[Path, ModelFault] = field(default_factory=dict)

    def fail(self, job: Job, reason: object) -> None:
        self.faults[job.path] = ModelFault(f"{job.name}: {reason}")
        self.on_fault(str(self.faults[job.path]))


def make_all(
    jobs: Sequence[Job], builder: Builder, workers: int, on_fault: Callable[[str], None]
) -> BuildResult:
    """Make the jobs, which come in an order in which each finds what it needs, `workers` at a time.

    Each worker has its share of the threads. Raises BadRequest; what fails while learning is in the
    result, with everything that would begin from it.
    """
    result = BuildResult(on_fault)
    missing = [job for job in jobs if not job.path.exists()]
    executor = executor_for(workers, retry=False)
    if missing and not isinstance(executor, Local):  # in this process each network shows its own progress
        _make_in_parallel(missing, builder, executor, result)
    for job in jobs:
        if job.path not in result.faults and not _blocked(job, result):
            try:
                result.made[job.path] = builder.make(job)
            except ModelFault as fault:
                result.fail(job, fault)
    return result


def _blocked(job: Job, result: BuildResult) -> bool:
    """Return whether what a job begins from has failed, and record the fault as the job's own."""
    if job.needs in result.faults:
        result.fail(job, f"{job.needs.stem} is missing")
        return True
    return False


def _make_in_parallel(jobs: Sequence[Job], builder: Builder, executor: Executor, result: BuildResult) -> None:
    """Write the files of the jobs; only faults enter the result."""
    waiting, pending = list(jobs), {job.path for job in jobs}

    def ready() -> Iterator[Job | None]:
        while waiting:
            job = next((job for job in waiting if job.needs not in pending), None)
            if job is None:
                yield None
                continue
            waiting.remove(job)
            if _blocked(job, result):
                pending.remove(job.path)
            else:
                yield job

    make = partial(_make_in_worker, builder.root, builder.device)
    title = f"make {len(jobs)} networks, {executor.width} at a time"
    with builder.progress.stage(title, len(jobs), "network") as stage:
        for job, accuracy in executor.map(make, ready()):
            pending.remove(job.path)
            if isinstance(accuracy, ModelFault):
                result.fail(job, accuracy)
                stage.advance(1)
            else:
                clean, robust = accuracy
                stage.advance(1, clean=clean, robust=robust)


@cache
def _worker_builder(root: Path, device: torch.device) -> Builder:
    """Return the builder of this process, with the data it has read."""
    return Builder(root, device, Silent())


def _make_in_worker(root: Path, device: torch.device, job: Job) -> tuple[float, float]:
    """Make one job and return its (clean, robust) accuracy on held-out images."""
    kept = _worker_builder(root, device).make(job).facts["kept_epoch"]
    return float(kept["clean"]), float(kept["robust"])
