"""Freeze models in eval mode on one device, and restore them afterwards.

All networks of a model count, registered ones and those in lists, dictionaries, objects and closures.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..errors import ModelFault, typed_line
from .contents import walk
from .identity import tensor_bytes
from .plain import is_library, library_attributes

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element


@contextmanager
def frozen_eval(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Put the module in eval mode, frozen, on the device; restore modes, gradients, buffers and attributes.

    So no evaluation depends on another. Raises ModelFault, naming the part, where one cannot be put in eval
    mode or frozen, and where new weights appear meanwhile, which are no part of the identified model.
    """
    with _as_model_fault("cannot be looked into"):
        contents = list(walk(module))
        modules = [(path, part) for path, part in contents if isinstance(part, nn.Module)]
        modes = [(part, part.training) for _, part in modules if hasattr(part, "training")]
        parameters = {id(value) for _, value in contents if isinstance(value, nn.Parameter)}
    for path, part in modules:
        with _as_model_fault(f"{_prefix(path)}cannot be put into eval mode on {device}"):
            if not any(tensor.is_meta for tensor in (*part.parameters(), *part.buffers())):
                part.to(device)
            _set_eval(part)
    with _as_model_fault("cannot be frozen"):
        contents = list(walk(module))  # anew: a buffer on another device is another tensor
        containers = _user_containers(part for _, part in modules)
        snapshots = [_Snapshot.of(value, containers) for _, value in contents]
        tensors = [value for _, value in contents if isinstance(value, Tensor)]
        trainable = [tensor for tensor in tensors if tensor.is_leaf and tensor.requires_grad]
        for tensor in trainable:
            tensor.requires_grad_(False)
    try:
        yield module
    finally:
        new_path = _new_parameters(module, parameters)
        with _as_model_fault("cannot be put back as it came"):
            for snapshot in snapshots:
                snapshot.restore()
            for part, training in modes:
                part.training = training
            for tensor in trainable:
                tensor.requires_grad_(True)
    if new_path:
        raise ModelFault(
            f"it made new weights when it was asked ({new_path}); run it on one image before it is handed "
            f"over"
        )


def eval_mode(module: nn.Module) -> nn.Module:
    """Put all of a module in eval mode and return it. Raises ModelFault that names the part at fault."""
    for path, part in walk(module):
        if isinstance(part, nn.Module):
            with _as_model_fault(f"{_prefix(path)}cannot be put into eval mode"):
                _set_eval(part)
    return module


@contextmanager
def weights_unchanged(module: nn.Module, who: str = "the attack") -> Iterator[None]:
    """Restore parameters that are changed meanwhile, and raise ModelFault where any was."""
    contents = [value for _, value in walk(module)]
    modules = [value for value in contents if isinstance(value, nn.Module)]
    # Parameters of TorchScript cannot be replaced.
    registered = [(part, dict(part._parameters)) for part in modules if isinstance(part._parameters, dict)]
    parameters = [value for value in contents if isinstance(value, nn.Parameter) and not value.is_meta]
    copies = [parameter.detach().clone() for parameter in parameters]
    yield
    changed = [pair for pair in zip(parameters, copies, strict=True) if not same_values(*pair)]
    replaced = [
        (part, name, parameter)
        for part, own in registered
        for name, parameter in own.items()
        if part._parameters.get(name) is not parameter
    ]
    with torch.no_grad():
        for parameter, copy in changed:
            parameter.copy_(copy)
    for part, name, original in replaced:
        part._parameters[name] = original
    if changed or replaced:
        raise ModelFault(
            f"{who} changed the weights of the model (where it does so in its first pass only, run it on one "
            f"image before it is handed over)"
        )


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits, so that NaN equals itself."""
    if any(getattr(one, fact) != getattr(other, fact) for fact in ("shape", "dtype", "layout", "device")):
        return False
    if one.layout != torch.strided or one.is_quantized:
        return tensor_bytes(one) == tensor_bytes(other)
    integers = _INTEGERS.get(one.element_size(), torch.uint8)  # comparing bytes takes several times as long
    plain = [tensor.detach().resolve_conj().resolve_neg().contiguous() for tensor in (one, other)]
    return torch.equal(*(tensor.reshape(-1).view(integers) for tensor in plain))


def _set_eval(part: nn.Module) -> None:
    with suppress(NotImplementedError):  # a program of torch.export has no mode to set
        part.eval()
    if getattr(part, "training", False):
        part.training = False  # whatever a `train` of its own does


def _new_parameters(module: nn.Module, known: set[int]) -> str:
    """Return the path to a parameter whose id is not known, '' where there is none."""
    parameters = ((path, value) for path, value in walk(module) if isinstance(value, nn.Parameter))
    return next((path for path, parameter in parameters if id(parameter) not in known), "")


def _user_containers(modules: Iterable[nn.Module]) -> set[int]:
    """Return the ids of the containers, nested ones too, that users' modules hold as attributes."""
    users = [part for part in modules if not is_library(type(part))]
    stack = [value for part in users for _, value in _entries(part)]
    containers: dict[int, Any] = {}
    while stack:
        value = stack.pop()
        if isinstance(value, _CONTAINERS) and id(value) not in containers:
            containers[id(value)] = value
            stack += value.values() if isinstance(value, dict) else value
    return set(containers)


@dataclass(frozen=True)
class _Snapshot:
    """The state of one value before a model runs.

    entries: its attributes or elements; copies: of the entries that can change in place; every_entry:
    whether entries other than tensors and arrays are restored too.
    """

    value: Any
    entries: dict[Any, Any]
    copies: dict[Any, Any]
    every_entry: bool = False

    @classmethod
    def of(cls, value: Any, user_containers: set[int]) -> _Snapshot:
        if isinstance(value, tuple(_GENERATORS)):
            return cls(value, {}, {"state": _GENERATORS[_generator_type(value)][0](value)})
        entries = dict(_entries(value))
        copies = {key: _copy(entry) for key, entry in entries.items() if _is_mutable(entry)}
        of_user = isinstance(value, nn.Module) and not is_library(type(value))
        return cls(value, entries, copies, of_user or id(value) in user_containers)

    def restore(self) -> None:
        if isinstance(self.value, tuple(_GENERATORS)):
            _GENERATORS[_generator_type(self.value)][1](self.value, self.copies["state"])
            return
        now = dict(_entries(self.value))
        changed = [
            key
            for key in {**now, **self.entries}
            if now.get(key, _MISSING) is not self.entries.get(key, _MISSING)
            and (self.every_entry or _is_mutable(now.get(key)) or _is_mutable(self.entries.get(key)))
        ]
        if changed and isinstance(self.value, _REFILLED):
            self.value.clear()
            getattr(self.value, "update" if isinstance(self.value, set) else "extend")(self.entries.values())
        else:
            for key in changed:
                _set_entry(self.value, key, self.entries.get(key, _MISSING))
        for key, copy in self.copies.items():
            if not _copy_back(self.entries[key], copy):
                _set_entry(self.value, key, copy)


_MISSING = object()
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_REFILLED = (list, set, deque)  # restored by emptying and filling them
# (read the state, write it) of each type of random generator.
_GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    Generator: (Generator.get_state, Generator.set_state),
    random.Random: (random.Random.getstate, random.Random.setstate),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
    np.random.Generator: (
        lambda source: source.bit_generator.state,
        lambda source, state: setattr(source.bit_generator, "state", state),
    ),
}


def _generator_type(generator: Any) -> type:
    return next(kind for kind in _GENERATORS if isinstance(generator, kind))


def _is_mutable(value: Any) -> bool:
    """Whether a value is an array or a tensor, parameters aside, which a model may write into."""
    array = isinstance(value, np.ndarray) and value.dtype != object
    return array or (isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not value.is_meta)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value.detach().clone()


def _copy_back(value: Any, copy: Any) -> bool:
    """Write the copy of a tensor or array back into it where it changed; False where that cannot be done."""
    try:
        if isinstance(value, np.ndarray):
            if value.tobytes() != copy.tobytes():
                value[...] = copy
        elif not same_values(value, copy):
            with torch.no_grad():
                value.copy_(copy)
    except (RuntimeError, ValueError):  # a view that repeats its elements, or is for reading only
        return False
    return True


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (key, value) of what can be restored: buffers, attributes, elements of a container."""
    if isinstance(value, nn.Module):
        yield from ((("buffer", name), buffer) for name, buffer in value._buffers.items())
        kind: type = type(value)
        own = library_attributes(kind)
        yield from ((n, held) for n, held in vars(value).items() if n != "training" and n not in own)
        yield from ((n, held) for n, held in vars(value).items() if n in own and isinstance(held, Tensor))
    elif isinstance(value, set | frozenset):
        yield from ((id(element), element) for element in value)
    elif isinstance(value, list | tuple | deque):
        yield from enumerate(value)
    elif isinstance(value, MutableMapping):
        yield from value.items()
    elif not isinstance(value, type | Tensor):
        yield from vars(value).items() if hasattr(value, "__dict__") else ()


def _set_entry(holder: Any, key: Any, value: Any) -> None:
    """Set one entry of a container or object, or remove it where it was missing."""
    if isinstance(holder, nn.Module) and isinstance(key, tuple):
        holder, key = holder._buffers, key[1]
    if isinstance(holder, list):
        holder[key] = value
    elif not isinstance(holder, tuple | set | frozenset | deque):
        mapping = holder if isinstance(holder, MutableMapping) else vars(holder)
        if value is _MISSING:
            mapping.pop(key, None)
        else:
            mapping[key] = value


@contextmanager
def _as_model_fault(problem: str) -> Iterator[None]:
    """Raise any exception of a model's own code as a ModelFault."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ModelFault(f"{problem}: {typed_line(error)}") from error


def _prefix(path: str) -> str:
    return f"its {path} " if path else ""
