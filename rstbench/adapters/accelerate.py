"""A faster copy of a network for crafting. It never judges: the exact module does.

Batch norm in eval mode is an affine map, so it folds into the layer before it; convolutions run in
channels-last order. Logits differ from the exact ones by rounding.
"""

from __future__ import annotations

import copy

import torch
import torch.fx
from torch import Tensor, nn

AGREE = 1e-4  # largest difference of logits, relative to the largest logit, for a copy to be used


def crafting_copy(module: nn.Module, x: Tensor) -> nn.Module:
    """A folded channels-last copy of a network that this tool built; the module itself where it cannot
    be traced, or where the copy's logits on `x` (n, c, h, w) disagree.

    module: in eval mode, frozen. Gradients for images come back contiguous.
    """
    with torch.no_grad():
        exact = module(x)
    try:
        fast = ChannelsLast(_folded(torch.fx.symbolic_trace(copy.deepcopy(module))))
        with torch.no_grad():
            near = fast(x)
    except (torch.fx.proxy.TraceError, RuntimeError, TypeError, ValueError):
        return module
    same = exact.argmax(1).equal(near.argmax(1))
    close = (exact - near).abs().max() <= AGREE * exact.abs().max()
    return fast if same and bool(close) else module


class ChannelsLast(nn.Module):
    """A network whose convolutions run in channels-last order behind contiguous images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last).requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            # AutoAttack calls `.view` on gradients: hand them back as the images came.
            x = x.view_as(x)
            x.register_hook(_contiguous)
        logits: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return logits


def _contiguous(gradient: Tensor) -> Tensor:
    return gradient.contiguous()


def _folded(traced: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The traced network with each batch norm that alone follows a layer folded into it, in place."""
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
    """One layer that does both: w' = s w, b' = (b - mean) s + shift, s = scale / sqrt(var + eps)."""
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
