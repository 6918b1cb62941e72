"""The other tables as the page shows them: settings against ratios, who was judged by whom, switches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..ratios import without_ratio
from ..transfer import groups_of, matrix


@dataclass(frozen=True)
class Cell:
    """A figure in [0, 1] or None, how much it varies between seeds, and whether it is framed."""

    value: float | None
    spread: float | None = None
    framed: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of accuracies. low, high: of its cells, for their shade."""

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
        """Its place between the smallest and the largest, for its background."""
        return 0.0 if cell.value is None else (cell.value - self.low) / (self.high - self.low or 1.0)

    def _known(self) -> Iterator[Any]:
        return (cell for _, cells in self.rows for cell in cells if cell.value is not None)


def setting_grids(ratios: pd.DataFrame | None) -> Iterator[Grid]:
    """One a threat, and one of natural accuracy: settings down, ratios across."""
    if ratios is None or ratios.empty:
        return
    for place, (threat, part) in enumerate(ratios.groupby("threat", sort=False)):
        if place == 0:
            yield _settings(part, "clean", "Natural accuracy")
        yield _settings(part, "worst", f"Worst case at {threat}")


def _settings(part: pd.DataFrame, measure: str, title: str) -> Grid:
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
    """One a threat, attack, early stop and group of models."""
    if transfer is None or transfer.empty:
        return
    for (threat, attack, stop), part in transfer.groupby(["threat", "attack", "early_stop"], sort=False):
        for names in groups_of(part):
            values = matrix(part[part["source"].isin(names)], names)
            stopped = ", stopped at its first success" if stop == "true" else ""
            yield Grid(
                f"{attack} at {threat}{stopped}",
                "percent right; down: whom images were crafted against; across: who judges; framed: its own",
                tuple(names),
                tuple(
                    (name, tuple(_judged(value, row == column) for column, value in enumerate(values[row])))
                    for row, name in enumerate(names)
                ),
            )


def _judged(value: np.floating[Any], own: bool) -> Cell:
    return Cell(_number(value), framed=own)


@dataclass(frozen=True)
class Ladder:
    """A switch at one threat and seed: the rungs are rows of `switch.csv`."""

    title: str
    clean: float
    lower: float
    upper: float
    rungs: tuple[dict[str, Any], ...]


def ladders(switch: pd.DataFrame | None) -> Iterator[Ladder]:
    if switch is None or switch.empty:
        return
    for (members, weights, threat, seed), part in switch.groupby(
        ["members", "weights", "threat", "seed"], sort=False
    ):
        drawn = "" if len(set(weights.split("+"))) == 1 else f" with weights {weights.replace('+', ', ')}"
        rungs = part.astype(object).where(part.notna(), "").to_dict("records")
        first = rungs[0]
        yield Ladder(
            f"{str(members).replace('+', ', ')}{drawn} at {threat}, seed {seed}",
            float(first["clean"]),
            float(first["lower_bound"]),
            float(first["upper_bound"]),
            tuple({str(name): value for name, value in rung.items()} for rung in rungs),
        )


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
