"""Draw robust accuracy against the number of weights, with the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..pareto import on_front
from .style import GRID, INK, MARKERS, MUTED, SERIES, SIZE, Drawing, label, percent_axis, subplots

KINDS = ("ticket", "trained", "switch", "external")
LINE = 0.145  # inches between lines of the list
MOST_NAMES = 14
HEIGHT = 2.15


def draw_pareto(points: pd.DataFrame) -> Iterator[Drawing]:
    """Yield one figure with a panel a threat; models on the front are numbered, and listed beside it."""
    known = points.dropna(subset=["kept_weights", "worst"])
    known = known.assign(kept_weights=known["kept_weights"].astype(float), worst=known["worst"].astype(float))
    threats = [t for t, part in known.groupby("threat", sort=False) if part["kept_weights"].nunique() > 1]
    if not threats:
        return
    figure, axes = subplots(len(threats), size=(2.4, HEIGHT), margins=(0.5, 2.35, 0.76, 0.34), columns=1)
    fronts = {threat: front_of(known[known["threat"] == threat]) for threat in threats}
    for panel, threat in zip(axes, threats, strict=True):
        _panel(panel, known[known["threat"] == threat], fronts[threat])
        _list(panel, fronts[threat])
        panel.set_title(f"Robust at {threat}, %")
    kinds = [kind for kind in KINDS if (known["kind"] == kind).any()]
    handles = [axes[0].plot([], [], **_marker(kind), ls="", label=kind)[0] for kind in kinds]
    figure.legend(handles=handles, loc="lower left", ncols=len(kinds), frameon=False, handletextpad=0.1)
    names = "; ".join(f"at {threat}: {', '.join(part['name'])}" for threat, part in fronts.items())
    yield Drawing(
        "pareto",
        "Robust accuracy against kept weights",
        f"Worst-case accuracy in percent against the number of weights in use. No other model has as few "
        f"weights and is as robust as those on the line, {names}.",
        figure,
    )


def front_of(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows on the Pareto front, fewest weights first."""
    best = points[on_front(list(zip(points["kept_weights"], points["worst"], strict=True)))]
    return best.sort_values(["kept_weights", "worst"], ascending=[True, False], kind="stable")


def _marker(kind: str) -> dict[str, Any]:
    index = KINDS.index(kind)
    return {"marker": MARKERS[index], "color": SERIES[index], "ms": 4.5, "mew": 0.9}


def _panel(axes: Axes, part: pd.DataFrame, best: pd.DataFrame) -> None:
    lowest, highest = part["kept_weights"].min(), part["kept_weights"].max()
    axes.set_xscale("log")
    axes.set_xlim(lowest / 1.5, highest * 1.4)
    percent_axis(axes, part["worst"].min(), part["worst"].max())
    _weights_axis(axes, lowest, highest)
    axes.plot(
        [*best["kept_weights"], highest * 1.4],
        [*best["worst"], best["worst"].iloc[-1]],
        drawstyle="steps-post",
        color=MUTED,
        lw=0.9,
        zorder=1,
    )
    is_best = part.index.isin(best.index)
    for kind in KINDS:
        beaten, unbeaten = (part[chosen & (part["kind"] == kind)] for chosen in (~is_best, is_best))
        hollow = {**_marker(kind), "mfc": "none", "alpha": 0.65}
        axes.plot(beaten["kept_weights"], beaten["worst"], ls="", **hollow)
        axes.plot(unbeaten["kept_weights"], unbeaten["worst"], ls="", **_marker(kind))
    # Nothing lies above and to the left of the front.
    for number, (x, y) in enumerate(best[["kept_weights", "worst"]].itertuples(index=False), start=1):
        if number <= MOST_NAMES:
            axes.annotate(
                str(number), (x, y), (-3, 2), textcoords="offset points", ha="right", fontsize=SIZE - 1
            )


def _weights_axis(axes: Axes, lowest: float, highest: float) -> None:
    steps = (1.0, 2.0, 5.0) if highest / lowest < 100 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.grid(visible=True, axis="x", color=GRID)
    axes.set_xlabel("weights in use")


def _list(axes: Axes, best: pd.DataFrame) -> None:
    """List number, name, weights and accuracy of each model on the front, most robust first."""
    rows = list(best[["name", "kept_weights", "worst"]].itertuples(index=False))[:MOST_NAMES]
    for line, (number, (name, weights, worst)) in enumerate(reversed(list(enumerate(rows, start=1)))):
        y = 1 - (line + 0.5) * LINE / HEIGHT
        for x, text, side, colour in (
            (1.1, str(number), "right", MUTED),
            (1.14, label(name), "left", INK),
            (1.79, short_count(weights), "right", MUTED),
            (1.97, f"{100 * worst:.1f}", "right", INK),
        ):
            axes.annotate(text, (x, y), xycoords="axes fraction", ha=side, va="center", color=colour)


def short_count(value: float) -> str:
    """Return 11526 as '11.5k'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
