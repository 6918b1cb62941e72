"""Draw accuracy against the radius, where an attack was asked at several of one norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes

from ...threat import Threat
from .style import GRID, MARKERS, MUTED, SERIES, Drawing, label, name_ends, percent_axis, subplots

MOST_NAMES = len(SERIES)


def draw_curves(points: pd.DataFrame, attacks: Sequence[str]) -> Iterator[Drawing]:
    """Yield one figure with a panel a norm and attack; radius 0 is the clean image.

    Among many models the best and the worst at the smallest radius are named, the rest is grey.
    """
    panels = [(norm, attack, part) for attack in attacks for norm, part in _by_norm(points, attack)]
    if not panels:
        return
    figure, axes = subplots(len(panels), size=(2.3, 1.9), beside=points["name"])
    for panel, (norm, attack, part) in zip(axes, panels, strict=True):
        _panel(panel, part, attack)
        panel.set_title(f"{label(attack)}, {norm}, %")
    questions = "; ".join(f"{attack} at {', '.join(part['threat'].unique())}" for _, attack, part in panels)
    yield Drawing(
        "radius",
        "Accuracy against radius",
        f"Accuracy in percent from radius 0 on, under {questions}.",
        figure,
    )


def _by_norm(points: pd.DataFrame, attack: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the norms of an attack with several radii, and the points of models that have all of them."""
    known = points.dropna(subset=[attack])
    for norm, part in known.groupby(known["threat"].map(lambda text: Threat.parse(text).norm), sort=False):
        radii = part["threat"].nunique()
        complete = part[part.groupby("name")["threat"].transform("nunique") == radii]
        if radii > 1 and len(complete):
            yield str(norm), complete


def _panel(axes: Axes, part: pd.DataFrame, attack: str) -> None:
    curves = {}
    for name, own in part.groupby("name", sort=False):
        own = own.assign(eps=own["threat"].map(lambda text: float(Threat.parse(text).eps))).sort_values("eps")
        curves[str(name)] = ([0.0, *own["eps"]], [float(own["clean"].iloc[0]), *own[attack].astype(float)])
    ranked = sorted(curves, key=lambda name: -curves[name][1][1])
    named = ranked if len(ranked) <= MOST_NAMES else [*ranked[: MOST_NAMES - 2], *ranked[-2:]]
    for name in ranked:
        if name not in named:
            axes.plot(*curves[name], color=MUTED, alpha=0.3, lw=0.7, zorder=1)
    ends = []
    for name, colour, marker in zip(named, SERIES, MARKERS, strict=False):
        x, y = curves[name]
        axes.plot(x, y, color=colour, marker=marker, ms=3.5, lw=1.3, zorder=2)
        ends.append((x[-1], y[-1], name, colour))
    radii = sorted({x for xs, _ in curves.values() for x in xs})
    axes.set_xlim(0, radii[-1] * 1.05)
    names = {float(threat.eps): threat.eps_text for threat in map(Threat.parse, part["threat"].unique())}
    axes.set_xticks(radii, [names.get(radius, "0") for radius in radii])
    axes.grid(visible=True, axis="x", color=GRID)
    axes.set_xlabel("radius")
    values = [value for _, ys in curves.values() for value in ys]
    percent_axis(axes, min(values), max(values))
    name_ends(axes, ends)
