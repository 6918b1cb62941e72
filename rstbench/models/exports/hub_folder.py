"""`hub-folder`: write the files of a Hugging Face repository of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...evidence.trial import attack_family
from ...files import write_folder
from ...training.recipe import Recipe
from .bundle import ExportBundle
from .python_source import network_source
from .state_dict import weight_bytes

WEIGHTS, CONFIG, SOURCE = "model.safetensors", "config.json", "network.py"
MODEL_CARD = """---
library_name: pytorch
pipeline_tag: image-classification
tags:
- adversarial-robustness
- sparse
- rstbench
datasets:
- {source}
---

# {title}

{what}

Pixels in [0, 1], shape (n, {shape}), to logits of {classes} classes. Torch's own layers
only.

```python
from network import network  # network.py of this folder

net = network()
```

## Threat model

{threat}

## Measured

{measured}

## Recipe

| setting | value |
|---|---|
{recipe}
"""
NORM_MEANINGS = {
    "Linf": "each pixel moves by at most",
    "L2": "Euclidean distance at most",
    "L1": "L1 distance at most",
}
COLUMNS = ("data", "threat", "images", "clean", "worst", "worst_low", "worst_high", "flags")


def hub_folder(bundle: ExportBundle, path: Path) -> list[Path]:
    """Write safetensors, `config.json`, the network as Python and a model card with leaderboard lines.

    Raises BadRequest for a network that cannot be written as Python.
    """
    files = {
        WEIGHTS: weight_bytes(bundle.state, ".safetensors"),
        CONFIG: _config(bundle),
        SOURCE: network_source(bundle.module, bundle.title, bundle.shape, WEIGHTS).encode(),
        "README.md": model_card(bundle).encode(),
    }
    write_folder(path, files, CONFIG)
    return [path / name for name in files]


def model_card(bundle: ExportBundle) -> str:
    """Write the model card: architecture, threat model, results and recipe."""
    spec, recipe = bundle.artifact.spec, bundle.artifact.recipe
    settings = bundle.metadata()["recipe"]
    return MODEL_CARD.format(
        source=recipe.data.partition(":")[0],
        title=bundle.name,
        what=_description(bundle),
        shape=", ".join(map(str, bundle.shape)),
        classes=spec.classes,
        threat=_threat(recipe),
        measured=_results(bundle),
        recipe="\n".join(
            f"| {name} | {value} |" for name, value in settings.items() if value not in ("", False)
        ),
    )


def _config(bundle: ExportBundle) -> bytes:
    config = {
        "library_name": "pytorch",
        "architectures": [bundle.artifact.spec.name],
        "num_classes": bundle.artifact.spec.classes,
        "input_size": list(bundle.shape),
        "input_range": [0, 1],
        "rstbench": bundle.metadata(),
    }
    return (json.dumps(config, indent=1) + "\n").encode()


def _description(bundle: ExportBundle) -> str:
    text = bundle.title.removeprefix(f"{bundle.name}: ") + bundle.fold_note
    return text[0].upper() + text[1:]


def _threat(recipe: Recipe) -> str:
    norm, _, eps = recipe.threat.partition(":")
    if recipe.adversary == "none":
        return "Made without an adversary: not robust by design."
    return (
        f"Made against {recipe.threat} ({NORM_MEANINGS.get(norm, norm)} {eps} of the pixel range), images "
        f"staying in [0, 1], by the adversary `{recipe.adversary}`."
    )


def _results(bundle: ExportBundle) -> str:
    if not bundle.rows:
        epoch = bundle.artifact.facts.get("kept_epoch", {})
        clean = f" On held-out training images: clean {epoch['clean']:.3f}." if "clean" in epoch else ""
        return f"Not yet.{clean} `python -m rstbench evaluate` measures it."
    return "By rstbench, from per-image evidence:\n\n" + _table(bundle.rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    attacks = [name for name in rows[0] if attack_family(name) in ("pgd", "autoattack")]
    names = [*COLUMNS[:4], *attacks, *COLUMNS[4:]]
    lines = [names, ["---"] * len(names), *([_cell(row.get(name)) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
