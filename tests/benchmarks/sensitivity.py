"""How sensitive a network may be: the product of its layers' operator norms over its mean margin.

`python tests/benchmarks/sensitivity.py --data digits:test:50 ticket:FILE checkpoint:FILE`

Batch norm is folded into the layer before it; norms are those of the linear maps between feature maps, by
power iteration on float64. The margin is the mean over images that the network gets right. Prints a CSV line
a model.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from rstbench.data import load
from rstbench.models.traced_copy import traced
from rstbench.models.wrapper import load_reference

ITERATIONS = 100


def operator_norm(layer: nn.Conv2d | nn.Linear, shape: torch.Size) -> float:
    """Return the largest singular value of a layer without its bias, on inputs of this shape."""
    x = torch.randn((1, *shape[1:]), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zero = layer(torch.zeros_like(x))
    for _ in range(ITERATIONS):
        x = (x / x.norm()).requires_grad_(True)
        y = layer(x) - zero
        x = torch.autograd.grad(y, x, y.detach())[0]
    return math.sqrt(float(x.norm()))


def sensitivity(module: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return (product of the norms, mean margin)."""
    net = traced(module).double()
    shapes: dict[str, torch.Size] = {}
    layers = {n: part for n, part in net.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, inputs, name=name: shapes.update({name: inputs[0].shape}))
    with torch.no_grad():
        logits = net(x.double())
    product = math.prod(operator_norm(layer, shapes[name]) for name, layer in layers.items())
    right = logits.argmax(1) == y
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return product, float((own - others)[right].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", default="digits:test:50")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RSTBENCH_DATA"))
    args = parser.parse_args()
    x, y = load(args.data, *([args.data_root] if args.data_root else [])).at(slice(None))
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["model", "norms", "margin", "norms_over_margin"])
    for reference in args.models:
        product, margin = sensitivity(load_reference(reference).module.eval(), x, y)
        table.writerow([Path(reference).stem, f"{product:.4g}", f"{margin:.4g}", f"{product / margin:.4g}"])


if __name__ == "__main__":
    main()
