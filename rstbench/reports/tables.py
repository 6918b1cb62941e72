"""Tables as views of the evidence: everything is computed from per-image bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .compare import COLUMNS as COMPARED
from .compare import compare
from .curves import curves
from .formats import formats
from .leaderboard import attacks_of, leaderboard, lines_of
from .lookup import Evidence
from .pareto import pareto
from .per_class import per_class
from .published import comparable, comparable_transfer
from .ratios import is_worth_it, ratios, ratios_text
from .switch import gains, gains_text, ladder_text, queries, switch
from .transfer import alarms, matrix, transfer


def tables(evidence: Evidence, own: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """Every table that has something to tell, by name; the leaderboard wherever one was asked for.

    own: a user's quoted rows, which join those that are published on the same data and threat.
    """
    cards, lines = evidence.request.models.values(), lines_of(evidence)
    frames = {"leaderboard": leaderboard(evidence)} if evidence.request.rows else {}
    compared = ratios(lines, attacks_of(evidence))
    if is_worth_it(compared):
        frames["ratios"] = compared
    if evidence.request.groups:
        frames["transfer"] = transfer(evidence)
    if any(card.members for card in cards):
        frames |= {"switch": switch(evidence), "queries": queries(evidence)}
    views = {
        "per_class": per_class(evidence),
        "curves": curves(evidence),
        "compare": pd.concat([compare(evidence), gains(evidence)], ignore_index=True),
        "pareto": pareto(lines) if len(cards) > 1 else pd.DataFrame(),
        "published": comparable(evidence, own),
        "published_transfer": comparable_transfer(evidence),
    }
    return frames | {name: frame for name, frame in views.items() if len(frame)}


def write(
    evidence: Evidence, root: Path, more: Sequence[str] = (), own: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """Writes the tables as CSV, and in more formats; returns them. Raises BadRequest for unknown formats."""
    writers, frames = formats(more), tables(evidence, own)
    for writer in writers:
        writer(evidence, frames, root)
    return frames


def as_text(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """What a terminal shows: the leaderboard, or where nothing else was asked the matrix with its alarms; the
    ladder and gains of a switch, and the comparison of settings, where there are any."""
    if "leaderboard" in frames:
        yield from board_text(frames["leaderboard"])
    elif "transfer" in frames:
        yield from matrix_text(frames["transfer"])
        yield from alarms(frames["transfer"])
    if "switch" in frames and len(frames["switch"]):
        yield ""
        yield from ladder_text(frames["switch"])
        yield from gains_text(frames.get("compare", pd.DataFrame(columns=COMPARED)))
    if "ratios" in frames:
        yield ""
        yield from ratios_text(frames["ratios"])


def board_text(frame: pd.DataFrame) -> Iterator[str]:
    """The leaderboard for a terminal: percentages, the columns one reads first."""
    left = ["model", "threat", "flags"]
    shown = frame.drop(
        columns=[c for c in ("kind", "method", "network", "data", "total_weights", "seconds") if c in frame]
    )
    # What only switches are asked stands in their ladder.
    switches, plain = frame[frame["kind"] == "switch"], frame[frame["kind"] != "switch"]
    hidden = [c for c in shown if len(plain) and plain[c].isna().all() and switches[c].notna().any()]
    shown = shown.drop(columns=hidden)
    if shown["seed"].nunique() <= 1:
        shown = shown.drop(columns="seed")
    texts = {str(name): [_cell(str(name), value) for value in shown[name]] for name in shown}
    widths = {name: max(len(name), *map(len, cells), 0) for name, cells in texts.items()}
    for cells in [list(texts), *map(list, zip(*texts.values(), strict=True))]:
        aligned = (
            cell.ljust(widths[name]) if name in left else cell.rjust(widths[name])
            for name, cell in zip(texts, cells, strict=True)
        )
        yield "  ".join(aligned).rstrip()


def matrix_text(frame: pd.DataFrame) -> Iterator[str]:
    """The transfer table as one matrix a threat and attack: sources down, targets across."""
    for (threat, attack, stop), part in frame.groupby(["threat", "attack", "early_stop"], sort=False):
        stopped = ", stopped at the first success" if stop == "true" else ""
        yield f"{attack} at {threat}{stopped}; rows: crafted against, columns: judged by"
        names = list(dict.fromkeys(part["source"]))
        shown = pd.DataFrame(matrix(part, names), index=names, columns=names)
        yield from (
            shown.map(lambda value: "" if pd.isna(value) else f"{100 * value:.1f}%").to_string().split("\n")
        )


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if name in ("remaining", "forwards", "backwards"):
        return f"{value:g}"
    return f"{100 * value:.1f}%" if isinstance(value, float) else str(value)
