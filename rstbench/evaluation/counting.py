"""Give attacks the module of a model, or a copy of it, and count the images passed through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..attacks import mean_log_probability
from ..models.fast_copy import COMPARED, CopyPlan, crafting_copy, make_copy
from ..models.wrapper import EvalModel
from .memory import ALL, passed


class PassCounter:
    """Count images passed forward and backward through the models that `counted` returns.

    rows: how many pass at once at most; a second pass that this takes is not counted.
    """

    def __init__(self, rows: int = ALL) -> None:
        self.rows = rows
        self.forwards = 0
        self.backwards = 0

    def counted(self, model: EvalModel, x: Tensor, plans: Mapping[str, CopyPlan] | None = None) -> Any:
        """Return a stand-in for the model, or for a switch all its members as one mixture, counted.

        plans: by digest, for fast crafting; each stand-in is a `FastModel` then. Without them it is the
        module itself, or for networks that this tool made a copy that differs by rounding.
        """
        if plans is None:
            return self._exact(model, x)
        sources = model.members or (model,)
        copies = _copies([(source, plans[source.digest]) for source in sources], x)
        fast = [_FastCounted(copy, source.module, self) for copy, source in zip(copies, sources, strict=True)]
        return _FastSwitch(fast, model.info.weights) if model.members else fast[0]

    def _exact(self, model: EvalModel, x: Tensor) -> Any:
        if model.members:
            return _Switch([self._exact(member, x) for member in model.members], model.info.weights)
        copied = crafting_copy(model.module, x[: self.rows]) if model.recipe else model.module
        return _Counted(copied, self)


def _copies(sources: Sequence[tuple[EvalModel, CopyPlan]], x: Tensor) -> list[nn.Module]:
    """Return the copies of the members of one source, those of the last call where they are the same.

    A shard follows another on the same source as a rule, and making a copy may take as long as the attack.
    """
    # Where the module itself is used, or its digest does not tell all of it, it must be the same object.
    keys = [
        (
            model.digest,
            plan,
            x.device,
            id(model.module) if plan.layout == "none" or not model.resumable else 0,
        )
        for model, plan in sources
    ]
    if not all(key in _last for key in keys):
        _last.clear()
        # Compared on noise, not on this shard, so that no shard depends on which one came first.
        noise = torch.rand(COMPARED, *x.shape[1:], generator=Generator().manual_seed(0)).to(x)
        for key, (model, plan) in zip(keys, sources, strict=True):
            # A model may write into its input; the module is kept so that its id is not another's meanwhile.
            _last[key] = make_copy(model.module, plan, noise.clone()), model.module
    return [_last[key][0] for key in keys]


_last: dict[tuple[str, CopyPlan, torch.device, int], tuple[nn.Module, nn.Module]] = {}


class _Counted(nn.Module):
    def __init__(self, module: nn.Module, counter: PassCounter) -> None:
        super().__init__()
        self.module = module
        self.counter = counter

    def forward(self, x: Tensor) -> Tensor:
        self.counter.forwards += len(x)
        out = passed(self.module, x, self.counter.rows)
        if isinstance(out, Tensor) and out.is_inference():
            out = out.clone()  # which any attack may go on with
        if isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(self._count_backward)
        return out

    def _count_backward(self, gradient: Tensor) -> None:
        self.counter.backwards += len(gradient)


class _FastCounted(_Counted):
    """A copy with the exact module beside it: a `FastModel`."""

    def __init__(self, copy: nn.Module, exact: nn.Module, counter: PassCounter) -> None:
        super().__init__(copy, counter)
        self.exact_model = _Counted(exact, counter)


@dataclass(frozen=True)
class _Switch:
    """A switch as a `Mixture`; called, it gives the log of its members' mean probability."""

    members: Sequence[_Counted]
    weights: Sequence[float]

    def __call__(self, x: Tensor) -> Tensor:
        return mean_log_probability(self)(x)


@dataclass(frozen=True)
class _FastSwitch(_Switch):
    """A switch of copies: a `FastModel` whose members are such too."""

    members: Sequence[_FastCounted]

    @property
    def exact_model(self) -> _Switch:
        return _Switch([member.exact_model for member in self.members], self.weights)
