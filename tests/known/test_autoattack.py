"""AutoAttack against the library itself, and the process it leaves behind."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from pyautoattack import AutoAttack as Library
from pyautoattack import checks
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Generator, nn

from rstbench.attacks import AttackSpec
from rstbench.attacks.autoattack import AutoAttack
from rstbench.attacks.autoattack.library import Options, configured
from rstbench.data import load
from rstbench.errors import BadRequest, ModelFault
from rstbench.threat import Threat


@pytest.fixture
def images():
    return load("digits:test:16").at(slice(None))


def direct(model, x, y, threat, seed, **options):
    """The library called as its documentation says."""
    library = Library(model, norm=threat.norm, eps=float(threat.eps), seed=seed, device="cpu", **options)
    with torch.random.fork_rng():
        return library.run_standard_evaluation(x, y, batch_size=len(x))[0]


def seed_of(generator):
    return int(torch.randint(0, 2**31 - 1, (1,), generator=generator))


@pytest.mark.parametrize("text", ["Linf:0.15", "L2:0.8"])
@pytest.mark.parametrize("stages", [("apgd-ce", "apgd-t"), ("apgd-ce", "fab-t"), ("square", "apgd-dlr")])
def test_it_equals_a_direct_call(small_entries, images, text, stages):
    (x, y), threat, model = images, Threat.parse(text), small_entries[0].module
    ours = AutoAttack(attacks=stages)(model, x, y, threat, Generator().manual_seed(3))
    theirs = direct(
        model, x, y, threat, seed_of(Generator().manual_seed(3)), version="custom", attacks=list(stages)
    )
    assert ours.images.equal(theirs)
    assert any(broken.any() for broken in ours.stages.values())
    # Each broken image is broken by one stage, and is wrong.
    broken = sum(part.int() for part in ours.stages.values())
    assert int(broken.max()) == 1
    clean = model(x).argmax(1) == y
    assert (model(ours.images).argmax(1) != y)[clean].equal(broken.bool()[clean])
    assert ours.images[~broken.bool()].equal(x[~broken.bool()])


@pytest.mark.slow
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("text", ["Linf:0.1", "L2:0.5", "L1:3"])
def test_whole_versions_equal_a_direct_call(small_entries, images, version, text):
    (x, y), threat, model = images, Threat.parse(text), small_entries[0].module
    ours = AutoAttack(version=version)(model, x, y, threat, Generator().manual_seed(3))
    theirs = direct(model, x, y, threat, seed_of(Generator().manual_seed(3)), version=version)
    assert ours.images.equal(theirs)


def test_standard_equals_a_direct_call(small_entries):
    """The whole standard version, on few images."""
    x, y = load("digits:test:3").at(slice(None))
    model, threat = small_entries[1].module, Threat.parse("Linf:0.1")
    ours = AutoAttack()(model, x, y, threat, Generator().manual_seed(3))
    theirs = direct(model, x, y, threat, seed_of(Generator().manual_seed(3)), version="standard")
    assert ours.images.equal(theirs)
    assert list(ours.stages) == ["apgd-ce", "apgd-t", "fab-t", "square"]


@pytest.mark.parametrize("text", ["Linf:0.15", "L2:0.8", "L1:3"])
def test_iterations_are_those_of_the_library_made_with_as_many(small_entries, images, text):
    (x, y), threat, model = images, Threat.parse(text), small_entries[0].module
    options = {"n_iter": 10, "norm": threat.norm, "eps": float(threat.eps), "device": "cpu"}
    options |= {"n_restarts": 1, "use_largereps": threat.norm == "L1"}
    library = configured(model, threat, 3, torch.device("cpu"), Options(iterations=10))
    library.apgd.n_restarts = library.apgd_targeted.n_restarts = 1
    classes = (library.apgd, APGDAttack), (library.apgd_targeted, APGDAttack_targeted)
    for ours, attack in classes:
        ours.seed = 3
        theirs = attack(model, seed=3, **options)
        with torch.random.fork_rng():
            assert ours.perturb(x, y).equal(theirs.perturb(x, y))
        for name in ("n_iter_orig", "n_iter_2", "n_iter_min", "size_decr"):
            assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("text", ["Linf:0.001", "L2:0.001", "L1:0.001"])
def test_iterations_are_as_many_forwards(small_entries, images, text):
    x, threat, model, counts = images[0][:1], Threat.parse(text), small_entries[0].module, []
    with torch.no_grad():
        y = model(x).argmax(1)
    for iterations in (10, 30):
        forwards = []
        handle = model.register_forward_hook(lambda *_, forwards=forwards: forwards.append(1))
        AutoAttack(attacks=("apgd-ce",), iterations=iterations)(model, x, y, threat, Generator())
        handle.remove()
        counts.append(len(forwards))
    assert counts[1] - counts[0] == 5 * 20  # of five restarts


def test_iterations_stand_in_the_text_unless_they_are_the_default():
    assert str(AttackSpec.parse("autoattack:iterations=100")) == "autoattack"
    assert str(AttackSpec.parse("autoattack:iterations=10")) == "autoattack:iterations=10"
    with pytest.raises(BadRequest, match="iterations must be at least 1, got 0"):
        AttackSpec.parse("autoattack:iterations=0")


def test_in_l1_the_fewest_iterations_are_two(small_entries, images):
    model, threat = small_entries[0].module, Threat.parse("L1:3")
    library = configured(model, threat, 3, torch.device("cpu"), Options(iterations=2))
    assert library.apgd.perturb(*images).shape == images[0].shape
    with pytest.raises(ModelFault, match="2 or more"):
        AutoAttack(iterations=1)(model, *images, threat, Generator())


def test_the_process_is_left_as_it_was(small_entries, images):
    x, y = images
    attack = AutoAttack(attacks=("apgd-ce",))

    class Dynamic(nn.Module):
        def forward(self, x):
            def grad():
                return small_entries[0].module(x)

            return grad()

    def trace(frame, event, argument):
        return None

    state, before = torch.get_rng_state(), sys.gettrace()
    sys.settrace(trace)
    try:
        flags = attack(Dynamic(), x, y, Threat.parse("Linf:0.1"), Generator().manual_seed(0)).flags
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert flags == ("gradient-in-forward",)
    assert torch.get_rng_state().equal(state)
    assert logging.getLogger("auto-attack").handlers == []
    # One dynamic model must not mark the next.
    after = attack(small_entries[0].module, x, y, Threat.parse("Linf:0.1"), Generator().manual_seed(0))
    assert after.flags == ()
    assert any(checks.funcs.values()) is False


def test_its_warnings_become_flags(images, small_entries):
    x, y = images
    model, threat = small_entries[0].module, Threat.parse("Linf:0.1")

    class Noisy(nn.Module):
        def forward(self, x):
            return model(x) + torch.randn(1)

    class Softmax(nn.Module):
        def forward(self, x):
            return model(x).softmax(1)

    attack = AutoAttack(attacks=("apgd-ce",))
    assert "random-output" in attack(Noisy(), x, y, threat, Generator().manual_seed(0)).flags
    assert "probabilities-not-logits" in attack(Softmax(), x, y, threat, Generator().manual_seed(0)).flags


def test_few_classes_are_refused_or_fitted(generator):
    x = torch.rand(4, 1, 2, 2, generator=generator)
    y = torch.zeros(4, dtype=torch.long)
    for classes in (2, 3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes)).requires_grad_(False)
        with pytest.raises(ModelFault, match=f"needs at least 4 classes, the model has {classes}"):
            AutoAttack()(model, x, y, Threat.parse("Linf:0.1"), generator)
    five = nn.Sequential(nn.Flatten(), nn.Linear(4, 5)).requires_grad_(False)
    attack = AutoAttack(attacks=("apgd-t", "fab-t"))
    assert attack(five, x, y, Threat.parse("Linf:0.1"), generator).images.shape == x.shape


@pytest.mark.parametrize("keep", [0, 1])
def test_nothing_or_one_image_left_to_attack(small_entries, images, keep):
    x, _ = images
    model = small_entries[0].module
    y = (model(x).argmax(1) + 1) % 10
    y[:keep] = model(x).argmax(1)[:keep]
    crafted = AutoAttack(attacks=("apgd-ce", "square"))(
        model, x, y, Threat.parse("Linf:0.01"), Generator().manual_seed(0)
    )
    assert crafted.images[keep:].equal(x[keep:])
