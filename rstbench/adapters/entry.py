"""A model that takes part: an ordinary module, its card for the tables, and its digest."""

from __future__ import annotations

import hashlib
import inspect
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadRequest
from ..harness.trial import Card
from ..plugins import find, parse_reference
from ..tickets.recipe import Recipe

# Packages whose versions are in the record: their text is no part of a model's identity.
_LIBRARIES = ("torch", "torchvision", "rstbench")


@dataclass(frozen=True)
class Entry:
    """module: images in [0, 1] to logits; digest: its identity; resumable: whether all that defines
    it could be read; recipe: how it was made, where this tool made it; members: for a switch."""

    module: nn.Module
    card: Card
    digest: str
    resumable: bool = True
    recipe: Recipe | None = None
    members: tuple[Entry, ...] = ()


def enter(
    module: nn.Module, card: Card, *, files: Iterable[Path] = (), recipe: Recipe | None = None
) -> Entry:
    """An entry for any module; `files` are the user's files that made it.

    Raises BadRequest where it is no `nn.Module`.
    """
    if not isinstance(module, nn.Module):
        raise BadRequest(f"{card.name}: wanted an nn.Module that returns logits, got {type(module).__name__}")
    digest, resumable = module_digest(module, files)
    return Entry(module, card, digest, resumable, recipe)


def load_entry(text: str) -> Entry:
    """`source:id[options]` as an entry. Raises BadRequest for what cannot be named, found or built."""
    reference = parse_reference(text)
    source: Callable[..., Any] = find("models", reference.source)
    try:
        found = source(reference.id, **reference.options)
    except TypeError as error:
        # Only a refused signature is the request's fault; deeper ones belong to the source.
        if reference.options and "unexpected keyword argument" in str(error):
            raise BadRequest(f"{text!r}: {error}") from error
        raise BadRequest(f"{text!r} cannot be made: {error!r}") from error
    except BadRequest:
        raise
    except Exception as error:
        raise BadRequest(f"{text!r} cannot be made: {error!r}") from error
    if isinstance(found, Entry):
        return found
    return enter(found, Card(text, "external"))


def named_apart(entries: list[tuple[str, Entry]]) -> list[Entry]:
    """Entries whose names are unique: where two share one, each takes the text it was asked by."""
    names = [entry.card.name for _, entry in entries]
    return [
        replace(entry, card=replace(entry.card, name=text)) if names.count(entry.card.name) > 1 else entry
        for text, entry in entries
    ]


def module_digest(module: nn.Module, files: Iterable[Path] = ()) -> tuple[str, bool]:
    """(sha256, whether everything that defines the module could be read).

    Covers all parameters and buffers (names, types, shapes, bytes), tensors held as plain attributes,
    `repr(module)`, and of classes that are the user's the settings they hold and the text of their
    files. Where such a text cannot be read the digest is one of its own, so that nothing is mistaken
    for this model's answer.
    """
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(_tensors(module)):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"|{name}|{plain.dtype}|{tuple(plain.shape)}|".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    for part in module.modules():
        # What a traced or scripted module does is its code, which `repr` does not show.
        digest.update(str(getattr(part, "code", "")).encode())
    for name, value in _settings(module):
        digest.update(f"|{name}={value!r}".encode())
    readable = True
    texts: set[Path] = {Path(file) for file in files}
    for cls in {cls for part in module.modules() for cls in type(part).__mro__}:
        if _of_a_library(cls):
            continue
        source = _source_file(cls)
        readable &= source is not None
        texts |= {source} if source else set()
    for content in sorted({hashlib.sha256(path.read_bytes()).hexdigest() for path in texts}):
        digest.update(content.encode())
    if not readable:
        digest.update(uuid.uuid4().bytes)
    return digest.hexdigest(), readable


@contextmanager
def at_rest(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The module in eval mode, frozen, on the device; modes and gradients as before afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    wanted = [(p, p.requires_grad) for p in module.parameters()]
    module.to(device).eval()
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training
        for parameter, requires in wanted:
            parameter.requires_grad_(requires)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, Tensor):
                yield f"{name}.{key} (attribute)", value


def _settings(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Plain values that modules of the user's own classes hold: `self.scale = 2` changes no weight."""
    for name, part in sorted(module.named_modules()):
        if not _of_a_library(type(part)):
            for key, value in sorted(vars(part).items()):
                if isinstance(value, int | float | str | tuple | None) and key != "training":
                    yield f"{name}.{key}", value


def _of_a_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in (*_LIBRARIES, "builtins")


def _source_file(cls: type) -> Path | None:
    defined_in = sys.modules.get(cls.__module__)
    name = getattr(defined_in, "__file__", None)
    if name is None:
        try:
            name = inspect.getsourcefile(cls)
        except (TypeError, OSError):
            return None
    path = Path(name) if name else None
    return path if path and path.is_file() else None
