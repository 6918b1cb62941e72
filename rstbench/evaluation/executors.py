"""Run tasks in this process or in several; `executor_for` alone chooses where.

An executor for a cluster is another class with `width` and `map`, returned by `executor_for`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_end
from typing import Any, Protocol, TypeVar

import torch

from ..errors import ModelFault

Task = TypeVar("Task")
Answer = TypeVar("Answer")
Answers = Iterator[tuple[Task, Answer | ModelFault]]
WAKE_SECONDS = 1.0


class WorkerDied(ModelFault):
    """A process was killed while it worked."""


class Executor(Protocol):
    """Run a function over tasks, `width` at a time."""

    @property
    def width(self) -> int: ...

    def map(self, function: Callable[[Task], Answer], tasks: Iterable[Task | None]) -> Answers[Task, Answer]:
        """Yield each task with its answer, or with the fault it raised, in the order in which they finish.

        Tasks are taken as they are needed; a None among them says that the next one waits for the answer to
        an earlier one. The object yielded is the very one that was taken, not a copy. A task whose attribute
        `portable` is false runs in this process. A worker that dies is `WorkerDied`, yielded with its task,
        or raised without `retry`. Making networks writes `job.path` and reads the data folder, so workers
        share a file system with this process.
        """


@dataclass(frozen=True)
class Local:
    """Run one task after another, in this process."""

    width: int = 1

    def map(self, function: Callable[[Task], Answer], tasks: Iterable[Task | None]) -> Answers[Task, Answer]:
        for task in tasks:
            if task is None:
                continue
            try:
                yield task, function(task)
            except ModelFault as fault:
                yield task, fault


@dataclass(frozen=True)
class Processes:
    """Run several tasks at a time on this machine, each in a process with its share of the threads.

    What cannot be sent to a process, such as a model of a user's code, is run in this one: a task says so
    itself, by an attribute `portable`. retry: a task whose process was killed is run once more, alone, so
    that its fault is no other's; without it WorkerDied is raised.
    """

    width: int
    retry: bool = True

    def map(self, function: Callable[[Task], Answer], tasks: Iterable[Task | None]) -> Answers[Task, Answer]:
        remaining = iter(tasks)
        while True:
            submitted: list[Task] = []
            try:
                with _process_pool(self.width) as pool:
                    yield from _map_in_pool(pool, self.width, function, remaining, submitted)
                return
            except WorkerDied as died:
                if not self.retry:
                    raise
                if self.width == 1:
                    yield from ((task, died) for task in submitted)
                else:
                    for task in submitted:
                        yield from Processes(1).map(function, [task])


def executor_for(workers: int, *, retry: bool = True) -> Executor:
    """Return what runs `workers` tasks at a time; see `Processes` for `retry`."""
    return Processes(workers, retry) if workers > 1 else Local()


def share_of_threads(width: int) -> int:
    """Return the threads that each of `width` tasks at a time has."""
    return max(1, torch.get_num_threads() // width)


def _map_in_pool(
    pool: ProcessPoolExecutor,
    width: int,
    function: Callable[[Task], Answer],
    tasks: Iterator[Task | None],
    submitted: list[Task],
) -> Answers[Task, Answer]:
    """Yield each task with its answer while the pool lives; `submitted` holds the tasks without an answer."""
    running = dict[Future[Any], Task]()
    while True:
        for task in tasks:
            if task is None:
                break
            payload = _pickled(task)
            if payload is None:
                yield from Local().map(function, [task])
                continue
            submitted.append(task)
            running[pool.submit(_run_pickled, function, payload)] = task
            if len(running) >= width:
                break
        if not running:
            return
        # An interrupt that another thread received is seen only when this one wakes.
        while not (done := wait(running, WAKE_SECONDS, return_when=FIRST_COMPLETED).done):
            pass
        for future in done:
            task = running[future]
            try:
                answer = future.result()
            except ModelFault as fault:
                answer = fault
            del running[future]
            submitted[:] = [other for other in submitted if other is not task]
            if isinstance(answer, _Unreadable):
                yield from Local().map(function, [task])
            else:
                yield task, answer


@contextmanager
def _process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool whose processes share this one's threads evenly, ignore interrupts and end with it.

    When the block fails, running work is given up.
    """
    threads = share_of_threads(workers)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _initialize, (threads,))
    try:
        yield pool
    except BrokenProcessPool:
        raise WorkerDied(
            "a worker process was killed, perhaps for want of memory; the same command goes on where it "
            "stopped, with fewer --workers if need be"
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Unreadable:
    """The answer of a process that cannot unpickle its task."""


def _pickled(task: object) -> bytes | None:
    if not getattr(task, "portable", True):
        return None
    try:
        return pickle.dumps(task)
    except (Exception, SystemExit):  # of whatever a user's class does when it is pickled
        return None


def _run_pickled(function: Callable[[Any], Any], payload: bytes) -> Any:
    try:
        task = pickle.loads(payload)
    except (Exception, SystemExit):
        return _Unreadable()
    return function(task)


def _initialize(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is handled by the parent
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(threads)


def _exit_with(sentinel: int) -> None:
    wait_for_end([sentinel])
    os._exit(1)
