"""Tensors of a state dict layer by layer, and layers matched by their order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.fx
from torch import Tensor, nn

# Counters that no answer in eval mode depends on: of batch norm, of torch's averaged models
# (torch.optim.swa_utils), and what the profiler thop leaves in every layer.
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")


# What torch puts into the names of what it wraps (compile, FSDP, checkpointing, DataParallel).
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")


def in_order(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Our names -> the file's, layer by layer, where the layers have the same tensors in the same order."""
    mine, theirs = (list(layers_of(side).values()) for side in (own, state))
    if len(mine) != len(theirs):
        return None
    names: dict[str, str] = {}
    for ours, other in zip(mine, theirs, strict=True):
        if ours.keys() != other.keys() or any(core(own[ours[k]]) != core(state[other[k]]) for k in ours):
            return None
        names |= {ours[leaf]: other[leaf] for leaf in ours}
    return names


def layers_of(state: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """The tensors of each layer, by its name, by the last part of theirs."""
    layers: dict[str, dict[str, str]] = {}
    for name in state:
        if not is_counter(name):
            layer, _, leaf = name.rpartition(".")
            layers.setdefault(layer, {})[leaf] = name
    return layers


def is_stack(module: nn.Module) -> bool:
    """Whether a module is layers one after the other."""
    if isinstance(module, nn.Sequential):
        return all(map(is_stack, module))
    return not list(module.children()) and not isinstance(module, torch.fx.GraphModule)


def is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def unwrapped(name: str) -> str:
    """A name without the parts that torch's wrappers add, wherever they are."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def core(tensor: Tensor) -> tuple[int, ...]:
    """A shape without the trailing ones of a 1x1 kernel."""
    sizes = list(tensor.shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def like(tensor: Tensor, wanted: Tensor) -> Tensor:
    """The tensor in the shape that is wanted, where a 1x1 kernel stands for a matrix or the other way."""
    return tensor.reshape(wanted.shape) if core(tensor) == core(wanted) else tensor
