"""References, attack texts, and the table of names."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rstbench import plugins
from rstbench.attacks import PGD, AttackSpec
from rstbench.attacks.autoattack import AutoAttack
from rstbench.errors import BadRequest
from rstbench.references import Reference


def test_every_builtin_name_loads():
    for group, table in plugins.BUILTIN.items():
        for name in table:
            assert callable(plugins.find(group, name))


def test_a_miss_names_the_nearest():
    with pytest.raises(BadRequest, match=r"did you mean 'pgd'.*autoattack"):
        plugins.find("attacks", "ppgd")


def test_a_clash_names_both(monkeypatch, tmp_path):
    point = plugins.EntryPoint("pgd", "other:thing", "rstbench.attacks")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    monkeypatch.syspath_prepend(tmp_path)  # what is installed is looked up once a path
    with pytest.raises(BadRequest, match=r"'rstbench' and 'other:thing'"):
        plugins.find("attacks", "autoattack")


def test_a_plugin_that_does_not_load_is_named(monkeypatch, tmp_path):
    point = plugins.EntryPoint("mine", "no_such_module_anywhere:thing", "rstbench.attacks")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    monkeypatch.syspath_prepend(tmp_path)  # what is installed is looked up once a path
    with pytest.raises(BadRequest, match=r"'mine'.*does not load"):
        plugins.find("attacks", "mine")


def test_reference_grammar():
    reference = Reference.parse("file:a/b.py:net[depth=3,name=x]")
    assert (reference.source, reference.id) == ("file", "a/b.py:net")
    assert reference.options == {"depth": "3", "name": "x"}
    assert Reference.parse("ticket:runs [1]/a.safetensors").id == "runs [1]/a.safetensors"
    for wrong in ("", "file:a[b=]", "file:a[=b]", "file:a[b=1,b=2]"):
        with pytest.raises(BadRequest):
            Reference.parse(wrong)


def test_references_to_files_of_any_name(tmp_path, monkeypatch):
    """A file that is there is meant, with the brackets, commas and signs in its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("m[v=2]", "a,b.pt", "a[1].pt", "a,n=2.pt", "x [k=v], y[w=1]"):
        (tmp_path / name).touch()
    for text, id, options in (
        ("onnx:m[v=2]", "m[v=2]", {}),
        ("onnx:x [k=v], y[w=1]", "x [k=v], y[w=1]", {}),
        ("onnx:m[v=2][layout=nhwc]", "m[v=2]", {"layout": "nhwc"}),
        ("onnx:n[v=2]", "n", {"v": "2"}),
        (f"onnx:{tmp_path}/m[v=2]", f"{tmp_path}/m[v=2]", {}),
        ("timm:net[checkpoint=a,b.pt]", "net", {"checkpoint": "a,b.pt"}),
        ("timm:net[checkpoint=a[1].pt,key=model]", "net", {"checkpoint": "a[1].pt", "key": "model"}),
        (
            "timm:net[key=x, checkpoint=a,n=2.pt ,n=3]",
            "net",
            {"key": "x", "checkpoint": "a,n=2.pt", "n": "3"},
        ),
        ("timm:net[checkpoint=x [k=v], y[w=1]]", "net", {"checkpoint": "x [k=v], y[w=1]"}),
        ("timm:net[checkpoint=b,n=2.pt]", "net", {"checkpoint": "b", "n": "2.pt"}),
        ("plugin[x=a:b]", "", {"x": "a:b"}),
    ):
        found = Reference.parse(text)
        assert (found.id, found.options) == (id, options), text
    (tmp_path / "a").touch()
    (tmp_path / "m").touch()
    for text, message in (
        ("onnx:m[v=2]", r"names 'm\[v=2\]', or 'm' with options; rename one"),
        ("timm:net[checkpoint=a,n=2.pt]", "names 'a' or 'a,n=2.pt'; rename one"),
        ("timm:net[checkpoint=c,d.pt]", "options must read 'name=value', got 'd.pt'"),
        ("timm:net[checkpoint=a[1.pt]", "the brackets of a reference come in pairs"),
    ):
        with pytest.raises(BadRequest, match=message):
            Reference.parse(text)
    # Without a second reading nothing is unclear.
    assert Reference.parse("timm:net[checkpoint=a,b.pt]").options == {"checkpoint": "a,b.pt"}


@pytest.mark.parametrize(
    ("text", "canonical", "attack"),
    [
        ("pgd", "pgd", PGD()),
        ("pgd:steps=20", "pgd", PGD()),
        ("pgd:steps=50,restarts=5", "pgd:restarts=5,steps=50", PGD(steps=50, restarts=5)),
        ("pgd:step=0.5", "pgd:step=1/2", PGD(step=Fraction(1, 2))),
        ("pgd:early_stop=True", "pgd:early_stop=true", PGD(early_stop=True)),
        ("autoattack:version=rand", "autoattack:version=rand", AutoAttack(version="rand")),
        (
            "autoattack:attacks=apgd-ce+square",
            "autoattack:attacks=apgd-ce+square",
            AutoAttack(attacks=("apgd-ce", "square")),
        ),
    ],
)
def test_one_attack_has_one_text(text, canonical, attack):
    spec = AttackSpec.parse(text)
    assert (str(spec), spec.attack) == (canonical, attack)
    assert AttackSpec.parse(canonical) == spec


@pytest.mark.parametrize(
    "text",
    [
        "pgd:steps=many",
        "pgd:stpes=5",
        "pgd:steps=0",
        "pgd:loss=cw",
        "pgd:steps",
        "autoattack:version=x",
        "",
        "fgsm2",
    ],
)
def test_wrong_attack_text_is_refused(text):
    with pytest.raises(BadRequest):
        AttackSpec.parse(text)
