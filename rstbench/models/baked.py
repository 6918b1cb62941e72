"""Parametrized and masked weights made plain: in a frozen network they are the same at every pass."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..tickets.switch import SharedMember


def baked(module: nn.Module) -> nn.Module:
    """Replace the parametrized layers of a module by plain ones with the weights they have now.

    So are members of a shared switch, by networks of their own. In place, but for the module itself where it
    is such a part. What torch offers for it, `remove_parametrizations`, changes a class that copies of the
    module share.
    """
    for name, part in list(module.named_modules()):
        if isinstance(part, SharedMember):
            if not name:
                return part.plain()
            module.set_submodule(name, part.plain())
    for name, part in list(module.named_modules()):
        if parametrize.is_parametrized(part) and ".parametrizations" not in f".{name}":
            plain = _plain(part)
            if not name:
                return plain
            module.set_submodule(name, plain)
    return module


def _plain(part: nn.Module) -> nn.Module:
    """Return a layer of the class that was parametrized, which shares all but the weights."""
    with torch.no_grad():
        names = [name for name, _ in part.get_submodule("parametrizations").named_children()]
        weights = {name: getattr(part, name).detach().clone() for name in names}
    kind: type[nn.Module] = type(part).__mro__[1]  # the first is made for the parametrization
    plain = kind.__new__(kind)
    plain.__dict__.update(part.__dict__)
    plain._modules = {key: child for key, child in part._modules.items() if key != "parametrizations"}
    plain._parameters = dict(part._parameters)
    for name, weight in weights.items():
        plain.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    return plain
