"""Attacks that cheat, models that misbehave, and requests that would mislead: none of it makes a figure."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch
from torch import nn

import rstbench
from rstbench import plugins
from rstbench.attacks import Crafted
from rstbench.errors import BadRequest, ModelFault
from rstbench.evaluation.judge import predict
from rstbench.evidence.trial import ModelInfo
from rstbench.models.identity import module_digest
from rstbench.models.wrapper import load_reference, wrap
from rstbench.networks.network import NetworkSpec, build
from rstbench.tickets.switch import Switch


class Net(nn.Module):
    """A linear model that is right on some digits."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.fc = nn.Linear(64, 10)
        self.fc.weight.data = torch.randn(10, 64, generator=generator)
        self.fc.bias.data.zero_()

    def forward(self, x):
        return self.fc(x.flatten(1))


@dataclasses.dataclass(frozen=True)
class Cheat:
    how: str = ""

    def __call__(self, model, x, y, threat, generator):
        if self.how == "zero":
            x.zero_()
        if self.how == "labels":
            y.copy_((model(x).argmax(1) + 1) % 10)
        if self.how == "weights":
            for parameter in model.parameters():
                parameter.data.zero_()
        if self.how == "tensor":
            return x
        if self.how == "stages":
            return Crafted(x, {"cheat": torch.zeros(3, dtype=torch.bool)})
        if self.how == "none":
            return Crafted(None)
        return Crafted(x)


@pytest.fixture
def cheat(monkeypatch):
    monkeypatch.setitem(plugins.BUILTIN["attacks"], "cheat", f"{__name__}:Cheat")
    monkeypatch.setattr(plugins.importlib, "import_module", lambda name: _module(name))


_real = plugins.importlib.import_module


def _module(name):
    import types

    return types.SimpleNamespace(Cheat=Cheat) if name == __name__ else _real(name)


def evaluate(model, attacks, **more):
    options = {"data": "digits:test:40", "threat": "Linf:0.1", "batch_size": 40, **more}
    return rstbench.evaluate({"m": model}, attacks=attacks, **options).iloc[0]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("zero", "beyond Linf:0.1"),
        ("weights", "changed the weights"),
        ("tensor", "wanted Crafted"),
        ("none", "wanted Crafted"),
        ("stages", "40 bits for each stage"),
    ],
)
def test_an_attack_that_cheats_is_named(cheat, how, message):
    model = Net()
    before = module_digest(model)[0]
    with pytest.warns(RuntimeWarning, match=message) as told:
        row = evaluate(model, [f"cheat:how={how}"])
    assert "m, cheat" in str(told[0].message)
    assert row["clean"] > 0
    assert pd.isna(row[f"cheat:how={how}"])
    assert pd.isna(row["worst"])
    assert module_digest(model)[0] == before


def test_an_attack_cannot_change_the_labels(cheat):
    row = evaluate(Net(), ["cheat:how=labels"])
    assert row["cheat:how=labels"] == row["clean"]


class InPlace(Net):
    def forward(self, x):
        x -= 0.1
        x *= 2.0
        return super().forward(x)


def test_a_model_that_writes_into_its_input_is_measured_like_any_other():
    row = evaluate(InPlace(), ["pgd:steps=3", "autoattack:attacks=apgd-ce"])
    assert "random-output" not in row["flags"]
    assert row["worst"] <= row["clean"]


class Grid(Net):
    """NaN off the real pixels' sixteenths."""

    def forward(self, x):
        off = ((x * 16).round() / 16 - x).abs().flatten(1).amax(1, keepdim=True) > 1e-3
        return torch.where(off, float("nan"), 1.0) * super().forward(x)


@pytest.mark.parametrize("attack", ["pgd:steps=2", "autoattack:attacks=apgd-ce", "autoattack:attacks=square"])
def test_nan_never_looks_robust(attack):
    row = evaluate(Grid(), [attack], data="digits:test:10", batch_size=10)
    assert row["clean"] > 0
    assert row["worst"] == 0
    assert "non-finite-logits" in row["flags"]


class Counter(Net):
    """Changes its mind after some forward passes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return super().forward(x) * (1 if self.seen < 3 else -1)


def test_a_model_with_a_memory_begins_each_shard_afresh():
    model = Counter()
    first = evaluate(model, ["pgd:steps=1"])
    assert float(model.seen) == 0
    assert evaluate(model, ["pgd:steps=1"])["clean"] == first["clean"]


def test_a_switch_in_hand_is_not_sampled(small_tickets, ticket_files):
    members = [ticket.module() for ticket in small_tickets]
    reference = "switch:" + "+".join(map(str, ticket_files))
    table = rstbench.evaluate(
        {"hand": Switch(members), "file": reference}, data="digits:test:40", threat="Linf:0.1", attacks="pgd"
    ).set_index("model")
    assert table.loc["hand", "kind"] == "switch"
    assert "random-output" not in table.loc["hand", "flags"]
    one = rstbench.evaluate(
        {"hand": Switch(members)}, data="digits:test:40", threat="Linf:0.1", attacks="pgd"
    )
    assert one.loc[0, "pgd"] == pytest.approx(table["pgd"].dropna().iloc[0], abs=0.05)


def test_what_a_model_is_made_of_is_in_its_digest(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(
        "import torch\nfrom torch import nn\nimport neighbour\n"
        "def closure(scale=1):\n"
        "    class C(nn.Module):\n"
        "        def forward(self, x):\n"
        "            return scale * x.flatten(1)[:, :10]\n"
        "    return C()\n"
        "class L(nn.Module):\n"
        "    def __init__(self, k=1):\n"
        "        super().__init__()\n"
        "        self.k = [k]\n"
        "    def forward(self, x):\n"
        "        return self.k[0] * neighbour.sign * x.flatten(1)[:, :10]\n"
    )
    (tmp_path / "neighbour.py").write_text("sign = 1\n")
    texts = [f"file:{path}:{name}" for name in ("closure[scale=1]", "closure[scale=-1]", "L[k=1]", "L[k=-1]")]
    digests = [load_reference(text).digest for text in texts]
    assert len(set(digests)) == 4
    assert [load_reference(text).digest for text in texts] == digests
    assert load_reference(texts[2]).resumable
    (tmp_path / "neighbour.py").write_text("sign = -1\n")
    edited = load_reference(texts[2])
    assert edited.digest != digests[2]
    assert float(edited.module(torch.ones(1, 1, 4, 4))[0, 0]) == -1


def test_neighbours_of_one_name_stay_apart(tmp_path):
    text = "import torch, helper\nfrom torch import nn\nclass M(nn.Module):\n"
    text += "    def forward(self, x):\n        return helper.K * x.flatten(1)\ndef net():\n    return M()\n"
    values = []
    for name, value in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.py").write_text(text)
        (tmp_path / name / "helper.py").write_text(f"K = {value}\n")
        values.append(float(load_reference(f"file:{tmp_path / name}/m.py:net").module(torch.ones(1, 1))))
    assert values == [2.0, 3.0]


def test_modules_of_torch_that_differ_by_a_setting():
    heads = [nn.MultiheadAttention(8, heads) for heads in (2, 4)]
    heads[1].load_state_dict(heads[0].state_dict())
    assert module_digest(heads[0])[0] != module_digest(heads[1])[0]
    hooked = Net()
    hooked.register_forward_hook(lambda module, x, out: -out)
    assert not module_digest(hooked)[1]


def test_cost_is_an_image_whatever_the_batch():
    for images, batch in ((40, 40), (30, 20), (10, 40)):
        how = {"data": f"digits:test:{images}", "batch_size": batch, "crafting": "exact"}
        row = evaluate(Net(), ["pgd:steps=3"], **how)
        assert (row["images"], row["forwards"], row["backwards"]) == (images, 4.0, 3.0)


def test_user_code_that_exits_is_a_wrong_request(tmp_path):
    (tmp_path / "m.py").write_text("def net():\n    raise SystemExit(3)\n")
    with pytest.raises(BadRequest, match="cannot be made"):
        load_reference(f"file:{tmp_path}/m.py:net")
    (tmp_path / "n.py").write_text("import sys\nsys.exit('bye')\n")
    with pytest.raises(BadRequest, match="does not run"):
        load_reference(f"file:{tmp_path}/n.py:net")


def test_nothing_to_evaluate():
    with pytest.raises(BadRequest, match="no models"):
        rstbench.evaluate({}, data="digits", threat="Linf:0.1")
    with pytest.raises(ModelFault, match="lazy cannot be read"):
        rstbench.evaluate({"lazy": nn.LazyLinear(10)}, data="digits", threat="Linf:0.1")


def test_a_traced_network_that_raises_says_so_once(capsys):
    """torch.fx prints a traceback of its own."""
    net = build(NetworkSpec("resnet18", (3, 16, 16), 10, 0.1)).eval()
    entry = wrap(net, ModelInfo("resnet", "external"))
    with pytest.raises(ModelFault, match=r"resnet raised on images of shape \(1, 8, 8\): RuntimeError"):
        predict(entry, torch.rand(2, 1, 8, 8), 10)
    assert capsys.readouterr().err == ""
