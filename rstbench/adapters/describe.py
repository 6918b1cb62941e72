"""A module's settings as text: what it holds besides tensors and other modules."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, slice)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def describe(part: nn.Module) -> tuple[str, bool]:
    """(settings of one module without its children, whether all of them could be put into words).

    `self.scale = 2` or `self.k = [2]` changes no weight, but changes the model. A hook does too, and
    cannot be described.
    """
    known = not any(getattr(part, hook, None) for hook in _HOOKS)
    words = []
    for key, value in sorted(vars(part).items()):
        if key == "training" or key.startswith("_"):
            continue
        text, clear = _words(value)
        known &= clear
        words.append(f"{key}={text}")
    return ";".join(words), known


def _words(value: Any) -> tuple[str, bool]:
    if isinstance(value, Tensor | nn.Module):
        return "", True  # counted among the tensors and modules
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__}:{value!r}", True
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}", value.dtype != object
    if isinstance(value, Mapping):
        return _joined([part for pair in sorted(value.items(), key=repr) for part in pair])
    if isinstance(value, Set):
        return _joined(sorted(value, key=repr))
    if isinstance(value, list | tuple):
        return _joined(value)
    if isinstance(value, type) or callable(value):
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        # A function at the top of a module is told by its name and by that module's text.
        return name, "<" not in name and bool(getattr(value, "__qualname__", ""))
    if type(value).__module__.startswith("torch."):
        return type(value).__qualname__, True
    return type(value).__qualname__, False


def _joined(values: Any) -> tuple[str, bool]:
    parts = [_words(value) for value in values]
    return "[" + ",".join(text for text, _ in parts) + "]", all(clear for _, clear in parts)
