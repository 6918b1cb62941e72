"""Train weights: dense baselines, natural or adversarial, and tickets under their fixed masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadFile, BadRequest, typed_line
from ..networks.network import NetworkSpec, build, prunable
from ..networks.subnormals import flush_to_zero
from ..training.epochs import Epoch, EpochCallback, TrainSplit, fit, kept_epoch
from ..training.recipe import Recipe
from .init import random_weights
from .mask import apply_masks, register_masks, unparametrized_state
from .safetensors_io import DAMAGE, read_safetensors, write_safetensors
from .seeds import REINITIALISED
from .ticket import Ticket, scale_weights

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
        """Return the network: torch classes only, parameters frozen and contiguous, eval mode."""
        net = build(self.spec)
        net.load_state_dict(self.state)
        return net.requires_grad_(False).eval()

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        about = {
            "recipe": asdict(self.recipe),
            "spec": self.spec.to_dict(),
            "remaining": self.remaining,
            "kept_weights": self.kept_weights,
            "total_weights": self.total_weights,
            "facts": dict(self.facts),
        }
        write_safetensors(path, FORMAT, about, self.state)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint of this tool. Raises BadFile for anything else."""
        about, state = read_safetensors(path, FORMAT, "checkpoint")
        try:
            checkpoint = cls(
                Recipe.from_dict(about["recipe"]),
                NetworkSpec.from_dict(about["spec"]),
                about["remaining"],
                state,
                about["kept_weights"],
                about["total_weights"],
                about["facts"],
            )
            checkpoint.module()
        except (*DAMAGE, BadRequest) as error:
            raise BadFile(f"{path} is a damaged checkpoint: {typed_line(error)}") from error
        return checkpoint


def train(
    spec: NetworkSpec,
    split: TrainSplit,
    recipe: Recipe,
    *,
    ticket: Ticket | None = None,
    device: str | torch.device = "cpu",
    on_epoch: EpochCallback = lambda epoch: None,
    resume_file: Path | None = None,
) -> tuple[Checkpoint, list[Epoch]]:
    """Train all weights of a random network, or those a ticket keeps, under its fixed masks.

    With a ticket, recipe.weights says what its weights begin as: 'inherit' (as they are), 'reinit'
    (fresh ones of the same initialisation, scaled where the ticket's are), 'reinit-kaiming' (Kaiming normal,
    as the paper's code does, which also changes the family). Norm statistics begin as the ticket's.
    Raises ModelFault where the loss diverges.
    """
    net = build(spec)
    buffers = ticket.buffers if ticket else {}
    net.load_state_dict({**net.state_dict(), **_initial_weights(net, recipe, ticket), **buffers})
    net.to(device)
    masks = ticket.masks if ticket else {}
    register_masks(net, masks)
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    history = fit(net, parameters, split, recipe, on_epoch, resume_file=resume_file)
    total = sum(weight.numel() for weight in prunable(net).values())
    checkpoint = Checkpoint(
        recipe=recipe,
        spec=spec,
        remaining=ticket.remaining if ticket else "1",
        state=flush_to_zero(apply_masks(unparametrized_state(net, spec), masks)),
        kept_weights=ticket.kept_weights if ticket else total,
        total_weights=total,
        facts={"kept_epoch": asdict(kept_epoch(history, recipe)), "on_test": split.on_test},
    )
    return checkpoint, history


def _initial_weights(net: nn.Module, recipe: Recipe, ticket: Ticket | None) -> dict[str, Tensor]:
    if ticket and recipe.weights == "inherit":
        return scale_weights(ticket.random_network(), ticket.recipe, ticket.remaining)
    kind = "kaiming_normal" if recipe.weights == "reinit-kaiming" else recipe.init
    # A reinitialised ticket must not find its own weights again under the same seed.
    seed = recipe.seed + REINITIALISED if ticket else recipe.seed
    weights = random_weights(prunable(net), kind, seed)
    return scale_weights(weights, ticket.recipe, ticket.remaining) if ticket else weights
