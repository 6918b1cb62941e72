"""`verify`: evidence that holds, evidence that was bent, models and images that have changed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from rstbench.cli.commands import main
from rstbench.evidence.store import Store

STUDY = """
name = "small"
data = "digits:test"
threats = ["Linf:0.1"]
attacks = ["pgd:steps=3", "autoattack:attacks=apgd-ce"]
certificates = ["ibp", "crown"]
images = 20
transfer = true
switch = true
[[draw]]
name = "rst"
network = "conv2"
width = 0.1
remaining = [0.3, 0.6]
data = "digits:train:256"
epochs = 1
batch = 32
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    (folder / "s.toml").write_text(STUDY)
    where = [str(folder / "s.toml"), "--out", str(folder / "out"), "--batch-size", "10", "--quiet"]
    assert main(["evaluate", *where, "--save-adversarials"]) == 0
    return folder / "out"


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_evidence_that_holds(finished, cli):
    done = cli("verify", finished, "--sample", "2")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert lines[0] == "holds: leaderboard.csv follows from the evidence"
    assert all(line.startswith("holds: ") for line in lines[:-1])
    for what in (
        "kept images, rst-0.3, pgd:steps=3",
        "rst-0.6 on images against rst-0.3",
        "switch-rst",
    ):
        assert any(what in line for line in lines), what
    for question in ("clean", "pgd:steps=3", "autoattack:attacks=apgd-ce", "ibp", "crown", "joint"):
        assert any(f", {question}" in line and "kept" not in line for line in lines), question
    assert lines[-1].endswith("all hold")


def bend(out, kind, attack):
    """Turn the answers of one file round."""
    for path in (out / "results").glob("*.jsonl"):
        header, *shards = map(json.loads, path.read_text().splitlines())
        trial = header["trial"]
        if trial["attack"] == attack and trial.get("kind", "attack") == kind:
            for shard in shards:
                shard["bits"] = shard["bits"].translate(str.maketrans("01", "10"))
            path.write_text("".join(json.dumps(line) + "\n" for line in (header, *shards)))


def forge(out, certificate, is_broken):
    """Say of one image that it is proved: one that pgd breaks, or one that it does not."""
    lines = {
        path: list(map(json.loads, path.read_text().splitlines())) for path in out.glob("results/*.jsonl")
    }
    for path, (header, *shards) in lines.items():
        trial = header["trial"]
        if trial["attack"] != certificate or trial["target"] != trial["source"]:
            continue
        own = {"source": trial["source"], "target": trial["target"], "attack": "pgd:steps=3"}
        (attacked,) = [others for head, *others in lines.values() if own.items() <= head["trial"].items()]
        for shard, attack in zip(shards, attacked, strict=True):
            pairs = zip(shard["bits"], attack["bits"], strict=True)
            chosen = [
                i for i, (proof, stands) in enumerate(pairs) if proof == "0" and (stands == "0") == is_broken
            ]
            if chosen:
                shard["bits"] = shard["bits"][: chosen[0]] + "1" + shard["bits"][chosen[0] + 1 :]
                path.write_text("".join(json.dumps(line) + "\n" for line in (header, *shards)))
                return
    raise AssertionError("no such image")


def test_a_single_forged_proof_does_not_hold(copied, cli):
    forge(copied, "crown", is_broken=False)
    done = cli("verify", copied, "--sample", "100")
    assert done.returncode == 1
    assert any("crown" in line for line in done.stdout.splitlines() if line.startswith("does not hold"))


def test_a_proof_of_a_broken_image_is_a_contradiction(copied, cli):
    forge(copied, "crown", is_broken=True)
    done = cli("verify", copied, "--sample", "1")
    assert done.returncode == 1
    assert "does not hold: no image is certified and broken" in done.stdout


@pytest.mark.parametrize(("kind", "attack"), [("attack", "pgd:steps=3"), ("certificate", "ibp")])
def test_evidence_that_was_bent(copied, cli, kind, attack):
    bend(copied, kind, attack)
    done = cli("verify", copied)
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.startswith("does not hold")]
    assert any(f", {attack} Linf:0.1" in line for line in wrong)
    assert any(line.startswith("does not hold: leaderboard.csv") for line in wrong)
    assert not any("autoattack" in line for line in wrong)


def test_images_that_left_the_ball_and_files_that_are_damaged(copied, cli):
    joined = sorted((copied / "adversarials").glob("*.pt"))[0]
    torch.save(torch.full_like(torch.load(joined, weights_only=True), 0.5), joined)
    first, second, *_ = sorted((copied / "adversarials" / "parts").iterdir())
    torch.save(torch.load(first, weights_only=True) * 0 + 2, first)
    second.write_bytes(b"no tensor")
    done = cli("verify", copied)
    assert done.returncode == 1
    assert "leaves [0, 1]" in done.stdout
    assert f"{second.name}: " in done.stdout
    assert f"{joined.name} holds other images" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    for part in (copied / "adversarials" / "parts").iterdir():
        part.unlink()
    done = cli("verify", copied)  # the joined file stands in for them
    assert done.returncode == 1
    assert f"{joined.name}: " in done.stdout


def test_a_model_that_has_changed_and_one_that_is_gone(copied, cli):
    one, other = sorted((copied / "tickets").glob("*.safetensors"))
    shutil.copy(other, one)
    done = cli("verify", copied)
    assert done.returncode == 1
    assert "it is another model now" in done.stdout
    one.unlink()
    done = cli("verify", copied)
    assert done.returncode == 0, done.stdout
    assert "not repeated: rst-0.3: what it was loaded from is not known or not here" in done.stdout
    other.unlink()
    done = cli("verify", copied)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("nothing could be repeated")


def test_other_images_are_refused(copied, cli, monkeypatch):
    for path in (copied / "results").glob("*.jsonl"):
        header, *_ = path.read_text().splitlines()
        digest = json.loads(header)["trial"]["data"]
    manifest = copied / "study.toml"
    manifest.write_text(manifest.read_text().replace("digits:test", "digits:train"))
    done = cli("verify", copied)
    assert done.returncode == 2
    assert digest[:12] in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nothing_to_verify_is_one_line(tmp_path, cli):
    assert Store(tmp_path).keys() == []
    done = cli("verify", tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
