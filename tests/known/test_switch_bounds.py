"""The bounds of a switch, and that every attacker's result lies where the theory puts it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstbench.reports.switch_bounds import SwitchBits, bounds, expected_error

PGD, STOP = "pgd", "pgd:early_stop=true"


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5))
def test_the_minimum_lies_between_the_bounds(seed, sets, members):
    random = np.random.RandomState(seed)
    wrong = random.randint(0, 2, (sets, members, 7)).astype(float)
    weights = random.dirichlet(np.ones(members))
    lower, upper = bounds(wrong, weights)
    minimum = 1 - expected_error(wrong, weights).mean()
    assert lower - 1e-12 <= minimum <= upper + 1e-12
    # Any single set is only sure to be at or above the lower bound.
    assert all(1 - (weights @ one).mean() >= lower - 1e-12 for one in wrong)
    assert all(minimum <= 1 - (weights @ one).mean() + 1e-12 for one in wrong)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.99))
def test_a_member_that_nothing_fools_moves_the_bounds_as_the_formula_says(seed, share):
    """With probability `share` it answers, the others share the rest: every error shrinks by 1 - share."""
    random = np.random.RandomState(seed)
    wrong, weights = random.randint(0, 2, (4, 3, 7)).astype(float), random.dirichlet(np.ones(3))
    more = np.concatenate([wrong, np.zeros((4, 1, 7))], axis=1)
    lower, upper = bounds(wrong, weights)
    moved = bounds(more, np.append((1 - share) * weights, share))
    assert moved == pytest.approx((1 - (1 - share) * (1 - lower), 1 - (1 - share) * (1 - upper)))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 4))
def test_the_mean_of_the_matrix_is_t0_and_t1(seed, members):
    """On the same bits, for equal weights, with and without early stop."""
    random = np.random.RandomState(seed)
    names = tuple("abcd"[:members])
    sets = {(name, attack): random.randint(0, 2, (members, 9)) for name in names for attack in (PGD, STOP)}
    sets["", "clean"] = np.ones((members, 9))
    results = SwitchBits("s", names, np.full(members, 1 / members), sets).attackers()
    robust = {result.level: result.robust().mean() for result in results}
    for level, attack in (("T0", STOP), ("T1", PGD)):
        matrix = [[sets[source, attack][index].mean() for index in range(members)] for source in names]
        assert robust[level] == pytest.approx(np.mean(matrix))
    assert robust["minimum"] <= min(robust.values()) + 1e-12


def test_no_transfer_puts_the_mean_of_the_matrix_above_the_upper_bound():
    # Each member is fooled by its own images alone, everywhere: each set costs one half.
    wrong = np.zeros((2, 2, 3))
    wrong[0, 0] = wrong[1, 1] = 1
    weights = np.array([0.5, 0.5])
    assert bounds(wrong, weights) == (0.0, 0.5)
    # T1 with one member that is never attacked on its own: only the first set and the clean one.
    lopsided = np.stack([wrong[0], np.zeros((2, 3))])
    t1 = 1 - 0.5 * (weights @ lopsided[0]).mean() - 0.5 * (weights @ lopsided[1]).mean()
    assert t1 == 0.75 > bounds(lopsided, weights)[1] == 0.5
