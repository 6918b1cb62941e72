"""One step of the search against the published one, timed in turn in one process.

`python tests/benchmarks/draw.py --network resnet18 --batch 64`

Same network, batch and machine; the printed ratio is the median of the paired ratios. Channels-last and
bf16, which the published code lacks, are on our side only, when asked for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from published import network, our_step, published_step
from torch import Generator

from rstbench.networks.network import NetworkSpec
from rstbench.threat import Threat

THREAT = Threat.parse("Linf:8/255")


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


if __name__ == "__main__":
    main()
