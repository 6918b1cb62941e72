"""Other projects' tickets become tickets of this tool where their recipe is known."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.models.wrapper import load_reference
from rstbench.networks.network import NetworkSpec, build
from rstbench.study.export import export_model
from rstbench.tickets.allocation import p_rule
from rstbench.tickets.ticket import Ticket
from tests.known.foreign_nets import Conv2, Subnet, signed_constants, trained_a_little


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:20")


SETTINGS = "recipe=digits,data=digits,threat=Linf:0.1"


@pytest.mark.parametrize(("pattern", "dims"), [("element", 4), ("row", 3), ("kernel", 2)])
def test_a_checkpoint_becomes_a_ticket_where_its_recipe_is_known(tmp_path, digits, pattern, dims):
    torch.manual_seed(0)
    net = Conv2(dims)
    signed_constants(net)
    trained_a_little(net, digits)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "rst.pth")
    text = f"weights:{tmp_path}/rst.pth[arch=conv2,width=0.1,remaining=0.3,{SETTINGS}]"
    entry = load_reference(text, digits)
    x, _ = digits.at(slice(None))
    logits = net(x)
    near = 1e-5 * float(logits.detach().abs().max())
    assert torch.allclose(entry.module(x), logits, atol=near)
    assert isinstance(entry.artifact, Ticket)
    assert (entry.recipe.pattern, entry.recipe.init, entry.recipe.kept_count) == (
        pattern, "signed_constant", "authors",
    )  # fmt: skip
    assert (entry.info.kind, entry.info.method) == ("ticket", "rst")
    # Projects normalise in their data pipeline: the layer is part of the ticket.
    behind = load_reference(text.replace(SETTINGS, f"normalize=0.1/0.5,{SETTINGS}"), digits)
    assert torch.allclose(behind.module((x * 0.5) + 0.1), logits, atol=10 * near)
    assert behind.artifact.random_digest != entry.artifact.random_digest  # other names, another network
    files = export_model(text, "ticket", tmp_path / "t.safetensors", data="digits:test:4")
    again = load_reference(f"ticket:{files[0]}")
    assert again.module(x).equal(entry.module(x))
    assert again.info.kept_weights == entry.info.kept_weights


def test_a_binary_subnetwork(tmp_path, digits):
    """Liu et al. 2022: weights +-1, the p-rule, batch norm without affine parameters on the logits too."""
    torch.manual_seed(0)
    body = Conv2(4)
    layers = [part for part in body.modules() if isinstance(part, Subnet)]
    sizes = {str(place): layer.weight.numel() for place, layer in enumerate(layers)}
    ratios = p_rule(sizes, Fraction(3, 10), 0.1)
    for place, layer in enumerate(layers):
        layer.weight.data.sign_()
        layer.kept = ratios[str(place)]
    net = nn.Sequential(body, nn.BatchNorm1d(10, affine=False))
    trained_a_little(net, digits)
    assert len({layer.kept for layer in layers}) > 2
    torch.save({"state_dict": net.state_dict()}, tmp_path / "b.pth")
    options = "arch=conv2,width=0.1,last_norm=true,remaining=0.3,allocation=p:0.1"
    x, _ = digits.at(slice(None))
    for more in ("", f",{SETTINGS}"):
        entry = load_reference(f"weights:{tmp_path}/b.pth[{options}{more}]", digits)
        assert torch.allclose(entry.module(x), net(x), atol=1e-4)
    assert entry.recipe.init == "binary"
    assert entry.recipe.last_norm


@pytest.mark.parametrize(
    ("constants", "options", "message"),
    [
        (False, f"remaining=0.3,{SETTINGS}", "no signed constants: name their start, init=kaiming_normal"),
        (True, f"remaining=0.3,{SETTINGS},allocation=p:0.5,dense=last", "masks are not those of the recipe"),
        (True, "remaining=0.3,data=digits", "data go with recipe=NAME"),
        (True, "remaining=0.3,recipe=magic", "no recipe named 'magic'"),
        (True, f"remaining=0.3,{SETTINGS},colour=red", "no option of 'recipe' named 'colour'"),
        (True, f"remaining=0.3,{SETTINGS},epochs=many", "recipe:epochs wants a whole number"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path, digits, constants, options, message):
    net = Conv2(4)
    if constants:
        signed_constants(net)
    torch.save(net.state_dict(), tmp_path / "r.pth")
    with pytest.raises(BadRequest, match=message):
        load_reference(f"weights:{tmp_path}/r.pth[arch=conv2,width=0.1,{options}]", digits)


def test_masks_alone_make_no_ticket(tmp_path, digits):
    net = build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    torch.save(net.state_dict(), tmp_path / "p.pt")
    with pytest.raises(BadRequest, match="masks without scores"):
        load_reference(f"weights:{tmp_path}/p.pt[arch=conv2,width=0.1,{SETTINGS}]", digits)
