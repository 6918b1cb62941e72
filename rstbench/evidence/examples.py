"""Keep a few clean and adversarial images of each model for the page: `examples.npz`. No torch.

Names in the file, with n at most `COUNT` images in the order of the data:
`<data>/images` float32 (n, c, h, w) in [0, 1] and `<data>/labels` int64 (n,);
`<model>/clean/predicted` int64 (n,): the class the model sees, -1 where its logits are not finite;
`<model>/<attack>/<threat>/<seed>/adversarial` float32 (n, c, h, w) and `…/predicted` int64 (n,).
Models and data stand there by their digests. A switch, which has no one answer, has no `predicted`.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..archives import DAMAGE, check_arrays
from ..errors import BadFile
from ..files import write_whole
from .manifest import Manifest
from .trial import CLEAN

EXAMPLES_FILE = "examples.npz"
PARTS = ".examples"  # folder of a run that is not finished
COUNT = 8  # images
BUDGET = 16 * 2**20  # bytes before compression


class CraftingKey(NamedTuple):
    """Name what crafted some images; source is the digest of a model."""

    source: str
    attack: str
    threat: str
    seed: int


@dataclass(frozen=True)
class Examples:
    """Hold the arrays of `examples.npz` by their names."""

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Examples:
        """Read those of a folder that `evaluate` wrote; none where there is no file. Raises BadFile."""
        path = Path(root) / EXAMPLES_FILE
        return cls(_arrays(path)) if path.exists() else cls()

    def images(self, data: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (images, labels) of a data set, given its digest."""
        images, labels = self.arrays.get(f"{data}/images"), self.arrays.get(f"{data}/labels")
        return None if images is None or labels is None else (images, labels)

    def crafted(self, crafting: CraftingKey) -> np.ndarray | None:
        """Return the adversarial images."""
        return self.arrays.get(f"{name_of(crafting)}/adversarial")

    def predicted(self, crafting: CraftingKey) -> np.ndarray | None:
        """Return the classes that the model saw in them."""
        return self.arrays.get(f"{name_of(crafting)}/predicted")


def name_of(crafting: CraftingKey) -> str:
    """Return the prefix of an array's name; clean images depend on no threat and no seed."""
    source, attack, threat, seed = crafting
    return f"{source}/{CLEAN}" if attack == CLEAN else f"{source}/{attack}/{threat}/{seed}"


def wanted(request: Manifest, image_bytes: int) -> frozenset[CraftingKey]:
    """Return the craftings whose images are kept: the first attack of every row, then the second, and so on
    while `BUDGET` lasts."""
    ranked = [
        (rank, CraftingKey(row.model, attack, row.threat, row.seed))
        for row in request.rows
        for rank, attack in enumerate(row.attacks)
    ]
    ordered = [crafting for _, crafting in sorted(ranked, key=lambda item: item[0])]
    capacity = BUDGET // (COUNT * image_bytes)
    return frozenset(ordered[: max(capacity, len(request.rows))])


def write_part(root: Path, name: str, start: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep the arrays of the images from `start` on until the run ends."""
    write_whole(root / PARTS / f"{name}-{start}.npz", _bytes(arrays))


def join_parts(root: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Add the parts, and some arrays besides, to what `examples.npz` holds."""
    joined = dict(Examples.read(root).arrays) | dict(arrays)
    parts = {path: int(path.stem.rpartition("-")[2]) for path in (root / PARTS).glob("*.npz")}
    for path, start in sorted(parts.items(), key=lambda item: item[1]):
        for name, array in _arrays(path).items():
            before = joined.get(name, array[:0])[:start]
            if len(before) == start:
                joined[name] = np.concatenate([before, array])
    if joined:
        write_whole(root / EXAMPLES_FILE, _bytes(dict(sorted(joined.items()))))
    shutil.rmtree(root / PARTS, ignore_errors=True)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        check_arrays(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except DAMAGE as error:
        raise BadFile(f"{path} is damaged ({error}); delete it") from error


def _bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
