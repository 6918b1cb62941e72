"""Select one network of a training checkpoint, and account for what lies beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import BadFile, BadRequest, listed
from .extras import (
    are_masks_or_scores,
    is_record,
    is_record_among_tensors,
    is_training_state,
    masks_and_scores,
    normalisation_constants,
    siblings_of,
)
from .formats import OWN_CODE
from .masks import equal
from .tensors import as_dense, as_tensor, iter_tensors

TOP = "."  # the key of a file's outermost dictionary
MOST_NAMED, MOST_KEYS = 8, 5
# timm/models/_helpers.py, load_state_dict with use_ema=True
TIMM_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")


@dataclass(frozen=True)
class StoredNetwork:
    """One network of a file.

    state: name -> tensor, as stored; key: its key in the file, '' where there was no choice; objects: names
    of values that are no tensors and may affect outputs; ordered: whether the tensors come in the network's
    order; notes: what was applied; ambiguity: the error where these parts are not one network, else ''.
    """

    state: dict[str, Tensor]
    key: str = ""
    objects: tuple[str, ...] = ()
    ordered: bool = True
    notes: tuple[str, ...] = ()
    ambiguity: str = ""


def select_network(
    content: Any, path: Path, key: str = "", preferred_keys: Sequence[str] = (), *, parts: bool = False
) -> StoredNetwork:
    """Select the network of a file: the only one, the one under a dotted `key`, or the first preferred one.

    preferred_keys: those that a library's own loader tries; parts: whether several dictionaries may be one
    network saved in parts. Masks and scores beside the network come along. Raises BadFile where there is no
    network, BadRequest where there are several, and for values beside it that may affect outputs.
    """
    if not isinstance(content, Mapping) or not any(True for _ in iter_tensors(content)):
        kind = type(content).__name__
        if isinstance(content, Mapping):
            kind = f"dictionary of {listed(map(str, content), MOST_KEYS) or 'nothing'}"
        raise BadFile(f"{path} holds no state dict, but a {kind}")
    networks = _networks(content)
    if key:
        chosen = _checked_key(content, key, path, networks)
    else:
        chosen = next((preferred for preferred in preferred_keys if preferred in networks), "")
        if not chosen and (ambiguity := _ambiguity(networks, path)):
            if TOP in networks or not parts:
                raise BadRequest(ambiguity)
            relevant = {name: value for name, value in content.items() if not is_record(str(name), value)}
            state, objects = _flatten(relevant, path)
            return StoredNetwork(state, "", tuple(objects), ambiguity=ambiguity)
        chosen = chosen or next(iter(networks), TOP)
    node = content if chosen == TOP else _lookup(content, chosen)
    prefix = "" if chosen == TOP else f"{chosen}."
    inner = [other for other in networks if other != chosen and other.startswith(prefix)]
    skip = [other.removeprefix(prefix) for other in inner] if chosen in networks else []
    state, objects = _flatten(node, path, skip=skip)
    beside = siblings_of(content, chosen) if chosen != TOP else {}
    extras = masks_and_scores(beside, state, path)
    norms = normalisation_constants(beside, networks)
    rest = [n for n in beside if n not in networks and n not in extras.keys and not is_record(n, beside[n])]
    rest = [name for name in rest if not any(f"{norm}.".startswith(f"{name}.") for norm in norms)]
    if rest and key:
        extras.notes.append(f"{listed(rest)} beside {chosen} left out, as [key={key}] says")
    elif rest:
        may_be_masks = any(isinstance(beside[n], Mapping) and are_masks_or_scores(n, beside[n]) for n in rest)
        call = ", call it masks where its ones say what is kept" if may_be_masks else ""
        raise BadRequest(
            f"{path} holds {listed(rest)} beside {chosen}, which may take part in the answers; add "
            f"[key={chosen}] to leave it out{call}, or {OWN_CODE}"
        )
    had_choice = key or len(networks) > 1
    tensors = norms | state | extras.tensors
    return StoredNetwork(tensors, chosen if had_choice else "", tuple(objects), notes=tuple(extras.notes))


def _networks(content: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """Return the dictionaries of a file that may be networks, by their keys."""
    candidates = {key: node for key, node in _nodes(content) if _is_network(key, node)}
    if len(candidates) > 1 and not any("." in str(name) for name in candidates.get(TOP, ())):
        candidates.pop(TOP, None)  # a matrix beside a network is no network itself
    # Nor are matrices alone under the names of another network's weights: they are masks or the like.
    return {
        key: node
        for key, node in candidates.items()
        if not any(other is not node and _only_matrices_of(node, other) for other in candidates.values())
    }


def _only_matrices_of(node: Mapping[Any, Any], network: Mapping[Any, Any]) -> bool:
    has_vectors = any(value.dim() == 1 for value in network.values() if isinstance(value, Tensor))
    return has_vectors and all(
        isinstance(value, Tensor)
        and value.dim() > 1
        and value.shape == getattr(network.get(name), "shape", None)
        for name, value in node.items()
    )


def _nodes(node: Any, key: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield (dotted key, dictionary) of all nested dictionaries, those of optimizers left out."""
    if isinstance(node, Mapping):
        if "param_groups" in node:
            return
        yield key or TOP, node
    items = node.items() if isinstance(node, Mapping) else enumerate(node if _is_list(node) else ())
    for name, value in items:
        yield from _nodes(value, f"{key}.{name}" if key else str(name))


def _is_list(node: Any) -> bool:
    return isinstance(node, list | tuple)


def _is_network(key: str, node: Mapping[Any, Any]) -> bool:
    """Whether a dictionary directly holds matrices that are no masks, and is no record of a training."""
    if key != TOP and (are_masks_or_scores(key, node) or any(map(is_training_state, key.split(".")))):
        return False
    return any(isinstance(value, Tensor) and value.dim() > 1 for value in node.values())


def _ambiguity(networks: Mapping[str, Mapping[Any, Any]], path: Path) -> str:
    """Return the error for several networks in a file, '' where they are one and its copies."""
    first, *others = networks or (TOP,)
    if all(_equal_tensors(networks[first], networks[other]) for other in others):
        return ""
    keys = ", ".join([*networks][:MOST_NAMED]) + (", …" if len(networks) > MOST_NAMED else "")
    also = f", {TOP} being what is in no dictionary of its own" if TOP in networks else (
        f", or all as parts of one, [key={TOP}]"
    )  # fmt: skip
    return f"{path} holds {len(networks)} networks: {keys}; name one, [key={first}]{also}"


def _equal_tensors(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    first, second = ({n: t for n, t in side.items() if isinstance(t, Tensor)} for side in (one, other))
    return first.keys() == second.keys() and all(equal(first[name], second[name]) for name in first)


def _checked_key(content: Mapping[Any, Any], key: str, path: Path, networks: Mapping[str, Any]) -> str:
    node = content if key == TOP else _lookup(content, key)
    if not isinstance(node, Mapping) or not any(True for _ in iter_tensors(node)):
        raise BadRequest(f"{path} holds no network under {key!r}; there are: {', '.join(networks) or 'none'}")
    return key


def _lookup(content: Any, key: str) -> Any:
    """Return the value under a dotted key whose parts may hold dots themselves, None where there is none."""
    if not key:
        return content
    numbered = dict(enumerate(content)) if _is_list(content) else {}
    for name, value in (content if isinstance(content, Mapping) else numbered).items():
        if key == str(name):
            return value
        if key.startswith(f"{name}.") and (inner := _lookup(value, key[len(str(name)) + 1 :])) is not None:
            return inner
    return None


def _flatten(
    node: Mapping[Any, Any], path: Path, skip: Sequence[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """Return (tensors by dotted name, names of objects that are no tensors and may affect outputs).

    Numbers and arrays become tensors, so that whoever takes the tensors accounts for them.
    """
    state: dict[str, Tensor] = {}
    objects: list[str] = []

    def add(name: str, value: Any, top: bool) -> None:
        if name in skip or (top and "." not in name and is_record_among_tensors(name, value)):
            return
        if isinstance(value, Tensor):
            state[name] = as_dense(name, value, path)
        elif isinstance(value, Mapping) and "param_groups" not in value:
            for key, inner in value.items():
                add(f"{name}.{key}", inner, False)
        elif _is_list(value) and any(isinstance(inner, Tensor | Mapping) for inner in value):
            for index, inner in enumerate(value):
                add(f"{name}[{index}]", inner, False)  # a number that is no layer's
        elif (tensor := as_tensor(value)) is not None:
            state.update({name: tensor} if tensor.numel() else {})
        elif not isinstance(value, Mapping) and value is not None:
            objects.append(name)

    for name, value in node.items():
        add(str(name), value, True)
    return state, objects
