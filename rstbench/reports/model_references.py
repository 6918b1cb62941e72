"""Find what loads the models of a run again: files that a study made, or references that it names."""

from __future__ import annotations

from pathlib import Path

from ..evidence.manifest import Manifest
from ..evidence.trial import ModelInfo


def reference_of(manifest: Manifest, info: ModelInfo, seed: int, folder: Path) -> str:
    """Return a reference to a model, '' where none is known; files of the study lie below `folder`."""
    models = [(model.get("name") or model["ref"], model["ref"]) for model in manifest.study.get("model", [])]
    named = (reference for name, reference in models if name == info.name)
    return made_by_study(info, seed, folder) or next(named, "")


def made_by_study(info: ModelInfo, seed: int, folder: Path) -> str:
    """Return a reference to the file that `evaluate` made for a model below its folder, '' where none is."""
    if not info.family or Path(info.family).name != info.family:
        return ""
    name = "-".join(filter(None, (info.family, info.ratio)))
    source, below = ("ticket", "tickets") if info.kind == "ticket" else ("checkpoint", "checkpoints")
    file = folder / below / f"{name}-seed{seed}.safetensors"
    return f"{source}:{file}" if file.exists() else ""
