"""Tangent kernels in closed form, and what the transfer of a kernel must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from rstbench.errors import BadRequest
from rstbench.tickets import awt
from rstbench.tickets.awt import AWT, AWTMoved
from rstbench.tickets.kernel import kernel_distances, kernel_times, tangent_kernel
from rstbench.tickets.recipe import recipe_for
from rstbench.tickets.search import Search, parse_method
from rstbench.tickets.ticket import Ticket

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
def transfer(spec, weights, lesson):
    def make(remaining, **options):
        recipe = recipe_for({**SMALL, "method": "awt", "adversary": "pgd:steps=2"})
        return awt._Transfer(AWT(**{**QUICK, **options}), Search(spec, weights, remaining, lesson, recipe))

    return make


@pytest.mark.parametrize("kind", ["full", "probe"])
def test_full_density_leaves_both_distances_zero(transfer, lesson, kind):
    run = transfer("1", kernel=kind, decay=0.0)
    x, _ = lesson.train.at(slice(0, 8))
    assert max(float(part.detach()) for part in run._distances(x, x)) < 1e-9


def test_the_distance_falls(transfer):
    run = transfer("0.3", weight=1e-4, lr=2e-3, passes=6)
    while len(run.history) < 6:
        run.one_pass()
    assert run.history[-1].loss < 0.7 * run.history[0].loss


def test_dropped_weights_stay_and_kept_ones_move(transfer):
    run = transfer("0.3", passes=1, period=1000)
    before = {name: w.detach().clone() for name, w in run.student.items()}
    run.one_pass()
    for name, mask in run.masks.items():
        moved = run.student[name].detach() != before[name]
        assert not moved[~mask].any()
        assert moved[mask].float().mean() > 0.9


def test_both_readings(spec, weights, lesson, tmp_path):
    recipe = recipe_for({**SMALL, "method": "awt", "adversary": "pgd:steps=2"})
    search = Search(spec, weights, "0.3", lesson, recipe)
    found, history = AWT(**QUICK)(search)
    moved, _ = AWTMoved(**QUICK)(search)
    assert [row.epoch for row in history] == [1, 2, 3]
    assert all(found.masks[name].equal(moved.masks[name]) for name in found.masks)
    assert all(found.random_network()[name].equal(weights[name]) for name in weights)
    moved.save(tmp_path / "m.safetensors")
    again = Ticket.load(tmp_path / "m.safetensors")
    assert again.random_digest != found.random_digest
    assert not all(again.random_network()[name].equal(weights[name]) for name in weights)


def test_killed_and_continued(spec, weights, lesson, tmp_path):
    recipe = recipe_for({**SMALL, "method": "awt", "adversary": "pgd:steps=2"})
    whole, history = AWT(**QUICK)(Search(spec, weights, "0.3", lesson, recipe))
    diary = tmp_path / ".d.unfinished"

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AWT(**QUICK)(Search(spec, weights, "0.3", lesson, recipe, watch=stop, diary=diary))
    assert diary.exists()
    again, history_again = AWT(**QUICK)(Search(spec, weights, "0.3", lesson, recipe, diary=diary))
    assert (again.digest, history_again) == (whole.digest, history)
    assert not diary.exists()


def test_a_kernel_that_would_not_fit_is_refused_with_the_figure(transfer, monkeypatch):
    monkeypatch.setattr(awt, "_free_memory", lambda device: 2**20)
    with pytest.raises(BadRequest, match=r"kernel=full needs about 0\.\d GiB at chunk=500, 0\.0 are free"):
        transfer("0.3", kernel="full", chunk=500)
    transfer("0.3", kernel="probe", chunk=500)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("awt:kernl=full", "no option of 'awt' named 'kernl'"),
        ("awt:passes=x", "awt:passes wants a int"),
        ("rst:steps=3", "the method 'rst' has no options"),
        ("awd", "no method named 'awd'"),
    ],
)
def test_wrong_methods(text, message):
    with pytest.raises(BadRequest, match=message):
        parse_method(text)


def test_wrong_kernels(transfer, spec, weights, lesson):
    with pytest.raises(BadRequest, match="kernel is one of full, trace, probe"):
        transfer("0.3", kernel="ful")
    rows = recipe_for({**SMALL, "method": "awt", "pattern": "row"})
    with pytest.raises(BadRequest, match="scores single weights"):
        AWT(**QUICK)(Search(spec, weights, "0.3", lesson, rows))
    free = recipe_for({**SMALL, "method": "awt", "adversary": "free"})
    with pytest.raises(BadRequest, match="images can be crafted by"):
        AWT(**QUICK)(Search(spec, weights, "0.3", lesson, free))
