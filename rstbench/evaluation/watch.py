"""Watch whether a model stays one function while it is attacked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Generator, Tensor

from .. import flags
from ..errors import ModelFault
from ..models.frozen import frozen_eval
from ..models.wrapper import EvalModel
from .judge import (
    REPEAT_TOLERANCE,
    batch_tolerance,
    fx_output_held,
    is_coarse,
    predict,
    relative_distance,
    seeded,
)
from .slopes import has_shattered_gradient

WATCHED = 4  # images of a shard


class Watch:
    """A few images that a model is asked about before an attack on it, after it, and then as it came.

    So a model betrays itself that goes by what it was asked before, even where it keeps that out of sight, or
    by the time. What fails raises no doubt: faults are the judge's to tell.
    """

    def __init__(self, model: EvalModel, x: Tensor, classes: int, seed: int) -> None:
        """Ask about some of the clean images x (n, c, h, w), and leave the frozen model as it is.

        classes: how many it has at least; seed: of whatever it draws.
        """
        self.model, self.classes, self.seed = model, classes, seed
        self.places = torch.randperm(len(x), generator=Generator().manual_seed(0))[:WATCHED].to(x.device)
        self.batches = [x[self.places]]
        self.before, self.after = self._ask_as_it_came(), list[Tensor]()
        self.raised = set[str]()

    def look(self, adversarial: Tensor) -> None:
        """Ask in the state that the attack has left, about its images (n, c, h, w) of the shard too."""
        few = adversarial[self.places]
        self.batches = [few, *self.batches]
        *self.after, again = self._ask([*self.batches, few]) or [few]
        if self.after and relative_distance(again, self.after[0]) > REPEAT_TOLERANCE:
            self.raised.add(flags.RANDOM_OUTPUT.name)
            return
        with seeded(self.seed), fx_output_held():
            if has_shattered_gradient(self.model.module, few, coarse=is_coarse(self.model, few)):
                self.raised.add(flags.SHATTERED_GRADIENT.name)

    def doubts(self) -> set[str]:
        """Ask the model as it came, and return the names of the flags that all its answers raise."""
        fresh = self._ask_as_it_came()
        pairs = [*zip(self.after, fresh, strict=False), *zip(self.before, fresh[1:], strict=False)]
        tolerance = batch_tolerance(self.model, self.batches[0])
        changed = any(relative_distance(now, then) > tolerance for now, then in pairs)
        if changed and flags.RANDOM_OUTPUT.name not in self.raised:
            self.raised.add(flags.STATEFUL.name)
        return self.raised

    def _ask_as_it_came(self) -> list[Tensor]:
        with suppress(ModelFault), frozen_eval(self.model.module, self.batches[0].device):
            return self._ask(self.batches)
        return []

    def _ask(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits of each batch, the first asked first; none where the model fails."""
        with suppress(ModelFault), seeded(self.seed):
            return [predict(self.model, x, self.classes, exact=False).nan_to_num() for x in batches]
        return []
