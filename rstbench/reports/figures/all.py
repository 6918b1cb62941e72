"""Draw all figures of a request; a new one is a line in `draw_all`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from ...evidence.examples import Examples
from ..lookup import Evidence
from .certified import draw_certified
from .curves import draw_curves
from .examples import draw_examples
from .pareto import draw_pareto
from .ratios import draw_ratios
from .style import Drawing
from .switch import draw_switch
from .transfer import draw_transfer


def draw_all(
    evidence: Evidence,
    frames: Mapping[str, pd.DataFrame],
    points: pd.DataFrame,
    attacks: Sequence[str],
    examples: Examples,
) -> Iterator[Drawing]:
    """Yield every figure that has something to show; to be drawn and written within `styled()`."""
    board = frames.get("leaderboard")
    yield from draw_ratios(points)
    yield from draw_curves(points, attacks)
    yield from draw_certified(points)
    yield from draw_pareto(points)
    yield from draw_switch(frames.get("switch"))
    yield from draw_transfer(frames.get("transfer"))
    yield from draw_examples(evidence, board, examples)
