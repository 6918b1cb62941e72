"""A module to attach things to, and its digest."""

from __future__ import annotations

from torch import nn

from rstbench.models.identity import module_digest


class Linear(nn.Module):
    """A linear model with anything at all for an attribute."""

    def __init__(self, name, value, attach=setattr):
        super().__init__()
        self.fc = nn.Linear(2, 3)
        nn.init.ones_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        attach(self, name, value)

    def forward(self, x):
        return self.fc(x)


def digest(value, name="held", attach=setattr):
    found, readable = module_digest(Linear(name, value, attach))
    assert readable
    return found
