"""What a module is: one digest of all that defines its answers."""

from __future__ import annotations

import hashlib
import inspect
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from .describe import describe

# Packages whose versions are in the record: their text is no part of a model's identity.
_LIBRARIES = ("torch", "torchvision", "rstbench")


def module_digest(module: nn.Module, files: Iterable[Path] = (), made_by: str = "") -> tuple[str, bool]:
    """(sha256, whether everything that defines the module could be read).

    Covers all parameters and buffers (names, types, shapes, bytes), tensors and settings held as plain
    attributes, `repr(module)`, the code of traced modules, how the module was made (`made_by`), and the
    text of `files` and of the files that define classes of the user's. Where something cannot be read (a
    class from nowhere, a hook, an object of unknown kind) the digest is one of its own, so that nothing is
    mistaken for this model's answer.
    """
    digest = hashlib.sha256(f"{module!r}|{made_by}".encode())
    for name, tensor in sorted(_tensors(module), key=lambda pair: pair[0]):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"|{name}|{plain.dtype}|{tuple(plain.shape)}|".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    texts: set[Path] = {Path(file) for file in files}
    readable = True
    for name, part in module.named_modules():
        settings, known = describe(part)
        readable &= known
        digest.update(f"|{name}|{settings}|{getattr(part, 'code', '')}".encode())
    for cls in {cls for part in module.modules() for cls in type(part).__mro__}:
        if not _of_a_library(cls):
            source = _source_file(cls)
            readable &= source is not None
            texts |= {source} if source else set()
    for content in sorted({hashlib.sha256(path.read_bytes()).hexdigest() for path in texts}):
        digest.update(content.encode())
    if not readable:
        digest.update(uuid.uuid4().bytes)
    return digest.hexdigest(), readable


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, Tensor):
                yield f"{name}.{key} (attribute)", value


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
