"""On a GPU: the fast way of AutoAttack breaks what the exact way breaks, and no step waits for the device."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from rstbench.attacks.autoattack.apgd import APGD
from rstbench.attacks.autoattack.engine import attack, run_stages
from rstbench.attacks.autoattack.fab import FAB, FAR, Walk
from rstbench.attacks.autoattack.pool import Pool
from rstbench.attacks.autoattack.source import Source
from rstbench.attacks.autoattack.square import Search, Square, linf_query, margin
from rstbench.attacks.autoattack.tiles import Window
from rstbench.data import load
from rstbench.models.fast_copy import make_copy, plan_copy
from rstbench.threat import Threat

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
EPS = {"Linf": "Linf:0.01", "L2": "L2:0.05", "L1": "L1:0.3"}
STAGES = {
    "apgd-ce": APGD("ce", 40),
    "apgd-t": APGD("dlr-targeted", 40, targets=5),
    "fab-t": FAB(targets=5, steps=40),
    "square": Square(400),
}


@pytest.fixture(scope="module")
def on_gpu(small_entries):
    """A small network, images, and the classes that it gives them."""
    model = small_entries[0].module.eval().cuda()
    x = load("digits:test:100").at(slice(None))[0].cuda()
    with torch.no_grad():
        yield model, x, model(x).argmax(1)
    model.cpu()


@contextmanager
def no_waiting():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("norm", EPS)
def test_the_fast_way_fells_what_the_exact_way_fells(on_gpu, norm):
    (model, x, y), threat = on_gpu, Threat.parse(EPS[norm])
    copy = make_copy(model, plan_copy(model, x), x)
    exact = run_stages(Source(model), x, y, threat, STAGES, 0)
    fast = attack(Source(copy, model), x, y, threat, STAGES, 0)
    broken = [torch.stack(list(crafted.stages.values())).any(0) for crafted in (exact, fast)]
    assert 0 < int(broken[0].sum()) < len(x)
    assert int((broken[0] & ~broken[1]).sum()) <= 1
    threat.check(x, fast.images)


@pytest.mark.parametrize("norm", EPS)
def test_no_step_waits_for_the_device(on_gpu, norm):
    model, x, y = on_gpu
    pool = Pool(Source(model, model), x, y, torch.arange(len(x), device="cuda"), len(x), len(x), 0)
    rows = next(pool.batches(1))
    rows = rows._replace(target=(rows.y + 1) % 10)
    stage, walker = APGD("dlr-targeted", 10, targets=1), FAB(targets=1)
    run = stage._begin(pool, rows, (rows.x + 0.01).clamp(0, 1), norm, 0.2)
    walk = Walk(rows, rows.x.clone(), rows.x.clone(), torch.full_like(run.last, FAR))
    run = stage.step(pool.source, run, norm, 0.2, first=True)  # what is made at the first use may wait
    walk = walker.step(pool.source, walk, norm, fast=True)
    with no_waiting():
        stage.step(pool.source, run, norm, 0.2, first=False)
        walker.step(pool.source, walk, norm, fast=True)
    if norm == "Linf":
        search = Search(rows, run.low, run.high, run.low.clone(), margin(pool.source, run.low, rows.y))
        colour = torch.ones(1, 1, 1, device="cuda")
        search = linf_query(pool.source, search, Window(2, 3, 4), colour, 0.2)
        with no_waiting():
            linf_query(pool.source, search, Window(3, 2, 2), colour, 0.2)
