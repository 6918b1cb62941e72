"""AWS: what is pruned, what is interpolated, and what moves onto the random weights."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from rstbench.errors import BadRequest
from rstbench.tickets.init import random_weights
from rstbench.tickets.networks import NetworkSpec, build, prunable
from rstbench.tickets.recipe import recipe_for
from rstbench.tickets.search import Search
from rstbench.tickets.signs import AWS, Interpolated, Mix, _smaller
from rstbench.tickets.ticket import Ticket

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "batch": 32, "method": "aws"}
QUICK = {"warmup": 1, "epochs": 1}


@pytest.fixture
def search(lesson):
    def make(remaining="0.5", **more):
        settings = {key: more.pop(key) for key in list(more) if key not in ("diary", "watch")}
        recipe = recipe_for({**SMALL, "adversary": "none", **settings})
        spec = NetworkSpec("conv2", (1, 8, 8), 10, 0.1, recipe.norm)
        weights = random_weights(prunable(build(spec)), recipe.init, recipe.seed)
        return Search(spec, weights, remaining, lesson, recipe, **more)

    return make


def test_the_rounds():
    fifths = [Fraction(4, 5), Fraction(16, 25), Fraction(64, 125)]
    assert AWS().rounds(Fraction(1, 2)) == [*fifths, Fraction(1, 2)]
    assert AWS().rounds(Fraction(64, 100)) == [Fraction(4, 5), Fraction(64, 100)]
    assert AWS().rounds(Fraction(1)) == [Fraction(1)]
    assert AWS().length(Fraction(64, 100)) == 30


def test_the_interpolation_by_hand():
    mix = Mix()
    mix.part = 0.25
    layer = Interpolated(1.0, mix)
    assert layer(torch.tensor(3.0)) == 0.25 * 1 + 0.75 * 3
    assert layer.eval()(torch.tensor(3.0)) == 3.0
    mix.draw(torch.Generator().manual_seed(0))
    assert 0 <= mix.part < 1
    assert mix.part != 0.25


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
    masks = {name: state[name] > 10 for name in one.slots}
    smaller = _smaller(one, {n: 1 / w for n, w in state.items()}, masks, Fraction(1, 4), last=False)
    assert all(not bool((mask & ~masks[name]).any()) for name, mask in smaller.items())
    kept = sum(int(mask.sum()) for mask in smaller.values())
    assert kept == -(-sum(w.numel() for n, w in state.items() if n in one.slots) // 4)


def test_killed_and_continued(search, tmp_path):
    whole, history = AWS(**QUICK)(search())
    for stop_at in (1, 3):
        diary = tmp_path / f".{stop_at}.unfinished"

        def stop(row, stop_at=stop_at):
            if row.epoch == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            AWS(**QUICK)(search(watch=stop, diary=diary))
        again, history_again = AWS(**QUICK)(search(diary=diary))
        assert (again.digest, history_again) == (whole.digest, history)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "batch"}, "norm must be affine, not 'batch'"),
        ({"pattern": "kernel", "allocation": "uniform"}, "scores single weights"),
        ({"scale": True, "allocation": "uniform"}, "never scaled"),
    ],
)
def test_wrong_requests(search, settings, message):
    with pytest.raises(BadRequest, match=message):
        AWS(**QUICK)(search(**settings))
    with pytest.raises(BadRequest, match="aws wants 0 < drop < 1"):
        AWS(drop=Fraction(1))(search())
