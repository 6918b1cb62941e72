"""One step of the search against the published one, timed in turn in one process.

`python tests/benchmarks/draw.py --network resnet18 --batch 64`

Same network, batch and machine; the printed ratio is the median of the paired ratios. Channels-last and
bf16, which the published code lacks, are on our side only, when asked for.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from machine import processor
from published import network, our_step, published_step
from torch import Generator

from rstbench.networks.network import NetworkSpec
from rstbench.threat import Threat

THREAT = Threat.parse("Linf:8/255")
COLUMNS = ["network", "batch", "channels_last", "bf16", "repeats", "published", "ours", "ratio", "least"]
COLUMNS += ["largest", "threads", "processor", "torch"]


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds of one step."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def sides(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """One step of each side, ready to call."""
    generator, spec = Generator().manual_seed(0), NetworkSpec(args.network, (3, 32, 32), 10)
    x = torch.rand(args.batch, 3, 32, 32, generator=generator).to(args.device)
    y = torch.randint(0, 10, (args.batch,), generator=generator).to(args.device)
    found = {}
    for name, step in (("published", published_step(THREAT)), ("ours", our_step(THREAT))):
        ours = name == "ours"
        net, scores = network(spec, args.remaining, not ours, args.device)
        if ours and args.channels_last:
            net.to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(scores, 0.1, 0.9, weight_decay=5e-4)

        def run(net=net, optimiser=optimiser, step=step, bf16=ours and args.bf16):
            with torch.autocast(args.device, dtype=torch.bfloat16) if bf16 else nullcontext():
                step(net, optimiser, x, y)

        found[name] = run
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="conv4")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--remaining", default="0.1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path, help="CSV file to which a line is added")
    args = parser.parse_args()
    both = sides(args)
    for side in both.values():
        side()  # warm-up
    pairs = [[timed(side, args.device) for side in both.values()] for _ in range(args.repeats)]
    ratios = [theirs / ours for theirs, ours in pairs]
    on_gpu = args.device == "cuda"
    where = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    extras = [name for name in ("channels-last", "bf16") if getattr(args, name.replace("-", "_"))]
    print(", ".join([args.network, f"batch {args.batch}", where, f"torch {torch.__version__}", *extras]))
    for place, name in enumerate(both):
        seconds = statistics.median(pair[place] for pair in pairs)
        print(f"{name:>10}: {seconds:.3f} s a step, {args.batch / seconds:.1f} images/s")
    spread = f"{args.repeats} pairs: {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"     ratio: {statistics.median(ratios):.2f} ({spread})")
    if args.out:
        write(args, [statistics.median(pair[place] for pair in pairs) for place in (0, 1)], ratios)


def write(args: argparse.Namespace, seconds: list[float], ratios: list[float]) -> None:
    """Add a line to a table."""
    asked = [args.network, args.batch, args.channels_last, args.bf16, args.repeats]
    figures = [*seconds, statistics.median(ratios), min(ratios), max(ratios)]
    machine = torch.cuda.get_device_name() if args.device == "cuda" else processor()
    begins = not args.out.exists()
    with args.out.open("a", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if begins:
            table.writerow(COLUMNS)
        line = [*asked, *(f"{figure:.3f}" for figure in figures), torch.get_num_threads()]
        table.writerow([*line, machine, torch.__version__])


if __name__ == "__main__":
    main()
