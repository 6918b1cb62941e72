"""Tell which values text defines, and which classes and functions belong to one of `LIBRARIES`.

The identity of a model covers such values by their text, and anything else by its contents.
"""

from __future__ import annotations

import collections
import functools
import inspect
import sys
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Packages whose versions are in the record: their text is no part of a model's identity.
LIBRARIES = ("torch", "torchvision", "rstbench", "builtins", "copyreg")
_TORCH_SETTINGS = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, torch.qscheme)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), slice, range, *_TORCH_SETTINGS)
_ARRAYS = (np.ndarray, np.generic)
_CONTAINERS = (list, tuple, dict, set, frozenset, collections.OrderedDict)
BUILTIN_FUNCTIONS = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    np.ufunc,
)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that a Python statement made


def is_library(value: Any) -> bool:
    """Whether a class, function or module belongs to one of `LIBRARIES`."""
    if isinstance(value, types.FunctionType):  # whatever name a decorator has given it
        name = value.__globals__.get("__name__")
    else:
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return str(name or "").partition(".")[0] in LIBRARIES


def is_plain(value: Any) -> bool:
    """Whether text defines a value: numbers, strings, torch's settings, functions of libraries."""
    if isinstance(value, _PLAIN):
        return type(value) in _PLAIN or is_library(type(value)) or isinstance(value, np.generic)
    if isinstance(value, _ARRAYS):
        return bool(value.dtype != object) and type(value).__module__.partition(".")[0] == "numpy"
    if isinstance(value, type | types.ModuleType):
        return is_library(value) or (isinstance(value, type) and not is_python_class(value))
    if isinstance(value, types.FunctionType):
        return is_library(value) and value.__closure__ is None
    if isinstance(value, BUILTIN_FUNCTIONS):
        owner = getattr(value, "__self__", None)
        return is_plain(owner) if isinstance(owner, type) else isinstance(owner, types.ModuleType | None)
    return False


def is_deeply_plain(value: Any) -> bool:
    """Whether a value, or every element of nested containers, is plain and in the order that text shows."""
    try:
        return _deeply_plain(value)
    except RecursionError:  # nested without end, or in itself
        return False


def _deeply_plain(value: Any) -> bool:
    if type(value) not in _CONTAINERS:
        return is_plain(value)
    if not isinstance(value, dict):
        return all(map(_deeply_plain, value))
    if not all(map(_deeply_plain, (*value, *value.values()))):
        return False
    # The text of a module lists the items sorted.
    return [id(key) for key in value] == [id(key) for key, _ in sorted(value.items(), key=repr)]


def is_python_class(cls: type) -> bool:
    """Whether a class is written in Python and not in C."""
    file = str(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
    compiled = cls.__module__ in sys.builtin_module_names or file.endswith((".so", ".pyd"))
    return bool(cls.__flags__ & _HEAP_TYPE) and not compiled


def is_internal(value: Any) -> bool:
    """Whether a value is an internal object of torch, such as a compiler's context or an optimizer.

    Distributions, generators and contexts such as `no_grad` are not: their attributes define them.
    """
    kind = value if isinstance(value, types.FunctionType) else type(value)
    name = str(getattr(kind, "__module__", None) or "")
    if name.split(".")[0] != "torch" or isinstance(value, nn.Module | Tensor | type | torch.Generator):
        return False
    settings = getattr(value, "__dict__", None)
    is_defined = settings is not None and not isinstance(value, types.FunctionType)
    is_defined = is_defined and is_deeply_plain(settings)
    return not (name.startswith("torch.distributions") or is_plain(value) or is_defined)


@functools.cache
def library_attributes(kind: type) -> frozenset[str]:
    """Return the attributes that the code of libraries gives to a module of this class."""
    names = set(vars(nn.Module()))
    for cls in kind.__mro__:
        if is_library(cls) and cls not in (nn.Module, object):
            for method in filter(callable, vars(cls).values()):
                names |= _names_in_code(getattr(inspect.unwrap(method), "__code__", None))
    return frozenset(names)


def _names_in_code(code: types.CodeType | None) -> set[str]:
    if code is None:
        return set()
    names = {*code.co_names, *(const for const in code.co_consts if isinstance(const, str))}
    for const in code.co_consts:
        names |= _names_in_code(const) if isinstance(const, types.CodeType) else set()
    return names
