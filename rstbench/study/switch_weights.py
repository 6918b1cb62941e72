"""Fit the probabilities of the members of a switch on held-out training images."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from ..attacks import Attack, AttackSpec, Crafted
from ..attacks.best_weights import best_switch_weights, count_attacks
from ..attacks.mixture import FastModel, Model
from ..data import Images
from ..errors import BadFile, BadRequest
from ..evaluation.copies import plan_of
from ..evaluation.counting import PassCounter
from ..evidence.shard_reports import READ_SECONDS
from ..evidence.trial import EXACT, FAST
from ..files import write_whole
from ..limits import read_text
from ..models.frozen import frozen_eval
from ..models.wrapper import EvalModel, wrap_switch
from ..parsing import parse_json
from ..progress import ShardReport, Stage, StageReport, listening
from ..threat import Threat
from ..tickets.switch import Switch
from ..training.epochs import hold_out
from .build import Builder

ATTACK = "joint"
ROUNDS = 10
MOST_IMAGES = 500  # held-out images are enough for a handful of probabilities


def fit_weights(switch: EvalModel, builder: Builder, folder: Path, crafting: str = EXACT) -> EvalModel:
    """Return the switch with the probabilities of lowest expected error on held-out training images of its
    members' recipe, within the recipe's threat, whatever it is attacked with later.

    `folder/<digest of the equal switch>.json` holds the fit, one of fast crafting `…-fast.json`; where it is
    there it is read. An exact fit serves fast crafting too.
    Raises BadRequest where a member's recipe is not known, BadFile for a file of another fit.
    """
    recipe = switch.recipe
    if recipe is None or not all(member.recipe for member in switch.members):
        raise BadRequest(f"{switch.info.name}: best weights want members whose training images are known")
    held_out = _held_out(recipe.data, recipe.seed, builder)
    problem = {
        "members": [member.digest for member in switch.members],
        "data": recipe.data,
        "images": len(held_out),
        "threat": recipe.threat,
        "attack": ATTACK,
        "seed": recipe.seed,
    }
    path = folder / f"{switch.digest[:16]}.json"
    if crafting == FAST and not path.exists():
        path, problem = path.with_stem(f"{path.stem}-{FAST}"), {**problem, "crafting": FAST}
    weights = _read(path, problem) if path.exists() else _fit(switch, held_out, problem, builder, path)
    module = Switch([member.module for member in switch.members], weights)
    fitted = wrap_switch(switch.members, switch.info.name, module)
    return replace(fitted, info=replace(fitted.info, family=switch.info.family))


def _held_out(data: str, seed: int, builder: Builder) -> Images:
    """Return images that are never test images, whatever an epoch was selected on."""
    train, validation = builder.images(data)
    builder.report_images()
    images = validation if validation is not None else hold_out(train, seed)[1]
    return images.first(min(MOST_IMAGES, len(images)))


def _fit(
    switch: EvalModel, images: Images, problem: Mapping[str, Any], builder: Builder, path: Path
) -> list[float]:
    builder.progress.note(
        f"{switch.info.name}: fitting its weights on {len(images)} held-out training images at "
        f"{problem['threat']}"
    )
    x, y = (part.to(builder.device) for part in images.at(slice(None)))
    modules = [member.module for member in switch.members]
    generator = Generator().manual_seed(problem["seed"])
    threat, attack = Threat.parse(problem["threat"]), AttackSpec.parse(ATTACK).attack
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(frozen_eval(module, builder.device))
        fast, copy = _copies(switch, x) if "crafting" in problem else (None, {})
        attacks = count_attacks(len(modules), ROUNDS)
        stage = stack.enter_context(builder.progress.stage(f"fit {switch.info.name}", attacks, "attack"))
        fit = best_switch_weights(
            fast or modules,
            x,
            y,
            threat,
            _watched(attack, switch.info.name, stage),
            generator,
            rounds=ROUNDS,
            on_attack=lambda robust: stage.advance(1, robust=robust),
        )
    write_whole(path, (json.dumps({**problem, **asdict(fit), **copy}, indent=1) + "\n").encode())
    return list(fit.weights)


def _watched(attack: Attack, name: str, stage: Stage) -> Attack:
    """Return the attack, which tells the stage every second where it is."""

    def watched(model: Model, x: Tensor, y: Tensor, threat: Threat, generator: Generator) -> Crafted:
        began = time.time()

        def tell(report: StageReport) -> None:
            stage.inside([ShardReport(name, 0, len(x), began, time.time(), os.getpid(), report)])

        with listening(tell, READ_SECONDS):
            return attack(model, x, y, threat, generator)

    return watched


def _copies(switch: EvalModel, x: Tensor) -> tuple[Sequence[FastModel], dict[str, Any]]:
    """Return copies of the members that are crafted against, and what the file of the fit says of them."""
    plans = {member.digest: plan_of(member, x, x.device) for member in switch.members}
    copy = {"copy": {digest: plan.as_plain() for digest, plan in plans.items()}}
    return PassCounter().counted(switch, x, plans).members, copy


def _read(path: Path, problem: Mapping[str, Any]) -> list[float]:
    try:
        fit = parse_json(read_text(path))
        if {key: fit[key] for key in problem} != dict(problem):
            raise ValueError("it was fitted to something else")
        weights = [float(weight) for weight in fit["weights"]]
        if weights not in [tried for tried, _ in fit["tried"]] or len(weights) != len(problem["members"]):
            raise ValueError("its weights are none of those that were tried")
        return weights
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFile(f"{path} is no fit of this switch ({error}); delete it") from error
