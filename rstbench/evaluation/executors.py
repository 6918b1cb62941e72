"""Where shards are run. An executor has one method; nothing above it knows which is in use."""

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


class WorkerDied(ModelFault):
    """A process was killed while it worked."""


class Executor(Protocol):
    """Runs a function over tasks, `width` at a time."""

    @property
    def width(self) -> int: ...

    def map(
        self, function: Callable[[Task], Answer], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Answer | ModelFault]]:
        """Each task with its answer, or with the fault it raised, as they are done, in any order. Tasks are
        taken as they are needed."""


@dataclass(frozen=True)
class Local:
    """One after another, in this process."""

    width: int = 1

    def map(
        self, function: Callable[[Task], Answer], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Answer | ModelFault]]:
        for task in tasks:
            try:
                yield task, function(task)
            except ModelFault as fault:
                yield task, fault


@dataclass(frozen=True)
class Processes:
    """Several at a time on this machine, each in a process with its share of the threads.

    What cannot be sent to a process whole, such as a model of a user's code, is run in this one: a task says
    so itself, by an attribute `portable`. A task whose process was killed is asked once more, alone, so that
    its fault is no other's.
    """

    width: int

    def map(
        self, function: Callable[[Task], Answer], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Answer | ModelFault]]:
        waiting = iter(tasks)
        while True:
            lost: list[Task] = []
            try:
                with processes(self.width) as pool:
                    yield from _through(pool, self.width, function, waiting, lost)
                return
            except WorkerDied as died:
                if self.width == 1:
                    yield from ((task, died) for task in lost)
                else:
                    for task in lost:
                        yield from Processes(1).map(function, [task])


def _through(
    pool: ProcessPoolExecutor,
    width: int,
    function: Callable[[Task], Answer],
    waiting: Iterator[Task],
    lost: list[Task],
) -> Iterator[tuple[Task, Answer | ModelFault]]:
    """Each task with its answer, as far as the pool lives; `lost` holds what it was asked when it died."""
    running = dict[Future[Any], Task]()
    while True:
        for task in waiting:
            parcel = _packed(task)
            if parcel is None:
                yield from Local().map(function, [task])
                continue
            lost.append(task)
            running[pool.submit(_work, function, parcel)] = task
            if len(running) >= width:
                break
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running[future]
            try:
                answer = future.result()
            except ModelFault as fault:
                answer = fault
            del running[future]
            lost[:] = [one for one in lost if one is not task]
            if isinstance(answer, _Strange):
                yield from Local().map(function, [task])
            else:
                yield task, answer


@contextmanager
def processes(
    workers: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes share this one's threads evenly, leave an interrupt to it and end with it.

    begin: called with `arguments` in each process first. When the block fails, running work is given up.
    """
    threads = max(1, torch.get_num_threads() // workers)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _begin, (threads, begin, arguments))
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


class _Strange:
    """The answer of a process that cannot unpack its task."""


def _packed(task: object) -> bytes | None:
    if not getattr(task, "portable", True):
        return None
    try:
        return pickle.dumps(task)
    except (Exception, SystemExit):  # of whatever a user's class does when it is pickled
        return None


def _work(function: Callable[[Any], Any], parcel: bytes) -> Any:
    try:
        task = pickle.loads(parcel)
    except (Exception, SystemExit):
        return _Strange()
    return function(task)


def _begin(threads: int, begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's affair
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(threads)
    if begin is not None:
        begin(*arguments)


def _end_with(sentinel: int) -> None:
    wait_for_end([sentinel])
    os._exit(1)
