"""Measure a model with the signature of RobustBench's `benchmark`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BadRequest
from ..evidence.trial import FAST
from ..progress import Silent
from ..study.run import Outcome
from ..threat import NORMS
from .evaluation import run_evaluation


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
    crafting: str = FAST,
) -> tuple[float, float]:
    """Measure clean accuracy and accuracy under standard AutoAttack, with RobustBench's signature.

    This tool's engine judges again, writes per-image evidence, and continues where the same call stopped.
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
        crafting: 'fast' or 'exact', see `evaluate`; not in RobustBench's signature.

    Returns:
        (clean accuracy, robust accuracy), as fractions.

    Raises:
        BadRequest: For corruptions, for a preprocessing, and where eps is missing.
        ModelFault: Where either number is missing.

    Example:
        >>> import rstbench, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> clean, robust = rstbench.benchmark(net, n_examples=2, dataset="digits", eps=8 / 255)
        >>> 0 <= robust <= clean <= 1
        True
    """
    _refuse(preprocessing)
    norm, data = _text(threat_model), _text(dataset)
    out = aa_state_path or (_folder(data, norm, model_name) if to_disk else None)
    where: dict[str, Any] = {"device": str(device or "cpu"), "root": data_dir, "out": out}
    settings = {"batch": min(batch_size, n_examples), "seed": 0, "crafting": crafting, **where}
    what = ({model_name or type(model).__name__: model}, f"{data}:test:{n_examples}", _threat(norm, eps))
    return _accuracies(run_evaluation(*what, "autoattack", Silent(), **settings)[0])


def _accuracies(outcome: Outcome) -> tuple[float, float]:
    """Return the clean and the robust accuracy of the only model. Raises what it failed with."""
    if outcome.faults:
        raise outcome.faults[0]
    table = outcome.tables["leaderboard"]
    return float(table["clean"][0]), float(table["autoattack"][0])


def _refuse(preprocessing: object) -> None:
    """Raise BadRequest for any preprocessing."""
    if preprocessing is not None:
        raise BadRequest("preprocessing is not applied to data here; make it the first layer of the model")


def _folder(data: str, norm: str, name: str | None) -> Path:
    """Return where evidence is kept. Raises BadRequest without a name."""
    if name is None:
        raise BadRequest("to_disk needs a model_name")
    return Path("model_info") / data / norm / name


def _text(name: Any) -> str:
    """Return a name as text, where it is a member of one of RobustBench's enumerations too."""
    return str(getattr(name, "value", name))


def _threat(norm: str, eps: float | None) -> str:
    """Return the text of a threat. Raises BadRequest for another norm, or no eps."""
    if norm not in NORMS:
        raise BadRequest(f"threat_model must be Linf, L2 or L1 here, got {norm!r}")
    if eps is None:
        raise BadRequest("eps is missing; for CIFAR-10 it is 8/255 in Linf and 0.5 in L2")
    return f"{norm}:{_exact(float(eps))}"


def _exact(eps: float) -> str:
    """Return 8/255 for the float of that fraction, for other floats the decimal that prints."""
    greys = eps * 255
    return (
        f"{round(greys)}/255" if abs(greys - round(greys)) < 1e-9 and round(greys) / 255 == eps else repr(eps)
    )
