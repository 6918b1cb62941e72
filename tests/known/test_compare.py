"""The verdicts of a comparison, and which dense network a model is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from rstbench.evidence.trial import ModelInfo
from rstbench.reports.compare import comparison, of_architecture


def dense(name, network="conv4"):
    return ModelInfo(name, "trained", "adversarial-training", network, 1.0, 100, 100)


def test_verdicts():
    right, wrong = np.ones(60), np.zeros(60)
    assert comparison(right, wrong)["verdict"] == "better"
    assert comparison(wrong, right)["verdict"] == "worse"
    assert comparison(right, right)["verdict"] == "not told apart"
    line = comparison(right, np.full(60, 0.5))
    assert (line["robust"], line["baseline_robust"], line["difference"]) == (1.0, 0.5, 0.5)
    empty = comparison(right[:1], wrong[:1])
    assert empty["verdict"] == "not told apart"


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ("conv4[width=0.5]", "plain"),
        ("conv4[width=0.5,norm=affine]", "affine"),  # its own norm layers come first
        ("conv4[width=0.5,norm=none]", "plain affine"),
        ("conv4[width=0.5,last-norm]", "plain affine"),
        ("conv4[norm=none,last-norm]", "full"),
        ("conv4[normalize=half]", ""),
        ("conv4[norm=affine,normalize=mnist]", "pixels"),
        ("conv2[width=0.5]", ""),
    ],
)
def test_the_dense_network_of_an_architecture(network, found):
    cards = {
        "plain": dense("plain", network="conv4[width=0.5]"),
        "affine": dense("affine", network="conv4[width=0.5,norm=affine]"),
        "full": dense("full"),
        "pixels": dense("pixels", network="conv4[normalize=mnist]"),
    }
    assert of_architecture(network, cards) == found.split()
