"""Draw what is certified and what is broken: a band against the radius, and against the remaining ratio."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes

from ...threat import Threat
from .ratios import families_of, ratio_axis
from .style import GRID, MARKERS, SERIES, Drawing, label, name_ends, percent_axis, subplots

MOST_PANELS, MOST = 15, len(SERIES)


def draw_certified(points: pd.DataFrame) -> Iterator[Drawing]:
    """Yield the band between certified and attacked accuracy against the radius, a panel a model, and the
    certified accuracy against the remaining ratio, a panel a threat."""
    points = points.dropna(subset=["certified"])
    if points.empty:
        return
    parsed = points["threat"].map(Threat.parse)
    points = points.assign(norm=parsed.map(lambda t: t.norm), eps=parsed.map(lambda t: float(t.eps)))
    yield from _bands(points)
    yield from _by_ratio(points)


def _bands(points: pd.DataFrame) -> Iterator[Drawing]:
    """Yield one figure with the models that were asked at several radii of a norm: the first ones."""
    panels = [
        (str(name), str(norm), part.sort_values("eps"))
        for (name, norm), part in points.dropna(subset=["worst"]).groupby(["name", "norm"], sort=False)
        if part["eps"].nunique() > 1
    ][:MOST_PANELS]
    if not panels:
        return
    figure, axes = subplots(len(panels), columns=3, size=(1.9, 1.7), margins=(0.5, 0.25, 0.42, 0.36))
    for panel, (name, norm, part) in zip(axes, panels, strict=True):
        _band(panel, part)
        if panel is axes[0]:
            panel.legend(frameon=False, fontsize="small", loc="best")
        panel.set_title(label(name))
        panel.set_xlabel(f"radius, {norm}")
    yield Drawing(
        "certified",
        "Certified and attacked accuracy against radius",
        "Accuracy in percent against the radius: below the lower line it is proved, above the upper one "
        "broken, between them open; between radii that were asked, what follows from these; of "
        f"{', '.join(name for name, _, _ in panels)}.",
        figure,
    )


def _band(axes: Axes, part: pd.DataFrame) -> None:
    clean = float(part["clean"].iloc[0])
    x = [0.0, *part["eps"]]
    proved, attacked = ([clean, *part[column].astype(float)] for column in ("certified", "worst"))
    # What is broken stays broken at larger radii, what is certified is certified at smaller ones.
    axes.fill_between(x, 0, attacked, step="post", color=SERIES[1], alpha=0.14, lw=0)
    axes.fill_between(x, 0, proved, step="pre", color=SERIES[0], alpha=0.25, lw=0)
    axes.step(x, attacked, where="post", color=SERIES[1], lw=1.2)
    axes.step(x, proved, where="pre", color=SERIES[0], lw=1.2)
    for index, values, name in ((1, attacked, "not broken"), (0, proved, "certified")):
        axes.plot(x, values, ls="", color=SERIES[index], marker=MARKERS[index], ms=3, label=name)
    axes.set_xlim(0, x[-1] * 1.03)
    axes.grid(visible=True, axis="x", color=GRID)
    percent_axis(axes, 0, 1)


def _by_ratio(points: pd.DataFrame) -> Iterator[Drawing]:
    """Yield certified accuracy against the remaining ratio, a line a family."""
    families = families_of(points)[:MOST]
    threats = list(dict.fromkeys(points["threat"]))[:MOST]
    if not families:
        return
    figure, axes = subplots(len(threats), beside=families)
    for panel, threat in zip(axes, threats, strict=True):
        ends, values = [], [0.0]
        for family, colour, marker in zip(families, SERIES, MARKERS, strict=False):
            line = points[
                (points["setting"] == family) & (points["threat"] == threat) & (points["ratio"] != "")
            ]
            line = line.assign(x=line["ratio"].astype(float)).sort_values("x")
            if len(line):
                panel.plot(line["x"], line["certified"], color=colour, marker=marker, ms=3.5, lw=1.3)
                ends.append((line["x"].iloc[-1], line["certified"].iloc[-1], family, colour))
                values += list(line["certified"])
        percent_axis(panel, min(values), max(values))
        ratio_axis(panel, sorted({float(ratio) for ratio in points["ratio"] if ratio}))
        name_ends(panel, ends)
        panel.set_title(f"Certified at {threat}, %")
    yield Drawing(
        "certified-ratios",
        "Certified accuracy against remaining ratio",
        f"Certified accuracy in percent against the fraction of weights kept, at {', '.join(threats)}.",
        figure,
    )
