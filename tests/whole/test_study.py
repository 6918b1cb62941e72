"""A study from the command line to the CSV, stopped anywhere and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from rstbench.study.questions import LADDER

ROOT = Path(__file__).parent.parent.parent
STUDY = Path(__file__).parent / "small.toml"
BESIDE = ["mean-member", "best-member", "dense"]
HEAD = "rank,model,kind,method,network,data,threat,images,seed,remaining,kept_weights,total_weights,clean"
TAIL = "worst,worst_low,worst_high,flags,forwards,backwards,seconds"


def command(out, *more):
    return [
        sys.executable,
        "-m",
        "rstbench",
        "evaluate",
        str(STUDY),
        "--out",
        str(out),
        "--batch-size",
        "10",
        # Fast crafting chooses its copies by timing: two folders may differ by rounding.
        "--crafting",
        "exact",
        *more,
    ]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}


def tables(folder):
    """The CSV files without the column of seconds."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        frame = pd.read_csv(path, dtype=str)
        found[path.name] = frame.drop(columns="seconds", errors="ignore").to_csv(index=False)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run(command(out), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done


def test_what_it_writes(finished):
    out, done = finished
    assert {p.name for p in out.iterdir() if not p.name.startswith(".")} == {
        "leaderboard.csv", "transfer.csv", "switch.csv", "queries.csv", "per_class.csv", "curves.csv",
        "compare.csv", "pareto.csv", "results", "tickets", "checkpoints", "study.toml", "examples.npz",
        "figures", "index.html",
    }  # fmt: skip
    assert sorted(p.name for p in (out / "tickets").iterdir()) == [
        "costs.jsonl", "history.csv", "rst-0.3-seed0.safetensors", "rst-0.6-seed0.safetensors",
    ]  # fmt: skip
    made = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert made == ["costs.jsonl", "dense-seed0.safetensors"]
    lines = (out / "leaderboard.csv").read_text().splitlines()
    assert lines[0] == f"{HEAD},pgd:steps=3,autoattack:attacks=apgd-ce,{','.join(LADDER)},{TAIL}"
    frame = pd.read_csv(out / "leaderboard.csv")
    assert sorted(frame["model"]) == sorted(["rst-0.3", "rst-0.6", "switch-rst", "dense"] * 2)
    assert frame["images"].unique().tolist() == [20]
    assert frame.loc[frame["threat"] == "Linf:0.2", "autoattack:attacks=apgd-ce"].isna().all()
    assert "leaderboard.csv" not in done.stdout
    assert done.stdout.splitlines()[0].split()[:2] == ["rank", "model"]
    board, ladder = done.stdout.split("\n\n")
    assert len(board.splitlines()) == 9
    assert "joint" not in board.splitlines()[0].split()
    assert [line.split()[0] for line in ladder.splitlines()] == [
        "switch", "T0", "T1", *["T2"] * 5, "T3", "T4", "T5", "minimum", *BESIDE,
        "switch", "T0", "T1", "T2", "minimum", *BESIDE, *["switch-rst", *BESIDE] * 2,
    ]  # fmt: skip
    assert "AutoAttack sees only the mean prediction of a switch; also running: apgd, " in done.stderr


def test_every_figure_follows_from_the_bits(finished):
    out, _ = finished
    frame = pd.read_csv(out / "leaderboard.csv")
    own = {}
    for path in (out / "results").iterdir():
        header, *shards = map(json.loads, path.read_text().splitlines())
        trial = header["trial"]
        if trial["source"] == trial["target"]:
            bits = "".join(shard["bits"] for shard in sorted(shards, key=lambda shard: shard["start"]))
            own[header["cards"][trial["target"]]["name"], trial["attack"], trial["threat"]] = bits
            assert sorted(shard["start"] for shard in shards) == [0, 10]
            assert all(shard["device"] == "cpu" and shard["threads"] == 1 for shard in shards)
    plain = frame[frame["kind"] != "switch"]
    assert len(plain) == 6
    for _, row in plain.iterrows():
        clean = own[row["model"], "clean", ""]
        pgd = own[row["model"], "pgd:steps=3", row["threat"]]
        assert row["clean"] == clean.count("1") / 20
        assert row["pgd:steps=3"] == pgd.count("1") / 20
        answers = [
            clean,
            pgd,
            own.get((row["model"], "autoattack:attacks=apgd-ce", row["threat"]), "1" * 20),
        ]
        assert row["worst"] == sum(set(bits) == {"1"} for bits in zip(*answers, strict=True)) / 20


def test_the_study_file_tells_what_was_asked(finished):
    out, _ = finished
    found = tomllib.loads((out / "study.toml").read_text())
    assert found["run"]["threads"] == 2
    assert found["run"]["device"] == "cpu"
    assert found["run"]["versions"]["torch"]
    assert found["seeds"] == [0]
    assert set(found["evidence"]["keys"]) == {path.stem for path in (out / "results").iterdir()}


def test_the_same_command_does_nothing_again(finished, cli):
    out, _ = finished
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes())
        for p in out.rglob("*")
        if p.suffix in (".safetensors", ".jsonl")
    }
    assert cli(*command(out, "--quiet")[3:]).returncode == 0
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before}


def test_the_report_rebuilds_tables_figures_and_page_from_the_evidence(finished, tmp_path):
    out, _ = finished
    files = [*out.glob("*.csv"), *out.glob("figures/[!.]*"), out / "index.html"]
    assert {path.suffix for path in files} == {".csv", ".svg", ".png", ".html"}
    before = {path: path.read_bytes() for path in files}
    for path in files:
        path.unlink()
    code = f"import sys; from rstbench.cli import main; assert main(['report', {str(out)!r}]) == 0"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False\n")
    assert before == {path: path.read_bytes() for path in files}


def evidence(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("results/*.jsonl"))


def kill_when(reached, out):
    process = subprocess.Popen(
        command(out), env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not reached():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def test_killed_and_continued_it_ends_the_same(finished, tmp_path):
    whole, _ = finished
    out = tmp_path / "out"
    kill_when(lambda: list(out.glob("tickets/*.safetensors")), out)
    kill_when(lambda: evidence(out) > 25, out)
    # What a power cut may leave: half a line.
    victim = max(out.glob("results/*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    victim.write_bytes(victim.read_bytes()[:-25])
    assert evidence(out) < evidence(whole)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("tickets/*.safetensors")}
    assert kept
    subprocess.run(command(out, "--quiet"), env=environment(), check=True, capture_output=True)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert tables(out) == tables(whole)
    assert (out / "examples.npz").read_bytes() == (whole / "examples.npz").read_bytes()
    for path in (*whole.glob("tickets/*.safetensors"), whole / "tickets" / "history.csv"):
        assert (out / "tickets" / path.name).read_bytes() == path.read_bytes()


def test_more_images_add_shards_and_change_none(finished, tmp_path, cli):
    whole, _ = finished
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", str(whole), str(out)], check=True)
    before = {path.name: path.read_text() for path in (out / "results").iterdir()}
    assert cli(*command(out, "--quiet", "--limit", "25")[3:]).returncode == 0
    frame = pd.read_csv(out / "leaderboard.csv")
    assert frame["images"].unique().tolist() == [30]  # whole shards of 10
    assert all((out / "results" / name).read_text().startswith(text) for name, text in before.items())


def test_another_recipe_never_overwrites(finished, tmp_path, cli):
    out, _ = finished
    other = tmp_path / "small.toml"
    other.write_text(STUDY.read_text().replace("epochs = 2", "epochs = 3", 1))
    done = cli("evaluate", other, "--out", out, "--batch-size", "20")
    assert done.returncode == 2
    assert "was made with epochs 2, now 3 is asked" in done.stderr.splitlines()[-1]


def test_several_seeds_have_rows_of_their_own(tmp_path, cli):
    study = tmp_path / "two.toml"
    text = STUDY.read_text().replace(
        'threats = ["Linf:0.1", "Linf:0.2"]', 'threats = ["Linf:0.1"]\nseeds = [0, 3]'
    )
    study.write_text(
        text.replace('attacks = ["pgd:steps=3", {', "#").replace(
            "images = 20", 'images = 20\nattacks = ["pgd:steps=2"]'
        )
    )
    done = cli("evaluate", "two.toml", "--quiet", "--out", "out")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert sorted(frame["seed"]) == [0] * 4 + [3] * 4
    assert frame["model"].is_unique
    assert len(pd.read_csv(tmp_path / "out" / "transfer.csv")) == 2 * 2 * 4


def test_adversarials_are_kept_in_robustbench_form(finished, tmp_path):
    import torch

    from rstbench.data import load
    from rstbench.threat import Threat

    whole, _ = finished
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", str(whole), str(out)], check=True)
    for more in (["--save-adversarials", "--attack", "pgd:steps=3"], []):
        again = command(out, "--quiet", *more)
        subprocess.run(again, env=environment(), check=True, capture_output=True)
    files = sorted(path.name for path in (out / "adversarials").glob("*.pt"))
    assert "dense-pgd_steps_3-Linf_0.1-seed0.pt" in files
    images = torch.load(out / "adversarials" / "dense-pgd_steps_3-Linf_0.1-seed0.pt", weights_only=True)
    x, _ = load("digits:test:20").at(slice(None))
    assert images.dtype == torch.float32
    Threat.parse("Linf:0.1").check(x, images)
    assert tables(out) == tables(whole)


def test_a_drawing_that_diverges_leaves_the_rest(tmp_path, cli):
    study = tmp_path / "x.toml"
    text = STUDY.read_text()
    study.write_text(text.replace('name = "dense"', 'name = "dense"\nlr = 1e30\nnorm = "none"'))
    done = cli("evaluate", "x.toml", "--quiet", "--out", "out", "--attack", "pgd:steps=2")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "dense: the loss is" in done.stderr
    assert "dense" not in set(pd.read_csv(tmp_path / "out" / "leaderboard.csv")["model"])
    assert "the loss is" in (tmp_path / "out" / "study.toml").read_text()
