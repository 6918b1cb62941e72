"""AWS: what is pruned, what is interpolated, and what moves onto the random weights."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from rstbench.errors import BadFile, BadRequest
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.tickets.init import random_weights
from rstbench.tickets.methods import aws
from rstbench.tickets.methods.aws import AWS, InterpolationCoefficient, NormInterpolation, _prune
from rstbench.tickets.methods.search import Search
from rstbench.tickets.ticket import Ticket
from rstbench.training import resume
from rstbench.training.recipe import recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "batch": 32, "method": "aws"}
QUICK = {"warmup": 1, "epochs": 1}


@pytest.fixture
def search(split):
    def make(remaining="0.5", **more):
        settings = {key: more.pop(key) for key in list(more) if key not in ("resume_file", "on_epoch")}
        recipe = recipe_for({**SMALL, "adversary": "none", **settings})
        spec = NetworkSpec("conv2", (1, 8, 8), 10, 0.1, recipe.norm)
        weights = random_weights(prunable(build(spec)), recipe.init, recipe.seed)
        return Search(spec, weights, remaining, split, recipe, **more)

    return make


def test_the_rounds():
    fifths = [Fraction(4, 5), Fraction(16, 25), Fraction(64, 125)]
    assert AWS().rounds(Fraction(1, 2)) == [*fifths, Fraction(1, 2)]
    assert AWS().rounds(Fraction(64, 100)) == [Fraction(4, 5), Fraction(64, 100)]
    assert AWS().rounds(Fraction(1)) == [Fraction(1)]
    assert AWS().extra_epochs(Fraction(64, 100)) == 30


def test_the_interpolation_by_hand():
    mix = InterpolationCoefficient()
    mix.value = 0.25
    layer = NormInterpolation(1.0, mix)
    assert layer(torch.tensor(3.0)) == 0.25 * 1 + 0.75 * 3
    assert layer.eval()(torch.tensor(3.0)) == 3.0
    mix.draw(torch.Generator().manual_seed(0))
    assert 0 <= mix.value < 1
    assert mix.value != 0.25


def test_signs_and_mask_move_and_magnitudes_stay(search, tmp_path):
    one = search()
    ticket, history = AWS(**QUICK)(one)
    assert [row.epoch for row in history] == list(range(1, 1 + 1 + 4 + 1))
    ticket.save(tmp_path / "t.safetensors")
    found = Ticket.load(tmp_path / "t.safetensors").random_network()
    for name, weight in one.weights.items():
        assert found[name].abs().equal(weight.abs())
    last = list(one.weights)[-1]
    assert ticket.masks[last].all()  # the classifier stays dense, as in the paper
    flipped = [float((found[n][m] != one.weights[n][m]).float().mean()) for n, m in ticket.masks.items()]
    assert all(0.2 < part < 0.8 for part in flipped)  # trained signs owe nothing to the random ones
    total = sum(weight.numel() for name, weight in one.weights.items() if name != last)
    counts = {name: -(-w.numel() // 2) for name, w in one.weights.items() if name != last}
    assert ticket.kept_weights - one.weights[last].numel() == sum(counts.values()) >= total / 2


def test_each_round_keeps_the_largest_of_what_was_left(search):
    one = search()
    state = {name: torch.arange(1.0, w.numel() + 1).view(w.shape) for name, w in one.weights.items()}
    masks = {name: state[name] > 10 for name in one.budgets}
    smaller = _prune(one, {n: 1 / w for n, w in state.items()}, masks, Fraction(11, 20))
    assert all(not bool((mask & ~masks[name]).any()) for name, mask in smaller.items())
    kept = sum(int(mask.sum()) for mask in smaller.values())
    assert kept == -(-11 * sum(w.numel() for n, w in state.items() if n in one.budgets) // 20)


def test_killed_and_continued(search, tmp_path):
    whole, history = AWS(**QUICK)(search())
    for stop_at in (1, 3):
        resume_file = tmp_path / f".{stop_at}.unfinished"

        def stop(row, stop_at=stop_at):
            if row.epoch == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            AWS(**QUICK)(search(on_epoch=stop, resume_file=resume_file))
        again, history_again = AWS(**QUICK)(search(resume_file=resume_file))
        assert (again.digest, history_again) == (whole.digest, history)
    assert not list(tmp_path.iterdir())


def test_a_resume_file_that_lacks_something_is_refused(search, tmp_path):
    file, one = tmp_path / ".x.unfinished", search()
    resume.save(file, one.recipe, {"state": {}, "done": 1, "history": []})
    with pytest.raises(BadFile, match=r"x\.unfinished is damaged; delete it: 'masks'"):
        AWS(**QUICK)(search(resume_file=file))
    file.write_bytes(b"")
    with pytest.raises(BadFile, match=r"is damaged; delete it: ."):
        AWS(**QUICK)(search(resume_file=file))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "batch"}, "norm must be affine, not 'batch'"),
        ({"pattern": "kernel"}, "got global and kernel"),
        ({"allocation": "uniform"}, "allocation must be global and pattern element, got uniform and element"),
        ({"pattern": "2:4", "allocation": "uniform"}, "got uniform and 2:4"),
        ({"adversary": "pgd", "attack_bn": "eval"}, "attack-bn must be train"),
        ({"origin": "abc"}, "leave --from out"),
    ],
)
def test_wrong_requests(search, settings, message):
    with pytest.raises(BadRequest, match=message):
        AWS(**QUICK)(search(**settings))
    with pytest.raises(BadRequest, match=r"aws wants drop from 1/1000 to below 1, .* got drop=1, warmup=1"):
        AWS(drop=Fraction(1), warmup=1)(search())


def test_a_network_without_batch_norm_is_refused(search, split):
    one = search()
    spec = NetworkSpec("torchvision:squeezenet1_1", (3, 64, 64), 10, norm="affine")
    with pytest.raises(BadRequest, match="affine batch norm, and torchvision:squeezenet1_1 has none"):
        AWS().check(replace(one, spec=spec))


@pytest.mark.parametrize("remaining", ["0.3", "0.5119", "0.8"])
def test_nothing_that_was_pruned_comes_back(search, remaining, monkeypatch):
    seen = []

    def spy(*arguments):
        seen.append(_prune(*arguments))
        return seen[-1]

    monkeypatch.setattr(aws, "_prune", spy)
    one = search(remaining)
    ticket, _ = AWS(**QUICK)(one)
    for before, after in itertools.pairwise(seen):
        assert all(not bool((after[name] & ~before[name]).any()) for name in after)
    assert sum(int(mask.sum()) for mask in seen[-1].values()) == sum(s.kept for s in one.budgets.values())
    assert all(ticket.masks[name].equal(mask) for name, mask in seen[-1].items())


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_interpolation_reaches_every_norm_parameter(search, part, monkeypatch):
    """At a = 1 the norm is constant, so its parameters learn nothing; at 0 all do."""
    monkeypatch.setattr(InterpolationCoefficient, "draw", lambda mix, generator: setattr(mix, "value", part))
    one = search(weight_decay=0.0)
    state, _ = aws._train(one, 1, 0, build(one.spec).state_dict(), {}, 0)
    norms = {n: t for n, t in state.items() if t.dim() == 1 and n.endswith((".weight", ".bias"))}
    assert len(norms) == 8
    for name, tensor in norms.items():
        start = torch.full_like(tensor, float(name.endswith("weight")))
        assert tensor.equal(start) == (part == 1.0), name


def test_the_signs_are_the_trained_ones(search, monkeypatch):
    one = search()
    torch.manual_seed(5)
    known = {**build(one.spec).state_dict(), **{n: torch.randn(w.shape) for n, w in one.weights.items()}}
    monkeypatch.setattr(aws, "_train", lambda *arguments: (known, []))
    ticket, _ = AWS(**QUICK)(one)
    for name, weight in ticket.random_network().items():
        assert weight.sign().equal(known[name].sign())


def test_a_last_norm_without_parameters_is_left_alone(search):
    one = search()
    spec = replace(one.spec, last_norm=True)
    weights = random_weights(prunable(build(spec)), one.recipe.init, 0)
    ticket, _ = AWS(**QUICK)(replace(one, spec=spec, weights=weights))
    assert ticket.module()(torch.rand(2, 1, 8, 8)).shape == (2, 10)
