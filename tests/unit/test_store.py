"""Evidence on disk: identity, torn lines, damage, two runs at once."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from rstbench.errors import BadFile, BadRequest
from rstbench.evidence.store import Store
from rstbench.evidence.trial import (
    ModelInfo,
    ShardResult,
    Trial,
    TrialResult,
    attack_family,
    crafting_seed,
)
from rstbench.files import write_whole

TRIAL = Trial("a" * 64, "b" * 64, "pgd", "Linf:0.1", "d" * 64, 50, 0)
CARDS = {"a" * 64: ModelInfo("left", "ticket", remaining=0.1), "b" * 64: ModelInfo("right", "trained")}


def fill(store, *tallies):
    for tally in tallies:
        store.add(TRIAL, tally, CARDS, "digits:test")


def test_every_field_of_the_question_is_in_the_key():
    other = {
        "source": "x",
        "target": "x",
        "attack": "x",
        "threat": "x",
        "data": "x",
        "batch": 51,
        "seed": 1,
        "version": 2,
    }
    keys = {replace(TRIAL, **{name: value}).key for name, value in other.items()}
    assert len(keys | {TRIAL.key}) == len(other) + 1


def test_the_crafting_seed_ignores_the_judge():
    assert crafting_seed(TRIAL, 0) == crafting_seed(replace(TRIAL, target="c" * 64), 0)
    assert crafting_seed(TRIAL, 0) != crafting_seed(TRIAL, 50)
    assert crafting_seed(TRIAL, 0) != crafting_seed(replace(TRIAL, seed=1), 0)


def test_what_was_added_is_read(tmp_path):
    store = Store(tmp_path)
    tallies = (
        ShardResult(0, "011", {"pgd": "100"}, ("few-images",), 3, 2, 0.5, "cpu", 2, {"torch": "2"}),
        ShardResult(3, "1"),
    )
    fill(store, *tallies)
    assert store.read(TRIAL.key) == TrialResult(TRIAL, CARDS, "digits:test", tallies)
    assert store.read(TRIAL.key).bits == "0111"
    assert store.keys() == [TRIAL.key]


def test_a_gap_ends_the_bits(tmp_path):
    store = Store(tmp_path)
    fill(store, ShardResult(0, "01"), ShardResult(4, "11"))
    assert store.read(TRIAL.key).bits == "01"
    assert not store.read(TRIAL.key).covers(3)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_ignored_and_written_over(tmp_path, cut):
    store = Store(tmp_path)
    fill(store, ShardResult(0, "01"), ShardResult(2, "11"))
    path = store.path(TRIAL.key)
    path.write_bytes(path.read_bytes()[:-cut])
    assert store.read(TRIAL.key).bits == "01"
    fill(store, ShardResult(2, "11"))
    assert store.read(TRIAL.key).bits == "0111"


def test_a_torn_first_line_is_no_evidence(tmp_path):
    store = Store(tmp_path)
    fill(store, ShardResult(0, "01"))
    path = store.path(TRIAL.key)
    path.write_bytes(path.read_bytes()[:40])
    assert store.read(TRIAL.key) is None
    fill(store, ShardResult(0, "01"))
    assert store.read(TRIAL.key).bits == "01"


def test_damage_and_contradiction_are_refused(tmp_path):
    store = Store(tmp_path)
    fill(store, ShardResult(0, "01"), ShardResult(0, "11"))
    with pytest.raises(BadFile, match="two different answers"):
        store.read(TRIAL.key)
    store.path(TRIAL.key).write_bytes(b"no json\n")
    with pytest.raises(BadFile, match="damaged"):
        store.read(TRIAL.key)
    other = replace(TRIAL, seed=9)
    store.add(other, ShardResult(0, "1"), CARDS, "digits:test")
    store.path(other.key).rename(store.path(TRIAL.key))
    with pytest.raises(BadFile, match="another question"):
        store.read(TRIAL.key)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with Store(tmp_path).lock(), pytest.raises(BadRequest, match="another run"), Store(tmp_path).lock():
        pass
    with Store(tmp_path).lock():
        pass


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_whole(path, b"first")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_the_family_of_an_attack_is_its_registered_name():
    assert attack_family("pgd:restarts=5,steps=50") == attack_family("pgd") == "pgd"
    assert attack_family("pgd-mine:steps=5") == "pgd-mine"
    assert attack_family("autoattack-lite") == "autoattack-lite"


@pytest.mark.parametrize("kind", [Trial, ModelInfo, ShardResult])
def test_every_field_is_documented(kind):
    text = (Path(__file__).parent.parent.parent / "docs" / "evidence.md").read_text()
    assert [field.name for field in fields(kind) if f"`{field.name}`" not in text] == []
