"""Checkpoints of other projects: their layer classes re-stated, run, and read by us, with equal logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from rstbench.adapters.entry import load_entry
from rstbench.adapters.foreign import published_mask
from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.tickets.networks import NetworkSpec, build

KEPT = 0.3


class Subnet(nn.Conv2d):
    """The published convolution: scores of the weight's shape or of its first dimensions, sorted anew."""

    def __init__(self, inputs, outputs, kernel, dims, name="scores"):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        scores = torch.empty(self.weight.shape[:dims])
        nn.init.normal_(scores)
        self.register_parameter(name, nn.Parameter(scores))
        self.name = name
        self.weight.requires_grad_(False)

    def forward(self, x):
        scores = getattr(self, self.name).abs()
        out = scores.clone()
        _, order = scores.flatten().sort()
        dropped = int((1 - KEPT) * scores.numel())
        flat = out.flatten()
        flat[order[:dropped]] = 0
        flat[order[dropped:]] = 1
        mask = flat.view(scores.shape)
        while mask.dim() < 4:
            mask = mask.unsqueeze(-1)
        return nn.functional.conv2d(x, self.weight * mask, padding=self.padding)


class Conv2(nn.Module):
    """The published Conv2, its linear layers being 1x1 convolutions, here with non-affine batch norm."""

    def __init__(self, dims, name="scores", width=6, hidden=26):
        super().__init__()
        self.convs = nn.Sequential(
            Subnet(1, width, 3, dims, name), nn.BatchNorm2d(width, affine=False), nn.ReLU(),
            Subnet(width, width, 3, dims, name), nn.BatchNorm2d(width, affine=False), nn.ReLU(),
            nn.MaxPool2d(2),
        )  # fmt: skip
        self.linear = nn.Sequential(
            Subnet(16 * width, hidden, 1, dims, name), nn.BatchNorm2d(hidden, affine=False), nn.ReLU(),
            Subnet(hidden, hidden, 1, dims, name), nn.BatchNorm2d(hidden, affine=False), nn.ReLU(),
            Subnet(hidden, 10, 1, min(dims, 2), name),
        )  # fmt: skip

    def forward(self, x):
        out = self.convs(x)
        return self.linear(out.view(len(x), -1, 1, 1)).flatten(1)


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:20")


def trained_a_little(net, images):
    """Norm statistics that are not those of a fresh network."""
    x, _ = images.at(slice(None))
    with torch.no_grad():
        for _ in range(3):
            net.train()(x)
    return net.eval()


@pytest.mark.parametrize(("pattern", "dims"), [("element", 4), ("row", 3), ("kernel", 2)])
@pytest.mark.parametrize("parallel", [True, False])
def test_rst_checkpoints(tmp_path, digits, pattern, dims, parallel):
    torch.manual_seed(0)
    net = trained_a_little(Conv2(dims), digits)
    state = {f"module.{k}" if parallel else k: v for k, v in net.state_dict().items()}
    torch.save({"epoch": 160, "arch": "Conv2", "state_dict": state, "best_acc1": 50.0}, tmp_path / "rst.pth")
    entry = load_entry(f"weights:{tmp_path}/rst.pth[arch=conv2,width=0.1,remaining=0.3]", digits)
    x, _ = digits.at(slice(None))
    assert torch.allclose(entry.module(x), net(x), atol=1e-5)
    assert entry.card.remaining == pytest.approx(KEPT, abs=0.02)
    assert {type(part).__module__.split(".")[0] for part in entry.module.modules()} == {"torch"}


def test_hydra_checkpoints(tmp_path, digits):
    torch.manual_seed(0)
    net = trained_a_little(Conv2(4, "popup_scores"), digits)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "h.pth")
    entry = load_entry(f"weights:{tmp_path}/h.pth[arch=conv2,width=0.1,remaining=0.3]", digits)
    x, _ = digits.at(slice(None))
    assert torch.allclose(entry.module(x), net(x), atol=1e-5)


def test_pruned_by_torch(tmp_path, digits):
    torch.manual_seed(0)
    net = trained_a_little(build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1)), digits)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(layer, "weight", amount=0.6)
    torch.save(net.state_dict(), tmp_path / "p.pt")
    entry = load_entry(f"weights:{tmp_path}/p.pt[arch=conv2,width=0.1]", digits)
    x, _ = digits.at(slice(None))
    assert entry.module(x).equal(net(x))
    assert entry.card.remaining == pytest.approx(0.4, abs=0.01)


def test_a_plain_sparse_state_dict_tells_what_is_kept(tmp_path, digits):
    net = build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data.flatten()[::2] = 0
    torch.save(net.state_dict(), tmp_path / "s.pt")
    entry = load_entry(f"weights:{tmp_path}/s.pt[arch=conv2,width=0.1]", digits)
    assert entry.card.remaining == pytest.approx(0.5, abs=0.01)


def test_the_published_count():
    """n - int((1 - k) n) in floating point: 4,609 of 5,120 for 0.9, where 4,608 would be exact."""
    weight = torch.ones(10, 512, 1, 1)
    mask = published_mask(torch.randn(10, 512, 1, 1), 0.9, weight)
    assert int(mask.sum()) == 4609
    rows = published_mask(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), 0.5, torch.ones(2, 2, 3, 3))
    assert rows[:, :, 0, 0].tolist() == [[False, True], [True, False]]
    assert int(rows.sum()) == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("arch=conv2,width=0.1", "the kept fraction; add remaining=0.05"),
        ("arch=conv2,width=0.1,remaining=3", "remaining is the kept fraction"),
        ("arch=conv2,width=0.2,remaining=0.3", "choose another arch"),
        ("arch=conv2,width=0.1,remaining=0.3,allocation=x", "uniform or p:0.1"),
    ],
)
def test_wrong_requests(tmp_path, digits, options, message):
    torch.save(Conv2(4).state_dict(), tmp_path / "rst.pth")
    with pytest.raises(BadRequest, match=message):
        load_entry(f"weights:{tmp_path}/rst.pth[{options}]", digits)


def test_a_fraction_for_a_file_without_scores(tmp_path, digits):
    torch.save(build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1)).state_dict(), tmp_path / "d.pt")
    with pytest.raises(BadRequest, match="goes with files that hold scores"):
        load_entry(f"weights:{tmp_path}/d.pt[arch=conv2,width=0.1,remaining=0.3]", digits)
