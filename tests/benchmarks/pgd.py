"""PGD-20 beside foolbox, torchattacks and adv-lib: the same model, images, start, step and number of steps.

`python tests/benchmarks/pgd.py --file small-cifar=FILE --repeats 5`

The others are not needed by this project: install them into a folder apart, without dependencies, and put
it on PYTHONPATH. Sides run in turn in one process on one thread, after a warm-up; the choice of our copy,
which a question makes once for all its images, is a column of its own. `+flush` computes with zeros in place
of subnormal numbers. `--out`/pgd.csv has a line a work and side: median seconds, and the others' over ours.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from attack_sides import Work, normalised_cifar
from machine import processor
from torch import Generator, Tensor
from verdicts import mnist_lenet

from rstbench.attacks.pgd import PGD
from rstbench.data import load
from rstbench.models.fast_copy import make_copy, plan_copy
from rstbench.models.wrapper import load_reference
from rstbench.threat import Threat

TICKET = "ticket:leaderboards/digits/tickets/rst-0.2-seed0.safetensors"
STEPS, STEP = 20, 0.25  # of eps
COLUMNS = [
    "work",
    "images",
    "threat",
    "side",
    "seconds",
    "ratio",
    "ratio_low",
    "ratio_high",
    "robust",
    "choice",
]
COLUMNS += ["repeats", "threads", "processor", "torch"]
Side = Callable[[Work], Tensor]


def foolbox(work: Work) -> Tensor:
    import foolbox as theirs

    model = theirs.PyTorchModel(work.module, bounds=(0, 1), device="cpu")
    attack = theirs.attacks.LinfPGD(steps=STEPS, rel_stepsize=STEP)
    found: Tensor = attack(model, work.x, work.y, epsilons=float(work.threat.eps))[1]
    return found


def torchattacks(work: Work) -> Tensor:
    import torchattacks as theirs

    eps = float(work.threat.eps)
    found: Tensor = theirs.PGD(work.module, eps=eps, alpha=STEP * eps, steps=STEPS)(work.x, work.y)
    return found


def adv_lib(work: Work) -> Tensor:
    from adv_lib.attacks import pgd_linf

    found: Tensor = pgd_linf(
        work.module, work.x, work.y, float(work.threat.eps), steps=STEPS, relative_step_size=STEP
    )
    return found


def ours(work: Work) -> Tensor:
    return PGD(steps=STEPS)(work.module, work.x, work.y, work.threat, Generator().manual_seed(0)).images


OTHERS: dict[str, Side] = {"foolbox": foolbox, "torchattacks": torchattacks, "adv-lib": adv_lib}


def works(files: dict[str, Path], root: Path | None, images: int) -> dict[str, Callable[[], Work]]:
    def work(module: torch.nn.Module, data: str, threat: str) -> Work:
        x, y = load(data, *([root] if root else [])).at(slice(None))
        return Work(module.eval().requires_grad_(False), x, y, Threat.parse(threat))

    return {
        "digits": lambda: work(load_reference(TICKET).module, "digits:test:400", "Linf:0.1"),
        "small-cifar": lambda: work(
            normalised_cifar(files["small-cifar"]), f"cifar10:test:{images}", "Linf:2/255"
        ),
        "mnist": lambda: work(mnist_lenet(files["mnist"]), f"mnist:test:{images}", "Linf:0.3"),
    }


def compare(name: str, work: Work, repeats: int) -> list[dict[str, object]]:
    began = time.perf_counter()
    copy = make_copy(work.module, plan_copy(work.module, work.x), work.x)
    choice = time.perf_counter() - began
    sides: dict[str, tuple[Side, Work, bool]] = {
        "ours": (ours, Work(copy, work.x, work.y, work.threat), False),
        **{side: (attack, work, False) for side, attack in OTHERS.items()},
        **{f"{side}+flush": (attack, work, True) for side, attack in OTHERS.items()},
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    robust = {}
    for repeat in range(repeats + 1):
        for side, (attack, model, flush) in sides.items():
            torch.set_flush_denormal(flush)
            began = time.perf_counter()
            images = attack(model)
            taken = time.perf_counter() - began
            torch.set_flush_denormal(False)
            if repeat:  # the first is the warm-up
                seconds[side].append(taken)
            with torch.no_grad():
                robust[side] = int((work.module(images).argmax(1) == work.y).sum())
    lines = []
    for side, taken_ in seconds.items():
        ratios = [theirs / own for theirs, own in zip(taken_, seconds["ours"], strict=True)]
        lines.append(
            {
                "work": name,
                "images": len(work.x),
                "threat": str(work.threat),
                "side": side,
                "seconds": round(statistics.median(taken_), 3),
                "ratio": round(statistics.median(ratios), 2),
                "ratio_low": round(min(ratios), 2),
                "ratio_high": round(max(ratios), 2),
                "robust": robust[side],
                "choice": round(choice, 2) if side == "ours" else "",
                "repeats": repeats,
                "threads": torch.get_num_threads(),
                "processor": processor(),
                "torch": torch.__version__,
            }
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs="+", default=["digits", "small-cifar", "mnist"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--file", action="append", default=[], help="small-cifar=PATH, mnist=PATH")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RSTBENCH_DATA"))
    parser.add_argument("--out", type=Path, default=Path("leaderboards/speed"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = {name: Path(path) for name, _, path in (text.partition("=") for text in args.file)}
    every = works(files, args.data_root, args.images)
    lines = [line for name in args.work for line in compare(name, every[name](), args.repeats)]
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "pgd.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    for line in lines:
        print(*(line[column] for column in ("work", "side", "seconds", "ratio", "robust")))


if __name__ == "__main__":
    main()
