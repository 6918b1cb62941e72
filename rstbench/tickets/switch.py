"""Switch at random between networks (R2S): each image is answered by one member, drawn at random.

Source: Fu et al., NeurIPS 2021. The member is drawn anew for each image or batch (`per`) from the switch's
own generator; how it is drawn is in `Switch.forward`. Evaluations do not sample: `members` and `weights` give
exact expectations.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from ..errors import BadRequest
from ..networks.network import build
from .mask import apply_masks
from .ticket import Ticket, scale_weights


class Switch(nn.Module):
    """The random switch R2S: each image is answered by one member, drawn at random for each call.

    Whoever measures a switch should not sample: `members` and `weights` allow exact expectations.

    Source: Fu et al., "Drawing Robust Scratch Tickets", NeurIPS 2021.

    Args:
        members: At least two networks with the same classes.
        weights: Their probabilities, which add to 1; uniform by default.
        seed: Of the switch's own generator.
        per: 'image' draws for each image, 'batch' once for each batch.

    Raises:
        BadRequest: For fewer than two members, or weights that are no probabilities.

    Example:
        >>> import rstbench, torch
        >>> from torch import nn
        >>> switch = rstbench.Switch([nn.Flatten(), nn.Flatten()], weights=[0.2, 0.8], per="batch")
        >>> switch(torch.zeros(5, 1, 2, 5)).shape
        torch.Size([5, 10])
    """

    weights: tuple[float, ...]

    def __init__(
        self,
        members: Sequence[nn.Module],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        per: str = "image",
    ) -> None:
        super().__init__()
        if len(members) < 2:
            raise BadRequest(f"a switch needs at least two members, got {len(members)}")
        probabilities = [1 / len(members)] * len(members) if weights is None else [float(w) for w in weights]
        valid = len(probabilities) == len(members) and min(probabilities) >= 0
        if not valid or not abs(sum(probabilities) - 1) <= 1e-6:
            raise BadRequest(
                f"a switch of {len(members)} wants as many probabilities that add to 1, got {probabilities}"
            )
        if per not in ("image", "batch"):
            raise BadRequest(f"a switch draws per image or per batch, got {per!r}")
        self.per = per
        self.members = nn.ModuleList(members)
        self.weights = tuple(probabilities)
        self.generator = Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Answer each image by the member of its draw.

        Args:
            x: Images (n, c, h, w) in [0, 1].

        Returns:
            Logits (n, classes).
        """
        if len(x) == 0:
            empty: Tensor = self.members[0](x)
            return empty
        draws = len(x) if self.per == "image" else 1
        drawn = torch.multinomial(
            torch.tensor(self.weights), draws, replacement=True, generator=self.generator
        ).expand(len(x))
        images = {int(index): (drawn == index).to(x.device) for index in set(drawn.tolist())}
        answers = {index: self.members[index](x[mask]) for index, mask in images.items()}
        first = next(iter(answers.values()))
        logits: Tensor = first.new_zeros(len(x), first.shape[1])
        for index, answer in answers.items():
            logits[images[index]] = answer
        return logits


def shared_switch(
    tickets: Sequence[Ticket], weights: Sequence[float] | None = None, seed: int = 0, per: str = "image"
) -> Switch:
    """Make the random switch between tickets of one random network.

    The logits are those of `Switch` over the tickets' modules; in memory are one dense network and a byte a
    weight for each ticket.

    Args:
        tickets: At least two tickets drawn from the same random network.
        weights: Their probabilities; uniform by default.
        seed: Of the switch's own generator.
        per: 'image' or 'batch', see `Switch`.

    Returns:
        The switch, in eval mode.

    Raises:
        BadRequest: For tickets of different random networks, or fewer than two.

    Example:
        >>> import rstbench
        >>> settings = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 1}
        >>> tickets = [rstbench.draw(remaining, **settings) for remaining in (0.2, 0.5)]
        >>> switch = rstbench.shared_switch(tickets)
        >>> switch.weights
        (0.5, 0.5)
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
    """Apply a ticket's masks to a network that other tickets share.

    The name of the class and of its attributes are part of the digests of models: they do not change.
    """

    def __init__(self, net: nn.Module, ticket: Ticket) -> None:
        super().__init__()
        self.net = net
        self.recipe, self.remaining = ticket.recipe, ticket.remaining
        self.own = dict.fromkeys([*ticket.masks, *ticket.buffers], "")
        for index, (name, tensor) in enumerate([*ticket.masks.items(), *ticket.buffers.items()]):
            self.own[name] = f"own{index}"  # names of buffers hold no dots
            self.register_buffer(self.own[name], tensor.clone())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.net, self._tensors(), (x,))
        return logits

    def plain(self) -> nn.Module:
        """Return a network of its own with these masks applied, for code that reads layers."""
        net = copy.deepcopy(self.net)
        net.load_state_dict({**net.state_dict(), **self._tensors()})
        return net.eval()

    def _tensors(self) -> dict[str, Tensor]:
        """Return what differs from the shared network, masked weights and buffers, by their names there."""
        own = {name: getattr(self, attribute) for name, attribute in self.own.items()}
        masks = {name: tensor for name, tensor in own.items() if tensor.dtype == torch.bool}
        random_weights = {name: self.net.get_parameter(name) for name in masks}
        return own | apply_masks(scale_weights(random_weights, self.recipe, self.remaining), masks)


SharedMember = _Masked  # for others; its own name is in digests
