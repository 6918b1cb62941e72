"""A ticket: a recipe, a random network, and one bit a weight. Its file and its export.

The file is safetensors: packed masks, norm buffers, the random weights unless a seed regenerates
them bit by bit, and one JSON text with the recipe and the digest of the random weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BadFile, BadRequest
from ..files import write_whole
from ..networks.network import NetworkSpec, build, prunable
from ..training.recipe import Recipe
from .allocation import allocate
from .init import random_weights, seed_is_enough, weights_digest
from .mask import masked, parse_remaining

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
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def total_weights(self) -> int:
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def unlearnt(self) -> bool:
        """Whether a search ended with the random mask it began at, in every layer that had a choice."""
        chosen = [name for name, mask in self.masks.items() if not bool(mask.all())]
        return bool(chosen) and set(chosen) <= set(self.facts.get("unmoved", ()))

    @property
    def digest(self) -> str:
        """Identity of the random network and of what is kept of it."""
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
        weights = scaled_weights(self.random_network(), self.recipe, self.remaining)
        state = net.state_dict()
        state.update({name: masked(weights[name], mask).contiguous() for name, mask in self.masks.items()})
        state.update(self.buffers)
        net.load_state_dict(state)
        return net.requires_grad_(False).eval()

    def save(self, path: str | Path) -> None:
        """Write the ticket file, whole or not at all; equal tickets give equal bytes.

        Args:
            path: A file that ends in `.safetensors`.
        """
        from safetensors.torch import save

        tensors = {f"mask/{name}": _pack(mask) for name, mask in self.masks.items()}
        tensors |= {f"buffer/{name}": buffer.cpu().contiguous() for name, buffer in self.buffers.items()}
        tensors |= {
            f"weight/{name}": weight.cpu().contiguous() for name, weight in (self.weights or {}).items()
        }
        about = {
            "format": FORMAT,
            "content": weights_digest(tensors),
            "recipe": asdict(self.recipe),
            "spec": self.spec.plain(),
            "remaining": self.remaining,
            "random_digest": self.random_digest,
            "facts": dict(self.facts),
        }
        # One metadata key only: safetensors writes several in no fixed order.
        write_whole(Path(path), save(tensors, {"rstbench": json.dumps(about, sort_keys=True)}))

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
            plain = about["spec"]
            spec = NetworkSpec(**{**plain, "shape": tuple(plain["shape"])})
            like = prunable(build(spec))
            masks = {name: _unpack(tensors[f"mask/{name}"], weight) for name, weight in like.items()}
            weights = {name: tensors[f"weight/{name}"] for name in like if f"weight/{name}" in tensors}
            ticket = cls(
                Recipe.of(about["recipe"]),
                spec,
                about["remaining"],
                masks,
                {key[7:]: tensor for key, tensor in tensors.items() if key.startswith("buffer/")},
                about["random_digest"],
                weights or None,
                about["facts"],
            )
            ticket.check_counts()
            ticket.random_network()
        except (KeyError, TypeError, ValueError) as error:
            raise BadFile(f"{path} is a damaged ticket: {error!r}") from error
        except BadRequest as error:
            raise BadFile(f"{path}: {error}") from error
        return ticket

    def check_counts(self) -> None:
        """Raises BadFile where a layer keeps another number of weights than the recipe says."""
        shapes = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        slots = allocate(shapes, parse_remaining(self.remaining), self.recipe)
        wanted = {n: slots[n].kept_weights if n in slots else mask.numel() for n, mask in self.masks.items()}
        found = {name: int(mask.sum()) for name, mask in self.masks.items()}
        if self.recipe.allocation == "global":  # what is shared among the layers are units
            size = {name: slot.kept_weights // slot.kept for name, slot in slots.items()}
            wanted = {"it": sum(count // size.get(name, 1) for name, count in wanted.items())}
            found = {"it": sum(count // size.get(name, 1) for name, count in found.items())}
        for name, count in found.items():
            if count != wanted[name]:
                raise BadFile(f"damaged: {name} keeps {count} weights, its recipe says {wanted[name]}")


def found_ticket(
    spec: NetworkSpec,
    net: nn.Module,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    remaining: str,
    recipe: Recipe,
    facts: Mapping[str, Any],
    *,
    store_weights: bool | None = True,
) -> Ticket:
    """The ticket that a method has found: `masks` over `weights`, all else as it is in `net`.

    Layers without a mask stay dense. Weights that a seed regenerates are not stored, others are unless
    the user declined (`store_weights`); None for weights that are not those of the seed.
    """
    full = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
    full |= {name: mask.cpu() for name, mask in masks.items()}
    state = net.state_dict()
    from_seed = seed_is_enough(recipe.init) and not recipe.origin and store_weights is not None
    rest = [name for name in build(spec).state_dict() if name not in weights]
    return Ticket(
        recipe=recipe,
        spec=spec,
        remaining=remaining,
        masks=full,
        buffers={name: state[name].detach().cpu().clone() for name in rest},
        random_digest=weights_digest(weights),
        weights=None if from_seed or store_weights is False else dict(weights),
        facts={**facts, "dense": [name for name in weights if name not in masks]},
    )


def scaled_weights(weights: Mapping[str, Tensor], recipe: Recipe, remaining: str) -> dict[str, Tensor]:
    """The weights as the ticket uses them: with `scale`, as if drawn for the kept fan in.

    The right sense: sqrt(2 / (k fan_in)) is the random weight times 1/sqrt(k). The RST code multiplies
    the fan in by 1 - k.
    """
    if not recipe.scale:
        return dict(weights)
    fraction = parse_remaining(remaining)
    slots = allocate({name: tuple(weight.shape) for name, weight in weights.items()}, fraction, recipe)
    kept = {name: slot.kept_weights / slot.weights for name, slot in slots.items()}
    if recipe.allocation == "uniform":
        kept = dict.fromkeys(slots, float(fraction))  # as written, whatever rounding does to a count
    return {name: weight / math.sqrt(kept.get(name, 1.0)) for name, weight in weights.items()}


def read_safetensors(path: Path, format: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(the JSON about it, the tensors) of one of this tool's files. Raises BadFile."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadFile(f"no {what} file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = json.loads(metadata.get("rstbench", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise BadFile(f"{path} is no whole safetensors file: {error}") from None
    if not isinstance(about, dict) or about.get("format") != format:
        found = about.get("format") if isinstance(about, dict) else None
        raise BadFile(f"{path} holds no {what} of this tool" + (f", but {found}" if found else ""))
    if about.get("content") != weights_digest(tensors):
        raise BadFile(f"{path} is damaged: its content does not match its digest")
    return about, tensors


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def _unpack(packed: Tensor, like: Tensor) -> Tensor:
    bits = np.unpackbits(packed.numpy(), count=like.numel())
    return torch.from_numpy(bits.astype(bool)).view(like.shape)
