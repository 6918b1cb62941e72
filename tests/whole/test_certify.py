"""`--certify` from the command line to the CSV: what is proved, refused, and resumed."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from torch import nn

import rstbench
from rstbench.cli.commands import main

NETS = """
import torch
from torch import nn
def relu():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
def gelu():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))
"""
COMMON = ["--data", "digits:test:20", "--batch-size", "10", "--attack", "pgd:steps=2", "--quiet"]
CERTIFY = ["--certify", "ibp", "--certify", "crown"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def board(folder):
    return pd.read_csv(folder / "runs" / "adhoc" / "leaderboard.csv").set_index("model")


@pytest.mark.parametrize("threat", ["Linf:1/1000", "L2:0.01", "L1:0.1"])
def test_a_small_ball_is_proved_round_every_right_image(cli, folder, threat):
    done = cli("evaluate", "file:nets.py:relu", "--threat", threat, *COMMON, *CERTIFY)
    assert done.returncode == 0, done.stderr
    row = board(folder).loc["file:nets.py:relu"]
    assert row["clean"] > 0
    assert row["certified"] == row["worst"] == row["clean"]
    assert row["open"] == 0


def test_an_unknown_layer_leaves_cells_empty_and_the_rest(cli, folder):
    models = ["file:nets.py:gelu", "file:nets.py:relu"]
    done = cli("evaluate", *models, "--threat", "Linf:0.01", *COMMON, *CERTIFY)
    assert done.returncode == 1
    assert all("GELU" in line for line in done.stderr.splitlines())
    assert len(done.stderr.splitlines()) == 2  # one a certificate
    table = board(folder)
    assert pd.isna(table.loc[models[0], "certified"])
    assert table.loc[models[0], "worst"] >= 0
    assert table.loc[models[1], "certified"] >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--certify", "crwn"], "did you mean 'crown'"),
        (["--certify", "crown:alfa=3"], "did you mean 'alpha'"),
        (["--certify", "milp:seconds=0"], "seconds must be positive"),
        (["--certify", "milp", "--threat", "L2:0.5"], "milp proves Linf and L1"),
    ],
)
def test_what_cannot_be_asked_is_one_line(cli, folder, options, message):
    threat = [] if "--threat" in options else ["--threat", "Linf:0.1"]
    done = cli("evaluate", "file:nets.py:relu", *threat, *COMMON, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "runs").exists()


def test_proofs_are_kept_and_asked_once(cli, folder):
    asked = ["evaluate", "file:nets.py:relu", "--threat", "Linf:0.01", *COMMON, "--certify", "crown"]
    assert cli(*asked).returncode == 0
    results = folder / "runs" / "adhoc" / "results"
    first = {path.name: path.read_bytes() for path in results.iterdir()}
    assert cli(*asked, "--limit", "30").returncode == 0
    second = {path.name: path.read_bytes() for path in results.iterdir()}
    assert first.keys() == second.keys()
    assert all(second[name].startswith(content) for name, content in first.items())


def test_from_python_a_switch_is_the_expectation_over_its_members(tmp_path):
    nets = []
    for seed in range(2):
        torch.manual_seed(seed)
        nets.append(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)))
    models = {"a": nets[0], "b": nets[1], "switch": rstbench.Switch(nets)}
    asked = {"data": "digits:test:20", "threat": "Linf:1/1000", "attacks": ["pgd:steps=2"]}
    table = rstbench.evaluate(models, certificates="crown", **asked).set_index("model")
    assert table.loc["switch", "certified"] == pytest.approx(table.loc[["a", "b"], "certified"].mean())
    assert (table["certified"] <= table["worst"]).all()


def test_a_switch_has_two_sides(cli, folder):
    switch = "import rstbench\ndef switch():\n    return rstbench.Switch([relu(), other()])\n"
    other = "def other():\n    torch.manual_seed(1)"
    nets = NETS.replace("def gelu():\n    torch.manual_seed(0)", other).replace("GELU", "ReLU")
    (folder / "nets.py").write_text(nets + switch)
    models = [f"file:nets.py:{name}" for name in ("relu", "other", "switch")]
    asked = ["evaluate", *models, "--threat", "Linf:1/1000", *COMMON[:-1]]
    assert cli(*asked).returncode == 0
    assert "certified" not in pd.read_csv(folder / "runs" / "adhoc" / "switch.csv")
    done = cli(*asked, "--certify", "crown")
    assert done.returncode == 0, done.stderr
    proved = board(folder)["certified"]
    table = pd.read_csv(folder / "runs" / "adhoc" / "switch.csv").set_index("rung")
    certified = table.loc["minimum", "certified"]
    assert certified == pytest.approx(proved[models[:2]].mean()) == proved[models[2]]
    assert 0 < certified <= table.loc["minimum", "robust"]
    assert pd.isna(table.loc["mean-member", "certified"])
    assert f"certified under any attacker {100 * certified:.1f}%" in done.stdout
    assert f"{certified:.1%} is certified" in (folder / "runs" / "adhoc" / "index.html").read_text()


def test_a_norm_that_a_certificate_cannot_treat_is_left_out(cli, folder):
    threats = ["--threat", "L2:0.01", "--threat", "Linf:0.001"]
    common = [option for option in COMMON if option != "--quiet"]
    done = cli("evaluate", "file:nets.py:relu", *threats, *common, "--certify", "milp", "--certify", "crown")
    assert done.returncode == 0, done.stderr
    assert "milp proves Linf and L1, whose balls are linear, got L2:0.01: not asked there" in done.stderr
    assert (board(folder)["certified"] > 0).all()


def test_counterexamples_are_kept_and_judged_again(cli, folder):
    common = ["--threat", "Linf:0.2", *COMMON, "--certify", "milp:seconds=20", "--save-adversarials"]
    asked = ["evaluate", "file:nets.py:relu", *common, "--attack", "pgd:steps=1"]
    assert cli(*asked).returncode == 0
    root = folder / "runs" / "adhoc"
    (kept,) = (root / "adversarials").glob("*milp*.pt")
    images = torch.load(kept, weights_only=True)
    assert images.shape == (20, 1, 8, 8)
    (file,) = (path for path in (root / "results").iterdir() if '"certificate"' in path.read_text())
    found = file.read_text()
    assert cli(*asked).returncode == 0
    assert file.read_text() == found  # asked once
    for part in (root / "adversarials" / "parts").iterdir():
        part.unlink()
    kept.unlink()
    assert cli(*asked).returncode == 0
    assert torch.equal(torch.load(kept, weights_only=True), images)
    done = cli("verify", root)
    assert done.returncode == 0, done.stdout
    assert any("kept images" in line and ", milp" in line for line in done.stdout.splitlines())


def test_a_counterexample_refutes_a_proof_that_was_forged(cli, folder):
    asked = ["evaluate", "file:nets.py:relu", *COMMON, "--threat", "Linf:0.2", "--batch-size", "20"]
    assert cli(*asked, "--attack", "pgd:steps=1", "--certify", "milp:seconds=20").returncode == 0
    root = folder / "runs" / "adhoc"
    (file,) = (path for path in (root / "results").iterdir() if '"certificate"' in path.read_text())
    header, shard = map(json.loads, file.read_text().splitlines())
    place = shard["stages"]["counterexample"].index("1")
    shard["bits"] = shard["bits"][:place] + "1" + shard["bits"][place + 1 :]
    del shard["stages"]
    file.write_text(json.dumps(header) + "\n" + json.dumps(shard) + "\n")
    done = cli("verify", root)
    assert done.returncode == 1
    assert "a counterexample breaks what is stored as proved" in done.stdout


def test_members_of_a_shared_switch_are_certified_like_their_tickets(small_tickets):
    threat = {"data": "digits:test:20", "threat": "Linf:1/1000", "attacks": ["pgd:steps=2"]}
    models = {"a": small_tickets[0].module(), "b": small_tickets[1].module()}
    models["switch"] = rstbench.shared_switch(small_tickets)
    table = rstbench.evaluate(models, certificates=["crown"], **threat).set_index("model")
    assert table.loc["switch", "certified"] == pytest.approx(table.loc[["a", "b"], "certified"].mean())


@pytest.mark.parametrize("what", ["attacks", "certificates"])
def test_from_python_names_are_texts(what):
    asked = {"data": "digits:test:20", "threat": "Linf:0.1", "attacks": ["pgd"], what: [3]}
    with pytest.raises(rstbench.BadRequest, match=f"{what} are texts such as 'pgd' or 'crown', got 3"):
        rstbench.evaluate({"net": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, **asked)


def test_a_curve_in_a_study(cli, folder):
    (folder / "s.toml").write_text(
        'data = "digits:test"\nattacks = ["pgd:steps=2"]\ncertificates = ["crown"]\nimages = 10\n'
        'curve = {norm = "Linf", eps = ["0.02", "0.001", "0.005"]}\n[[model]]\nref = "file:nets.py:relu"\n'
    )
    done = cli("evaluate", "s.toml", "--out", "o", "--batch-size", "10", "--quiet")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "o" / "leaderboard.csv")
    assert table["threat"].tolist() == ["Linf:0.001", "Linf:0.005", "Linf:0.02"]
    assert table["certified"].is_monotonic_decreasing
    assert table["worst"].is_monotonic_decreasing
    assert (folder / "o" / "figures" / "certified.svg").exists()
    again = cli("evaluate", "o/study.toml", "--out", "o", "--batch-size", "10", "--quiet")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("curve = 3", "curve wants a dict"),
        ('curve = {norm = "Linf"}', "curve reads"),
        ('curve = {norm = "L7", eps = ["0.1"]}', "a threat must read"),
        ('curve = {norm = "Linf", eps = ["0.1"], steps = 3}', "no key named 'steps'"),
        ('certificates = "crown"', "certificates wants a list of texts"),
    ],
)
def test_wrong_studies_are_one_line(cli, folder, text, message):
    (folder / "s.toml").write_text(f'data = "digits:test"\n{text}\n[[model]]\nref = "file:nets.py:relu"\n')
    done = cli("evaluate", "s.toml", "--out", "o")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "o").exists()


@pytest.mark.parametrize("scale", ["1e19", "1e20"])
def test_huge_weights_leave_evidence_that_reads(tmp_path, monkeypatch, scale):
    """Bounds of rounding are huge or infinite there; the answer is that nothing is proved."""
    (tmp_path / "m.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n    torch.manual_seed(0)\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))\n"
        f"    net[1].weight.data.mul_(1e18)\n    net[3].weight.data.mul_({scale})\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = [
        "--data",
        "digits:test:10",
        "--batch-size",
        "10",
        "--threat",
        "Linf:0.05",
        "--attack",
        "pgd:steps=1",
    ]
    assert main(["evaluate", "file:m.py:net", *asked, "--certify", "crown", "--out", "out"]) == 0
    assert pd.read_csv("out/leaderboard.csv")["certified"].tolist() == [0.0]
