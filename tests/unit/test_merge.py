"""Folders of evidence merged into one: what is joined, what is told apart, what is refused."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace

import pandas as pd
import pytest

from rstbench import files
from rstbench.cli.commands import main
from rstbench.errors import BadFile, BadRequest
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.merge import merge
from rstbench.evidence.packing import pack_folder
from rstbench.evidence.store import Store
from rstbench.evidence.trial import CLEAN, ModelInfo, ShardResult, Trial
from rstbench.reports.leaderboard import leaderboard, lines_of
from rstbench.reports.lookup import Evidence
from rstbench.reports.ratios import ratios
from rstbench.reports.transfer import transfer

T = "Linf:0.1"
RUN = {"data": "digits:test", "data_digest": "d" * 64, "batch": 2, "device": "cpu", "threads": 2}


def trial(source, target, attack="pgd", batch=2, seed=0):
    clean = attack == CLEAN
    return Trial(source, target, attack, "" if clean else T, "d" * 64, batch, 0 if clean else seed)


def folder(root, models, images=4, seed=0, batch=2, attacks=("pgd",), groups=(), **run):
    """models: digest -> (card, {attack: bits by first image})."""
    store, keys = Store(root), []
    for digest, (card, answers) in models.items():
        for attack in (CLEAN, *attacks):
            asked = trial(digest, digest, attack, batch, seed)
            keys.append(asked.key)
            for start, bits in answers.get(attack, {}).items():
                store.add(asked, ShardResult(start, bits, seconds=0.5), {digest: card}, "digits:test")
    rows = tuple(Row(digest, T, seed, tuple(attacks)) for digest in models)
    cards = {digest: card for digest, (card, _) in models.items()}
    study = {"name": root.name, "seeds": [seed], "attacks": list(attacks)}
    manifest = Manifest(study, {**RUN, **run}, images, cards, rows, groups, tuple(keys))
    manifest.save(root)
    return root


A, B = ModelInfo("rst-0.1", "ticket", "rst", family="rst", ratio="0.1"), ModelInfo("net", "external")
WHOLE = {CLEAN: {0: "11", 2: "10"}, "pgd": {0: "10", 2: "10"}}


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_shards_of_one_trial_are_joined(tmp_path):
    half = {CLEAN: {0: "11", 2: "10"}, "pgd": {2: "10"}}
    one = folder(tmp_path / "one", {"a": (A, half)})
    two = folder(tmp_path / "two", {"a": (A, {"pgd": {0: "10"}}), "b": (B, WHOLE)})
    before = contents(tmp_path)
    assert merge([one, two], tmp_path / "both") == []
    assert {path: content for path, content in contents(tmp_path).items() if path in before} == before
    frame = leaderboard(Evidence.read(tmp_path / "both"))
    assert frame["model"].tolist() == ["net", "rst-0.1"]
    assert frame["worst"].tolist() == [0.5, 0.5]
    assert frame["seconds"].tolist() == [2.0, 2.0]
    manifest = Manifest.load(tmp_path / "both")
    assert manifest.study["name"] == "one+two"
    assert manifest.run["merged"] == ["one", "two"]


def test_what_a_killed_run_told_of_its_progress_is_no_evidence(tmp_path):
    one = folder(tmp_path / "one", {"a": (A, WHOLE)})
    (one / ".progress").mkdir()
    (one / ".progress" / "k-0.json").write_text("{")
    merge([one], tmp_path / "merged")
    pack_folder(one)
    assert main(["report", str(one)]) == 0
    assert not (tmp_path / "merged" / ".progress").exists()
    keys = Store(one).keys()
    assert zipfile.ZipFile(one / "results.zip").namelist() == [f"{key}.jsonl" for key in keys]
    assert "k-0" not in (one / "index.html").read_text()


def test_merging_changes_no_figure_and_can_be_merged_again(tmp_path):
    one, two = folder(tmp_path / "one", {"a": (A, WHOLE)}), folder(tmp_path / "two", {"b": (B, WHOLE)})
    merge([one, two], tmp_path / "both")
    merge([tmp_path / "both", one, tmp_path / "two" / ".." / "both"], tmp_path / "again")
    whole = folder(tmp_path / "whole", {"a": (A, WHOLE), "b": (B, WHOLE)})
    want = leaderboard(Evidence.read(whole))
    for name in ("both", "again"):
        pd.testing.assert_frame_equal(leaderboard(Evidence.read(tmp_path / name)), want)
    assert Manifest.load(tmp_path / "again").run["merged"] == ["both", "one"]


def test_two_answers_to_one_question_name_both_files(tmp_path):
    one = folder(tmp_path / "one", {"a": (A, WHOLE)})
    two = folder(tmp_path / "two", {"a": (A, {**WHOLE, "pgd": {0: "10", 2: "00"}})})
    with pytest.raises(BadFile) as error:
        merge([one, two], tmp_path / "both")
    key = trial("a", "a").key
    assert f"one/results/{key}.jsonl" in str(error.value)
    assert f"two/results/{key}.jsonl" in str(error.value)
    assert "from 2 on" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("run", [{"data_digest": "e" * 64}, {"data": "mnist:test", "data_digest": ""}])
def test_other_images_are_refused(tmp_path, run):
    one, two = folder(tmp_path / "one", {"a": (A, WHOLE)}), folder(tmp_path / "two", {"b": (B, WHOLE)}, **run)
    name = run.get("data", "digits:test")
    with pytest.raises(BadRequest, match=f"one is about digits:test dddddddddddd and .*two is about {name}"):
        merge([one, two], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def crafted(root, crafting, bits):
    """A folder in which images crafted against a were judged by these models, with these bits."""
    store, keys = Store(root), []
    for judge, text in bits.items():
        asked = replace(trial("a", judge), crafting=crafting)
        store.add(asked, ShardResult(0, text), {"a": A, judge: B}, "digits:test")
        keys.append(asked.key)
    cards = {"a": A, **{judge: replace(B, name=judge) for judge in bits if judge != "a"}}
    Manifest({}, RUN | {"crafting": crafting}, 2, cards, (), (tuple(bits),), tuple(keys)).save(root)
    return root


@pytest.mark.parametrize(
    ("exact", "fast", "shown"),
    [
        ({"a": "11"}, {"a": "00"}, {"a": "exact"}),
        ({"a": "11", "b": "11"}, {"a": "00"}, {"a": "exact", "b": "exact"}),
        ({"a": "11"}, {"a": "00", "b": "00"}, {"a": "fast", "b": "fast"}),
        ({"a": "11", "b": "11"}, {"a": "00", "c": "00"}, {"a": "exact", "b": "exact", "c": "fast"}),
    ],
)
def test_of_two_craftings_the_exact_one_is_shown_unless_fewer_judged_it(tmp_path, exact, fast, shown):
    folders = [crafted(tmp_path / name, name, bits) for name, bits in (("exact", exact), ("fast", fast))]
    for number, order in enumerate((folders, folders[::-1])):
        out = tmp_path / str(number)
        assert merge(order, out) == []
        evidence = Evidence.read(out)
        assert len(evidence.manifest.keys) == len(exact) + len(fast)
        assert {key[1]: record.trial.crafting for key, record in evidence.records.items()} == shown
        for (_, judge, *_), record in evidence.records.items():
            assert record.bits == (exact if shown[judge] == "exact" else fast)[judge]
            assert evidence.places[record.trial.key] == (f"results/{record.trial.key}.jsonl",)
        assert len(evidence.places) == len(shown)


def test_the_same_images_in_two_files_are_one_set(tmp_path):
    one = folder(tmp_path / "one", {"a": (A, WHOLE)}, data="npz:/here/x.npz:test")
    two = folder(tmp_path / "two", {"b": (B, WHOLE)}, data="npz:/there/x.npz:test", threads=8)
    merge([one, two], tmp_path / "both")
    run = Manifest.load(tmp_path / "both").run
    assert (run["data"], run["device"], run["threads"]) == ("npz:/here/x.npz:test", "cpu", "2 and 8")


def test_of_different_numbers_of_images_the_smaller_holds(tmp_path):
    one = folder(tmp_path / "one", {"a": (A, WHOLE)}, images=4)
    two = folder(tmp_path / "two", {"b": (B, WHOLE)}, images=2)
    [told] = merge([one, two], tmp_path / "both")
    assert "one about 4" in told
    assert "two about 2" in told
    assert told.endswith("the tables show the first 2")
    frame = leaderboard(Evidence.read(tmp_path / "both")).set_index("model")
    assert frame["images"].unique().tolist() == [2]
    assert frame.loc["rst-0.1", ["clean", "pgd"]].tolist() == [1.0, 0.5]


def test_seeds_of_two_machines_are_one_setting(tmp_path):
    other = ModelInfo("rst-0.1", "ticket", "rst", family="rst", ratio="0.1")
    one = folder(tmp_path / "one", {"a": (A, WHOLE)}, seed=0)
    two = folder(tmp_path / "two", {"c": (other, {**WHOLE, "pgd": {0: "11", 2: "10"}})}, seed=1)
    merge([one, two], tmp_path / "both")
    evidence = Evidence.read(tmp_path / "both")
    assert set(leaderboard(evidence)["model"]) == {"rst-0.1-seed0", "rst-0.1-seed1"}
    table = ratios(lines_of(evidence), ["pgd"])
    assert table[["setting", "ratio", "seeds", "pgd"]].to_numpy().tolist() == [["rst", "0.1", 2, 0.625]]
    assert evidence.manifest.study["seeds"] == [0, 1]


def test_two_models_of_one_name_and_seed_take_their_folders(tmp_path):
    one = folder(tmp_path / "one", {"a": (A, WHOLE), "b": (B, WHOLE)})
    two = folder(tmp_path / "two", {"c": (A, WHOLE), "b": (B, WHOLE)})
    merge([one, two], tmp_path / "both")
    evidence = Evidence.read(tmp_path / "both")
    assert set(leaderboard(evidence)["model"]) == {"rst-0.1 (one)", "rst-0.1 (two)", "net"}
    assert {line["setting"] for line in lines_of(evidence)} == {"rst (one)", "rst (two)", ""}


def test_what_one_folder_knows_of_a_model_fills_in_the_other(tmp_path):
    bare = ModelInfo("mine", "ticket")
    one = folder(tmp_path / "one", {"a": (bare, WHOLE)})
    two = folder(tmp_path / "two", {"a": (A, {**WHOLE, "cw": {0: "00", 2: "11"}})}, attacks=("pgd", "cw"))
    merge([one, two], tmp_path / "both")
    manifest = Manifest.load(tmp_path / "both")
    assert manifest.models == {"a": ModelInfo("mine", "ticket", "rst", family="rst", ratio="0.1")}
    assert manifest.rows == (Row("a", T, 0, ("pgd", "cw")),)
    [line] = lines_of(Evidence.read(tmp_path / "both"))
    assert (line["pgd"], line["cw"], line["worst"]) == (0.5, 0.5, 0.25)


def test_an_answer_at_another_batch_size_is_spare(tmp_path):
    one = folder(tmp_path / "one", {"a": (A, {CLEAN: {0: "11", 2: "10"}, "pgd": {0: "10"}})})
    two = folder(tmp_path / "two", {"a": (A, {CLEAN: {0: "1110"}, "pgd": {0: "1110"}})}, batch=4)
    [told] = merge([one, two], tmp_path / "both")
    assert told.startswith("2 answers are left out")
    # The clean answer of the first folder is whole, its attack is not.
    keys = {trial("a", "a", CLEAN).key, trial("a", "a", batch=4).key}
    assert set(Manifest.load(tmp_path / "both").keys) == keys
    assert lines_of(Evidence.read(tmp_path / "both"))[0]["pgd"] == 0.75
    assert len(Store(tmp_path / "both").keys()) == 4


def test_pairs_of_overlapping_groups_stand_once(tmp_path):
    one = folder(tmp_path / "one", {"a": (A, WHOLE), "b": (B, WHOLE)}, groups=(("a", "b"),))
    two = folder(tmp_path / "two", {"b": (B, WHOLE), "a": (A, WHOLE)}, groups=(("b", "a"), ("a",)))
    merge([one, two], tmp_path / "both")
    assert transfer(Evidence.read(tmp_path / "both"))["source"].tolist() == ["rst-0.1", "net"]


def test_where_a_merging_may_not_go(tmp_path):
    one, two = folder(tmp_path / "one", {"a": (A, WHOLE)}), folder(tmp_path / "two", {"b": (B, WHOLE)})
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for out, message in (
        (tmp_path / "two" / ".." / "one", "is one of the folders to merge"),
        (folder(tmp_path / "three", {"b": (B, WHOLE)}), "holds no earlier merging"),
        (tmp_path / "file", "is not a folder"),
    ):
        with pytest.raises(BadRequest, match=message):
            merge([one, two], out)
    assert before.items() <= contents(tmp_path).items()


def test_a_merging_is_written_over_and_leaves_what_else_lies_there(tmp_path):
    one, two = folder(tmp_path / "one", {"a": (A, WHOLE)}), folder(tmp_path / "two", {"b": (B, WHOLE)})
    (tmp_path / "both").mkdir()
    merge([one], tmp_path / "both")
    (tmp_path / "both" / "notes.txt").write_text("mine")
    merge([one, two], tmp_path / "both")
    assert len(leaderboard(Evidence.read(tmp_path / "both"))) == 2
    assert (tmp_path / "both" / "notes.txt").read_text() == "mine"


def test_a_broken_off_merging_leaves_nothing_or_the_old_one(tmp_path, monkeypatch):
    one, two = folder(tmp_path / "one", {"a": (A, WHOLE)}), folder(tmp_path / "two", {"b": (B, WHOLE)})

    def broken(source, target):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        with pytest.raises(OSError, match="no space"):
            merge([one], tmp_path / "both")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    merge([one], tmp_path / "both")
    old, written = contents(tmp_path / "both"), []

    def once(path, content):
        if written:
            raise OSError("no space")
        written.append(path)
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_whole", once)
        with pytest.raises(OSError, match="no space"):
            merge([one, two], tmp_path / "both")
    assert written
    assert old.items() <= contents(tmp_path / "both").items()


def test_report_merges_with_out_and_rebuilds_each_without(tmp_path, capsys):
    one = folder(tmp_path / "one", {"a": (A, WHOLE)})
    two = folder(tmp_path / "two", {"b": (B, WHOLE)}, images=2)
    assert main(["report", str(one), str(two), "--out", str(tmp_path / "both")]) == 0
    told = capsys.readouterr()
    assert "the tables show the first 2" in told.err
    assert told.out.count("rank") == 1
    assert len(pd.read_csv(tmp_path / "both" / "leaderboard.csv")) == 2
    assert not (one / "leaderboard.csv").exists()
    assert main(["report", str(one), str(two)]) == 0
    assert capsys.readouterr().out.count("rank") == 2
    assert [len(pd.read_csv(root / "leaderboard.csv")) for root in (one, two)] == [1, 1]
    assert main(["report", str(one), "--out", str(one)]) == 2
    assert "is one of the folders to merge" in capsys.readouterr().err
