"""What a value is, and what it holds: containers, objects, functions and modules taken apart.

The one place that knows how to look into a model beyond what torch registers: a mask in a list, a network in
a dictionary, a grey level in a private attribute, a tensor that a lambda closes over.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import gc
import inspect
import re
import sys
import types
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .plain import BUILTIN_FUNCTIONS, bookkeeping, is_plain, is_workings, is_written, of_library

_OF_EVERY_CLASS = ("_abc_impl", "_is_protocol", "_is_runtime_protocol")
_OF_OTHERS = ("timm", "robustbench", "onnx2torch", "functools", "typing", "abc", "enum", "collections")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What leads from any value to the whole program.
_OF_THE_PROGRAM = (type, types.ModuleType, types.FunctionType, types.FrameType, types.CodeType)
Parts = Iterator[tuple[str, Any]]


class Unreadable(Exception):
    """A value that cannot be taken apart: an open file, a lock, an object of torch's own workings."""


def parts(value: Any) -> Parts:
    """Everything directly inside a value, each with a label. Raises Unreadable.

    Where order means nothing, as in sets, the order is any. Weights and buffers of a module come before its
    other attributes.
    """
    if isinstance(value, nn.Module):
        yield from _of_module(value)
        yield from _of_class(type(value))
    elif isinstance(value, Tensor):
        yield from vars(value).items()
    elif isinstance(value, type):
        yield from _of_type(value)
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, types.MethodType):
        yield from (("function", value.__func__), ("self", value.__self__))
    elif isinstance(value, functools.partial):
        yield from (("function", value.func), ("arguments", value.args), ("keywords", value.keywords))
        yield from vars(value).items()
    elif isinstance(value, property):
        yield from (("get", value.fget), ("set", value.fset), ("delete", value.fdel))
    elif isinstance(value, staticmethod | classmethod):
        yield "function", value.__func__
    elif isinstance(value, BUILTIN_FUNCTIONS):
        yield "self", getattr(value, "__self__", None)
    elif isinstance(value, weakref.ref):
        yield "referent", value()
    elif isinstance(value, types.MappingProxyType):
        yield "mapping", dict(value)
    elif isinstance(value, enum.Enum):
        yield "value", value.value
        yield from _of_class(type(value))
    elif type(value) is np.ndarray:
        yield from enumerated(value.tolist())
    elif not isinstance(value, types.ModuleType | PurePath | torch.Generator | types.CodeType):
        yield from _of_object(value)


def enumerated(values: Any) -> Parts:
    """Values labelled by their places."""
    return ((str(place), value) for place, value in enumerate(values))


def walk(value: Any) -> Parts:
    """Everything that a value holds, itself first, each once and with the path that led to it.

    Of what cannot be taken apart it looks into what the garbage collector sees.
    """
    seen: dict[int, Any] = {}  # the values are kept, or their ids might be used again
    waiting = [("", value)]
    while waiting:
        path, one = waiting.pop()
        if id(one) in seen or is_plain(one):
            continue
        seen[id(one)] = one
        yield path, one
        try:
            inside = list(parts(one))
        except Unreadable:
            inside = [] if is_workings(one) else [("?", found) for found in _referents(one)]
        waiting += [(f"{path}.{label}".lstrip("."), found) for label, found in reversed(inside)]


def is_of_libraries(module: nn.Module) -> bool:
    """Whether a model is of torch's, torchvision's, timm's and this tool's code alone."""
    for _, one in walk(module):
        known = one if isinstance(one, type | types.FunctionType) else type(one)
        if isinstance(one, nn.Module | type | types.FunctionType) and not of_library(known):
            name = (
                one.__globals__.get("__name__") if isinstance(one, types.FunctionType) else known.__module__
            )
            if str(name).partition(".")[0] not in _OF_OTHERS:
                return False
    return True


def _referents(value: Any) -> list[Any]:
    found = [one for one in gc.get_referents(value) if not isinstance(one, _OF_THE_PROGRAM)]
    return [one for one in found if not (isinstance(one, dict) and "__builtins__" in one)]


def hidden_from_torch(part: nn.Module) -> Parts:
    """The attributes of one module, torch's own bookkeeping aside, that are neither registered nor plain
    tensors: what `parameters()`, `buffers()` and `modules()` do not tell."""
    if hooks := hooks_of(part):
        yield "_hooks", hooks
    kind: type = type(part)
    own = bookkeeping(kind)
    graph = str(getattr(part, "code", "")) if isinstance(part, torch.fx.GraphModule) else None
    if "_packed_params" in vars(part) and hasattr(part, "_weight_bias"):
        yield "_packed_params", list(part._weight_bias())  # type: ignore[operator]  # lies in C
    internal = of_library(kind) and not kind.__module__.startswith(("torch.nn.", "torchvision.", "rstbench."))
    compiled = kind.__module__.startswith("torch._dynamo")  # another way to run what it holds
    for name, value in () if compiled else vars(part).items():
        if name == "training" or isinstance(value, Tensor | torch.ScriptMethod):
            continue
        if name in own and name.startswith("_") and not hasattr(kind, name) and not _is_opaque(part, name):
            continue
        # A traced graph is its code; what the code does not name is notes of the tracer.
        named = graph is None or name == "forward" or re.search(rf"\bself\.{re.escape(name)}\b", graph)
        if not named:
            continue
        if internal and is_workings(value):
            continue
        yield name, value
    if isinstance(part, torch.jit.ScriptModule):
        yield from _of_script(part)


def _is_opaque(part: nn.Module, name: str) -> bool:
    """Whether an attribute is an object of TorchScript whose content nothing tells."""
    value = vars(part)[name]
    is_object = isinstance(value, torch.ScriptObject) and not isinstance(value, torch._C.ScriptModule)
    return is_object and not (name == "_packed_params" and hasattr(part, "_weight_bias"))


def hooks_of(part: nn.Module) -> list[Any]:
    """What is called before and after a module, forwards and backwards."""
    return [hook for kind in _HOOKS for hook in (getattr(part, kind, None) or {}).values()]


def source_file(thing: Any) -> Path | None:
    """The file that defines a class or function; None where there is none to read."""
    if isinstance(thing, types.FunctionType):
        name: str | None = thing.__code__.co_filename
    else:
        defined_in = sys.modules.get(thing.__module__)
        name = getattr(defined_in, "__file__", None)
        if name is None:
            try:
                name = inspect.getsourcefile(thing)
            except (TypeError, OSError):
                return None
    path = Path(name) if name else None
    return path if path and path.is_file() else None


def _of_module(module: nn.Module) -> Parts:
    for registered in (module._parameters, module._buffers, module._modules):
        yield from registered.items()
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield name, value
    yield from hidden_from_torch(module)


def _of_script(part: torch.jit.ScriptModule) -> Parts:
    """What the code of a scripted or traced module names beside its registered parts, and its constants."""
    for method in part._c._method_names():
        code, constants = part._c._get_method(method).code_with_constants
        yield "code", code
        yield from sorted(constants.items())
        for name in sorted(set(re.findall(r"\.(\w+)", code))):
            if part._c.hasattr(name):
                value = part._c.getattr(name)
                if not isinstance(value, torch._C.ScriptModule | torch.ScriptObject):
                    yield name, value


def _of_class(kind: type) -> Parts:
    """What a user's class holds itself, inherited too: it is the same for all its objects."""
    for cls in kind.__mro__:
        if not of_library(cls) and is_written(cls):
            yield f"class {cls.__qualname__}", cls


def _of_type(cls: type) -> Parts:
    for name, value in vars(cls).items():
        if name in _OF_EVERY_CLASS or (name.startswith("__") and not isinstance(value, types.FunctionType)):
            continue
        if _is_given(value, cls):
            continue
        if isinstance(value, types.FunctionType) and value.__qualname__ == f"{cls.__qualname__}.{name}":
            # Its text is in the file of the class; what it closes over is not.
            inside = _closed_over(value)
            yield from ((f"{name}.{label}", inner) for label, inner in inside if inner is not cls)
        else:
            yield name, value


def _is_given(value: Any, cls: type) -> bool:
    """Whether an attribute of a class is Python's own: a slot, or a method that `dataclass` or `namedtuple`
    wrote."""
    if isinstance(value, types.FunctionType):
        made = dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")
        return made and value.__code__.co_filename in ("<string>", dataclasses.__file__)
    described = isinstance(value, property | staticmethod | classmethod)
    return hasattr(type(value), "__get__") and not described and not is_written(type(value))


def _of_function(function: types.FunctionType) -> Parts:
    yield "code", function.__code__
    yield from _closed_over(function)
    yield from vars(function).items()


def _closed_over(function: types.FunctionType) -> Parts:
    yield from enumerated(function.__defaults__ or ())  # computed when it was defined, not told by its text
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _of_object(value: Any) -> Parts:
    if is_workings(value):
        raise Unreadable(type(value).__qualname__)
    kind = type(value)
    if isinstance(value, dict):
        for place, (key, inner) in enumerate(value.items()):
            yield from ((f"key {place}", key), (str(key) if isinstance(key, str) else str(place), inner))
        if isinstance(value, collections.defaultdict):
            yield "default", value.default_factory
    elif isinstance(value, list | tuple | set | frozenset | collections.deque):
        yield from enumerated(value)
    elif _lives_in_c(value):
        yield from _reduced(value)
    yield from (getattr(value, "__dict__", None) or {}).items()
    for cls in kind.__mro__:
        for name, slot in vars(cls).items():
            if isinstance(slot, types.MemberDescriptorType) and is_written(cls):
                with suppress(AttributeError):  # not filled
                    yield name, slot.__get__(value)
    yield from _of_class(kind)


def _lives_in_c(value: Any) -> bool:
    kind = type(value)
    written = hasattr(value, "__dict__") or any("__slots__" in vars(cls) for cls in kind.__mro__)
    return not written or not all(map(is_written, kind.__mro__[:-1]))


def _reduced(value: Any) -> Parts:
    """An object whose state lies in C, as pickle would write it."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:  # of whatever class it is; most say that they cannot be pickled
        raise Unreadable(type(value).__qualname__) from error
    if hasattr(value, "cache_info"):  # what `lru_cache` remembers lies in C
        raise Unreadable(type(value).__qualname__)
    if isinstance(reduced, str):
        yield "name", reduced
        return
    function, arguments, *rest = reduced
    yield from (("function", function), ("arguments", arguments), ("state", rest[0] if rest else None))
    yield from enumerated(list(inner) if inner is not None else None for inner in rest[1:3])
