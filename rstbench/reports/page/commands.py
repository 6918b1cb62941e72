"""Build the commands that ask the same again, to be run in the folder of the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...evidence.manifest import MANIFEST_FILE, Manifest, Row
from ...evidence.trial import EXACT
from ..model_references import reference_of

OUT = "again"


def study_command(manifest: Manifest) -> str:
    """Return the command for the study; '' for one from Python that names nothing a command could."""
    if not any(manifest.study.get(table) for table in ("draw", "train", "model")):
        return ""
    return _command(manifest, [MANIFEST_FILE, *_limit(manifest)])


def row_command(manifest: Manifest, row: Row, folder: Path) -> str:
    """Return the command for one row of the leaderboard; '' where there is none.

    It names the model, where a reference to it is known, else the study at this threat and seed.
    """
    reference = reference_of(manifest, manifest.models[row.model], row.seed, folder)
    reference = reference.replace(f":{folder}/", ":", 1)  # the command is run in the folder
    is_switch = bool(manifest.models[row.model].members)
    # `evaluate` adds attacks on a switch by itself.
    attacks = [a for a in row.attacks if not is_switch or a in _study_attacks(manifest, row.threat)]
    options = [part for attack in attacks for part in ("--attack", attack)]
    options += [part for certificate in row.certificates for part in ("--certify", certificate)]
    options += ["--threat", row.threat, "--seed", str(row.seed)]
    if reference:
        data = f"{manifest.run['data']}:{manifest.images}"
        return _command(manifest, [reference, "--data", data, *options])
    return _command(manifest, [MANIFEST_FILE, *_limit(manifest), *options]) if study_command(manifest) else ""


def _command(manifest: Manifest, arguments: Iterable[str]) -> str:
    run = manifest.run
    parts = ["python", "-m", "rstbench", "evaluate", *arguments]
    parts += ["--batch-size", str(run["batch"])] if "batch" in run else []
    parts += ["--device", str(run["device"]).partition(" ")[0]] if "device" in run else []
    parts += ["--crafting", str(run.get("crafting", EXACT)).partition(" ")[0]]  # older folders name none
    threads = f"OMP_NUM_THREADS={shlex.quote(str(run['threads']))} " if "threads" in run else ""
    return threads + shlex.join([*parts, "--out", OUT])


def _limit(manifest: Manifest) -> list[str]:
    """Return the option for as many images as here, where the study does not name that number."""
    named = str(manifest.study.get("data", "")).rpartition(":")[2]
    images = str(manifest.study.get("images") or named)
    return [] if images == str(manifest.images) else ["--limit", str(manifest.images)]


def _study_attacks(manifest: Manifest, threat: str) -> list[str]:
    """Return the study's attacks at a threat."""
    listed: list[Any] = list(manifest.study.get("attacks", []))
    plain = [item if isinstance(item, dict) else {"attack": item} for item in listed]
    return [item["attack"] for item in plain if item.get("threat", threat) == threat]
