"""Attack models and rank them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..attacks import AttackSpec
from ..certificates import CertificateSpec
from ..data import data_root
from ..errors import BadRequest
from ..evidence.trial import FAST, ModelInfo
from ..limits import file_size_limit
from ..models.wrapper import EvalModel, load_reference, wrap
from ..progress import Progress, Silent
from ..references import DataReference
from ..study.plan import Study, StudyAttack
from ..study.run import Options, Outcome, run_study
from ..threat import Threat


def evaluate(
    models: Mapping[str, nn.Module | str],
    *,
    data: str,
    threat: str,
    attacks: Sequence[str] | str = ("pgd", "autoattack"),
    certificates: Sequence[str] | str = (),
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: str | int = "auto",
    seed: int = 0,
    root: str | None = None,
    crafting: str = FAST,
    max_file_size: str | int | None = None,
) -> pd.DataFrame:
    """Attack models and rank them.

    Args:
        models: By name, modules that map images (n, c, h, w) in [0, 1] to logits, or references. Two names of
            one model have a row each.
        data: Images to ask about, such as 'digits:test:100' (see `load_data`).
        threat: 'Linf:8/255', 'L2:0.5', 'L1:12'.
        attacks: Texts such as 'pgd', 'pgd:steps=50,restarts=5', 'autoattack', or one of them.
        certificates: Texts such as 'ibp', 'crown', 'crown:alpha=20', or one of them: what is proved beside.
        out: Folder where the evidence is kept and resumed from; nowhere by default.
        device: 'auto', 'cpu', 'cuda' or 'cuda:1'.
        batch_size: Images crafted at once, part of a result's identity: 'auto' is chosen by device,
            see `rstbench evaluate --help`.
        seed: Of the attacks.
        root: Where data sets lie, see `load_data`.
        crafting: 'fast', through a faster copy of each model, which never judges, or 'exact'. Stored exact
            answers serve a fast request too.
        max_file_size: Largest file to read, as it unpacks: '8GB', or bytes; '4GB' by default.

    Returns:
        The leaderboard, one row a model, best worst case first; accuracies are fractions. A model or attack
        that fails leaves its row or cell empty; each failure is warned of and stands in
        `table.attrs["faults"]`, what was assumed or looks doubtful in `table.attrs["notes"]`.

    Raises:
        BadRequest: For a wrong request, before any work.
        ModelFault: Where no model could be asked.

    Example:
        >>> import rstbench, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> models = {"linear": net}
        >>> table = rstbench.evaluate(models, data="digits:test:20", threat="Linf:0.1", attacks="pgd")
        >>> list(table["model"]), bool((table["worst"] <= table["clean"]).all())
        (['linear'], True)
    """
    progress = _Notes()
    settings: dict[str, Any] = {"device": device, "batch": batch_size, "seed": seed, "crafting": crafting}
    settings["certificates"] = certificates
    with file_size_limit(max_file_size):
        outcome, wrapped = run_evaluation(
            models, data, threat, attacks, progress, out=out, root=root, **settings
        )
    table = _with_duplicates(outcome.tables["leaderboard"], wrapped)
    if outcome.faults and table["clean"].isna().all():
        raise outcome.faults[0]
    for fault in outcome.faults:
        warnings.warn(str(fault), RuntimeWarning, stacklevel=2)
    table.attrs["faults"] = [str(fault) for fault in outcome.faults]
    table.attrs["notes"] = progress.notes
    return table


class _Notes(Silent):
    """Keep the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def _with_duplicates(table: pd.DataFrame, models: Sequence[EvalModel]) -> pd.DataFrame:
    """Return the leaderboard with a row for each name: models that are the same were evaluated once."""
    first: dict[str, str] = {}
    names = {model.info.name: first.setdefault(model.digest, model.info.name) for model in models}
    duplicates = [
        table[table["model"] == listed].assign(model=name) for name, listed in names.items() if name != listed
    ]
    return pd.concat([table, *duplicates], ignore_index=True) if duplicates else table


def run_evaluation(
    models: Mapping[str, nn.Module | str],
    data: str,
    threat: str,
    attacks: Sequence[str] | str,
    progress: Progress,
    *,
    out: str | Path | None,
    device: str,
    batch: str | int,
    seed: int,
    root: str | None,
    crafting: str,
    certificates: Sequence[str] | str = (),
) -> tuple[Outcome, list[EvalModel]]:
    """Run a study of these models; return its outcome and the models in their order."""
    if not models:
        raise BadRequest("no models to evaluate")
    specs = map(AttackSpec.parse, _texts("attacks", attacks))
    study_attacks = tuple(dict.fromkeys(StudyAttack(spec) for spec in specs))
    if not study_attacks:
        raise BadRequest("no attack to run: attacks names at least one, such as 'pgd'")
    study = Study("adhoc", DataReference.parse(data), (Threat.parse(threat),), study_attacks, seeds=(seed,))
    study = replace(
        study,
        certificates=tuple(dict.fromkeys(map(CertificateSpec.parse, _texts("certificates", certificates)))),
    )
    with ExitStack() as stack:
        folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        where: dict[str, Any] = {"root": data_root(root), "report": bool(out)}
        options = Options(folder, device, str(batch), crafting=crafting, **where)
        wrapped = [_wrap(name, model) for name, model in models.items()]
        return run_study(study, options, progress, wrapped), wrapped


def _texts(name: str, given: Sequence[str] | str) -> list[str]:
    """Return one text or several as a list. Raises BadRequest."""
    texts = [given] if isinstance(given, str) else list(given)
    for text in texts:
        if not isinstance(text, str):
            raise BadRequest(f"{name} are texts such as 'pgd' or 'crown', got {text!r}")
    return texts


def _wrap(name: str, model: nn.Module | str) -> EvalModel:
    name = str(name)
    if isinstance(model, str):
        loaded = load_reference(model)
        return replace(loaded, info=replace(loaded.info, name=name))
    return wrap(model, ModelInfo(name, "external"))
