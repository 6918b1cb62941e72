"""Render the page of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...evidence.pack import PACK_FILE
from ...files import write_whole
from ...flags import meaning_of
from ..certified import contradictions
from ..lookup import Evidence
from ..per_image import WORST
from ..switch_bounds import MINIMUM
from ..transfer import transfer_flags
from .commands import study_command
from .grids import setting_grids, switch_grids, transfer_grids
from .inline import Picture
from .rows import column_attacks, leaderboard_rows, run_text
from .template import PAGE_FILE, distinct, records, template


def write_page(
    evidence: Evidence,
    frames: Mapping[str, pd.DataFrame],
    attacks: Sequence[str],
    pictures: Sequence[Picture],
    folder: Path,
) -> Path:
    """Write `folder/index.html`. attacks: every attack that some row asks for."""
    manifest, board = evidence.manifest, frames.get("leaderboard")
    board = None if board is None or board.empty else board
    rows = [] if board is None else list(leaderboard_rows(evidence, board, folder))
    flags = sorted(
        {flag for row in rows for flag in (*row.flags, *(f for result in row.attacks for f in result.flags))}
    )
    run, places = manifest.run, {place for files in evidence.places.values() for place in files}
    text = template("page.html").render(
        title=str(manifest.study.get("name") or folder.resolve().name),
        data=str(run["data"]),
        data_digest=str(run.get("data_digest", "")),
        images=manifest.images,
        run=run_text(run.get("device"), run.get("threads"), run.get("versions", {})),
        batch=run.get("batch", ""),
        failures=(*manifest.failures, *contradictions(evidence)),
        unanswered=evidence.unanswered,
        questions=len(manifest.keys),
        command=study_command(manifest),
        refers=bool(manifest.study.get("model")),
        rows=rows,
        pack=PACK_FILE,
        packed=PACK_FILE in places,
        unpacked=not places <= {PACK_FILE},
        attacks=[] if board is None else column_attacks(board, attacks),
        certified=board is not None and "certified" in board,
        curve="curve" in manifest.study,
        seeds=0 if board is None else board["seed"].nunique(),
        kinds=distinct(board, "kind"),
        threats=distinct(board, "threat"),
        models=0 if board is None else board["model"].nunique(),
        flags=[(flag, meaning_of(flag)) for flag in flags],
        settings=list(setting_grids(frames.get("ratios"))),
        switches=list(switch_grids(frames.get("switch"))),
        transfers=list(transfer_grids(frames.get("transfer"))),
        stronger=transfer_warnings(frames.get("transfer")),
        pictures=pictures,
        compared=worst_comparisons(frames.get("compare")),
        quoted=quoted_rows(frames.get("published")),
        files=[(f"{name}.csv", len(frame)) for name, frame in frames.items()],
    )
    write_whole(folder / PAGE_FILE, text.encode())
    return folder / PAGE_FILE


def transfer_warnings(transfer: pd.DataFrame | None) -> list[str]:
    """Return the flags of the transfer matrix."""
    return [] if transfer is None else [line.partition(": ")[2] for line in transfer_flags(transfer)]


def worst_comparisons(compare: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the lines of compare.csv on the worst case."""
    if compare is None:
        return []
    return records(compare[compare["attack"].isin((WORST, MINIMUM))], None)


def quoted_rows(published: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the rows of published.csv; empty cells are None."""
    return [] if published is None else records(published, None)
