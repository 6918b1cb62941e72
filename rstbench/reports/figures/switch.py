"""Draw what a random switch is worth, as a staircase of attackers who know more and more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ..statistics import LEVEL
from ..switch import BY_SWITCH, CERTIFIED
from .style import INK, MUTED, SERIES, SIZE, Drawing, file_name, label, percent_axis, subplots

ROW = 0.24  # inches
FALL, SUM = SERIES[1], SERIES[0]
COLOURS = {"best-member": SERIES[2], "dense": SERIES[3]}


def draw_switch(switch: pd.DataFrame | None) -> Iterator[Drawing]:
    """Yield one figure a switch, threat and seed; switch: switch.csv."""
    if switch is None or switch.empty:
        return
    taken: set[str] = set()
    for (members, weights, threat, seed), rows in switch.groupby(BY_SWITCH, sort=False):
        attackers, baselines = rows[rows["knows_switch"] != ""], rows[rows["knows_switch"] == ""]
        size = (3.4, ROW * (len(attackers) + 1))
        figure, axes = subplots(1, size=size, margins=(2.0, 0.75, 0.9, 0.32))
        _stairs(axes[0], attackers)
        _lines(axes[0], attackers, baselines)
        equal = len(set(str(weights).split("+"))) == 1
        axes[0].set_title(f"Switch{'' if equal else ' with unequal weights'} at {threat}, %")
        name = file_name("switch", *(() if equal else ("weighted",)), threat, f"seed{seed}")
        while name in taken:  # of other members
            name += "-more"
        taken.add(name)
        last = attackers[attackers["rung"] == "minimum"].iloc[0]
        yield Drawing(
            name,
            f"The switch of {_listed(members)}{'' if equal else f' with weights {_listed(weights)}'} at "
            f"{threat}, seed {seed}",
            f"Expected accuracy falls from {last['clean']:.1%} on clean images to {last['robust']:.1%} under "
            f"the worst of all crafted sets; the members' errors on all of these sets allow "
            f"{last['lower_bound']:.1%} to {last['upper_bound']:.1%}{_certified(last)}. Bars are steps down, "
            f"dots the rungs with their {LEVEL} intervals.",
            figure,
        )


def _certified(line: pd.Series) -> str:
    proved = line.get(CERTIFIED)
    return "" if proved is None or pd.isna(proved) else f", and {proved:.1%} is certified under any attacker"


def _listed(joined: str) -> str:
    return str(joined).replace("+", ", ")


def _stairs(axes: Axes, attackers: pd.DataFrame) -> None:
    """Draw attackers top down; a bar is what one takes away beyond all above it."""
    first = attackers.iloc[0]
    level, names = float(first["clean"]), ["clean images"]
    axes.plot(level, 0, "o", ms=5, color=SUM, zorder=4)
    _write_value(axes, 0, level)
    for row, line in enumerate(attackers.to_dict("records"), start=1):
        value, last = float(line["robust"]), line["rung"] == "minimum"
        names.append("worst of all sets" if last else f"{line['rung']}  {label(line['attack'])}")
        axes.plot([level, level], [row - 1, row], color=MUTED, lw=0.6, zorder=1)
        if value < level:
            axes.barh(row, level - value, left=value, color=FALL, height=0.55)
        axes.plot([line["robust_low"], line["robust_high"]], [row, row], color=MUTED, lw=0.8, zorder=3)
        axes.plot(value, row, "o", ms=5 if last else 3.5, color=SUM if last else INK, zorder=4)
        level = min(level, value)
        _write_value(axes, row, value, bold=last)
    axes.set_yticks(range(len(names)), names)
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    bounds = (float(first[name]) for name in ("lower_bound", CERTIFIED) if pd.notna(first.get(name)))
    low = min(float(attackers["robust_low"].min()), *bounds)
    high = max(float(first[name]) for name in ("clean", "upper_bound"))
    percent_axis(axes, low, max(high, float(attackers["robust_high"].max())), across=True)


def _write_value(axes: Axes, row: int, value: float, *, bold: bool = False) -> None:
    """Write a value at the right edge, where no bar or interval is."""
    weight = "bold" if bold else "normal"
    text = f"{100 * value:.1f}"
    axes.annotate(text, (1.02, row), xycoords=axes.get_yaxis_transform(), va="center", fontweight=weight)


def _lines(axes: Axes, attackers: pd.DataFrame, baselines: pd.DataFrame) -> None:
    """Draw the bounds and the baselines; the mean of the members is the lower bound."""
    first = attackers.iloc[0]
    marks: list[tuple[str, float, str, Any]] = [
        ("lower bound, members' mean", float(first["lower_bound"]), INK, (0, (1, 1.5))),
        ("upper bound", float(first["upper_bound"]), INK, (0, (1, 1.5))),
    ]
    if pd.notna(proved := first.get(CERTIFIED)):
        marks.append(("certified", float(proved), INK, "solid"))
    for role, robust in zip(baselines["rung"], baselines["robust"], strict=True):
        kind, _, name = str(role).partition(" ")
        if name:
            role_name = "best member" if kind == "best-member" else kind
            # Where both stand at one value, the dashes of one fill the gaps of the other.
            dashes = (3 if kind == "dense" else 0, (3, 3))
            marks.append((f"{role_name}: {label(name)}", float(robust), COLOURS[kind], dashes))
    for index, (name, value, colour, dashes) in enumerate(sorted(marks, key=lambda mark: mark[1])):
        axes.axvline(value, color=colour, lw=1.0, ls=dashes, zorder=2)
        axes.annotate(
            f"{name} {100 * value:.1f}",
            (value, 0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, -20 - 11 * index),
            textcoords="offset points",
            ha="center",
            va="top",
            color=colour,
            fontsize=SIZE - 0.5,
            annotation_clip=False,
        )
