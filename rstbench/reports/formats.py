"""Write tables in the formats of `report`.

A format is a function of the evidence, its tables by name, and a folder; a new one is a line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from ..errors import BadRequest, unknown
from ..files import write_whole
from .csv_io import as_csv
from .lookup import Evidence
from .renderings import latex, markdown, page, parquet, records
from .robustbench import write_entries

Format = Callable[[Evidence, Mapping[str, pd.DataFrame], Path], object]
# Deleted where an earlier report wrote them and nothing is left to show.
TABLES = {
    "leaderboard", "ratios", "transfer", "switch", "queries", "per_class", "curves", "compare", "pareto",
    "published", "published_transfer",
}  # fmt: skip


def formats(names: Iterable[str]) -> list[Format]:
    """Return CSV and the formats of these names.

    Raises BadRequest for unknown ones, and for parquet without pyarrow.
    """
    wanted = dict.fromkeys(("csv", *names))
    for name in wanted:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if "parquet" in wanted and find_spec("pyarrow") is None:
        raise BadRequest("parquet needs pyarrow; pip install '.[parquet]', or ask for another --format")
    return [FORMATS[name] for name in wanted]


def _file_per_table(suffix: str, render: Callable[[str, pd.DataFrame], bytes]) -> Format:
    """Write a file a table, and delete the files of tables that are no more."""

    def write(evidence: Evidence, frames: Mapping[str, pd.DataFrame], folder: Path) -> None:
        for name, frame in frames.items():
            write_whole(folder / f"{name}.{suffix}", render(name, frame))
        for name in TABLES - frames.keys():
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)

    return write


# What `report --format` may name.
FORMATS: dict[str, Format] = {
    "csv": _file_per_table("csv", lambda name, frame: as_csv(frame)),
    "markdown": _file_per_table("md", markdown),
    "latex": _file_per_table("tex", latex),
    "html": _file_per_table("html", page),
    "json": _file_per_table("json", records),
    "parquet": _file_per_table("parquet", parquet),
    "robustbench": lambda evidence, frames, folder: write_entries(evidence, folder),
}
