"""Dead filters taken out of a traced network: those that give zeros only, or that no later layer reads."""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.node import Node
from torch.nn import functional

# Zeros stay zeros, channel by channel.
_RELU = (nn.ReLU, nn.ReLU6, functional.relu, torch.relu, "relu")
_SPATIAL = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, functional.max_pool2d, functional.avg_pool2d)
_FLAT = (nn.Flatten, torch.flatten, "flatten")
_PASSES = (*_RELU, *_SPATIAL, *_FLAT, nn.Dropout, nn.Identity)


def without_dead_filters(traced: torch.fx.GraphModule) -> bool:
    """Take dead filters out of layers that only the next one reads, in place; whether there were any.

    Batch norm is folded already. At low densities whole filters are masked. One that gives a constant other
    than zero stays.
    """
    pairs = _pairs(traced)
    found = False
    while any(_shrink(*pair) for pair in pairs):
        found = True  # a filter that is gone may have been all that an earlier one was read by
    return found


def _pairs(traced: torch.fx.GraphModule) -> list[tuple[nn.Module, nn.Module, bool]]:
    """Return (layer, the only layer that reads it, whether a ReLU lies between), last pair first."""
    nodes, layers = list(traced.graph.nodes), dict(traced.named_modules())
    pairs = []
    for node in reversed(nodes):
        first = _layer(node, layers)
        if first is None or sum(other.target == node.target for other in nodes) > 1:
            continue
        rectified, flat, after = False, isinstance(first, nn.Linear), node
        while len(after.users) == 1:
            after = next(iter(after.users))
            second = _layer(after, layers)
            if second is not None:
                once = sum(other.target == after.target for other in nodes) == 1
                if once and flat == isinstance(second, nn.Linear):
                    pairs.append((first, second, rectified))
                break
            kind = _kind(after, layers)
            if kind not in _PASSES or (kind in _FLAT and not _from_channels(after, layers)):
                break
            rectified |= kind in _RELU
            flat |= kind in _FLAT
    return pairs


def _layer(node: Node, layers: dict[str, nn.Module]) -> nn.Module | None:
    """Return the plain convolution or linear layer that a node calls."""
    layer = layers[str(node.target)] if node.op == "call_module" else None
    plain = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)
    hooked = layer is not None and bool(layer._forward_hooks or layer._forward_pre_hooks)
    return layer if plain and not hooked else None


def _kind(node: Node, layers: dict[str, nn.Module]) -> object:
    return type(layers[str(node.target)]) if node.op == "call_module" else node.target


def _from_channels(node: Node, layers: dict[str, nn.Module]) -> bool:
    """Whether a node flattens all but the images."""
    if node.op == "call_module":
        flatten = layers[str(node.target)]
        return bool(flatten.start_dim == 1 and flatten.end_dim == -1)
    return tuple(node.args[1:]) == (1,) and not node.kwargs


def _shrink(first: nn.Module, second: nn.Module, rectified: bool) -> bool:
    """Take the dead filters of a layer out of it and of what the next one reads; whether there were any."""
    weight, bias, reader = first.weight, first.bias, second.weight
    assert isinstance(weight, Tensor)
    assert isinstance(reader, Tensor)
    silent = weight.flatten(1).eq(0).all(1)
    if isinstance(bias, Tensor):
        silent &= bias <= 0 if rectified else bias == 0
    unread = reader.reshape(len(reader), len(weight), -1).eq(0).all(2).all(0)
    live = ~(silent | unread)
    live[0] |= not bool(live.any())  # a layer has one filter at least
    if bool(live.all()):
        return False
    kept = live.repeat_interleave(reader.shape[1] // len(weight))
    _replace(first, weight[live], bias[live] if isinstance(bias, Tensor) else None)
    _replace(second, reader[:, kept], second.bias)
    return True


def _replace(layer: nn.Module, weight: Tensor, bias: object) -> None:
    """Give a layer another weight and bias, and the numbers of channels that go with them."""
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if isinstance(bias, Tensor):
        layer.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    names = (
        ("out_features", "in_features") if isinstance(layer, nn.Linear) else ("out_channels", "in_channels")
    )
    for name, size in zip(names, weight.shape, strict=False):
        setattr(layer, name, size)
