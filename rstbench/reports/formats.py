"""The forms in which `report` writes: each a function of the evidence, its tables by name, and a folder."""

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
TABLES = (
    "leaderboard", "ratios", "transfer", "switch", "queries", "per_class", "curves", "compare", "pareto",
    "published", "published_transfer",
)  # fmt: skip


def formats(names: Iterable[str]) -> list[Format]:
    """CSV, and the formats of these names. Raises BadRequest for unknown ones, and for parquet where pyarrow
    is missing."""
    asked = dict.fromkeys(("csv", *names))
    for name in asked:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if "parquet" in asked and find_spec("pyarrow") is None:
        raise BadRequest("parquet needs pyarrow; pip install '.[parquet]', or ask for another --format")
    return [FORMATS[name] for name in asked]


def _each(suffix: str, render: Callable[[str, pd.DataFrame], bytes]) -> Format:
    """A file a table; files of tables that there are no more go."""

    def write(evidence: Evidence, frames: Mapping[str, pd.DataFrame], folder: Path) -> None:
        for name in TABLES:
            path = folder / f"{name}.{suffix}"
            if name in frames:
                write_whole(path, render(name, frames[name]))
            else:
                path.unlink(missing_ok=True)

    return write


# What `report --format` may name.
FORMATS: dict[str, Format] = {
    "csv": _each("csv", lambda name, frame: as_csv(frame)),
    "markdown": _each("md", markdown),
    "latex": _each("tex", latex),
    "html": _each("html", page),
    "json": _each("json", records),
    "parquet": _each("parquet", parquet),
    "robustbench": lambda evidence, frames, folder: write_entries(evidence, folder),
}
