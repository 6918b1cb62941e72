"""`hub-folder`: what a Hugging Face repository of the model holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import write_folder
from .bundle import ExportBundle
from .python_source import source_of
from .state_dict import packed

WEIGHTS, CONFIG, SOURCE = "model.safetensors", "config.json", "network.py"
CARD = """---
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

Pixels in [0, 1], shape (n, {channels}, {height}, {width}), to logits of {classes} classes. Torch's own layers
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
NORMS = {
    "Linf": "each pixel moves by at most",
    "L2": "Euclidean distance at most",
    "L1": "L1 distance at most",
}
COLUMNS = ("data", "threat", "images", "clean", "worst", "worst_low", "worst_high", "flags")


def hub_folder(parcel: ExportBundle, path: Path) -> list[Path]:
    """A folder with safetensors, `config.json`, the network as Python and a model card with the leaderboard's
    lines. Raises BadRequest for a network that cannot be written as Python."""
    state = parcel.state
    files = {
        WEIGHTS: packed(state, ".safetensors"),
        CONFIG: _config(parcel),
        SOURCE: source_of(parcel.module, parcel.title, parcel.shape, WEIGHTS).encode(),
        "README.md": card(parcel).encode(),
    }
    write_folder(path, files, CONFIG)
    return [path / name for name in files]


def card(parcel: ExportBundle) -> str:
    """The model card: what it is, against whom it was made, what was measured."""
    made = parcel.made
    channels, height, width = parcel.shape
    recipe = parcel.about()["recipe"]
    return CARD.format(
        source=made.recipe.data.partition(":")[0],
        title=parcel.name,
        what=_what(parcel),
        channels=channels,
        height=height,
        width=width,
        classes=made.spec.classes,
        threat=_threat(parcel),
        measured=_measured(parcel),
        recipe="\n".join(
            f"| {name} | {value} |" for name, value in recipe.items() if value not in ("", False)
        ),
    )


def _config(parcel: ExportBundle) -> bytes:
    made = parcel.made
    config = {
        "library_name": "pytorch",
        "architectures": [made.spec.name],
        "num_classes": made.spec.classes,
        "input_size": list(parcel.shape),
        "input_range": [0, 1],
        "rstbench": parcel.about(),
    }
    return (json.dumps(config, indent=1) + "\n").encode()


def _what(parcel: ExportBundle) -> str:
    text = parcel.title.removeprefix(f"{parcel.name}: ") + parcel.fold_note
    return text[0].upper() + text[1:]


def _threat(parcel: ExportBundle) -> str:
    recipe = parcel.made.recipe
    norm, _, eps = recipe.threat.partition(":")
    if recipe.adversary == "none":
        return "Made without an adversary: not robust by design."
    return (
        f"Made against {recipe.threat} ({NORMS.get(norm, norm)} {eps} of the pixel range), images staying in "
        f"[0, 1], by the adversary `{recipe.adversary}`."
    )


def _measured(parcel: ExportBundle) -> str:
    if not parcel.rows:
        held = parcel.made.facts.get("kept_epoch", {})
        known = f" On held-out training images: clean {held['clean']:.3f}." if "clean" in held else ""
        return f"Not yet.{known} `python -m rstbench evaluate` measures it."
    return "By rstbench, from per-image evidence:\n\n" + _table(parcel.rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    attacks = [name for name in rows[0] if name.startswith(("pgd", "autoattack"))]
    names = [*COLUMNS[:4], *attacks, *COLUMNS[4:]]
    lines = [names, ["---"] * len(names), *([_cell(row.get(name)) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
