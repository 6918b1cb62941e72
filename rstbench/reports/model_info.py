"""Read entries of RobustBench's `model_info` as quoted rows."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from ..errors import BadFile, BadRequest
from ..limits import read_text
from ..parsing import parse_json
from ..threat import NORMS, Threat
from .lookup import AUTOATTACK

MISSING = (None, "", "null", "None")  # how its files leave a figure out


def read_entry(path: Path, *, required: bool = True) -> dict[str, Any] | None:
    """Return the row that `DATA/NORM/NAME.json` stands for.

    None for JSON without a figure of AutoAttack, such as entries on corruptions, unless one is `required`.

    Folders tell data and norm: the field `dataset` is wrong in some of RobustBench's files. Raises BadFile.
    """
    try:
        entry = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} is no JSON: {error}") from error
    if not isinstance(entry, dict) or entry.get("autoattack_acc") in MISSING:
        if required:
            raise BadFile(f"{path} has no autoattack_acc; an entry has RobustBench's model_info fields")
        return None
    in_layout = path.parent.name in NORMS
    try:
        norm = path.parent.name if in_layout else Threat.parse(str(entry.get("threat"))).norm
    except BadRequest:
        norm = ""
    data = path.parent.parent.name if in_layout else entry.get("dataset")
    if not norm or not data:
        raise BadFile(f"{path} says no norm; put it where RobustBench has it, DATA/Linf/{path.name}")
    authors = (_text(entry.get("authors")), _text(entry.get("venue")))
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
        "attack": AUTOATTACK,
        "robust": _fraction(entry, "autoattack_acc", path),
        "source": ", ".join(filter(None, authors)) or "unnamed",
        "url": _text(entry.get("link")),
        "page": "/".join(path.parts[-3:]),
        "protocol": "AutoAttack",
        "note": "; ".join(_notes(entry)),
    }


def _notes(entry: dict[str, Any]) -> list[str]:
    """Return the notes that must stand beside the figure."""
    external = entry.get("external")
    other = external not in MISSING and str(external) != str(entry["autoattack_acc"])
    return [
        *(["trained with additional data"] if entry.get("additional_data") else []),
        *([f"another evaluation found {external} %"] if other else []),
        *(["the AutoAttack figure is called unreliable"] if entry.get("unreliable") else []),
        *filter(None, [_text(entry.get("footnote")).rstrip(".")]),
    ]


def _text(value: Any) -> str:
    """Return a value as one line without HTML."""
    return "" if value in MISSING else " ".join(re.sub(r"<[^>]*>", " ", str(value)).split())


def _eps(value: Any, path: Path) -> str:
    """Return '8/255' as it is, and 0.03137…, which RobustBench's `update_json` writes, as '8/255'."""
    if value in MISSING or (isinstance(value, float) and not math.isfinite(value)):
        raise BadFile(f"{path} says no eps")
    if isinstance(value, float) and abs(value * 255 - round(value * 255)) < 1e-6:
        return f"{round(value * 255)}/255"
    return str(value)


def _fraction(entry: dict[str, Any], field: str, path: Path) -> float | None:
    """Return a percentage, which may be text, as a fraction."""
    value = entry.get(field)
    try:
        return None if value in MISSING else round(float(value) / 100, 6)
    except (TypeError, ValueError):
        raise BadFile(f"{path}: {field} reads '87.50', in percent, got {value!r}") from None
