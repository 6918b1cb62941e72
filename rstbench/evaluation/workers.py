"""Choose how many tasks run at once, and with how many threads each.

Threads follow from the network alone, never from how many tasks run beside it, so that every number of
workers gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import BadRequest
from .executors import Executor, Local, Processes, cores

LOCAL, RAY = "local", "ray"
AUTO = 0  # workers: as many as the cores serve, where the work is long enough for them to start
SMALL = 5e9  # weights times pixels up to which one thread serves a network best
MOST_THREADS = 4  # of one task on a larger network
PACE = 1e11  # weights times pixels that a core passes forward in a second, roughly
LEAST_LOAD = 5e6  # what a pass through the smallest network costs
WORTH = 30.0  # estimated seconds of work below which no worker is started


def pick_workers(text: str) -> int:
    """Read 'auto' or a number of processes. Raises BadRequest."""
    if text == "auto":
        return AUTO
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) < 2**31:
        raise BadRequest(f"--workers reads auto or a number of processes, got {text!r}")
    return int(text)


def pick_timeout(text: str | None) -> float:
    """Read a number of seconds above 0; 0 where none is named. Raises BadRequest."""
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise BadRequest(f"--shard-timeout reads seconds above 0, got {text!r}")
    return seconds


def executor_for(workers: int, device: torch.device, timeout: float = 0.0, text: str = LOCAL) -> Executor:
    """Return what runs so many tasks at a time; AUTO: one on a GPU, as many as there are cores elsewhere.

    timeout: seconds that a task may take, 0 for any; with one they are run by processes, which can be ended;
    text: `local`, `ray` for actors on this machine, or `ray:ADDRESS` for those of a cluster; of these AUTO is
    one for each GPU, or for each core. Raises BadRequest.
    """
    engine, colon, address = text.partition(":")
    if engine == RAY and bool(colon) == bool(address):
        from .ray_executor import ray_actors

        if timeout:
            raise BadRequest(
                "--shard-timeout ends processes of this machine; it does not go with --executor ray"
            )
        return ray_actors(address, workers, device)
    if text != LOCAL:
        raise BadRequest(f"--executor reads local, ray or ray:ADDRESS, got {text!r}")
    auto = workers == AUTO
    if auto:
        workers = 1 if device.type == "cuda" else cores()
    return Processes(workers, WORTH if auto else 0.0) if workers > 1 or timeout else Local()


def load_of(modules: Iterable[nn.Module], pixels: int) -> float:
    """Return the weights of networks times the pixels of an image's channel: about the work of one pass."""
    try:
        return float(pixels * sum(weight.numel() for module in modules for weight in module.parameters()))
    except (Exception, SystemExit):  # of a model's own code, or of weights that do not exist yet
        return 0.0


def threads_for(load: float) -> int:
    """Return the threads of a task on a network of this load (see `load_of`)."""
    return 1 if load <= SMALL else min(MOST_THREADS, torch.get_num_threads())


def seconds_for(passes: int, images: int, load: float) -> float:
    """Estimate how long so many passes of each image take on a network: to order work, no more."""
    return passes * images * max(load, LEAST_LOAD) / PACE


def at_once(executor: Executor, threads: int, seconds: float) -> int:
    """Return how many tasks of so many threads (0: their own) and estimated seconds in all run at once."""
    if executor.width == 1 or seconds < executor.worth:
        return 1
    return max(1, min(executor.width, executor.cores // max(1, threads)))


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Set torch's threads within the block; 0 leaves them as they are."""
    if not threads:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
