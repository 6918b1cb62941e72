"""What many tasks cost: the driver's own time and the store's bytes, and how well actors share the work.

`python tests/benchmarks/scale.py driver --tasks 1000 --tasks 10000` answers shards of 100 images at once, by
made-up bits: what remains is the driver's part, from the list of questions to the last line on the disk.
`python tests/benchmarks/scale.py actors --actors 1 --actors 2` attacks tickets in so many actors of Ray.
Each prints lines of CSV.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from machine import processor
from torch import nn

from rstbench.attacks import AttackSpec
from rstbench.data import Images, load
from rstbench.evaluation.circumstances import versions
from rstbench.evaluation.evaluate import EvalSetting, run_tasks
from rstbench.evaluation.executors import Executor, Local
from rstbench.evaluation.shard import Answer, Shard
from rstbench.evaluation.task import Task
from rstbench.evaluation.workers import executor_for
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult
from rstbench.models.wrapper import load_reference, wrap
from rstbench.threat import Threat

THREAT = Threat.parse("Linf:0.1")
IMAGES, BATCH = 10_000, 100
ATTACKS = [f"pgd:steps={steps}" for steps in range(10, 16)]
DRIVER = [
    "tasks",
    "questions",
    "folder",
    "seconds",
    "cpu_ms_a_task",
    "fsync_ms_a_task",
    "bytes_a_task",
    "mib",
]
ACTORS = ["actors", "shards", "shard_seconds", "seconds", "speedup", "efficiency", "ray"]
MACHINE = ["load", "processor", "torch"]


@dataclass(frozen=True)
class Canned(Local):
    """Answer at once: every second image is right."""

    def map(self, function: object, tasks: Iterator[Shard], **how: object) -> Iterator[tuple[Shard, Answer]]:  # type: ignore[override]
        for shard in tasks:
            bits = ("10" * len(shard.images))[: len(shard.images)]
            measured = ShardResult(shard.start, bits, {}, (), 2000, 1900, 1.0, "cpu", 1, versions())
            yield shard, Answer({trial.key: measured for trial in shard.trials})


@dataclass
class Timed:
    """A function, and how long it has taken."""

    function: Callable[[int], None]
    seconds: float = 0.0

    def __call__(self, number: int) -> None:
        began = time.perf_counter()
        self.function(number)
        self.seconds += time.perf_counter() - began


def driver(tasks: int, memory: bool) -> dict[str, object]:
    """Answer so many shards, into a folder in memory or on the disk of the temporary files."""
    pixels = torch.zeros(IMAGES, 1, 1, 1, dtype=torch.uint8)
    data = Images("zeros", pixels, torch.zeros(IMAGES, dtype=torch.int64), 10, "0" * 64)
    model = wrap(nn.Flatten(), ModelInfo("flatten", "external"))
    questions = tasks // (IMAGES // BATCH)
    asked = [
        Task(one, (one,), AttackSpec.parse(ATTACKS[number % len(ATTACKS)]), THREAT)
        for number in range(questions)
        for one in [replace(model, digest=f"{number // len(ATTACKS):064d}")]
    ]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if memory else None) as folder:
        store, fsync = Store(Path(folder)), Timed(os.fsync)
        os.fsync = fsync  # type: ignore[assignment]
        began, worked = time.perf_counter(), time.process_time()
        assert not run_tasks(asked, EvalSetting(data, BATCH, torch.device("cpu"), Canned()), store)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        os.fsync = fsync.function  # type: ignore[assignment]
        size = sum(path.stat().st_size for path in store.folder.iterdir())
    return {
        "tasks": tasks,
        "questions": questions,
        "folder": "memory" if memory else "disk",
        "seconds": round(seconds, 1),
        "cpu_ms_a_task": round(1000 * worked / tasks, 3),
        "fsync_ms_a_task": round(1000 * fsync.seconds / tasks, 3),
        "bytes_a_task": round(size / tasks),
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def work(files: list[Path], data: Images, executor: Executor, attack: str) -> tuple[float, float, int]:
    """Return (wall clock, mean seconds of a shard, shards) of one attack on some tickets."""
    models = [load_reference(f"ticket:{path}", data) for path in files]
    asked = [Task(model, (model,), AttackSpec.parse(attack), THREAT) for model in models]
    with tempfile.TemporaryDirectory() as folder:
        store, began = Store(Path(folder)), time.perf_counter()
        faults = run_tasks(asked, EvalSetting(data, 25, torch.device("cpu"), executor), store, returned=0)
        assert not faults, faults
        seconds = time.perf_counter() - began
        records = filter(None, map(store.read, store.keys()))
        spent = [shard.seconds for record in records for shard in record.shards]
    return seconds, sum(spent) / len(spent), len(spent)


def actors(count: int, files: list[Path], attack: str, alone: float) -> dict[str, object]:
    import ray

    data = load("digits:test:200")
    with executor_for(count, torch.device("cpu"), text="ray") as executor:
        work(files, load("digits:test:50"), executor, attack)  # actors load what they need
        seconds, shard_seconds, shards = work(files, data, executor, attack)
    alone = alone or seconds
    return {
        "actors": count,
        "shards": shards,
        "shard_seconds": round(shard_seconds, 2),
        "seconds": round(seconds, 1),
        "speedup": round(alone / seconds, 2),
        "efficiency": round(alone / seconds / count, 2),
        "ray": ray.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["driver", "actors"])
    parser.add_argument("--tasks", type=int, action="append")
    parser.add_argument("--actors", type=int, action="append")
    parser.add_argument("--tickets", type=Path, default=Path("leaderboards/digits/tickets"))
    parser.add_argument("--attack", default="apgd:loss=margin,steps=100")
    parser.add_argument(
        "--memory", action="store_true", help="a folder in /dev/shm, without a disk's waiting"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = [*(DRIVER if args.what == "driver" else ACTORS), *MACHINE]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    files, alone = sorted(args.tickets.glob("*.safetensors")), 0.0
    for count in (args.tasks or [1000]) if args.what == "driver" else (args.actors or [1, 2]):
        line = (
            driver(count, args.memory) if args.what == "driver" else actors(count, files, args.attack, alone)
        )
        alone = alone or float(str(line["seconds"]))
        line |= {"load": round(os.getloadavg()[0], 1), "processor": processor(), "torch": torch.__version__}
        writer.writerow(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
