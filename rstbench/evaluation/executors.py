"""Run tasks in this process or in several; `workers.executor_for` alone chooses where.

An executor for a cluster is another class of the protocol `Executor`, returned by `workers.executor_for`.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from ..errors import ModelFault
from ..limits import max_file_size
from .parcels import Parcels
from .timed import HELD_HERE, WAKE_SECONDS, TimedWorkers
from .timed import ExecutorFault as ExecutorFault
from .timed import WorkerDied as WorkerDied
from .worker_process import Unreadable, initialize, run_pickled, unpickled

Task = TypeVar("Task")
Answer = TypeVar("Answer")
Answers = Iterator[tuple[Task, Answer | ModelFault]]


class Executor(Protocol):
    """Run a function over tasks, `width` at a time at most.

    worth: estimated seconds of work from which it is worth more than this process alone; cores: those that
    its tasks share, of which each takes its threads. As a context it keeps what it has started from one `map`
    to the next.
    """

    @property
    def width(self) -> int: ...

    @property
    def worth(self) -> float: ...

    @property
    def cores(self) -> int: ...

    def __enter__(self) -> Executor: ...

    def __exit__(self, *raised: object) -> None: ...

    def map(
        self,
        function: Callable[[Task], Answer],
        tasks: Iterable[Task | None],
        *,
        at_once: int = 0,
        retry: bool = True,
        idle: Callable[[], None] = lambda: None,
        timeout: float = 0.0,
    ) -> Answers[Task, Answer]:
        """Yield each task with its answer, or with the fault it raised, in the order in which they finish.

        Tasks are taken as they are needed; a None among them says that the next one waits for the answer to
        an earlier one. The object yielded is the very one that was taken, not a copy. A task whose attribute
        `portable` is false runs in this process. A worker that dies is `WorkerDied`, yielded with its task,
        or raised without `retry`. A task with an attribute `folder` writes there, and runs only where that is
        the folder of this process.

        at_once: how many run at a time, by default `width`; retry: whether a task whose process was killed is
        run once more, alone, so that its fault is no other's; idle: called each second in which this process
        waits for others; timeout: seconds after which the process of a task is killed, which is then
        `TookTooLong`, 0 for no end. With one, what could run in this process alone is an `ExecutorFault`.
        """


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Local:
    """Run one task after another, in this process."""

    width: int = 1
    worth: float = 0.0
    cores: int = field(default_factory=cores)

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def map(
        self,
        function: Callable[[Task], Answer],
        tasks: Iterable[Task | None],
        *,
        at_once: int = 0,
        retry: bool = True,
        idle: Callable[[], None] = lambda: None,
        timeout: float = 0.0,
    ) -> Answers[Task, Answer]:
        for task in tasks:
            if task is None:
                continue
            if timeout:
                yield task, ExecutorFault(HELD_HERE)
                continue
            try:
                yield task, function(task)
            except ModelFault as fault:
                yield task, fault


@dataclass
class Processes:
    """Run several tasks at a time on this machine, each in a process.

    Models are sent to a process once (see `Parcels`). What cannot be sent, such as a model of a user's code
    that no reference names, is run in this one: a task says so itself, by an attribute `portable`.
    """

    width: int
    worth: float = 0.0
    cores: int = field(default_factory=cores)
    _pool: ProcessPoolExecutor | None = field(default=None, init=False, repr=False, compare=False)
    _timed: TimedWorkers | None = field(default=None, init=False, repr=False, compare=False)
    _parcels: Parcels | None = field(default=None, init=False, repr=False, compare=False)
    _kept: bool = field(default=False, init=False, repr=False, compare=False)

    def __enter__(self) -> Processes:
        self._kept = True
        return self

    def __exit__(self, *raised: object) -> None:
        self._kept = False
        self._close()

    def map(
        self,
        function: Callable[[Task], Answer],
        tasks: Iterable[Task | None],
        *,
        at_once: int = 0,
        retry: bool = True,
        idle: Callable[[], None] = lambda: None,
        timeout: float = 0.0,
    ) -> Answers[Task, Answer]:
        remaining = iter(tasks)
        while True:
            submitted: list[Task] = []
            try:
                # One waits, so that no process does while the next task is made ready.
                most = (at_once or self.width) + (at_once in (0, self.width))
                if timeout:
                    yield from self._map_timed(function, remaining, at_once or self.width, idle, timeout)
                else:
                    yield from self._map(function, remaining, submitted, most, idle)
                break
            except BrokenProcessPool:
                self._close()
                if not retry:
                    raise WorkerDied from None
                if self.width == len(submitted) == 1:
                    yield submitted[0], WorkerDied()
                else:
                    for task in submitted:
                        yield from Processes(1).map(function, [task])
            except BaseException:
                for process in multiprocessing.active_children():
                    process.terminate()
                self._close()
                raise
        if not self._kept:
            self._close()

    def _map(
        self,
        function: Callable[[Task], Answer],
        tasks: Iterator[Task | None],
        submitted: list[Task],
        most: int,
        idle: Callable[[], None],
    ) -> Answers[Task, Answer]:
        """Yield each task with its answer while the pool lives; `submitted`: the tasks without an answer."""
        running = dict[Future[Any], Task]()
        while True:
            for task in tasks:
                if task is None:
                    break
                payload = self._pickled(task)
                if payload is None:
                    yield from Local().map(function, [task])
                    continue
                submitted.append(task)
                running[self._opened().submit(run_pickled, function, payload)] = task
                if len(running) >= most:
                    break
            if not running:
                return
            # An interrupt that another thread received is seen only when this one wakes.
            while not (done := wait(running, WAKE_SECONDS, return_when=FIRST_COMPLETED).done):
                idle()
            for future in done:
                task = running[future]
                try:
                    answer = unpickled(future.result())
                except ModelFault as fault:
                    answer = fault
                del running[future]
                submitted[:] = [other for other in submitted if other is not task]
                if isinstance(answer, Unreadable):
                    yield from Local().map(function, [task])
                else:
                    yield task, answer

    def _map_timed(
        self,
        function: Callable[[Task], Answer],
        tasks: Iterator[Task | None],
        at_once: int,
        idle: Callable[[], None],
        timeout: float,
    ) -> Answers[Task, Answer]:
        """Yield each task with its answer, or with why it was ended."""
        self._timed = self._timed or TimedWorkers(partial(self._new_pool, 1))
        run = partial(run_pickled, function)
        for task, answer in self._timed.run(run, tasks, self._pickled, at_once, timeout, idle):
            if isinstance(answer, Unreadable):
                why = f"it cannot be loaded again where it could be ended: {answer.reason}"
                yield task, ExecutorFault(why)
            else:
                yield task, unpickled(answer)

    def _opened(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = self._new_pool(self.width)
        return self._pool

    def _new_pool(self, width: int) -> ProcessPoolExecutor:
        self._parcels = self._parcels or Parcels()
        spawn = multiprocessing.get_context("spawn")
        given = self._parcels.folder, max_file_size()
        return ProcessPoolExecutor(width, spawn, initialize, given)

    def _close(self) -> None:
        """End the processes; work that still runs is waited for."""
        pool, timed, parcels = self._pool, self._timed, self._parcels
        self._pool = self._timed = self._parcels = None
        if pool:
            pool.shutdown(wait=True, cancel_futures=True)
        if timed:
            timed.close()
        if parcels:
            parcels.close()

    def _pickled(self, task: object) -> bytes | None:
        """Return a task to be sent, None where it must stay here."""
        if not getattr(task, "portable", True):
            return None
        self._parcels = self._parcels or Parcels()
        try:
            return self._parcels.pack(task)
        except (Exception, SystemExit):  # of whatever a user's class does when it is pickled
            return None
