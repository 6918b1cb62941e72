"""The Python interface, the README's lines, and RobustBench beside us."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import rstbench

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def fresh(code, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    return subprocess.run([sys.executable, *more.pop("flags", []), "-c", code], env=environment, text=True,
                          capture_output=True, check=False, **more)  # fmt: skip


def test_the_lines_of_the_readme(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert blocks
    for block in blocks:
        done = fresh(block, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "rst-0.2" in done.stdout


def test_benchmark_speaks_as_robustbench_does():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    clean, robust = rstbench.benchmark(net, n_examples=4, dataset="digits", threat_model="Linf", eps=8 / 255)
    assert 0 <= robust <= clean <= 1
    assert isinstance(clean, float)
    assert net.training, "the model comes back as it was"
    for wrong in (
        {"eps": None},
        {"threat_model": "corruptions"},
        {"preprocessing": "Res224"},
        {"to_disk": True},
    ):
        with pytest.raises(rstbench.BadRequest):
            rstbench.benchmark(net, **{"n_examples": 4, "dataset": "digits", "eps": 0.1, **wrong})


def test_benchmark_has_the_same_parameters():
    import inspect

    code = (
        "import inspect; from rstbench.models.sources.robustbench import import_robustbench;"
        "import_robustbench();"
        "from robustbench.eval import benchmark;"
        "print([(n, p.default if isinstance(p.default, (int, str, bool, type(None))) else '')"
        " for n, p in inspect.signature(benchmark).parameters.items()])"
    )
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    theirs = eval(done.stdout, {"BenchmarkDataset": None})
    ours = inspect.signature(rstbench.benchmark).parameters
    assert [*(name for name, _ in theirs), "crafting"] == list(ours)
    plain = {n: d for n, d in theirs if n not in ("model", "dataset", "threat_model")}
    assert {n: ours[n].default for n in plain} == plain


def test_eps_as_a_float_means_the_fraction():
    from rstbench.api.robustbench import _exact

    assert _exact(8 / 255) == "8/255"
    assert _exact(0.5) == "0.5"
    assert _exact(1.0) == "255/255"


def test_evaluate_resumes_where_it_keeps_its_evidence(small_tickets, tmp_path):
    models = {"a": small_tickets[0].module(), "b": small_tickets[1].module()}
    options = {"data": "digits:test:20", "threat": "Linf:0.1", "attacks": ["pgd:steps=2"], "out": tmp_path}
    first = rstbench.evaluate(models, **options)
    evidence = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/*")}
    assert rstbench.evaluate(models, **options).equals(first)
    assert evidence == {path: path.stat().st_mtime_ns for path in evidence}


def test_evaluate_raises_what_failed():
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(rstbench.ModelFault, match="3 classes"):
        rstbench.evaluate({"x": broken}, data="digits:test:10", threat="Linf:0.1", attacks=["pgd"])


def test_robustbench_imports_in_a_fresh_interpreter():
    code = (
        "from rstbench.models.sources.robustbench import import_robustbench;"
        "zoo = import_robustbench();"
        "from robustbench.model_zoo import model_dicts;"
        "print(sum(len(m) for norms in model_dicts.values() for m in norms.values()))"
    )
    done = fresh(code, flags=["-W", "error"])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_a_zoo_model_that_is_not_here_is_not_downloaded(tmp_path):
    code = (
        "from rstbench.cli import main; model = 'robustbench:cifar10/Linf/Wong2020Fast';"
        "raise SystemExit(main(['evaluate', model, '--threat', 'Linf:0.1', '--data', 'digits', '--quiet']))"
    )
    done = fresh(code, cwd=tmp_path)
    assert done.returncode == 2
    assert "no file models/cifar10/Linf/Wong2020Fast.pt" in done.stderr
    assert len(done.stderr.splitlines()) == 1
