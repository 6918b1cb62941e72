"""Run tasks that must end in time: a process has one at once, and is killed where that takes too long."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

from ..errors import ModelFault

WAKE_SECONDS = 1.0
HELD_HERE = (
    "it is of code that only this process has, and cannot be ended; name it by what loads it anywhere, or "
    "leave out --shard-timeout"
)


class ExecutorFault(ModelFault):
    """Why a task has no answer, for reasons that are not its own; who asked adds its name."""


class WorkerDied(ExecutorFault):
    """A process was killed while it worked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "a worker process was killed, perhaps for want of memory; the same command goes on where it "
            "stopped, with fewer --workers if need be"
        )


class TookTooLong(ExecutorFault):
    """A task was ended, for it took longer than it may."""


class TimedWorkers:
    """Processes for tasks that must end in time, kept from one `run` to the next.

    open_pool: starts a pool of one process.
    """

    def __init__(self, open_pool: Callable[[], ProcessPoolExecutor]) -> None:
        self._open_pool = open_pool
        self._workers: list[_Worker] = []

    def run(
        self,
        function: Callable[[bytes], Any],
        tasks: Iterator[Any],
        pack: Callable[[Any], bytes | None],
        at_once: int,
        timeout: float,
        idle: Callable[[], None],
        *,
        retry: bool = True,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield each task with its answer, or with the fault that it raised or met.

        function: answers what `pack` makes of a task, None where it cannot be sent; at_once, timeout, idle:
        see `Executor.map`, also for a None among the tasks. A task whose process was killed by others is run
        once more, alone, where `retry` says so.
        """
        while len(self._workers) < at_once:
            self._workers.append(_Worker(self._open_pool))
        free, running, again = self._workers[:at_once], dict[Future[Any], tuple[Any, _Worker]](), []
        while True:
            while free and (task := next(tasks, None)) is not None:
                if (payload := pack(task)) is None:
                    yield task, ExecutorFault(HELD_HERE)
                    continue
                worker = free.pop()
                running[worker.begin(function, payload)] = task, worker
            if not running:
                break
            done = wait(running, WAKE_SECONDS, return_when=FIRST_COMPLETED).done
            late = [worker for _, worker in running.values() if worker.is_late(timeout)]
            if not done and not late:
                idle()
            for future in [*done, *(f for f, (_, worker) in running.items() if worker in late)]:
                if future not in running:
                    continue
                task, worker = running.pop(future)
                free.append(worker)
                answer = worker.answer(future, timeout)
                if isinstance(answer, WorkerDied) and retry:
                    again.append(task)
                else:
                    yield task, answer
        for task in again:
            yield from self.run(function, iter([task]), pack, 1, timeout, idle, retry=False)

    def close(self) -> None:
        """End the processes; work that still runs is waited for."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()


class _Worker:
    """A process, started when it is needed, that works on one task at a time."""

    def __init__(self, open_pool: Callable[[], ProcessPoolExecutor]) -> None:
        self._open_pool = open_pool
        self._pool: ProcessPoolExecutor | None = None
        self._ready = Future[int]()
        self._began: float | None = None

    def begin(self, function: Callable[[bytes], Any], payload: bytes) -> Future[Any]:
        if self._pool is None:
            self._pool = self._open_pool()
            self._ready = self._pool.submit(os.getpid)
        self._began = None
        return self._pool.submit(function, payload)

    def is_late(self, timeout: float) -> bool:
        """Return whether its task takes longer than so many seconds, of which the start of the process is
        none."""
        if self._began is None and self._ready.done():
            self._began = time.monotonic()
        return self._began is not None and time.monotonic() - self._began > timeout

    def answer(self, future: Future[Any], timeout: float) -> Any:
        """Return the answer or the fault of its task, which it ends where there is none yet."""
        if not future.done():
            with suppress(ProcessLookupError, BrokenProcessPool):
                os.kill(self._ready.result(), signal.SIGKILL)
            self.close()
            return TookTooLong(f"a shard took longer than {timeout:g} s (--shard-timeout), and was ended")
        try:
            return future.result()
        except BrokenProcessPool:
            self.close()
            return WorkerDied()
        except ModelFault as fault:
            return fault

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
