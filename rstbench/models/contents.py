"""Traverse the contents of any value: containers, objects, functions and modules.

This reaches what torch does not register: a mask in a list, a network in a dictionary, a constant in a
private attribute, a tensor that a lambda closes over.
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

from .plain import BUILTIN_FUNCTIONS, is_internal, is_library, is_plain, is_python_class, library_attributes

_CLASS_BOOKKEEPING = ("_abc_impl", "_is_protocol", "_is_runtime_protocol")
_OTHER_LIBRARIES = ("timm", "robustbench", "onnx2torch", "functools", "typing", "abc", "enum", "collections")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# References to these lead from any value to the whole program.
_PROGRAM_TYPES = (type, types.ModuleType, types.FunctionType, types.FrameType, types.CodeType)
Children = Iterator[tuple[str, Any]]  # (label, value)


class Unreadable(Exception):
    """A value whose contents cannot be read: an open file, a lock, an internal object of torch."""


def children(value: Any) -> Children:
    """Yield what a value directly holds, each with a label. Raises Unreadable.

    Sets come in any order; weights and buffers of a module before its other attributes.
    """
    if isinstance(value, nn.Module):
        yield from _children_of_module(value)
        yield from _user_classes(type(value))
    elif isinstance(value, Tensor):
        yield from vars(value).items()
    elif isinstance(value, type):
        yield from _children_of_class(value)
    elif isinstance(value, types.FunctionType):
        yield from _children_of_function(value)
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
        yield from _user_classes(type(value))
    elif type(value) is np.ndarray:
        yield from _indexed(value.tolist())
    elif not isinstance(value, types.ModuleType | PurePath | torch.Generator | types.CodeType):
        yield from _children_of_object(value)


def _indexed(values: Any) -> Children:
    return ((str(index), value) for index, value in enumerate(values))


def walk(root: Any) -> Children:
    """Yield (path, value) of everything reachable from a value, itself first and each once.

    Of values that cannot be read it follows the references that the garbage collector knows.
    """
    seen: dict[int, Any] = {}  # the values are kept, or their ids might be used again
    stack = [("", root)]
    while stack:
        path, value = stack.pop()
        if id(value) in seen or is_plain(value):
            continue
        seen[id(value)] = value
        yield path, value
        try:
            held = list(children(value))
        except Unreadable:
            held = [] if is_internal(value) else [("?", inner) for inner in _referents(value)]
        stack += [(f"{path}.{label}".lstrip("."), inner) for label, inner in reversed(held)]


def uses_only_libraries(module: nn.Module) -> bool:
    """Whether all code of a model is of torch, torchvision, timm and this package."""
    for _, value in walk(module):
        owner = value if isinstance(value, type | types.FunctionType) else type(value)
        if isinstance(value, nn.Module | type | types.FunctionType) and not is_library(owner):
            name = owner.__module__
            if isinstance(value, types.FunctionType):  # whatever name a decorator has given it
                name = value.__globals__.get("__name__", "")
            if str(name).partition(".")[0] not in _OTHER_LIBRARIES:
                return False
    return True


def _referents(value: Any) -> list[Any]:
    referents = [inner for inner in gc.get_referents(value) if not isinstance(inner, _PROGRAM_TYPES)]
    return [inner for inner in referents if not (isinstance(inner, dict) and "__builtins__" in inner)]


def unregistered_attributes(part: nn.Module) -> Children:
    """Yield the attributes of one module that `parameters()`, `buffers()` and `modules()` do not return.

    Plain tensors and the attributes that torch itself gives to every module are left out.
    """
    if hooks := module_hooks(part):
        yield "_hooks", hooks
    kind: type = type(part)
    own = library_attributes(kind)
    graph = str(getattr(part, "code", "")) if isinstance(part, torch.fx.GraphModule) else None
    if "_packed_params" in vars(part) and hasattr(part, "_weight_bias"):
        yield "_packed_params", list(part._weight_bias())  # type: ignore[operator]  # lies in C
    internal = is_library(kind) and not kind.__module__.startswith(("torch.nn.", "torchvision.", "rstbench."))
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
        if internal and is_internal(value):
            continue
        yield name, value
    if isinstance(part, torch.jit.ScriptModule):
        yield from _children_of_script(part)


def _is_opaque(part: nn.Module, name: str) -> bool:
    """Whether an attribute is a TorchScript object whose contents cannot be read."""
    value = vars(part)[name]
    is_object = isinstance(value, torch.ScriptObject) and not isinstance(value, torch._C.ScriptModule)
    return is_object and not (name == "_packed_params" and hasattr(part, "_weight_bias"))


def module_hooks(part: nn.Module) -> list[Any]:
    """Return the forward and backward hooks of a module."""
    return [hook for kind in _HOOKS for hook in (getattr(part, kind, None) or {}).values()]


def source_file(definition: Any) -> Path | None:
    """Return the file that defines a class or function, None where there is none to read."""
    if isinstance(definition, types.FunctionType):
        name: str | None = definition.__code__.co_filename
    else:
        name = getattr(sys.modules.get(definition.__module__), "__file__", None)
        if name is None:
            try:
                name = inspect.getsourcefile(definition)
            except (TypeError, OSError):
                return None
    path = Path(name) if name else None
    return path if path and path.is_file() else None


def _children_of_module(module: nn.Module) -> Children:
    for registered in (module._parameters, module._buffers, module._modules):
        yield from registered.items()
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield name, value
    yield from unregistered_attributes(module)


def _children_of_script(part: torch.jit.ScriptModule) -> Children:
    """Yield the constants of a scripted or traced module, and the attributes that its code names."""
    for method in part._c._method_names():
        code, constants = part._c._get_method(method).code_with_constants
        yield "code", code
        yield from sorted(constants.items())
        for name in sorted(set(re.findall(r"\.(\w+)", code))):
            if part._c.hasattr(name):
                value = part._c.getattr(name)
                if not isinstance(value, torch._C.ScriptModule | torch.ScriptObject):
                    yield name, value


def _user_classes(kind: type) -> Children:
    """Yield the user's classes that a class inherits from, itself first."""
    for cls in kind.__mro__:
        if not is_library(cls) and is_python_class(cls):
            yield f"class {cls.__qualname__}", cls


def _children_of_class(cls: type) -> Children:
    for name, value in vars(cls).items():
        if name in _CLASS_BOOKKEEPING or (
            name.startswith("__") and not isinstance(value, types.FunctionType)
        ):
            continue
        if _is_generated(value, cls):
            continue
        if isinstance(value, types.FunctionType) and value.__qualname__ == f"{cls.__qualname__}.{name}":
            # Its text is in the file of the class; what it closes over is not.
            inside = _closure_of(value)
            yield from ((f"{name}.{label}", inner) for label, inner in inside if inner is not cls)
        else:
            yield name, value


def _is_generated(value: Any, cls: type) -> bool:
    """Whether Python made an attribute of a class: a slot, or a method of `dataclass` or `namedtuple`."""
    if isinstance(value, types.FunctionType):
        generates = dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")
        return generates and value.__code__.co_filename in ("<string>", dataclasses.__file__)
    is_wrapper = isinstance(value, property | staticmethod | classmethod)
    return hasattr(type(value), "__get__") and not is_wrapper and not is_python_class(type(value))


def _children_of_function(function: types.FunctionType) -> Children:
    yield "code", function.__code__
    yield from _closure_of(function)
    yield from vars(function).items()


def _closure_of(function: types.FunctionType) -> Children:
    """Yield the default values of a function, which its code does not hold, and its closure."""
    yield from _indexed(function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _children_of_object(value: Any) -> Children:
    if is_internal(value):
        raise Unreadable(type(value).__qualname__)
    kind = type(value)
    if isinstance(value, dict):
        for index, (key, inner) in enumerate(value.items()):
            yield from ((f"key {index}", key), (str(key) if isinstance(key, str) else str(index), inner))
        if isinstance(value, collections.defaultdict):
            yield "default", value.default_factory
    elif isinstance(value, list | tuple | set | frozenset | collections.deque):
        yield from _indexed(value)
    elif _is_c_object(value):
        yield from _pickled(value)
    yield from (getattr(value, "__dict__", None) or {}).items()
    for cls in kind.__mro__:
        for name, slot in vars(cls).items():
            if isinstance(slot, types.MemberDescriptorType) and is_python_class(cls):
                with suppress(AttributeError):  # not filled
                    yield name, slot.__get__(value)
    yield from _user_classes(kind)


def _is_c_object(value: Any) -> bool:
    """Whether an object keeps state that no Python attribute shows."""
    kind = type(value)
    has_attributes = hasattr(value, "__dict__") or any("__slots__" in vars(cls) for cls in kind.__mro__)
    return not has_attributes or not all(map(is_python_class, kind.__mro__[:-1]))


def _pickled(value: Any) -> Children:
    """Yield the parts of an object as pickle would write them."""
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
    yield from _indexed(list(inner) if inner is not None else None for inner in rest[1:3])
