"""Renders the page of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...evidence.pack import FILE as PACK
from ...files import write_whole
from ..lookup import Evidence
from ..per_image import WORST
from ..switch_bounds import MINIMUM
from ..transfer import alarms
from .commands import whole_command
from .glossary import explain
from .grids import ladders, setting_grids, transfer_grids
from .inline import Picture
from .rows import lines, run_text, shown_attacks
from .template import FILE, distinct, template


def write_page(
    evidence: Evidence,
    frames: Mapping[str, pd.DataFrame],
    attacks: Sequence[str],
    pictures: Sequence[Picture],
    folder: Path,
) -> Path:
    """Writes `folder/index.html`. attacks: every attack that some row asks for."""
    request, board = evidence.request, frames.get("leaderboard")
    board = None if board is None or board.empty else board
    rows = [] if board is None else list(lines(evidence, board, folder))
    flags = sorted(
        {flag for row in rows for flag in (*row.flags, *(f for a in row.answers for f in a.flags))}
    )
    run, places = request.run, {place for files in evidence.places.values() for place in files}
    text = template("page.html").render(
        title=str(request.study.get("name") or folder.resolve().name),
        data=str(run["data"]),
        data_digest=str(run.get("data_digest", "")),
        images=request.images,
        run=run_text(run.get("device"), run.get("threads"), run.get("versions", {})),
        batch=run.get("batch", ""),
        failures=request.failures,
        command=whole_command(request),
        refers=bool(request.study.get("model")),
        rows=rows,
        pack=PACK,
        packed=PACK in places,
        unpacked=not places <= {PACK},
        attacks=[] if board is None else shown_attacks(board, attacks),
        seeds=0 if board is None else board["seed"].nunique(),
        kinds=distinct(board, "kind"),
        threats=distinct(board, "threat"),
        models=0 if board is None else board["model"].nunique(),
        flags=[(flag, explain(flag)) for flag in flags],
        settings=list(setting_grids(frames.get("ratios"))),
        ladders=list(ladders(frames.get("switch"))),
        transfers=list(transfer_grids(frames.get("transfer"))),
        stronger=stronger(frames.get("transfer")),
        pictures=pictures,
        compared=compared(frames.get("compare")),
        quoted=quoted(frames.get("published")),
        files=[(f"{name}.csv", len(frame)) for name, frame in frames.items()],
    )
    write_whole(folder / FILE, text.encode())
    return folder / FILE


def stronger(transfer: pd.DataFrame | None) -> list[str]:
    """The alarms of the matrix."""
    return [] if transfer is None else [line.partition(": ")[2] for line in alarms(transfer)]


def compared(compare: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The lines of compare.csv on the worst case."""
    if compare is None:
        return []
    worst = compare[compare["attack"].isin((WORST, MINIMUM))]
    return [{str(name): value for name, value in row.items()} for row in worst.to_dict("records")]


def quoted(published: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The rows of published.csv as they are; empty cells are None."""
    if published is None or published.empty:
        return []
    plain = published.astype(object).where(published.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]
