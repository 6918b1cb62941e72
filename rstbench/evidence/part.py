"""Describe the part of a request that one machine answers: some models, some shards. No torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadRequest

# Keys of a manifest's `run`: names of the models that are asked, of all models of the study in its order, and
# the shards that are asked, as texts. Where a key is missing, all are asked.
ONLY, MODELS, SHARDS = "only", "models", "shards"


@dataclass(frozen=True)
class Shards:
    """Every `count`-th shard of each question, from shard `index` on; as text `0/4`."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shards:
        """Read '0/4'. Raises BadRequest."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not match or int(match[1]) >= int(match[2]):
            raise BadRequest(f"--shards reads I/N, from 0/N to N-1/N, such as 0/4; got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, number: int) -> bool:
        """Return whether a shard, by its number from 0 on, is one of these."""
        return number % self.count == self.index


ALL_SHARDS = Shards()


def shards_of(run: Mapping[str, Any]) -> tuple[Shards, ...]:
    """Return which shards a manifest's `run` asks."""
    return tuple(map(Shards.parse, run.get(SHARDS, ()))) or (ALL_SHARDS,)


def is_part(run: Mapping[str, Any]) -> bool:
    """Return whether a manifest's `run` asks less than its study."""
    return ONLY in run or SHARDS in run


def united_part(runs: Sequence[Mapping[str, Any]], asked_elsewhere: Iterable[str] = ()) -> dict[str, Any]:
    """Return what several runs ask together, as keys of a manifest's `run`; none where nothing is missing.

    asked_elsewhere: names of models that runs without `ONLY` ask.
    """
    only, models = (_joined(run.get(key, ()) for run in runs) for key in (ONLY, MODELS))
    shards = _joined(run.get(SHARDS, ()) for run in runs)
    united: dict[str, Any] = {}
    if set(models) - {*only, *asked_elsewhere}:
        united |= {ONLY: only, MODELS: models}
    if missing_shards(runs):
        united[SHARDS] = shards
    return united


def missing_shards(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the shards that none of these runs asks, of models of which another one asks some."""
    asked = defaultdict[tuple[tuple[str, ...], int], set[int]](set)
    for run in runs:
        for shards in shards_of(run) if SHARDS in run else ():
            asked[tuple(run.get(ONLY, ())), shards.count].add(shards.index)
    return [
        str(Shards(index, count))
        for (_, count), found in asked.items()
        for index in range(count)
        if index not in found
    ]


def _joined(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(item for items in lists for item in items))
