"""Torch's layers as operations that bounds can be propagated through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .operations import (
    AveragePool,
    Convolution,
    FullyConnected,
    MaxPool,
    Operation,
    ReLU,
    Reshape,
    Scaling,
    Shape,
)

# Batch norm in eval mode multiplies by weight / sqrt(var + eps) and adds bias - mean times that: eight
# roundings, and two for reciprocal square roots that are not rounded correctly.
NORM_ROUNDINGS = 10
Read = tuple[list[Operation], bool]


class Refused(Exception):
    """A layer that is not known; the text says why, where its type alone does not."""


def call_module(layer: nn.Module, shape: Shape) -> Read:
    """Return the operations of a layer that reads values of a shape, and whether it changes them in place.

    Raises Refused.
    """
    if type(layer) in (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d):
        return [], False
    if type(layer) is nn.ReLU:
        return [ReLU()], layer.inplace
    return [_module(layer, shape)], False


def _module(layer: Any, shape: Shape) -> Operation:
    kind = type(layer)
    if kind is nn.Conv2d:
        return _convolution(layer)
    if kind is nn.Linear and len(shape) == 1:
        return FullyConnected(layer.bias, weight=layer.weight)
    if kind in (nn.BatchNorm2d, nn.BatchNorm1d) and layer.running_var is not None:
        return norm(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps, shape)
    if kind is nn.MaxPool2d:
        return max_pool(
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.ceil_mode,
            layer.return_indices,
        )
    if kind is nn.AvgPool2d:
        return average_pool(
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.ceil_mode,
            layer.count_include_pad,
            layer.divisor_override,
        )
    if kind is nn.AdaptiveAvgPool2d:
        return global_average(layer.output_size, shape)
    if kind is nn.Flatten:
        return flatten(shape, layer.start_dim, layer.end_dim)
    raise Refused


def _convolution(layer: nn.Conv2d) -> Convolution:
    padding = layer.padding
    if layer.padding_mode != "zeros":
        raise Refused(f"pads with {layer.padding_mode!r}")
    if isinstance(padding, str):
        around = layer._reversed_padding_repeated_twice  # left, right, top, bottom
        if around[::2] != around[1::2]:
            raise Refused("pads one side more than the other")
        padding = (around[2], around[0])
    offset = None if layer.bias is None else layer.bias.view(-1, 1, 1)
    stride, dilation = _pair(layer.stride), _pair(layer.dilation)
    return Convolution(
        offset,
        weight=layer.weight,
        stride=stride,
        padding=_pair(padding),
        dilation=dilation,
        groups=layer.groups,
    )


def norm(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, shape: Shape
) -> Scaling:
    """Return batch norm in eval mode: an affine map of each channel."""
    scale = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
    bias = torch.zeros_like(mean) if bias is None else bias
    column = (-1, *[1] * (len(shape) - 1))
    return Scaling(
        (bias - mean * scale).view(column),
        (bias.abs() + (mean * scale).abs()).view(column),
        NORM_ROUNDINGS,
        scale=scale.view(column),
    )


def max_pool(
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil: bool = False,
    indices: bool = False,
) -> MaxPool:
    if ceil or indices:
        raise Refused("rounds its size up" if ceil else "returns indices")
    return MaxPool(_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation))


def average_pool(
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil: bool = False,
    count_border: bool = True,
    divisor: int | None = None,
) -> AveragePool:
    return AveragePool(
        kernel=_pair(kernel),
        stride=_pair(stride or kernel),
        padding=_pair(padding),
        ceil=ceil,
        count_border=count_border,
        divisor=divisor,
    )


def global_average(size: Any, shape: Shape) -> AveragePool:
    if _pair(size) != (1, 1) or len(shape) != 3:
        raise Refused(f"pools to {size}, not to 1")
    return AveragePool(kernel=(shape[1], shape[2]), stride=(shape[1], shape[2]))


def flatten(shape: Shape, start: int = 0, end: int = -1) -> Reshape:
    size = len(shape) + 1
    start, end = start % size, end % size
    if start == 0:
        raise Refused("flattens the batch")
    merged = torch.Size(shape[start - 1 : end]).numel()
    return Reshape(shape=(*shape[: start - 1], merged, *shape[end:]))


def _pair(value: Any) -> tuple[int, int]:
    """Return a size for both axes. Raises Refused for sizes that are not fixed."""
    first, second = value if isinstance(value, tuple | list) else (value, value)
    if not isinstance(first, int) or not isinstance(second, int):
        raise Refused("has sizes that are not fixed")
    return first, second
