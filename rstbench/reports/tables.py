"""Compute all tables from per-image bits, write them, and print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .compare import COLUMNS as COMPARE_COLUMNS
from .compare import compare
from .curves import curves
from .formats import formats
from .leaderboard import HIDDEN, KINDS, attacks_of, leaderboard, lines_of
from .lookup import Evidence
from .pareto import pareto
from .per_class import per_class
from .published import comparable, comparable_transfer
from .ratios import is_comparison, ratios, ratios_text
from .switch import compare_switches, comparison_text, queries, switch, switch_text
from .transfer import matrix, transfer, transfer_flags


def tables(evidence: Evidence, own: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """Return every table with something to show, by name; the leaderboard wherever one was asked for.

    own: a user's quoted rows, which join those that are published on the same data and threat.
    """
    infos, lines = evidence.manifest.models.values(), lines_of(evidence)
    frames = {"leaderboard": leaderboard(evidence)} if evidence.manifest.rows else {}
    by_ratio = ratios(lines, attacks_of(evidence))
    if is_comparison(by_ratio):
        frames["ratios"] = by_ratio
    if evidence.manifest.groups:
        frames["transfer"] = transfer(evidence)
    if any(info.members for info in infos):
        frames |= {"switch": switch(evidence), "queries": queries(evidence)}
    compared = [frame for frame in (compare(evidence), compare_switches(evidence)) if len(frame)]
    others = {
        "per_class": per_class(evidence),
        "curves": curves(evidence),
        "compare": pd.concat(compared, ignore_index=True) if compared else pd.DataFrame(),
        "pareto": pareto(lines) if len(infos) > 1 else pd.DataFrame(),
        "published": comparable(evidence, own),
        "published_transfer": comparable_transfer(evidence),
    }
    return frames | {name: frame for name, frame in others.items() if len(frame)}


def write(
    evidence: Evidence, root: Path, more: Sequence[str] = (), own: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """Write the tables as CSV and in more formats, and return them. Raises BadRequest for unknown formats."""
    writers, frames = formats(more), tables(evidence, own)
    for writer in writers:
        writer(evidence, frames, root)
    return frames


def as_text(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Yield what a terminal shows.

    It is the leaderboard, or where there is none the transfer matrix with its flags; then switches, and the
    comparison of settings, where there are any.
    """
    if "leaderboard" in frames:
        yield from leaderboard_text(frames["leaderboard"])
    elif "transfer" in frames:
        yield from matrix_text(frames["transfer"])
        yield from transfer_flags(frames["transfer"])
    if "switch" in frames and len(frames["switch"]):
        yield ""
        yield from switch_text(frames["switch"])
        yield from comparison_text(frames.get("compare", pd.DataFrame(columns=COMPARE_COLUMNS)))
    if "ratios" in frames:
        yield ""
        yield from ratios_text(frames["ratios"])


def leaderboard_text(frame: pd.DataFrame) -> Iterator[str]:
    """Yield the leaderboard for a terminal: percentages, and the columns one reads first."""
    hidden = HIDDEN + (["seed"] if frame["seed"].nunique() <= 1 else [])
    # Attacks on switches alone stand in the table of switches.
    switches, plain = frame[frame["kind"] == "switch"], frame[frame["kind"] != "switch"]
    hidden += [c for c in frame if len(plain) and plain[c].isna().all() and switches[c].notna().any()]
    visible = frame.drop(columns=hidden, errors="ignore")
    texts = {str(name): [_cell(str(name), value) for value in visible[name]] for name in visible}
    widths = {name: max(len(name), *map(len, cells), 0) for name, cells in texts.items()}
    for cells in [list(texts), *map(list, zip(*texts.values(), strict=True))]:
        aligned = (
            cell.ljust(widths[name]) if KINDS.get(name) == "text" else cell.rjust(widths[name])
            for name, cell in zip(texts, cells, strict=True)
        )
        yield "  ".join(aligned).rstrip()


def matrix_text(frame: pd.DataFrame) -> Iterator[str]:
    """Yield the transfer table as one matrix a threat and attack: sources down, targets across."""
    for (threat, attack, stop), part in frame.groupby(["threat", "attack", "early_stop"], sort=False):
        stopped = ", stopped at the first success" if stop == "true" else ""
        yield f"{attack} at {threat}{stopped}; rows: crafted against, columns: judged by"
        names = list(dict.fromkeys(part["source"]))
        square = pd.DataFrame(matrix(part, names), index=names, columns=names)
        cells = square.map(lambda value: "" if pd.isna(value) else f"{100 * value:.1f}%")
        yield from cells.to_string().split("\n")


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    kind = KINDS.get(name, "percent")  # attacks are percentages
    return f"{100 * value:.1f}%" if kind == "percent" else f"{value:g}" if kind == "number" else str(value)
