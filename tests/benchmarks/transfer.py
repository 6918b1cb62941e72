"""A transfer matrix of the eight tickets of a random network, by this tool and by the published protocol.

`python tests/benchmarks/transfer.py --images 400`

The published protocol (Fu et al. 2021) crafts anew for every pair of source and target, on the module as it
is shipped, with `loss.backward()`; ours is the verb `transfer` with everything it stores and writes. Both
take 20 steps of eps/4 from a random start, on one thread, in turn. Prints seconds and the ratio of each
repeat.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import processor
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from rstbench.attacks import AttackSpec
from rstbench.data import load
from rstbench.models.wrapper import load_reference
from rstbench.progress import Silent
from rstbench.references import DataReference, Reference
from rstbench.study.run import Options
from rstbench.study.transfer import run_transfer
from rstbench.threat import Threat

RATIOS = ("0.03", "0.05", "0.07", "0.1", "0.15", "0.2", "0.4", "0.6")
REFERENCES = [f"ticket:leaderboards/switch/digits/tickets/rst-{ratio}-seed0.safetensors" for ratio in RATIOS]
THREAT = Threat.parse("Linf:0.1")


def craft(net: nn.Module, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """PGD as it is published: the last iterate of 20 steps, by `loss.backward()`."""
    adv, size = THREAT.sample(x, generator), float(THREAT.eps) / 4
    for _ in range(20):
        adv = adv.detach().requires_grad_()
        cross_entropy(net(adv), y).backward()
        assert adv.grad is not None
        adv = torch.clamp(adv.detach() + size * adv.grad.sign(), x - float(THREAT.eps), x + float(THREAT.eps))
        adv = adv.clamp(0, 1)
    return adv


def published(images: int) -> None:
    nets = [load_reference(text).module.eval() for text in REFERENCES]
    x, y = load(f"digits:test:{images}").at(slice(None))
    for target in nets:
        for source in nets:
            adv = craft(source, x, y, Generator().manual_seed(0))
            with torch.no_grad():
                (target(adv).argmax(1) == y).float().mean()


def ours(images: int) -> None:
    references = [Reference.parse(text) for text in REFERENCES]
    data = DataReference.parse(f"digits:test:{images}")
    with tempfile.TemporaryDirectory() as folder:
        options = Options(Path(folder), device="cpu", batch=str(images), report=False)
        asked = [AttackSpec.parse("pgd")], [THREAT], data, 0, False, options, Silent()
        run_transfer(references, *asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("repeat,images,seconds,seconds_published,ratio,processor,torch")
    ratios = []
    for repeat in range(args.repeats):
        taken = []
        for side in (ours, published):
            began = time.perf_counter()
            side(args.images)
            taken.append(time.perf_counter() - began)
        ratios.append(taken[1] / taken[0])
        parts = repeat, args.images, f"{taken[0]:.2f}", f"{taken[1]:.2f}", f"{ratios[-1]:.2f}"
        print(*parts, processor().replace(",", ";"), torch.__version__, sep=",", flush=True)
    print(f"median,{args.images},,,{statistics.median(ratios):.2f},,")


if __name__ == "__main__":
    main()
