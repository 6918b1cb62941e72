"""The linear bounds of auto_LiRPA (Xu et al., NeurIPS 2020), where a user has that library."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadRequest
from ..models.traced_copy import traced
from ..threat import Threat
from .intervals import interval_knowledge
from .linear_bounds import Margins, margin_rows
from .rounding import error_bounds
from .spec import Certified
from .verdicts import Question, question

METHODS = {"crown": "CROWN", "ibp": "IBP"}
ORDERS = {"Linf": math.inf, "L2": 2, "L1": 1}


@dataclass(frozen=True)
class AutoLirpa:
    """The bounds of another library, to compare with `crown` and `ibp`.

    The library bounds exact arithmetic, over the box alone in Linf and over the whole ball in L2 and L1. What
    float32 may lose is taken from its margins by our own bound, for all images of the ball at once.

    Args:
        method: crown or ibp.
    """

    method: str = "crown"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is crown or ibp, got {self.method!r}")

    def check(self, threat: Threat) -> None:
        """Raise BadRequest where the library is missing."""
        _library()

    @torch.no_grad()
    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Certified:
        library, asked = _library(), question(module, x, y, threat)
        if not len(asked.y):
            return asked.certified([])
        with _float64():
            least = self._margins(library, traced(copy.deepcopy(module).double()), asked)
        errors = [_rounding(asked, index) for index in range(len(asked.y))]
        return asked.certified(
            [Margins(row - error, error) for row, error in zip(least, errors, strict=True)]
        )

    def _margins(self, library: Any, net: nn.Module, asked: Question) -> Tensor:
        """Return what the library says of each image's margins, (n, classes − 1)."""
        region = asked.region
        lower, upper = region.box()
        ball = library.perturbations.PerturbationLpNorm(
            norm=ORDERS[region.norm], eps=region.eps, x_L=lower, x_U=upper
        )
        classes = asked.network.nodes[-1].shape[0]
        rows = torch.stack([margin_rows(label, classes, region.x.device).T for label in asked.y.tolist()])
        bounded = library.BoundedModule(net, torch.empty_like(region.x), device=region.x.device)
        images = library.BoundedTensor(region.x, ball)
        least: Tensor = bounded.compute_bounds(
            x=(images,), C=rows, method=METHODS[self.method], bound_upper=False
        )[0]
        return least


def _rounding(asked: Question, index: int) -> float:
    """Bound what rounding takes from a margin of one image anywhere in the ball."""
    bounds = interval_knowledge(asked.network, asked.region.of_image(index)).bounds
    largest = [torch.maximum(*(end.abs() for end in bounds[place])) for place in sorted(bounds)]
    return 2 * float(error_bounds(asked.network, largest).amax())


def _library() -> Any:
    try:
        with _quiet():
            import auto_LiRPA
    except Exception as error:  # the library pins old versions of what it builds on
        raise BadRequest(
            f"the certificate auto_lirpa needs the library auto_LiRPA, which does not import here ({error}); "
            f"use crown instead"
        ) from error
    return auto_LiRPA


@contextmanager
def _float64() -> Iterator[None]:
    """Make float64 the default within the block, as the library expects of a network in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _quiet():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's and its tracer's notes on their own futures from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
