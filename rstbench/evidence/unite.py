"""The requests of several folders as one: what they say of the same thing, the first says. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from .manifest import Manifest, Row
from .trial import ModelInfo


def unite(requests: Sequence[Manifest], names: Sequence[str]) -> Manifest:
    """One request for everything that these ask, about the images that all of them ask about.

    names: where each comes from, for models that would share a name.
    """
    images = min(request.images for request in requests)
    return Manifest(
        study=_study([request.study for request in requests], images),
        run=_run([request.run for request in requests], names),
        images=images,
        cards=_cards(requests, names),
        rows=_rows(row for request in requests for row in request.rows),
        groups=tuple(dict.fromkeys(group for request in requests for group in request.groups)),
        keys=tuple(sorted({key for request in requests for key in request.keys})),
        failures=tuple(dict.fromkeys(failure for request in requests for failure in request.failures)),
        labels=next((request.labels[:images] for request in requests if request.labels), ()),
    )


def _study(studies: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any]:
    found = {key: _both([s[key] for s in studies if key in s]) for study in studies for key in study}
    found["name"] = "+".join(dict.fromkeys(str(study["name"]) for study in studies if "name" in study))
    return {**found, "images": images}


def _both(values: list[Any]) -> Any:
    """Lists one behind the other, without what is there twice; either of two truths; else the first."""
    if all(isinstance(value, list) for value in values):
        every = [item for value in values for item in value]
        return [item for place, item in enumerate(every) if item not in every[:place]]
    return any(values) if isinstance(values[0], bool) else values[0]


def _run(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """device, threads, versions, … of all machines, 'a and b' where they differ; merged: the folders."""
    found = {key: _told([run[key] for run in runs if key in run]) for run in runs for key in run}
    # The same images may lie in files of different names.
    return {**found, "data": runs[0]["data"], "merged": list(names)}


def _told(values: list[Any]) -> Any:
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, Mapping) for value in values):
        return {key: _told([value[key] for value in values if key in value]) for v in values for key in v}
    return " and ".join(dict.fromkeys(map(str, values)))


def _rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    found: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        known = found.setdefault((row.model, row.threat, row.seed), row)
        attacks = tuple(dict.fromkeys((*known.attacks, *row.attacks)))
        found[row.model, row.threat, row.seed] = replace(known, attacks=attacks)
    return tuple(found.values())


def _cards(requests: Sequence[Manifest], names: Sequence[str]) -> dict[str, ModelInfo]:
    """The card of each model: what one folder does not know of it is filled in from the others."""
    cards: dict[str, ModelInfo] = {}
    homes: dict[str, str] = {}
    for request, home in zip(requests, names, strict=True):
        for digest, card in request.cards.items():
            homes.setdefault(digest, home)
            known = cards.setdefault(digest, card)
            unknown = [f.name for f in fields(ModelInfo) if getattr(known, f.name) in (None, "", ())]
            cards[digest] = replace(known, **{name: getattr(card, name) for name in unknown})
    rows = [row for request in requests for row in request.rows]
    return _named_apart(_families_apart(cards, homes, rows), homes, rows)


def _families_apart(
    cards: Mapping[str, ModelInfo], homes: Mapping[str, str], rows: Sequence[Row]
) -> dict[str, ModelInfo]:
    """Two models of one family at the same ratio and seed are of different studies: their family then takes
    its folder's name, so that no mean is taken over both."""
    same: dict[tuple[str, str, int], set[str]] = {}
    for row in rows:
        card = cards[row.model]
        same.setdefault((card.family, card.ratio, row.seed), set()).add(row.model)
    mixed = {family for (family, _, _), models in same.items() if family and len(models) > 1}
    return {
        digest: replace(card, family=f"{card.family} ({homes[digest]})") if card.family in mixed else card
        for digest, card in cards.items()
    }


def _named_apart(
    cards: Mapping[str, ModelInfo], homes: Mapping[str, str], rows: Sequence[Row]
) -> dict[str, ModelInfo]:
    """Models that share a name take their seed behind it, as in a study of several, else their folder."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row.model, set()).add(row.seed)
    marks = [
        {digest: f"-seed{min(found)}" for digest, found in seeds.items() if len(found) == 1},
        {digest: f" ({home})" for digest, home in homes.items()},
        {digest: f" ({digest[:12]})" for digest in cards},
    ]
    alike: dict[str, list[str]] = {}
    for digest, card in cards.items():
        alike.setdefault(card.name, []).append(digest)
    found = dict(cards)
    for name, digests in alike.items():
        if len(digests) > 1:
            mark = next(m for m in marks if len({m[d] for d in digests if d in m}) == len(digests))
            found |= {digest: replace(cards[digest], name=name + mark[digest]) for digest in digests}
    return found
