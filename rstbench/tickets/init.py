"""Draw the weights of a random network from one seed, on the CPU, from no global state.

The initialisations are the rows of `INITS` in networks/choices.py: add one there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from ..errors import unknown
from ..networks.choices import INITS


def random_weights(like: Mapping[str, Tensor], kind: str, seed: int) -> dict[str, Tensor]:
    """Draw float32 weights of the shapes of `like`, in its order, from one generator.

    Raises BadRequest for a kind that is none of `INITS`.
    """
    if kind not in INITS:
        raise unknown("initialisation", kind, INITS)
    init, generator = INITS[kind], Generator().manual_seed(seed)
    return {name: init.distribution(w.shape, generator) * init.scale(*fans(w)) for name, w in like.items()}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{weight.dtype}|{tuple(weight.shape)}|".encode())
        digest.update(weight.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fans(weight: Tensor) -> tuple[int, int]:
    """Return fan in and fan out of an (out, in, …) weight."""
    return weight[0].numel(), weight.shape[0] * weight[0, 0].numel()
