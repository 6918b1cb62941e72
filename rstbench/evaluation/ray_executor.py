"""Run tasks in actors of Ray, one a GPU or a core, on this machine or on a cluster.

Ray places the actors, starts them again where they die, and carries models and images, each once, through its
object store. Which tasks go where is decided in ray_bundles.py, what an actor does in ray_worker.py. Answers
are yielded in this process, the one that writes.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import BadRequest, one_line
from ..limits import max_file_size
from .circumstances import versions
from .executors import Answer, Answers, Task, cores
from .ray_bundles import Actor, ObjectStore, Stage
from .ray_worker import RayWorker

START_SECONDS = 120.0  # for actors to come up
STARTS = 3  # of a Ray of its own, until it comes up
CONNECT_SECONDS = 5.0
# Ray tells nothing home, and leaves the devices of an actor without a GPU alone.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def ray_actors(address: str, most: int, device: torch.device) -> RayActors:
    """Return the executor for a Ray of its own on this machine (''), for the one that runs here ('auto'), or
    for a cluster ('host:port'); most: actors, 0 for as many as there are GPUs or cores.

    Raises BadRequest where Ray is not installed or nothing answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise BadRequest("--executor ray wants Ray: pip install 'rstbench[ray]'")
    if device.index is not None:
        raise BadRequest(
            f"--device {device} names one GPU; with --executor ray each actor has one: --device cuda"
        )
    if address not in ("", "auto"):
        host, colon, port = address.rpartition(":")
        if not colon or "/" in address or not (port.isascii() and port.isdigit()):
            raise BadRequest(
                f"--executor ray:ADDRESS wants auto or HOST:PORT of the cluster's head, got {address!r}; the "
                f"command runs on a machine of the cluster"
            )
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise BadRequest(
                f"no Ray cluster answers at {address} ({one_line(error)}): is it started?"
            ) from error
    return RayActors(address, most, device)


@dataclass
class RayActors:
    """Run tasks in actors, which stay from one `map` to the next.

    address: '' for a Ray of its own, else that of a cluster; most: actors, 0 for all that fit; worth: 0, for
    who asks for a cluster has work for it.
    """

    address: str
    most: int
    device: torch.device
    worth: float = 0.0
    _actors: list[Actor] = field(default_factory=list, init=False, repr=False, compare=False)
    _store: ObjectStore = field(default_factory=ObjectStore, init=False, repr=False, compare=False)

    @property
    def width(self) -> int:
        return len(self._actors)

    @property
    def cores(self) -> int:
        return len(self._actors)  # one each; a task of more threads leaves others idle

    def __enter__(self) -> RayActors:
        """Connect and start the actors. Raises BadRequest."""
        import ray

        try:
            self._connect()
            self._start()
        except Exception as error:
            ray.shutdown()
            if isinstance(error, BadRequest):
                raise
            where = self.address or "this machine"
            raise BadRequest(f"Ray does not start on {where}: {one_line(error, 300)}") from error
        return self

    def _connect(self) -> None:
        """Start a Ray of its own, or join the cluster. Raises whatever Ray raises."""
        import ray

        os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if not self.address:
            options |= {"include_dashboard": False, "num_cpus": max(cores(), self.most)}
        for left in reversed(range(1 if self.address else STARTS)):
            try:
                ray.init(self.address or "local", **options)
                break
            except Exception:  # on a busy machine Ray waits too short for itself
                ray.shutdown()
                if not left:
                    raise
        # Or Ray prints on standard output, among the tables, what becomes of actors that died.
        ray._private.worker._worker_logs_enabled = False

    def __exit__(self, *raised: object) -> None:
        import ray

        self._actors, self._store = [], ObjectStore()
        ray.shutdown()

    def _start(self) -> None:
        """Start one actor on each GPU or core, and keep those that come up. Raises BadRequest."""
        import ray

        kind = "GPU" if self.device.type == "cuda" else "CPU"
        places = [
            ((index + 0.5) / count, node["NodeID"])
            for node in ray.nodes()
            if node["Alive"]
            for count in [int(node["Resources"].get(kind, 0))]
            for index in range(count)
        ]
        # The first few of them are spread over all machines by their size.
        nodes = [node for _, node in sorted(places)][: self.most or None]
        started = [self._actor(node) for node in nodes]
        asked = {actor.handle.about.remote(): actor for actor in started}
        done, late = (
            ray.wait(list(asked), num_returns=len(asked), timeout=START_SECONDS) if asked else ([], [])
        )
        for ref in late:
            ray.kill(asked[ref].handle)
        for ref in sorted(done, key=list(asked).index):
            host, found = ray.get(ref)
            if found != versions():
                ours, theirs = (" ".join(f"{k} {v}" for k, v in each.items()) for each in (versions(), found))
                raise BadRequest(f"{host} has {theirs}, this machine {ours}: install the same on all")
            self._actors.append(asked[ref])
        if not self._actors:
            raise BadRequest(f"no {kind} of the cluster was free for {START_SECONDS:.0f} s")

    def _actor(self, node: str) -> Actor:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On its machine or nowhere: where that is gone, what it had goes to the others.
        place = NodeAffinitySchedulingStrategy(node, soft=False)
        on_gpu = {"num_gpus": 1} if self.device.type == "cuda" else {}
        kind = ray.remote(RayWorker).options(
            num_cpus=1, max_restarts=-1, max_task_retries=1, scheduling_strategy=place, **on_gpu
        )
        return Actor(kind.remote(torch.get_num_threads(), os.getcwd(), max_file_size()), node)

    def map(
        self,
        function: Callable[[Task], Answer],
        tasks: Iterable[Task | None],
        *,
        at_once: int = 0,
        retry: bool = True,
        idle: Callable[[], None] = lambda: None,
        timeout: float = 0.0,  # refused by `executor_for`
    ) -> Answers[Task, Answer]:
        if not self._actors:
            with self:
                yield from self.map(function, tasks, at_once=at_once, retry=retry, idle=idle)
            return
        stage = Stage(function, iter(tasks), self._actors[: at_once or None], self._store, self._replaced)
        yield from stage.answers(retry=retry, idle=idle)

    def _replaced(self, dead: Actor) -> Actor | None:
        """Return an actor in the place of one that died for good, None where its machine is gone."""
        import ray

        self._actors.remove(dead)
        ray.kill(dead.handle)  # or it might hold what the new one waits for
        if dead.node not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
            return None
        self._actors.append(self._actor(dead.node))
        return self._actors[-1]
