"""Models at rest: every part of them, and as they came afterwards."""

from __future__ import annotations

import copy
import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from rstbench.errors import ModelFault
from rstbench.models.frozen import eval_mode, frozen_eval, same_values, weights_unchanged
from rstbench.models.identity import module_digest

CPU = torch.device("cpu")


class Holder:
    def __init__(self, inside):
        self.inside = inside


class Model(nn.Module):
    """A model around a network that torch does not see."""

    def __init__(self, held, find):
        super().__init__()
        self.held, self.find = held, find

    def network(self):
        return self.find(self.held)

    def forward(self, x):
        return self.network()(x)


def closing_over(inside):
    return lambda: inside


class Mangled:
    __slots__ = ("__inside",)

    def __init__(self, inside):
        self.__inside = inside

    def find(self):
        return self.__inside


def remembered(inside):
    cached = functools.lru_cache(lambda: inside)
    cached()
    return cached


HIDDEN = {
    "view": (lambda net: {"a": net}.values(), lambda held: next(iter(held))),
    "slot": (Mangled, Mangled.find),
    "cache": (remembered, lambda held: held()),
    "list": (lambda net: [1, net], lambda held: held[1]),
    "dict": (lambda net: {"a": (net,)}, lambda held: held["a"][0]),
    "set": (lambda net: {net}, lambda held: next(iter(held))),
    "object": (Holder, lambda held: held.inside),
    "closure": (closing_over, lambda held: held()),
    "partial": (lambda net: functools.partial(print, net), lambda held: held.args[0]),
    "iterator": (lambda net: iter([net]), lambda held: next(copy.copy(held))),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_network_hidden_from_torch_is_at_rest_too(kind):
    hide, find = HIDDEN[kind]
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    net[2].eval()
    net[0].bias.requires_grad_(False)
    model, x = Model(hide(net), find), torch.rand(4, 2)
    mean = net[1].running_mean.clone()
    with frozen_eval(model, CPU):
        assert not any(part.training for part in net.modules())
        assert not any(weight.requires_grad for weight in net.parameters())
        assert model(x).equal(model(x))
        net[1].running_mean += 1
    assert (net.training, net[1].training, net[2].training) == (True, True, False)
    assert (net[0].weight.requires_grad, net[0].bias.requires_grad) == (True, False)
    assert net[1].running_mean.equal(mean)
    with pytest.raises(ModelFault, match="the attack changed the weights"), weights_unchanged(model):
        net[0].weight.data += 1
    assert eval_mode(model) is model
    assert not net[1].training


def test_a_network_behind_what_cannot_be_read_is_at_rest_too():
    net = nn.Dropout()
    with frozen_eval(Model((one for one in [net]), None), CPU):
        assert not net.training
    assert net.training


class Stubborn(nn.Module):
    """Keeps its parts in train mode, as wrappers that forget `super().train` do."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.9)

    def train(self, mode=True):
        return self

    def forward(self, x):
        return self.drop(x)


def test_parts_are_in_eval_mode_whatever_the_model_does_about_it():
    model, x = Stubborn(), torch.rand(50, 2)
    with frozen_eval(model, CPU):
        assert model(x).equal(x)
    assert model.drop.training


class Unwilling(nn.Module):
    def train(self, mode=True):
        raise RuntimeError("no such mode")


def test_what_cannot_be_put_at_rest_is_named():
    for model in (Model([Unwilling()], None), Model({"a": Holder(Unwilling())}, None)):
        with pytest.raises(ModelFault, match=r"its held\..*eval mode.*no such mode"), frozen_eval(model, CPU):
            pass
    with pytest.raises(ModelFault, match=r"its held\.0 cannot be put into eval mode"):
        eval_mode(Model([Unwilling()], None))


class Stateful(nn.Module):
    """Changes whatever it can at each pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("repeated", torch.zeros(1).expand(3))
        self.register_buffer("absent", None)
        self.plain, self.calls, self.log = torch.zeros(2), 0, [torch.zeros(1)]
        self.table, self.box = {"a": torch.zeros(1), "b": 1}, Holder(torch.zeros(1))
        self.random = torch.Generator().manual_seed(0)
        self.sources = [random.Random(0), np.random.RandomState(0), np.random.default_rng(0)]
        self.pair, self.array, self.keys, self.names = (torch.zeros(1),), np.zeros(1), 0, {"a"}
        self.register_buffer("turned", torch.ones(2, dtype=torch.complex64).conj())

    def forward(self, x):
        self.replaced = self.replaced + 1
        self.repeated = torch.ones(3)
        self.absent = torch.ones(1)
        self.plain += 1
        self.calls += 1
        self.log.append(x)
        self.log[0] += 1
        self.table["a"], self.table["c"] = self.table["a"] + 1, x
        self.box.inside = self.box.inside + 1
        self.fresh = x
        self.pair[0].add_(1)
        self.array += 1
        self.keys += 1
        self.names.add("b")
        shift = self.sources[0].random() + self.sources[1].rand() + self.sources[2].random()
        return x + shift + torch.rand(x.shape, generator=self.random)


def test_what_a_pass_leaves_behind_is_taken_away():
    model, x = Stateful(), torch.rand(2, 2)
    with frozen_eval(model, CPU):
        first = model(x)
        assert not model(x).equal(first)
    with frozen_eval(model, CPU):
        assert model(x).equal(first)
    assert model.replaced.equal(torch.zeros(2))
    assert model.repeated.equal(torch.zeros(3))
    assert model.absent is None
    assert model.plain.equal(torch.zeros(2))
    assert (model.calls, len(model.log), float(model.log[0])) == (0, 1, 0.0)
    assert set(model.table) == {"a", "b"}
    assert float(model.table["a"]) == float(model.box.inside) == 0.0
    assert not hasattr(model, "fresh")
    assert float(model.pair[0]) == float(model.array[0]) == model.keys == 0
    assert model.names == {"a"}


class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = None

    def forward(self, x):
        self.fc = self.fc or nn.Linear(2, 2)
        return self.fc(x)


def test_weights_that_appear_in_the_first_pass_are_refused():
    model = Late()
    with (
        pytest.raises(ModelFault, match=r"new weights when it was asked \(fc\.weight\)"),
        frozen_eval(model, CPU),
    ):
        model(torch.rand(2, 2))


def test_nan_that_nobody_changed_is_no_change():
    net = nn.Linear(2, 2)
    net.weight.data[0, 0] = float("nan")
    with weights_unchanged(net):
        net(torch.rand(1, 2))
    with pytest.raises(ModelFault, match="changed the weights"), weights_unchanged(net):
        net.weight.data[0, 1] = float("nan")
    assert int(net.weight.isnan().sum()) == 1
    with pytest.raises(ModelFault, match="changed the weights"), weights_unchanged(net):
        net.weight = nn.Parameter(torch.zeros(2, 2))
    assert int(net.weight.isnan().sum()) == 1


def test_same_values_are_the_same_bits():
    nan = torch.tensor([1.0, float("nan")])
    assert same_values(nan, nan.clone())
    assert not same_values(torch.zeros(1), -torch.zeros(1))
    assert not same_values(torch.zeros(1), torch.zeros(1, dtype=torch.double))
    assert same_values(torch.eye(2).to_sparse(), torch.eye(2).to_sparse())
    assert not same_values(torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse())


def scripted():
    return torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9)))


def traced():
    return torch.jit.trace(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), torch.ones(1, 2))


def frozen():
    return torch.jit.freeze(scripted().eval())


def exported():
    return torch.export.export(nn.Linear(2, 2), (torch.ones(3, 2),)).module()


def symbolic():
    return torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


@pytest.mark.parametrize("made", [scripted, traced, frozen, exported, symbolic])
def test_compiled_models_are_put_at_rest_like_others(made):
    model, x = made(), torch.ones(3, 2)
    first, readable = module_digest(model)
    assert readable
    with frozen_eval(model, CPU), weights_unchanged(model):
        assert model(x).equal(model(x))
    assert module_digest(model)[0] == first
    assert module_digest(made())[0] != first  # its weights are drawn anew
