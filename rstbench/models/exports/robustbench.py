"""`robustbench`: a folder in RobustBench's layout, with the model's entry for its zoo."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import BadRequest
from ...files import write_folder
from .bundle import ExportBundle
from .python_source import network_source
from .state_dict import weight_bytes

DATA = ("cifar10", "cifar100", "imagenet")
NORMS = ("Linf", "L2")
MARKER = "rstbench.json"
REGISTER = '''

def register():
    """Puts this network into RobustBench's zoo, for `load_model({name!r}, model_dir="models", ...)`."""
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    zoo = model_dicts[BenchmarkDataset({data!r})][ThreatModel({norm!r})]
    zoo[{name!r}] = {{"model": bare, "gdrive_id": ""}}  # the file is here: nothing is fetched
'''
SCRIPT = '''"""Measures {name} with RobustBench: python measure.py DATA_DIR [IMAGES]"""

import sys
import types

import pyautoattack
import pyautoattack.state


class AutoAttack(pyautoattack.AutoAttack):
    """pyautoattack with the signature that RobustBench calls."""

    def __init__(self, model, norm, eps, version="standard", device="cpu", log_path=None):
        super().__init__(model, norm=norm, eps=eps, version=version, device=device)

    def run_standard_evaluation(self, x, y, bs=250, state_path=None):
        return super().run_standard_evaluation(x, y, batch_size=bs)[0]


if __name__ == "__main__":
    # RobustBench 1.1.1 imports `autoattack`, which the package index has as pyautoattack.
    sys.modules["autoattack"] = types.SimpleNamespace(AutoAttack=AutoAttack, state=pyautoattack.state)
    sys.modules["autoattack.state"] = pyautoattack.state

    from robustbench.eval import benchmark
    from robustbench.utils import load_model

    from network import register

    register()
    model = load_model({name!r}, model_dir="models", dataset={data!r}, threat_model={norm!r})
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    clean, robust = benchmark(model, count, {data!r}, {norm!r}, eps={eps}, data_dir=sys.argv[1])
    print(f"clean {{clean:.4f}} robust {{robust:.4f}}")
'''


def robustbench(parcel: ExportBundle, path: Path) -> list[Path]:
    """A folder with `network.py` (and its `register()`), `models/DATA/NORM/NAME.pt`,
    `model_info/DATA/NORM/NAME.json` with RobustBench's fields, and `measure.py`, which benchmarks it.

    Raises BadRequest for data or a norm that RobustBench does not know.
    """
    data, (norm, _, eps) = (
        parcel.artifact.recipe.data.partition(":")[0],
        parcel.artifact.recipe.threat.partition(":"),
    )
    if data not in DATA or norm not in NORMS:
        raise BadRequest(
            f"RobustBench knows {', '.join(DATA)} under {' and '.join(NORMS)}, this is of {data} {norm}"
        )
    name = re.sub(r"\W", "_", parcel.name)
    weights = f"models/{data}/{norm}/{name}.pt"
    text = network_source(parcel.module, parcel.title, parcel.shape, weights)
    text += REGISTER.format(name=name, data=data, norm=norm)
    files = {
        "network.py": text.encode(),
        weights: weight_bytes(parcel.state, ".pt"),
        f"model_info/{data}/{norm}/{name}.json": (json.dumps(model_info(parcel), indent=2) + "\n").encode(),
        "measure.py": SCRIPT.format(name=name, data=data, norm=norm, eps=eps).encode(),
        MARKER: parcel.metadata_json(rstbench=__version__),
    }
    write_folder(path, files, MARKER)
    return [path / file for file in files]


def model_info(parcel: ExportBundle) -> dict[str, Any]:
    """RobustBench's `ModelInfo`, its fields in its order. Accuracies are percentages as text, from the
    leaderboard's line on test images under the threat of the recipe; null where nothing was measured."""
    made = parcel.artifact
    data = made.recipe.data.partition(":")[0]
    rows = [
        row for row in parcel.rows if (row["data"], row["threat"]) == (f"{data}:test", made.recipe.threat)
    ]
    row = max(rows, key=lambda row: row["images"], default={})
    footnote = f"{parcel.title}{parcel.fold_note}"
    if row:
        footnote += (
            f" Measured by rstbench on the first {row['images']} test images; 95 % interval of the worst "
            f"case {_percent(row['worst_low'])}-{_percent(row['worst_high'])}."
        )
    return {
        "link": None,
        "name": parcel.name,
        "authors": None,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": data,
        "venue": "Unpublished",
        "architecture": str(made.spec),
        "eps": made.recipe.threat.partition(":")[2],
        "clean_acc": _percent(row.get("clean")),
        "reported": None,
        "corruptions_acc": None,
        "corruptions_acc_3d": None,
        "corruptions_mce": None,
        "corruptions_mce_3d": None,
        "autoattack_acc": _percent(row.get("autoattack")),
        "footnote": footnote,
    }


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f}"
