"""The best probabilities for the members of a switch, fitted on held-out training images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Generator

from ..attacks import parse_attack
from ..attacks.best_weights import best_switch_weights
from ..data import Images
from ..errors import BadFile, BadRequest
from ..files import write_whole
from ..models.frozen import frozen_eval
from ..models.wrapper import EvalModel, wrap_switch
from ..threat import Threat
from ..tickets.switch import Switch
from ..training.epochs import hold_out
from .build import Builder

ATTACK = "joint"
ROUNDS = 10
MOST = 500  # held-out images are enough for a handful of probabilities


def fitted(entry: EvalModel, shop: Builder, folder: Path) -> EvalModel:
    """The switch with the probabilities that lost least on held-out training images of its members' recipe,
    within the recipe's threat, whatever it is attacked with later.

    `folder/<digest of the equal switch>.json` holds the fit; where it is there it is read.
    Raises BadRequest where a member's recipe is not known, BadFile for a file of another fit.
    """
    recipe = entry.recipe
    if recipe is None or not all(member.recipe for member in entry.members):
        raise BadRequest(f"{entry.info.name}: best weights want members whose training images are known")
    held = _held_out(recipe.data, recipe.seed, shop)
    asked = {
        "members": [member.digest for member in entry.members],
        "data": recipe.data,
        "images": len(held),
        "threat": recipe.threat,
        "attack": ATTACK,
        "seed": recipe.seed,
    }
    path = folder / f"{entry.digest[:16]}.json"
    weights = _read(path, asked) if path.exists() else _fit(entry, held, asked, shop, path)
    made = Switch([member.module for member in entry.members], weights)
    chosen = wrap_switch(entry.members, entry.info.name, made)
    return replace(chosen, info=replace(chosen.info, family=entry.info.family))


def _held_out(data: str, seed: int, shop: Builder) -> Images:
    """Never test images, whatever an epoch was selected on."""
    learning, own = shop.images(data)
    shop.tell()
    held = own if own is not None else hold_out(learning, seed)[1]
    return held.first(min(MOST, len(held)))


def _fit(entry: EvalModel, held: Images, asked: Mapping[str, Any], shop: Builder, path: Path) -> list[float]:
    shop.progress.note(
        f"{entry.info.name}: fitting its weights on {len(held)} held-out training images at {asked['threat']}"
    )
    x, y = (part.to(shop.device) for part in held.at(slice(None)))
    modules = [member.module for member in entry.members]
    generator = Generator().manual_seed(asked["seed"])
    threat, attack = Threat.parse(asked["threat"]), parse_attack(ATTACK)[1]
    with ExitStack() as rest:
        for module in modules:
            rest.enter_context(frozen_eval(module, shop.device))
        odds = best_switch_weights(modules, x, y, threat, attack, generator, rounds=ROUNDS)
    write_whole(path, (json.dumps({**asked, **asdict(odds)}, indent=1) + "\n").encode())
    return list(odds.weights)


def _read(path: Path, asked: Mapping[str, Any]) -> list[float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {key: found[key] for key in asked} != dict(asked):
            raise ValueError("it was fitted to something else")
        weights = [float(weight) for weight in found["weights"]]
        if weights not in [tried for tried, _ in found["tried"]] or len(weights) != len(asked["members"]):
            raise ValueError("its weights are none of those that were tried")
        return weights
    except (ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{path} is no fit of this switch ({error}); delete it") from error
