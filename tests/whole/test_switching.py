"""The random switch from the command line: its weights, how it is attacked; transfer in other norms."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from rstbench import BadRequest, Switch, evaluate, load_model
from rstbench.cli.commands import main
from rstbench.models.wrapper import load_reference
from rstbench.reports.lookup import Evidence
from rstbench.study.plan import BEST, EQUAL
from rstbench.study.reading import parse_study

ASKED = ["--data", "digits:test:20", "--threat", "Linf:0.1", "--batch-size", "20", "--quiet"]
STUDY = {
    "name": "s",
    "data": "digits:test",
    "threats": ["Linf:0.1"],
    "draw": [{"network": "conv2", "remaining": [0.1, 0.2]}],
}


@pytest.fixture
def switch(ticket_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return "switch:" + "+".join(map(str, ticket_files))


def test_the_best_weights_are_fitted_to_held_out_images_once(switch, tmp_path, capsys):
    asked = ["evaluate", switch, f"{switch}[weights=best]", *ASKED, "--attack", "pgd:steps=3"]
    assert main(asked) == 0
    assert "fitting its weights on 147 held-out training images" in capsys.readouterr().err
    (path,) = (tmp_path / "runs" / "adhoc" / "switches").glob("*.json")
    fit = json.loads(path.read_text())
    assert sum(fit["weights"]) == pytest.approx(1)
    tried = [weights for weights, _ in fit["tried"]]
    assert tried[:3] == [[0.5, 0.5], [1, 0], [0, 1]]
    assert 3 <= len(tried) == len(set(map(tuple, tried))) <= 13
    assert [fit["weights"], fit["error"]] == min(fit["tried"], key=lambda pair: pair[1])
    frame = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv")
    assert set(frame["kind"]) == {"switch"}
    weights = pd.read_csv(tmp_path / "runs" / "adhoc" / "switch.csv")["weights"].unique()
    assert set(weights) == {"0.5+0.5", "+".join(f"{weight:.6g}" for weight in fit["weights"])}
    before = path.stat().st_mtime_ns
    assert main(asked) == 0
    assert path.stat().st_mtime_ns == before

    for lie in ({"attack": "pgd"}, {"weights": [0.123, 0.877]}, {"weights": None}):
        path.write_text(json.dumps(fit | lie))
        capsys.readouterr()
        assert main(asked) == 2
        assert f"{path.name} is no fit of this switch" in capsys.readouterr().err


def test_best_weights_want_someone_who_fits_them(switch):
    assert load_reference(f"{switch}[weights=best]").unfitted
    assert not any(part.training for part in load_model(switch).modules())
    with pytest.raises(BadRequest, match="fitted by evaluate"):
        load_model(f"{switch}[weights=best]")
    with pytest.raises(BadRequest, match=r"read 0\.2\+0\.8 or best, got 'good'"):
        load_reference(f"{switch}[weights=good]")


@pytest.mark.parametrize("shares", ["nan+nan", "nan+1", "inf+0", "-1+2", "0+0", "1", "0.5+0.5+0"])
def test_weights_that_are_no_probabilities(switch, shares, capsys):
    assert main(["evaluate", f"{switch}[weights={shares}]", *ASKED, "--attack", "pgd:steps=1"]) == 2
    assert "a switch of 2 wants as many probabilities that add to 1" in capsys.readouterr().err


MINE = """
import rstbench
def sw(first, second):
    return rstbench.Switch([rstbench.load_model(f"ticket:{name}") for name in (first, second)], [0.25, 0.75])
"""


def test_a_switch_of_ones_own_is_evaluated_exactly(ticket_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    reference = f"file:mine.py:sw[first={ticket_files[0]},second={ticket_files[1]}]"
    assert main(["evaluate", reference, *ASKED, "--attack", "pgd:steps=2"]) == 0
    (row,) = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv").to_dict("records")
    assert row["kind"] == "switch"
    assert pd.isna(row["kept_weights"])
    assert "random-output" not in str(row["flags"])
    rungs = pd.read_csv(tmp_path / "runs" / "adhoc" / "switch.csv")
    assert set(rungs["weights"]) == {"0.25+0.75"}
    nested = Switch([load_model(reference), load_model(f"ticket:{ticket_files[0]}")])
    with pytest.raises(BadRequest, match="single networks, not switches"):
        evaluate({"nested": nested}, data="digits:test:20", threat="Linf:0.1", attacks="pgd:steps=1")


def test_given_models_at_several_seeds(ticket_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = "".join(f'[[model]]\nref = "ticket:{path}"\n' for path in ticket_files)
    (tmp_path / "s.toml").write_text(
        f'data = "digits:test:20"\nthreats = ["Linf:0.1"]\nattacks = ["pgd:steps=1"]\nseeds = [3, 4]\n'
        f"transfer = true\n{models}"
    )
    assert main(["evaluate", "s.toml", "--quiet", "--batch-size", "20", "--out", "out"]) == 0
    frame = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert sorted(frame["seed"]) == [3, 3, 4, 4]
    evidence = Evidence.read(tmp_path / "out")
    one, two = (row.model for row in evidence.manifest.rows[:2])
    bits = [evidence.bits(one, two, "pgd:steps=1", "Linf:0.1", seed) for seed in (3, 4)]
    crossed = pd.read_csv(tmp_path / "out" / "transfer.csv").query("early_stop == False")
    assert len(crossed) == 4  # one line for both seeds
    name = evidence.info(one).name
    (cell,) = crossed[(crossed["source"] == name) & (crossed["target"] != name)]["robust"]
    assert cell == pytest.approx((bits[0].mean() + bits[1].mean()) / 2)


def test_weights_in_a_study():
    assert parse_study({**STUDY, "switch": True}, "s").switch_weights == (EQUAL,)
    both = parse_study({**STUDY, "switch": True, "switch-weights": ["equal", "best"]}, "s")
    assert both.switch_weights == (EQUAL, BEST)
    assert parse_study(both.as_toml(), "s").as_toml() == both.as_toml()
    for wrong in ([], ["uniform"], [0.5]):
        with pytest.raises(BadRequest, match="switch-weights lists equal or best"):
            parse_study({**STUDY, "switch": True, "switch-weights": wrong}, "s")
    with pytest.raises(BadRequest, match="goes with switch = true"):
        parse_study({**STUDY, "switch-weights": ["best"]}, "s")


def test_autoattack_on_single_draws_is_flagged(switch, tmp_path):
    attack = "autoattack:attacks=apgd-ce,sampled=true"
    assert main(["evaluate", switch, *ASKED, "--attack", attack]) == 0
    (row,) = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv").to_dict("records")
    assert "sampled-switch" in row["flags"]
    rungs = pd.read_csv(tmp_path / "runs" / "adhoc" / "switch.csv").set_index("rung")
    assert rungs.loc["sampled", "knows_switch"] in (False, "false")
    # What knows the switch is asked all the same.
    assert {"T2", "T4", "T5", "minimum"} <= set(rungs.index)
    assert rungs.loc["minimum", "robust"] <= rungs.loc["sampled", "robust"]


@pytest.mark.parametrize("threat", ["L2:0.5", "L1:2"])
def test_transfer_in_other_norms_by_other_attacks(ticket_files, tmp_path, monkeypatch, capsys, threat):
    monkeypatch.chdir(tmp_path)
    attacks = ["pgd:steps=3", "pgd:momentum=1,steps=3", "pgd:loss=margin,steps=3", "pgd:samples=2,steps=3"]
    asked = [part for attack in attacks for part in ("--attack", attack)]
    tickets = [f"ticket:{path}" for path in ticket_files]
    assert main(["transfer", *tickets, *ASKED[:2], "--threat", threat, *ASKED[4:], *asked]) == 0
    frame = pd.read_csv(tmp_path / "runs" / "transfer" / "transfer.csv")
    assert len(frame) == 4 * 4
    assert frame["threat"].unique().tolist() == [threat]
    assert frame["attack"].nunique() == 4
    assert f"at {threat}" in capsys.readouterr().out
