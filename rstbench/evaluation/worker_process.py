"""What runs in a worker process: a task that was sent, within the limits of the process that sent it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_end
from typing import Any

import torch

from ..errors import one_line
from ..limits import set_limit
from .parcels import unpack


@dataclass(frozen=True)
class Unreadable:
    """The answer of a process that cannot unpickle its task, and why."""

    reason: str


def run_pickled(function: Callable[[Any], Any], payload: bytes) -> bytes | Unreadable:
    """Answer a task that `Parcels` packed, in bytes for `unpickled`."""
    try:
        task = unpack(payload)
    except (Exception, SystemExit) as error:
        return Unreadable(one_line(error, 300))
    # Tensors by value: as torch sends them they need sockets in a temporary folder, which outlives a kill.
    return pickle.dumps(function(task))


def unpickled(answer: Any) -> Any:
    """Return what `run_pickled` made of an answer; a fault as it is."""
    return pickle.loads(answer) if isinstance(answer, bytes) else answer


def initialize(parcels: str, limit: int) -> None:
    """Prepare a process. parcels: the folder of models, limit: the size of files that may be read."""
    set_limit(limit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is handled by the parent
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel, parcels), daemon=True).start()
    torch.set_num_threads(1)


def _exit_with(sentinel: int, parcels: str) -> None:
    """End with the parent, which removes its folder of models itself unless it was killed."""
    wait_for_end([sentinel])
    shutil.rmtree(parcels, ignore_errors=True)
    os._exit(1)
