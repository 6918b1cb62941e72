"""Identify a model by one digest of all that defines its outputs.

What makes two models the same is decided here: in `module_digest`, and for switches in `switch_digest`. Texts
of attributes are written by `settings_text` in settings.py; the packages whose code is not read are listed in
`LIBRARIES` in plain.py.
"""

from __future__ import annotations

import enum
import hashlib
import re
import types
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .contents import Unreadable, children, module_hooks, source_file, unregistered_attributes
from .plain import is_deeply_plain, is_library, is_plain
from .settings import plain_text, settings_text


def module_digest(module: nn.Module, files: Iterable[Path] = (), made_by: str = "") -> tuple[str, bool]:
    """Return (sha256, whether everything that defines the module could be read).

    Covers all parameters and buffers (names, types, shapes, bytes), tensors and settings held as attributes
    in however nested containers and objects, unregistered modules, functions (their text and closures),
    `repr(module)`, the code of traced modules, how the module was made (`made_by`), and the text of `files`
    and of the files that define the user's classes and functions. Globals, and files read inside `forward`,
    are not covered. Where something cannot be read (a class without a file, a user's hook, an open file) the
    digest is random, so that no stored answer is taken for this model's.
    """
    text, reader = repr(module), _ContentDigest()
    digest = _tensor_digest(module, f"{text}|{made_by}")
    for name, part in module.named_modules():
        code = getattr(part, "code", "")  # first, for TorchScript adds an attribute when it is asked
        settings = f"|{name}|{settings_text(part)}|{code}"
        digest.update(settings.encode())
        text += settings
    reader.readable &= _ADDRESS.search(text) is None
    for name, content in reader.unregistered(module):
        digest.update(f"|{name}|".encode() + content)
    texts = {Path(file) for file in files} | reader.files
    for content in sorted(hashlib.sha256(path.read_bytes()).digest() for path in texts):
        digest.update(content.hex().encode())
    if not reader.readable:
        digest.update(uuid.uuid4().bytes)
    return digest.hexdigest(), reader.readable


def readable_digest(module: nn.Module) -> str:
    """Return the digest of what can be read of a module alike in every process: of all that defines it, else
    of its parameters and buffers."""
    digest, readable = module_digest(module)
    return digest if readable else _tensor_digest(module, "tensors only").hexdigest()


def switch_digest(members: Sequence[str], weights: Sequence[float]) -> str:
    """Return the sha256 of a switch: of its members' digests, in their order, and their probabilities."""
    return hashlib.sha256(repr(("switch", tuple(members), weights)).encode()).hexdigest()


def _tensor_digest(module: nn.Module, text: str) -> hashlib._Hash:
    """Return the digest of a text and of all parameters, buffers and tensors that are attributes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(_tensors(module), key=lambda pair: pair[0]):
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode() + tensor_bytes(tensor))
    return digest


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the values of a tensor of any layout, of a quantized one with its scales.

    Raises RuntimeError for a tensor without values, such as a lazy module's before its first images.
    """
    if tensor.is_meta:
        raise RuntimeError("its weights are on the meta device: they have no values")
    if tensor.is_quantized:
        return f"{tensor!r}".encode() + tensor_bytes(tensor.int_repr()) + tensor_bytes(tensor.dequantize())
    if tensor.layout != torch.strided:
        return f"{tensor.layout}".encode() + tensor_bytes(tensor.to_dense())
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, Tensor):
                yield f"{name}.{key} (attribute)", value


_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6}")  # another in each run: of an object without a text of its own


class _ContentDigest:
    """Digests of values by their contents.

    files: that define the classes and functions met so far; readable: whether all values could be read.
    """

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self.readable = True
        self._known: dict[int, tuple[bytes, Any]] = {}  # the value is kept, or its id might be used again
        self._open: dict[int, int] = {}  # values that are being read, by their depth

    def unregistered(self, module: nn.Module) -> Iterator[tuple[str, bytes]]:
        """Yield (name, digest) of what is neither registered nor a plain attribute.

        A module of torch's own layers has nothing of the kind.
        """
        self._open[id(module)] = 0
        for name, part in module.named_modules():
            self._read_class(type(part))
            self._read_hooks(part)
            for key, value in sorted(unregistered_attributes(part), key=lambda pair: pair[0]):
                if key.startswith("_") or not is_deeply_plain(value):
                    yield f"{name}.{key}", self.of(value)
            for cls in type(part).__mro__:
                if not is_plain(cls) and any(True for _ in children(cls)):
                    yield f"{name}.{cls.__qualname__}", self.of(cls)
        for name, tensor in sorted(_tensors(module), key=lambda pair: pair[0]):
            if vars(tensor):
                yield f"{name} holds", self.of(vars(tensor))

    def of(self, value: Any) -> bytes:
        """Return the digest of any value."""
        if is_plain(value):
            return hashlib.sha256(plain_text(value).encode()).digest()
        if id(value) in self._open:  # it holds itself
            return b"held by the one before" + str(len(self._open) - self._open[id(value)]).encode()
        if id(value) in self._known:
            return self._known[id(value)][0]
        self._open[id(value)] = len(self._open)
        try:
            digest = hashlib.sha256(self._header(value) + b"".join(self._contents(value)))
        except (Unreadable, RecursionError):
            self.readable = False
            digest = hashlib.sha256(type(value).__qualname__.encode())
        finally:
            del self._open[id(value)]
        self._known[id(value)] = digest.digest(), value
        return digest.digest()

    def _contents(self, value: Any) -> list[bytes]:
        digests = [(f"|{label}|".encode(), self.of(inner)) for label, inner in children(value)]
        if isinstance(value, set | frozenset):
            return sorted(digest for _, digest in digests)
        # Elements keep their order; attributes have none.
        digests = digests if isinstance(value, list | tuple | dict) else sorted(digests)
        return [label + digest for label, digest in digests]

    def _header(self, value: Any) -> bytes:
        """Return what defines a value besides its contents."""
        kind = type(value).__qualname__
        if isinstance(value, Tensor):
            # One without values serves as a pattern for `functional_call`.
            content = b"" if value.is_meta else tensor_bytes(value)
            return f"tensor {value.dtype} {tuple(value.shape)}|".encode() + content
        if isinstance(value, torch.Generator):
            return f"{kind} {value.device}".encode() + tensor_bytes(value.get_state())
        if isinstance(value, nn.Module):
            self._read_class(type(value))
            self._read_hooks(value)
            code = getattr(value, "code", "")
            return f"{kind}|{settings_text(value)}|{code}".encode()
        if isinstance(value, type | types.FunctionType):
            self._read_file(value)
            return value.__qualname__.encode()
        if isinstance(value, types.CodeType):
            names = (value.co_names, value.co_varnames, value.co_freevars)
            consts = b"".join(self.of(const) for const in value.co_consts)
            return value.co_code + repr(names).encode() + consts
        if isinstance(value, types.ModuleType):
            file = vars(value).get("__file__")
            self.readable &= file is not None
            self.files |= {Path(file)} if file else set()
            # A user's file has no fixed package.
            return f"{kind} {value.__name__.rpartition('.')[2]}".encode()
        if isinstance(value, enum.Enum | PurePath):
            return f"{kind} {value.name if isinstance(value, enum.Enum) else value}".encode()
        if isinstance(value, np.ndarray):
            return f"{kind} {value.shape}".encode()
        self._read_class(type(value))
        return kind.encode()

    def _read_class(self, kind: type) -> None:
        for cls in kind.__mro__:
            if not is_plain(cls):
                self._read_file(cls)

    def _read_hooks(self, part: nn.Module) -> None:
        # A hook of the user's may keep state anywhere, and change with the run.
        for hook in module_hooks(part):
            is_function = isinstance(hook, types.FunctionType | types.MethodType)
            self.readable &= is_library(hook if is_function else type(hook))

    def _read_file(self, definition: type | types.FunctionType) -> None:
        path = source_file(definition)
        self.readable &= path is not None
        self.files |= {path} if path else set()
