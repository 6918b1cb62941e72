"""An entry of RobustBench's `model_info`, read as a quoted row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import BadFile

NORMS = ("Linf", "L2", "L1")
NOTHING = (None, "", "null", "None")  # how its files leave a figure out


def quoted(path: Path, *, named: bool = True) -> dict[str, Any] | None:
    """The row that `DATA/NORM/NAME.json` stands for; None for JSON without a figure of AutoAttack, such as
    entries on corruptions, unless the file was `named` by itself.

    Folders tell data and norm: the field `dataset` is wrong in some of RobustBench's files. Raises BadFile.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} is no JSON: {error}") from error
    if not isinstance(entry, dict) or entry.get("autoattack_acc") in NOTHING:
        if named:
            raise BadFile(f"{path} has no autoattack_acc; an entry has RobustBench's model_info fields")
        return None
    placed = path.parent.name in NORMS
    norm = path.parent.name if placed else str(entry.get("threat", "")).partition(":")[0]
    data = path.parent.parent.name if placed else entry.get("dataset")
    if norm not in NORMS or not data:
        raise BadFile(f"{path} says no norm; put it where RobustBench has it, DATA/Linf/{path.name}")
    whose = (_text(entry.get("authors")), _text(entry.get("venue")))
    return {
        "model": str(entry.get("model") or path.stem),
        "method": _text(entry.get("name")),
        "network": _text(entry.get("architecture")),
        "data": data,
        "threat": f"{norm}:{_eps(entry.get('eps'), path)}",
        "remaining": entry.get("remaining"),
        "sparsity": entry.get("sparsity"),
        "kept_weights": entry.get("kept_weights"),
        "clean": _fraction(entry, "clean_acc", path),
        "attack": "autoattack",
        "robust": _fraction(entry, "autoattack_acc", path),
        "source": ", ".join(filter(None, whose)) or "unnamed",
        "url": _text(entry.get("link")),
        "page": "/".join(path.parts[-3:]),
        "protocol": "AutoAttack",
        "note": "; ".join(_notes(entry)),
    }


def _notes(entry: dict[str, Any]) -> list[str]:
    """What must be said beside the figure."""
    external = entry.get("external")
    other = external not in NOTHING and str(external) != str(entry["autoattack_acc"])
    return [
        *(["trained with additional data"] if entry.get("additional_data") else []),
        *([f"another evaluation found {external} %"] if other else []),
        *(["the AutoAttack figure is called unreliable"] if entry.get("unreliable") else []),
        *filter(None, [_text(entry.get("footnote")).rstrip(".")]),
    ]


def _text(value: Any) -> str:
    """One line without HTML."""
    return "" if value in NOTHING else " ".join(re.sub(r"<[^>]*>", " ", str(value)).split())


def _eps(value: Any, path: Path) -> str:
    """'8/255' as it is; the number that RobustBench's `update_json` writes in that form where it is one."""
    if value in NOTHING:
        raise BadFile(f"{path} says no eps")
    if isinstance(value, float) and abs(value * 255 - round(value * 255)) < 1e-6:
        return f"{round(value * 255)}/255"
    return str(value)


def _fraction(entry: dict[str, Any], field: str, path: Path) -> float | None:
    """Percent, as text or number, as a fraction."""
    value = entry.get(field)
    try:
        return None if value in NOTHING else round(float(value) / 100, 6)
    except (TypeError, ValueError):
        raise BadFile(f"{path}: {field} reads '87.50', in percent, got {value!r}") from None
