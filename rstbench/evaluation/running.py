"""The accuracy of a task while it runs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..models.normalise import AS_IS, better_by_mcnemar
from .shard import Answer, Shard
from .task import Task


class RunningAccuracy:
    """The accuracy of a task so far, and under other normalisations of clean images."""

    def __init__(self, task: Task) -> None:
        info = task.source.info
        self.label = "clean" if task.is_clean else "certified" if task.certificate else "robust"
        self.weights = dict(zip(info.members, info.weights, strict=True)) or {task.source.digest: 1.0}
        self.correct = self.images = 0.0
        self.right_under: list[Mapping[str, Tensor]] = []

    def add(self, shard: Shard, answer: Answer) -> dict[str, float]:
        for trial in shard.trials:
            if trial.key in answer.results:
                bits = answer.results[trial.key].bits
                self.correct += self.weights.get(trial.target, 0) * bits.count("1")
        self.images += len(shard.images)
        self.right_under += [answer.right_under] if answer.right_under else []
        return {self.label: self.correct / self.images}

    def normalisation_warning(self) -> str:
        """Return what to say of another normalisation that suits the model better; '' where none does."""
        if not self.right_under:
            return ""
        known = set.intersection(*(set(under) for under in self.right_under))
        joined = {name: torch.cat([under[name] for under in self.right_under]) for name in sorted(known)}
        name = better_by_mcnemar(joined)
        if not name:
            return ""
        own, other = (f"{100 * float(joined[key].float().mean()):.1f} %" for key in (AS_IS, name))
        how = "without normalisation" if name == "none" else f"with [normalize={name}]"
        return (
            f"right on {own} of {len(joined[AS_IS])} clean images as it stands, on {other} {how}; "
            f"was it trained on other pixels?"
        )
