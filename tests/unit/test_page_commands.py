"""The commands on the page, as our own parser reads them."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from rstbench.cli.arguments import make_parser
from rstbench.cli.commands import VERBS
from rstbench.reports.page.commands import row_command, study_command
from rstbench.reports.report import write_report
from rstbench.reports.tables import write

NAME = "<script>alert(1)</script>"
STUDY = {
    "name": "s",
    "images": 20,
    "data": "digits:test",
    "attacks": ["pgd", {"attack": "autoattack", "threat": "Linf:1/10"}],
    "draw": [{"name": "rst"}],
    "model": [{"ref": "file:my nets.py:net", "name": NAME}],
}


def parsed(command):
    """The command as our own parser reads it."""
    threads, *words = shlex.split(command)
    assert threads == "OMP_NUM_THREADS=2"
    assert words[:4] == ["python", "-m", "rstbench", "evaluate"]
    return make_parser(VERBS).parse_args(words[3:])


def test_commands_ask_the_same(hand_run, tmp_path):
    manifest = hand_run(tmp_path, study=STUDY).manifest
    study = parsed(study_command(manifest))
    assert (study.what, study.limit, study.batch_size, study.device) == (["study.toml"], 0, "20", "cpu")
    assert study.crafting == "exact"  # as all was, before manifests said so
    fast = replace(manifest, run={**manifest.run, "crafting": "fast and exact"})  # a merged one
    assert parsed(study_command(fast)).crafting == "fast"
    rows = {(manifest.models[row.model].name, row.threat): row for row in manifest.rows}
    near = "Linf:1/10"
    assert parsed(row_command(manifest, rows["rst-0.1", near], tmp_path)).what == ["study.toml"]
    (tmp_path / "tickets").mkdir()
    (tmp_path / "tickets" / "rst-0.1-seed0.safetensors").touch()
    ticket = parsed(row_command(manifest, rows["rst-0.1", near], tmp_path))
    assert ticket.what == ["ticket:tickets/rst-0.1-seed0.safetensors"]
    assert (ticket.attack, ticket.threat, ticket.seed) == (["pgd", "autoattack"], [near], 0)
    assert ticket.data == "digits:test:20"
    assert parsed(row_command(manifest, rows[NAME, near], tmp_path)).what == ["file:my nets.py:net"]
    switch = parsed(row_command(manifest, rows["switch-rst", "Linf:1/5"], tmp_path))
    assert (switch.what, switch.attack, switch.threat) == (["study.toml"], ["pgd"], ["Linf:1/5"])


def test_commands_ask_for_certificates(hand_run, tmp_path):
    manifest = hand_run(tmp_path, study=STUDY).manifest
    row = next(row for row in manifest.rows if manifest.models[row.model].name == NAME)
    asked = parsed(row_command(manifest, replace(row, certificates=("ibp", "crown:alpha=20")), tmp_path))
    assert asked.certify == ["ibp", "crown:alpha=20"]


@pytest.mark.parametrize(
    ("study", "limit"),
    [
        ({"images": 20}, 0),
        ({"images": 0, "data": "digits:test:20"}, 0),
        ({"images": 150}, 20),
        ({"images": 0}, 20),
    ],
)
def test_commands_ask_as_many_images(hand_run, tmp_path, study, limit):
    manifest = hand_run(tmp_path, study=STUDY | study).manifest
    assert parsed(study_command(manifest)).limit == limit


def test_what_came_from_python_has_no_command(hand_run, tmp_path):
    evidence = hand_run(tmp_path)
    manifest = evidence.manifest
    assert study_command(manifest) == ""
    assert row_command(manifest, manifest.rows[0], tmp_path) == ""
    write_report(evidence, write(evidence, tmp_path), tmp_path)
    assert "python -m rstbench" not in (tmp_path / "index.html").read_text()
