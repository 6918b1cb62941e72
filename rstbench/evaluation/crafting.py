"""Settle which tasks are crafted fast: those without a complete exact answer, where fast is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import unknown
from ..evidence.store import Store
from ..evidence.trial import CRAFTINGS, EXACT, FAST
from .evaluate import EvalSetting, IsKept, gaps
from .task import Task


def pick_crafting(text: str) -> str:
    """Read 'fast' or 'exact'. Raises BadRequest."""
    if text not in CRAFTINGS:
        raise unknown("crafting", text, CRAFTINGS)
    return text


def settle(
    tasks: Sequence[Task],
    setting: EvalSetting,
    store: Store,
    is_kept: IsKept = lambda trial, start: True,
) -> list[Task]:
    """Return the tasks as they are asked: where the setting is fast, each with its crafting.

    A fast request takes exact answers where all judges have one about all images (and, by `is_kept`, these
    are still there), so that no answer is made of both; an exact request never takes fast ones.
    """
    return [
        replace(task, crafting=FAST)
        if setting.crafting == FAST and task.attack is not None and any(gaps(exact, setting, store, is_kept))
        else exact
        for task in tasks
        for exact in [replace(task, crafting=EXACT)]
    ]
