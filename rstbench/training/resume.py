"""Keep unfinished work on disk: what a search or a training resumes from after a kill, one file each."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..errors import BadFile
from ..files import write_whole
from .recipe import Recipe

_DAMAGE = (
    AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError
)  # fmt: skip


def save(path: Path, recipe: Recipe, state: dict[str, Any]) -> None:
    """Write tensors, numbers and lists, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({**state, "recipe": _recipe_text(recipe)}, buffer)
    write_whole(path, buffer.getvalue())


@contextmanager
def restoring(path: Path, recipe: Recipe, device: str | torch.device) -> Iterator[dict[str, Any]]:
    """Give what `save` wrote for this recipe to a `with` block that restores from it.

    Raises BadFile for another recipe's file, for a damaged one, and where the block cannot restore from it.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        if state["recipe"] != _recipe_text(recipe):
            raise BadFile(f"{path} is the unfinished work of another recipe; delete it")
        yield state
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise BadFile(f"{path} is damaged; delete it: {reason}") from error


def _recipe_text(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), sort_keys=True)
