"""Which network of a training checkpoint is meant, and what lies beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import BadFile, BadRequest, listed
from .archive import OWN_CODE
from .masks import MASKS, is_mask, same
from .normalisers import pairs
from .values import as_dense, as_numbers, kind_of, tensors_in

TOP = "."  # the key of a file's outermost dictionary
# What belongs to the training and not to the network, whatever it holds.
_TRAINER = re.compile(
    r"opt(im(izer)?)?s?(_states?|_state_dict|_?[a-z]?\d?)?|(lr_)?sched(uler)?s?(_state_dict)?|(loss_|grad_)?scaler|"
    r"amp|\w*rng_states?|rng|random_state|criterion|loss_fn",
    re.IGNORECASE,
)
# What training loops record: numbers and vectors under such names, and any text or plain number, unless the
# name says that it takes part.
_RECORD = re.compile(
    r"(\w*_)?(epochs?|steps?|iter(ation)?s?|best|acc(uracy)?\d*|prec\d*|loss(es)?|err(ors?)?|top\d|metrics?|"
    r"history|logs?|lrs?|momentum|args?|opts?|config|cfg|hparams|hyper_parameters|time|date|seed|version|meta|"
    r"metadata|arch|name|dataset|num_classes)(_\w*)?",
    re.IGNORECASE,
)
_PARTAKES = re.compile(
    r"(new_)?(mean|std|mu|sigma)|(logit_)?(scale|bias)|temperature|threshold|tau|alpha", re.I
)
# timm/models/_helpers.py, load_state_dict with use_ema=True
TIMM = ("state_dict_ema", "model_ema", "state_dict", "model")


@dataclass(frozen=True)
class Found:
    """state: name -> tensor of one network, as they are stored; key: where in the file it lies, '' where
    there was no choice; odd: names of what is no tensor and may take part; ordered:
    whether the order of the tensors is the network's."""

    state: dict[str, Tensor]
    key: str = ""
    odd: tuple[str, ...] = ()
    ordered: bool = True


def network_in(content: Any, path: Path, key: str = "", rule: Sequence[str] = ()) -> Found:
    """One network of what a file holds: the only one, the one under `key` (a dotted path), or the first of
    `rule`, which are the keys a library's own loader tries.

    Masks that lie beside it come along as NAME_mask. Raises BadFile where there is none or it cannot be read,
    BadRequest where there are several, and for tensors beside it that nobody accounts for.
    """
    if not isinstance(content, Mapping) or not any(True for _ in tensors_in(content)):
        raise BadFile(f"{path} holds no state dict, but {kind_of(content)}")
    networks = {place: node for place, node in _nodes(content) if _is_network(place, node)}
    if len(networks) > 1 and not any("." in str(name) for name in networks.get(TOP, ())):
        networks.pop(TOP, None)  # a matrix beside a network is none itself
    if key:
        chosen = _under(content, key, path, networks)
    else:
        chosen = next((place for place in rule if place in networks), "")
        chosen = chosen or _only(networks, path)
    node = content if chosen == TOP else _at(content, chosen)
    inner = [place for place in networks if place != chosen and _within(place, chosen)]
    inner = inner if chosen in networks else []
    state, odd = _flat(
        node, path, skip=[place[len(chosen) + 1 :] if chosen != TOP else place for place in inner]
    )
    beside = _beside(content, chosen) if chosen != TOP else {}
    masks, applied = _masks_beside(beside, state, path)
    state |= masks
    given = {name: as_numbers(beside[name]) for pair in pairs(list(beside)) for name in pair if not key}
    state = {name: values for name, values in given.items() if values is not None} | state
    left = (
        [] if key else [name for name in beside if not _is_record(name, beside[name]) and name not in state]
    )
    left = [name for name in left if name not in networks and name not in applied]
    if left:
        raise BadRequest(
            f"{path} holds {listed(left)} beside {chosen}, which may take part in the answers; add "
            f"[key={chosen}] to leave it out, or {OWN_CODE}"
        )
    several = key or len(networks) > 1
    return Found(state, chosen if several else "", tuple(odd))


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
    if place != TOP and (_masks_only(place, node) or any(map(_TRAINER.fullmatch, place.split(".")))):
        return False
    return bool(matrices)


def _only(networks: Mapping[str, Mapping[Any, Any]], path: Path) -> str:
    if not networks:
        return TOP
    first, *others = networks
    if others and not all(_equal(networks[first], networks[other]) for other in others):
        raise BadRequest(
            f"{path} holds {len(networks)} networks: {', '.join(networks)}; name one, [key={first}]"
            + (f", {TOP} being what is in no dictionary of its own" if TOP in networks else "")
        )
    return first


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


def _beside(content: Any, chosen: str) -> dict[str, Any]:
    """What lies beside a network, and beside the dictionaries it lies in."""
    found: dict[str, Any] = {}
    if isinstance(content, Mapping):
        for name, value in content.items():
            if str(name) != chosen and not chosen.startswith(f"{name}."):
                found[str(name)] = value
            elif str(name) != chosen:
                inner = _beside(value, chosen[len(str(name)) + 1 :])
                found |= {f"{name}.{below}": one for below, one in inner.items()}
    return found


def _is_record(place: str, value: Any) -> bool:
    name, tensors = place.rpartition(".")[2], list(tensors_in(value))
    if _TRAINER.fullmatch(name) or (isinstance(value, Mapping) and "param_groups" in value):
        return True
    if _PARTAKES.fullmatch(name):
        return False
    return not tensors or (all(tensor.dim() < 2 for tensor in tensors) and bool(_RECORD.fullmatch(name)))


def _named_masks(place: str) -> bool:
    return bool(MASKS.fullmatch(place.rpartition(".")[2]))


def _masks_only(place: str, value: Any) -> bool:
    """Whether these are masks: so named, or matrices and more of zeros and ones only, both being there."""
    tensors = list(tensors_in(value))
    if not tensors or not any(tensor.dim() > 1 for tensor in tensors):
        return bool(tensors) and _named_masks(place)
    return _named_masks(place) or (
        all(map(is_mask, tensors)) and len({bool(v) for tensor in tensors for v in tensor.unique()}) == 2
    )


def _masks_beside(
    beside: Mapping[str, Any], state: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], set[str]]:
    """(masks beside a state dict, as NAME_mask of the tensor they go with; where they lay). Raises BadRequest
    where what is called masks goes with nothing."""
    found: dict[str, Tensor] = {}
    applied: set[str] = set()
    for place, value in beside.items():
        if _is_record(place, value) or not _masks_only(place, value):
            continue
        masks = (
            {_target(str(n), state): mask for n, mask in value.items()} if isinstance(value, Mapping) else {}
        )
        if masks and all(name and isinstance(mask, Tensor) for name, mask in masks.items()):
            found |= {f"{name}_mask": mask for name, mask in masks.items()}
            applied.add(place)
        elif _named_masks(place):
            raise BadRequest(
                f"{path} holds {place} beside the network, masks whose weights cannot be told; store each as "
                f"NAME_mask beside NAME"
            )
    return found, applied


def _target(name: str, state: Mapping[str, Tensor]) -> str:
    """The tensor a mask of a separate dictionary goes with, '' where that is not clear."""
    plain = name.removesuffix("_mask").removesuffix(".mask")
    forms = {
        plain,
        f"{plain}.weight",
        f"module.{plain}",
        f"module.{plain}.weight",
        plain.removeprefix("module."),
    }
    fitting = [form for form in forms if form in state]
    return fitting[0] if len(fitting) == 1 else ""


def _flat(
    node: Mapping[Any, Any], path: Path, skip: Sequence[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors by name, names of what is none and may take part). Numbers and arrays become tensors, inner
    dictionaries dotted names, so that whoever takes the tensors accounts for them."""
    state: dict[str, Tensor] = {}
    odd: list[str] = []

    def add(name: str, value: Any, top: bool) -> None:
        if name in skip or (top and "." not in name and _records(name, value)):
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


def _records(name: str, value: Any) -> bool:
    """Whether an entry among a network's own tensors is a record: here a number may be a setting."""
    return _is_record(name, value) and bool(_RECORD.fullmatch(name) or _TRAINER.fullmatch(name))
