"""Classify what a checkpoint holds beside a network: training records, masks, scores, normalisation."""

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
from .normalisers import mean_std_pairs
from .tensors import as_tensor, iter_tensors

# State of the training and not of the network, whatever it holds.
_TRAINING_STATE = re.compile(
    r"opt(im(izer)?)?s?(_states?|_state_dict|_?[a-z]?\d?)?|(lr_)?sched(uler)?s?(_state_dict)?|(loss_|grad_)?scaler|"
    r"amp|\w*rng_states?|rng|random_state|criterion|loss_fn",
    re.IGNORECASE,
)
_GENERATOR = re.compile(r"\w*rng_states?|rng|random_state", re.IGNORECASE)  # which are tensors themselves
# Endings of the names under which training loops record numbers and vectors.
_RECORD = re.compile(
    r"(\w*_)?(epochs?|steps?|iter(ation)?s?|best|acc(uracy)?\d*|prec\d*|loss(es)?|err(ors?)?|top\d|metrics?|"
    r"history|logs|lrs?|momentum|args?|opts?|config|cfg|hparams|hyper_parameters|time|date|seed|version|meta|"
    r"metadata|arch|name|dataset|num_classes|scores?)",
    re.IGNORECASE,
)
# Names of numbers that affect the outputs.
_AFFECTS_OUTPUTS = re.compile(
    r"((?P<of>\w*)_)?(means?|stds?|mu|sigma|var|scale|bias|temperature|threshold|tau|alpha|normali[sz]\w*)",
    re.IGNORECASE,
)
MASKS = re.compile(r"(weight_)?masks?", re.IGNORECASE)  # names of dictionaries of masks
SCORES = ("scores", "popup_scores", "mask_scores")


@dataclass
class MasksAndScores:
    """tensors: named after their weights; keys: where in the file they were; notes: for a person to read."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def is_training_state(name: str) -> bool:
    return bool(_TRAINING_STATE.fullmatch(name))


def is_record(key: str, value: Any) -> bool:
    """Whether a value beside a network is a record of its training and affects no output.

    A tensor is one under known names only, a number unless its name says that it affects outputs.
    """
    name = _leaf(key)
    if isinstance(value, Mapping) and "param_groups" in value:
        return True
    if is_training_state(name) and (not isinstance(value, Tensor) or _GENERATOR.fullmatch(name)):
        return True
    tensors = list(iter_tensors(value))
    if _affects_outputs(name) or (isinstance(value, Mapping) and not is_named_record(name) and
                                  any(_affects_outputs(str(inner)) for inner in value)):  # fmt: skip
        return False
    return not tensors or (all(tensor.dim() < 2 for tensor in tensors) and is_named_record(name))


def is_named_record(name: str) -> bool:
    return bool(_RECORD.fullmatch(name))


def is_record_among_tensors(name: str, value: Any) -> bool:
    """Whether a value among a network's own tensors is a record, which no tensor is."""
    if isinstance(value, Tensor | np.ndarray):
        return False
    return is_record(name, value) and (is_named_record(name) or is_training_state(name))


def are_masks_or_scores(key: str, value: Any) -> bool:
    """Whether a dictionary holds masks or scores: so named, or of zeros and ones only."""
    tensors = list(iter_tensors(value))
    named = bool(MASKS.fullmatch(_leaf(key))) or _leaf(key) in SCORES
    return any(tensor.dim() > 1 for tensor in tensors) and (named or all(map(is_mask, tensors)))


def masks_and_scores(beside: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> MasksAndScores:
    """Name the masks and scores beside a state dict after their weights: NAME_mask and LAYER.scores.

    Only dictionaries that are called so count: another one of zeros and ones may say what was removed, frozen
    or positive. Raises BadRequest where their weights are not clear.
    """
    result = MasksAndScores()
    for key, value in beside.items():
        kind = _leaf(key)
        are_masks = bool(MASKS.fullmatch(kind))
        tensors = list(iter_tensors(value))
        if not (are_masks and tensors) and not (kind in SCORES and any(t.dim() > 1 for t in tensors)):
            continue
        items = value.items() if isinstance(value, Mapping) else ()
        named = {_target(str(name), state, kind): tensor for name, tensor in items}
        if not are_masks:
            named = {n.removesuffix("weight") if n.endswith("weight") else "": t for n, t in named.items()}
        if not named or len(named) < len(items) or not all(
            name and isinstance(tensor, Tensor) for name, tensor in named.items()
        ):  # fmt: skip
            form = "NAME_mask beside NAME" if are_masks else f"LAYER.{kind} beside LAYER.weight"
            raise BadRequest(
                f"{path} holds {key} beside the network, {'masks' if are_masks else 'scores'} whose weights "
                f"cannot be told; store each as {form}"
            )
        result.tensors |= {f"{n}_mask" if are_masks else f"{n}{kind}": t for n, t in named.items()}
        result.keys.add(key)
        if are_masks:
            kept = sum(int(mask.count_nonzero()) for mask in named.values())
            share = kept / sum(mask.numel() for mask in named.values())
            result.notes.append(
                f"{key} beside the network: weights are 0 where it is 0, {share:.1%} are kept"
            )
    return result


def normalisation_constants(beside: Mapping[str, Any], skip: Collection[str]) -> dict[str, Tensor]:
    """Find means with deviations beside a network, also in nested settings of the training, by dotted names.

    skip: keys of dictionaries that are networks themselves.
    """
    values = dict(_flattened(beside, skip))
    found: dict[str, Tensor] = {}
    for pair in mean_std_pairs(list(values)):
        numbers = {name: as_tensor(_parse_numbers(values[name])) for name in pair}
        if not any(is_named_record(_leaf(name).rpartition("_")[0]) for name in pair):
            found |= {name: n for name, n in numbers.items() if n is not None and n.numel()}
    return {name: found[name] for pair in mean_std_pairs(list(found)) for name in pair}


def siblings_of(content: Any, chosen: str) -> dict[str, Any]:
    """Return what lies beside a network, and beside the dictionaries it lies in, by dotted keys."""
    siblings: dict[str, Any] = {}
    if isinstance(content, Mapping):
        for name, value in content.items():
            if str(name) != chosen and not chosen.startswith(f"{name}."):
                siblings[str(name)] = value
            elif str(name) != chosen:
                inner = siblings_of(value, chosen[len(str(name)) + 1 :])
                siblings |= {f"{name}.{key}": sibling for key, sibling in inner.items()}
    return siblings


def _flattened(node: Any, skip: Collection[str], key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested dictionaries and namespaces."""
    if isinstance(node, argparse.Namespace):
        node = vars(node)
    if isinstance(node, list | tuple) and any(isinstance(element, Mapping) for element in node):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        yield key, node
    elif "param_groups" not in node and key not in skip:
        for name, value in node.items():
            yield from _flattened(value, skip, f"{key}.{name}" if key else str(name))


def _parse_numbers(value: Any) -> Any:
    """Return the numbers of a text, None where it is no list of numbers; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return [float(number) for number in re.split(r"[\s,/+]+", value.strip("[]() "))]
    except ValueError:
        return None


def _affects_outputs(name: str) -> bool:
    match = _AFFECTS_OUTPUTS.fullmatch(name)
    return match is not None and not is_named_record(match["of"] or "")


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _target(name: str, state: Mapping[str, Tensor], kind: str) -> str:
    """Return the weight that a separate mask or score goes with, '' where that is not clear."""
    plain = name.removesuffix("_mask").removesuffix(".mask").removesuffix(f".{kind}")
    forms = {
        plain,
        f"{plain}.weight",
        f"module.{plain}",
        f"module.{plain}.weight",
        plain.removeprefix("module."),
    }
    targets = [form for form in forms if form in state]
    return targets[0] if len(targets) == 1 else ""
