"""Tangent kernels in closed form, and what the transfer of a kernel must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from rstbench.errors import BadRequest
from rstbench.networks.network import NetworkSpec, build, prunable
from rstbench.tickets.init import random_weights
from rstbench.tickets.methods import awt
from rstbench.tickets.methods.awt import AWT, AWTMoved
from rstbench.tickets.methods.memory import count_activations, free_memory
from rstbench.tickets.methods.search import Search, parse_method
from rstbench.tickets.methods.tangent_kernel import kernel_distances, kernel_times, tangent_kernel
from rstbench.tickets.ticket import Ticket
from rstbench.training.recipe import recipe_for

SMALL = {"network": "conv2", "width": 0.1, "data": "digits:train:128", "batch": 32}
QUICK = {"passes": 2, "batch": 16, "period": 3, "probes": 1}


@pytest.fixture
def small():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    x, z = torch.randn(4, 5).double(), torch.randn(6, 5).double()
    return lambda p, images: functional_call(net, p, (images,)), parameters, x, z


def test_the_kernel_of_a_linear_model():
    """f(x) = W x + b: Theta(x, z) = (x . z + 1) I."""
    torch.manual_seed(0)
    net = nn.Linear(5, 3).double()
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    x, z = torch.randn(4, 5).double(), torch.randn(6, 5).double()
    found = tangent_kernel(lambda p, images: functional_call(net, p, (images,)), parameters, x, z, 3)
    wanted = (x @ z.T + 1)[:, :, None, None] * torch.eye(3).double()
    assert torch.allclose(found, wanted)


def test_the_kernel_is_the_product_of_jacobians(small):
    f, parameters, x, z = small
    jacobians = []
    for images in (x, z):
        leaves = [p.clone().requires_grad_(True) for p in parameters.values()]
        logits = f(dict(zip(parameters, leaves, strict=True)), images)
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(logits[n, c], leaves, retain_graph=True)])
            for n in range(len(images)) for c in range(3)
        ]  # fmt: skip
        jacobians.append(torch.stack(rows))
    wanted = (jacobians[0] @ jacobians[1].T).view(4, 3, 6, 3).transpose(1, 2)
    for chunk in (1, 4, 100):
        assert torch.allclose(tangent_kernel(f, parameters, x, z, chunk), wanted)


def test_products_are_those_with_the_full_kernel(small):
    f, parameters, x, z = small
    u = torch.randn(6, 3).double()
    wanted = torch.einsum("nmcd,md->nc", tangent_kernel(f, parameters, x, z, 10), u)
    assert torch.allclose(kernel_times(f, parameters, x, z, u), wanted)


def test_distances_against_the_full_kernels(small):
    f, teacher, x, z = small
    student = {name: p * 0.8 for name, p in teacher.items()}
    difference = tangent_kernel(f, student, x, z, 10) - tangent_kernel(f, teacher, x, z, 10)
    sides = ((f, student), (f, teacher), x, z)
    full = sum(kernel_distances("full", *sides, chunk=3))
    assert torch.allclose(full, difference.square().mean())
    trace = sum(kernel_distances("trace", *sides, chunk=3))
    assert torch.allclose(trace, difference.diagonal(dim1=2, dim2=3).sum(-1).square().mean())
    generator = torch.Generator().manual_seed(0)
    many = [next(kernel_distances("probe", *sides, generator=generator)) for _ in range(600)]
    mean, error = torch.stack(many).mean(), torch.stack(many).std() / 600**0.5
    assert abs(mean - full) < 4 * error  # unbiased


@pytest.mark.parametrize("kind", ["full", "trace", "probe"])
def test_gradients_reach_the_student(small, kind):
    """Against finite differences, along one random direction."""
    f, teacher, x, z = small
    student = {name: (p * 0.8).requires_grad_(True) for name, p in teacher.items()}

    def distance(parameters):
        generator = torch.Generator().manual_seed(3)
        parts = kernel_distances(kind, (f, parameters), (f, teacher), x, z, chunk=2, generator=generator)
        return sum(parts)

    # The last bias is in the logits, not in the kernel.
    found = torch.autograd.grad(distance(student), list(student.values()), allow_unused=True)
    gradients = [
        torch.zeros_like(p) if g is None else g for g, p in zip(found, student.values(), strict=True)
    ]
    way = [torch.randn_like(p) for p in student.values()]
    slope = sum(float((g * w).sum()) for g, w in zip(gradients, way, strict=True))
    step = 1e-5
    moved = [
        {name: p.detach() + sign * step * w for (name, p), w in zip(student.items(), way, strict=True)}
        for sign in (1, -1)
    ]
    assert slope == pytest.approx(float(distance(moved[0]) - distance(moved[1])) / (2 * step), rel=1e-5)


@pytest.fixture
def transfer(spec, weights, split):
    def make(remaining, adversary="pgd:steps=2", **options):
        recipe = recipe_for({**SMALL, "method": "awt", "adversary": adversary})
        search = Search(spec, weights, remaining, split, recipe)
        return awt._TangentTransfer(AWT(**{**QUICK, **options}), search)

    return make


@pytest.fixture
def checked(spec, weights, split):
    def make(**options):
        recipe = recipe_for({**SMALL, "method": "awt", "adversary": "pgd:steps=2"})
        AWT(**{**QUICK, **options}).check(Search(spec, weights, "0.3", split, recipe))

    return make


@pytest.mark.parametrize("kind", ["full", "probe"])
def test_full_density_leaves_both_distances_zero(transfer, split, kind):
    run = transfer("1", kernel=kind, decay=0.0)
    x, _ = split.train.at(slice(0, 8))
    assert max(float(part.detach()) for part in run._distances(x, x)) < 1e-9


def test_the_distance_of_outputs_falls(transfer):
    run = transfer("0.3", weight=0.0, lr=1e-2, passes=12)
    while len(run.history) < 12:
        run.run_pass()
    assert run.history[-1].loss < 0.75 * run.history[0].loss


def test_the_distance_of_kernels_falls(transfer, split):
    """On one batch, its images being the same each time, and under one mask."""
    run = transfer("0.3", kernel="full", weight=1.0, decay=0.0, lr=1e-2, period=1000, adversary="none")
    x, y = split.train.at(slice(0, 16))
    distances = [run._step(x, y) for _ in range(40)]
    assert distances[-1] < 0.9 * distances[0]


def test_dropped_weights_stay_and_kept_ones_move(transfer):
    run = transfer("0.3", passes=1, period=1000)
    before = {name: w.detach().clone() for name, w in run.student.items()}
    run.run_pass()
    for name, mask in run.masks.items():
        moved = run.student[name].detach() != before[name]
        assert not moved[~mask].any()
        assert moved[mask].float().mean() > 0.9


def test_both_readings(spec, weights, split, tmp_path):
    recipe = recipe_for({**SMALL, "method": "awt", "adversary": "pgd:steps=2"})
    search = Search(spec, weights, "0.3", split, recipe)
    found, history = AWT(**QUICK)(search)
    moved, _ = AWTMoved(**QUICK)(search)
    assert [row.epoch for row in history] == [1, 2, 3]
    assert all(found.masks[name].equal(moved.masks[name]) for name in found.masks)
    assert all(found.random_network()[name].equal(weights[name]) for name in weights)
    moved.save(tmp_path / "m.safetensors")
    again = Ticket.load(tmp_path / "m.safetensors")
    assert again.random_digest != found.random_digest
    assert not all(again.random_network()[name].equal(weights[name]) for name in weights)


def test_killed_and_continued(spec, weights, split, tmp_path):
    recipe = recipe_for({**SMALL, "method": "awt", "adversary": "pgd:steps=2"})
    whole, history = AWT(**QUICK)(Search(spec, weights, "0.3", split, recipe))
    resume_file = tmp_path / ".d.unfinished"

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AWT(**QUICK)(Search(spec, weights, "0.3", split, recipe, on_epoch=stop, resume_file=resume_file))
    assert resume_file.exists()
    again, history_again = AWT(**QUICK)(Search(spec, weights, "0.3", split, recipe, resume_file=resume_file))
    assert (again.digest, history_again) == (whole.digest, history)
    assert not resume_file.exists()


def test_a_kernel_that_would_not_fit_is_refused_with_the_figure(checked, monkeypatch):
    monkeypatch.setattr(awt, "free_memory", lambda device: 2**24)
    with pytest.raises(BadRequest, match=r"kernel=full needs about 0\.\d GiB at batch=64, chunk=30; 0\.0"):
        checked(kernel="full", chunk=30, batch=64, period=1)
    checked(kernel="probe", chunk=30, batch=64, period=1)
    monkeypatch.setattr(awt, "free_memory", lambda device: 2**20)
    with pytest.raises(BadRequest, match="use a smaller batch"):
        checked(kernel="probe", batch=64, period=1)


def test_what_a_network_holds():
    """6 maps of 8 x 8 three times over twice, a pool, a flatten, and the linear layers."""
    net = build(NetworkSpec("conv2", (1, 8, 8), 10, 0.1))
    assert count_activations(net, (1, 8, 8)) == 6 * 64 * 6 + 2 * 96 + 6 * 26 + 10
    assert count_activations(net, (1, 8, 8)) == count_activations(net, (1, 8, 8)), "no hook stays"
    assert 0 < free_memory(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("awt:kernl=full", "no option of 'awt' named 'kernl'"),
        ("awt:passes=x", "awt:passes wants a whole number"),
        ("rst:steps=3", "the method 'rst' has no options"),
        ("awd", "no method named 'awd'"),
    ],
)
def test_wrong_methods(text, message):
    with pytest.raises(BadRequest, match=message):
        parse_method(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "ful"}, "kernel is one of full, trace, probe"),
        ({"passes": 0}, "passes of awt is above 0 and finite, got 0"),
        ({"lr": float("inf")}, "lr of awt is above 0 and finite"),
        ({"weight": -1.0}, "weight of awt is 0 or more and finite, got -1"),
        ({"decay": float("nan")}, "decay of awt is 0 or more"),
        ({"batch": 1}, "batch of awt is at least 2"),
        ({"passes": 1, "period": 5}, "new mask after every 5 steps but the last, and takes 8 in 1 passes"),
    ],
)
def test_options_that_are_refused(checked, options, message):
    with pytest.raises(BadRequest, match=message):
        checked(**options)


def test_wrong_kernels(spec, weights, split):
    rows = recipe_for({**SMALL, "method": "awt", "pattern": "row"})
    with pytest.raises(BadRequest, match="scores single weights"):
        AWT(**QUICK)(Search(spec, weights, "0.3", split, rows))
    free = recipe_for({**SMALL, "method": "awt", "adversary": "free"})
    with pytest.raises(BadRequest, match="images can be crafted by none, fgsm, fgsm-rs and pgd, got free"):
        AWT(**QUICK)(Search(spec, weights, "0.3", split, free))


@pytest.mark.parametrize("kind", ["full", "trace"])
def test_the_loss_is_outputs_plus_mixed_kernel_plus_decay(transfer, split, kind):
    """Worked out from whole kernels: Theta(clean first half, adversarial second half)."""
    run = transfer("0.3", kernel=kind, weight=0.5, decay=0.25, chunk=3)
    with torch.no_grad():
        for weight in run.student.values():
            weight.mul_(0.9)
    x, _ = split.train.at(slice(0, 8))
    adv = (x + 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    sparse = {n: w.detach() * run.masks[n] if n in run.masks else w.detach() for n, w in run.student.items()}
    outputs = (run.logits(sparse, adv) - run.logits(run.teacher, adv)).square().mean()

    def student(weights, images):
        return run.logits({n: w * run.masks[n] if n in run.masks else w for n, w in weights.items()}, images)

    sides = [(student, {n: w.detach() for n, w in run.student.items()}), (run.logits, run.teacher)]
    kernels = [tangent_kernel(f, weights, x[:4], adv[4:], 8) for f, weights in sides]
    difference = kernels[0] - kernels[1]
    if kind == "trace":
        difference = difference.diagonal(dim1=2, dim2=3).sum(-1)
    density = sum(int(m.sum()) for m in run.masks.values()) / sum(m.numel() for m in run.masks.values())
    decay = 0.25 / density * sum(float(w.square().sum()) for w in sparse.values())
    wanted = float(outputs) + 0.5 * float(difference.square().mean()) + decay
    found = sum(float(part.detach()) for part in run._distances(x, adv))
    assert found == pytest.approx(wanted, rel=1e-4)
    swapped = kernels[0] - tangent_kernel(sides[1][0], sides[1][1], adv[:4], x[4:], 8)
    assert float(swapped.abs().max()) > 1e-4  # clean and adversarial are not one


def test_probes_are_averaged(small):
    f, teacher, x, z = small
    student = {name: p * 0.8 for name, p in teacher.items()}
    sides = ((f, student), (f, teacher), x, z)
    full = float(sum(kernel_distances("full", *sides)))
    generator = torch.Generator().manual_seed(0)
    many = [float(sum(kernel_distances("probe", *sides, probes=4, generator=generator))) for _ in range(200)]
    mean, error = torch.tensor(many).mean(), torch.tensor(many).std() / 200**0.5
    assert abs(float(mean) - full) < 4 * float(error)
    assert float(error) < 0.1 * full


def test_equal_magnitudes_are_not_chosen_among_by_their_place(split):
    """Signed constants: each output row of a wide layer keeps some of its weights."""
    spec = NetworkSpec("conv2", (1, 8, 8), 10, 1.0)
    weights = random_weights(prunable(build(spec)), "signed_constant", 0)
    recipe = recipe_for({**SMALL, "method": "awt", "adversary": "none"})
    run = awt._TangentTransfer(AWT(**QUICK), Search(spec, weights, "0.05", split, recipe))
    name = max(run.masks, key=lambda name: run.masks[name].numel())
    assert int(run.masks[name].flatten(1).sum(1).min()) > 0
