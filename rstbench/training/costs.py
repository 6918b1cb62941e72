"""Measure what making a network costs: seconds and peak memory, in `costs.jsonl` beside its file.

Not in the file itself, whose bytes do not depend on how long it took to make.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from ..evidence.costs import Cost
from ..files import append

MIB = 2**20


@contextmanager
def record_cost(path: Path, name: str, device: torch.device, *, resumed: bool) -> Iterator[None]:
    """Add a line to `path` with the cost of the `with` block, unless it fails."""
    _warm_up(device)
    before, began = _reset_peak(device), time.perf_counter()
    yield
    seconds, after = time.perf_counter() - began, _peak(device)
    peak = None if before is None or after is None else round(max(0.0, after - before) / MIB, 1)
    cost = Cost(name, round(seconds, 2), peak, str(device), torch.get_num_threads(), resumed)
    path.parent.mkdir(parents=True, exist_ok=True)
    append(path, (json.dumps(asdict(cost)) + "\n").encode())  # one short line: whole, whoever else appends


@cache
def _warm_up(device: torch.device) -> None:
    """Load what torch loads at its first convolution and step, which is no cost of the first network."""
    net = torch.nn.Conv2d(1, 4, 3).to(device)
    net(torch.zeros(2, 1, 8, 8, device=device)).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()


def _reset_peak(device: torch.device) -> float | None:
    """Forget the peak so far; return the bytes in use, above which the next peak counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    _release_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forgets the peak so far
    except OSError:
        return None
    return _status_bytes("VmRSS")


def _release_memory() -> None:
    """Return freed memory of this process to the system, where glibc can: kept for later use, it would hide
    the next peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _peak(device: torch.device) -> float | None:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
