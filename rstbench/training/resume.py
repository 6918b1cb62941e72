"""Unfinished work on disk: what a search needs to go on after a kill, in one file per search."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..errors import BadFile
from ..files import write_whole
from .recipe import Recipe


def save(diary: Path, recipe: Recipe, state: dict[str, Any]) -> None:
    """Writes tensors, numbers and lists, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({**state, "recipe": json.dumps(asdict(recipe), sort_keys=True)}, buffer)
    write_whole(diary, buffer.getvalue())


def load(diary: Path, recipe: Recipe, device: str | torch.device) -> dict[str, Any]:
    """What `save` wrote for this recipe. Raises BadFile for another recipe's, or a damaged file."""
    try:
        state: dict[str, Any] = torch.load(diary, weights_only=True, map_location=device)
        other = state["recipe"] != json.dumps(asdict(recipe), sort_keys=True)
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise BadFile(f"{diary} is damaged; delete it: {str(error).splitlines()[0]}") from error
    if other:
        raise BadFile(f"{diary} is the unfinished work of another recipe; delete it")
    return state
