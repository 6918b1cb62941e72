"""Draw accuracy against the remaining ratio: a line a family, dense networks as levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..statistics import LEVEL, confidence_interval
from .style import INK, MARKERS, MUTED, SERIES, Drawing, file_name, label, name_ends, percent_axis, subplots

MOST_LINES = len(SERIES)
MOST_LEVELS = 3
NATURAL = "natural"
EDGE = 1.15  # room beside the first and the last ratio


def draw_ratios(points: pd.DataFrame) -> Iterator[Drawing]:
    """Yield figures of natural accuracy and of robust accuracy at each threat.

    They stand side by side for a few families; for many there is a figure each, with panels of families that
    share their first word.
    """
    points = points.dropna(subset="worst")
    families = families_of(points)
    if not families:
        return
    threats = list(dict.fromkeys(points["threat"]))
    measures = [(NATURAL, threats[0]), *(("robust", threat) for threat in threats)]
    groups = grouped(families)
    if len(groups) == 1:
        figure, axes = subplots(len(measures), beside=points["setting"])
        for panel, (measure, threat) in zip(axes, measures, strict=True):
            _panel(panel, points[points["threat"] == threat], measure, families, None)
            panel.set_title(_title(measure, threat))
        yield Drawing("ratios", "Accuracy against remaining ratio", _alt(points, families), figure)
        return
    for measure, threat in measures:
        figure, axes = subplots(len(groups), heading=_title(measure, threat), beside=points["setting"])
        for panel, (title, group) in zip(axes, groups.items(), strict=True):
            _panel(panel, points[points["threat"] == threat], measure, group, families[0])
            panel.set_title(label(title))
        name = file_name("ratios", *([NATURAL] if measure == NATURAL else [threat]))
        title = f"{_title(measure, threat).removesuffix(', %')} against remaining ratio"
        yield Drawing(name, title, _alt(points, families), figure)


def families_of(points: pd.DataFrame) -> list[str]:
    """Return the settings with a ratio; none where no setting has several."""
    ratio_counts = points[points["ratio"] != ""].groupby("setting", sort=False)["ratio"].nunique()
    return list(ratio_counts.index) if (ratio_counts > 1).any() else []


def grouped(families: Sequence[str]) -> dict[str, list[str]]:
    """Return the families of each panel.

    While there are few all share one, else those with the same first word do; those with a first word of
    their own share one too. The first family is the reference and stands in every panel.
    """
    if len(families) <= MOST_LINES:
        return {"": list(families)}
    words: dict[str, list[str]] = {}
    for family in families[1:]:
        words.setdefault(family.partition("-")[0], []).append(family)
    alone = [group[0] for group in words.values() if len(group) == 1]
    panels = {word: group for word, group in words.items() if len(group) > 1}
    if alone:
        panels["others" if len(alone) > 1 else alone[0]] = alone
    titled = {}
    for word, group in panels.items():
        for start in range(0, len(group), MOST_LINES):
            more = f" {start // MOST_LINES + 1}" if len(group) > MOST_LINES else ""
            titled[word + more] = group[start : start + MOST_LINES]
    return titled


def _panel(axes: Axes, points: pd.DataFrame, measure: str, group: Sequence[str], first: str | None) -> None:
    """Draw one panel; first: the reference, drawn dark behind the group, None for a group alone."""
    column = "clean" if measure == NATURAL else "worst"
    ends: list[tuple[float, float, str, str]] = []
    drawn = [] if first is None else [(first, INK, "")]
    drawn += list(zip(group, SERIES, MARKERS, strict=False))
    low, high = 1.0, 0.0
    for family, colour, marker in drawn:
        line = points[(points["setting"] == family) & (points["ratio"] != "")].dropna(subset=column)
        line = line.assign(x=line["ratio"].astype(float)).sort_values("x")
        if line.empty:
            continue
        x, y = line["x"], line[column]
        below, above = _band(line, column)
        axes.fill_between(x, below, above, color=colour, alpha=0.14, lw=0)
        axes.plot(x, y, color=colour, marker=marker, ms=3.5, lw=1.3, zorder=3)
        ends.append((x.iloc[-1], y.iloc[-1], _short(family, group if first else ()), colour))
        low, high = min(low, below.min()), max(high, above.max())
    ratios = sorted({float(ratio) for ratio in points["ratio"] if ratio})
    for name, level in levels_of(points, column)[: MOST_LEVELS if first is None else 1]:
        axes.axhline(level, color=MUTED, lw=0.8, ls=(0, (4, 2)), zorder=1)
        ends.append((ratios[-1] * EDGE, level, name, MUTED))
        low, high = min(low, level), max(high, level)
    percent_axis(axes, low, high)
    ratio_axis(axes, ratios)
    name_ends(axes, ends)


def _band(line: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """Return a standard deviation over seeds to both sides; of one seed the interval for its images."""
    value, spread = line[column].astype(float), line[f"{column}_sd"]
    limits = [confidence_interval(mean, int(n)) for mean, n in zip(value, line["images"], strict=True)]
    low, high = (pd.Series(side, index=line.index) for side in zip(*limits, strict=True))
    return (value - spread).where(spread.notna(), low), (value + spread).where(spread.notna(), high)


def _short(family: str, group: Sequence[str]) -> str:
    """Return the name without its first word, where that is the title of its panel."""
    word, _, rest = family.partition("-")
    shared = family in group and len(group) > 1 and all(other.startswith(f"{word}-") for other in group)
    return rest if shared else family


def levels_of(points: pd.DataFrame, column: str) -> list[tuple[str, float]]:
    """Return the most robust networks without a ratio, trained or external."""
    levels = points[(points["ratio"] == "") & points["kind"].isin(["trained", "external"])]
    levels = levels.dropna(subset=["worst", column]).sort_values("worst", ascending=False, kind="stable")
    return list(zip(levels["name"], levels[column], strict=True))[:MOST_LEVELS]


def ratio_axis(axes: Axes, ratios: Sequence[float]) -> None:
    """Make the x axis logarithmic, with ticks at the measured ratios as far as there is room."""
    axes.set_xscale("log")
    axes.set_xlim(ratios[0] / EDGE, ratios[-1] * EDGE)
    ticks: list[float] = []
    least = (ratios[-1] / ratios[0]) ** 0.12
    for ratio in reversed(ratios):
        if not ticks or ticks[-1] / ratio >= least:
            ticks.append(ratio)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.set_xlabel("weights kept, %")


def _title(measure: str, threat: str) -> str:
    return "Natural accuracy, %" if measure == NATURAL else f"Robust at {threat}, %"


def _alt(points: pd.DataFrame, families: Sequence[str]) -> str:
    seeds = int(points["seeds"].max())
    one = f", one seed with its {LEVEL} interval"
    spread = f", mean of {seeds} seeds with their standard deviation" if seeds > 1 else one
    few = len(families) <= MOST_LINES
    names = ", ".join(families) if few else f"{len(families)} settings; dark: {families[0]}"
    return (
        f"Accuracy in percent against the fraction of weights kept{spread}, for {names}; "
        f"dashed: networks of no ratio. The axes of the panels differ."
    )
