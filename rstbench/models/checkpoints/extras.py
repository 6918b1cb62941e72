"""What lies in a checkpoint beside a network: records, masks and scores, settings that count."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import BadRequest
from .masks import is_mask
from .normalisers import pairs
from .tensors import as_numbers, tensors_in

# What belongs to the training and not to the network, whatever it holds.
_TRAINER = re.compile(
    r"opt(im(izer)?)?s?(_states?|_state_dict|_?[a-z]?\d?)?|(lr_)?sched(uler)?s?(_state_dict)?|(loss_|grad_)?scaler|"
    r"amp|\w*rng_states?|rng|random_state|criterion|loss_fn",
    re.IGNORECASE,
)
_GENERATOR = re.compile(r"\w*rng_states?|rng|random_state", re.IGNORECASE)  # which are tensors themselves
# What training loops record beside a network: numbers and vectors under names that end so.
_RECORD = re.compile(
    r"(\w*_)?(epochs?|steps?|iter(ation)?s?|best|acc(uracy)?\d*|prec\d*|loss(es)?|err(ors?)?|top\d|metrics?|"
    r"history|logs|lrs?|momentum|args?|opts?|config|cfg|hparams|hyper_parameters|time|date|seed|version|meta|"
    r"metadata|arch|name|dataset|num_classes|scores?)",
    re.IGNORECASE,
)
# Plain numbers that take part in the answers.
_PARTAKES = re.compile(
    r"((?P<of>\w*)_)?(means?|stds?|mu|sigma|var|scale|bias|temperature|threshold|tau|alpha|normali[sz]\w*)",
    re.IGNORECASE,
)
MASKS = re.compile(r"(weight_)?masks?", re.IGNORECASE)  # how dictionaries of what is kept are called
SCORES = ("scores", "popup_scores", "mask_scores")


@dataclass
class Applied:
    """tensors: masks and scores under names that tell their weight; places: where they lay; notes: what to
    say of it."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def is_trainer(name: str) -> bool:
    return bool(_TRAINER.fullmatch(name))


def is_record(place: str, value: Any) -> bool:
    """Whether what lies beside a network is a record of its training. A tensor is one under known names only,
    a plain number unless its name says that it takes part."""
    name = _leaf(place)
    if isinstance(value, Mapping) and "param_groups" in value:
        return True
    if is_trainer(name) and (not isinstance(value, Tensor) or _GENERATOR.fullmatch(name)):
        return True
    tensors = list(tensors_in(value))
    if _takes_part(name) or (isinstance(value, Mapping) and not is_named_record(name) and
                             any(_takes_part(str(inner)) for inner in value)):  # fmt: skip
        return False
    return not tensors or (all(tensor.dim() < 2 for tensor in tensors) and is_named_record(name))


def is_named_record(name: str) -> bool:
    return bool(_RECORD.fullmatch(name))


def among_tensors(name: str, value: Any) -> bool:
    """Whether an entry among a network's own tensors is a record: no tensor is."""
    if isinstance(value, Tensor | np.ndarray):
        return False
    return is_record(name, value) and (is_named_record(name) or is_trainer(name))


def lie_on_weights(place: str, value: Any) -> bool:
    """Whether a dictionary holds masks or scores: so named, or of zeros and ones only."""
    tensors = list(tensors_in(value))
    named = bool(MASKS.fullmatch(_leaf(place))) or _leaf(place) in SCORES
    return any(tensor.dim() > 1 for tensor in tensors) and (named or all(map(is_mask, tensors)))


def applied(beside: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> Applied:
    """Masks and scores beside a state dict, as NAME_mask and LAYER.scores of what they go with.

    Only what is called masks or scores is: another dictionary of zeros and ones may say what was removed,
    frozen or positive. Raises BadRequest where one that is so called goes with nothing.
    """
    done = Applied()
    for place, value in beside.items():
        kind = _leaf(place)
        masks = bool(MASKS.fullmatch(kind))
        tensors = list(tensors_in(value))
        if not (masks and tensors) and not (kind in SCORES and any(t.dim() > 1 for t in tensors)):
            continue
        items = value.items() if isinstance(value, Mapping) else ()
        found = {_target(str(name), state, kind): tensor for name, tensor in items}
        if not masks:
            found = {n.removesuffix("weight") if n.endswith("weight") else "": t for n, t in found.items()}
        if not found or len(found) < len(items) or not all(
            name and isinstance(tensor, Tensor) for name, tensor in found.items()
        ):  # fmt: skip
            each = "NAME_mask beside NAME" if masks else f"LAYER.{kind} beside LAYER.weight"
            what = "masks" if masks else "scores"
            raise BadRequest(
                f"{path} holds {place} beside the network, {what} whose weights cannot be told; "
                f"store each as {each}"
            )
        done.tensors |= {f"{name}_mask" if masks else f"{name}{kind}": t for name, t in found.items()}
        done.places.add(place)
        if masks:
            share = sum(int(m.count_nonzero()) for m in found.values()) / sum(
                m.numel() for m in found.values()
            )
            done.notes.append(
                f"{place} beside the network: weights are 0 where it is 0, {share:.1%} are kept"
            )
    return done


def normalisers(beside: Mapping[str, Any], skip: Collection[str]) -> dict[str, Tensor]:
    """Means with deviations in what lies beside a network, however deep, settings of the training included,
    by their dotted names; skip: places that hold networks of their own."""
    plain = dict(_settings(beside, skip))
    found: dict[str, Tensor] = {}
    for pair in pairs(list(plain)):
        values = {name: as_numbers(_parsed(plain[name])) for name in pair}
        if not any(is_named_record(_leaf(name).rpartition("_")[0]) for name in pair):
            found |= {name: v for name, v in values.items() if v is not None and v.numel()}
    return {name: value for pair in pairs(list(found)) for name, value in ((n, found[n]) for n in pair)}


def lying_beside(content: Any, chosen: str) -> dict[str, Any]:
    """What lies beside a network, and beside the dictionaries it lies in."""
    found: dict[str, Any] = {}
    if isinstance(content, Mapping):
        for name, value in content.items():
            if str(name) != chosen and not chosen.startswith(f"{name}."):
                found[str(name)] = value
            elif str(name) != chosen:
                inner = lying_beside(value, chosen[len(str(name)) + 1 :])
                found |= {f"{name}.{below}": one for below, one in inner.items()}
    return found


def _settings(node: Any, skip: Collection[str], place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, argparse.Namespace):
        node = vars(node)
    if isinstance(node, list | tuple) and any(isinstance(one, Mapping) for one in node):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        yield place, node
    elif "param_groups" not in node and place not in skip:
        for name, value in node.items():
            yield from _settings(value, skip, f"{place}.{name}" if place else str(name))


def _parsed(value: Any) -> Any:
    """Numbers that are written as a text, as numbers."""
    try:
        return (
            [float(n) for n in re.split(r"[\s,/+]+", value.strip("[]() "))]
            if isinstance(value, str)
            else value
        )
    except ValueError:
        return None


def _takes_part(name: str) -> bool:
    match = _PARTAKES.fullmatch(name)
    return match is not None and not is_named_record(match["of"] or "")


def _leaf(place: str) -> str:
    return place.rpartition(".")[2]


def _target(name: str, state: Mapping[str, Tensor], kind: str) -> str:
    """The tensor that one of a separate dictionary goes with, '' where that is not clear."""
    plain = name.removesuffix("_mask").removesuffix(".mask").removesuffix(f".{kind}")
    forms = {
        plain,
        f"{plain}.weight",
        f"module.{plain}",
        f"module.{plain}.weight",
        plain.removeprefix("module."),
    }
    fitting = [form for form in forms if form in state]
    return fitting[0] if len(fitting) == 1 else ""
