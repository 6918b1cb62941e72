"""Draw the first images of a model: clean, adversarial, and the perturbation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...evidence.examples import CraftingKey, Examples
from ...evidence.trial import CLEAN
from ..lookup import Evidence
from .style import SERIES, SIZE, Drawing, file_name, label

CELL, GAP, LINE = 0.66, 0.08, 0.2  # inches
MOST_PIXELS = 96  # across an image: of larger ones, every second pixel or fewer is shown
RIGHT, WRONG = SERIES[2], SERIES[1]


def draw_examples(evidence: Evidence, board: pd.DataFrame | None, examples: Examples) -> Iterator[Drawing]:
    """Yield one figure a threat, of the best ticket with kept images, else of the best model."""
    if board is None:
        return
    for threat, part in board.groupby("threat", sort=False):
        order = pd.concat([part[part["kind"] == "ticket"], part[part["kind"] != "ticket"]])
        craftings = (_craftings(evidence, line) for line in order.to_dict("records"))
        kept = (crafting for row in craftings for crafting in row if examples.crafted(crafting) is not None)
        crafting = next(kept, None)
        figure = None if crafting is None else grid(evidence, examples, crafting)
        if crafting is None or figure is None:
            continue
        name = evidence.info(crafting[0]).name
        yield Drawing(
            file_name("examples", threat),
            f"Images crafted against {name}",
            f"The first images as they are, as {crafting[1]} at {threat} left them, and the difference; "
            f"above the label, below what the model sees.",
            figure,
        )


def _craftings(evidence: Evidence, line: dict[str, object]) -> Sequence[CraftingKey]:
    """Return the craftings against the model of a line of the leaderboard, in the study's order."""
    question = (line["model"], line["threat"], line["seed"])
    return [
        CraftingKey(row.model, attack, row.threat, row.seed)
        for row in evidence.manifest.rows
        if (evidence.info(row.model).name, row.threat, row.seed) == question
        for attack in row.attacks
    ]


def grid(evidence: Evidence, examples: Examples, crafting: CraftingKey) -> Figure | None:
    """Draw three rows of images of one crafting; None where they were not kept."""
    source, attack, threat, _ = crafting
    clean = examples.images(str(evidence.manifest.run.get("data_digest")))
    crafted = examples.crafted(crafting)
    if clean is None or crafted is None:
        return None
    n = min(len(crafted), len(clean[0]))
    images, labels, crafted = clean[0][:n], clean[1][:n], crafted[:n]
    added = crafted - images
    times = amplification(added)
    rows = [("as it is", images), ("crafted", crafted), (f"added ×{times:g}", 0.5 + times * added)]
    left, above, down = 0.85, 0.62, CELL + GAP + LINE
    width, height = left + n * (CELL + GAP), above + 2 * down + CELL + GAP
    figure = Figure((width, height))
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    for row, (name, pictures) in enumerate(rows):
        top = above + row * down
        axes.text(0.05, top + CELL / 2, name, va="center")
        for column, picture in enumerate(pictures):
            x = left + column * (CELL + GAP)
            _show(axes, picture, x, top)
            if row == 0:
                axes.text(x + CELL / 2, top - 0.1, str(labels[column]), ha="center", va="center")
            if row < 2:
                shown = CraftingKey(source, CLEAN, "", 0) if row == 0 else crafting
                text, right = _prediction(evidence, examples, shown, column, int(labels[column]))
                colour = RIGHT if right else WRONG
                axes.text(x + CELL / 2, top + CELL + 0.1, text, ha="center", va="center", color=colour)
        if row < 2:
            axes.text(0.05, top + CELL + 0.1, "sees", va="center")
    axes.text(0.05, above - 0.1, "label", va="center")
    title = f"{label(evidence.info(source).name)}: {attack} at {threat}"
    axes.text(0.05, 0.14, title, va="center", fontweight="bold", fontsize=SIZE + 0.5)
    axes.set(xlim=(0, width), ylim=(height, 0))  # inches, from the upper left corner
    return figure


def amplification(added: np.ndarray) -> float:
    """Return a round factor that makes the largest perturbation about half the range; 1 for none."""
    largest = float(np.abs(added).max())
    if largest == 0:
        return 1.0
    factor = 0.5 / largest
    step = 10 ** math.floor(math.log10(factor))
    return float(max(part * step for part in (1, 2, 5) if part * step <= factor * (1 + 1e-6)))


def _prediction(
    evidence: Evidence, examples: Examples, crafting: CraftingKey, index: int, label: int
) -> tuple[str, bool]:
    """Return (the prediction for an image, whether that is right).

    Of a switch it is how often it is right; where only the bits are known it has no class.
    """
    predicted = examples.predicted(crafting)
    if predicted is not None and index < len(predicted):
        right = int(predicted[index]) == label
        return f"{'?' if predicted[index] < 0 else predicted[index]} {'✓' if right else '✗'}", right
    probabilities = evidence.robust(*crafting)
    if probabilities is None or index >= len(probabilities):
        return "", False
    share = float(probabilities[index])
    return ("✓" if share else "✗") if share in (0, 1) else f"{100 * share:.0f} %", share >= 0.5


def _show(axes: Axes, picture: np.ndarray, x: float, y: float) -> None:
    """Draw an image (c, h, w) in [0, 1] at (x, y); unless it has three channels, as their mean."""
    is_grey = len(picture) != 3
    step = -(-max(picture.shape[1:]) // MOST_PIXELS)
    pixels = (picture.mean(0) if is_grey else picture.transpose(1, 2, 0))[::step, ::step]
    axes.imshow(
        np.clip(pixels, 0, 1),
        cmap="gray" if is_grey else None,
        vmin=0,
        vmax=1,
        interpolation="none",
        aspect="auto",
        extent=(x, x + CELL, y + CELL, y),
    )
