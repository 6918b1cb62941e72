"""The verbs as Python functions, over what the command line calls."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .attacks import AttackSpec
from .data import Images, data_root, load
from .errors import BadRequest
from .evidence.trial import ModelInfo
from .models.frozen import eval_mode
from .models.wrapper import EvalModel, load_reference, wrap
from .progress import Progress, Silent
from .references import DataReference
from .study.build import Builder
from .study.jobs import Job
from .study.plan import Study, StudyAttack
from .study.run import Options, Outcome, run_study
from .threat import NORMS, Threat
from .tickets.checkpoint import Checkpoint
from .tickets.ticket import Ticket
from .training.recipe import recipe_for

if TYPE_CHECKING:
    import pandas as pd
    import torch


def load_data(text: str, root: str | None = None) -> Images:
    """Read labelled images.

    Args:
        text: `name[:id][:split][:N]` such as 'digits:test:100', 'cifar10', 'npz:images.npz:train'; the split
            is `test` where none is named.
        root: Where data sets lie; `$RSTBENCH_DATA`, else `~/.cache/rstbench` by default.

    Returns:
        The images in a fixed order. `images.at(slice(None))` gives `(x, y)`: float32 pixels (n, c, h, w) in
        [0, 1] and int64 labels (n,).

    Raises:
        BadRequest: For unknown names, missing or malformed files, and empty data. Nothing is downloaded.

    Example:
        >>> import rstbench
        >>> images = rstbench.load_data("digits:test:100")
        >>> x, y = images.at(slice(None))
        >>> x.shape, y.shape, images.classes
        (torch.Size([100, 1, 8, 8]), torch.Size([100]), 10)
    """
    return load(text, data_root(root))


def load_model(text: str) -> nn.Module:
    """Load a model by its reference.

    Args:
        text: `source:id[option=value,...]` such as 'ticket:FILE', 'checkpoint:FILE', 'file:PATH.py:factory'
            or 'torchvision:resnet18[classes=10]'. `file:` and `python:` run the code they name.

    Returns:
        A module in eval mode that maps images (n, c, h, w) in [0, 1] to logits (n, classes).

    Raises:
        BadRequest: For what cannot be named, found or built, and for a switch whose weights are still to be
            fitted, which `evaluate` does.

    Example:
        >>> import rstbench, torch
        >>> net = rstbench.load_model("torchvision:resnet18[classes=10,seed=0]")
        >>> net(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    model = load_reference(text)
    if model.unfitted:
        raise BadRequest(f"{text!r}: best weights are fitted by evaluate; name them here, weights=0.2+0.8")
    return eval_mode(model.module)


def draw(
    remaining: str | float,
    *,
    start: str = "",
    device: str = "auto",
    root: str | None = None,
    **settings: Any,
) -> Ticket:
    """Draw one ticket from a random network.

    Args:
        remaining: Fraction of the weights that is kept, above 0 and at most 1; a text is taken exactly.
        start: Reference of a model whose weights to choose from, such as 'checkpoint:FILE'; random ones by
            default.
        device: 'auto', 'cpu', 'cuda' or 'cuda:1'.
        root: Where data sets lie, see `load_data`.
        **settings: Those of the command line's `draw`, with `_` for `-`: network, width, data, method, init,
            adversary, threat, recipe, epochs, seed, ...

    Returns:
        The ticket; `ticket.module()` is an ordinary network.

    Raises:
        BadRequest: For unknown settings, and values that do not go together.
        ModelFault: Where the search diverges.

    Example:
        >>> import rstbench
        >>> ticket = rstbench.draw(0.2, network="conv2", width=0.1, data="digits:train:128", epochs=1)
        >>> ticket.remaining, ticket.recipe.method
        ('0.2', 'rst')
    """
    from .evaluation.evaluate import pick_device

    recipe = recipe_for(settings)
    builder = Builder(data_root(root), pick_device(device), Silent())
    with tempfile.TemporaryDirectory() as folder:
        job = Job("ticket", Path(folder) / "ticket.safetensors", recipe, str(remaining), start)
        builder.check(job)
        ticket = builder.make(job)
    assert isinstance(ticket, Ticket)  # a job with a kept fraction is a drawing
    return ticket


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
    """Write a ticket or checkpoint in a form that needs no part of this tool.

    Each format is checked against the model's own logits before it is written.

    Args:
        model: A ticket, a checkpoint, or a reference or file name of one.
        out: A file, or a folder for 'robustbench' and 'hub-folder'.
        to: 'state_dict', 'torch-export', 'onnx', 'robustbench', 'hub-folder' or 'ticket'.
        fold: Fold batch norm into the layers before it.
        compressed: Write a `state_dict` without its zeros.
        results: Folder of the run whose figures go along.
        root: Where data sets lie, see `load_data`.

    Returns:
        The files that were written.

    Raises:
        BadRequest: For an unknown format, a model that a format cannot hold, or an `out` that is no earlier
            export.

    Example:
        >>> import rstbench, tempfile
        >>> ticket = rstbench.draw(0.2, network="conv2", width=0.1, data="digits:train:128", epochs=1)
        >>> folder = tempfile.mkdtemp()
        >>> sorted(path.name for path in rstbench.export(ticket, f"{folder}/net.pt"))
        ['net.pt', 'net.pt.json', 'net_network.py']
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
    """Attack models and rank them.

    Args:
        models: By name, modules that map images (n, c, h, w) in [0, 1] to logits, or references. Two names of
            one model have a row each.
        data: Images to ask about, such as 'digits:test:100' (see `load_data`).
        threat: 'Linf:8/255', 'L2:0.5', 'L1:12'.
        attacks: Texts such as 'pgd', 'pgd:steps=50,restarts=5', 'autoattack', or one of them.
        out: Folder where the evidence is kept and resumed from; nowhere by default.
        device: 'auto', 'cpu', 'cuda' or 'cuda:1'.
        batch_size: Images crafted at once, part of a result's identity: 'auto' is 100 on a CPU, 500 on a GPU.
        seed: Of the attacks.
        root: Where data sets lie, see `load_data`.

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
    settings: dict[str, Any] = {"device": device, "batch": batch_size, "seed": seed, "root": root}
    outcome, wrapped = _evaluate(models, data, threat, attacks, progress, out=out, **settings)
    table = _with_duplicates(outcome.tables["leaderboard"], wrapped)
    if outcome.faults and table["clean"].isna().all():
        raise outcome.faults[0]
    for fault in outcome.faults:
        warnings.warn(str(fault), RuntimeWarning, stacklevel=2)
    table.attrs["faults"] = [str(fault) for fault in outcome.faults]
    table.attrs["notes"] = progress.notes
    return table


class _Notes(Silent):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def _with_duplicates(table: pd.DataFrame, models: Sequence[EvalModel]) -> pd.DataFrame:
    """Return the leaderboard with a row for each name: models that are the same were evaluated once."""
    import pandas as pd

    first: dict[str, str] = {}
    names = {model.info.name: first.setdefault(model.digest, model.info.name) for model in models}
    duplicates = [
        table[table["model"] == listed].assign(model=name) for name, listed in names.items() if name != listed
    ]
    return pd.concat([table, *duplicates], ignore_index=True) if duplicates else table


def _evaluate(
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
    specs = map(AttackSpec.parse, [attacks] if isinstance(attacks, str) else attacks)
    study_attacks = tuple(dict.fromkeys(StudyAttack(spec) for spec in specs))
    study = Study("adhoc", DataReference.parse(data), (Threat.parse(threat),), study_attacks, seeds=(seed,))
    with ExitStack() as stack:
        folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = Options(folder, device, str(batch), root=data_root(root), report=bool(out))
        wrapped = [_wrap(name, model) for name, model in models.items()]
        return run_study(study, options, progress, wrapped), wrapped


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
    """Measure clean accuracy and accuracy under standard AutoAttack, with RobustBench's signature.

    The engine is this tool's: the images are judged again, per-image evidence is written, and the same call
    continues where it stopped.

    Source: Croce et al., "RobustBench: a standardized adversarial robustness benchmark", NeurIPS 2021.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits.
        n_examples: Number of test images.
        dataset: Name of the data set, such as 'cifar10'.
        threat_model: 'Linf', 'L2' or 'L1'.
        to_disk: Keep evidence and CSV in `model_info/<dataset>/<threat_model>/<model_name>`.
        model_name: Name in that path; needed with `to_disk`.
        data_dir: Where data lie, in torchvision's layout.
        corruptions_data_dir: Not used.
        device: Of torch; the CPU by default.
        batch_size: Images crafted at once.
        eps: Radius as a fraction of the pixel range.
        log_path: Not used.
        preprocessing: Refused; make it the model's first layer.
        aa_state_path: Folder for the evidence in place of that of `to_disk`.

    Returns:
        (clean accuracy, robust accuracy), as fractions.

    Raises:
        BadRequest: For corruptions, for a preprocessing, and where eps is missing.
        ModelFault: Where either number is missing.

    Example:
        >>> import rstbench
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> clean, robust = rstbench.benchmark(net, n_examples=2, dataset="digits", eps=8 / 255)
        >>> 0 <= robust <= clean <= 1
        True
    """
    threat_model = str(getattr(threat_model, "value", threat_model))
    dataset = str(getattr(dataset, "value", dataset))
    if threat_model not in NORMS:
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
    outcome, _ = _evaluate(
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


def _wrap(name: str, model: nn.Module | str) -> EvalModel:
    name = str(name)
    if isinstance(model, str):
        loaded = load_reference(model)
        return replace(loaded, info=replace(loaded.info, name=name))
    return wrap(model, ModelInfo(name, "external"))


def _exact(eps: float) -> str:
    """Return 8/255 for the float of that fraction, for other floats the decimal that prints."""
    greys = eps * 255
    return (
        f"{round(greys)}/255" if abs(greys - round(greys)) < 1e-9 and round(greys) / 255 == eps else repr(eps)
    )
