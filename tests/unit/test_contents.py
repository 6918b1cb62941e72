"""Whatever a model holds, and wherever it holds it, is part of what the model is."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import io
import pickle
import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import rstbench
from rstbench.models.identity import module_digest
from tests.unit.contents_classes import Linear, digest


@dataclasses.dataclass
class Settings:
    inside: object
    level: int = 3


class Slotted:
    __slots__ = ("inside",)

    def __init__(self, inside):
        self.inside = inside


class Plain:
    def __init__(self, inside):
        self.inside = inside


Pair = collections.namedtuple("Pair", ["inside", "more"])


def scaled(factor, x):
    return factor * x


def around(mask):
    return lambda x: x * mask


# Each wraps what is inside it, so that a nesting of them is a nesting of containers.
WRAPPERS = {
    "list": lambda inside: [1, inside],
    "tuple": lambda inside: (inside, "x"),
    "dict": lambda inside: {"mask": inside, "other": 2},
    "tensor key": lambda inside: {3: [inside]},
    "ordered": lambda inside: collections.OrderedDict(a=inside),
    "default": lambda inside: collections.defaultdict(list, {"a": [inside]}),
    "deque": lambda inside: collections.deque([inside]),
    "named tuple": lambda inside: Pair(inside, None),
    "dataclass": lambda inside: Settings(inside),
    "slots": lambda inside: Slotted(inside),
    "object": lambda inside: Plain(inside),
    "partial": lambda inside: functools.partial(scaled, inside),
}


NESTINGS = st.lists(st.sampled_from(sorted(WRAPPERS)), min_size=1, max_size=5)


def nested(names, tensor):
    for name in names:
        tensor = WRAPPERS[name](tensor)
    return tensor


@settings(max_examples=60, deadline=None)
@given(NESTINGS, st.sampled_from(["held", "_held"]), st.integers(0, 5), st.integers(0, 2))
def test_one_element_anywhere_changes_the_digest_and_saving_does_not(names, name, place, seed):
    tensor = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed))
    model = Linear(name, nested(names, tensor))
    before, readable = module_digest(model)
    assert readable
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), _saved(model)):
        assert module_digest(again)[0] == before
    tensor.view(-1)[place] += 1
    assert module_digest(model)[0] != before


def _saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "made",
    [
        lambda value: {torch.tensor([value])},  # a set
        lambda value: frozenset({("a", value)}),
        lambda value: torch.distributions.Normal(torch.zeros(1), torch.full((1,), value)),
        lambda value: torch.Generator().manual_seed(int(value)),
        lambda value: around(torch.tensor([value])),
        lambda value: functools.partial(scaled, value),
        lambda value: functools.partial(around(value)),
        lambda value: np.array([value, None], dtype=object),
        lambda value: nn.Sequential(nn.Linear(1, 1), nn.Dropout(value / 10)),
        lambda value: [nn.BatchNorm1d(2, eps=value)],
        lambda value: Plain(value).__dict__,
        lambda value: Linear("held", value).forward,
        lambda value: torch.vmap(around(value)),
        lambda value: torch.quantize_per_tensor(torch.ones(2), value, 0, torch.qint8),
        lambda value: [torch.eye(2).mul(value).to_sparse()],
    ],
)
@pytest.mark.parametrize("name", ["held", "_held"])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_torch_does_not_register_counts(made, name):
    torch.manual_seed(0)
    first = digest(made(1.0), name)
    torch.manual_seed(0)
    assert digest(made(1.0), name) == first
    torch.manual_seed(0)
    assert digest(made(2.0), name) != first


def test_what_has_no_text_of_its_own_is_never_resumed():
    class Shown(Linear):
        def extra_repr(self):
            return str(self.held)

    for value in (object(), scaled):
        model = Shown("held", 1)
        model.held = value
        assert not module_digest(model)[1]
    space = {}
    exec("def forward(self, x): return x", space)
    assert not module_digest(type("Made", (nn.Module,), space)())[1]


@pytest.mark.filterwarnings("ignore")  # of torch about quantisation, which it gives up
def test_quantised_weights_count():
    def quantised(value):
        net = nn.Sequential(nn.Linear(4, 2))
        nn.init.constant_(net[0].weight, value)
        nn.init.zeros_(net[0].bias)
        return module_digest(torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8))

    assert quantised(1.0) == quantised(1.0)
    assert quantised(1.0)[0] != quantised(-1.0)[0]


def test_a_module_hidden_from_torch_counts():
    def hide(model, name, value):
        model.__dict__[name] = value

    torch.manual_seed(0)
    teacher = nn.Linear(2, 3)
    first = digest(teacher, attach=hide)
    teacher.weight.data[0, 0] += 1
    assert digest(teacher, attach=hide) != first


def test_a_tensor_on_a_weight_counts():
    model = Linear("held", 1)
    first = module_digest(model)[0]
    model.fc.weight.mask = torch.ones(3, 2)
    second = module_digest(model)[0]
    model.fc.weight.mask[0, 0] = 0
    assert len({first, second, module_digest(model)[0]}) == 3


def test_values_that_hold_themselves_are_read():
    ring = [torch.ones(1)]
    ring.append({"ring": ring})
    first = digest(ring)
    ring[0][0] = 2
    assert digest(ring) != first
    model = Linear("held", 1)
    model._self = weakref.ref(model)
    model.parts = [model, model.fc]
    assert module_digest(model)[1]


def test_what_cannot_be_read_is_never_taken_for_another(tmp_path):
    with (tmp_path / "file").open("w") as file:
        optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
        for value in (file, [file], optimizer, (x for x in "ab"), Plain(file)):
            first, second = module_digest(Linear("_held", value)), module_digest(Linear("_held", value))
            assert not first[1]
            assert first[0] != second[0]


class Caching(Linear):
    """Keeps what it saw, as models with hooks for their features do."""

    def forward(self, x):
        flat = x.flatten(1)[:, :2]
        self.features = self.fc(flat)
        self.seen.append(self.features)
        self.calls = self.calls + 1
        return nn.functional.pad(self.features, (0, 7))


def test_weights_changed_between_two_calls_are_another_model_and_what_a_pass_left_behind_is_not(tmp_path):
    model = Caching("seen", [torch.zeros(1)])
    model.calls = 0
    options = {"data": "digits:test:20", "threat": "Linf:0.1", "attacks": "pgd:steps=1", "out": tmp_path}
    rstbench.evaluate({"m": model}, **options)
    known = {path.name for path in (tmp_path / "results").iterdir()}
    rstbench.evaluate({"m": model}, **options)
    assert {path.name for path in (tmp_path / "results").iterdir()} == known
    assert (model.calls, len(model.seen), hasattr(model, "features")) == (0, 1, False)
    with torch.no_grad():
        model.fc.weight[0, 0] = 5
    rstbench.evaluate({"m": model}, **options)
    changed = {path.name for path in (tmp_path / "results").iterdir()}
    assert len(changed) == 2 * len(known)
    model.seen[0] = model.fc(torch.ones(1, 2))  # no leaf, and there before the call
    rstbench.evaluate({"m": model}, **options)
    assert len(list((tmp_path / "results").iterdir())) == 3 * len(known)
