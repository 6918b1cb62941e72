"""Our linear bounds beside those of auto_LiRPA, where that library is installed."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

from rstbench.certificates import CertificateSpec
from rstbench.certificates.crown import Crown
from rstbench.certificates.ibp import IBP
from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.models.wrapper import load_reference
from rstbench.threat import Threat
from tests.known.certified_nets import linear, network_named

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import auto_LiRPA  # noqa: F401
except Exception as error:
    reason = f"auto_LiRPA does not import: {error}"
else:
    reason = ""
needs_library = pytest.mark.skipif(bool(reason), reason=reason)
TICKET = "ticket:leaderboards/digits/tickets/rst-0.05-seed0.safetensors"


def both(text, ours, net, x, eps="Linf:0.02"):
    y, threat = net(x).argmax(1), Threat.parse(eps)
    return CertificateSpec.parse(text).certificate(net, x, y, threat), ours(net, x, y, threat)


@needs_library
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_linear_models_have_the_same_margin_inside_the_box(norm, generator):
    """The library's error bound is of the whole ball, ours of each margin: they differ by rounding alone."""
    x = 0.4 + 0.2 * torch.rand(6, 3, 2, 2, generator=generator)
    theirs, ours = both("auto_lirpa", Crown(), linear(0), x, f"{norm}:0.1")
    torch.testing.assert_close(theirs.margins, ours.margins, rtol=0, atol=1e-5)


@needs_library
@pytest.mark.parametrize("name", ["padding", "stride"])
def test_ours_are_never_much_looser(name, generator):
    """Each layer of ours takes the tighter of two bounds, and the slopes are chosen alike."""
    net, x = network_named(name), torch.rand(6, 2, 6, 6, generator=generator)
    theirs, ours = both("auto_lirpa", Crown(), net, x)
    assert bool((ours.margins > theirs.margins - 1e-4).all())
    theirs, ours = both("auto_lirpa:method=ibp", IBP(), net, x)
    assert bool((ours.margins > theirs.margins - 1e-4).all())


@needs_library
def test_a_ticket_with_max_pools_certifies_no_less():
    net = load_reference(TICKET).module
    x, y = load("digits:test:10").at(slice(None))
    threat = Threat.parse("Linf:0.01")
    theirs = CertificateSpec.parse("auto_lirpa").certificate(net, x, y, threat)
    ours = Crown()(net, x, y, threat)
    assert 0 < int(theirs.proved.sum()) <= int(ours.proved.sum())


@pytest.mark.skipif(not reason, reason="auto_LiRPA is installed")
def test_it_is_refused_in_one_line_where_the_library_is_missing():
    spec = CertificateSpec.parse("auto_lirpa")
    refusal = spec.refusal(Threat.parse("Linf:0.1"))
    assert re.search("needs the library auto_LiRPA.*use crown", refusal)
    assert len(refusal.splitlines()) == 1


def test_unknown_methods_are_refused():
    with pytest.raises(BadRequest, match="crown or ibp"):
        CertificateSpec.parse("auto_lirpa:method=alpha")
