"""The certificate by mixed-integer programming, complete up to the solver's tolerance."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BadRequest, OutsideBall
from ..threat import Threat
from .crown import crown_margins
from .encoding import Encoding, network_matrices
from .linear_bounds import Margins
from .spec import Certified
from .verdicts import Question, question

ALPHA = 20  # steps of the linear bounds that come first
# What a solver's bound must be above zero, as a share of the largest logit, or of 1: HiGHS lets each row be
# off by 1e-6, and integers too.
SLACK = 1e-4


@dataclass(frozen=True)
class Milp:
    """Whatever linear bounds leave open, decided by HiGHS: one program for each other class (Tjeng et al.).

    Args:
        seconds: Time for an image; then it stays open.
    """

    seconds: float = 60.0
    packages: ClassVar[tuple[str, ...]] = ("scipy",)  # with the solver that decides

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds must be positive, got {self.seconds}")

    @property
    def passes(self) -> int:
        """About as many passes as an image of a small network costs, where some are left open."""
        return 20_000

    def check(self, threat: Threat) -> None:
        """Raise BadRequest for a norm that it cannot treat."""
        if threat.norm not in ("Linf", "L1"):
            raise BadRequest(f"milp proves Linf and L1, whose balls are linear, got {threat}")

    @torch.no_grad()
    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Certified:
        self.check(threat)
        asked = question(module, x, y, threat)
        matrices = network_matrices(asked.network)
        found, images = [], torch.full_like(x, torch.nan)
        for index, place in enumerate(asked.right.nonzero()[:, 0].tolist()):
            search = _Search(asked, index, module, x[place : place + 1], threat)
            found.append(search.decide(matrices, time.monotonic() + self.seconds))
            if search.counterexample is not None:
                images[place] = search.counterexample[0]
        return asked.certified(found, images)


class _Search:
    """Decides one image: `x` (1, c, h, w) in float32."""

    def __init__(self, asked: Question, index: int, module: nn.Module, x: Tensor, threat: Threat) -> None:
        self.asked, self.index, self.module, self.x, self.threat = asked, index, module, x, threat
        self.label = int(asked.y[index])
        self.counterexample: Tensor | None = None

    def decide(self, matrices: Mapping[int, Any], end: float) -> Margins:
        """Return the margins' bounds; the most doubtful classes are decided first, until one is found."""
        margins, bounds = crown_margins(self.asked, self.index, ALPHA)
        least = margins.least.clone()
        open_ones = [k for k in least.argsort().tolist() if not least[k] > 0]
        if not open_ones or not least.isfinite().all():
            return margins
        encoding = Encoding(bounds.known, matrices)
        logits = bounds.known.bounds[len(self.asked.network.nodes) - 1]
        slack = SLACK * max(1.0, *(float(bound.abs().amax()) for bound in logits))
        for turn, k in enumerate(open_ones):
            seconds = (end - time.monotonic()) / (len(open_ones) - turn)
            if seconds <= 0:
                break
            other = k + (k >= self.label)
            bound, pixels = _least_margin(encoding, self.label, other, 2 * slack, seconds)
            least[k] = max(float(least[k]), bound - slack)
            if pixels is not None and self._breaks(pixels):
                least[k] = min(float(least[k]), 0.0)  # whatever the solver's tolerance makes of it
                break
        return replace(margins, least=least)

    def _breaks(self, pixels: np.ndarray[Any, Any]) -> bool:
        """Keep an image of the ball and the box if the module itself gets it wrong, and say so."""
        eps, clean = float(self.threat.eps), self.x.double()
        delta = torch.as_tensor(pixels, device=self.x.device).view_as(clean) - clean
        if self.threat.norm == "Linf":
            delta = delta.clamp(-eps, eps)
        else:
            delta = delta * min(1.0, eps / max(float(delta.abs().sum()), 1e-300))
        adv = (clean + delta).clamp(0, 1).to(self.x.dtype)
        try:
            self.threat.check(self.x, adv)
        except OutsideBall:
            return False
        if int(self.module(adv).argmax(1)) == self.label:
            return False
        self.counterexample = adv
        return True


@contextmanager
def _standard_output_closed() -> Iterator[None]:
    """Drop what HiGHS prints to the process's standard output, whatever its options say."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _least_margin(
    encoding: Encoding, label: int, other: int, cutoff: float, seconds: float
) -> tuple[float, np.ndarray[Any, Any] | None]:
    """Return the solver's lower bound of logit_label − logit_other, and the pixels of its best solution.

    Only solutions of at most `cutoff` are looked for: where there are none, that is the bound.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    program = encoding.program
    cost = np.zeros(program.columns)
    cost[encoding.logits[label]] += 1.0
    cost[encoding.logits[other]] -= 1.0
    rows = LinearConstraint(
        program.matrix(), np.concatenate(program.row_lower), np.concatenate(program.row_upper)
    )
    with _standard_output_closed():
        solved = milp(
            cost,
            integrality=np.concatenate(program.integral),
            bounds=Bounds(np.concatenate(program.lower), np.concatenate(program.upper)),
            constraints=[rows, LinearConstraint(cost[None], -np.inf, cutoff)],
            options={"time_limit": seconds},
        )
    if solved.status == 2:  # infeasible
        return cutoff, None
    bound = solved.mip_dual_bound
    bound = -np.inf if bound is None or not np.isfinite(bound) else float(bound)
    return bound, None if solved.x is None else solved.x[encoding.pixels]
