"""Batch norm folded into the layer before it: in eval mode it is an affine map."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.fx.node import Node
from torch.nn import functional


def folded(traced: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Fold each batch norm into the layer that only it follows, in place; return the traced network."""
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm = _norm(traced, layers, node)
        before = node.args[0] if norm is not None and node.args else None
        if not isinstance(before, Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer = layers[str(before.target)]
        calls = sum(other.target == before.target for other in traced.graph.nodes)
        if isinstance(layer, nn.Conv2d | nn.Linear) and calls == 1:
            traced.set_submodule(str(before.target), _fold(layer, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    for node in list(traced.graph.nodes):
        if node.op == "get_attr" and not node.users:  # statistics of norms that were calls
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _norm(traced: torch.fx.GraphModule, layers: dict[str, nn.Module], node: Node) -> Any:
    """Return the batch norm that a node is, a module or a call; None for others.

    One without statistics, or in training mode, depends on the batch: it is none.
    """
    if node.op == "call_module":
        norm = layers[str(node.target)]
        known = isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d) and norm.running_var is not None
        return norm if known else None
    if node.op != "call_function" or node.target is not functional.batch_norm:
        return None
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    tensors = {name: given.get(name) for name in names[1:5]}
    for name, value in tensors.items():
        if isinstance(value, Node):
            tensors[name] = _attribute(traced, str(value.target)) if value.op == "get_attr" else None
    fixed = given.get("training", False) is False and tensors["running_var"] is not None
    complete = all((tensors[name] is None) == (given.get(name) is None) for name in tensors)
    return SimpleNamespace(**tensors, eps=given.get("eps", 1e-5)) if fixed and complete else None


def _attribute(module: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _fold(layer: nn.Conv2d | nn.Linear, norm: Any) -> nn.Module:
    """Return the fused layer: w' = s w, b' = (b - mean) s + shift with s = scale / sqrt(var + eps)."""
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
