"""What AutoAttack looks at before it attacks: whether the model is one that it can judge.

Source: the checks of AutoAttack's authors, `flags_doc.md` in their repository.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ... import flags
from ..mixture import Model

REPEATS = 5  # answers that are compared
RANDOM = 1e-4  # distance of two answers to one image, as unit vectors, from which they are random
PROBABILITY = 1e-5
_GRADIENT_CALLS = ("grad", "backward", "_make_grads")


def suspicions(logits_of: Model, x: Tensor, y: Tensor, *, repeat: bool) -> list[str]:
    """Return the names of the flags that the answers on clean images raise; repeat: ask several times."""
    raised = []
    with torch.no_grad():
        answers = [logits_of(x) for _ in range(REPEATS if repeat else 1)]
    if _are_random(answers, y):
        raised.append(flags.RANDOM_OUTPUT.name)
    first = answers[0]
    within = bool((first.max() < 1 + PROBABILITY) & (first.min() > -PROBABILITY))
    if within and bool(((first.sum(1) - 1).abs() < PROBABILITY).all()):
        raised.append(flags.PROBABILITIES_NOT_LOGITS.name)
    with _calls_noted() as called:
        logits_of(x)
    if not called.isdisjoint(_GRADIENT_CALLS):
        raised.append(flags.GRADIENT_IN_FORWARD.name)
    return raised


def _are_random(answers: list[Tensor], y: Tensor) -> bool:
    right = {int((answer.argmax(1) == y).sum()) for answer in answers}
    units = torch.stack([answer / (answer.norm(dim=1, keepdim=True) + 1e-10) for answer in answers])
    distances = (units[:, None] - units[None]).norm(dim=-1)
    return len(right) > 1 or bool(distances.max() > RANDOM)


@contextmanager
def _calls_noted() -> Iterator[set[str]]:
    """Collect the names of the Python functions that the block calls."""
    called: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.add(frame.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(note)
    try:
        yield called
    finally:
        sys.settrace(before)
