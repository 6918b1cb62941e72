"""Keep subnormal numbers out of networks: processors compute with them several times slower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

# Far above the subnormal range of float32, 1.2e-38, so that products with small numbers stay out of it too.
TINY = 1e-30


def flush_to_zero(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with every number below `TINY` in magnitude as 0.0.

    Batch norm makes such numbers of the running statistics of a dead filter, by a factor of 0.9 at each step.
    """
    return {
        name: torch.where(tensor.abs() < TINY, 0.0, tensor) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def flush_buffers(net: nn.Module) -> None:
    """Do the same to a network's buffers, in place."""
    _flush(net.buffers())


def flush_network(net: nn.Module) -> None:
    """Do the same to a network's parameters and buffers, in place."""
    _flush((*net.parameters(), *net.buffers()))


def _flush(tensors: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point():
                tensor.masked_fill_(tensor.abs() < TINY, 0.0)
