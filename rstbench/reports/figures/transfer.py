"""Draw the transfer matrix: crafted against a row, judged by a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..palette import DARK, ON_DARK, ON_LIGHT, SCALE
from ..transfer import groups_of, matrix
from .style import PAPER, SERIES, Drawing, file_name, label

CELL = 0.42  # inches
LETTER = 0.075  # inches, about
WITHOUT_FIGURES = 24  # more models than this leave no room for figures in the cells
MOST_MODELS = 60


def draw_transfer(transfer: pd.DataFrame | None) -> Iterator[Drawing]:
    """Yield one figure a threat, attack and group of models, with a panel for early stop beside."""
    if transfer is None or transfer.empty:
        return
    for (threat, attack), part in transfer.groupby(["threat", "attack"], sort=False):
        for number, names in enumerate(groups_of(part)):
            if not 1 < len(names) <= MOST_MODELS:
                continue
            own = part[part["source"].isin(names)]
            panels = {
                "true" if stop == "true" else "": matrix(own[own["early_stop"] == stop], names)
                for stop in sorted(own["early_stop"].unique())
            }
            yield Drawing(
                file_name("transfer", attack, threat, *([number + 1] if number else [])),
                f"Transfer of {attack} at {threat}",
                f"Robust accuracy in percent of {', '.join(names)}, each judged on the images crafted "
                f"against each; framed: its own.",
                _figure(panels, names, str(attack), str(threat)),
            )


def _figure(panels: dict[str, np.ndarray], names: Sequence[str], attack: str, threat: str) -> Figure:
    longest = LETTER * max(len(label(name)) for name in names)
    side, left, above, below, gap = CELL * len(names), longest + 0.42, 0.36, 0.75 * longest + 0.42, 0.25
    width, height = left + len(panels) * (side + gap), above + side + below
    figure = Figure((width, height))
    values = np.concatenate([panel[~np.isnan(panel)] for panel in panels.values()])
    low, high = float(values.min()), float(values.max())
    for column, (stop, panel) in enumerate(panels.items()):
        axes = figure.add_axes(
            ((left + column * (side + gap)) / width, below / height, side / width, side / height)
        )
        axes.set_title("stopped at its first success" if stop else f"{attack} at {threat}")
        _map(axes, panel, low, high)
        axes.set_xticks(range(len(names)), [label(name) for name in names], rotation=45, ha="right")
        axes.set_yticks(range(len(names)), [label(name) if column == 0 else "" for name in names])
        axes.tick_params(length=0)
        axes.set_xlabel("judged by")
        axes.set_ylabel("crafted against" if column == 0 else "")
        for side_line in axes.spines.values():
            side_line.set_visible(False)
    return figure


def _map(axes: Axes, values: np.ndarray, low: float, high: float) -> None:
    colours = matplotlib.colormaps[SCALE]
    n = len(values)
    for row, column in np.argwhere(~np.isnan(values)):
        value = values[row, column]
        share = (value - low) / (high - low) if high > low else 1.0
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colours(share), edgecolor=PAPER, lw=1.0)
        )
        if row == column:
            axes.add_patch(
                Rectangle((column - 0.44, row - 0.44), 0.88, 0.88, fill=False, edgecolor=SERIES[1], lw=1.4)
            )
        if n <= WITHOUT_FIGURES:
            colour = ON_DARK if share < DARK else ON_LIGHT
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour)
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(n - 0.5, -0.5)
