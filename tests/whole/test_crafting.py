"""`--crafting` on the command line: what is asked anew, what is found again, what is written of it."""

from __future__ import annotations

import json
import tomllib

import pandas as pd
import pytest

import rstbench
from rstbench.study import switch_weights

ATTACK = ("--attack", "pgd:steps=2", "--threat", "Linf:0.1", "--batch-size", "10")
IMAGES = ("--data", "digits:test:20")


def answers(folder):
    """Return the content of every file of evidence, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("results/*")}


def craftings(folder):
    """Return the attack and the crafting of every question in a folder."""
    trials = [json.loads(content.splitlines()[0])["trial"] for content in answers(folder).values()]
    return sorted((trial["attack"], trial.get("crafting", "exact")) for trial in trials)


def manifest(folder):
    return tomllib.loads((folder / "study.toml").read_text())


def tables(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


@pytest.fixture
def ask(cli, ticket_files, tmp_path):
    """Evaluates two tickets and their switch in a folder."""
    models = [f"ticket:{path}" for path in ticket_files]
    models.append("switch:" + "+".join(map(str, ticket_files)))

    def run(out, *options):
        done = cli("evaluate", *models, *ATTACK, *IMAGES, "--quiet", "--out", out, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_an_exact_run_asks_anew_and_a_fast_one_then_asks_nothing(ask, cli, tmp_path):
    out = tmp_path / "out"
    ask("out")
    fast = answers(out)
    asked = {(attack, crafting) for attack, crafting in craftings(out)}
    assert {("clean", "exact"), ("pgd:steps=2", "fast")} <= asked
    assert ("pgd:steps=2", "exact") not in asked
    assert manifest(out)["run"]["crafting"] == "fast"
    assert "answered, crafting fast" in cli("status", "out").stdout
    for content in fast.values():
        header, *shards = map(json.loads, content.splitlines())
        source = header["cards"][header["trial"]["source"]]
        copied = [source["members"] or [header["trial"]["source"]]] if "crafting" in header["trial"] else [[]]
        assert [sorted(shard.get("copy", {})) for shard in shards] == [sorted(c) for c in copied] * 2

    exactly = ask("out", "--crafting", "exact")
    assert manifest(out)["run"]["crafting"] == "exact"
    both = answers(out)
    assert {name: content for name, content in both.items() if name in fast} == fast
    assert len(both) > len(fast)
    keys = manifest(out)["evidence"]["keys"]
    assert {f"{key}.jsonl" for key in keys} - fast.keys() == both.keys() - fast.keys()

    exact_tables = tables(out)
    assert ask("out") == exactly
    assert (answers(out), tables(out)) == (both, exact_tables)
    assert manifest(out)["evidence"]["keys"] == keys
    assert manifest(out)["run"]["crafting"] == "fast"


def test_folders_of_both_craftings_merge_and_show_the_exact_answers(ask, cli, tmp_path):
    ask("fast")
    ask("exact", "--crafting", "exact")
    for out, folders in (("one", ("fast", "exact")), ("other", ("exact", "fast"))):
        done = cli("report", *folders, "--out", out)
        assert done.returncode == 0, done.stderr
        assert len(answers(tmp_path / out)) == len(answers(tmp_path / "fast") | answers(tmp_path / "exact"))
        for name in ("leaderboard.csv", "switch.csv"):
            # The seconds include those of clean images, which both folders hold.
            frames = [
                pd.read_csv(tmp_path / folder / name).drop(columns="seconds", errors="ignore")
                for folder in (out, "exact")
            ]
            pd.testing.assert_frame_equal(*frames)
    assert cli("pack", "one").returncode == 0
    assert not answers(tmp_path / "one")
    packed = tables(tmp_path / "one")
    assert cli("report", "one").returncode == 0
    assert tables(tmp_path / "one") == packed


def test_images_that_are_not_kept_are_crafted_as_asked_for(ask, tmp_path):
    out = tmp_path / "out"
    ask("out", "--crafting", "exact")
    before = answers(out)
    ask("out", "--save-adversarials")
    assert len(answers(out)) > len(before)
    assert ("pgd:steps=2", "fast") in craftings(out)
    parts = {path.name for path in out.glob("adversarials/parts/*")}
    after = answers(out)
    ask("out", "--save-adversarials")
    assert (answers(out), {path.name for path in out.glob("adversarials/parts/*")}) == (after, parts)


def test_transfer_takes_the_choice_too(cli, ticket_files, tmp_path):
    asked = ("transfer", *(f"ticket:{path}" for path in ticket_files), *ATTACK, *IMAGES, "--quiet")
    assert cli(*asked, "--out", "out", "--crafting", "exact").returncode == 0
    before = answers(tmp_path / "out")
    assert {crafting for _, crafting in craftings(tmp_path / "out")} == {"exact"}
    assert cli(*asked, "--out", "out").returncode == 0
    assert answers(tmp_path / "out") == before
    assert cli(*asked, "--out", "new").returncode == 0
    assert craftings(tmp_path / "new").count(("pgd:steps=2", "fast")) == 4


def test_the_best_weights_of_a_switch_follow_the_choice(cli, ticket_files, tmp_path, monkeypatch):
    monkeypatch.setattr(switch_weights, "MOST_IMAGES", 10)
    monkeypatch.setattr(switch_weights, "ROUNDS", 1)
    switch = "switch:" + "+".join(map(str, ticket_files)) + "[weights=best]"
    asked = ("evaluate", switch, *ATTACK, "--data", "digits:test:10", "--quiet", "--out", "out")
    fits = []
    for options in ((), ("--crafting", "exact"), ()):
        assert cli(*asked, *options).returncode == 0
        fits.append({path.stem[16:]: path.read_text() for path in tmp_path.glob("out/switches/*.json")})
        evaluated = manifest(tmp_path / "out")["evidence"]["cards"].values()
        (weights,) = [card["weights"] for card in evaluated if card["kind"] == "switch"]
        assert weights == json.loads(fits[-1]["" if len(fits) > 1 else "-fast"])["weights"]
    assert [sorted(fit) for fit in fits] == [["-fast"], ["", "-fast"], ["", "-fast"]]
    assert fits[1] == fits[2]
    fast, exact = json.loads(fits[1]["-fast"]), json.loads(fits[1][""])
    assert fast["crafting"] == "fast"
    assert sorted(fast["copy"]) == sorted(fast["members"])
    assert not {"crafting", "copy"} & exact.keys()


@pytest.mark.parametrize("verb", ["evaluate", "transfer"])
def test_another_crafting_is_refused_with_the_nearest(cli, ticket_files, verb, tmp_path):
    done = cli(verb, f"ticket:{ticket_files[0]}", *ATTACK, *IMAGES, "--out", "out", "--crafting", "fats")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no crafting named 'fats'; did you mean 'fast'? there are: exact, fast" in line
    assert not (tmp_path / "out").exists()


def test_python_takes_the_choice_too(small_tickets, tmp_path):
    models, how = {"a": small_tickets[0].module()}, {"data": "digits:test:10", "threat": "Linf:0.1"}
    for crafting, asked in (("fast", 2), ("exact", 3), ("fast", 3)):
        rstbench.evaluate(models, attacks="pgd:steps=2", out=tmp_path, crafting=crafting, **how)
        assert len(answers(tmp_path)) == asked
    with pytest.raises(rstbench.BadRequest, match="no crafting named 'exakt'; did you mean 'exact'"):
        rstbench.evaluate(models, attacks="pgd:steps=2", crafting="exakt", **how)
    with pytest.raises(rstbench.BadRequest, match="no crafting named 'slow'"):
        rstbench.benchmark(models["a"], 2, "digits", eps=0.1, crafting="slow")
