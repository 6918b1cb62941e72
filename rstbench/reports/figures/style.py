"""Give all figures one style, and the same bytes each time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...files import short_name
from .. import palette
from ..palette import FIGURES
from .slim import slim

INK, MUTED, GRID, PAPER = FIGURES["ink"], FIGURES["muted"], FIGURES["line"], palette.FIGURE_PAPER
SERIES = tuple(FIGURES[name] for name in palette.SERIES)
MARKERS = ("o", "s", "^", "D", "v", "P")
LONGEST = 26  # letters of a name
SIZE = 8.5  # points
LETTER = 0.075  # inches a letter of that size takes at most, on the average of a name
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": SIZE,
    "axes.titlesize": SIZE + 0.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a model may be called $x$
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, to be found and read aloud
    "svg.hashsalt": "rstbench",
    "image.composite_image": False,  # small images stay small, and sharp
}


@dataclass(frozen=True)
class Drawing:
    """A figure before it is written. name: of its files; alt: its description."""

    name: str
    title: str
    alt: str
    figure: Figure

    def svg(self) -> bytes:
        return slim(self._as("svg", {"Creator": None, "Date": None, "Format": None, "Type": None}))

    def png(self) -> bytes:
        return self._as("png", {"Software": None})

    def _as(self, kind: str, metadata: dict[str, None]) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format=kind, dpi=144, metadata=metadata)
        return buffer.getvalue()


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style to figures that are made and written within."""
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # in somebody's name of a model
        yield


def subplots(
    panels: int,
    *,
    columns: int = 2,
    size: tuple[float, float] = (2.1, 1.75),
    margins: tuple[float, float, float, float] = (0.5, 1.25, 0.42, 0.36),
    heading: str = "",
    beside: Iterable[str] = (),
) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes of the same size in rows, perhaps under a heading.

    size, margins: in inches; margins left, right, below and above each panel. beside: the names that stand in
    the right margin.
    """
    (width, height), (left, right, below, above) = size, margins
    right = max(right, *(0.25 + LETTER * len(label(name)) for name in beside), 0.0)
    columns = min(columns, panels)
    rows = -(-panels // columns)
    across, down = left + width + right, below + height + above
    top = 0.3 if heading else 0.0
    figure = Figure((columns * across, rows * down + top))
    tall = rows * down + top
    if heading:
        figure.text(0.1 / (columns * across), 1 - 0.2 / tall, heading, fontweight="bold", fontsize=SIZE + 1.5)
    axes = [
        figure.add_axes(
            (
                ((panel % columns) * across + left) / (columns * across),
                1 - (top + (panel // columns + 1) * down - below) / tall,
                width / (columns * across),
                height / tall,
            )
        )
        for panel in range(panels)
    ]
    return figure, axes


def percent_axis(axes: Axes, low: float, high: float, *, across: bool = False) -> None:
    """Show fractions as percent, with room round [low, high] and a light grid."""
    low, high = min(low, high), max(low, high)
    room = max(0.02, 0.06 * (high - low))
    axis = axes.xaxis if across else axes.yaxis
    (axes.set_xlim if across else axes.set_ylim)(max(-0.02, low - room), min(1.02, high + room))
    axis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axis.grid(visible=True)


def label(name: str) -> str:
    """Return a name for a figure: printable, and cut where it is long."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names beside the axes, with lines from their (x, y, name, colour), spread where they touch."""
    low, high = axes.get_ylim()
    inches = axes.get_window_extent().height / axes.figure.dpi
    gap = 1.25 * SIZE / 72 / inches * (high - low)
    line = {"arrowstyle": "-", "lw": 0.4, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
    for (x, y, name, colour), at in zip(ends, spread_out([y for _, y, _, _ in ends], gap), strict=True):
        axes.annotate(
            label(name),
            (x, y),
            xytext=(1.045, (at - low) / (high - low)),
            textcoords=axes.transAxes,
            va="center",
            color=colour,
            annotation_clip=False,
            arrowprops={**line, "color": colour},
        )


def file_name(*parts: object) -> str:
    """Join parts to a name that any file system takes: 'Linf-8-255' of 'Linf:8/255'."""
    return short_name(re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(map(str, parts))).strip("-"))


def spread_out(values: Sequence[float], gap: float) -> list[float]:
    """Move values as little as possible until neighbours are `gap` apart, in the same order."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    blocks: list[list[int]] = []

    def start(block: list[int]) -> float:
        return sum(values[index] - step * gap for step, index in enumerate(block)) / len(block)

    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and start(blocks[-1]) < start(blocks[-2]) + len(blocks[-2]) * gap:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = [0.0] * len(values)
    for block in blocks:
        for step, index in enumerate(block):
            moved[index] = start(block) + step * gap
    return moved
