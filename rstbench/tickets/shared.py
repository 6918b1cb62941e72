"""A switch whose tickets share their random network in memory and differ by masks and norm statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import BadRequest
from .mask import masked
from .networks import build
from .switch import Switch
from .ticket import Ticket, scaled_weights


def shared_switch(
    tickets: Sequence[Ticket], weights: Sequence[float] | None = None, seed: int = 0, per: str = "image"
) -> Switch:
    """The random switch between these tickets, see `Switch`: same logits, one dense network in memory, and a
    byte a weight for each ticket.

    Raises BadRequest for tickets of different random networks.
    """
    if len({ticket.random_digest for ticket in tickets}) > 1 or len({ticket.spec for ticket in tickets}) > 1:
        raise BadRequest("the tickets of a switch share one random network; these come from several")
    if not tickets:
        raise BadRequest("a switch needs at least two members, got 0")
    net = build(tickets[0].spec)
    net.load_state_dict({**net.state_dict(), **tickets[0].random_network()})
    net.requires_grad_(False).eval()
    return Switch([_Masked(net, ticket) for ticket in tickets], weights, seed, per)


class _Masked(nn.Module):
    """A ticket over a network that it shares with others."""

    def __init__(self, net: nn.Module, ticket: Ticket) -> None:
        super().__init__()
        self.net = net
        self.recipe, self.remaining = ticket.recipe, ticket.remaining
        self.own = dict.fromkeys([*ticket.masks, *ticket.buffers], "")
        for place, (name, tensor) in enumerate([*ticket.masks.items(), *ticket.buffers.items()]):
            self.own[name] = f"own{place}"  # names of buffers hold no dots
            self.register_buffer(self.own[name], tensor.clone())

    def forward(self, x: Tensor) -> Tensor:
        own = {name: getattr(self, place) for name, place in self.own.items()}
        masks = {name: tensor for name, tensor in own.items() if tensor.dtype == torch.bool}
        random = {name: self.net.get_parameter(name) for name in masks}
        used = scaled_weights(random, self.recipe, self.remaining)
        weights = {name: masked(used[name], mask) for name, mask in masks.items()}
        logits: Tensor = functional_call(self.net, {**own, **weights}, (x,))
        return logits
