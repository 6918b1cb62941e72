"""Mixed precision by casts in the graph: the first and the last layer stay in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.fx
from torch import Tensor, nn
from torch.fx.node import Node
from torch.nn.modules.conv import _ConvNd

_LAYERS = (_ConvNd, nn.Linear)
_EITHER = (nn.BatchNorm1d, nn.BatchNorm2d)  # float32 statistics, whatever comes in


def mixed(traced: torch.fx.GraphModule) -> bool:
    """Run convolutions and linear layers between the first and the last in bfloat16, in place.

    Returns whether there are any. Images, logits, and all other layers with parameters stay in float32: a
    pixel near 1 has steps of 1/256 in bfloat16, which cannot carry a perturbation.
    """
    layers = dict(traced.named_modules())
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    weighted = [node for node in calls if isinstance(layers[str(node.target)], _LAYERS)]
    outer = {node.target for node in (*weighted[:1], *weighted[-1:])}
    inner = {node.target for node in weighted} - outer
    for node in calls:
        layer = layers[str(node.target)]
        if node.target in inner:
            layer.to(torch.bfloat16)
            _cast_inputs(traced, node, torch.bfloat16)
        elif next(layer.parameters(), None) is not None and not isinstance(layer, _EITHER):
            _cast_inputs(traced, node, torch.float32)
    for node in traced.graph.nodes:
        if node.op == "output":
            _cast_inputs(traced, node, torch.float32)
    traced.recompile()
    return bool(inner)


def _cast_inputs(traced: torch.fx.GraphModule, node: Node, dtype: torch.dtype) -> None:
    for value in node.all_input_nodes:
        with traced.graph.inserting_before(node):
            node.replace_input_with(value, traced.graph.call_method("to", (value, dtype)))


def in_float32(module: nn.Module) -> bool:
    """Whether all numbers of a module are float32, so that lower precision means something."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point())


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 rather than imitating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 may not tell
    return any(bool(able.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))
