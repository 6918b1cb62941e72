"""Write measured rows as entries of RobustBench's `model_info`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from ..errors import BadRequest
from ..files import write_whole
from ..flags import doubts_autoattack
from ..threat import Threat
from .leaderboard import lines_of
from .lookup import AUTOATTACK, Evidence
from .statistics import LEVEL

FOLDER = "robustbench"
LONGEST = 80  # letters of a file's name


def model_info(
    row: Mapping[str, Any],
    *,
    name: str,
    dataset: str,
    architecture: str | None,
    threat: Threat,
    footnote: str,
    unmeasured: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the fields of RobustBench's `ModelInfo` for one model, in its order.

    row: a line of the leaderboard, empty where nothing was measured. Accuracies are percentages as text;
    `external` is the worst case, where another attack found less than AutoAttack. unmeasured: further
    accuracies of RobustBench, which are null.
    """
    autoattack, worst = percent(row.get(AUTOATTACK)), percent(row.get("worst"))
    flags = str(row.get("flags", "")).split()
    return {
        "link": None,
        "name": name,
        "authors": None,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": "Unpublished",
        "architecture": architecture,
        "eps": threat.eps_text,
        "clean_acc": percent(row.get("clean")),
        "reported": None,
        **dict.fromkeys(unmeasured),
        "autoattack_acc": autoattack,
        **({} if worst in (None, autoattack) else {"external": worst}),
        **({"unreliable": any(map(doubts_autoattack, flags))} if "flags" in row else {}),
        "footnote": footnote,
    }


def measured(row: Mapping[str, Any], images: str) -> str:
    """Return the part of a footnote that says on how many images a row was measured."""
    text = f"Measured by rstbench on the first {row['images']} {images}"
    if row["worst_low"] is None:
        return text
    low, high = percent(row["worst_low"]), percent(row["worst_high"])
    return f"{text}; {LEVEL} interval of the worst case {low}-{high}"


def percent(value: float | None) -> str | None:
    """Return 0.875 as '87.50'."""
    return None if value is None else f"{100 * value:.2f}"


def entries(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return `DATA/NORM/NAME.json` -> `model_info` for each row with an answer of standard AutoAttack.

    Fields that RobustBench has not come last. Switches are left out: it admits deterministic models only.
    """
    rows = [row for row in lines_of(evidence) if row.get(AUTOATTACK) is not None and row["kind"] != "switch"]
    threats_of = Counter(folder for folder, _ in {(_folder(row), row["threat"]) for row in rows})
    by_path: dict[str, dict[str, Any]] = {}
    for row in rows:
        eps = f"_eps_{_safe(Threat.parse(row['threat']).eps_text)}" if threats_of[_folder(row)] > 1 else ""
        stem = f"{_folder(row)}/{_safe(row['model'])}{eps}"
        stems = chain([stem, f"{stem}_seed{row['seed']}"], (f"{stem}_{number}" for number in count(2)))
        taken = {path.casefold() for path in by_path}
        by_path[next(f"{s}.json" for s in stems if f"{s}.json".casefold() not in taken)] = _entry(row)
    return by_path


def write_entries(evidence: Evidence, root: Path) -> list[Path]:
    """Write the entries below `root/robustbench` and delete older ones. Raises BadRequest for no entries."""
    by_path = entries(evidence)
    if not by_path:
        raise BadRequest(f"no model in {root} was asked {AUTOATTACK}, without which RobustBench has no entry")
    for old in (root / FOLDER).glob("*/*/*.json"):
        if old.relative_to(root / FOLDER).as_posix() not in by_path:
            old.unlink()
    for path, entry in by_path.items():
        content = json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(root / FOLDER / path, content.encode())
    return [root / FOLDER / path for path in by_path]


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    """Return the `model_info` of a row, followed by what RobustBench does not know."""
    remaining = row["remaining"]
    flags = f"; flags: {row['flags']}." if row["flags"] else "."
    info = model_info(
        row,
        name=row["model"],
        dataset=_data(row),
        architecture=row["network"] or None,
        threat=Threat.parse(row["threat"]),
        footnote=measured(row, f"images of {row['data']}") + flags,
    )
    return info | {
        "model": row["model"],
        "threat": row["threat"],
        "images": row["images"],
        "seed": row["seed"],
        "remaining": remaining,
        "sparsity": None if remaining is None else round(1 - remaining, 6),
        "kept_weights": row["kept_weights"],
        "total_weights": row["total_weights"],
    }


def _data(row: dict[str, Any]) -> str:
    return str(row["data"]).partition(":")[0]


def _folder(row: dict[str, Any]) -> str:
    return f"{_safe(_data(row))}/{Threat.parse(row['threat']).norm}"


def _safe(text: str) -> str:
    """Return a text as the name of a file that stays in its folder."""
    return re.sub(r"[^A-Za-z0-9.+-]", "_", text).lstrip(".")[:LONGEST] or "_"
