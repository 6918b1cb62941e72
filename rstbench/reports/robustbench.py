"""Measured rows as entries of RobustBench's `model_info`."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import chain, count
from pathlib import Path
from typing import Any

from ..errors import BadRequest
from ..files import write_whole
from .leaderboard import lines_of
from .lookup import Evidence

ATTACK = "autoattack"  # the standard version: the only one RobustBench takes
# Alarms under which a figure of AutoAttack may mislead.
DOUBTS = {
    "square-beats-gradient",
    "transfer-beats-white-box",
    "weaker-than-pgd",
    "zero-gradient",
    "random-output",
    "batch-dependent",
    "gradient-in-forward",
    "probabilities-not-logits",
}
FOLDER = "robustbench"
LONGEST = 80  # letters of a file's name


def entries(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """`DATA/NORM/NAME.json` -> fields of `ModelInfo`, for each row with an answer of AutoAttack.

    Accuracies are percentages as text; `external` is the worst case, where another attack found less. Fields
    that RobustBench has not come last. Switches are left out: it admits deterministic models only.
    """
    rows = [row for row in lines_of(evidence) if row.get(ATTACK) is not None and row["kind"] != "switch"]
    places = {(_folder(row), row["threat"]) for row in rows}
    sizes = Counter(folder for folder, _ in places)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        eps = f"_eps_{_safe(_eps(row))}" if sizes[_folder(row)] > 1 else ""
        first = f"{_folder(row)}/{_safe(row['model'])}{eps}"
        names = chain([first, f"{first}_seed{row['seed']}"], (f"{first}_{number}" for number in count(2)))
        taken = {path.casefold() for path in found}
        found[next(f"{name}.json" for name in names if f"{name}.json".casefold() not in taken)] = _entry(row)
    return found


def write_entries(evidence: Evidence, root: Path) -> list[Path]:
    """Writes them below `root/robustbench`; older entries go. Raises BadRequest where there are none."""
    found = entries(evidence)
    if not found:
        raise BadRequest(f"no model in {root} was asked {ATTACK}, without which RobustBench has no entry")
    for old in (root / FOLDER).glob("*/*/*.json"):
        if old.relative_to(root / FOLDER).as_posix() not in found:
            old.unlink()
    for name, entry in found.items():
        content = json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(root / FOLDER / name, content.encode())
    return [root / FOLDER / name for name in found]


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    flags = row["flags"].split()
    figures = {"autoattack_acc": _percent(row[ATTACK])}
    worst = row["worst"]
    if worst is not None and _percent(worst) != figures["autoattack_acc"]:
        figures["external"] = _percent(worst)
    remaining = row["remaining"]
    return {
        "link": None,
        "name": row["model"],
        "authors": None,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": _data(row),
        "venue": "Unpublished",
        "architecture": row["network"] or None,
        "eps": _eps(row),
        "clean_acc": _percent(row["clean"]),
        "reported": None,
        **figures,
        "unreliable": bool(DOUBTS & set(flags)),
        "footnote": _footnote(row),
        "model": row["model"],
        "threat": row["threat"],
        "images": row["images"],
        "seed": row["seed"],
        "remaining": remaining,
        "sparsity": None if remaining is None else round(1 - remaining, 6),
        "kept_weights": row["kept_weights"],
        "total_weights": row["total_weights"],
    }


def _footnote(row: dict[str, Any]) -> str:
    text = f"Measured by rstbench on the first {row['images']} images of {row['data']}"
    if row["worst_low"] is not None:
        text += (
            f"; 95 % interval of the worst case {_percent(row['worst_low'])}-{_percent(row['worst_high'])}"
        )
    return text + (f"; alarms: {row['flags']}." if row["flags"] else ".")


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _eps(row: dict[str, Any]) -> str:
    return str(row["threat"]).partition(":")[2]


def _data(row: dict[str, Any]) -> str:
    return str(row["data"]).partition(":")[0]


def _folder(row: dict[str, Any]) -> str:
    return f"{_safe(_data(row))}/{_safe(row['threat'].partition(':')[0])}"


def _safe(text: str) -> str:
    """A file's name, without what leads elsewhere."""
    return re.sub(r"[^A-Za-z0-9.+-]", "_", text).lstrip(".")[:LONGEST] or "_"
