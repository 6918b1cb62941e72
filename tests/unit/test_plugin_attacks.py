"""Attacks of other packages: what they are is their registered name, never how it begins."""

from __future__ import annotations

import sys

import pytest

import rstbench
from rstbench.attacks import PGD, AttackSpec
from rstbench.errors import BadRequest
from rstbench.evidence.manifest import Manifest
from rstbench.evidence.store import Store
from rstbench.models.sources.native import ticket_model
from rstbench.models.wrapper import wrap_switch
from rstbench.progress import Silent
from rstbench.references import Reference
from rstbench.study.participants import Participants
from rstbench.study.questions import LADDER, attacks_on, tasks_of
from rstbench.study.reading import parse_study
from rstbench.study.run import Options
from rstbench.study.transfer import run_transfer
from rstbench.threat import Threat

PLUGIN = """
from dataclasses import dataclass

from rstbench.attacks import Crafted

made = 0


class Mine:
    early_stop = False  # but no dataclass: nothing says how to make another

    def __init__(self, strength="1"):
        global made
        made += 1

    def __call__(self, model, x, y, threat, generator):
        return Crafted(threat.project(x, x + float(threat.eps)))


@dataclass(frozen=True)
class Lite:
    steps: int = 1
    early_stop: bool = False

    def __call__(self, model, x, y, threat, generator):
        return Crafted(threat.project(x, x - float(threat.eps)))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package on the path with the attacks `pgd-mine` and `autoattack-lite`."""
    (tmp_path / "strange_attacks.py").write_text(PLUGIN)
    info = tmp_path / "strange_attacks-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-attacks\nVersion: 1\n")
    lines = "pgd-mine = strange_attacks:Mine\nautoattack-lite = strange_attacks:Lite\n"
    (info / "entry_points.txt").write_text("[rstbench.attacks]\n" + lines)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: sys.modules["strange_attacks"]
    sys.modules.pop("strange_attacks", None)


def test_the_family_is_the_registered_name(plugin):
    texts = ["pgd:steps=50", "pgd-mine:strength=2", "autoattack-lite:steps=3", "autoattack:version=rand"]
    assert [AttackSpec.parse(text).family for text in texts] == [
        "pgd",
        "pgd-mine",
        "autoattack-lite",
        "autoattack",
    ]
    # A class that is no dataclass keeps its options as they were given.
    assert [str(AttackSpec.parse(text)) for text in texts] == texts


def test_who_can_stop_early(plugin):
    stopped = AttackSpec.parse("pgd:steps=3").early_stopped()
    assert str(stopped) == "pgd:early_stop=true,steps=3"
    assert stopped.attack == PGD(steps=3, early_stop=True)
    assert stopped.early_stopped() is None
    assert str(AttackSpec.parse("autoattack-lite").early_stopped()) == "autoattack-lite:early_stop=true"
    for text in ("autoattack", "apgd", "pgd-mine"):
        assert AttackSpec.parse(text).early_stopped() is None


def test_a_switch_is_climbed_for_autoattack_alone(plugin, small_tickets):
    members = [ticket_model(ticket, ticket.remaining) for ticket in small_tickets]
    switch, threat = wrap_switch(members, "switch"), Threat.parse("L1:12")

    def study(*attacks):
        plain = {"name": "x", "data": "digits", "threats": ["L1:12"], "attacks": [*attacks]}
        return parse_study({**plain, "model": [{"ref": "ticket:a"}]}, "x")

    assert [str(spec) for spec in attacks_on(switch, study("autoattack-lite"), threat)] == ["autoattack-lite"]
    climbed = [str(spec) for spec in attacks_on(switch, study("autoattack"), threat)]
    assert climbed == ["autoattack", *(rung for rung in LADDER if rung != "arc")]
    # AutoAttack is asked last, for it takes longest; its namesake is not.
    both = study("autoattack", "autoattack-lite")
    questions = tasks_of(both, Participants(0, (members[0],)))
    assert [str(question.attack) for question in questions] == ["None", "autoattack-lite", "autoattack"]


def test_its_images_are_transferred(plugin, ticket_files, tmp_path):
    models = [Reference.parse(f"ticket:{path}") for path in ticket_files]
    threats, common = [Threat.parse("Linf:0.1")], (0, False, Options(tmp_path / "o", limit=20, batch="20"))

    def transfer(attack):
        return run_transfer(models, [AttackSpec.parse(attack)], threats, None, *common, Silent())

    with pytest.raises(BadRequest, match="makes no transfer images"):
        transfer("autoattack")
    assert not transfer("autoattack-lite").faults
    keys = Manifest.load(tmp_path / "o").keys
    trials = [Store(tmp_path / "o").read(key).trial for key in keys]
    assert sorted(trial.attack for trial in trials) == ["autoattack-lite"] * 4 + ["clean"] * 2


def test_an_attack_is_made_once(plugin, small_tickets):
    models = {ticket.remaining: ticket_model(ticket, "").module for ticket in small_tickets}
    images = {"data": "digits:test:40", "threat": "Linf:0.1", "batch_size": 10}
    table = rstbench.evaluate(models, attacks="pgd-mine", **images)
    assert table["pgd-mine"].notna().all()
    assert plugin().made == 1  # for two models of four shards each
