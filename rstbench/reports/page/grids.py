"""Arrange tables for the page: settings against ratios, the transfer matrix, switches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..ratios import without_ratio
from ..switch import BY_SWITCH, CERTIFIED
from ..transfer import groups_of, matrix
from .template import records


@dataclass(frozen=True)
class Cell:
    """An accuracy in [0, 1] or None, its standard deviation over seeds, and whether it is framed."""

    value: float | None
    deviation: float | None = None
    framed: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of accuracies. low, high: of its cells, which are shaded between them."""

    title: str
    note: str
    across: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    @property
    def low(self) -> float:
        return min((cell.value for cell in self._known()), default=0.0)

    @property
    def high(self) -> float:
        return max((cell.value for cell in self._known()), default=1.0)

    def shade(self, cell: Cell) -> float:
        """Return the shade of a cell, from 0 for the lowest to 1 for the highest."""
        return 0.0 if cell.value is None else (cell.value - self.low) / (self.high - self.low or 1.0)

    def _known(self) -> Iterator[Any]:
        return (cell for _, cells in self.rows for cell in cells if cell.value is not None)


def setting_grids(ratios: pd.DataFrame | None) -> Iterator[Grid]:
    """Yield a grid for natural accuracy and one a threat: settings down, ratios across."""
    if ratios is None or ratios.empty:
        return
    for number, (threat, part) in enumerate(ratios.groupby("threat", sort=False)):
        if number == 0:
            yield _setting_grid(part, "clean", "Natural accuracy")
        yield _setting_grid(part, "worst", f"Worst case at {threat}")


def _setting_grid(part: pd.DataFrame, measure: str, title: str) -> Grid:
    last = without_ratio(part)
    cells = {
        (row["setting"], row["ratio"] or last): Cell(_number(row[measure]), _number(row[f"{measure}_sd"]))
        for row in part.to_dict("records")
    }
    ratios = sorted({ratio for _, ratio in cells if ratio != last}, key=float)
    across = [*ratios, *([last] if any(ratio == last for _, ratio in cells) else [])]
    seeds, images = int(part["seeds"].max()), int(part["images"].max())
    spread = f", mean of {seeds} seeds ± standard deviation" if seeds > 1 else ""
    return Grid(
        title,
        f"percent of {images} images{spread}; across: the fraction of weights kept",
        tuple(across),
        tuple(
            (setting, tuple(cells.get((setting, ratio), Cell(None)) for ratio in across))
            for setting in dict.fromkeys(setting for setting, _ in cells)
        ),
    )


def transfer_grids(transfer: pd.DataFrame | None) -> Iterator[Grid]:
    """Yield a grid a threat, attack, early stop and group of models."""
    if transfer is None or transfer.empty:
        return
    for (threat, attack, stop), part in transfer.groupby(["threat", "attack", "early_stop"], sort=False):
        for names in groups_of(part):
            values = matrix(part[part["source"].isin(names)], names)
            stopped = ", stopped at its first success" if stop == "true" else ""
            cells = [
                tuple(Cell(_number(value), framed=row == column) for column, value in enumerate(accuracies))
                for row, accuracies in enumerate(values)
            ]
            yield Grid(
                f"{attack} at {threat}{stopped}",
                "percent right; down: whom images were crafted against; across: who judges; framed: its own",
                tuple(names),
                tuple(zip(names, cells, strict=True)),
            )


@dataclass(frozen=True)
class SwitchGrid:
    """A switch at one threat and seed: its bounds, and its rows of `switch.csv`.

    certified: its accuracy under any attacker, None where no certificate was asked or one has no answer.
    """

    title: str
    clean: float
    lower: float
    upper: float
    certified: float | None
    lines: tuple[dict[str, Any], ...]


def switch_grids(switch: pd.DataFrame | None) -> Iterator[SwitchGrid]:
    """Yield a grid a switch, threat and seed."""
    if switch is None or switch.empty:
        return
    for (members, weights, threat, seed), part in switch.groupby(BY_SWITCH, sort=False):
        unequal = "" if len(set(weights.split("+"))) == 1 else f" with weights {weights.replace('+', ', ')}"
        lines = records(part, "")
        first = lines[0]
        yield SwitchGrid(
            f"{str(members).replace('+', ', ')}{unequal} at {threat}, seed {seed}",
            float(first["clean"]),
            float(first["lower_bound"]),
            float(first["upper_bound"]),
            _number(first.get(CERTIFIED)),
            tuple(lines),
        )


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
