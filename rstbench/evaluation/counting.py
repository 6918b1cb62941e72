"""Give attacks the module of a model, or a copy of it, and count the images passed through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..attacks import mean_log_probability
from ..models.fast_copy import CopyPlan, crafting_copy, make_copy
from ..models.wrapper import EvalModel


class PassCounter:
    """Count images passed forward and backward through the models that `counted` returns."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0

    def counted(self, model: EvalModel, x: Tensor, plans: Mapping[str, CopyPlan] | None = None) -> Any:
        """Return a stand-in for the model, or for a switch all its members as one mixture, counted.

        plans: by digest, for fast crafting; each stand-in is a `FastModel` then. Without them it is the
        module itself, or for networks that this tool made a copy that differs by rounding.
        """
        if model.members:
            members = [self.counted(member, x, plans) for member in model.members]
            return (_Switch if plans is None else _FastSwitch)(members, model.info.weights)
        if plans is not None:
            copy = make_copy(model.module, plans[model.digest], x.clone())  # a model may write into its input
            return _FastCounted(copy, model.module, self)
        return _Counted(crafting_copy(model.module, x) if model.recipe else model.module, self)


class _Counted(nn.Module):
    def __init__(self, module: nn.Module, counter: PassCounter) -> None:
        super().__init__()
        self.module = module
        self.counter = counter

    def forward(self, x: Tensor) -> Tensor:
        self.counter.forwards += len(x)
        out: Tensor = self.module(x.clone())  # a model may write into its input
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
