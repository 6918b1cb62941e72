"""Read study files: TOML text to a `Study`, every value checked. Imports torch only to make the attacks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadFile, BadRequest, unknown
from ..limits import TEXT_SHARE, read_bytes
from ..parsing import parse_toml
from ..references import DataReference, Reference
from ..threat import Threat
from ..training.recipe import DrawOptions
from . import plan
from .plan import NetworkTable, Study, StudyAttack, StudyModel

if TYPE_CHECKING:
    from ..certificates import CertificateSpec

DEFAULT_ATTACKS = ["pgd", "autoattack"]
SHIPPED = files("rstbench") / "studies"
# What `evaluate` adds to the study it writes beside its results.
_WRITTEN = ("run", "evidence")
KEYS = {"name", "data", "threats", "attacks", "images", "seeds", "transfer", "switch", "switch-weights"}
KEYS |= {"common", "draw", "train", "model", "certificates", "curve"}
MODEL = {"name", "ref", "env"}


def shipped() -> list[str]:
    """Return the names of the studies inside the package."""
    return sorted(
        item.name.removesuffix(".toml") for item in SHIPPED.iterdir() if item.name.endswith(".toml")
    )


def read_study(text: str) -> Study:
    """Read a shipped study by name, or one's own by a path that ends in .toml. Raises BadRequest."""
    if text.endswith(".toml"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise BadFile(f"no study file {path}")
        content = read_bytes(path, TEXT_SHARE)
    elif text in shipped():
        content = (SHIPPED / f"{text}.toml").read_bytes()
    else:
        raise unknown("study", text, shipped())
    try:
        plain = parse_toml(content.decode())
    except ValueError as error:
        raise BadFile(f"{text} is no TOML: {error}") from None
    given = {key: value for key, value in plain.items() if key not in _WRITTEN}
    return parse_study({"name": Path(text).stem, **given}, text)


def parse_study(plain: Mapping[str, Any], where: str) -> Study:
    """Return a study from plain values. Raises BadRequest for unknown keys and values of the wrong kind."""
    _only(plain, KEYS, where)
    data = DataReference.parse(_typed(plain, "data", str, where))
    threat_texts = _list(plain, "threats", where, kind=str, wanted="wants a list of texts")
    threats, curve = tuple(dict.fromkeys(map(Threat.parse, threat_texts))), _curve(plain, where)
    # Networks learn from the same data set, within the first threat, in the words of the study.
    common = {"data": str(data.all_of(data.split.removeprefix("test")))}
    common |= {"threat": threat_texts[0] if threats else str(curve[-1])} if threats or curve else {}
    common |= _table(_typed(plain, "common", dict, where, {}), plan.COMMON, f"{where}: [common]")
    attacks = _list(plain, "attacks", where, DEFAULT_ATTACKS)
    models = [_model(table, where) for table in _tables(plain, "model", where)]
    study = Study(
        name=_typed(plain, "name", str, where),
        data=data,
        threats=tuple(dict.fromkeys((*threats, *curve))),
        curve=curve,
        attacks=tuple(dict.fromkeys(_attack(item, (*threats, *curve), where) for item in attacks)),
        images=_typed(plain, "images", int, where, 0),
        seeds=_seeds(plain, where),
        transfer=_typed(plain, "transfer", bool, where, False),
        switch=_typed(plain, "switch", bool, where, False),
        switch_weights=_weights(plain, where),
        draws=tuple(_draw(table, common, where) for table in _tables(plain, "draw", where)),
        trains=tuple(_train(table, common, where) for table in _tables(plain, "train", where)),
        models=tuple(model for model in models if isinstance(model, StudyModel)),
        left_out=tuple(model for model in models if isinstance(model, str)),
        certificates=_certificates(plain, where),
    )
    _check(study, where)
    return study


def _check(study: Study, where: str) -> None:
    tables = (*study.draws, *study.trains)
    for name in (study.name, *(table.name for table in tables)):
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise BadRequest(f"{where}: a name is made of letters, digits and . _ + -, got {name!r}")
    if not study.threats or not study.attacks or not study.seeds:
        raise BadRequest(f"{where}: threats, attacks and seeds must name at least one each")
    if not (study.draws or study.trains or study.models):
        raise BadRequest(f"{where}: nothing to measure; add a [[draw]], [[train]] or [[model]] table")
    if study.images < 0:
        raise BadRequest(f"{where}: images must be positive, got {study.images}")
    names = [*(table.name for table in tables), *(model.name for model in study.models if model.name)]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise BadRequest(f"{where}: two tables are named {duplicates[0]!r}; give one another name")
    for table in tables:
        table.recipe(study.seeds[0])


def _attack(item: Any, threats: Sequence[Threat], where: str) -> StudyAttack:
    from ..attacks import AttackSpec

    if isinstance(item, str):
        return StudyAttack(AttackSpec.parse(item))
    if not isinstance(item, Mapping):
        raise BadRequest(
            f"{where}: an attack reads 'pgd' or {{attack = 'pgd', threat = 'Linf:0.2'}}, got {item!r}"
        )
    _only(item, {"attack", "threat"}, f"{where}: attacks")
    text = _typed(item, "threat", str, where, "")
    threat = Threat.parse(text) if text else None
    if threat and threat not in threats:
        raise unknown("threat of this study", text, map(str, threats))
    return StudyAttack(AttackSpec.parse(_typed(item, "attack", str, where)), threat)


def _seeds(plain: Mapping[str, Any], where: str) -> tuple[int, ...]:
    seeds = _list(plain, "seeds", where, [0])
    if not all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds):
        raise BadRequest(f"{where}: seeds are whole numbers from 0 to 2**31 - 1, got {seeds}")
    return tuple(dict.fromkeys(seeds))


def _curve(plain: Mapping[str, Any], where: str) -> tuple[Threat, ...]:
    """Return the threats of `curve = {norm = "Linf", eps = ["0.005", "0.01"]}`, by eps."""
    if "curve" not in plain:
        return ()
    table, wanted = _typed(plain, "curve", dict, where), 'reads {norm = "Linf", eps = ["0.005", "0.01"]}'
    _only(table, {"norm", "eps"}, f"{where}: curve")
    norm, eps = _typed(table, "norm", str, f"{where}: curve"), table.get("eps")
    if not isinstance(eps, list) or not eps or not all(isinstance(e, str | int | float) for e in eps):
        raise BadRequest(f"{where}: curve {wanted}, got eps = {eps!r}")
    return tuple(sorted({Threat.parse(f"{norm}:{e}") for e in eps}, key=lambda threat: threat.eps))


def _certificates(plain: Mapping[str, Any], where: str) -> tuple[CertificateSpec, ...]:
    texts = _list(plain, "certificates", where, kind=str, wanted="wants a list of texts")
    if not texts:
        return ()
    from ..certificates import CertificateSpec

    return tuple(dict.fromkeys(map(CertificateSpec.parse, texts)))


def _draw(table: Mapping[str, Any], common: Mapping[str, Any], where: str) -> NetworkTable:
    plain = _table(table, plan.DRAW, f"{where}: [[draw]]")
    name = _typed(plain, "name", str, where, plain.get("method", "rst"))
    start = _typed(plain, "from", str, where, "")
    plan.refuse_fixed(plain if plan.names_a_file(start) else {}, f"{where}: [[draw]] {name!r}: ")
    options, own = DrawOptions.split(plain)
    plain = {**common, **{key: value for key, value in own.items() if key not in ("name", "from")}}
    remaining = plain.pop("remaining", None)
    if not remaining or not isinstance(remaining, list):
        raise BadRequest(f"{where}: [[draw]] {name!r} wants remaining = [0.05, 0.1], got {remaining!r}")
    if len({str(value).rstrip("0") for value in remaining}) < len(remaining):
        raise BadRequest(f"{where}: [[draw]] {name!r}: a remaining ratio is named twice: {remaining}")
    return NetworkTable(name, plain, tuple(str(value) for value in remaining), start, options=options)


def _train(table: Mapping[str, Any], common: Mapping[str, Any], where: str) -> NetworkTable:
    plain = _table(table, plan.TRAIN, f"{where}: [[train]]")
    name = _typed(plain, "name", str, where, "trained")
    start, size_of = (_typed(plain, key, str, where, "") for key in ("from", "size_of"))
    plan.refuse_mixed(plain, start, size_of, f"{where}: [[train]] {name!r}: ")
    shared = {key: value for key, value in common.items() if key in plan.TRAIN}
    plain = {key: value for key, value in plain.items() if key not in ("name", "from", "size_of")}
    return NetworkTable(name, {**shared, **plain, "method": "training"}, start=start, size_of=size_of)


def _model(table: Mapping[str, Any], where: str) -> StudyModel | str:
    """Return a model, or why it is left out: its reference may come from the environment."""
    _only(table, MODEL, f"{where}: [[model]]")
    name, variable = _typed(table, "name", str, where, ""), _typed(table, "env", str, where, "")
    if variable and "ref" in table:
        raise BadRequest(f"{where}: [[model]] has ref, or env that names a variable which holds it, not both")
    reference = os.environ.get(variable, "") if variable else _typed(table, "ref", str, where)
    if not reference:
        return (
            f"{name or variable}: left out, for ${variable} names no model; set it to a reference such as "
            f"file:net.py:net"
        )
    return StudyModel(Reference.parse(reference), name)


def _table(table: Mapping[str, Any], known: set[str], where: str) -> dict[str, Any]:
    """Return a table with its keys, written as the long options are, as names of settings."""
    plain = {key.replace("-", "_"): value for key, value in table.items()}
    options = {key.replace("_", "-") for key in known}
    _only([key.replace("_", "-") for key in plain], options, where)
    if len(plain) < len(table):
        raise BadRequest(f"{where}: a key is written twice, with - and with _")
    return plain


def _only(keys: Iterable[str], known: set[str], where: str) -> None:
    for key in keys:
        if key not in known:
            raise BadRequest(f"{where}: {unknown('key', key, known)}")


def _weights(plain: Mapping[str, Any], where: str) -> tuple[str, ...]:
    known = (plan.EQUAL, plan.BEST)
    weights = _list(plain, "switch-weights", where, [plan.EQUAL])
    if not weights or not all(name in known for name in weights):
        raise BadRequest(f"{where}: switch-weights lists {' or '.join(known)}, got {weights}")
    if plan.BEST in weights and not plain.get("switch"):
        raise BadRequest(f"{where}: switch-weights goes with switch = true")
    return tuple(dict.fromkeys(weights))


def _typed(plain: Mapping[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    value = plain.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRequest(f"{where}: {key} wants a {kind.__name__}, got {value!r}")
    return value


def _list(
    plain: Mapping[str, Any],
    key: str,
    where: str,
    default: Sequence[Any] = (),
    kind: type = object,
    wanted: str = "wants a list",
) -> list[Any]:
    value = plain.get(key, list(default))
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise BadRequest(f"{where}: {key} {wanted}, got {value!r}")
    return value


def _tables(plain: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    return _list(plain, key, where, kind=Mapping, wanted=f"is a list of tables; write [[{key}]]")
