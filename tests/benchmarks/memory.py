"""Peak memory of an evaluation of 8 small models, on one batch of images and on all.

`python tests/benchmarks/memory.py --images 100 10000`

Each number of MNIST test images runs in a process of its own, PGD and a short AutoAttack on every model.
Prints a CSV table: images, MiB of the images, and peak MiB of the process.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import rstbench

MODELS, PIXELS = 8, 28 * 28
ATTACKS = ("pgd:steps=1", "autoattack:attacks=apgd-ce,iterations=2")


def net(seed: int) -> nn.Module:
    """A small random network."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 36, 10)).eval()


def evaluate(images: int, root: Path) -> None:
    """Evaluate all models and print the peak, in MiB."""
    models = {f"net-{seed}": net(seed) for seed in range(MODELS)}
    data = f"mnist:test:{images}"
    rstbench.evaluate(models, data=data, threat="Linf:0.1", attacks=ATTACKS, device="cpu", root=str(root))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RSTBENCH_DATA"))
    parser.add_argument("--one", type=int, help="evaluate so many images and print the peak")
    args = parser.parse_args()
    if args.one:
        evaluate(args.one, args.data_root)
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["models", "images", "mib_of_images", "peak_mib"])
    for images in args.images:
        command = [sys.executable, __file__, "--one", str(images), "--data-root", str(args.data_root)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        peak = float(found.stdout.split()[-1])
        table.writerow([MODELS, images, round(images * PIXELS * 4 / 2**20, 1), round(peak)])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
