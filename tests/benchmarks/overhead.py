"""What the harness takes beside the attack: an evaluation against bare calls of the same attack.

`python tests/benchmarks/overhead.py`

Both attack the ticket `rst-0.2` of leaderboards/digits on the same images in the same batches, exactly, in
this process on one thread. Bare is the attack called on the copy that `--crafting exact` attacks, and the
module's verdict on its images; the evaluation is `rstbench.evaluate`, which also asks the clean images,
checks each image and the model, stores the evidence and makes the table. Seconds are those of the processor.
The two run in turn. On a machine whose speed changes within minutes their ratio is noise: `outside` is what
the evaluation takes outside the attack's calls, as a share of what it takes in them. Prints a line a repeat.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from machine import processor
from torch import Generator

import rstbench
from rstbench.attacks import Attack, AttackSpec, Crafted
from rstbench.data import load
from rstbench.models.fast_copy import crafting_copy
from rstbench.models.wrapper import load_reference
from rstbench.threat import Threat

TICKET = "ticket:leaderboards/digits/tickets/rst-0.2-seed0.safetensors"
IMAGES, BATCH, THREAT = 400, 100, "Linf:0.1"


def bare(attack: str) -> tuple[float, int]:
    """Return the seconds of bare calls, and how many images stay right."""
    began = time.process_time()
    images, module, threat = (
        load(f"digits:test:{IMAGES}"),
        load_reference(TICKET).module,
        Threat.parse(THREAT),
    )
    call, right = AttackSpec.parse(attack).attack, 0
    for start in range(0, IMAGES, BATCH):
        x, y = images.at(slice(start, start + BATCH))
        crafted = call(crafting_copy(module, x), x, y, threat, Generator().manual_seed(start))
        with torch.no_grad():
            right += int((module(crafted.images).argmax(1) == y).sum())
    return time.process_time() - began, right


@contextmanager
def timed_calls(attack: str) -> Iterator[list[float]]:
    """Collect the seconds of each call of an attack."""
    seconds: list[float] = []
    kind = type(AttackSpec.parse(attack).attack)

    def call(self: Attack, *args: Any, **kwargs: Any) -> Crafted:
        began = time.process_time()
        crafted = original(self, *args, **kwargs)
        seconds.append(time.process_time() - began)
        return crafted

    original, kind.__call__ = kind.__call__, call  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        kind.__call__ = original  # type: ignore[method-assign]


def evaluated(attack: str) -> tuple[float, int]:
    """Return the seconds of an evaluation, and how many images stay right."""
    began = time.process_time()
    table = rstbench.evaluate(
        {"rst-0.2": TICKET},
        data=f"digits:test:{IMAGES}",
        threat=THREAT,
        attacks=attack,
        device="cpu",
        batch_size=BATCH,
        crafting="exact",
    )
    return time.process_time() - began, round(IMAGES * float(table[attack].iloc[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attack", default="pgd:restarts=20", help="in its canonical form")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rstbench.evaluate(
        {"first": TICKET}, data="digits:test:20", threat=THREAT, attacks="pgd:steps=1", device="cpu"
    )
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        [
            *("attack", "images", "bare", "evaluated", "overhead", "outside"),
            *("right_bare", "right", "processor", "torch"),
        ]
    )
    for _ in range(args.repeats):
        seconds, right_bare = bare(args.attack)
        with timed_calls(args.attack) as calls:
            whole, right = evaluated(args.attack)
        shares = [round(whole / seconds - 1, 4), round(whole / sum(calls) - 1, 4)]
        figures = [round(seconds, 2), round(whole, 2), *shares, right_bare, right]
        writer.writerow([args.attack, IMAGES, *figures, processor(), torch.__version__])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
