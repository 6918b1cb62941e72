"""Read published figures, which are quoted with their source and never ranked among what was measured.

`published.csv` and, for the paper's transfer matrix, `published_transfer.csv` ship with the package.
Accuracies are fractions, `remaining` is the kept fraction; where the source says what was removed, that is
`sparsity`. What was read off a curve says within which error.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import BadFile, BadRequest, one_line, unknown
from ..limits import TEXT_SHARE, check_file
from ..threat import Threat
from .lookup import Evidence
from .model_info import read_entry

SHIPPED = Path(__file__).with_name("published.csv")
SHIPPED_TRANSFER = Path(__file__).with_name("published_transfer.csv")
COLUMNS = [
    "model", "kind", "method", "network", "data", "threat", "remaining", "sparsity", "kept_weights", "clean",
    "attack", "robust", "source", "url", "page", "read", "protocol", "digitised_error", "note",
]  # fmt: skip
MOST_DIGITS = 18  # of a whole number, which tables hold in 64 bits
REQUIRED = ("model", "data", "threat", "attack", "robust", "source")
FRACTIONS = ("remaining", "sparsity", "clean", "robust", "digitised_error")
TRANSFER = [
    "source", "target", "network", "source_remaining", "target_remaining", "attack", "early_stop", "threat",
    "data", "robust", "paper", "url", "page", "read", "protocol",
]  # fmt: skip
TRANSFER_REQUIRED = ("source", "target", "data", "threat", "attack", "robust", "paper")
TRANSFER_FRACTIONS = ("source_remaining", "target_remaining", "robust")
# The field takes 0.031 for 8/255 and 128/255 for 0.5; each row says its own.
SAME_EPS = 0.02
KIND = "published"


def read(path: Path) -> pd.DataFrame:
    """Read quoted rows from a CSV file with some of COLUMNS. Raises BadFile."""
    frame = _checked(_read_texts(path), path, COLUMNS, REQUIRED, FRACTIONS)
    frame["kind"] = frame["kind"].where(frame["kind"] != "", KIND)
    if others := set(frame["kind"]) - {KIND}:
        raise BadFile(f"{path}: what is quoted is of kind published, got {', '.join(sorted(others))}")
    return frame


def gather(path: Path) -> pd.DataFrame:
    """Read quoted rows from a CSV file, an entry of RobustBench's, or a folder of both.

    Of a folder it takes CSV files with a column `model` and JSON with a figure of AutoAttack. Raises BadFile,
    also where there are none.
    """
    if path.is_dir():
        frames = [read(file) for file in sorted(path.rglob("*.csv")) if "model" in _read_texts(file)]
        entries = [(file, read_entry(file, required=False)) for file in sorted(path.rglob("*.json"))]
        frames += [_entry_frame(row, file) for file, row in entries if row]
        if not frames:
            raise BadFile(f"{path} holds no figures: wanted CSV with a column model, or RobustBench's JSON")
        return pd.concat(frames, ignore_index=True)
    if path.suffix == ".json":
        return _entry_frame(read_entry(path) or {}, path)
    return read(path)


def comparable(evidence: Evidence, own: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the quoted rows on the data set and at a threat of a request, with COLUMNS.

    own: a user's rows, which come first.
    """
    frames = [read(SHIPPED)] if own is None else [own, read(SHIPPED)]
    matching = [frame[_matches(frame, evidence)].dropna(axis="columns", how="all") for frame in frames]
    return pd.concat(matching, ignore_index=True).reindex(columns=COLUMNS).astype({"kept_weights": "Int64"})


def comparable_transfer(evidence: Evidence) -> pd.DataFrame:
    """Return the paper's transfer matrix in long form, where a request has one on its data and threat."""
    frame = _checked(
        _read_texts(SHIPPED_TRANSFER), SHIPPED_TRANSFER, TRANSFER, TRANSFER_REQUIRED, TRANSFER_FRACTIONS
    )
    return frame[_matches(frame, evidence) & bool(evidence.manifest.groups)].reset_index(drop=True)


def _matches(frame: pd.DataFrame, evidence: Evidence) -> pd.Series:
    data = str(evidence.manifest.run["data"]).partition(":")[0]
    threats = {row.threat for row in evidence.manifest.rows} or {key[3] for key in evidence.records if key[3]}
    is_near = {text: any(_is_near(text, threat) for threat in threats) for text in frame["threat"].unique()}
    same_data = frame["data"].map(lambda text: text.partition(":")[0] == data).astype(bool)
    return same_data & frame["threat"].map(is_near).astype(bool)


def _is_near(text: str, other_text: str) -> bool:
    threat, other = Threat.parse(text), Threat.parse(other_text)
    return threat.norm == other.norm and abs(threat.eps - other.eps) <= SAME_EPS * max(threat.eps, other.eps)


def _read_texts(path: Path) -> pd.DataFrame:
    """Read a CSV file with all cells as text."""
    try:
        check_file(path, TEXT_SHARE)
        return pd.read_csv(path, dtype=str, keep_default_na=False, compression=None)
    except FileNotFoundError:
        raise BadFile(f"no file {path}") from None
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} is no CSV: {one_line(error)}") from error


def _entry_frame(row: dict[str, Any], path: Path) -> pd.DataFrame:
    """Return one row, checked like a CSV line."""
    texts = {name: "" if value is None else str(value) for name, value in row.items()}
    return _checked(pd.DataFrame([{"kind": KIND, **texts}]), path, COLUMNS, REQUIRED, FRACTIONS)


def _checked(
    frame: pd.DataFrame, path: Path, columns: list[str], required: Iterable[str], fractions: Iterable[str]
) -> pd.DataFrame:
    """Return texts as values: fractions as floats, empty cells of numbers as NaN. Raises BadFile."""
    for name in frame:
        if name not in columns:
            raise BadFile(f"{path}: {unknown('column', str(name), columns)}")
    for name in required:
        if name not in frame or (frame[name] == "").any():
            raise BadFile(f"{path}: every line needs {', '.join(required)}; {name} is missing")
    frame = frame.reindex(columns=columns, fill_value="")
    for name in fractions:
        frame[name] = [_fraction(text, name, line, path) for line, text in enumerate(frame[name], 2)]
    if "kept_weights" in columns:
        frame["kept_weights"] = pd.array(
            [_integer(text, line, path) for line, text in enumerate(frame["kept_weights"], 2)], dtype="Int64"
        )
    for line, text in enumerate(frame["threat"], 2):
        try:
            Threat.parse(text)
        except BadRequest:
            raise BadFile(
                f"{path}, line {line}: a threat reads 'Linf:8/255' or 'L2:0.5', got {text!r}"
            ) from None
    return frame


def _fraction(text: str, name: str, line: int, path: Path) -> float:
    try:
        value = float(text) if text else float("nan")
    except ValueError:
        value = -1.0
    if text and not 0 <= value <= 1:
        raise BadFile(f"{path}, line {line}: {name} is a fraction from 0 to 1, got {text!r}")
    return value


def _integer(text: str, line: int, path: Path) -> int | None:
    if text and not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise BadFile(f"{path}, line {line}: kept_weights is a whole number, got {text[:80]!r}")
    return int(text) if text else None
