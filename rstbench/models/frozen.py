"""Models at rest: in eval mode, frozen, on one device, and given back as they came.

All of a model counts: networks in lists, dictionaries, objects and closures, which torch does not see, as
much as registered ones.
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

from ..errors import ModelFault
from .contents import walk
from .identity import tensor_bytes
from .plain import bookkeeping, of_library

_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def frozen_eval(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The module in eval mode, frozen, on the device; modes, gradients, buffers and attributes as before
    afterwards, so that what is measured depends on nothing that was measured before.

    Raises ModelFault where some part cannot be put at rest, naming it, and where weights appear meanwhile:
    they are no part of the model that was asked about.
    """
    with _blamed("cannot be looked into"):
        held = list(walk(module))
        modules = [(path, part) for path, part in held if isinstance(part, nn.Module)]
        modes = [(part, part.training) for _, part in modules if hasattr(part, "training")]
        weights = {id(one) for _, one in held if isinstance(one, nn.Parameter)}
    for path, part in modules:
        with _blamed(f"{_named(path)}cannot be put into eval mode on {device}"):
            if not any(one.is_meta for one in (*part.parameters(), *part.buffers())):
                part.to(device)
            _rest(part)
    with _blamed("cannot be frozen"):
        held = list(walk(module))  # anew: a buffer on another device is another tensor
        owned = _owned(part for _, part in modules)
        before = [_Before.of(value, owned) for _, value in held]
        learnt = [one for _, one in held if isinstance(one, Tensor) and one.is_leaf and one.requires_grad]
        for weight in learnt:
            weight.requires_grad_(False)
    try:
        yield module
    finally:
        fresh = _fresh_weights(module, weights)
        with _blamed("cannot be put back as it came"):
            for state in before:
                state.put_back()
            for part, training in modes:
                part.training = training
            for weight in learnt:
                weight.requires_grad_(True)
    if fresh:
        raise ModelFault(
            f"it made new weights when it was asked ({fresh}); run it on one image before it is handed over"
        )


def eval_mode(module: nn.Module) -> nn.Module:
    """The module, all of it in eval mode. Raises ModelFault, naming the part that cannot be."""
    for path, part in walk(module):
        if isinstance(part, nn.Module):
            with _blamed(f"{_named(path)}cannot be put into eval mode"):
                _rest(part)
    return module


@contextmanager
def untouched(module: nn.Module, who: str = "the attack") -> Iterator[None]:
    """Raises ModelFault, with the parameters put back, where they were changed meanwhile."""
    held = [one for _, one in walk(module)]
    # Parameters of TorchScript cannot be replaced.
    parts = [part for part in held if isinstance(part, nn.Module) and isinstance(part._parameters, dict)]
    places = [(part, dict(part._parameters)) for part in parts]
    before = [
        (one, one.detach().clone()) for one in held if isinstance(one, nn.Parameter) and not one.is_meta
    ]
    yield
    changed = [(now, then) for now, then in before if not same_values(now, then)]
    replaced = [
        (part, name, weight)
        for part, own in places
        for name, weight in own.items()
        if part._parameters.get(name) is not weight
    ]
    with torch.no_grad():
        for now, then in changed:
            now.copy_(then)
    for part, name, weight in replaced:
        part._parameters[name] = weight
    if changed or replaced:
        raise ModelFault(
            f"{who} changed the weights of the model (where it does so in its first pass only, run it on one "
            f"image before it is handed over)"
        )


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits: NaN equals itself."""
    if (one.shape, one.dtype, one.layout, one.device) != (
        other.shape,
        other.dtype,
        other.layout,
        other.device,
    ):
        return False
    if one.layout != torch.strided or one.is_quantized:
        return tensor_bytes(one) == tensor_bytes(other)
    bits = _WHOLE.get(one.element_size(), torch.uint8)  # comparing bytes takes several times as long
    plain = [part.detach().resolve_conj().resolve_neg().contiguous() for part in (one, other)]
    return torch.equal(*(part.reshape(-1).view(bits) for part in plain))


def _rest(part: nn.Module) -> None:
    with suppress(NotImplementedError):  # a program of torch.export has no mode to set
        part.eval()
    if getattr(part, "training", False):
        part.training = False  # whatever a `train` of its own does


def _fresh_weights(module: nn.Module, known: set[int]) -> str:
    """The path to weights that were not there before, '' where there are none."""
    found = (path for path, one in walk(module) if isinstance(one, nn.Parameter) and id(one) not in known)
    return next(found, "")


def _owned(modules: Iterable[nn.Module]) -> set[int]:
    """The ids of containers that users' modules hold as attributes, however deep in one another."""
    mine = [part for part in modules if not of_library(type(part))]
    waiting = [value for part in mine for _, value in _entries(part)]
    found: dict[int, Any] = {}
    while waiting:
        one = waiting.pop()
        if isinstance(one, _CONTAINERS) and id(one) not in found:
            found[id(one)] = one
            waiting += one.values() if isinstance(one, dict) else one
    return set(found)


@dataclass(frozen=True)
class _Before:
    """What one value held before a model ran. entries: its attributes or elements; copies: the values of
    those of them that can change in place; whole: whether other entries than tensors are put back too."""

    value: Any
    entries: dict[Any, Any]
    copies: dict[Any, Any]
    whole: bool = False

    @classmethod
    def of(cls, value: Any, owned: set[int]) -> _Before:
        if isinstance(value, tuple(_STATES)):
            return cls(value, {}, {"state": _STATES[_kind(value)][0](value)})
        entries = dict(_entries(value))
        copies = {key: _copy(one) for key, one in entries.items() if _is_state(one)}
        own = isinstance(value, nn.Module) and not of_library(type(value))
        return cls(value, entries, copies, own or id(value) in owned)

    def put_back(self) -> None:
        if isinstance(self.value, tuple(_STATES)):
            _STATES[_kind(self.value)][1](self.value, self.copies["state"])
            return
        now = dict(_entries(self.value))
        changed = [
            key
            for key in {**now, **self.entries}
            if now.get(key, _ABSENT) is not self.entries.get(key, _ABSENT)
            and (self.whole or _is_state(now.get(key)) or _is_state(self.entries.get(key)))
        ]
        if changed and isinstance(self.value, _REFILLED):
            self.value.clear()
            getattr(self.value, "extend" if hasattr(self.value, "extend") else "update")(
                self.entries.values()
            )
        else:
            for key in changed:
                _put(self.value, key, self.entries.get(key, _ABSENT))
        for key, copy in self.copies.items():
            if not _write(self.entries[key], copy):
                _put(self.value, key, copy)


_ABSENT = object()
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_REFILLED = (list, set, deque)
_STATES: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    Generator: (Generator.get_state, Generator.set_state),
    random.Random: (random.Random.getstate, random.Random.setstate),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
    np.random.Generator: (
        lambda source: source.bit_generator.state,
        lambda source, state: setattr(source.bit_generator, "state", state),
    ),
}


def _kind(source: Any) -> type:
    """Which kind of source of random numbers a value is."""
    return next(kind for kind in _STATES if isinstance(source, kind))


def _is_state(value: Any) -> bool:
    array = isinstance(value, np.ndarray) and value.dtype != object
    return array or (isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not value.is_meta)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value.detach().clone()


def _write(value: Any, copy: Any) -> bool:
    """Writes what a tensor or array held back into it, where that changed; False where it cannot be."""
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
    """What can be put back one by one: elements of a container; buffers and attributes of a module;
    attributes of another object."""
    if isinstance(value, nn.Module):
        yield from ((("buffer", name), buffer) for name, buffer in value._buffers.items())
        kind: type = type(value)
        own = bookkeeping(kind)
        yield from (
            (name, one) for name, one in vars(value).items() if name != "training" and name not in own
        )
        yield from ((n, one) for n, one in vars(value).items() if n in own and isinstance(one, Tensor))
    elif isinstance(value, set | frozenset):
        yield from ((id(one), one) for one in value)
    elif isinstance(value, list | tuple | deque):
        yield from enumerate(value)
    elif isinstance(value, MutableMapping):
        yield from value.items()
    elif not isinstance(value, type | Tensor):
        yield from vars(value).items() if hasattr(value, "__dict__") else ()


def _put(holder: Any, key: Any, value: Any) -> None:
    """One entry as it was; away with it where there was none."""
    if isinstance(holder, nn.Module) and isinstance(key, tuple):
        holder, key = holder._buffers, key[1]
    if isinstance(holder, list):
        holder[key] = value
    elif not isinstance(holder, tuple | set | frozenset | deque):
        place = holder if isinstance(holder, MutableMapping) else vars(holder)
        if value is _ABSENT:
            place.pop(key, None)
        else:
            place[key] = value


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Any exception of a model's own code as its fault."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ModelFault(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _named(path: str) -> str:
    return f"its {path} " if path else ""
