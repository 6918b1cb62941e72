"""Models whose answers raise flags: they depend on the batch, expect other pixels, or have no gradient."""

from __future__ import annotations

import re

import pandas as pd
import pytest

import rstbench
from tests.whole.odd_networks import DOUBTFUL


@pytest.fixture
def flags_of(cli, tmp_path):
    def run(model, *options):
        (tmp_path / "doubtful.py").write_text(DOUBTFUL)
        given = {"--data": "digits:test:100", "--threat": "Linf:0.05", "--attack": "pgd:steps=1"}
        given |= {"--out": "o"} | dict(zip(options[::2], options[1::2], strict=True))
        asked = [part for pair in given.items() for part in pair]
        done = cli("evaluate", f"file:doubtful.py:{model}", *asked)
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(tmp_path / "o" / "leaderboard.csv", keep_default_na=False)
        return set(table["flags"][0].split()), done.stderr

    return run


@pytest.mark.parametrize(
    ("model", "batch"),
    [("Stateless", "100"), ("Stateless", "4"), ("Centred", "100"), ("Centred", "4"), ("Centred", "1")],
)
def test_answers_that_hang_on_the_batch_are_flagged(flags_of, model, batch):
    flags, _ = flags_of(model, "--batch-size", batch, "--data", "digits:test:8")
    assert "batch-dependent" in flags


@pytest.mark.parametrize("model", ["Placed", "Placed[period=2]", "Placed[period=25]", "Began"])
@pytest.mark.parametrize("batch", ["100", "10"])
def test_answers_that_hang_on_the_place_or_on_the_first_batch_are_flagged(flags_of, model, batch):
    assert "batch-dependent" in flags_of(model, "--batch-size", batch)[0]


def test_one_image_is_no_reason_for_doubt(flags_of):
    for first in range(2):
        flags, _ = flags_of(
            "Other[mean=0.14,std=0.86]", "--batch-size", "1", "--data", f"digits:test:{first + 1}"
        )
        assert "normalisation-doubtful" not in flags


def test_a_model_that_takes_no_single_image_is_flagged(flags_of):
    assert "batch-dependent" in flags_of("Together")[0]


@pytest.mark.parametrize("model", ["fitted", "Half"])
@pytest.mark.parametrize("batch", ["100", "1"])
def test_honest_models_do_not_hang_on_the_batch(flags_of, model, batch):
    flags, said = flags_of(model, "--batch-size", batch, "--data", "digits:test:20")
    assert "batch-dependent" not in flags
    assert "as it stands" not in said


@pytest.mark.parametrize(
    "pixels", ["mean=0.0,std=0.00392156862745098", "mean=0.5,std=0.5", "mean=0.1307,std=0.3081"]
)
def test_a_model_of_other_pixels_is_flagged(flags_of, pixels):
    assert "normalisation-doubtful" in flags_of(f"Other[{pixels}]")[0]


@pytest.mark.parametrize("pixels", ["mean=0.0,std=0.00392156862745098", "mean=0.5,std=0.5"])
def test_a_model_of_other_pixels_is_flagged_on_colour_images(flags_of, tmp_path, pixels):
    import numpy as np

    x, y = rstbench.load_data("digits:test:100").at(slice(None))
    np.savez(tmp_path / "colour.npz", x=x.expand(-1, 3, -1, -1).numpy(), y=y.numpy())
    assert "normalisation-doubtful" in flags_of(f"Colour[{pixels}]", "--data", "npz:colour.npz")[0]


def test_a_better_normalisation_below_the_threshold_is_told_with_both_figures(flags_of):
    flags, said = flags_of("Other[mean=0.14,std=0.86]", "--data", "digits:test:450")
    assert "normalisation-doubtful" not in flags
    (line,) = [line for line in said.splitlines() if "as it stands" in line]
    own, other = (float(part) for part in re.findall(r"on ([\d.]+) %", line))
    assert 2 < other - own < 10
    assert "of 450 clean images" in line
    assert "[normalize=mnist]" in line


@pytest.mark.parametrize("model", ["Served", "Detached"])
def test_a_model_without_gradient_is_told_what_helps(cli, tmp_path, model):
    (tmp_path / "doubtful.py").write_text(DOUBTFUL)
    # Exact: a traced copy may let through the gradient that the model itself hides.
    done = cli("evaluate", f"file:doubtful.py:{model}", "--data", "digits:test:4", "--threat", "Linf:0.5",
               "--crafting", "exact",
               "--out", "o", "--attack", "pgd:steps=1", "--attack", "autoattack:attacks=square")  # fmt: skip
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("rstbench: ")]
    assert "lets no gradient through; an attack that needs none: autoattack:attacks=square" in said
    table = pd.read_csv(tmp_path / "o" / "leaderboard.csv")
    assert table["clean"][0] > 0.5
    assert table["autoattack:attacks=square"][0] == 0
    assert table["pgd:steps=1"].isna().all()
