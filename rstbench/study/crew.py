"""Many jobs: one after the other, or several at a time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for_end
from pathlib import Path

import torch

from ..errors import BadRequest, ModelFault
from ..harness.progress import Silent
from .jobs import Job
from .make import Made, Workshop


@dataclass
class Yield:
    """made: by file; faults: what could not be made, by file."""

    made: dict[Path, Made] = field(default_factory=dict)
    faults: dict[Path, ModelFault] = field(default_factory=dict)


def make_all(jobs: Sequence[Job], shop: Workshop, workers: int = 1) -> Yield:
    """Makes the jobs, which come in an order in which each finds what it needs; `workers` at a time.

    Each worker has its share of the threads. Raises BadRequest; what fails while learning is in the
    outcome, with everything that would begin from it.
    """
    result = Yield()
    if workers > 1:
        _side_by_side([job for job in jobs if not job.path.exists()], shop, workers, result)
    for job in jobs:
        if job.path not in result.faults and not _blocked(job, result):
            try:
                result.made[job.path] = shop.make(job)
            except ModelFault as fault:
                result.faults[job.path] = ModelFault(f"{job.name}: {fault}")
    return result


def _blocked(job: Job, result: Yield) -> bool:
    if job.needs in result.faults:
        result.faults[job.path] = ModelFault(f"{job.name}: {job.needs.stem} is missing")
        return True
    return False


def _side_by_side(jobs: Sequence[Job], shop: Workshop, workers: int, result: Yield) -> None:
    """Fills the files of the jobs; only faults are reported here."""
    waiting, running = list(jobs), dict[Future[tuple[float, float]], Job]()
    threads = max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin_work, (shop.root, shop.device, threads)
    )
    what = f"make {len(jobs)} networks, {workers} at a time"
    with shop.progress.stage(what, len(jobs), "network") as stage:
        try:
            while waiting or running:
                pending = {job.path for job in (*waiting, *running.values())}
                ready = [job for job in waiting if job.needs not in pending]
                for job in ready[: workers - len(running)]:
                    waiting.remove(job)
                    if not _blocked(job, result):
                        running[pool.submit(_work, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    try:
                        clean, robust = future.result()
                        stage.advance(1, clean=clean, robust=robust)
                    except ModelFault as fault:
                        result.faults[job.path] = ModelFault(f"{job.name}: {fault}")
                        stage.advance(1)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_shop: Workshop | None = None  # of a worker process, with the data it has read


def _begin_work(root: Path, device: torch.device, threads: int) -> None:
    """In each worker: its threads, its workshop, and an end when the parent ends."""
    global _shop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's affair
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(threads)
    _shop = Workshop(root, device, Silent())


def _end_with(sentinel: int) -> None:
    wait_for_end([sentinel])
    os._exit(1)


def _work(job: Job) -> tuple[float, float]:
    """Makes one job; (clean, robust) accuracy on held-out images."""
    if _shop is None:
        raise BadRequest("no worker process")
    kept = _shop.make(job).facts["kept_epoch"]
    return float(kept["clean"]), float(kept["robust"])
