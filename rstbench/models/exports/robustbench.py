"""Export a model as a folder in RobustBench's layout, with its entry for the zoo."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import BadRequest
from ...files import write_folder
from ...reports import robustbench as reports
from ...threat import Threat
from .bundle import ExportBundle
from .python_source import network_source
from .state_dict import weight_bytes

DATASETS = ("cifar10", "cifar100", "imagenet")
ZOO_NORMS = ("Linf", "L2")
MARKER = "rstbench.json"
CORRUPTIONS = ("corruptions_acc", "corruptions_acc_3d", "corruptions_mce", "corruptions_mce_3d")
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


def robustbench(bundle: ExportBundle, path: Path) -> list[Path]:
    """Write `network.py` (with its `register()`), `models/DATA/NORM/NAME.pt`,
    `model_info/DATA/NORM/NAME.json` with RobustBench's fields, and `measure.py`, which benchmarks the model.

    Raises BadRequest for data or a norm that RobustBench does not know.
    """
    dataset, threat = _dataset(bundle), Threat.parse(bundle.artifact.recipe.threat)
    if dataset not in DATASETS or threat.norm not in ZOO_NORMS:
        raise BadRequest(
            f"RobustBench knows {', '.join(DATASETS)} under {' and '.join(ZOO_NORMS)}, this is of {dataset} "
            f"{threat.norm}"
        )
    name = re.sub(r"\W", "_", bundle.name)
    folder = f"{dataset}/{threat.norm}"
    weights = f"models/{folder}/{name}.pt"
    source = network_source(bundle.module, bundle.title, bundle.shape, weights)
    source += REGISTER.format(name=name, data=dataset, norm=threat.norm)
    script = SCRIPT.format(name=name, data=dataset, norm=threat.norm, eps=threat.eps_text)
    files = {
        "network.py": source.encode(),
        weights: weight_bytes(bundle.state, ".pt"),
        f"model_info/{folder}/{name}.json": (json.dumps(model_info(bundle), indent=2) + "\n").encode(),
        "measure.py": script.encode(),
        MARKER: bundle.metadata_json(rstbench=__version__),
    }
    write_folder(path, files, MARKER)
    return [path / file for file in files]


def model_info(bundle: ExportBundle) -> dict[str, Any]:
    """Return RobustBench's `ModelInfo` of an exported model.

    Its accuracies are those of the leaderboard's line on most test images under the threat of the recipe;
    null where nothing was measured.
    """
    made, dataset = bundle.artifact, _dataset(bundle)
    question = (f"{dataset}:test", made.recipe.threat)
    rows = [row for row in bundle.rows if (row["data"], row["threat"]) == question]
    row = max(rows, key=lambda row: row["images"], default={})
    footnote = f"{bundle.title}{bundle.fold_note}"
    footnote += f" {reports.measured(row, 'test images')}." if row else ""
    return reports.model_info(
        row,
        name=bundle.name,
        dataset=dataset,
        architecture=str(made.spec),
        threat=Threat.parse(made.recipe.threat),
        footnote=footnote,
        unmeasured=CORRUPTIONS,
    )


def _dataset(bundle: ExportBundle) -> str:
    return bundle.artifact.recipe.data.partition(":")[0]
