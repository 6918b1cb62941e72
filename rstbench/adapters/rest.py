"""Models at rest: in eval mode, frozen, on one device, and given back as they came.

All of a model counts: networks in lists, dictionaries, objects and closures, which torch does not see, as
much as registered ones.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..errors import ModelFault
from .contents import walk
from .identity import tensor_bytes
from .plain import bookkeeping, of_library

_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def at_rest(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The module in eval mode, frozen, on the device; modes, gradients, buffers and attributes as before
    afterwards, so that what is measured depends on nothing that was measured before.

    Raises ModelFault where some part cannot be put at rest, naming it, and where weights appear meanwhile:
    they are no part of the model that was asked about.
    """
    with _blamed("cannot be looked into"):
        held = list(walk(module))
        modules = {path: part for path, part in held if isinstance(part, nn.Module)}
        modes = [(part, part.training) for part in modules.values() if hasattr(part, "training")]
        weights = {id(one) for _, one in held if isinstance(one, nn.Parameter)}
    for path, part in modules.items():
        with _blamed(f"{_named(path)}cannot be put into eval mode on {device}"):
            part.to(device)
            _rest(part)
    with _blamed("cannot be frozen"):
        held = list(walk(module))  # anew: a buffer on another device is another tensor
        before = [_Before.of(value) for _, value in held]
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
    before = [(one, one.detach().clone()) for one in held if isinstance(one, nn.Parameter)]
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
        raise ModelFault(f"{who} changed the weights of the model")


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
    return torch.equal(*(part.detach().contiguous().reshape(-1).view(bits) for part in (one, other)))


def _rest(part: nn.Module) -> None:
    with suppress(NotImplementedError):  # a program of torch.export has no mode to set
        part.eval()
    if getattr(part, "training", False):
        part.training = False  # whatever a `train` of its own does


def _fresh_weights(module: nn.Module, known: set[int]) -> str:
    """The path to weights that were not there before, '' where there are none."""
    found = (path for path, one in walk(module) if isinstance(one, nn.Parameter) and id(one) not in known)
    return next(found, "")


@dataclass(frozen=True)
class _Before:
    """What one value held before a model ran. entries: its attributes or elements; copies: the values of
    those of them that are tensors; all_of_it: whether other attributes than tensors are put back too."""

    value: Any
    entries: dict[Any, Any]
    copies: dict[Any, Tensor]
    all_of_it: bool = False

    @classmethod
    def of(cls, value: Any) -> _Before:
        if isinstance(value, Generator):
            return cls(value, {}, {"state": value.get_state()})
        entries = dict(_entries(value))
        copies = {key: one.detach().clone() for key, one in entries.items() if _is_state(one)}
        return cls(value, entries, copies, isinstance(value, nn.Module) and not of_library(type(value)))

    def put_back(self) -> None:
        if isinstance(self.value, Generator):
            self.value.set_state(self.copies["state"])
            return
        now = dict(_entries(self.value))
        for key in {**now, **self.entries}:
            was, is_now = self.entries.get(key, _ABSENT), now.get(key, _ABSENT)
            if was is not is_now and (self.all_of_it or _is_state(was) or _is_state(is_now)):
                _put(self.value, key, was)
        for key, copy in self.copies.items():
            tensor = self.entries[key]
            if not same_values(tensor, copy):
                try:
                    with torch.no_grad():
                        tensor.copy_(copy)
                except RuntimeError:  # a view that repeats its elements cannot be written to
                    _put(self.value, key, copy)


_ABSENT = object()


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """What can be put back one by one: elements of a list or dictionary; buffers and attributes of a module;
    attributes of another object."""
    if isinstance(value, nn.Module):
        yield from ((("buffer", name), buffer) for name, buffer in value._buffers.items())
        kind: type = type(value)
        own = bookkeeping(kind)
        yield from (
            (name, one) for name, one in vars(value).items() if name != "training" and name not in own
        )
        yield from ((n, one) for n, one in vars(value).items() if n in own and isinstance(one, Tensor))
    elif isinstance(value, list):
        yield from enumerate(value)
    elif isinstance(value, MutableMapping):
        yield from value.items()
    elif not isinstance(value, type | Tensor):
        yield from vars(value).items() if hasattr(value, "__dict__") else ()


def _put(holder: Any, key: Any, value: Any) -> None:
    """One entry as it was; away with it where there was none."""
    if isinstance(holder, list):
        if value is _ABSENT:
            del holder[key:]  # lists grow at the end
        elif key < len(holder):
            holder[key] = value
        else:
            holder.append(value)
        return
    if isinstance(holder, nn.Module) and isinstance(key, tuple):
        holder, key = holder._buffers, key[1]
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
