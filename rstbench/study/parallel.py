"""Many jobs: one after the other, or several at a time, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import BadRequest, ModelFault
from ..evaluation.executors import processes
from ..progress import Silent
from .build import Builder, Network
from .jobs import Job


@dataclass
class BuildResult:
    """made: by file; faults: what could not be made, by file; tell: hears of each at once."""

    made: dict[Path, Network] = field(default_factory=dict)
    faults: dict[Path, ModelFault] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda text: None

    def fail(self, job: Job, why: object) -> None:
        self.faults[job.path] = ModelFault(f"{job.name}: {why}")
        self.tell(str(self.faults[job.path]))


def make_all(
    jobs: Sequence[Job], shop: Builder, workers: int = 1, tell: Callable[[str], None] = lambda text: None
) -> BuildResult:
    """Makes the jobs, which come in an order in which each finds what it needs; `workers` at a time.

    Each worker has its share of the threads. Raises BadRequest; what fails while learning is in the
    outcome, with everything that would begin from it, and `tell` hears of it at once.
    """
    result = BuildResult(tell=tell)
    missing = [job for job in jobs if not job.path.exists()]
    if workers > 1 and missing:
        _side_by_side(missing, shop, workers, result)
    for job in jobs:
        if job.path not in result.faults and not _blocked(job, result):
            try:
                result.made[job.path] = shop.make(job)
            except ModelFault as fault:
                result.fail(job, fault)
    return result


def _blocked(job: Job, result: BuildResult) -> bool:
    if job.needs in result.faults:
        result.fail(job, f"{job.needs.stem} is missing")
        return True
    return False


def _side_by_side(jobs: Sequence[Job], shop: Builder, workers: int, result: BuildResult) -> None:
    """Fills the files of the jobs; only faults are reported here."""
    waiting, running = list(jobs), dict[Future[tuple[float, float]], Job]()
    what = f"make {len(jobs)} networks, {workers} at a time"
    with (
        shop.progress.stage(what, len(jobs), "network") as stage,
        processes(workers, _open_shop, (shop.root, shop.device)) as pool,
    ):
        while waiting or running:
            pending = {job.path for job in (*waiting, *running.values())}
            ready = [job for job in waiting if job.needs not in pending]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                if not _blocked(job, result):
                    running[pool.submit(_make, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    clean, robust = future.result()
                    stage.advance(1, clean=clean, robust=robust)
                except ModelFault as fault:
                    result.fail(job, fault)
                    stage.advance(1)


_shop: Builder | None = None  # of a worker process, with the data it has read


def _open_shop(root: Path, device: torch.device) -> None:
    global _shop
    _shop = Builder(root, device, Silent())


def _make(job: Job) -> tuple[float, float]:
    """Makes one job; (clean, robust) accuracy on held-out images."""
    if _shop is None:
        raise BadRequest("no worker process")
    kept = _shop.make(job).facts["kept_epoch"]
    return float(kept["clean"]), float(kept["robust"])
