"""Batch norm folded into the layer before it: in eval mode it is an affine map."""

from __future__ import annotations

import copy

import torch
import torch.fx
from torch import nn


def folded(traced: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Fold each batch norm into the layer that only it follows, in place; return the traced network."""
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, layer = layers[str(node.target)], layers[str(before.target)]
        if (
            isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d)
            and isinstance(layer, nn.Conv2d | nn.Linear)
            and norm.running_var is not None  # without statistics it depends on the batch
        ):
            traced.set_submodule(str(before.target), _fold(layer, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fold(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> nn.Module:
    """Return the fused layer: w' = s w, b' = (b - mean) s + shift with s = scale / sqrt(var + eps)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    fused = copy.deepcopy(layer)
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.double()
    bias = 0 if layer.bias is None else layer.bias.double()
    shift = 0 if norm.bias is None else norm.bias.double()
    column = scale.view(-1, *[1] * (layer.weight.dim() - 1))
    fused.weight = nn.Parameter((layer.weight.double() * column).to(layer.weight), requires_grad=False)
    fused.bias = nn.Parameter(
        ((bias - norm.running_mean.double()) * scale + shift).to(layer.weight), requires_grad=False
    )
    return fused
