"""Draw the weights of a random network from one seed, on the CPU, from no global state.

The initialisations are the lines of `INITS` in `networks.choices`, a distribution and a scale each: add one
there. A distribution that is not in `DISTRIBUTIONS` is added here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor

from ..errors import unknown
from ..networks.choices import INITS

Distribution = Callable[[Sequence[int], Generator], Tensor]


def random_weights(like: Mapping[str, Tensor], kind: str, seed: int) -> dict[str, Tensor]:
    """Draw float32 weights of the shapes of `like`, in its order, from one generator.

    Raises BadRequest for a kind that is none of `INITS`.
    """
    if kind not in INITS:
        raise unknown("initialisation", kind, INITS)
    init, generator = INITS[kind], Generator().manual_seed(seed)
    distribution = DISTRIBUTIONS[init.distribution]
    return {name: distribution(w.shape, generator) * init.scale(*fans(w)) for name, w in like.items()}


def seed_is_enough(kind: str) -> bool:
    """Return whether a seed gives the same bits on every machine: signs do, normal and uniform do not."""
    return INITS[kind].distribution == "signs"


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


def _signs(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1


def _normal(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    return 2 * torch.rand(shape, generator=generator) - 1


DISTRIBUTIONS: dict[str, Distribution] = {"signs": _signs, "normal": _normal, "uniform": _uniform}
