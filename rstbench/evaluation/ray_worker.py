"""What runs in an actor of Ray: unpack tasks, load each model once, answer for some seconds."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import ModelFault
from ..limits import set_limit
from ..models.identity import readable_digest
from ..models.wrapper import EvalModel
from .circumstances import versions
from .parcels import load_token, unpack

KEPT = 16  # models, and spans of images, that an actor keeps


class Stored(NamedTuple):
    """A model or images in Ray's object store: the digest of its bytes, and of a model the one to be found
    once it is loaded (see `readable_digest`)."""

    key: str
    digest: str = ""


@dataclass(frozen=True)
class Raised:
    """The answer of a task that raised something else than a model's fault."""

    error: Exception


class Unreadable:
    """The answer of an actor that cannot unpack its task."""


class RayWorker:
    """One actor: it answers one bundle of tasks at a time.

    threads, folder, limit: of torch in the process that sends the tasks, its working folder, and how large a
    file it opens. loads: how often something was loaded from the object store.
    """

    def __init__(self, threads: int, folder: str, limit: int) -> None:
        set_limit(limit)
        self.loads = 0
        self._kept = OrderedDict[str, Any]()
        # Ray sets OMP_NUM_THREADS; tasks without threads of their own have those of the sender.
        torch.set_num_threads(threads)
        with suppress(OSError):  # paths of tasks may be relative
            os.chdir(folder)
        self._is_there = os.getcwd() == folder

    def about(self) -> tuple[str, dict[str, str]]:
        """Return the name of the machine, and the versions of what decides a result."""
        return socket.gethostname(), versions()

    def sees(self, marker: str) -> bool:
        """Return whether a file is there that the sender has just written."""
        return self._is_there and Path(marker).exists()

    def count_loads(self) -> int:
        return self.loads

    def run(
        self,
        function: Callable[[Any], Any],
        parcels: Sequence[bytes],
        stored: Mapping[str, Any],
        seconds: float,
    ) -> tuple[list[Any], float]:
        """Answer tasks until some seconds are over, one at least; return the answers and how long it took.

        stored: references to what the parcels name, by its key; they are not resolved before they are needed.
        """
        began, answers = time.monotonic(), list[Any]()
        for parcel in parcels:
            answers.append(self._answer(function, parcel, stored))
            if time.monotonic() - began > seconds:
                break
        return answers, time.monotonic() - began

    def _answer(self, function: Callable[[Any], Any], parcel: bytes, stored: Mapping[str, Any]) -> Any:
        try:
            task = unpack(parcel, lambda token: self._load(token, stored))
        except (Exception, SystemExit):  # of whatever a user's class does when it is unpickled
            return Unreadable()
        try:
            return function(task)
        except ModelFault as fault:
            return fault
        except Exception as error:
            return Raised(error)

    def _load(self, token: Any, stored: Mapping[str, Any]) -> Any:
        """Return what a token stands for. Raises where it is not what was sent."""
        if not isinstance(token, Stored):
            return load_token(token)
        if token.key not in self._kept:
            import ray

            self.loads += 1
            value = pickle.loads(ray.get(stored[token.key]))
            if isinstance(value, EvalModel) and readable_digest(value.module) != token.digest:
                raise pickle.UnpicklingError(f"{value.info.name} is another model in this process")
            self._kept[token.key] = value
        self._kept.move_to_end(token.key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[token.key]
