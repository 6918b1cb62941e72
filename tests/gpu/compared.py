"""Compare the sides of an attack, image by image, from the evidence of their runs."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rstbench.evidence.manifest import MANIFEST_FILE, Manifest
from rstbench.evidence.store import Store
from rstbench.evidence.trial import CLEAN, EXACT, ShardResult

LIBRARY, FAST = "library", "fast"
SIDES = (LIBRARY, EXACT, FAST)
LIBRARY_OPTION = "impl=library"


@dataclass(frozen=True)
class Comparison:
    """One attack on one model, over the shards that all its sides have answered.

    bits: of each side, '1' for an image that stays right; seconds: of each side.
    """

    model: str
    attack: str
    bits: Mapping[str, str]
    seconds: Mapping[str, float]

    @property
    def images(self) -> int:
        return len(next(iter(self.bits.values())))

    def differing(self, side: str, other: str) -> str:
        """Return the images on which two sides differ: `7+` stays right by the first only."""
        pairs = enumerate(zip(self.bits[side], self.bits[other], strict=True))
        return " ".join(f"{index}{'+' if a > b else '-'}" for index, (a, b) in pairs if a != b)

    def cells(self) -> list[str]:
        """Return its line of the table."""
        found: list[str] = [self.model, self.attack, str(self.images)]
        for side in SIDES:
            known = side in self.bits
            found.append(str(self.bits[side].count("1")) if known else "")
            found.append(f"{self.seconds[side]:.1f}" if known else "")
        slowest = next(side for side in SIDES if side in self.bits)
        found.append(f"{self.seconds[slowest] / self.seconds[FAST]:.2f}" if self.seconds.get(FAST) else "")
        found.append(self.differing(FAST, slowest) if FAST in self.bits else "")
        return found


HEADER = ["model", "attack", "images", *(f"{side}_{what}" for side in SIDES for what in ("right", "seconds"))]
HEADER += ["ratio", "fast_differs"]


def compare(folder: Path) -> list[Comparison]:
    """Return the comparisons of the runs in the folders below this one."""
    shards: dict[tuple[str, str], dict[str, dict[int, ShardResult]]] = defaultdict(dict)
    for manifest in sorted(folder.glob(f"*/{MANIFEST_FILE}")):
        store, cards = Store(manifest.parent), Manifest.load(manifest.parent).models
        for key in Manifest.load(manifest.parent).keys:
            record = store.read(key)
            if record is None or record.trial.attack == CLEAN or record.trial.target not in cards:
                continue
            text = record.trial.attack
            side = LIBRARY if LIBRARY_OPTION in text else record.trial.crafting
            pair = cards[record.trial.target].name, text.partition(":")[0]
            shards[pair][side] = {shard.start: shard for shard in record.shards}
    return [_comparison(*pair, sides) for pair, sides in shards.items() if _common(sides)]


def _common(sides: Mapping[str, Mapping[int, ShardResult]]) -> Sequence[int]:
    """Return the first images of the shards that every side has."""
    return sorted(set.intersection(*(set(found) for found in sides.values())))


def _comparison(model: str, attack: str, sides: Mapping[str, Mapping[int, ShardResult]]) -> Comparison:
    starts = _common(sides)
    bits = {side: "".join(found[start].bits for start in starts) for side, found in sides.items()}
    seconds = {side: sum(found[start].seconds for start in starts) for side, found in sides.items()}
    return Comparison(model, attack, bits, seconds)


def markdown(compared: Sequence[Comparison], parts: Path) -> str:
    """Return the tables of a run: the sides of the attacks, and what each part did."""
    with parts.open(newline="") as file:
        header, *rows = csv.reader(file)
    tables = [("Attacks", HEADER, [each.cells() for each in compared]), ("Parts", header, rows)]
    return "\n".join(_table(*table) for table in tables)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        f"## {title}",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)),
        "",
    ]
    return "\n".join(lines)
