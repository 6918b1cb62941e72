"""Choose how models are copied for fast crafting: once a question, for all its shards and resumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadFile
from ..evidence.trial import ShardResult, TrialResult
from ..models.fast_copy import CopyPlan, plan_copy
from ..models.frozen import frozen_eval, weights_unchanged
from ..models.wrapper import EvalModel
from .judge import fx_output_held, seeded
from .workers import torch_threads

ITSELF = CopyPlan("none")  # no copy: the module


@dataclass(frozen=True)
class CopySetting:
    """How the source of one question is copied, the same in each shard.

    plans: of the source, or of each member of a switch, by digest; threads: those of torch.
    """

    plans: Mapping[str, CopyPlan]
    threads: int

    def as_plain(self) -> dict[str, dict[str, str]]:
        """Return the plans for a line of evidence, which tells the threads itself."""
        return {digest: plan.as_plain() for digest, plan in self.plans.items()}


class CopyPlanner:
    """Plan the copies of one run: each model is timed once, on one device, with the threads of a shard."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._plans: dict[str, CopyPlan] = {}

    def setting(
        self,
        source: EvalModel,
        records: Iterable[TrialResult],
        images: Tensor,
        threads: int,
        *,
        timed: bool = True,
    ) -> CopySetting:
        """Return the setting that a shard of these records was crafted with, else one chosen on these images,
        or without `timed` the plain one, unless another was chosen already.

        Raises BadFile for stored plans that cannot be read, or are of other models.
        """
        stored = next((shard for record in records for shard in record.shards if shard.copy), None)
        models = source.members or (source,)
        if stored is not None:
            return _read(stored, [model.digest for model in models], source.info.name)
        plans = {model.digest: self._plan(model, images, threads, timed) for model in models}
        return CopySetting(plans, threads)

    def _plan(self, model: EvalModel, images: Tensor, threads: int, timed: bool) -> CopyPlan:
        if model.digest not in self._plans:
            if not timed:
                return CopyPlan()
            self._plans[model.digest] = plan_of(model, images, self.device, threads)
        return self._plans[model.digest]


def plan_of(model: EvalModel, images: Tensor, device: torch.device, threads: int = 0) -> CopyPlan:
    """Return the plan for one model, timed on these images in its state in evaluation.

    A model that cannot be copied or timed is attacked itself, and a fault of its own is named there.
    """
    try:
        with (
            torch_threads(threads),
            frozen_eval(model.module, device),
            seeded(0),
            weights_unchanged(model.module),
            fx_output_held(),
        ):
            return plan_copy(model.module, images.to(device).clone())  # a model may write into its input
    except (Exception, SystemExit):
        return ITSELF


def _read(shard: ShardResult, digests: list[str], name: str) -> CopySetting:
    """Return the setting of a stored shard. Raises BadFile."""
    try:
        plans = {digest: CopyPlan.of(shard.copy[digest]) for digest in digests}
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(
            f"{name}: the stored images from {shard.start} on were crafted through a copy that is not known "
            f"here ({error}); go on with the version that wrote them, or choose another --out"
        ) from error
    return CopySetting(plans, shard.threads)
