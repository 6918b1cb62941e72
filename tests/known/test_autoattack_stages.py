"""Each stage of AutoAttack against the library's own class, bit for bit, and the parts they are made of."""

from __future__ import annotations

import pytest
import torch
from pyautoattack import fab_projections
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted, L1_projection
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Generator, nn
from torch.nn.functional import cross_entropy

from rstbench.attacks.autoattack import hyperplane, l1_ball
from rstbench.attacks.autoattack.apgd import APGD
from rstbench.attacks.autoattack.fab import FAB
from rstbench.attacks.autoattack.losses import LOSSES
from rstbench.attacks.autoattack.pool import Pool
from rstbench.attacks.autoattack.source import Source
from rstbench.attacks.autoattack.square import Square
from rstbench.threat import Threat

SEED = 3
EPS = {"Linf": 0.06, "L2": 0.7, "L1": 5}  # some of the images below fall


@pytest.fixture(scope="module")
def net():
    """A small network, its images, and the classes it gives them, so that all are right."""
    generator = Generator().manual_seed(0)
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 11 * 11, 10)
    model = nn.Sequential(*layers).requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    x = torch.rand(12, 2, 11, 11, generator=generator)
    return model, x, model(x).argmax(1)


def attacked(stage, net, threat):
    """The images of a stage in the exact way: what falls, the others clean."""
    model, x, y = net
    pool = Pool(Source(model), x, y, torch.arange(len(x)), len(x), len(x), SEED)
    stage(pool, threat)
    return pool.images


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize(
    ("stage", "kind", "options"),
    [
        (APGD("ce", 25), APGDAttack, {"n_iter": 25, "n_restarts": 1}),
        (APGD("ce", 12, restarts=3), APGDAttack, {"n_iter": 12, "n_restarts": 3}),
        (APGD("dlr", 25), APGDAttack, {"n_iter": 25, "n_restarts": 1, "loss": "dlr"}),
        (APGD("ce", 6, passes=3), APGDAttack, {"n_iter": 6, "n_restarts": 1, "eot_iter": 3}),
        (APGD("dlr-targeted", 12, targets=4), APGDAttack_targeted, {"n_iter": 12, "n_target_classes": 4}),
        (FAB(targets=3, steps=12), FABAttack_PT, {"n_iter": 12, "targeted": True, "n_target_classes": 3}),
        (FAB(restarts=2, steps=6), FABAttack_PT, {"n_iter": 6, "n_restarts": 2}),
        (Square(150), SquareAttack, {"n_queries": 150, "resc_schedule": False, "p_init": 0.8}),
    ],
    ids=["ce", "restarts", "dlr", "passes", "targeted", "fab-t", "fab", "square"],
)
def test_a_stage_equals_the_library(net, norm, stage, kind, options):
    # Random search finds less.
    threat = Threat.parse(f"{norm}:{EPS[norm] * (2 if isinstance(stage, Square) else 1)}")
    with torch.random.fork_rng():
        library = kind(net[0], norm=norm, eps=float(threat.eps), seed=SEED, device="cpu", **options)
        expected = library.perturb(net[1].clone(), net[2].clone())
    ours = attacked(stage, net, threat)
    # Square keeps images that only tie with another class; the library gives these back clean.
    broke = (net[0](ours).argmax(1) != net[2]).view(-1, 1, 1, 1)
    assert torch.where(broke, ours, net[1]).equal(expected)
    assert 0 < int(broke.sum()) < len(ours)


@pytest.mark.parametrize("targets", [0, 3])
def test_in_l1_the_first_balls_are_larger(net, targets):
    threat, options = Threat.parse("L1:3"), {"n_iter": 20, "n_restarts": 1, "use_largereps": True}
    kind = APGDAttack_targeted if targets else APGDAttack
    options |= {"n_target_classes": targets} if targets else {}
    with torch.random.fork_rng():
        library = kind(net[0], norm="L1", eps=3.0, seed=SEED, device="cpu", **options)
        expected = library.perturb(net[1].clone(), net[2].clone())
    loss = "dlr-targeted" if targets else "ce"
    ours = attacked(APGD(loss, 20, targets=targets, large_radii=True), net, threat)
    assert ours.equal(expected)
    assert not ours.equal(net[1])


@pytest.mark.parametrize("classes", [4, 10, 50])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_gradients_in_closed_form_are_those_of_automatic_differentiation(classes, count):
    generator = Generator().manual_seed(classes + count)
    logits = (5 * torch.randn(count, classes, generator=generator)).requires_grad_()
    y = torch.randint(0, classes, (count,), generator=generator)
    target = (y + 1 + torch.randint(0, classes - 1, (count,), generator=generator)) % classes
    every = torch.arange(count)
    ordered, order = logits.sort(dim=1)
    label, is_top = logits[every, y], (order[:, -1] == y).float()
    rival = ordered[:, -2] * is_top + ordered[:, -1] * (1 - is_top)
    mean = 0.5 * (ordered[:, -3] + ordered[:, -4])
    published = {
        "ce": cross_entropy(logits, y, reduction="none"),
        "dlr": -(label - rival) / (ordered[:, -1] - ordered[:, -3] + 1e-12),
        "dlr-targeted": -(label - logits[every, target]) / (ordered[:, -1] - mean + 1e-12),
    }
    for name, loss in published.items():
        (slope,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        value, closed = LOSSES[name](logits.detach(), y, target)
        assert value.equal(loss.detach()), name
        assert closed.equal(slope), name


def hyperplanes(pixels, scale):
    """Images, normals with some zeros, and offsets at about `scale` from the images."""
    generator = Generator().manual_seed(pixels)
    t = torch.rand(40, pixels, generator=generator)
    t[:, ::5] = t[:, ::5].round()
    w = torch.randn(40, pixels, generator=generator)
    w[torch.rand(40, pixels, generator=generator) < 0.1] = 0
    return t, w, (w * t).sum(1) + scale * torch.randn(40, generator=generator)


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("pixels", [27, 64, 65])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_projections_on_hyperplanes(norm, pixels, scale):
    t, w, b = hyperplanes(pixels, scale)
    library = getattr(fab_projections, f"projection_{norm.lower()}")(t, w, b)
    assert hyperplane.SORTED[norm](t, w, b).equal(library)
    if scale <= 1:  # farther ones are cut short, beyond any ball that is attacked
        quick = hyperplane.SORT_FREE[norm](t, w, (w * t).sum(1) - b)
        assert float((quick - library).abs().max()) <= 2e-7


@pytest.mark.parametrize(("norm", "moved"), [("Linf", 0.2), ("L2", [0.12, 0.24]), ("L1", [0.0, 0.3])])
def test_a_projection_done_on_paper(norm, moved):
    """From (1/2, 1/2) to x + 2 y = 2.1: 0.6 is missing, which steps (a, a), (a, 2 a), (0, a) make up."""
    t, w, b = torch.full((1, 2), 0.5), torch.tensor([[1.0, 2.0]]), torch.tensor([2.1])
    expected = torch.tensor(moved).expand(1, 2) if isinstance(moved, float) else torch.tensor([moved])
    for d in (hyperplane.SORTED[norm](t, w, b), hyperplane.SORT_FREE[norm](t, w, (w * t).sum(1) - b)):
        assert torch.allclose(d, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [0.003, 0.3])
def test_the_l1_ball(scale):
    generator = Generator().manual_seed(0)
    x, delta = torch.rand(2, 30, 3, 5, 5, generator=generator)
    delta = scale * (delta - 0.5)
    added = l1_ball.correction(x, delta, 3.0)
    assert added.equal(L1_projection(x, delta.clone(), 3.0))
    assert float((delta + added).abs().flatten(1).sum(1).max()) <= 3.0 + 1e-5
