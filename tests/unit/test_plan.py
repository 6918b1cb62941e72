"""A study is read into objects once: two spellings of one thing are one thing."""

from __future__ import annotations

import pytest

from rstbench.attacks import AttackSpec
from rstbench.errors import BadRequest
from rstbench.references import DataReference
from rstbench.study.plan import StudyAttack, override
from rstbench.study.reading import parse_study
from rstbench.threat import Threat

PLAIN = {
    "name": "x",
    "data": "digits:test:40",
    "threats": ["Linf:0.10", "L2:1/2", "Linf:1/10"],
    "attacks": ["pgd:steps=20", {"attack": "pgd:steps=5", "threat": "L2:0.5"}, "pgd"],
    "draw": [{"network": "conv2", "remaining": [0.1]}],
    "model": [{"ref": "file:m.py:net[depth=3]"}, {"ref": "ticket:a.safetensors", "name": "mine"}],
}


def study(**changes):
    return parse_study({**PLAIN, **changes}, "x.toml")


def test_two_spellings_are_one():
    near, far = Threat.parse("Linf:0.1"), Threat.parse("L2:0.5")
    assert study().threats == (near, far)
    assert [str(spec) for spec in study().attacks_at(near)] == ["pgd"]
    assert [str(spec) for spec in study().attacks_at(far)] == ["pgd", "pgd:steps=5"]
    assert [model.reference.options for model in study().models] == [{"depth": "3"}, {}]


def test_what_is_learnt_is_said_in_the_study_s_words():
    """A recipe is a text in the file of a ticket that may exist already."""
    recipe = study().draws[0].recipe(0)
    assert (recipe.data, recipe.threat) == ("digits", "Linf:0.10")
    assert study(data="cifar10:train:50").draws[0].recipe(0).data == "cifar10:train"


def test_it_is_written_as_it_is_read():
    plain = study().as_toml()
    assert (plain["data"], plain["threats"]) == ("digits:test:40", ["Linf:0.1", "L2:0.5"])
    assert plain["attacks"] == ["pgd", {"attack": "pgd:steps=5", "threat": "L2:0.5"}]
    assert plain["model"] == [*PLAIN["model"][:1], {"name": "mine", "ref": "ticket:a.safetensors"}]
    again = parse_study(plain, "again")
    assert (again.threats, again.attacks, again.models) == (study().threats, study().attacks, study().models)


def test_options_take_the_place_of_its_own():
    spec, threat = AttackSpec.parse("apgd"), Threat.parse("Linf:0.2")
    changed = override(study(images=20), [spec, spec], [threat], DataReference("mnist", count=10))
    assert (changed.attacks, changed.threats) == ((StudyAttack(spec),), (threat,))
    assert (str(changed.data), changed.images) == ("mnist:10", 0)
    # An attack at one threat of the study is one at each of those that are given instead.
    everywhere = override(study(), [], [threat], None)
    assert [str(attack) for attack in everywhere.attacks_at(threat)] == ["pgd", "pgd:steps=5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": [{"attack": "pgd", "threat": "Linf:0.3"}]}, r"no threat of this study named 'Linf:0.3'"),
        ({"attacks": [{"attack": "pgd", "threat": "near"}]}, "a threat must read"),
        ({"attacks": [5]}, "an attack reads 'pgd' or"),
        ({"threats": [5]}, "threats wants a list of texts"),
        ({"data": ":test"}, "data must read 'name:test:1000'"),
        ({"model": [{"ref": "file:a[b=1,b=2]"}]}, "option 'b' is given twice"),
    ],
)
def test_what_cannot_be_read(change, message):
    with pytest.raises(BadRequest, match=message):
        study(**change)
