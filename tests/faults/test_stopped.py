"""A command killed or interrupted in any stage: the same command finishes, and its tables are the same."""

from __future__ import annotations

import shutil
import signal

import pytest

pytestmark = pytest.mark.faults
SAME = "the same command finishes; every CSV equals that of an undisturbed run"
STAGES = {
    "drawing": [["rstbench.study.build:Builder._draw", 1], ["rstbench.study.build:_advance", 1]],
    "training": [["rstbench.study.build:Builder._train", 1], ["rstbench.study.build:_advance", 2]],
    "saving a network": [["rstbench.tickets.checkpoint:Checkpoint.save", 1], ["os:replace", 1]],
    "saving the manifest": [["rstbench.evidence.manifest:Manifest.save", 1], ["os:replace", 1]],
    "clean images": [["rstbench.evaluation.shard:judge", 2]],
    "an attack": [["rstbench.evaluation.shard:_craft", 2], ["rstbench.threat:Threat.ascend", 1]],
    "a certificate": [["rstbench.evaluation.shard:prove", 2]],
    "storing": [["rstbench.evidence.store:Store.add", 4], ["os:fsync", 1]],
    "collecting examples": [["rstbench.evidence.examples:join_parts", 1], ["os:replace", 1]],
    "writing tables": [["rstbench.study.run:write", 1], ["os:replace", 2]],
    "drawing figures": [["rstbench.study.run:write_report", 1], ["os:replace", 1]],
    "writing the page": [["rstbench.reports.page.write:write_page", 1], ["os:replace", 1]],
}
STOPPED = ["rstbench: stopped; the same command continues where it stopped"]


@pytest.mark.parametrize("stage", STAGES)
def test_killed(folder, tables, outcome, stage):
    status, errors = folder.run(fault={"at": STAGES[stage], "do": ["kill"]})
    assert (status, errors) == (-signal.SIGKILL, [])
    folder.finishes(tables)
    outcome("the process is killed (SIGKILL)", stage, SAME)


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted(folder, tables, outcome, stage):
    status, errors = folder.run(fault={"at": STAGES[stage], "do": ["interrupt"]})
    assert (status, errors) == (130, STOPPED)
    folder.finishes(tables)
    outcome("Ctrl-C (SIGINT)", stage, f"one line, exit 130; {SAME}")


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_stopped_while_workers_work(made, tables, outcome, how):
    point = [["rstbench.evidence.store:Store.add", 9]]
    command = made.evaluate("--workers", 2)
    status, errors = made.run(*command, fault={"at": point, "do": [how]})
    assert (status, errors) == {"kill": (-signal.SIGKILL, []), "interrupt": (130, STOPPED)}[how]
    made.finishes(tables, *command)
    name = {"kill": "the process is killed (SIGKILL)", "interrupt": "Ctrl-C (SIGINT)"}[how]
    outcome(name, "two workers", f"no process is left; {SAME}")


PACKING = {
    "packing": [["rstbench.evidence.packing:write_pack", 1], ["os:replace", 1]],
    "packing, the pack in place": [["rstbench.evidence.packing:_sync", 1]],
    "packing, files half deleted": [["pathlib:Path.unlink", 3]],
}


@pytest.mark.parametrize("how", ["kill", "interrupt"])
@pytest.mark.parametrize("stage", PACKING)
def test_packing_stopped(folder, undisturbed, tables, outcome, stage, how):
    shutil.copytree(undisturbed.out, folder.out)
    status, _ = folder.run("pack", folder.out, fault={"at": PACKING[stage], "do": [how]})
    assert status in (-signal.SIGKILL, 130)
    assert folder.run("pack", folder.out)[0] == 0
    assert not (folder.out / "results").exists()
    folder.finishes(tables)
    assert not (folder.out / "results").exists(), "an answer was lost and asked again"
    name = {"kill": "the process is killed (SIGKILL)", "interrupt": "Ctrl-C (SIGINT)"}[how]
    outcome(name, stage, f"no answer is lost; {SAME}")


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_merging_stopped(folder, undisturbed, tables, outcome, how):
    halves = [folder.root / name for name in ("one", "other")]
    for half in halves:
        shutil.copytree(undisturbed.out, half)
    for path in sorted((halves[0] / "results").iterdir())[::2]:
        path.unlink()
    command = ["report", *halves, "--out", folder.out]
    point = [["rstbench.evidence.merge:fill_folder", 1], ["os:replace", 1]]
    status, _ = folder.run(*command, fault={"at": point, "do": [how]})
    assert status in (-signal.SIGKILL, 130)
    assert not folder.out.exists()
    assert folder.run(*command)[0] == 0
    assert folder.tables() == tables
    assert folder.leftovers() == []
    name = {"kill": "the process is killed (SIGKILL)", "interrupt": "Ctrl-C (SIGINT)"}[how]
    outcome(name, "merging", SAME)
