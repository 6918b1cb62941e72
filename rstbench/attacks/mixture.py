"""A switch seen by an attacker who knows it: the exact expectation over its members.

A switch of N members needs no sampling: its expected loss and its expected accuracy are sums of N
terms (the members' probabilities are its `weights`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

Model = Callable[[Tensor], Tensor]  # images (n, c, h, w) in [0, 1] to logits (n, classes)
Member = tuple[float, Model]  # with the probability that it answers


@runtime_checkable
class Mixture(Protocol):
    """A classifier that answers with one of `members`, drawn with the probabilities `weights`."""

    members: Sequence[Model]
    weights: Sequence[float]


@runtime_checkable
class FastModel(Protocol):
    """A model that is crafted against through a faster copy.

    Called, it returns the logits of the copy; `exact_model` is the model itself, in float32. What only the
    copy gets wrong is no success.
    """

    exact_model: Model

    def __call__(self, x: Tensor) -> Tensor: ...


def members_of(model: Any) -> list[Member]:
    """Return (probability, member) pairs; a plain model is its own only member."""
    if isinstance(model, Mixture):
        return list(zip((float(w) for w in model.weights), model.members, strict=True))
    return [(1.0, model)]


def mean_log_probability(model: Any) -> Model:
    """Return a deterministic stand-in for a mixture: the log of its members' mean softmax, (n, classes).

    Attacks that need one set of logits (AutoAttack) are run on it, and judged on the members.
    """
    pairs = members_of(model)
    if len(pairs) == 1:
        return pairs[0][1]

    def averaged(x: Tensor) -> Tensor:
        logs = [member(x).log_softmax(1) + math.log(weight) for weight, member in pairs if weight > 0]
        return torch.stack(logs).logsumexp(0)

    return averaged


def one_draw(model: Mixture, generator: Generator) -> Model:
    """Return a mixture as a naive attacker meets it: each call is answered by one member, drawn at random."""
    weights = torch.tensor([float(weight) for weight in model.weights])

    def drawn(x: Tensor) -> Tensor:
        return model.members[int(torch.multinomial(weights, 1, generator=generator))](x)

    return drawn
