"""Training weights: dense baselines, natural or adversarial, and tickets with their mask fixed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadFile, BadRequest
from ..files import write_whole
from ..networks.network import NetworkSpec, build, prunable
from ..training.epochs import Epoch, EpochCallback, TrainSplit, fit, kept_epoch
from ..training.recipe import Recipe
from .init import random_weights, weights_digest
from .mask import fix, masked, originals
from .ticket import Ticket, read_safetensors, scaled_weights

FORMAT = "rstbench-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: its recipe, its state dict, and how many of its weights are in use."""

    recipe: Recipe
    spec: NetworkSpec
    remaining: str  # '1' for a dense network
    state: Mapping[str, Tensor]
    kept_weights: int
    total_weights: int
    facts: Mapping[str, Any]

    def module(self) -> nn.Module:
        """The network, torch classes only, parameters frozen and contiguous, eval mode."""
        net = build(self.spec)
        net.load_state_dict(self.state)
        return net.requires_grad_(False).eval()

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        from safetensors.torch import save

        about = {
            "format": FORMAT,
            "content": weights_digest(self.state),
            "recipe": asdict(self.recipe),
            "spec": self.spec.plain(),
            "remaining": self.remaining,
            "kept_weights": self.kept_weights,
            "total_weights": self.total_weights,
            "facts": dict(self.facts),
        }
        write_whole(path, save(dict(self.state), {"rstbench": json.dumps(about, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Reads a checkpoint of this tool. Raises BadFile for anything else."""
        about, state = read_safetensors(path, FORMAT, "checkpoint")
        try:
            plain = about["spec"]
            checkpoint = cls(
                Recipe.of(about["recipe"]),
                NetworkSpec(**{**plain, "shape": tuple(plain["shape"])}),
                about["remaining"],
                state,
                about["kept_weights"],
                about["total_weights"],
                about["facts"],
            )
            checkpoint.module()
        except (KeyError, TypeError, RuntimeError, BadRequest) as error:
            raise BadFile(f"{path} is a damaged checkpoint: {str(error).splitlines()[0]}") from error
        return checkpoint


def train(
    spec: NetworkSpec,
    lesson: TrainSplit,
    recipe: Recipe,
    *,
    ticket: Ticket | None = None,
    device: str | torch.device = "cpu",
    watch: EpochCallback = lambda epoch: None,
    diary: Path | None = None,
) -> tuple[Checkpoint, list[Epoch]]:
    """Trains all weights of a random network, or those a ticket keeps, its mask fixed.

    With a ticket, recipe.weights says what its weights begin as: 'inherit' (as they are), 'reinit'
    (fresh ones of the same initialisation, scaled where the ticket's are), 'reinit-kaiming' (Kaiming normal,
    as the paper's code does, which also changes the family). Norm statistics begin as the ticket's.
    Raises ModelFault where the loss diverges.
    """
    net = build(spec)
    state = net.state_dict() | _start(net, recipe, ticket) | (dict(ticket.buffers) if ticket else {})
    net.load_state_dict(state)
    net.to(device)
    if ticket:
        fix(net, ticket.masks)
    learnt = [parameter for parameter in net.parameters() if parameter.requires_grad]
    history = fit(net, learnt, lesson, recipe, watch, diary=diary)
    total = sum(weight.numel() for weight in prunable(net).values())
    checkpoint = Checkpoint(
        recipe=recipe,
        spec=spec,
        remaining=ticket.remaining if ticket else "1",
        state=_plain_state(net, spec, ticket),
        kept_weights=ticket.kept_weights if ticket else total,
        total_weights=total,
        facts={"kept_epoch": asdict(kept_epoch(history, recipe)), "on_test": lesson.on_test},
    )
    return checkpoint, history


def _start(net: nn.Module, recipe: Recipe, ticket: Ticket | None) -> dict[str, Tensor]:
    if ticket and recipe.weights == "inherit":
        return scaled_weights(ticket.random_network(), ticket.recipe, ticket.remaining)
    kind = "kaiming_normal" if recipe.weights == "reinit-kaiming" else recipe.init
    # A reinitialised ticket must not find its own weights again under the same seed.
    seed = recipe.seed + 1_000 if ticket else recipe.seed
    fresh = random_weights(prunable(net), kind, seed)
    return scaled_weights(fresh, ticket.recipe, ticket.remaining) if ticket else fresh


def _plain_state(net: nn.Module, spec: NetworkSpec, ticket: Ticket | None) -> dict[str, Tensor]:
    """The state dict of the plain network: masks applied, no trace of the parametrization."""
    state, masks = originals(net, spec), ticket.masks if ticket else {}
    return {name: masked(w, masks[name]) if name in masks else w for name, w in state.items()}
