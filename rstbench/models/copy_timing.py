"""How long passes take, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

BUDGET = 0.12  # seconds, unless LEAST rounds take longer
LEAST, MOST = 2, 9  # rounds


def times(passes: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Return the median seconds of each pass, run in turn so that what else the machine does hits all alike.

    Each has run before: kernels are chosen, memory is there.
    """
    taken: list[list[float]] = [[] for _ in passes]
    end = time.perf_counter() + BUDGET
    while len(taken[0]) < LEAST or (len(taken[0]) < MOST and time.perf_counter() < end):
        for one, seconds in zip(passes, taken, strict=True):
            seconds.append(seconds_of(one, device))
    return [median(seconds) for seconds in taken]


def seconds_of(one: Callable[[], object], device: torch.device) -> float:
    """Return how long a pass takes, to its end on the device."""
    began = time.perf_counter()
    one()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
