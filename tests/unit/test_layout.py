"""Graphs from elsewhere: ONNX files and programs of torch.export that take images in other forms."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from rstbench.data import load
from rstbench.errors import BadFile, BadRequest
from rstbench.models.sources.axis_order import ONE_BY_ONE, ORDERS, input_layout
from rstbench.models.wrapper import load_reference

W = torch.Generator().manual_seed(3)
GREY = torch.randn(64, 10, generator=W)
COLOUR = torch.randn(3 * 4 * 4, 10, generator=W)


@pytest.fixture(scope="module")
def digits():
    return load("digits:test:7")


class Colours:
    """What a source is told of a colour data set of 4x4 images."""

    classes, shape = 10, (3, 4, 4)


def written(
    path, nodes, x, held, *, y=("n", 10), kind=TensorProto.FLOAT, out=TensorProto.FLOAT, opset=13, outputs=1
):
    """A graph by hand: input x, output y, constants by name."""
    given = helper.make_tensor_value_info("x", kind, x)
    wanted = [helper.make_tensor_value_info(name, out, y) for name in ("y", "z")[:outputs]]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], wanted, constants),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    model.ir_version = 8
    onnx.save(model, path)
    return f"onnx:{path}"


def linear(path, x, weight, *, reshape=(-1,), flat=False, **settings):
    """y = x w, behind a reshape to `reshape` x features unless the input is flat."""
    held = {"w": weight.numpy(), "s": np.array([*reshape, len(weight)])}
    nodes = [helper.make_node("Reshape", ["x", "s"], ["f"])]
    nodes = [] if flat else nodes
    held = {"w": held["w"]} if flat else held
    nodes.append(helper.make_node("MatMul", ["x" if flat else "f", "w"], ["y"]))
    return written(path, nodes, x, held, **settings)


def same(reference, images, wanted):
    """The module's logits, and their gradients, are those of x -> wanted(x), in batches of any size."""
    entry = load_reference(reference, images)
    x = torch.rand(5, *images.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.allclose(entry.module(x), wanted(x), atol=1e-4)
    assert torch.allclose(entry.module(x[:1]), wanted(x[:1]), atol=1e-4)
    chosen = torch.randn(5, 10, generator=torch.Generator().manual_seed(2))
    (mine,) = torch.autograd.grad((entry.module(x) * chosen).sum(), x)
    (exact,) = torch.autograd.grad((wanted(x) * chosen).sum(), x)
    assert torch.allclose(mine, exact, atol=1e-4)
    assert entry.resumable
    assert load_reference(reference, images).digest == entry.digest
    return entry


def by_channel(x):
    return x.flatten(1) @ (GREY if x.shape[1] == 1 else COLOUR)


def by_pixel(x):
    return x.permute(0, 2, 3, 1).flatten(1) @ COLOUR


@pytest.mark.parametrize("reshape", [(-1,), (1,), (0,)])
def test_one_image_at_once(tmp_path, digits, reshape):
    """A batch of 1 in the input, or a free one that a reshape does not keep."""
    for batch in (1, "n"):
        reference = linear(tmp_path / f"{batch}.onnx", [batch, 1, 8, 8], GREY, reshape=reshape)
        entry = same(reference, digits, by_channel)
        assert entry.notes == ((ONE_BY_ONE,) if batch == 1 or reshape == (1,) else ())


@pytest.mark.parametrize("batch", ["n", 1])
def test_channels_last(tmp_path, digits, batch):
    same(linear(tmp_path / "a.onnx", [batch, 4, 4, 3], COLOUR, reshape=(-1,)), Colours, by_pixel)
    same(linear(tmp_path / "b.onnx", [batch, 8, 8, 1], GREY), digits, by_channel)
    same(linear(tmp_path / "c.onnx", [batch, "h", "w", 3], COLOUR), Colours, by_pixel)
    same(linear(tmp_path / "d.onnx", [batch, "c", "h", "w"], COLOUR), Colours, by_channel)
    alone = load_reference(linear(tmp_path / "e.onnx", ["n", 4, 4, 3], COLOUR))  # the file alone tells
    x = torch.rand(3, 3, 4, 4)
    assert torch.allclose(alone.module(x), by_pixel(x), atol=1e-4)


def test_flattened_images(tmp_path, digits):
    same(linear(tmp_path / "a.onnx", ["n", 64], GREY, flat=True), digits, by_channel)
    same(linear(tmp_path / "b.onnx", [1, 64], GREY, flat=True), digits, by_channel)
    same(linear(tmp_path / "c.onnx", ["n", 8, 8], GREY), digits, by_channel)
    colour = linear(tmp_path / "d.onnx", ["n", 48], COLOUR, flat=True)
    with pytest.raises(BadRequest, match=r"48 numbers an image, their order is .*; add \[layout=nchw\]"):
        load_reference(colour, Colours)
    nchw = same(f"{colour}[layout=nchw]", Colours, by_channel)
    nhwc = same(f"{colour}[layout=nhwc]", Colours, by_pixel)
    assert nchw.digest != nhwc.digest
    with pytest.raises(BadRequest, match="layout is nchw or nhwc, got 'hwc'"):
        load_reference(f"{colour}[layout=hwc]", Colours)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_other_precisions(tmp_path, digits, kind):
    numpy = {TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16}[kind]
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    held = {"w": (GREY / 8).numpy().astype(numpy)}
    reference = written(tmp_path / "a.onnx", nodes, ["n", 1, 8, 8], held, kind=kind, out=kind)
    module = load_reference(reference, digits).module
    x = torch.rand(4, 1, 8, 8)
    logits = module(x)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, by_channel(x) / 8, atol=1e-2)


def test_graphs_that_are_refused(tmp_path, digits):
    flat = helper.make_node("Flatten", ["x"], ["f"])
    product = helper.make_node("MatMul", ["f", "w"], ["y"])
    weight = {"w": GREY.numpy()}
    images = ["n", 1, 8, 8]
    statistics = {"one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
    norm = helper.make_node("InstanceNormalization", ["x", "one", "zero"], ["i"])
    node = helper.make_node
    mean, centred = node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["d"])
    noise, noisy = node("RandomUniformLike", ["x"], ["r"]), node("Add", ["x", "r"], ["d"])
    then = node("Flatten", ["d"], ["f"])
    label = [node("MatMul", ["f", "w"], ["p"]), node("ArgMax", ["p"], ["y"], axis=1, keepdims=0)]
    graphs = {
        "batch of 3": (linear(tmp_path / "3.onnx", [3, 1, 8, 8], GREY), "takes 3 images at once only"),
        "bytes": (
            written(tmp_path / "u.onnx", [node("Cast", ["x"], ["d"], to=1), then, product], images, weight,
                    kind=TensorProto.UINT8),
            "takes uint8 numbers, and images are float32 in",
        ),
        "a label": (
            written(tmp_path / "l.onnx", [flat, *label], images, weight, y=["n"], out=TensorProto.INT64),
            r"wanted logits of shape \(n, classes\), got int64 \(1,\)",
        ),
        "a map": (
            written(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], images, {}, y=images),
            r"wanted logits of shape \(n, classes\), got float32 \(1, 1, 8, 8\)",
        ),
        "no number": (linear(tmp_path / "n.onnx", images, GREY * torch.nan), "logits that are not finite"),
        "a foreign operator": (
            written(tmp_path / "f.onnx", [node("Foo", ["x"], ["y"], domain="ours")], images, {}),
            "does not run in ONNX Runtime|is no whole ONNX file",
        ),
        "two outputs": (
            written(tmp_path / "2.onnx", [flat, product, node("Relu", ["y"], ["z"])], images,
                    weight, outputs=2),
            "wants one input and one output, and has the outputs y, z",
        ),
        "another shape": (linear(tmp_path / "s.onnx", ["n", 3, 8, 8], torch.ones(192, 10)),
                          "takes images of 3 x 8 x 8, the data has 1 x 8 x 8"),
        "another length": (linear(tmp_path / "t.onnx", ["n", 65], torch.ones(65, 10), flat=True),
                           "takes inputs of 65, the data has images 1 x 8 x 8"),
        "the batch's mean": (
            written(tmp_path / "b.onnx", [mean, centred, then, product], images, weight),
            "answers an image differently beside others; export it in eval mode",
        ),
        "noise": (
            written(tmp_path / "r.onnx", [noise, noisy, then, product], images, weight),
            "cannot become a torch module|answers the same image differently",
        ),
    }  # fmt: skip
    for name, (reference, message) in graphs.items():
        with pytest.raises(BadRequest, match=message) as refused:
            load_reference(reference, digits)
        assert "\n" not in str(refused.value), name
    nodes = [norm, helper.make_node("Flatten", ["i"], ["f"]), product]
    assert load_reference(written(tmp_path / "i.onnx", nodes, images, {**weight, **statistics}), digits)


def test_dropout_of_an_untrained_mode_draws_nothing(tmp_path, digits):
    """ONNX Runtime takes dropout out of what it runs, and the torch module has to agree with it."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Dropout", ["f", "half", "on"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    held = {"w": GREY.numpy(), "half": np.float32(0.5), "on": np.bool_(True)}
    same(written(tmp_path / "a.onnx", nodes, ["n", 1, 8, 8], held), digits, by_channel)


def normed(path, *, opset, outputs=1, **settings):
    """A batch norm before the matrix, as exporters write it in training mode and outside of it."""
    more = ["m", "v", "sm", "sv"][: outputs - 1]
    nodes = [
        helper.make_node("BatchNormalization", ["x", "one", "zero", "zero", "one"], ["b", *more], **settings),
        helper.make_node("Flatten", ["b"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    held = {"w": GREY.numpy(), "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
    return written(path, nodes, ["n", 1, 8, 8], held, opset=opset)


@pytest.mark.parametrize(
    ("opset", "settings"),
    [(13, {"outputs": 5}), (15, {"outputs": 3, "training_mode": 1}), (15, {"training_mode": 1})],
)
def test_graphs_of_the_training_mode(tmp_path, digits, opset, settings):
    with pytest.raises(BadRequest, match=r"was exported in training mode, .*; export it after net.eval\(\)"):
        load_reference(normed(tmp_path / "t.onnx", opset=opset, **settings), digits)
    plain = normed(tmp_path / "e.onnx", opset=opset, epsilon=1e-12)
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(load_reference(plain, digits).module(x), by_channel(x), atol=1e-4)


def test_operators_that_lack_double_precision(tmp_path, digits):
    """Whichever ONNX Runtime has no kernel for: the way out is the precision of images."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    held = {"k": np.full((1, 1, 1, 1), 2.0), "w": GREY.double().numpy()}
    double = {"kind": TensorProto.DOUBLE, "out": TensorProto.DOUBLE}
    with pytest.raises(BadRequest, match=r"its numbers are float64: export it in float32 \(net.float\(\)\)"):
        load_reference(written(tmp_path / "d.onnx", nodes, ["n", 1, 8, 8], held, **double), digits)
    single = {name: value.astype(np.float32) for name, value in held.items()}
    same(written(tmp_path / "s.onnx", nodes, ["n", 1, 8, 8], single), digits, lambda x: by_channel(2 * x))


def test_files_of_another_kind_are_named(tmp_path, digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(tmp_path / "script.pt")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    save_file(net.state_dict(), tmp_path / "state.safetensors")
    exported(net, tmp_path / "program.pt2", x=torch.rand(2, 1, 8, 8))
    linear(tmp_path / "graph.onnx", ["n", 1, 8, 8], GREY)
    for text, message in (
        ("torch-export:script.pt", r"a TorchScript archive; torch.jit.load\(…\) in a file of your own"),
        ("torch-export:state.pt", r"a file of torch.save; use weights:FILE\[arch=NETWORK\]"),
        ("torch-export:state.safetensors", r"a safetensors file; use weights:FILE\[arch=NETWORK\]"),
        ("torch-export:graph.onnx", "is no program of torch.export"),
        ("onnx:script.pt", "a TorchScript archive"),
        ("onnx:state.pt", "a file of torch.save; use weights"),
        ("onnx:program.pt2", "a program of torch.export; use torch-export:FILE"),
    ):
        source, _, name = text.partition(":")
        with pytest.raises(BadFile, match=message):
            load_reference(f"{source}:{tmp_path}/{name}", digits)


@pytest.mark.parametrize("opset", [7, 9, 13, 20])
def test_old_and_new_operators(tmp_path, digits, opset):
    same(linear(tmp_path / "a.onnx", ["n", 1, 8, 8], GREY, opset=opset), digits, by_channel)


def test_weights_in_a_file_beside(tmp_path, digits, monkeypatch):
    linear(tmp_path / "a.onnx", ["n", 1, 8, 8], GREY)
    model = onnx.load(tmp_path / "a.onnx")
    (tmp_path / "there").mkdir()
    beside = {"save_as_external_data": True, "location": "a.data", "size_threshold": 0}
    onnx.save(model, tmp_path / "there" / "a.onnx", **beside)
    assert (tmp_path / "there" / "a.data").is_file()
    monkeypatch.chdir(tmp_path)
    same("onnx:there/a.onnx", digits, by_channel)
    os.remove("there/a.data")
    with pytest.raises(BadFile, match="is no whole ONNX file"):
        load_reference("onnx:there/a.onnx", digits)


@pytest.mark.parametrize(
    ("sizes", "shape", "form", "last"),
    [
        ((None, 3, 32, 32), (3, 32, 32), (3, 32, 32), False),
        ((None, 32, 32, 3), (3, 32, 32), (32, 32, 3), True),
        ((None, None, None, None), (3, 5, 7), (3, 5, 7), False),
        ((None, None, None, 3), (3, 5, 7), (5, 7, 3), True),
        ((1, 3, 3, 3), (3, 3, 3), (3, 3, 3), False),
        ((None, 224, 224, 3), None, (224, 224, 3), True),
        ((None, 3, 224, 224), None, (3, 224, 224), False),
    ],
)
def test_layouts_by_hand(sizes, shape, form, last):
    found = input_layout(sizes, shape, "", torch.float32, "onnx:a")
    assert (found.form, found.last, found.single) == (form, last, sizes[0] == 1)
    channels, height, width = found.shape
    x = torch.arange(2.0 * channels * height * width).view(2, *found.shape)
    laid = found.into(x)
    assert laid.shape == (2, *form)
    where = (1, 2, 1, 0) if last else (1, 0, 2, 1)
    assert laid[where] == x[1, 0, 2, 1]
    assert set(ORDERS) == {"nchw", "nhwc"}


# Programs of torch.export.


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


def exported(net, path, batch=2, *, free=True, x=None):
    x = torch.rand(batch, 1, 8, 8) if x is None else x
    shapes = ({0: torch.export.Dim.AUTO},) if free else None
    program = torch.export.export(net, (x,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return f"torch-export:{path}"


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


def _nodes(plain):
    return plain["graph_module"]["graph"]["nodes"]


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


def test_a_graph_agrees_with_its_runtime_in_both_forms(tmp_path, digits):
    """The same file asked by ONNX Runtime, image by image."""
    reference = linear(tmp_path / "a.onnx", [1, 1, 8, 8], GREY, reshape=(1,))
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    x, _ = digits.at(slice(None))
    wanted = np.concatenate([session.run(None, {"x": image[None].numpy()})[0] for image in x])
    assert torch.allclose(load_reference(reference, digits).module(x), torch.from_numpy(wanted), atol=1e-4)
