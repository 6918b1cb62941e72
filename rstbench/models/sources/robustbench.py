"""Load RobustBench's model zoo from local files: `robustbench:DATASET/THREAT/NAME`.

The only module that imports `robustbench`.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import ModuleType

from torch import nn

from ...attacks.autoattack.library import alias_for_robustbench
from ...errors import BadFile, BadRequest, first_line, unknown

# What its dependencies say while they are imported, by message.
_WARNINGS = (
    "pkg_resources is deprecated",
    "Deprecated call to `pkg_resources",
    "Importing from timm",
    "`torch.jit",
    "invalid escape sequence",
)


def import_robustbench() -> ModuleType:
    """Import `robustbench` (seconds), which in version 1.1.1 wants `autoattack` and `pkg_resources`."""
    alias_for_robustbench()
    with warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        import robustbench.utils

        zoo: ModuleType = robustbench
    return zoo


def robustbench(id: str, download: bool = False) -> nn.Module:
    """Load a zoo model from `MODELS/<dataset>/<threat>/<name>.pt`, MODELS being $RSTBENCH_MODELS or ./models.

    Raises BadFile where the file is missing and `download` is false, for RobustBench would fetch it. A
    download without weights is removed again.
    """
    parts = id.split("/")
    if len(parts) != 3:
        raise BadRequest(f"a zoo model reads 'robustbench:cifar10/Linf/NAME', got 'robustbench:{id}'")
    dataset, threat, name = parts
    folder = Path(os.environ.get("RSTBENCH_MODELS", "models"))
    path = folder / dataset / threat / f"{name}.pt"
    zoo = import_robustbench()
    known = {
        f"{data.value}/{norm.value}/{model}": links["gdrive_id"]
        for data, norms in zoo.model_zoo.model_dicts.items()
        for norm, models in norms.items()
        for model, links in models.items()
    }
    if id not in known:
        raise unknown(
            "zoo model", id, [key for key in known if key.startswith(f"{dataset}/{threat}/")] or known
        )
    missing = [file for file in _weight_files(path, known[id]) if not file.is_file()]
    if missing and not download:
        raise BadFile(
            f"no file {missing[0]}; put the zoo's checkpoint there, set RSTBENCH_MODELS to its folder, "
            f"or add --download"
        )
    if known[id] is None and not download:
        raise BadFile(f"RobustBench always fetches {name} through timm; add --download")
    try:
        model: nn.Module = zoo.utils.load_model(
            name, model_dir=str(folder), dataset=dataset, threat_model=threat
        )
    except Exception as error:
        for file in missing:
            file.unlink(missing_ok=True)  # a web page instead of weights
        problem = "cannot be fetched" if missing else "does not load"
        raise BadFile(f"{path} {problem}: {first_line(error)}") from error
    return model.requires_grad_(False).eval()


def _weight_files(path: Path, links: str | list[str] | None) -> list[Path]:
    """Return the files of a zoo model: one, one a member of an ensemble, or none where timm keeps it."""
    if isinstance(links, list):
        return [path.with_name(f"{path.name}_m{member}.pt") for member in range(len(links))]
    return [path] if links is not None else []
