"""Define a ticket, its file, and its export: a recipe, a random network, and one bit a weight.

The file is safetensors: packed masks, norm buffers, the random weights unless a seed regenerates
them bit by bit, and one JSON text with the recipe and the digest of the random weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BadFile, BadRequest, typed_line
from ..networks.network import NetworkSpec, build, prunable
from ..training.recipe import Recipe
from .allocation import allocate
from .init import random_weights, weights_digest
from .mask import apply_masks, parse_remaining
from .safetensors_io import DAMAGE, read_safetensors, write_safetensors

FORMAT = "rstbench-ticket-1"


@dataclass(frozen=True)
class Ticket:
    """A ticket: a random network, and one bit a weight that says which are kept.

    Args:
        recipe: Every setting that decided it.
        spec: The network without its weights.
        remaining: Fraction of the weights that is kept, as it was written ('0.1').
        masks: For each weight, by state-dict name, a bool tensor of its shape.
        buffers: By state-dict name, all that no mask chooses from: norm statistics, affine parameters,
            biases.
        random_digest: sha256 of the random network's weights.
        weights: The random weights, or None where the seed regenerates them.
        facts: What was measured while it was drawn, on held-out training images.

    Example:
        >>> import rstbench
        >>> ticket = rstbench.draw(0.2, network="conv2", width=0.1, data="digits:train:128", epochs=1)
        >>> x, y = rstbench.load_data("digits:test:10").at(slice(None))
        >>> ticket.module()(x).shape
        torch.Size([10, 10])
        >>> ticket.kept_weights < 0.21 * ticket.total_weights
        True
    """

    recipe: Recipe
    spec: NetworkSpec
    remaining: str
    masks: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    random_digest: str
    weights: Mapping[str, Tensor] | None
    facts: Mapping[str, Any]

    @property
    def kept_weights(self) -> int:
        """Return the number of weights that stay."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def total_weights(self) -> int:
        """Return the number of weights the masks choose among."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def unlearnt(self) -> bool:
        """Return whether a search ended with the random mask it began at, in every layer that is sparse."""
        sparse = [name for name, mask in self.masks.items() if not bool(mask.all())]
        return bool(sparse) and set(sparse) <= set(self.facts.get("unmoved", ()))

    @property
    def digest(self) -> str:
        """Return the sha256 of the random network and the masks."""
        return weights_digest({**self.masks, self.random_digest: torch.zeros(0)})

    def random_network(self) -> dict[str, Tensor]:
        """Give the weights of the random network that the ticket was found in.

        Returns:
            The weights by state-dict name, float32 on the CPU.

        Raises:
            BadFile: Where they are not the ones it was drawn from.
        """
        weights = self.weights or random_weights(
            prunable(build(self.spec)), self.recipe.init, self.recipe.seed
        )
        if weights_digest(weights) != self.random_digest:
            raise BadFile(
                "the ticket's random weights do not match their digest: its file was changed, or its "
                "seed gives other weights here; draw it again, or ask for a file that stores them"
            )
        return dict(weights)

    def module(self) -> nn.Module:
        """Build the ticket as an ordinary network.

        Returns:
            A module of torch classes with the dense network's state-dict keys: dropped weights are +0.0,
            parameters are frozen and contiguous, and it is in eval mode. It maps images in [0, 1] to logits.

        Raises:
            BadFile: Where the random weights do not match their digest.
        """
        net = build(self.spec)
        weights = scale_weights(self.random_network(), self.recipe, self.remaining)
        net.load_state_dict({**net.state_dict(), **apply_masks(weights, self.masks), **self.buffers})
        return net.requires_grad_(False).eval()

    def save(self, path: str | Path) -> None:
        """Write the ticket file, whole or not at all; equal tickets give equal bytes.

        Args:
            path: A file that ends in `.safetensors`.
        """
        tensors = {f"mask/{name}": _pack(mask) for name, mask in self.masks.items()}
        tensors |= {f"buffer/{name}": buffer.cpu().contiguous() for name, buffer in self.buffers.items()}
        tensors |= {
            f"weight/{name}": weight.cpu().contiguous() for name, weight in (self.weights or {}).items()
        }
        about = {
            "recipe": asdict(self.recipe),
            "spec": self.spec.to_dict(),
            "remaining": self.remaining,
            "random_digest": self.random_digest,
            "facts": dict(self.facts),
        }
        write_safetensors(Path(path), FORMAT, about, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Ticket:
        """Read a ticket file.

        Args:
            path: What `save` or the command line wrote.

        Returns:
            The ticket.

        Raises:
            BadFile: For a missing, truncated or different file.
        """
        path = Path(path)
        about, tensors = read_safetensors(path, FORMAT, "ticket")
        try:
            spec = NetworkSpec.from_dict(about["spec"])
            with torch.device("meta"):
                like = prunable(build(spec))
            masks = {name: _unpack(tensors[f"mask/{name}"], weight) for name, weight in like.items()}
            weights = {name: tensors[f"weight/{name}"] for name in like if f"weight/{name}" in tensors}
            ticket = cls(
                Recipe.from_dict(about["recipe"]),
                spec,
                about["remaining"],
                masks,
                {key[len("buffer/") :]: t for key, t in tensors.items() if key.startswith("buffer/")},
                about["random_digest"],
                weights or None,
                about["facts"],
            )
            ticket.check_counts()
            ticket.random_network()
        except BadRequest as error:
            raise BadFile(f"{path}: {error}") from error
        except DAMAGE as error:
            raise BadFile(f"{path} is a damaged ticket: {typed_line(error)}") from error
        return ticket

    def check_counts(self) -> None:
        """Raise BadFile where a layer keeps another number of weights than the recipe says."""
        shapes = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        budgets = allocate(shapes, parse_remaining(self.remaining), self.recipe)
        expected = {
            name: budgets[name].kept_weights if name in budgets else mask.numel()
            for name, mask in self.masks.items()
        }
        kept = {name: int(mask.sum()) for name, mask in self.masks.items()}
        if self.recipe.allocation == "global":  # what is shared among the layers are units
            unit = {name: budget.kept_weights // budget.kept for name, budget in budgets.items()}
            expected = {"it": sum(count // unit.get(name, 1) for name, count in expected.items())}
            kept = {"it": sum(count // unit.get(name, 1) for name, count in kept.items())}
        for name, count in kept.items():
            if count != expected[name]:
                raise BadFile(f"damaged: {name} keeps {count} weights, its recipe says {expected[name]}")


def scale_weights(weights: Mapping[str, Tensor], recipe: Recipe, remaining: str) -> dict[str, Tensor]:
    """Return the weights as the ticket uses them: with `scale`, as if drawn for the kept fan in.

    The right sense: sqrt(2 / (k fan_in)) is the random weight times 1/sqrt(k). The RST code multiplies
    the fan in by 1 - k.
    """
    if not recipe.scale:
        return dict(weights)
    fraction = parse_remaining(remaining)
    budgets = allocate({name: tuple(weight.shape) for name, weight in weights.items()}, fraction, recipe)
    kept = {name: budget.kept_weights / budget.weights for name, budget in budgets.items()}
    if recipe.allocation == "uniform":
        kept = dict.fromkeys(budgets, float(fraction))  # as written, whatever rounding does to a count
    return {name: weight / math.sqrt(kept.get(name, 1.0)) for name, weight in weights.items()}


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def _unpack(packed: Tensor, like: Tensor) -> Tensor:
    if packed.dtype != torch.uint8 or packed.shape != ((like.numel() + 7) // 8,):
        raise ValueError(f"a mask of {packed.dtype} {tuple(packed.shape)} for weights {tuple(like.shape)}")
    bits = np.unpackbits(packed.numpy(), count=like.numel())
    return torch.from_numpy(bits.astype(bool)).view(like.shape)
