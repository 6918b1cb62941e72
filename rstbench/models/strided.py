"""Strided convolutions whose gradient for the input is a convolution forward, faster on CPUs where narrow.

Input pixels a stride apart (one phase) are read through the same taps of the kernel, so the gradient of each
phase is a plain convolution of the output's gradient: stride² times the channels, which `pixel_shuffle` lays
out. Only the order of sums differs from the library's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional

# Input channels: timed on kernels 1 to 7 of stride 2, 3 channels win 1.2x to 2.5x, 16 up to 1.4x, 32 lose.
MOST_CHANNELS = 16


def with_shuffled_gradients(traced: torch.fx.GraphModule) -> bool:
    """Give strided convolutions of few input channels the other gradient, in place; whether there were any.

    Their weights have to be frozen: they get no gradient.
    """
    names = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    found = {name: layer for name in names if _fits(layer := traced.get_submodule(name))}
    for name, layer in found.items():
        assert isinstance(layer, nn.Conv2d)
        traced.set_submodule(name, ShuffledConv2d(layer))
    return bool(found)


def _fits(layer: nn.Module) -> bool:
    """Whether a layer is a strided convolution that is alike in both directions, and narrow."""
    if type(layer) is not nn.Conv2d or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    square = all(len(set(pair)) == 1 for pair in (layer.kernel_size, layer.stride))
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return (
        square
        and zeros
        and layer.padding[0] == layer.padding[1]
        and layer.stride[0] > 1
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.in_channels <= MOST_CHANNELS
    )


class ShuffledConv2d(nn.Module):
    """A frozen strided convolution whose gradient for the input is a plain convolution, shuffled."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        stride, padding, size = convolution.stride[0], int(convolution.padding[0]), convolution.kernel_size[0]
        # Output pixel p reads pixel stride * p - padding + tap, so pixel stride * q + phase is read by
        # p = q - d through tap = stride * d + phase + padding, for d from `low` to `high`.
        self.low, self.high = -padding // stride, (size - 1 - padding) // stride
        before = -padding - stride * self.low  # zeros that make each d a full stride of taps
        after = stride * (self.high + 1) - (size - padding)
        taps = functional.pad(convolution.weight.detach(), (before, after, before, after))
        by_phase = taps.unflatten(3, (-1, stride)).unflatten(2, (-1, stride))  # out, in, d, phase, d, phase
        kernels = by_phase.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).flip(2, 3)
        self.register_buffer("kernels", kernels.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
            y: Tensor = self.convolution(x)  # compilers refuse functions with a `jvp`
        else:
            y = _Shuffled.apply(x, self)
        return y

    def input_gradient(self, gradient: Tensor, height: int, width: int) -> Tensor:
        """Return the gradient for images of a height and width from that of the output."""
        stride = self.convolution.stride[0]
        down, right = (
            -(-size // stride) - self.low - count
            for size, count in zip((height, width), gradient.shape[-2:], strict=True)
        )
        kernels = self.get_buffer("kernels")
        if down == right == self.high >= 0:
            phases = functional.conv2d(gradient, kernels, padding=self.high)
        else:
            phases = functional.conv2d(functional.pad(gradient, (self.high, right, self.high, down)), kernels)
        return functional.pixel_shuffle(phases, stride)[..., :height, :width]


class _Shuffled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, layer: ShuffledConv2d) -> Tensor:
        y: Tensor = layer.convolution(x)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ShuffledConv2d], output: Tensor) -> None:
        x, ctx.layer = inputs
        ctx.height, ctx.width = x.shape[-2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layer: ShuffledConv2d = ctx.layer
        return layer.input_gradient(gradients[0], ctx.height, ctx.width), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        plain = ctx.layer.convolution
        return functional.conv2d(tangents[0], plain.weight, None, plain.stride, plain.padding)
