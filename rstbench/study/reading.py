"""Study files: TOML text to a `Study`, every value checked. No torch."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import BadFile, BadRequest, unknown
from .plan import (
    BEST,
    COMMON,
    DRAW,
    EQUAL,
    TRAIN,
    Make,
    Study,
    StudyAttack,
    names_a_file,
    refuse_fixed,
    refuse_mixed,
)

DEFAULT = ["pgd", "autoattack"]
SHIPPED = files("rstbench") / "studies"
MODEL = {"name", "ref"}
# What `evaluate` adds to the study it writes beside its results.
_WRITTEN = ("run", "evidence")


def shipped() -> list[str]:
    """Names of the studies inside the package."""
    return sorted(
        item.name.removesuffix(".toml") for item in SHIPPED.iterdir() if item.name.endswith(".toml")
    )


def read_study(text: str) -> Study:
    """A shipped study by name, or one's own by a path that ends in .toml. Raises BadRequest."""
    if text.endswith(".toml"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise BadFile(f"no study file {path}")
        content = path.read_bytes()
    elif text in shipped():
        content = (SHIPPED / f"{text}.toml").read_bytes()
    else:
        raise unknown("study", text, shipped())
    try:
        plain = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{text} is no TOML: {error}") from None
    given = {key: value for key, value in plain.items() if key not in _WRITTEN}
    return parse_study({"name": Path(text).stem, **given}, text)


def parse_study(plain: Mapping[str, Any], where: str) -> Study:
    """A study from plain values. Raises BadRequest for unknown keys and values of the wrong kind."""
    known = {
        "name",
        "data",
        "threats",
        "attacks",
        "images",
        "seeds",
        "transfer",
        "switch",
        "switch-weights",
        "common",
        "draw",
        "train",
        "model",
    }
    _only(plain, known, where)
    data = _typed(plain, "data", str, where)
    threats = tuple(_texts(plain, "threats", where))
    common = {"data": ":".join(part for part in data.split(":") if part != "test" and not part.isdigit())}
    common |= {"threat": threats[0]} if threats else {}
    common |= _table(_typed(plain, "common", dict, where, {}), COMMON, f"{where}: [common]")
    study = Study(
        name=_typed(plain, "name", str, where),
        data=data,
        threats=threats,
        attacks=tuple(_asked(item, threats, where) for item in _list(plain, "attacks", where, DEFAULT)),
        images=_typed(plain, "images", int, where, 0),
        seeds=tuple(dict.fromkeys(_list(plain, "seeds", where, [0]))),
        transfer=_typed(plain, "transfer", bool, where, False),
        switch=_typed(plain, "switch", bool, where, False),
        switch_weights=_weights(plain, where),
        draws=tuple(_draw(table, common, where) for table in _tables(plain, "draw", where)),
        trains=tuple(_train(table, common, where) for table in _tables(plain, "train", where)),
        models=tuple(_model(table, where) for table in _tables(plain, "model", where)),
    )
    _check(study, where)
    return study


def _check(study: Study, where: str) -> None:
    for name in (study.name, *(make.name for make in (*study.draws, *study.trains))):
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise BadRequest(f"{where}: a name is made of letters, digits and . _ + -, got {name!r}")
    if not study.threats or not study.attacks or not study.seeds:
        raise BadRequest(f"{where}: threats, attacks and seeds must name at least one each")
    if not (study.draws or study.trains or study.models):
        raise BadRequest(f"{where}: nothing to measure; add a [[draw]], [[train]] or [[model]] table")
    if not all(type(seed) is int and 0 <= seed < 2**31 for seed in study.seeds):
        raise BadRequest(f"{where}: seeds are whole numbers from 0 to 2**31 - 1, got {list(study.seeds)}")
    if study.images < 0:
        raise BadRequest(f"{where}: images must be positive, got {study.images}")
    names = [make.name for make in (*study.draws, *study.trains)] + [name for name, _ in study.models if name]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadRequest(f"{where}: two tables are named {twice[0]!r}; give one another name")
    for make in (*study.draws, *study.trains):
        make.recipe(study.seeds[0])


def _asked(item: Any, threats: Iterable[str], where: str) -> StudyAttack:
    if isinstance(item, str):
        return StudyAttack(item)
    if not isinstance(item, Mapping):
        raise BadRequest(
            f"{where}: an attack reads 'pgd' or {{attack = 'pgd', threat = 'Linf:0.2'}}, got {item!r}"
        )
    _only(item, {"attack", "threat"}, f"{where}: attacks")
    threat = _typed(item, "threat", str, where, "")
    if threat and threat not in threats:
        raise unknown("threat of this study", threat, threats)
    return StudyAttack(_typed(item, "attack", str, where), threat)


def _draw(table: Mapping[str, Any], common: Mapping[str, Any], where: str) -> Make:
    plain = _table(table, DRAW, f"{where}: [[draw]]")
    name = _typed(plain, "name", str, where, plain.get("method", "rst"))
    start = _typed(plain, "from", str, where, "")
    refuse_fixed(plain if names_a_file(start) else {}, f"{where}: [[draw]] {name!r}: ")
    no_weights = _typed(plain, "no_weights", bool, where, False)
    own = {key: value for key, value in plain.items() if key not in ("name", "from", "no_weights")}
    plain = {**common, **own}
    remaining = plain.pop("remaining", None)
    if not remaining or not isinstance(remaining, list):
        raise BadRequest(f"{where}: [[draw]] {name!r} wants remaining = [0.05, 0.1], got {remaining!r}")
    if len({str(value).rstrip("0") for value in remaining}) < len(remaining):
        raise BadRequest(f"{where}: [[draw]] {name!r}: a remaining ratio is named twice: {remaining}")
    return Make(name, plain, tuple(str(value) for value in remaining), start, no_weights=no_weights)


def _train(table: Mapping[str, Any], common: Mapping[str, Any], where: str) -> Make:
    plain = _table(table, TRAIN, f"{where}: [[train]]")
    name = _typed(plain, "name", str, where, "trained")
    start, size_of = (_typed(plain, key, str, where, "") for key in ("from", "size_of"))
    refuse_mixed(plain, start, size_of, f"{where}: [[train]] {name!r}: ")
    shared = {key: value for key, value in common.items() if key in TRAIN}
    plain = {key: value for key, value in plain.items() if key not in ("name", "from", "size_of")}
    return Make(name, {**shared, **plain, "method": "training"}, start=start, size_of=size_of)


def _model(table: Mapping[str, Any], where: str) -> tuple[str, str]:
    _only(table, MODEL, f"{where}: [[model]]")
    return _typed(table, "name", str, where, ""), _typed(table, "ref", str, where)


def _table(table: Mapping[str, Any], known: set[str], where: str) -> dict[str, Any]:
    """The keys of a table, written as the long options are, as names of settings."""
    plain = {key.replace("-", "_"): value for key, value in table.items()}
    _only(
        {key.replace("_", "-"): value for key, value in plain.items()},
        {k.replace("_", "-") for k in known},
        where,
    )
    if len(plain) < len(table):
        raise BadRequest(f"{where}: a key is written twice, with - and with _")
    return plain


def _only(plain: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in plain:
        if key not in known:
            raise BadRequest(f"{where}: {unknown('key', key, known)}")


def _weights(plain: Mapping[str, Any], where: str) -> tuple[str, ...]:
    known = (EQUAL, BEST)
    asked = _list(plain, "switch-weights", where, [EQUAL])
    if not asked or not all(one in known for one in asked):
        raise BadRequest(f"{where}: switch-weights lists {' or '.join(known)}, got {asked}")
    if BEST in asked and not plain.get("switch"):
        raise BadRequest(f"{where}: switch-weights goes with switch = true")
    return tuple(dict.fromkeys(asked))


def _typed(plain: Mapping[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    value = plain.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRequest(f"{where}: {key} wants a {kind.__name__}, got {value!r}")
    return value


def _list(plain: Mapping[str, Any], key: str, where: str, default: list[Any]) -> list[Any]:
    value = plain.get(key, default)
    if not isinstance(value, list):
        raise BadRequest(f"{where}: {key} wants a list, got {value!r}")
    return value


def _tables(plain: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    value = plain.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise BadRequest(f"{where}: {key} is a list of tables; write [[{key}]]")
    return value


def _texts(plain: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = plain.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRequest(f"{where}: {key} wants a list of texts, got {value!r}")
    return value
