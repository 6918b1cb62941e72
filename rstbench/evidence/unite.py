"""Unite the manifests of several folders: where two differ about a thing, the first holds. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from .manifest import Manifest, Row
from .part import MODELS, ONLY, SHARDS, united_part
from .trial import ModelInfo


def unite(manifests: Sequence[Manifest], names: Sequence[str]) -> Manifest:
    """Return one manifest for everything that these ask, about the images that all of them ask about.

    names: of the folders they come from, for models that would share a name.
    """
    images = min(manifest.images for manifest in manifests)
    rows = _united_rows(row for manifest in manifests for row in manifest.rows)
    groups = dict.fromkeys(group for manifest in manifests for group in manifest.groups)
    study, place = _united_study([m.study for m in manifests], images), _places(manifests)
    return Manifest(
        study=study,
        run=_united_run(manifests, names),
        images=images,
        models=_united_models(manifests, names),
        rows=_in_order_of_study(rows, study, place) if place else rows,
        groups=tuple(sorted(groups, key=lambda group: min(place.get(model, len(place)) for model in group))),
        keys=tuple(sorted({key for manifest in manifests for key in manifest.keys})),
        failures=tuple(dict.fromkeys(line for manifest in manifests for line in manifest.failures)),
        labels=next((manifest.labels[:images] for manifest in manifests if manifest.labels), ()),
    )


def _united_study(studies: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any]:
    united = {key: _concatenated([s[key] for s in studies if key in s]) for study in studies for key in study}
    united["name"] = "+".join(dict.fromkeys(str(study["name"]) for study in studies if "name" in study))
    return {**united, "images": images}


def _concatenated(values: list[Any]) -> Any:
    """Concatenate lists without repetitions, join truths by `or`, and take the first of other values."""
    if all(isinstance(value, list) for value in values):
        items = [item for value in values for item in value]
        return [item for index, item in enumerate(items) if item not in items[:index]]
    return any(values) if isinstance(values[0], bool) else values[0]


def _places(manifests: Sequence[Manifest]) -> dict[str, int]:
    """Return the places of models, by digest, in the study that machines shared by models; empty where none
    did."""
    order = dict.fromkeys(name for manifest in manifests for name in manifest.run.get(MODELS, ()))
    if not order:
        return {}
    place = {name: number for number, name in enumerate(order)}
    models = [item for manifest in manifests for item in manifest.models.items()]
    return {digest: place.get(model.name, len(place)) for digest, model in models}


def _in_order_of_study(
    rows: Iterable[Row], study: Mapping[str, Any], place: Mapping[str, int]
) -> tuple[Row, ...]:
    """Return the rows as one machine would have listed them."""

    def key(row: Row) -> tuple[int, int, int]:
        return study["seeds"].index(row.seed), study["threats"].index(row.threat), place[row.model]

    return tuple(sorted(rows, key=key))


def _united_run(manifests: Sequence[Manifest], names: Sequence[str]) -> dict[str, Any]:
    """device, threads, versions, … of all machines, 'a and b' where they differ; merged: the folders; and
    what is still missing of a study that machines shared."""
    runs = [manifest.run for manifest in manifests]
    united = {key: _listed([run[key] for run in runs if key in run]) for run in runs for key in run}
    for key in (ONLY, MODELS, SHARDS):
        united.pop(key, None)
    elsewhere = {m.models[row.model].name for m in manifests if ONLY not in m.run for row in m.rows}
    # The same images may lie in files of different names.
    return {**united, **united_part(runs, elsewhere), "data": runs[0]["data"], "merged": list(names)}


def _listed(values: list[Any]) -> Any:
    """Return the value where all are equal, tables key by key, else 'a and b'."""
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, Mapping) for value in values):
        return {key: _listed([value[key] for value in values if key in value]) for v in values for key in v}
    return " and ".join(dict.fromkeys(map(str, values)))


def _united_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return one row for each model, threat and seed, with the attacks and certificates of all."""
    united: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        known = united.setdefault((row.model, row.threat, row.seed), row)
        attacks = tuple(dict.fromkeys((*known.attacks, *row.attacks)))
        certificates = tuple(dict.fromkeys((*known.certificates, *row.certificates)))
        united[row.model, row.threat, row.seed] = replace(known, attacks=attacks, certificates=certificates)
    return tuple(united.values())


def _united_models(manifests: Sequence[Manifest], names: Sequence[str]) -> dict[str, ModelInfo]:
    """Return each model with the fields that one folder does not know filled in from the others."""
    models: dict[str, ModelInfo] = {}
    folders: dict[str, str] = {}
    for manifest, folder in zip(manifests, names, strict=True):
        for digest, model in manifest.models.items():
            folders.setdefault(digest, folder)
            known = models.setdefault(digest, model)
            unknown = [f.name for f in fields(ModelInfo) if getattr(known, f.name) in (None, "", ())]
            models[digest] = replace(known, **{name: getattr(model, name) for name in unknown})
    rows = [row for manifest in manifests for row in manifest.rows]
    return _with_distinct_names(_with_distinct_families(models, folders, rows), folders, rows)


def _with_distinct_families(
    models: Mapping[str, ModelInfo], folders: Mapping[str, str], rows: Sequence[Row]
) -> dict[str, ModelInfo]:
    """Add the folder's name to a family with two models at one ratio and seed: they are of different studies,
    and no mean is taken over both."""
    settings: dict[tuple[str, str, int], set[str]] = {}
    for row in rows:
        model = models[row.model]
        settings.setdefault((model.family, model.ratio, row.seed), set()).add(row.model)
    mixed = {family for (family, _, _), digests in settings.items() if family and len(digests) > 1}
    return {
        digest: replace(model, family=f"{model.family} ({folders[digest]})")
        if model.family in mixed
        else model
        for digest, model in models.items()
    }


def _with_distinct_names(
    models: Mapping[str, ModelInfo], folders: Mapping[str, str], rows: Sequence[Row]
) -> dict[str, ModelInfo]:
    """Add their seed to the names that models share, as in a study of several seeds, else their folder."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row.model, set()).add(row.seed)
    suffixes = [
        {digest: f"-seed{min(known)}" for digest, known in seeds.items() if len(known) == 1},
        {digest: f" ({folder})" for digest, folder in folders.items()},
        {digest: f" ({digest[:12]})" for digest in models},
    ]
    by_name: dict[str, list[str]] = {}
    for digest, model in models.items():
        by_name.setdefault(model.name, []).append(digest)
    named = dict(models)
    for name, digests in by_name.items():
        if len(digests) > 1:
            suffix = next(s for s in suffixes if len({s[d] for d in digests if d in s}) == len(digests))
            named |= {digest: replace(models[digest], name=name + suffix[digest]) for digest in digests}
    return named
