"""Write a module's settings as text: what it holds besides tensors and other modules."""

from __future__ import annotations

import types
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Public names of this package under the modules they had when evidence was first committed.
_FIRST_MODULES = {
    "rstbench.api.evaluation.evaluate": "rstbench.api.evaluate",
    "rstbench.api.models.draw": "rstbench.api.draw",
    "rstbench.api.models.export": "rstbench.api.export",
    "rstbench.api.models.load_data": "rstbench.api.load_data",
    "rstbench.api.models.load_model": "rstbench.api.load_model",
    "rstbench.api.robustbench.benchmark": "rstbench.api.benchmark",
    "rstbench.tickets.switch.shared_switch": "rstbench.tickets.shared.shared_switch",
    "rstbench.reports.csv_io.read_table": "rstbench.reporters.cells.read_table",
}
_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, slice)


def settings_text(part: nn.Module) -> str:
    """Write the public attributes of one module without its children: `self.scale = 2` is another model.

    Objects that text cannot define (see `contents`) appear as their type. The text is part of the keys of
    evidence: it must not change.
    """
    return ";".join(
        f"{name}={_text(value, ())}"
        for name, value in sorted(vars(part).items())
        if name != "training" and not name.startswith("_")
    )


def plain_text(value: Any) -> str:
    """Write a plain value as text."""
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, type) or callable(value):
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
        path = f"{getattr(value, '__module__', '')}.{name}"
        return _FIRST_MODULES.get(path, path)
    return f"{type(value).__name__}:{value!r}"


def _text(value: Any, parents: tuple[int, ...]) -> str:
    """Write a value; parents: the ids of the containers that hold it."""
    if isinstance(value, Tensor | nn.Module):
        return ""  # digested as tensors and modules
    if isinstance(value, _PLAIN):
        return plain_text(value)
    if isinstance(value, np.ndarray | np.generic):
        return plain_text(value) if value.dtype != object else type(value).__qualname__
    if id(value) in parents:  # it holds itself
        return type(value).__qualname__
    parents = (*parents, id(value))
    if isinstance(value, Mapping):
        return _list_text((part for pair in sorted(value.items(), key=repr) for part in pair), parents)
    if isinstance(value, Set):
        return _list_text(sorted(value, key=repr), parents)
    if isinstance(value, list | tuple):
        return _list_text(value, parents)
    if isinstance(value, type) or callable(value):
        return plain_text(value)
    return type(value).__qualname__


def _list_text(values: Any, parents: tuple[int, ...]) -> str:
    return "[" + ",".join(_text(value, parents) for value in values) + "]"
