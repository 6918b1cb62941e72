"""What a study makes, in which order, and what begins where."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from rstbench.cli.arguments import make_parser
from rstbench.cli.commands import VERBS
from rstbench.errors import BadRequest
from rstbench.study.jobs import jobs_of
from rstbench.study.reading import parse_study
from rstbench.training.adversaries import ADVERSARIES, parse_adversary
from rstbench.training.recipe import CHOICES, FORMS, DrawOptions, offered

DRAW = {"name": "rst", "network": "conv2", "width": 0.25, "init": "binary", "remaining": [0.1, "0.20"]}


def study(**tables):
    return parse_study({"name": "x", "data": "digits:test", "threats": ["Linf:0.1"], **tables}, "x")


def jobs(**tables):
    return {job.name: job for job in jobs_of(study(**tables), 3, Path("out"))}


def test_a_training_from_a_table_is_one_for_each_ratio():
    found = jobs(draw=[DRAW], train=[{"name": "ft", "from": "rst"}, {"name": "narrow", "size-of": "rst"}])
    assert list(found) == ["rst-0.1", "rst-0.20", "ft-0.1", "ft-0.20", "narrow-0.1", "narrow-0.20"]
    assert found["ft-0.20"].start == "ticket:out/tickets/rst-0.20-seed3.safetensors"
    assert found["ft-0.20"].needs == found["rst-0.20"].path
    assert found["narrow-0.1"].size_of == "ticket:out/tickets/rst-0.1-seed3.safetensors"
    assert [(job.family, job.ratio, job.remaining) for job in found.values()][1:3] == [
        ("rst", "0.20", "0.20"),
        ("ft", "0.1", ""),
    ]
    assert found["ft-0.1"].recipe.network == "conv2"
    assert found["ft-0.1"].recipe.init == "binary"
    assert found["narrow-0.1"].recipe.init == "signed_constant"


def test_one_ratio_of_a_table_can_be_named():
    found = jobs(draw=[DRAW], train=[{"name": "ft", "from": "rst-0.1"}])
    assert found["ft"].needs == found["rst-0.1"].path


def test_what_is_begun_from_comes_first():
    rtt = {"name": "rtt", "from": "again", "remaining": [0.5]}
    found = jobs(draw=[rtt, DRAW], train=[{"name": "again", "from": "rst-0.1"}])
    assert list(found) == ["rst-0.1", "again", "rtt-0.5", "rst-0.20"]
    assert found["rtt-0.5"].start == f"checkpoint:{found['again'].path}"
    assert (found["rtt-0.5"].recipe.network, found["rtt-0.5"].recipe.width) == ("conv2", 0.25)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"draw": [DRAW], "train": [{"from": "rts"}]},
            "no ticket of this study named 'rts'; did you mean 'rst",
        ),
        ({"draw": [{"from": "dense", "remaining": [0.1]}]}, "no checkpoint of this study named 'dense'"),
        (
            {
                "draw": [{"name": "a", "from": "b", "remaining": [0.1]}],
                "train": [{"name": "b", "from": "a-0.1"}],
            },
            "begin at one another: a-0.1 <- b <- a-0.1",
        ),
        ({"draw": [DRAW], "train": [{"from": "rst", "size-of": "rst"}]}, "exclude each other"),
        ({"draw": [DRAW], "train": [{"from": "rst", "init": "binary"}]}, "init is that of the network"),
        ({"draw": [DRAW], "train": [{"size-of": "rst", "width": 0.5}]}, "width is that of the network"),
        ({"draw": [DRAW], "train": [{"pattern": "row"}]}, "no key named 'pattern'"),
        ({"draw": [DRAW], "train": [{"weights": "reinit"}]}, "goes with a ticket"),
        ({"draw": [{**DRAW, "from": "dense"}]}, "network is that of the network it begins from"),
        ({"draw": [{**DRAW, "init": "knormal"}]}, "no init named 'knormal'; did you mean 'kaiming_normal'"),
    ],
)
def test_what_does_not_go_together_is_refused(tables, message):
    with pytest.raises(BadRequest) as caught:
        jobs(**tables)
    assert message in str(caught.value)


def test_the_resolved_study_reads_the_same():
    first = study(
        draw=[{**DRAW, "no-weights": True}, {"name": "rtt", "from": "dense", "remaining": [0.5]}],
        train=[{"name": "dense"}, {"name": "ft", "from": "rst", "weights": "reinit"}, {"size-of": "rst-0.1"}],
    )
    again = parse_study(first.as_toml(), "again")
    assert [job.options.store_weights for job in jobs_of(again, 0, Path("o"))].count(False) == 2
    assert [vars(job) for job in jobs_of(first, 0, Path("o"))] == [
        vars(job) for job in jobs_of(again, 0, Path("o"))
    ]


def test_what_is_listed_is_what_there_is():
    assert [form.partition(":")[0] for form in FORMS["adversary"]] == list(ADVERSARIES)
    for form in FORMS["adversary"]:
        assert parse_adversary(form) == parse_adversary(form.partition(":")[0])


def test_common_settings_lie_under_those_of_each_table():
    found = jobs(
        common={"network": "conv2", "width": 0.25, "remaining": [0.1], "pattern": "row", "epochs": 3},
        draw=[{"name": "a"}, {"name": "b", "pattern": "kernel", "remaining": [0.5]}],
        train=[{"name": "c", "epochs": 4}, {"name": "d", "from": "a", "epochs": 1}],
    )
    assert list(found) == ["a-0.1", "b-0.5", "c", "d-0.1"]
    assert [job.recipe.pattern for job in found.values()] == ["row", "kernel", "element", "element"]
    assert [job.recipe.epochs for job in found.values()] == [3, 3, 4, 1]
    assert {job.recipe.network for job in found.values()} == {"conv2"}
    with pytest.raises(BadRequest, match=r"\[common\]: no key named 'netwrok'; did you mean 'network'"):
        jobs(common={"netwrok": "conv2"}, draw=[DRAW])


@pytest.mark.parametrize("verb", ["draw", "train"])
def test_every_setting_is_an_option_that_the_help_explains(verb, monkeypatch):
    fields_of = offered(verb)
    monkeypatch.setenv("COLUMNS", "1000")  # lines do not wrap
    with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        make_parser(VERBS).parse_args([verb, "--help"])
    shown = out.getvalue().partition("\noptions:")[2]
    for name, setting in fields_of.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert setting.metadata["text"]
        assert setting.metadata["text"] in shown
        assert all(value in shown for value in (*CHOICES.get(name, ()), *FORMS.get(name, ())))
    assert {"init", "seed"} < set(fields_of)
    assert ("no_weights" in fields_of, "weights" in fields_of) == (verb == "draw", verb == "train")


def test_options_of_drawing_are_told_from_settings_of_a_recipe():
    options, settings = DrawOptions.split({"no_weights": True, "epochs": 3})
    assert (options, settings) == (DrawOptions(store_weights=False), {"epochs": 3})
    assert DrawOptions.split(options.as_plain()) == (options, {})
    assert DrawOptions.split({"no_weights": False}) == (DrawOptions(), {})
    assert DrawOptions().as_plain() == {}
    with pytest.raises(BadRequest, match="no_weights wants a bool, got 'yes'"):
        DrawOptions.split({"no_weights": "yes"})
