"""The digest covers code: functions, methods, classes, closures and scripts that a model holds."""

from __future__ import annotations

import collections
import enum
import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from rstbench.models.identity import module_digest
from tests.unit.contents_classes import digest


class Level(enum.Enum):
    LOW, HIGH = 1, 16


class Text(str):
    """A text with an attribute."""


class Mangled:
    __slots__ = ("__inside",)

    def __init__(self, inside):
        self.__inside = inside


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()


def text(value):
    made = Text("x")
    made.level = value
    return made


def by_default(value):
    return lambda x, factor=value: factor * x


def by_keyword(value):
    def scale(x, *, factor=value):
        return factor * x

    return scale


def looking_like_torch(value):
    return functools.wraps(nn.functional.relu)(lambda x: value * x)


def match_in_order(value):
    return {"a": 1, "b": 2} if value == 1 else {"b": 2, "a": 1}


@pytest.mark.parametrize(
    "made",
    [
        text, by_default, by_keyword, looking_like_torch, match_in_order, Mangled, random.Random,
        lambda value: Level.LOW if value == 1 else Level.HIGH,
        lambda value: np.array([value]).view(np.matrix) if value == 1 else np.array([value]),
        lambda value: collections.ChainMap({"a": value}),
    ],
)  # fmt: skip
def test_values_that_look_plain_count_whole(made):
    assert digest(made(1)) != digest(made(2))
    if made is not random.Random:
        assert digest(made(1)) == digest(made(1))


@pytest.mark.parametrize("name", ["_conv_forward", "forward", "_call_impl"])
def test_a_method_that_an_instance_overrides_counts(name):
    def overridden(factor):
        net = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False))
        nn.init.ones_(net[0].weight)
        if factor:
            setattr(net[0], name, lambda *given: factor * given[0])
        return module_digest(net)

    digests = [overridden(factor) for factor in (None, 1.0, 2.0, 2.0)]
    assert all(readable for _, readable in digests)
    assert len({found for found, _ in digests}) == 3


def test_another_forward_of_a_traced_graph_counts():
    net = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    first = module_digest(net)
    assert first[1]
    net.forward = lambda x: -x
    assert module_digest(net)[0] != first[0]


def test_autograd_functions_are_told_by_their_file():
    assert digest(Rounded.apply) == digest(Rounded.apply) != digest(nn.functional.relu)


def test_two_functions_of_one_line_differ():
    double, negate = lambda x: 2 * x, lambda x: -x
    assert digest(double) != digest(negate)
    assert digest(np.sin) != digest(np.cos)
    assert digest(nn.functional.relu) != digest(nn.functional.gelu)


def test_what_a_class_or_a_method_of_it_closes_over_counts():
    def made(mask, level):
        class Masked(nn.Module):
            masks = (level,)

            def __init__(self):
                super().__init__()

            def forward(self, x):
                return x * mask

        return Masked()

    first = module_digest(made(torch.ones(2), 1))
    assert first[1]
    assert module_digest(made(torch.ones(2), 1)) == first
    assert module_digest(made(torch.zeros(2), 1))[0] != first[0]
    assert module_digest(made(torch.ones(2), 2))[0] != first[0]


class Scripted(nn.Module):
    def __init__(self, level):
        super().__init__()
        self.masks = [torch.full((2,), level)]
        self.level = level

    def forward(self, x):
        return x * self.masks[0] * self.level


@pytest.mark.parametrize("compiled", [torch.jit.script, lambda net: torch.jit.trace(net, torch.ones(2))])
def test_the_constants_and_attributes_of_a_scripted_module_count(compiled):
    found = [module_digest(compiled(Scripted(level))) for level in (1.0, 1.0, 2.0)]
    assert all(readable for _, readable in found)
    assert found[0] == found[1] != found[2]
    assert digest([compiled(Scripted(1.0))]) != digest([compiled(Scripted(2.0))])


@pytest.mark.parametrize("value", [open, iter, print])
def test_functions_of_python_itself_are_told_by_name(value):
    assert digest(value) == digest(value)
