"""Intervals, the request's file."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rstbench.errors import BadFile
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.trial import ModelInfo
from rstbench.reports.statistics import confidence_interval, paired


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_a_printed_table(right, n, low, high):
    assert confidence_interval(right / n, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_ends():
    assert confidence_interval(0.3, 0) == (0.0, 1.0)
    assert confidence_interval(1.0, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


def test_a_request_comes_back_from_its_file(tmp_path):
    request = Manifest(
        study={"name": "x", "threats": ["Linf:0.1"]},
        run={"data": "digits:test", "threads": 2},
        images=50,
        models={
            "aa": ModelInfo("one", "ticket", remaining=0.1),
            "bb": ModelInfo("s", "switch", members=("aa",), weights=(1.0,)),
        },
        rows=(Row("aa", "Linf:0.1", 0, ("pgd",)),),
        groups=(("aa", "bb"),),
        keys=("k",),
        failures=("it broke",),
    )
    request.save(tmp_path)
    found = Manifest.load(tmp_path)
    assert (found.models, found.rows, found.groups, found.keys) == (
        request.models,
        request.rows,
        request.groups,
        ("k",),
    )
    assert (found.images, found.failures, found.study) == (50, ("it broke",), request.study)


def test_no_request(tmp_path):
    with pytest.raises(BadFile, match=r"no study\.toml"):
        Manifest.load(tmp_path)
    (tmp_path / "study.toml").write_text("a = [")
    with pytest.raises(BadFile, match="not what `evaluate` writes"):
        Manifest.load(tmp_path)


def test_paired_interval_by_hand():
    """10 images only ours gets right, 2 only theirs, of 60: the formula on paper."""
    ours, theirs = np.zeros(60), np.zeros(60)
    ours[:10], theirs[10:12] = 1, 1
    difference, low, high = paired(ours, theirs)
    ratio = (10 + 1 + 2 + 1) / 62  # discordant shares with one added to each
    centre = (11 - 3) / 62
    half = 1.959964 * math.sqrt((ratio - centre**2) / 62)
    assert difference == pytest.approx(8 / 60)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_paired_interval_of_equals_holds_zero():
    low, high = paired(np.ones(20), np.ones(20))[1:]
    assert low < 0 < high
    assert paired(np.ones(0), np.ones(0)) == (0.0, -1.0, 1.0)
