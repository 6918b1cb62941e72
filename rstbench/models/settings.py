"""A module's settings as text: what it holds besides tensors and other modules."""

from __future__ import annotations

import types
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Public names of this package under the modules they had when evidence was first committed.
_FIRST_MODULES = {
    "rstbench.tickets.switch.shared_switch": "rstbench.tickets.shared.shared_switch",
    "rstbench.reports.csv_io.read_table": "rstbench.reporters.cells.read_table",
}
_WRITTEN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, slice)


def describe(part: nn.Module) -> str:
    """The public settings of one module without its children: `self.scale = 2` changes no weight, but changes
    the model. What is too deep for text (see `contents`) stands there by its type alone.

    The text is part of the keys of evidence: it does not change.
    """
    words = []
    for key, value in sorted(vars(part).items()):
        if key != "training" and not key.startswith("_"):
            words.append(f"{key}={_words(value, ())}")
    return ";".join(words)


def plain_text(value: Any) -> str:
    """A plain value as text."""
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, type) or callable(value):
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
        path = f"{getattr(value, '__module__', '')}.{name}"
        return _FIRST_MODULES.get(path, path)
    return f"{type(value).__name__}:{value!r}"


def _words(value: Any, around: tuple[int, ...]) -> str:
    if isinstance(value, Tensor | nn.Module):
        return ""  # counted among the tensors and modules
    if isinstance(value, _WRITTEN):
        return plain_text(value)
    if isinstance(value, np.ndarray | np.generic):
        return plain_text(value) if value.dtype != object else type(value).__qualname__
    if id(value) in around:  # it holds itself
        return type(value).__qualname__
    around = (*around, id(value))
    if isinstance(value, Mapping):
        return _joined((part for pair in sorted(value.items(), key=repr) for part in pair), around)
    if isinstance(value, Set):
        return _joined(sorted(value, key=repr), around)
    if isinstance(value, list | tuple):
        return _joined(value, around)
    if isinstance(value, type) or callable(value):
        return plain_text(value)
    return type(value).__qualname__


def _joined(values: Any, around: tuple[int, ...]) -> str:
    return "[" + ",".join(_words(value, around) for value in values) + "]"
