"""Programs of torch.export are measured as their networks, and run no code of their own."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
import torch
from torch import nn

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.models.sources.axis_order import ONE_BY_ONE
from rstbench.models.wrapper import load_reference
from tests.unit.graphs import Colours, exported, same


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:7")


class Net(nn.Module):
    def __init__(self, channels=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.uniform_(-1, 1)
        self.drop = nn.Dropout(0.5)
        self.line = nn.Linear(256, 10)
        self.shift = torch.full((4, 1, 1), 0.5)  # becomes a constant of the program

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))) + self.shift
        return self.line(self.drop(x.view(x.shape[0], -1)))


class Several(nn.Module):
    def forward(self, x):
        return x.flatten(1), x


class Named(nn.Module):
    def forward(self, x):
        return {"logits": x.flatten(1)}


def test_programs_are_measured_as_their_networks(tmp_path, digits):
    net = Net().eval()
    assert same(exported(net, tmp_path / "a.pt2"), digits, net).notes == ()
    assert same(exported(net, tmp_path / "b.pt2", 1, free=False), digits, net).notes == (ONE_BY_ONE,)
    with pytest.raises(BadRequest, match="takes 2 images at once only"):
        load_reference(exported(net, tmp_path / "c.pt2", free=False), digits)
    entry = load_reference(f"torch-export:{tmp_path}/a.pt2")  # the file tells the shape
    entry.module.eval().train().eval()
    assert entry.module(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert not any(parameter.requires_grad for parameter in entry.module.parameters())


def test_programs_that_are_refused(tmp_path, digits):
    training = exported(Net().train(), tmp_path / "t.pt2")
    with pytest.raises(
        BadRequest, match="answers the same image differently each time; export it in eval mode"
    ):
        load_reference(training, digits)
    normed = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)).train()
    with pytest.raises(BadRequest, match="answers an image differently beside others"):
        load_reference(exported(normed, tmp_path / "n.pt2"), digits)
    for net, message in ((Several(), "wants one input and one output"), (Named(), "got dict")):
        with pytest.raises(BadRequest, match=message):
            load_reference(exported(net, tmp_path / "s.pt2"), digits)
    double = exported(Net().eval().double(), tmp_path / "d.pt2", x=torch.rand(2, 1, 8, 8).double())
    assert load_reference(double, digits).module(torch.rand(2, 1, 8, 8)).dtype == torch.float32
    with pytest.raises(BadRequest, match="takes images of 1 x 8 x 8, the data has 3 x 4 x 4"):
        load_reference(exported(Net().eval(), tmp_path / "o.pt2"), Colours)
    for content in (b"", b"PK", b"not a program"):
        (tmp_path / "x.pt2").write_bytes(content)
        with pytest.raises(BadFile, match=r"is no program of torch\.export|is empty|is damaged"):
            load_reference(f"torch-export:{tmp_path}/x.pt2")
    with pytest.raises(BadFile, match="no file"):
        load_reference(f"torch-export:{tmp_path}/gone.pt2")


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


def changed(source, path, **contents):
    """The archive with other records; a callable changes the JSON that is there."""
    with zipfile.ZipFile(source) as held:
        records = {name: held.read(name) for name in held.namelist()}
    root = next(iter(records)).partition("/")[0]
    for name, content in contents.items():
        name = f"{root}/{name.replace('__', '/')}"
        if callable(content):
            plain = json.loads(records[name])
            content(plain)
            content = json.dumps(plain).encode()
        records[name] = content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as made:
        for name, content in records.items():
            made.writestr(name, content)
    return f"torch-export:{path}"


CODE = "__import__('builtins').print('code was run')"


GRAPH, WEIGHTS = "models__model.json", "data__weights__model_weights_config.json"


INPUT = ("graph_module", "signature", "input_specs", -1, "user_input", "arg", "as_tensor")


def _spoil(*places, to):
    def change(plain):
        for place in places[:-1]:
            plain = plain[place]
        plain[places[-1]] = to

    return change


NODE = ("graph_module", "graph", "nodes", 0)


@pytest.mark.parametrize(
    "change",
    [
        _spoil(*NODE, "target", to="torch.os.system"),
        _spoil(*NODE, "target", to="torch.ops.aten.__class__.mro"),
        _spoil(*NODE, "target", to="torch.ops.aten.from_file.default"),
        _spoil(*NODE, "target", to="_operator.attrgetter"),
        _spoil(*NODE, "name", to=f"a={CODE}"),
        _spoil(*INPUT, "name", to=CODE),
        _spoil("graph_module", "module_call_graph", 0, "signature", "forward_arg_names", to=[CODE]),
        _spoil("graph_module", "graph", "tensor_values", "x", "sizes", 0, "as_expr", "expr_str", to=CODE),
        _spoil("graph_module", "module_call_graph", 0, "signature", "in_spec", to=json.dumps(
            [1, {"type": "collections.defaultdict", "context": "os", "children_spec": []}])),
    ],
)  # fmt: skip
def test_programs_that_would_run_code(tmp_path, capsys, change):
    exported(Net().eval(), tmp_path / "a.pt2")
    reference = changed(tmp_path / "a.pt2", tmp_path / "b.pt2", **{GRAPH: change})
    with pytest.raises(BadFile, match="none of torch's own operators, names and sizes"):
        load_reference(reference)
    assert "code was run" not in capsys.readouterr().out


def test_pickles_in_a_program_are_not_read(tmp_path, capsys):
    net = Net().eval()
    exported(net, tmp_path / "a.pt2")
    buffer = io.BytesIO()
    torch.save(Trap(), buffer)
    spoilt = changed(
        tmp_path / "a.pt2",
        tmp_path / "b.pt2",
        data__weights__weight_0=buffer.getvalue(),
        **{WEIGHTS: _spoil("config", "conv.weight", "use_pickle", to=True)},
    )
    with pytest.raises(BadFile, match=r"conv\.weight is no plain tensor, and reading it would run code"):
        load_reference(spoilt)
    # Examples, guards and what is said of the steps take no part in the answers: they are left out.
    left_out = changed(
        tmp_path / "a.pt2",
        tmp_path / "c.pt2",
        **{"data__sample_inputs__model.pt": buffer.getvalue(), GRAPH: _spoil("guards_code", to=[CODE])},
    )
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(load_reference(left_out).module(x), net(x), atol=1e-5)
    assert "code was run" not in capsys.readouterr().out
