"""How far a run is: folders made by hand, times worked out on paper."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from rstbench.errors import BadFile
from rstbench.evidence import run_log
from rstbench.evidence.costs import Cost
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.run_log import CraftingLog, RunLog
from rstbench.evidence.shard_reports import reporting
from rstbench.evidence.store import Store
from rstbench.evidence.trial import CLEAN, ModelInfo, ShardResult, Trial
from rstbench.progress import StageReport, duration, report
from rstbench.reports.remaining_work import Completion, estimate
from rstbench.reports.status import read_status, status_text

ROOT = Path(__file__).parent.parent.parent
NOW = 1_000_000.0
T = "Linf:0.1"
CARDS = {"x": ModelInfo("x", "ticket"), "y": ModelInfo("y", "ticket")}


def network(root, name, at, seconds=None):
    path = root / "tickets" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    os.utime(path, (at, at))
    if seconds is not None:
        with (path.parent / "costs.jsonl").open("a") as file:
            file.write(json.dumps(asdict(Cost(name, seconds, None, "cpu", 1))) + "\n")
    return path


def planned(root, *names, began=NOW - 1000):
    """As `run_log.begin` writes it, at another time."""
    run_log.begin(root, [root / "tickets" / f"{name}.safetensors" for name in names])
    first = json.loads((root / run_log.RUN_LOG_FILE).read_text())
    (root / run_log.RUN_LOG_FILE).write_text(json.dumps({**first, "began": began}) + "\n")


def asked(root):
    """Two models, one threat: pgd answered for x alone, a shard of 30 s each; autoattack not begun."""
    store, trials = Store(root), []
    questions = [("x", CLEAN), ("y", CLEAN), *((m, a) for a in ("pgd", "autoattack") for m in "xy")]
    for model, attack in questions:
        clean = attack == CLEAN
        trial = Trial(model, model, attack, "" if clean else T, "data", 2, 0)
        trials.append(trial)
        for start in (0, 2) if clean or (model, attack) == ("x", "pgd") else ():
            tally = ShardResult(start, "11", seconds=0.0 if clean else 30.0)
            store.add(trial, tally, {model: CARDS[model]}, "digits:test")
            os.utime(store.path(trial.key), (NOW - 10, NOW - 10))
    Manifest(
        study={"name": "hand", "attacks": ["pgd", "autoattack"], "threats": [T], "seeds": [0]},
        run={"data": "digits:test", "data_digest": "data", "batch": 2},
        images=4,
        models=CARDS,
        rows=tuple(Row(model, T, 0, ("pgd", "autoattack")) for model in CARDS),
        keys=tuple(trial.key for trial in trials),
    ).save(root)
    return trials


def text_of(root):
    return list(status_text(read_status(root, NOW), NOW))


def test_networks_are_being_made(tmp_path):
    planned(tmp_path, "a", "b", "c")
    network(tmp_path, "a", NOW - 60, seconds=100)
    network(tmp_path, "b", NOW - 260, seconds=80)
    (tmp_path / "tickets" / ".c.unfinished").write_bytes(b"")
    with Store(tmp_path).lock():
        status = read_status(tmp_path, NOW)
        text = text_of(tmp_path)
    # In the last 300 s: a whole (100 s), and of b the 40 s after they began. That is 140 of 300 seconds, so
    # one more network of 90 s takes 90 * 300 / 140 = 193 s.
    assert (status.networks.done, status.networks.total) == (2, 3)
    assert status.networks.seconds_left == pytest.approx(90 * 300 / 140)
    assert text[0].endswith(": making networks, for 17 min")
    assert text[1:3] == ["  networks  2 of 3 made, 1 under way: c", "  rate      0.4 networks a minute"]
    assert text[3].startswith("  ends      in about 3 min, at ")


def test_shards_are_being_answered(tmp_path):
    planned(tmp_path)
    run_log.begin_asking(tmp_path, asked(tmp_path))
    run_log.add(tmp_path, "fault", "y, pgd raised")
    with Store(tmp_path).lock():
        status = read_status(tmp_path, NOW)
        text = text_of(tmp_path)
    assert status.state == "attacking"
    assert dict(status.shards.by_attack) == {"clean": (4, 4), "pgd": (2, 4), "autoattack": (0, 4)}
    assert (status.shards.done, status.shards.total) == (6, 12)
    # The two shards of 30 s gave 60 seconds of work in 300; the other two take 60 / 0.2 s.
    assert status.shards.seconds_left == pytest.approx(300)
    assert "            2 of 4 pgd" in text
    ends = next(line for line in text if line.startswith("  ends"))
    assert ends.startswith("  ends      in about 5 min, at ")
    assert ends.endswith(", without autoattack: none done yet")
    assert text[-2:] == ["  failures  1", "            y, pgd raised"]


def test_a_shard_under_way_has_a_line_while_the_run_goes(tmp_path):
    planned(tmp_path)
    run_log.begin_asking(tmp_path, asked(tmp_path))
    times = iter([NOW - 16, NOW - 16, NOW - 6, NOW - 6, NOW - 6])  # begun 16 s ago, told 10 s later
    with reporting(tmp_path / ".progress", "k" * 64, f"y, pgd {T}", 2, 2, lambda: next(times)):
        report(StageReport("pgd", 2, 0.5, 40, 100))
        # 40 passes in 10 s; the other 60 take 15 s.
        line = (
            f"  now       y, pgd {T}, images 2-3, in pgd: 2 left, robust 0.50 so far, 4.0 passes/s, 15 s left"
        )
        assert line not in text_of(tmp_path)  # a killed run left it
        with Store(tmp_path).lock():
            assert line in text_of(tmp_path)
            assert not read_status(tmp_path, NOW + 61).attacked
            (tmp_path / run_log.RUN_LOG_FILE).unlink()
            planned(tmp_path, "a")
            assert read_status(tmp_path, NOW).state == "making"
            assert line not in text_of(tmp_path)


def test_a_killed_run_is_stopped_and_an_ended_one_done(tmp_path):
    planned(tmp_path)
    run_log.begin_asking(tmp_path, asked(tmp_path))
    assert text_of(tmp_path)[0] == f"{tmp_path}: stopped; the same command continues"
    assert not any(line.startswith("  ends") for line in text_of(tmp_path))
    # What failed stays unanswered when a run has come to its end.
    run_log.add(tmp_path, "fault", "y raised")
    run_log.add(tmp_path, "ended")
    assert text_of(tmp_path)[0] == f"{tmp_path}: done, but for what failed"


def test_until_a_run_asks_the_study_is_that_of_an_earlier_one(tmp_path):
    asked(tmp_path)
    assert read_status(tmp_path, NOW).shards.total == 12
    planned(tmp_path, "a")
    status = read_status(tmp_path, NOW)
    assert (status.state, status.shards) == ("stopped", None)


def test_a_shard_that_many_models_judge_is_one_shard(tmp_path):
    store, cards = Store(tmp_path), CARDS
    trials = [Trial("x", target, "pgd", T, "data", 2, 0) for target in "xy"]
    for trial in trials:
        for start in (0, 2):
            store.add(trial, ShardResult(start, "11", seconds=5.0), cards, "digits:test")
    clean = [Trial(m, m, CLEAN, "", "data", 2, 0) for m in "xy"]
    request = Manifest(
        study={},
        run={"data": "digits:test", "data_digest": "data", "batch": 2},
        images=4,
        models=cards,
        rows=(Row("x", T, 0, ("pgd",)),),
        groups=(("x", "y"),),
        keys=tuple(trial.key for trial in (*trials, *clean)),
    )
    planned(tmp_path)
    request.save(tmp_path)
    run_log.begin_asking(tmp_path, [*trials, *clean])
    assert dict(read_status(tmp_path, NOW).shards.by_attack) == {"clean": (0, 4), "pgd": (2, 2)}
    store.path(trials[1].key).unlink()
    assert dict(read_status(tmp_path, NOW).shards.by_attack) == {"clean": (0, 4), "pgd": (0, 2)}


def test_an_ended_run_is_done_without_a_log():
    """The committed study has no log: its results say what each trial was."""
    status = read_status(ROOT / "leaderboards" / "digits", NOW)
    assert status.state == "done"
    assert "other" not in status.shards.by_attack
    assert status.shards.done == status.shards.total > 0


def test_what_was_not_begun_is_other_where_the_log_does_not_tell(tmp_path):
    """As runs before 0.2 wrote it: the line alone, or no log."""
    asked(tmp_path)
    parts = {"clean": (4, 4), "pgd": (2, 2), "other": (0, 6)}
    assert dict(read_status(tmp_path, NOW).shards.by_attack) == parts
    planned(tmp_path)
    run_log.add(tmp_path, "asking")
    assert RunLog.load(tmp_path).craftings == ()
    assert dict(read_status(tmp_path, NOW).shards.by_attack) == parts


def test_the_log_holds_each_crafting_once(tmp_path):
    trials = [Trial("x", target, "pgd", T, "data", 2, 0) for target in "xyx"]
    trials.append(Trial("x", "x", "pgd", T, "data", 2, 1))
    run_log.begin_asking(tmp_path, trials)
    assert not (tmp_path / run_log.RUN_LOG_FILE).exists()  # no run began
    planned(tmp_path)
    run_log.begin_asking(tmp_path, trials)
    log = RunLog.load(tmp_path)
    keys = [trial.key for trial in trials]
    assert log.asking
    assert log.craftings == (CraftingLog("pgd", (keys[0], keys[1])), CraftingLog("pgd", (keys[3],)))


def test_speed_falls_back_to_the_whole_run():
    completions = [Completion(500.0, 400.0)]
    # Nothing ended in the last 300 s; in the 1000 s of the run 400 s of work did.
    assert estimate(completions, 40.0, 0.0, 1000.0) == (1 / 1000, 100.0)
    assert estimate([], 40.0, 0.0, 1000.0) == (0.0, None)
    assert estimate(completions, 40.0, None, 1000.0) == (0.0, None)


def test_a_folder_in_its_first_moments(tmp_path):
    assert text_of(tmp_path) == [f"{tmp_path}: empty, nothing was asked of it yet"]
    with Store(tmp_path).lock():
        assert read_status(tmp_path, NOW).state == "making"
        assert "how many are asked was not written down" in "\n".join(text_of(tmp_path))


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(BadFile, match="no folder"):
        read_status(tmp_path / "nothing", NOW)
    (tmp_path / "letter.txt").write_text("")
    with pytest.raises(BadFile, match="is no run"):
        read_status(tmp_path, NOW)


def test_looking_changes_nothing(tmp_path):
    planned(tmp_path)
    asked(tmp_path)
    (tmp_path / ".lock").write_text("")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    read_status(tmp_path, NOW)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before
    with Store(tmp_path).lock():  # the glance did not keep the lock
        assert Store(tmp_path).is_locked()
    assert not Store(tmp_path).is_locked()


def test_a_damaged_log_is_none(tmp_path):
    for text in ("", "{", "[]\n", '{"began": 1}\n', "1\n2\n"):
        (tmp_path / run_log.RUN_LOG_FILE).write_text(text)
        assert RunLog.load(tmp_path) is None
    # A line that a kill tore does not count.
    (tmp_path / run_log.RUN_LOG_FILE).write_text('{"began": 1, "networks": []}\n{"ended": ""')
    assert RunLog.load(tmp_path) == RunLog(1.0, ())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (7500, "2 h 5 min"), (270000, "3 d 3 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
