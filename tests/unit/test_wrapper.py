"""Who is who: digests of models, and modules given back as they came."""

from __future__ import annotations

import pytest
import torch
import torch.fx
from torch import nn

from rstbench.data import load
from rstbench.errors import BadRequest
from rstbench.evidence.trial import ModelInfo
from rstbench.models.fast_copy import crafting_copy
from rstbench.models.frozen import frozen_eval
from rstbench.models.identity import module_digest
from rstbench.models.wrapper import load_reference, wrap, wrap_switch
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.tickets.init import random_weights
from rstbench.tickets.switch import Switch

FACTORY = """
import torch

class Net(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.fc = torch.nn.Linear(64, 10)
        self.scale = scale
        torch.nn.init.constant_(self.fc.weight, 0.5)
        torch.nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        return self.scale * self.fc(x.flatten(1))

def net(**options):
    return Net(**options)
"""


def linear():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.ones_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    return net


def test_equal_modules_have_one_digest_and_any_change_another():
    first = module_digest(linear())[0]
    assert module_digest(linear())[0] == first
    changed = linear()
    with torch.no_grad():
        changed[1].weight[0, 0] = 2
    assert module_digest(changed)[0] != first
    assert module_digest(linear().double())[0] != first
    # The same state dict in another module: other behaviour.
    other = nn.Sequential(nn.Flatten(), linear()[1], nn.ReLU())
    assert other.state_dict().keys() == linear().state_dict().keys()
    assert module_digest(other)[0] != first


def test_a_tensor_outside_the_state_dict_counts():
    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = torch.tensor(factor)

    digests = {module_digest(Scaled(factor))[0] for factor in (1.0, 2.0)}
    assert len(digests) == 2
    assert module_digest(Scaled(1.0))[1]


def test_an_edited_factory_file_is_another_model(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    first = load_reference(f"file:{path}:net")
    assert load_reference(f"file:{tmp_path}/../{tmp_path.name}/mine.py:net").digest == first.digest
    path.write_text(FACTORY.replace("self.scale *", "-self.scale *"))
    edited = load_reference(f"file:{path}:net")
    assert edited.digest != first.digest
    x = torch.rand(2, 1, 8, 8)
    assert edited.module(x).equal(-first.module(x))


def test_a_class_whose_text_is_gone_is_never_taken_for_another():
    space = {"__name__": "nowhere_to_be_found"}
    exec(FACTORY, space)
    made = [wrap(space["net"](), ModelInfo("x", "external")) for _ in range(2)]
    assert made[0].digest != made[1].digest
    assert not made[0].resumable


def test_options_reach_the_factory(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    assert load_reference(f"file:{path}:net[scale=3]").module.scale == 3
    with pytest.raises(BadRequest, match="unexpected keyword"):
        load_reference(f"file:{path}:net[size=3]")


def test_python_source(tmp_path, monkeypatch):
    (tmp_path / "my_models_here.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        load_reference("python:my_models_here:net").digest
        != load_reference("python:my_models_here:Net[scale=2]").digest
    )
    with pytest.raises(BadRequest, match="does not import"):
        load_reference("python:no_such_module:net")


def test_wrong_references(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        FACTORY + "\ndef broken():\n    raise ValueError('two\\nlines')\n\ndef text():\n    return 'x'\n"
    )
    cases = {
        f"file:{path}": "file:PATH.py:factory",
        f"file:{path}:ent": "there are: .*net",
        f"file:{path}:broken": "two",
        f"file:{path}:text": "nn.Module",
        f"file:{tmp_path}/none.py:net": "no file",
        "tikcet:a": "did you mean 'ticket'",
        "ticket:none.safetensors": "no ticket file",
        "checkpoint:none.safetensors": "no checkpoint file",
        "switch:none.safetensors": "no ticket file",
        "robustbench:cifar10": "robustbench:cifar10/Linf/NAME",
    }
    for text, message in cases.items():
        with pytest.raises(BadRequest, match=message):
            load_reference(text)


def test_a_file_that_does_not_run(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def net(:\n")
    with pytest.raises(BadRequest, match="does not run"):
        load_reference(f"file:{path}:net")


def test_a_module_comes_back_as_it_was():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    net[1].eval()
    net[0].bias.requires_grad_(False)
    with frozen_eval(net, torch.device("cpu")):
        assert not net[0].training
        assert not any(p.requires_grad for p in net.parameters())
    assert (net.training, net[0].training, net[1].training) == (True, True, False)
    assert (net[0].weight.requires_grad, net[0].bias.requires_grad) == (True, False)


def test_switch_entries(ticket_files, small_entries, spec, split, tmp_path):
    entry = load_reference("switch:" + "+".join(map(str, ticket_files)))
    assert [member.digest for member in entry.members] == [e.digest for e in small_entries]
    assert entry.info.weights == (0.5, 0.5)
    with pytest.raises(BadRequest, match="the same model"):
        wrap_switch([small_entries[0], small_entries[0]], "s")
    with pytest.raises(BadRequest, match="at least two"):
        load_reference(f"switch:{ticket_files[0]}")


def test_members_of_a_switch_share_one_random_network(ticket_files, spec, split, tmp_path):
    from rstbench.tickets.methods.edge_popup import edge_popup
    from rstbench.tickets.methods.search import Search
    from rstbench.training.recipe import recipe_for

    recipe = recipe_for({"network": "conv2", "width": 0.1, "epochs": 1, "seed": 5})
    stranger, _ = edge_popup(
        Search(spec, random_weights(prunable(build(spec)), "signed_constant", 5), "0.5", split, recipe)
    )
    stranger.save(tmp_path / "other.safetensors")
    with pytest.raises(BadRequest, match="share one random network"):
        load_reference(f"switch:{ticket_files[0]}+{tmp_path / 'other.safetensors'}")


def test_the_switch_answers_each_image_by_one_member(small_entries):
    modules = [entry.module for entry in small_entries]
    x, _ = load("digits:test:200").at(slice(None))
    switch = Switch(modules, [0.25, 0.75], seed=1).eval()
    answers = [module(x) for module in modules]
    got = switch(x)
    first, second = (torch.isclose(got, answer, atol=1e-5).all(1) for answer in answers)
    assert (first ^ second).all()
    assert 0.6 < float(second.float().mean()) < 0.9
    assert not switch(x).equal(got)  # drawn afresh
    assert Switch(modules, [0.25, 0.75], seed=1)(x).equal(got)  # from its own generator
    assert switch(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("chances", [[0.5], [0.6, 0.6], [-0.5, 1.5]])
def test_weights_of_a_switch_are_probabilities(small_entries, chances):
    with pytest.raises(BadRequest, match="probabilities"):
        Switch([entry.module for entry in small_entries], chances)


@pytest.mark.parametrize("network", ["conv4", "resnet18", "preactresnet18", "mobilenetv2"])
@pytest.mark.parametrize("norm", ["batch", "affine", "none"])
def test_the_crafting_copy_is_near_and_leaves_the_module_alone(network, norm):
    torch.manual_seed(0)
    net = build(NetworkSpec(network, (3, 16, 16), 10, 0.2, norm))
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if "running" in name or name.endswith("bias"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    net = net.requires_grad_(False).eval()
    digest = module_digest(net)[0]
    x = torch.rand(6, 3, 16, 16, generator=generator)
    fast = crafting_copy(net, x)
    assert fast is not net
    assert torch.allclose(fast(x), net(x), rtol=1e-4, atol=1e-4)
    if network != "preactresnet18":  # there the norm comes before the convolution
        assert not any(isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) for part in fast.modules())
    gradients = []
    for module in (net, fast):
        image = x.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(module(image).square().sum(), image)[0])
    assert gradients[1].is_contiguous()
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[0].abs().max()))
    assert module_digest(net)[0] == digest


def test_what_cannot_be_traced_is_crafted_against_as_it_is():
    class Branching(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] if x.sum() > 0 else x.flatten(1)[:, 3:6]

    net, x = Branching(), torch.rand(2, 1, 8, 8)
    assert crafting_copy(net, x) is net


def test_norm_without_statistics_is_not_folded():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()).eval()
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(crafting_copy(net, x)(x), net(x), atol=1e-5)


def test_traced_code_is_part_of_the_digest():
    class Added(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.fc, self.sign = linear(), sign

        def forward(self, x):
            return self.sign * self.fc(x)

    graphs = [torch.fx.symbolic_trace(Added(sign)) for sign in (1, -1)]
    assert repr(graphs[0]) == repr(graphs[1])
    assert module_digest(graphs[0])[0] != module_digest(graphs[1])[0]


def test_a_switch_with_given_probabilities(ticket_files):
    text = "switch:" + "+".join(map(str, ticket_files))
    entry = load_reference(f"{text}[weights=0.25+0.75]")
    assert entry.info.weights == (0.25, 0.75)
    assert entry.info.name.endswith("[weights=0.25+0.75]")
    assert entry.digest != load_reference(text).digest
    for wrong, message in (("0.5", "wants as many"), ("a+b", "read 0.2"), ("0.5+0.6", "add to 1")):
        with pytest.raises(BadRequest, match=message):
            load_reference(f"{text}[weights={wrong}]")
