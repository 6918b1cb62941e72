"""Run one case under watch: what it raises, how long it takes, what memory, and what it reaches for."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rstbench.errors import BadRequest, ModelFault

DEADLINE = 10.0  # seconds a case
MEMORY = 256  # MiB that the process may grow by in a case
LONGEST = 4000  # letters of a message
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events (PEP 578): starting programs, using the network, unpickling by name; changing the file system.
FORBIDDEN = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.",
    "pickle.find_class",
)
CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
)


class Hang(BaseException):
    """A case took longer than the deadline; not caught by the code that is tried."""


@dataclass
class Outcome:
    """How many cases were read, how many refused, and what went wrong in others: (what, the case)."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    peak: float = 0.0  # MiB of the process so far
    faults: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.read + self.refused + len(self.faults)


@dataclass
class _Watch:
    folder: str = ""
    events: list[str] = field(default_factory=list)


_watch = _Watch()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watch.folder:
        return
    if event.startswith(FORBIDDEN):
        _watch.events.append(f"{event}{arguments[:2]!r}"[:200])
    elif (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES and _outside(arguments[0])
    ):
        _watch.events.append(f"wrote {arguments[0]!r}")
    elif event in CHANGES and any(_outside(path) for path in arguments[:2]):
        _watch.events.append(f"{event}{arguments[:2]!r}")


def _outside(path: Any) -> bool:
    if not isinstance(path, str | bytes | os.PathLike) or os.fspath(path) in (os.devnull, b"/dev/null"):
        return False
    return not os.path.realpath(os.fsdecode(path)).startswith(_watch.folder)


_installed = False


def install() -> None:
    """Watch this process, once; an audit hook cannot be removed."""
    global _installed
    if not _installed:
        sys.addaudithook(_audit)
        sys.dont_write_bytecode = _installed = True


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Give the list of what the block reaches for outside a folder, and raise Hang after the deadline."""
    install()
    _watch.folder, _watch.events = os.path.realpath(folder), []
    before = signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield _watch.events
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        _watch.folder = ""


def _hang(*_: object) -> None:
    raise Hang(f"not done in {DEADLINE:g} s")


def attempt(run: Callable[[Any, Path], object], case: Any, folder: Path, outcome: Outcome) -> str:
    """Try one case; count it in `outcome`, and return what is wrong with it, '' where nothing is."""
    before, began = outcome.peak or _peak(), time.perf_counter()
    problem, read = "", False
    with watched(folder) as events:
        try:
            run(case, folder)
            read = True
        except (BadRequest, ModelFault) as error:
            problem = _message_problem(str(error))
        except (Exception, Hang, SystemExit, RecursionError, MemoryError) as error:
            problem = f"{type(error).__name__}: {error}"[:300]
    outcome.slowest = max(outcome.slowest, time.perf_counter() - began)
    outcome.peak = _peak()
    if events:
        problem = "; ".join(events)
    elif not problem and outcome.peak > before + MEMORY:
        problem = f"took {outcome.peak - before:.0f} MiB"
    if problem:
        outcome.faults.append((problem, case))
    elif read:
        outcome.read += 1
    else:
        outcome.refused += 1
    return problem


def _message_problem(text: str) -> str:
    if not text.strip() or len(text.splitlines()) != 1 or len(text) > LONGEST:
        return f"a message is one line, got {text[:200]!r}"
    return ""


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
