"""Find what loads the models of a run again: files that a study made, or references that it names."""

from __future__ import annotations

from pathlib import Path

from ..evidence.manifest import Manifest
from ..evidence.trial import ModelInfo


def reference_of(manifest: Manifest, info: ModelInfo, seed: int, folder: Path) -> str:
    """Return a reference to a model, '' where none is known; files of the study lie below `folder`."""
    source, file = _made_by_study(info, seed)
    if file and (folder / file).exists():
        return f"{source}:{folder / file}"
    models = [(model.get("name") or model["ref"], model["ref"]) for model in manifest.study.get("model", [])]
    return next((reference for name, reference in models if name == info.name), "")


def _made_by_study(info: ModelInfo, seed: int) -> tuple[str, str]:
    """Return (kind, file below the folder) that `evaluate` makes for a model, '' where it makes none."""
    if not info.family or Path(info.family).name != info.family:
        return "", ""
    name = "-".join(filter(None, (info.family, info.ratio)))
    source, folder = ("ticket", "tickets") if info.kind == "ticket" else ("checkpoint", "checkpoints")
    return source, f"{folder}/{name}-seed{seed}.safetensors"
