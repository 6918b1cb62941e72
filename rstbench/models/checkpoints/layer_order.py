"""Group the tensors of a state dict by layer, and match layers by their order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.fx
from torch import Tensor, nn

# Counters that no output in eval mode depends on: of batch norm, of torch's averaged models
# (torch.optim.swa_utils), and of the profiler thop.
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
# What torch's wrappers put into names (compile, FSDP, checkpointing, DataParallel).
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")


def match_in_order(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Map our names to the file's where the layers have the same tensors in the same order, else None."""
    own_layers, layers = (list(layers_of(side).values()) for side in (own, state))
    if len(own_layers) != len(layers):
        return None
    names: dict[str, str] = {}
    for ours, theirs in zip(own_layers, layers, strict=True):
        if _shapes(ours, own) != _shapes(theirs, state):
            return None
        names |= {ours[leaf]: theirs[leaf] for leaf in ours}
    return names


def _shapes(layer: Mapping[str, str], state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {leaf: core_shape(state[name]) for leaf, name in layer.items()}


def layers_of(state: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Return {layer: {last part of the name: name}} of the tensors of a state dict."""
    layers: dict[str, dict[str, str]] = {}
    for name in state:
        if not is_counter(name):
            layer, _, leaf = name.rpartition(".")
            layers.setdefault(layer, {})[leaf] = name
    return layers


def is_sequential(module: nn.Module) -> bool:
    """Whether a module is a sequence of layers without branches."""
    if isinstance(module, nn.Sequential):
        return all(map(is_sequential, module))
    return not list(module.children()) and not isinstance(module, torch.fx.GraphModule)


def is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def without_wrappers(name: str) -> str:
    """Return a name without the parts that torch's wrappers add, wherever they are."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def without_common_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the first part that all names share; return nothing where they share none."""
    prefixes = {name.partition(".")[0] for name in state}
    if len(prefixes) != 1 or not all("." in name for name in state):
        return {}
    return {name.partition(".")[2]: tensor for name, tensor in state.items()}


def core_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return a shape without the trailing ones of a 1x1 kernel."""
    sizes = list(tensor.shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def reshape_like(tensor: Tensor, target: Tensor) -> Tensor:
    """Return the tensor in the target's shape, where only trailing ones differ (1x1 kernels and matrices)."""
    return tensor.reshape(target.shape) if core_shape(tensor) == core_shape(target) else tensor
