"""Write the figures and the page of a folder, and the page of several folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..errors import BadFile, BadRequest
from ..evidence.manifest import MANIFEST_FILE
from .figure_files import write_figures
from .leaderboard import attacks_of
from .lookup import Evidence

Report = tuple[Evidence, Mapping[str, pd.DataFrame], Path]


def write_report(evidence: Evidence, frames: Mapping[str, pd.DataFrame], folder: Path) -> list[str]:
    """Write `folder/figures/*` and `folder/index.html`, and return notes for the user.

    frames: what `tables.write` returned.
    """
    notes, pictures = [], []
    try:
        pictures = write_figures(evidence, frames, folder)
    except ImportError as error:
        notes.append(f"no figures for {folder}: matplotlib cannot be loaded ({error})")
    try:
        from .page.write import write_page

        write_page(evidence, frames, attacks_of(evidence), pictures, folder)
    except ImportError as error:
        notes.append(f"no page for {folder}: jinja2 cannot be loaded ({error})")
    return notes


def write_index(reports: Sequence[Report]) -> Path:
    """Write `index.html` beside the folders, with a link to the page of each.

    Raises BadRequest where they have no common parent.
    """
    folders = [folder.resolve() for _, _, folder in reports]
    try:
        root = Path(os.path.commonpath(folders))
    except ValueError:
        raise BadRequest("--index wants folders with a common parent") from None
    root = root.parent if root in folders else root
    if root == Path(root.anchor):
        raise BadRequest("--index wants folders with a common parent")
    from .page.index import write_index_page

    return write_index_page(reports, root)


def runs_in(paths: Sequence[str]) -> list[Path]:
    """Return the folders that `evaluate` wrote among these paths or below them.

    Files are passed over, and folders that explain themselves in a README.md and hold no run, so that
    `leaderboards/*` may be given. Raises BadFile for such alone.
    """
    runs: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise BadFile(f"no folder {path}")
        if path.is_dir() and not (path / MANIFEST_FILE).exists():
            below = sorted(inner.parent for inner in path.rglob(MANIFEST_FILE))
            runs += below if below or (path / "README.md").exists() else [path]
        elif not path.is_file():
            runs.append(path)
    if not runs:
        raise BadFile(f"no {MANIFEST_FILE} in {' '.join(paths)}; name a folder that `evaluate` wrote")
    return list(dict.fromkeys(runs))
