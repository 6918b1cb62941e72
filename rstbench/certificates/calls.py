"""Calls of functions and methods as operations that bounds can be propagated through."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node as Call
from torch.nn import functional

from .layers import Read, Refused, average_pool, flatten, global_average, max_pool, norm
from .operations import Operation, ReLU, Reshape, Scaling, Shape, Sum


def constant_of(module: nn.Module, path: str) -> Any:
    """Return an attribute of a module by its dotted path."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


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
    pool = global_average(1, shape)
    return [pool] if keepdim else [pool, Reshape(shape=shape[:1])]


def _arithmetic(target: Any, args: Sequence[Any], shapes: Sequence[Shape]) -> list[Operation]:
    """Read a residual sum, or a scaling by constants such as a normalisation."""
    sign = {operator.add: 1, torch.add: 1, operator.iadd: 1, operator.sub: -1, torch.sub: -1}
    if len(shapes) == 2:
        if sign.get(target) != 1 or shapes[0] != shapes[1]:
            raise Refused("combines two layers")
        return [Sum()]
    reads_first = isinstance(args[0], Call)
    other = args[1 if reads_first else 0]
    if isinstance(other, Call):
        raise Refused("has a constant that is not fixed")
    constant = torch.as_tensor(other, dtype=torch.float64)
    if constant.dim() > len(shapes[0]):
        constant = constant.view(constant.shape[1:]) if len(constant) == 1 else constant
    if constant.dim() > len(shapes[0]) or torch.broadcast_shapes(constant.shape, shapes[0]) != shapes[0]:
        raise Refused(f"has a constant of shape {tuple(constant.shape)}")
    one = torch.ones((), dtype=torch.float64, device=constant.device)
    if target in sign:
        own, added = (1, sign[target]) if reads_first else (sign[target], 1)
        return [Scaling(added * constant, scale=own * one)]
    if target in (operator.mul, torch.mul):
        return [Scaling(scale=constant)]
    if not reads_first:
        raise Refused("divides by a layer")
    return [Scaling(scale=1 / constant)]


_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.truediv, operator.iadd)
_ARITHMETIC_OF_TORCH = (torch.add, torch.sub, torch.mul, torch.div, torch.true_divide)
_METHODS = {
    "relu": torch.relu,
    "relu_": torch.relu_,
    "flatten": torch.flatten,
    "view": torch.reshape,
    "reshape": torch.reshape,
    "mean": torch.mean,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
}


def call_function(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Sequence[Shape]
) -> Read:
    """Return the operations of a function call, and whether it changes its input in place.

    args: with the tensors that the network holds; layers stand for themselves. shapes: of the layers.
    Raises Refused.
    """
    try:
        return _read(target, args, kwargs, shapes)
    except (TypeError, ValueError, RuntimeError):
        raise Refused("has arguments that are not known") from None


def call_method(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Sequence[Shape]) -> Read:
    """Do the same for a method of a tensor."""
    if target == "contiguous":
        return [], False
    if target not in _METHODS:
        raise Refused
    return call_function(_METHODS[target], args, kwargs, shapes)


def _read(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Sequence[Shape]) -> Read:
    shape, rest = shapes[0], args[1:]
    if target in (functional.relu, torch.relu, torch.relu_):
        return [ReLU()], target is torch.relu_ or bool(kwargs.get("inplace", rest[0] if rest else False))
    if target in (*_ARITHMETIC, *_ARITHMETIC_OF_TORCH) and not kwargs:
        return _arithmetic(target, args, shapes), target is operator.iadd
    if target is torch.mean:
        return _mean(shape, *rest, **kwargs), False
    if target is functional.dropout:
        return _dropout(*rest, **kwargs), False
    readings: dict[Any, Callable[..., Operation]] = {
        torch.flatten: flatten,
        torch.reshape: _reshape,
        functional.avg_pool2d: lambda shape, *a, **k: average_pool(*a, **k),
        functional.max_pool2d: lambda shape, *a, **k: max_pool(*a, **k),
        functional.adaptive_avg_pool2d: lambda shape, size: global_average(size, shape),
        functional.batch_norm: _norm_call,
    }
    if target not in readings:
        raise Refused
    return [readings[target](shape, *rest, **{_OUR_NAMES.get(k, k): v for k, v in kwargs.items()})], False


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
    return norm(running_mean, running_var, weight, bias, eps, shape)


_OUR_NAMES = {
    "start_dim": "start",
    "end_dim": "end",
    "output_size": "size",
    "kernel_size": "kernel",
    "ceil_mode": "ceil",
    "return_indices": "indices",
    "count_include_pad": "count_border",
    "divisor_override": "divisor",
}
