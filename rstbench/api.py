"""The verbs for Python: each a thin function over what the command line calls."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .data import Images, data_root, load
from .errors import BadRequest
from .evidence.trial import ModelInfo
from .models.frozen import eval_mode
from .models.wrapper import EvalModel, load_reference, wrap
from .progress import Progress, Silent
from .study.build import Builder
from .study.jobs import Job
from .study.plan import Study, StudyAttack
from .study.run import Options, Outcome, run_study
from .tickets.checkpoint import Checkpoint
from .tickets.ticket import Ticket
from .training.recipe import recipe_for

if TYPE_CHECKING:
    import pandas as pd
    import torch


def load_data(text: str, root: str | None = None) -> Images:
    """`digits:test:100` as images with labels: `x, y = load_data(...).at(slice(None))`."""
    return load(text, data_root(root))


def load_model(text: str) -> nn.Module:
    """`ticket:FILE`, `checkpoint:FILE`, `file:PATH.py:factory`, … as an ordinary module in eval mode.

    Raises BadRequest for a switch whose weights are to be fitted, which `evaluate` does.
    """
    entry = load_reference(text)
    if entry.unfitted:
        raise BadRequest(f"{text!r}: best weights are fitted by evaluate; name them here, weights=0.2+0.8")
    return eval_mode(entry.module)


def draw(
    remaining: str | float,
    *,
    start: str = "",
    device: str = "auto",
    root: str | None = None,
    **settings: Any,
) -> Ticket:
    """Draws one ticket; settings are those of `Recipe` (network, width, data, threat, epochs, seed, …).

    start: a reference to the model whose weights to choose from, such as 'checkpoint:FILE'; random ones
    by default.
    """
    from .evaluation.evaluate import pick_device

    recipe = recipe_for(settings)
    workshop = Builder(data_root(root), pick_device(device), Silent())
    with tempfile.TemporaryDirectory() as folder:
        job = Job("ticket", Path(folder) / "ticket.safetensors", recipe, str(remaining), start)
        workshop.check(job)
        made = workshop.make(job)
    assert isinstance(made, Ticket)  # a job with a kept fraction is a drawing
    return made


def export(
    model: Ticket | Checkpoint | str,
    out: str | Path,
    to: str = "state_dict",
    *,
    fold: bool = False,
    compressed: bool = False,
    results: str | None = None,
    root: str | None = None,
) -> list[Path]:
    """Writes a ticket or checkpoint in a form that needs no part of this tool; returns the files.

    to: 'state_dict', 'torch-export', 'onnx', 'robustbench' or 'hub-folder'; fold: batch norm into the layers
    before it; compressed: without zeros; results: the run whose figures go along. Raises BadRequest.
    """
    from .study.export import export_model

    return export_model(
        model, to, Path(out), fold=fold, compressed=compressed, results=results, root=data_root(root)
    )


def evaluate(
    models: Mapping[str, nn.Module | str],
    *,
    data: str,
    threat: str,
    attacks: Sequence[str] | str = ("pgd", "autoattack"),
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: str | int = "auto",
    seed: int = 0,
    root: str | None = None,
) -> pd.DataFrame:
    """The leaderboard of models by name: modules that map images in [0, 1] to logits, or references.

    out: where the evidence is kept and resumed from; nowhere by default.
    A model or attack that fails leaves its row or cell empty; each failure is warned of and stands in
    `table.attrs["faults"]`, what was assumed or looks doubtful in `table.attrs["notes"]`. Two names of one
    model have a row each. Raises BadRequest for a wrong request, ModelFault where no model could be asked.
    """
    heard = _Heard()
    outcome, entries = _measured(
        models, data, threat, attacks, heard, out=out, device=device, batch=batch_size, seed=seed, root=root
    )
    table = _by_every_name(outcome.tables["leaderboard"], entries)
    if outcome.faults and table["clean"].isna().all():
        raise outcome.faults[0]
    for fault in outcome.faults:
        warnings.warn(str(fault), RuntimeWarning, stacklevel=2)
    table.attrs["faults"] = [str(fault) for fault in outcome.faults]
    table.attrs["notes"] = heard.notes
    return table


class _Heard(Silent):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def _by_every_name(table: pd.DataFrame, entries: Sequence[EvalModel]) -> pd.DataFrame:
    """The leaderboard with a row for each name: models that are the same were asked once."""
    import pandas as pd

    first: dict[str, str] = {}
    names = {entry.info.name: first.setdefault(entry.digest, entry.info.name) for entry in entries}
    more = [
        table[table["model"] == known].assign(model=name) for name, known in names.items() if name != known
    ]
    return pd.concat([table, *more], ignore_index=True) if more else table


def _measured(
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
) -> tuple[Outcome, list[EvalModel]]:
    if not models:
        raise BadRequest("no models to evaluate")
    asked = [attacks] if isinstance(attacks, str) else list(attacks)
    with ExitStack() as rest:
        folder = Path(out) if out else Path(rest.enter_context(tempfile.TemporaryDirectory()))
        study = Study("adhoc", data, (threat,), tuple(StudyAttack(attack) for attack in asked), seeds=(seed,))
        options = Options(folder, device, str(batch), root=data_root(root), report=bool(out))
        entries = [_entry(name, model) for name, model in models.items()]
        return run_study(study, options, progress, entries), entries


def benchmark(
    model: nn.Module,
    n_examples: int = 10000,
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    to_disk: bool = False,
    model_name: str | None = None,
    data_dir: str = "./data",
    corruptions_data_dir: str | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 32,
    eps: float | None = None,
    log_path: str | None = None,
    preprocessing: str | Callable[..., Any] | None = None,
    aa_state_path: Path | None = None,
) -> tuple[float, float]:
    """RobustBench's `benchmark`: (clean accuracy, accuracy under standard AutoAttack), as fractions.

    Same signature, own engine: the images are judged again, per-image evidence is written, and the
    same call continues where it stopped. to_disk keeps the evidence and the CSV in
    `model_info/<dataset>/<threat_model>/<model_name>`; aa_state_path names that folder instead.
    Data lie in `data_dir` in torchvision's layout; log_path is not used.
    Raises BadRequest for corruptions, for a preprocessing (make it the model's first layer), and where
    eps is missing, ModelFault where either number is.
    """
    threat_model = str(getattr(threat_model, "value", threat_model))
    dataset = str(getattr(dataset, "value", dataset))
    if threat_model not in ("Linf", "L2", "L1"):
        raise BadRequest(f"threat_model must be Linf, L2 or L1 here, got {threat_model!r}")
    if eps is None:
        raise BadRequest("eps is missing; for CIFAR-10 it is 8/255 in Linf and 0.5 in L2")
    if preprocessing is not None:
        raise BadRequest("preprocessing is not applied to data here; make it the first layer of the model")
    eps = float(eps)
    if to_disk and model_name is None:
        raise BadRequest("to_disk needs a model_name")
    out = aa_state_path or (
        Path("model_info") / dataset / threat_model / str(model_name) if to_disk else None
    )
    outcome, _ = _measured(
        {model_name or type(model).__name__: model},
        f"{dataset}:test:{n_examples}",
        f"{threat_model}:{_exact(eps)}",
        "autoattack",
        Silent(),
        out=out,
        device=str(device or "cpu"),
        batch=min(batch_size, n_examples),
        seed=0,
        root=data_dir,
    )
    if outcome.faults:
        raise outcome.faults[0]
    table = outcome.tables["leaderboard"]
    return float(table["clean"][0]), float(table["autoattack"][0])


def _entry(name: str, model: nn.Module | str) -> EvalModel:
    from dataclasses import replace

    name = str(name)
    if isinstance(model, str):
        entry = load_reference(model)
        return replace(entry, info=replace(entry.info, name=name))
    return wrap(model, ModelInfo(name, "external"))


def _exact(eps: float) -> str:
    """8/255 as a float means the fraction 8/255; other floats mean the decimal that prints."""
    greys = eps * 255
    return (
        f"{round(greys)}/255" if abs(greys - round(greys)) < 1e-9 and round(greys) / 255 == eps else repr(eps)
    )
