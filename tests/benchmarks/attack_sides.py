"""What the AutoAttack benchmark attacks, and who attacks it.

A work is a model with images, labels and a threat; a side is an attack on it that returns adversarial images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from published import Resorted
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from rstbench.attacks.autoattack import AutoAttack
from rstbench.attacks.autoattack.apgd import APGD
from rstbench.attacks.autoattack.engine import attack
from rstbench.attacks.autoattack.fab import FAB
from rstbench.attacks.autoattack.source import Source
from rstbench.attacks.autoattack.square import Square
from rstbench.data import load
from rstbench.models.fast_copy import crafting_copy, make_copy, plan_copy
from rstbench.models.normalise import normalised
from rstbench.models.wrapper import load_reference
from rstbench.threat import Threat
from rstbench.tickets.allocation import LayerBudget
from rstbench.tickets.ticket import Ticket

TICKET = "leaderboards/digits/tickets/rst-0.2-seed0.safetensors"


@dataclass(frozen=True)
class Work:
    """module: what is attacked, as users have it; x, y: images (n, c, h, w) and labels (n,)."""

    module: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat


def works(files: Mapping[str, Path], root: Path | None, device: str) -> dict[str, Callable[[], Work]]:
    """The works by name. files: 'small-cifar' and 'resnet18', which do not come with the project."""
    digits = "digits:test:100"

    def ticket(threat: str) -> Work:
        return _work(load_reference(f"ticket:{TICKET}").module, digits, threat, root, device)

    def cifar(module: nn.Module, count: int) -> Work:
        return _work(module, f"cifar10:test:{count}", "Linf:2/255", root, device)

    return {
        "digits": lambda: ticket("Linf:0.1"),
        "digits-l2": lambda: ticket("L2:0.5"),
        "digits-l1": lambda: ticket("L1:1"),
        "masked": lambda: _work(masked(Ticket.load(TICKET)), digits, "Linf:0.1", root, device),
        "small-cifar": lambda: cifar(normalised_cifar(files["small-cifar"]), 100),
        "resnet18": lambda: cifar(load_reference(f"ticket:{files['resnet18']}").module, 16),
    }


def _work(module: nn.Module, data: str, threat: str, root: Path | None, device: str) -> Work:
    x, y = (load(data, root) if root else load(data)).at(slice(None))
    module = module.eval().requires_grad_(False).to(device)
    return Work(module, x.to(device), y.to(device), Threat.parse(threat))


def masked(ticket: Ticket) -> nn.Module:
    """A ticket as the published code keeps it: random weights, and masks sorted anew at each forward."""
    net = ticket.module()
    net.load_state_dict({**net.state_dict(), **ticket.random_network()})
    for key, mask in ticket.masks.items():
        if not bool(mask.all()):
            budget = LayerBudget(tuple(mask.shape), tuple(mask.shape), int(mask.sum()))
            layer = net.get_submodule(key.removesuffix(".weight"))
            parametrize.register_parametrization(layer, "weight", Resorted(1.0 + mask, budget))
    return net


def normalised_cifar(path: Path) -> nn.Module:
    """An adversarially trained network of others, `cifar_cnn_a_adv.model` of alpha-beta-CROWN."""
    convolutions = nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()
    body = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))
    body.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    means, stds = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    text = "/".join("+".join(str(value / 255) for value in side) for side in (means, stds))
    return normalised(body, text)


class Copied:
    """A model behind its fast copy, and the seconds spent in either."""

    def __init__(self, work: Work) -> None:
        self.copy = make_copy(work.module, plan_copy(work.module, work.x), work.x)
        self.module, self.inside = work.module, 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return self._timed(self.copy, x)

    def exact_model(self, x: Tensor) -> Tensor:
        return self._timed(self.module, x)

    def _timed(self, net: nn.Module, x: Tensor) -> Tensor:
        began = time.perf_counter()
        logits = net(x)
        self.inside += time.perf_counter() - began
        return logits

    def count_backward(self) -> None:
        """Count what `torch.autograd.grad` takes as inside too, from now on."""
        grad = torch.autograd.grad

        def timed(*args, **options):
            began = time.perf_counter()
            found = grad(*args, **options)
            self.inside += time.perf_counter() - began
            return found

        torch.autograd.grad = timed


def fast(work: Work) -> tuple[Tensor, float]:
    """Ours, fast: with the choice and the making of the copy. Also the seconds inside the model."""
    model = Copied(work)
    model.count_backward()
    return AutoAttack()(model, work.x, work.y, work.threat, Generator().manual_seed(0)).images, model.inside


def fast_ten(work: Work) -> tuple[Tensor, float]:
    """Ours with ten steps of APGD and FAB, as torchattacks takes them."""
    model = Copied(work)
    model.count_backward()
    stages = {
        "apgd-ce": APGD("ce", 10),
        "apgd-t": APGD("dlr-targeted", 10, targets=9),
        "fab-t": FAB(targets=9, steps=10),
        "square": Square(),
    }
    source = Source(model, model.exact_model)
    return attack(source, work.x, work.y, work.threat, stages, 0).images, model.inside


def exact(work: Work) -> tuple[Tensor, float]:
    """Ours, exact: on the copy that differs by rounding, as for networks that this tool made."""
    copy = crafting_copy(work.module, work.x)
    return AutoAttack()(copy, work.x, work.y, work.threat, Generator().manual_seed(0)).images, 0.0


def library(work: Work) -> tuple[Tensor, float]:
    """pyautoattack on the module."""
    from pyautoattack import AutoAttack as Library

    options = {"norm": work.threat.norm, "eps": float(work.threat.eps), "seed": 0}
    attacker = Library(work.module, device=work.x.device, **options)
    return attacker.run_standard_evaluation(work.x, work.y, batch_size=len(work.x))[0], 0.0


def torchattacks_at(steps: int) -> Callable[[Work], tuple[Tensor, float]]:
    """torchattacks' AutoAttack; its own takes ten steps, for it passes no number on."""

    def side(work: Work) -> tuple[Tensor, float]:
        import torchattacks as theirs

        common = {"eps": float(work.threat.eps), "norm": work.threat.norm, "seed": 0}
        parts = [
            theirs.APGD(work.module, steps=steps, loss="ce", **common),
            theirs.APGDT(work.module, steps=steps, **common),
            theirs.FAB(work.module, steps=steps, multi_targeted=True, **common),
            theirs.Square(work.module, n_queries=5000, **common),
        ]
        return theirs.MultiAttack(parts)(work.x, work.y), 0.0

    return side


SIDES: Mapping[str, Callable[[Work], tuple[Tensor, float]]] = {
    "fast": fast,
    "fast-ten": fast_ten,
    "exact": exact,
    "pyautoattack": library,
    "torchattacks": torchattacks_at(100),
    "torchattacks-ten": torchattacks_at(10),
}
