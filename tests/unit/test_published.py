"""Quoted figures: the shipped file, a user's own, RobustBench's entries, and what is refused."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from rstbench.errors import BadFile, BadRequest
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.trial import ModelInfo
from rstbench.reports.lookup import Evidence
from rstbench.reports.published import (
    SHIPPED,
    SHIPPED_TRANSFER,
    comparable,
    comparable_transfer,
    gather,
    read,
)
from rstbench.reports.robustbench import write_entries

HEAD = "model,data,threat,attack,robust,source\n"
ENTRY = {
    "link": "https://example.org",
    "name": "A paper",
    "authors": "One, Two",
    "additional_data": True,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "Here 2020",
    "architecture": "ResNet-18",
    "eps": "8/255",
    "clean_acc": "87.50",
    "reported": "63.44",
    "autoattack_acc": "63.44",
    "external": "63.38",
    "footnote": "Some <b>bold</b> words.",
}


def asked(data="cifar10:test:1000", threats=("Linf:8/255",), groups=()):
    request = Manifest(
        study={},
        run={"data": data},
        images=0,
        models={"a": ModelInfo("one", "external")},
        rows=tuple(Row("a", threat, 0, ("pgd",)) for threat in threats),
        groups=groups,
    )
    return Evidence(request, {})


def put(path: Path, entry) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry))
    return path


def test_the_shipped_figures_are_whole_and_sourced():
    frame = read(SHIPPED)
    assert set(frame["kind"]) == {"published"}
    for column in ("source", "url", "page", "read", "protocol", "method", "network"):
        assert (frame[column] != "").all(), column
    assert set(frame["read"]) == {"2026-11-21"}
    assert frame["robust"].between(0, 1).all()
    # What is removed and what is kept are two sides of one figure.
    both = frame.dropna(subset=["sparsity"])
    assert (both["remaining"] + both["sparsity"]).tolist() == pytest.approx([1] * len(both))
    assert not frame.duplicated(["model", "data", "threat", "attack"]).any()
    # Only what was read off a curve has an error; no curve of the paper stands without one.
    curves = frame["page"].str.startswith(("images/existence.png", "images/property.png"))
    assert frame["digitised_error"].notna().tolist() == curves.tolist()


@pytest.mark.parametrize(
    ("model", "data", "threat", "attack", "clean", "robust"),
    [
        # The README of the paper's code: table "R2S @ CIFAR-10".
        ("Fu2021Drawing-ResNet18-dense", "cifar10", "Linf:8/255", "pgd", 0.8173, 0.5019),
        ("Fu2021Drawing-ResNet18-R2S", "cifar10", "Linf:8/255", "pgd:early_stop=true", 0.7749, 0.6393),
        ("Fu2021Drawing-WideResNet32-R2S", "cifar10", "Linf:8/255", "pgd:early_stop=true", 0.8187, 0.6755),
        # The adversarial-pruning benchmark's README: 90 % removed.
        ("RST_Fu2021Drawing_R18_CIFAR10_US_90", "cifar10", "Linf:0.031", "autoattack", 0.6092, 0.1431),
        ("HARP_Zhao2023Holistic_R18_CIFAR10_US_90", "cifar10", "Linf:0.031", "autoattack", 0.8338, 0.4540),
        # RobustBench's entries.
        ("Wong2020Fast", "cifar10", "Linf:8/255", "autoattack", 0.8334, 0.4321),
        ("Rice2020Overfitting", "cifar100", "Linf:8/255", "autoattack", 0.5383, 0.1895),
    ],
)
def test_figures_as_printed_in_their_sources(model, data, threat, attack, clean, robust):
    frame = read(SHIPPED).set_index(["model", "data", "threat", "attack"])
    row = frame.loc[(model, data, threat, attack)]
    assert (row["clean"], row["robust"]) == (clean, robust)


def test_the_transfer_matrix_has_the_mean_and_diagonal_worked_out_from_the_figure():
    frame = comparable_transfer(asked(groups=(("a", "b"),)))
    matrix = frame.pivot(index="source_remaining", columns="target_remaining", values="robust")
    assert matrix.shape == (8, 8)
    assert matrix.to_numpy().mean() == pytest.approx(0.6442, abs=5e-5)
    assert matrix.to_numpy().diagonal().mean() == pytest.approx(0.4641, abs=5e-5)
    assert set(frame["early_stop"]) == {"true"}
    assert len(comparable_transfer(asked())) == 0  # nothing is crossed
    assert len(pd.read_csv(SHIPPED_TRANSFER)) == 64


def test_only_the_same_data_and_threat_are_compared():
    same = comparable(asked())
    assert set(same["data"]) == {"cifar10"}
    # 0.031 is 1.2 % below 8/255: the field takes one for the other, and each row says its own.
    assert set(same["threat"]) == {"Linf:8/255", "Linf:0.031"}
    assert set(comparable(asked(threats=("L2:0.5",)))["threat"]) == {"L2:0.5", "L2:128/255"}
    assert set(comparable(asked("cifar100", ("Linf:4/255",)))["threat"]) == {"Linf:4/255"}
    for other in (asked("digits:test"), asked(threats=("Linf:0.1",)), asked(threats=("L1:12",))):
        assert len(comparable(other)) == 0
        assert list(comparable(other)) == list(same)


def test_a_users_rows_come_first(tmp_path):
    (tmp_path / "mine.csv").write_text(HEAD + "x,cifar10,Linf:8/255,pgd,0.25,me 2026\n")
    frame = comparable(asked(), gather(tmp_path / "mine.csv"))
    assert frame.iloc[0][["model", "kind", "robust", "source"]].tolist() == [
        "x",
        "published",
        0.25,
        "me 2026",
    ]
    assert len(frame) == len(comparable(asked())) + 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + "x,cifar10,Linf:8/255,pgd,25,me\n", "line 2: robust is a fraction from 0 to 1, got '25'"),
        (HEAD + "x,cifar10,Linf:8/255,pgd,nan,me\n", "got 'nan'"),
        (HEAD + "x,cifar10,Linf:8/255,pgd,half,me\n", "got 'half'"),
        (HEAD + "x,cifar10,linf 8,pgd,0.25,me\n", "line 2: a threat reads"),
        (HEAD + "x,cifar10,Linf:8/0,pgd,0.25,me\n", "line 2: a threat reads"),
        (HEAD + "x,cifar10,Linf:-1,pgd,0.25,me\n", "line 2: a threat reads"),
        (HEAD + "x,cifar10,Linf:8/255,pgd,0.25,\n", "source is missing"),
        ("model,data,threat,attack,robust\nx,cifar10,Linf:8/255,pgd,0.25\n", "source is missing"),
        ("model,robsut\nx,0.25\n", "did you mean 'robust'"),
        (HEAD.strip() + ",kind\nx,cifar10,Linf:8/255,pgd,0.25,me,ticket\n", "of kind published, got ticket"),
        (HEAD.strip() + ",kept_weights\nx,cifar10,Linf:8/255,pgd,0.25,me,1.5\n", "kept_weights is a whole"),
        ("", "is no CSV"),
    ],
)
def test_what_is_no_quoted_figure_is_refused_in_one_line(tmp_path, text, told):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(BadFile) as caught:
        gather(tmp_path / "mine.csv")
    assert told in str(caught.value)


def test_no_file_and_no_entries(tmp_path):
    with pytest.raises(BadFile, match="no file"):
        gather(tmp_path / "nothing.csv")
    with pytest.raises(BadFile, match="holds no figures"):
        gather(tmp_path)


def test_an_entry_of_robustbench(tmp_path):
    put(tmp_path / "cifar100" / "Linf" / "One2020A.json", ENTRY)
    put(tmp_path / "cifar100" / "corruptions" / "One2020A.json", {**ENTRY, "autoattack_acc": None})
    put(tmp_path / "rstbench.json", {"rstbench": "1"})
    row = gather(tmp_path).iloc[0]
    # The folder tells the data: the field is wrong in some of RobustBench's files.
    assert row[["model", "data", "threat", "attack"]].tolist() == [
        "One2020A",
        "cifar100",
        "Linf:8/255",
        "autoattack",
    ]
    assert (row["clean"], row["robust"], row["source"]) == (0.875, 0.6344, "One, Two, Here 2020")
    assert row["note"] == "trained with additional data; another evaluation found 63.38 %; Some bold words"
    assert len(gather(tmp_path)) == 1


@pytest.mark.parametrize(
    ("eps", "threat"), [(8 / 255, "Linf:8/255"), (0.031, "Linf:0.031"), ("0.5", "Linf:0.5")]
)
def test_eps_as_text_and_as_the_number_that_robustbench_writes(tmp_path, eps, threat):
    path = put(tmp_path / "cifar10" / "Linf" / "a.json", {**ENTRY, "eps": eps})
    assert gather(path).loc[0, "threat"] == threat


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({**ENTRY, "clean_acc": "many"}, "clean_acc reads '87.50', in percent"),
        ({**ENTRY, "autoattack_acc": "634.4"}, "robust is a fraction"),
        ({**ENTRY, "autoattack_acc": None}, "has no autoattack_acc"),
        ({**ENTRY, "eps": None}, "says no eps"),
        ([], "has no autoattack_acc"),
    ],
)
def test_entries_that_are_refused(tmp_path, entry, told):
    with pytest.raises(BadFile, match=told):
        gather(put(tmp_path / "cifar10" / "Linf" / "a.json", entry))


def test_an_entry_outside_the_folders_must_say_its_norm(tmp_path):
    with pytest.raises(BadFile, match="says no norm"):
        gather(put(tmp_path / "a.json", ENTRY))
    assert gather(put(tmp_path / "a.json", {**ENTRY, "threat": "L2:0.5"})).loc[0, "threat"] == "L2:8/255"
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(BadFile, match="is no JSON"):
        gather(tmp_path / "b.json")


def test_the_real_model_info_reads_without_a_fault():
    """RobustBench's wheel leaves the folder out: it is in a clone, named by RSTBENCH_MODEL_INFO."""
    spec = find_spec("robustbench")
    beside = [
        Path(place).parent / "model_info" for place in (spec.submodule_search_locations if spec else ())
    ]
    named = [Path(os.environ["RSTBENCH_MODEL_INFO"])] if "RSTBENCH_MODEL_INFO" in os.environ else []
    found = [folder for folder in (*named, *beside) if folder.is_dir()]
    if not found:
        pytest.skip("no model_info of RobustBench; set RSTBENCH_MODEL_INFO to that of a clone")
    frame = gather(found[0])
    assert len(frame) > 100
    assert {"cifar10", "cifar100", "imagenet"} <= set(frame["data"])
    assert frame[["clean", "robust"]].notna().all(axis=None)


def test_nothing_with_autoattack_makes_no_entry(tmp_path):
    with pytest.raises(BadRequest, match="asked autoattack"):
        write_entries(asked(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changed", [{"eps": float("inf")}, {"kept_weights": "9" * 5000}])
def test_numbers_beyond_all_bounds_are_refused(tmp_path, changed):
    path = tmp_path / "cifar10" / "Linf" / "Huge.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(ENTRY | {"autoattack_acc": "50", "clean_acc": "80"} | changed))
    with pytest.raises(BadFile):
        read(path)
