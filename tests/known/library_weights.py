"""Weights for networks of the libraries that tell one layer from another."""

from __future__ import annotations

import math

import torch

SPREAD = 1e-3  # of the largest logit


def scattered(net, seed=0):
    """The network with random weights and statistics, under which no layer is idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() > 1:
                reach = math.sqrt(3 / max(1, tensor[0].numel()))
                tensor.uniform_(-reach, reach, generator=generator)
            else:
                tensor.uniform_(0.5, 1.0, generator=generator)
    return net.eval()


class Trap:
    def __reduce__(self):
        return print, ("code was run",)
