"""Which network of a training checkpoint is meant, and what lies beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import BadFile, BadRequest, listed
from .extras import among_tensors, applied, is_record, is_trainer, lie_on_weights, lying_beside, normalisers
from .formats import OWN_CODE
from .masks import same
from .tensors import as_dense, as_numbers, kind_of, tensors_in

TOP = "."  # the key of a file's outermost dictionary
MOST_NAMED = 8
# timm/models/_helpers.py, load_state_dict with use_ema=True
TIMM = ("state_dict_ema", "model_ema", "state_dict", "model")


@dataclass(frozen=True)
class Found:
    """state: name -> tensor of one network, as they are stored; key: where in the file it lies, '' where
    there was no choice; odd: names of what is no tensor and may take part; ordered:
    whether the order of the tensors is the network's; notes: what was applied to it; unclear: what to say
    where these parts are not one network, '' where there is one."""

    state: dict[str, Tensor]
    key: str = ""
    odd: tuple[str, ...] = ()
    ordered: bool = True
    notes: tuple[str, ...] = ()
    unclear: str = ""


def network_in(
    content: Any, path: Path, key: str = "", rule: Sequence[str] = (), *, parts: bool = False
) -> Found:
    """One network of what a file holds: the only one, the one under `key` (a dotted path), or the first of
    `rule`, which are the keys a library's own loader tries.

    Masks and scores that lie beside it come along, see `beside`. parts: where there are several, they are
    returned as if they were one saved in parts, with what to say where they are not. Raises BadFile where
    there is none or it cannot be read, BadRequest where there are several, and for tensors beside it that
    nobody accounts for.
    """
    if not isinstance(content, Mapping) or not any(True for _ in tensors_in(content)):
        raise BadFile(f"{path} holds no state dict, but {kind_of(content)}")
    networks = _networks(content)
    if key:
        chosen = _under(content, key, path, networks)
    else:
        chosen = next((place for place in rule if place in networks), "")
        if not chosen and (unclear := _unclear(networks, path)):
            if TOP in networks or not parts:
                raise BadRequest(unclear)
            plain = {name: value for name, value in content.items() if not is_record(str(name), value)}
            state, odd = _flat(plain, path)
            return Found(state, "", tuple(odd), unclear=unclear)
        chosen = chosen or next(iter(networks), TOP)
    node = content if chosen == TOP else _at(content, chosen)
    inner = [place for place in networks if place != chosen and _within(place, chosen)]
    inner = inner if chosen in networks else []
    state, odd = _flat(
        node, path, skip=[place[len(chosen) + 1 :] if chosen != TOP else place for place in inner]
    )
    beside = lying_beside(content, chosen) if chosen != TOP else {}
    done = applied(beside, state, path)
    norms = normalisers(beside, networks)
    state = norms | state | done.tensors
    left = [n for n in beside if not is_record(n, beside[n]) and n not in networks]
    left = [name for name in left if name not in done.places]
    left = [name for name in left if not any(norm == name or norm.startswith(f"{name}.") for norm in norms)]
    if left and key:
        done.notes.append(f"{listed(left)} beside {chosen} left out, as [key={key}] says")
    elif left:
        kept = any(isinstance(beside[n], Mapping) and lie_on_weights(n, beside[n]) for n in left)
        call = ", call it masks where its ones say what is kept" if kept else ""
        raise BadRequest(
            f"{path} holds {listed(left)} beside {chosen}, which may take part in the answers; add "
            f"[key={chosen}] to leave it out{call}, or {OWN_CODE}"
        )
    several = key or len(networks) > 1
    return Found(state, chosen if several else "", tuple(odd), notes=tuple(done.notes))


def _networks(content: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """The dictionaries of a file that may be networks, by their place."""
    found = {place: node for place, node in _nodes(content) if _is_network(place, node)}
    if len(found) > 1 and not any("." in str(name) for name in found.get(TOP, ())):
        found.pop(TOP, None)  # a matrix beside a network is none itself
    # Nor are matrices alone, by the names of another network's weights: they are something on its weights.
    return {
        place: node
        for place, node in found.items()
        if not any(other is not node and _only_matrices_of(node, other) for other in found.values())
    }


def _only_matrices_of(node: Mapping[Any, Any], whole: Mapping[Any, Any]) -> bool:
    vectors = any(value.dim() == 1 for value in whole.values() if isinstance(value, Tensor))
    return vectors and all(
        isinstance(value, Tensor)
        and value.dim() > 1
        and value.shape == getattr(whole.get(name), "shape", None)
        for name, value in node.items()
    )


def _nodes(node: Any, place: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dictionary below, by its dotted path; those of optimizers are left out."""
    if isinstance(node, Mapping):
        if "param_groups" in node:
            return
        yield place or TOP, node
        for name, value in node.items():
            yield from _nodes(value, f"{place}.{name}" if place else str(name))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _nodes(value, f"{place}.{number}" if place else str(number))


def _is_network(place: str, node: Mapping[Any, Any]) -> bool:
    """Whether a dictionary directly holds matrices that are no masks, and is no record of a training."""
    matrices = [value for value in node.values() if isinstance(value, Tensor) and value.dim() > 1]
    if place != TOP and (lie_on_weights(place, node) or any(map(is_trainer, place.split(".")))):
        return False
    return bool(matrices)


def _unclear(networks: Mapping[str, Mapping[Any, Any]], path: Path) -> str:
    """What to say of several networks in a file, '' where they are one and its copies."""
    first, *others = networks or (TOP,)
    if all(_equal(networks[first], networks[other]) for other in others):
        return ""
    places = ", ".join([*networks][:MOST_NAMED]) + (", …" if len(networks) > MOST_NAMED else "")
    also = f", {TOP} being what is in no dictionary of its own" if TOP in networks else (
        f", or all as parts of one, [key={TOP}]"
    )  # fmt: skip
    return f"{path} holds {len(networks)} networks: {places}; name one, [key={first}]{also}"


def _equal(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    ours, theirs = ({n: t for n, t in side.items() if isinstance(t, Tensor)} for side in (one, other))
    return ours.keys() == theirs.keys() and all(same(tensor, theirs[name]) for name, tensor in ours.items())


def _under(content: Mapping[Any, Any], key: str, path: Path, networks: Mapping[str, Any]) -> str:
    found = content if key == TOP else _at(content, key)
    if not isinstance(found, Mapping) or not any(True for _ in tensors_in(found)):
        raise BadRequest(f"{path} holds no network under {key!r}; there are: {', '.join(networks) or 'none'}")
    return key


def _at(content: Any, key: str) -> Any:
    """What lies under a dotted path whose parts may hold dots themselves; None where nothing does."""
    if not key:
        return content
    numbered = dict(enumerate(content)) if isinstance(content, list | tuple) else {}
    for name, value in (content if isinstance(content, Mapping) else numbered).items():
        if key == str(name):
            return value
        if key.startswith(f"{name}.") and (found := _at(value, key[len(str(name)) + 1 :])) is not None:
            return found
    return None


def _within(place: str, chosen: str) -> bool:
    return chosen == TOP or place.startswith(f"{chosen}.")


def _flat(
    node: Mapping[Any, Any], path: Path, skip: Sequence[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors by name, names of what is none and may take part). Numbers and arrays become tensors, inner
    dictionaries dotted names, so that whoever takes the tensors accounts for them."""
    state: dict[str, Tensor] = {}
    odd: list[str] = []

    def add(name: str, value: Any, top: bool) -> None:
        if name in skip or (top and "." not in name and among_tensors(name, value)):
            return
        if isinstance(value, Tensor):
            state[name] = as_dense(name, value, path)
        elif isinstance(value, Mapping) and "param_groups" not in value:
            for below, one in value.items():
                add(f"{name}.{below}", one, False)
        elif isinstance(value, list | tuple) and any(isinstance(one, Tensor | Mapping) for one in value):
            for number, one in enumerate(value):
                add(f"{name}[{number}]", one, False)  # a number that is no layer's
        elif (tensor := as_numbers(value)) is not None:
            state.update({name: tensor} if tensor.numel() else {})
        elif not isinstance(value, Mapping) and value is not None:
            odd.append(name)

    for name, value in node.items():
        add(str(name), value, True)
    return state, odd
