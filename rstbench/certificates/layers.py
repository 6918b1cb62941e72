"""Torch's layers and functions as operations that bounds can be propagated through."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node as Call
from torch.nn import functional

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
    Sum,
)

# Batch norm in eval mode multiplies by weight / sqrt(var + eps) and adds bias - mean times that: eight
# roundings, and two for reciprocal square roots that are not rounded correctly.
NORM_ROUNDINGS = 10
Read = tuple[list[Operation], bool]


class Refused(Exception):
    """A layer that is not known; the text says why, where its type alone does not."""


def constant_of(module: nn.Module, path: str) -> Any:
    """Return an attribute of a module by its dotted path."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


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
        return _norm(layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps, shape)
    if kind is nn.MaxPool2d:
        return _max_pool(
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.ceil_mode,
            layer.return_indices,
        )
    if kind is nn.AvgPool2d:
        return _average_pool(
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.ceil_mode,
            layer.count_include_pad,
            layer.divisor_override,
        )
    if kind is nn.AdaptiveAvgPool2d:
        return _global_average(layer.output_size, shape)
    if kind is nn.Flatten:
        return _flatten(shape, layer.start_dim, layer.end_dim)
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


def _norm(
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


def _max_pool(
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


def _average_pool(
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


def _global_average(size: Any, shape: Shape) -> AveragePool:
    if _pair(size) != (1, 1) or len(shape) != 3:
        raise Refused(f"pools to {size}, not to 1")
    return AveragePool(kernel=(shape[1], shape[2]), stride=(shape[1], shape[2]))


def _flatten(shape: Shape, start: int = 0, end: int = -1) -> Reshape:
    size = len(shape) + 1
    start, end = start % size, end % size
    if start == 0:
        raise Refused("flattens the batch")
    merged = torch.Size(shape[start - 1 : end]).numel()
    return Reshape(shape=(*shape[: start - 1], merged, *shape[end:]))


def _reshape(shape: Shape, *sizes: Any) -> Reshape:
    """Read `x.view(n, -1)`, where n may be anything that stands for the batch."""
    first, *rest = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list | torch.Size) else sizes
    if not all(isinstance(size, int) for size in rest) or not (isinstance(first, Call) or first == -1):
        raise Refused("reshapes to sizes that are not fixed")
    target = torch.empty(1, *shape, device="meta").reshape(1, *rest)
    return Reshape(shape=tuple(target.shape[1:]))


def _mean(shape: Shape, dim: Any = None, keepdim: bool = False) -> list[Operation]:
    """Read a mean over both axes of an image."""
    if len(shape) != 3 or not isinstance(dim, tuple | list) or sorted(d % 4 for d in dim) != [2, 3]:
        raise Refused("averages over other axes than the image's")
    pool = _global_average(1, shape)
    return [pool] if keepdim else [pool, Reshape(shape=shape[:1])]


def _arithmetic(target: Any, args: Sequence[Any], shapes: Sequence[Shape]) -> list[Operation]:
    """Read a residual sum, or a scaling by constants such as a normalisation."""
    sign = {
        operator.add: 1,
        torch.add: 1,
        operator.iadd: 1,
        "add": 1,
        operator.sub: -1,
        torch.sub: -1,
        "sub": -1,
    }
    if len(shapes) == 2:
        if sign.get(target) != 1 or shapes[0] != shapes[1]:
            raise Refused("combines two layers")
        return [Sum()]
    reads_first = isinstance(args[0], Call)
    constant = torch.as_tensor(args[1 if reads_first else 0], dtype=torch.float64)
    if constant.dim() > len(shapes[0]):
        constant = constant.view(constant.shape[1:]) if len(constant) == 1 else constant
    if constant.dim() > len(shapes[0]) or torch.broadcast_shapes(constant.shape, shapes[0]) != shapes[0]:
        raise Refused(f"has a constant of shape {tuple(constant.shape)}")
    one = torch.ones((), dtype=torch.float64, device=constant.device)
    if target in sign:
        own, other = (1, sign[target]) if reads_first else (sign[target], 1)
        return [Scaling(other * constant, scale=own * one)]
    if target in (operator.mul, torch.mul, "mul"):
        return [Scaling(scale=constant)]
    if not reads_first:
        raise Refused("divides by a layer")
    return [Scaling(scale=1 / constant)]


_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.truediv, operator.iadd)
_ARITHMETIC_OF_TORCH = (torch.add, torch.sub, torch.mul, torch.div, torch.true_divide)
_METHODS = ("add", "sub", "mul", "div")


def call_function(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Sequence[Shape]
) -> Read:
    """Return the operations of a function call, and whether it changes its input in place.

    args: with the tensors that the network holds; layers stand for themselves. shapes: of the layers.
    Raises Refused.
    """
    shape, rest = shapes[0], args[1:]
    if target in (functional.relu, torch.relu, torch.relu_):
        return [ReLU()], target is torch.relu_ or bool(kwargs.get("inplace", rest[0] if rest else False))
    if target is functional.dropout:
        return _dropout(*rest, **kwargs), False
    if target in (*_ARITHMETIC, *_ARITHMETIC_OF_TORCH) and not kwargs:
        return _arithmetic(target, args, shapes), target is operator.iadd
    readings: dict[Any, Callable[..., Operation]] = {
        torch.flatten: _flatten,
        torch.reshape: _reshape,
        functional.avg_pool2d: lambda shape, *a, **k: _average_pool(*a, **_renamed(k)),
        functional.max_pool2d: lambda shape, *a, **k: _max_pool(*a, **_renamed(k)),
        functional.adaptive_avg_pool2d: lambda shape, size: _global_average(size, shape),
        functional.batch_norm: _norm_call,
    }
    if target is torch.mean:
        return _mean(shape, *rest, **kwargs), False
    if target not in readings:
        raise Refused
    names = {"start_dim": "start", "end_dim": "end", "output_size": "size", "input": "shape"}
    try:
        return [readings[target](shape, *rest, **{names.get(k, k): v for k, v in kwargs.items()})], False
    except (TypeError, RuntimeError):
        raise Refused("has arguments that are not known") from None


def call_method(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Sequence[Shape]) -> Read:
    """Do the same for a method of a tensor."""
    functions = {
        "relu": torch.relu,
        "relu_": torch.relu_,
        "flatten": torch.flatten,
        "view": torch.reshape,
        "reshape": torch.reshape,
        "mean": torch.mean,
    }
    if target == "contiguous":
        return [], False
    if target in _METHODS and not kwargs:
        return _arithmetic(target, args, shapes), False
    if target not in functions:
        raise Refused
    return call_function(functions[target], args, kwargs, shapes)


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> list[Operation]:
    if training:
        raise Refused("is random")
    return []


def _norm_call(
    shape: Shape,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Scaling:
    if training or running_var is None:
        raise Refused("depends on the batch")
    return _norm(running_mean, running_var, weight, bias, eps, shape)


def _renamed(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of pooling functions under our names."""
    names = {
        "kernel_size": "kernel",
        "ceil_mode": "ceil",
        "return_indices": "indices",
        "count_include_pad": "count_border",
        "divisor_override": "divisor",
    }
    return {names.get(key, key): value for key, value in kwargs.items()}


def _pair(value: Any) -> tuple[int, int]:
    """Return a size for both axes. Raises Refused for sizes that are not fixed."""
    first, second = value if isinstance(value, tuple | list) else (value, value)
    if not isinstance(first, int) or not isinstance(second, int):
        raise Refused("has sizes that are not fixed")
    return first, second
