"""How the weights of a random network are drawn: from one seed, on the CPU, from no global state.

fan_in is that of the layer, the gain that of ReLU (sqrt 2), for the classifier too, as in the code
of the RST paper.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from ..errors import unknown

Init = Callable[[Tensor, Generator], Tensor]


def random_weights(like: Mapping[str, Tensor], kind: str, seed: int) -> dict[str, Tensor]:
    """Fresh weights of the shapes of `like`, in its order, from one generator. float32, CPU.

    Raises BadRequest for a kind that is none of `INITS`.
    """
    if kind not in INITS:
        raise unknown("initialisation", kind, INITS)
    generator = Generator().manual_seed(seed)
    return {name: INITS[kind](weight, generator) for name, weight in like.items()}


def seed_is_enough(kind: str) -> bool:
    """Whether a seed gives the same bits on every machine: signs do, normal and uniform do not."""
    return kind in ("signed_constant", "binary")


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{weight.dtype}|{tuple(weight.shape)}|".encode())
        digest.update(weight.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fan_in(weight: Tensor) -> int:
    """Inputs of one output of a (out, in, …) weight."""
    return weight[0].numel()


def _signs(weight: Tensor, generator: Generator) -> Tensor:
    return torch.randint(0, 2, weight.shape, generator=generator).float() * 2 - 1


def _signed_constant(weight: Tensor, generator: Generator) -> Tensor:
    return _signs(weight, generator) * math.sqrt(2 / fan_in(weight))


def _kaiming_normal(weight: Tensor, generator: Generator) -> Tensor:
    return torch.randn(weight.shape, generator=generator) * math.sqrt(2 / fan_in(weight))


def _kaiming_uniform(weight: Tensor, generator: Generator) -> Tensor:
    bound = math.sqrt(6 / fan_in(weight))
    return (2 * torch.rand(weight.shape, generator=generator) - 1) * bound


def _xavier_normal(weight: Tensor, generator: Generator) -> Tensor:
    fan_out = weight.shape[0] * weight[0, 0].numel()
    return torch.randn(weight.shape, generator=generator) * math.sqrt(2 / (fan_in(weight) + fan_out))


INITS: dict[str, Init] = {
    "signed_constant": _signed_constant,
    "kaiming_normal": _kaiming_normal,
    "kaiming_uniform": _kaiming_uniform,
    "xavier_normal": _xavier_normal,
    "binary": _signs,
}
