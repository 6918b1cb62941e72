"""The commands that ask the same again. They are to be run in the folder of the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...evidence.manifest import FILE, Manifest, Row
from ...evidence.trial import ModelInfo

OUT = "again"


def whole_command(request: Manifest) -> str:
    """The study once more; '' where it came from Python and names nothing that a command could."""
    if not any(request.study.get(table) for table in ("draw", "train", "model")):
        return ""
    return _command(request, [FILE, *_limit(request)])


def row_command(request: Manifest, row: Row, folder: Path) -> str:
    """One line of the leaderboard: its model, where a reference to it is known, else the study at this
    threat and seed; '' where neither can be named."""
    reference = _reference(request, row, folder)
    switch = bool(request.models[row.model].members)
    # A switch is asked more by itself.
    attacks = [a for a in row.attacks if not switch or a in _asked(request, row.threat)]
    asked = [part for attack in attacks for part in ("--attack", attack)]
    asked += ["--threat", row.threat, "--seed", str(row.seed)]
    if reference:
        return _command(request, [reference, "--data", f"{request.run['data']}:{request.images}", *asked])
    return _command(request, [FILE, *_limit(request), *asked]) if whole_command(request) else ""


def _command(request: Manifest, what: Iterable[str]) -> str:
    run = request.run
    parts = ["python", "-m", "rstbench", "evaluate", *what]
    parts += ["--batch-size", str(run["batch"])] if "batch" in run else []
    parts += ["--device", str(run["device"]).partition(" ")[0]] if "device" in run else []
    threads = f"OMP_NUM_THREADS={run['threads']} " if "threads" in run else ""
    return threads + shlex.join([*parts, "--out", OUT])


def _limit(request: Manifest) -> list[str]:
    """What makes the study show as many images as here, where it does not say so itself."""
    named = str(request.study.get("data", "")).rpartition(":")[2]
    says = str(request.study.get("images") or named)
    return [] if says == str(request.images) else ["--limit", str(request.images)]


def _asked(request: Manifest, threat: str) -> list[str]:
    """The study's attacks at a threat."""
    listed: list[Any] = list(request.study.get("attacks", []))
    plain = [item if isinstance(item, dict) else {"attack": item} for item in listed]
    return [item["attack"] for item in plain if item.get("threat", threat) == threat]


def _reference(request: Manifest, row: Row, folder: Path) -> str:
    card = request.models[row.model]
    made = _made(card, row.seed)
    if made and (folder / made.partition(":")[2]).exists():
        return made
    models = [(model.get("name") or model["ref"], model["ref"]) for model in request.study.get("model", [])]
    return next((reference for name, reference in models if name == card.name), "")


def _made(card: ModelInfo, seed: int) -> str:
    """The file of what the study made, as `evaluate` names it."""
    if not card.family or Path(card.family).name != card.family:
        return ""
    name = "-".join(filter(None, (card.family, card.ratio)))
    source, place = ("ticket", "tickets") if card.kind == "ticket" else ("checkpoint", "checkpoints")
    return f"{source}:{place}/{name}-seed{seed}.safetensors"
