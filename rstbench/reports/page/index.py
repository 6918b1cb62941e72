"""Render the page of several folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from ...files import write_whole
from ..lookup import Evidence
from .template import PAGE_FILE, distinct, template

BEST = 3


def write_index_page(
    reports: Sequence[tuple[Evidence, Mapping[str, pd.DataFrame], Path]], root: Path
) -> Path:
    """Write `root/index.html`: a link to the page of each folder below it, and its best rows."""
    studies = []
    for evidence, frames, folder in reports:
        manifest, board = evidence.manifest, frames.get("leaderboard")
        ranked = None if board is None else board[board["rank"].notna()]
        best = None if ranked is None else ranked.groupby("threat", sort=False).head(BEST)
        path = folder.resolve().relative_to(root.resolve()).as_posix()
        studies.append(
            {
                "title": path,
                "name": str(manifest.study.get("name") or path),
                "link": quote(f"{path}/{PAGE_FILE}"),
                "data": str(manifest.run["data"]),
                "images": manifest.images,
                "models": 0 if board is None else board["model"].nunique(),
                "threats": distinct(board, "threat"),
                "best": [] if best is None else best.to_dict("records"),
            }
        )
    write_whole(root / PAGE_FILE, template("index.html").render(studies=studies).encode())
    return root / PAGE_FILE
