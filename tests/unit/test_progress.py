"""Progress: what attacks report from inside a shard, the file it passes through, and what is shown of it."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from rstbench.attacks import AttackSpec
from rstbench.cli import progress
from rstbench.cli.progress import Bars, Lines
from rstbench.evidence.shard_reports import PROGRESS_FOLDER, clear_reports, read_reports, reporting, watching
from rstbench.progress import ShardReport, Silent, StageReport, duration, is_due, listening, report
from rstbench.threat import Threat

HALF = StageReport("apgd-t", 61, 0.82, 52_000, 124_800)
# 52,000 passes in 10 s; the other 72,800 take 14 s.
SHARD = ShardReport("rst, autoattack Linf:0.1", 0, 100, 1000.0, 1010.0, 7, HALF)
FIGURES = "61 left, robust 0.82 so far, 5.2k passes/s, 14 s left"


class Clock:
    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_lines_tell_rate_rest_and_figures(clock):
    out = io.StringIO()
    with Lines(out).stage("a pgd", 100, "image") as stage:
        clock.now = 9.0
        stage.advance(1, robust=1.0)
        clock.now = 20.0
        stage.advance(39, robust=0.5)
        clock.now = 25.0
        stage.advance(60, robust=0.5)
        clock.now = 40.0
    assert out.getvalue().splitlines() == [
        "a pgd: 40/100 images, 2/s, 30 s left, robust 0.5",
        "a pgd: 100/100 images, 2.5/s, robust 0.5",
    ]


def test_lines_tell_of_a_shard_where_nothing_else_was_printed_for_ten_seconds(clock):
    out = io.StringIO()
    lines = Lines(out)
    with lines.stage("rst autoattack Linf:0.1", 200, "image") as stage:
        for second in range(1, 31):
            clock.now = float(second)
            if second == 15:
                lines.note("a note")
            stage.inside([replace(SHARD, start=100)])
        clock.now = 33.0
        stage.inside([])
        clock.now = 42.0
        stage.inside([replace(SHARD, images=200)])
    line = f"rst autoattack Linf:0.1: 0/200 images, in apgd-t of images 100-199: {FIGURES}"
    assert out.getvalue().splitlines()[:-1] == [
        line,
        "a note",
        line,  # at 24 s
        "rst autoattack Linf:0.1: 0/200 images, for 33 s",
        f"rst autoattack Linf:0.1: 0/200 images, in apgd-t: {FIGURES}",
    ]


def test_lines_tell_of_several_shards_in_a_line_each(clock):
    out = io.StringIO()
    shards = [replace(SHARD, start=100 * n, stage=replace(HALF, images_left=n)) for n in range(1, 7)]
    with Lines(out).stage("6 attacks, 6 at a time", 600, "image") as stage:
        clock.now = 9.0
        stage.inside(shards[:1])
        clock.now = 18.0
        stage.inside(shards)
    assert out.getvalue().splitlines()[1:-1] == [
        "6 attacks, 6 at a time: 0/600 images, 6 shards in apgd-t: 21 left, robust 0.82 so far, "
        "31k passes/s, 14 s left",
        *(
            f"  rst, autoattack Linf:0.1, images {n}00-{n}99, in apgd-t: {FIGURES.replace('61', str(n))}"
            for n in range(1, 5)
        ),
        "  and 2 more",
    ]


def test_bars_show_the_figures():
    out = io.StringIO()
    with Bars(out).stage("a pgd", 10, "image") as stage:
        stage.advance(5, robust=0.25)
        stage.inside([replace(SHARD, images=5, start=5)])
        assert f"robust=0.25; in apgd-t: {FIGURES}" in out.getvalue()
        stage.inside([])
        assert out.getvalue().rstrip(" ]").endswith("robust=0.25")
        stage.advance(5, robust=0.5)
    assert "a pgd" in out.getvalue()
    assert "10/10" in out.getvalue()


@pytest.mark.parametrize(
    ("done", "elapsed", "left"),
    [
        (0, 10.0, None),  # nothing tells the rate
        (1, 4.0, None),  # 1 % after 4 s is too early
        (1, 5.0, 495.0),
        (2, 0.5, 24.5),
        (50, 0.0, None),
        (50, -3.0, None),  # the clock was set back
        (100, 10.0, None),
        (120, 10.0, None),  # the total was estimated too low
    ],
)
def test_the_time_left(done, elapsed, left):
    shard = ShardReport("a", 0, 10, 1000.0, 1000.0 + elapsed, 1, StageReport("pgd", 5, 0.5, done, 100))
    assert shard.seconds_left == left
    assert shard.line().endswith(f"passes/s, {duration(left)} left" if left else "passes/s")


def told(folder):
    return [json.loads(path.read_text())["stage"]["done"] for path in folder.glob("*.json")]


def test_a_shard_keeps_one_report_in_a_file_written_every_three_seconds(tmp_path):
    clock, folder, seen = Clock(100.0), tmp_path / PROGRESS_FOLDER, []
    assert not is_due()
    with reporting(folder, "k" * 64, "m, pgd Linf:0.1", 20, 10, clock):
        for now, done in [(102.9, 1), (103.0, 2), (105.9, 3), (106.0, 4), (60.0, 5)]:  # set back at last
            clock.now = now
            report(StageReport("pgd", 3, 0.3, done, 10))
            seen += told(folder)
        assert not is_due()
        (shard,) = read_reports(tmp_path, 70.0)
    assert seen == [2, 2, 4, 5]
    assert (shard.name, shard.start, shard.images, shard.began, shard.now) == (
        "m, pgd Linf:0.1",
        20,
        10,
        100.0,
        60.0,
    )
    assert shard.stage == StageReport("pgd", 3, 0.3, 5, 10)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_the_file_goes_when_the_attack_fails(tmp_path, raised):
    clock = Clock()

    def attack():
        clock.now = 3.0
        report(HALF)
        assert told(tmp_path) == [HALF.done]
        raise raised

    with pytest.raises(raised), reporting(tmp_path, "k", "m", 0, 10, clock):
        attack()
    assert told(tmp_path) == []


def test_what_cannot_be_written_stops_no_attack(tmp_path):
    (tmp_path / "file").write_text("")
    clock = Clock()
    for folder in (tmp_path / "file" / PROGRESS_FOLDER, None):
        with reporting(folder, "k", "m", 0, 10, clock):
            clock.now += 3.0
            report(HALF)
    with reporting(tmp_path, "k", "m", 0, 10, clock):
        clock.now += 3.0
        report(replace(HALF, robust=object()))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def shard_file(root, name, shard, **changes):
    plain = {**shard.__dict__, "stage": dict(shard.stage.__dict__), **changes}
    (root / PROGRESS_FOLDER).mkdir(exist_ok=True)
    (root / PROGRESS_FOLDER / name).write_text(json.dumps(plain))


def test_damaged_and_stale_files_tell_nothing(tmp_path):
    assert read_reports(tmp_path, 1010.0) == ()
    shard_file(tmp_path, "b.json", SHARD)
    shard_file(tmp_path, "a.json", replace(SHARD, began=1005.0))
    for name, changes in {
        "nan": {"now": float("nan")},
        "endless": {"images": float("inf")},
        "stage": {"stage": []},
        "text": {"start": "x"},
    }.items():
        shard_file(tmp_path, f"{name}.json", SHARD, **changes)
    folder = tmp_path / PROGRESS_FOLDER
    (folder / "torn.json").write_text('{"name": ')
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "bytes.json").write_bytes(b"\xff")
    (folder / "folder.json").mkdir()
    assert read_reports(tmp_path, 1011.0) == (SHARD, replace(SHARD, began=1005.0))
    assert read_reports(tmp_path, 1071.0) == ()


def test_clearing_takes_what_is_ours(tmp_path):
    clear_reports(tmp_path)
    shard_file(tmp_path, "a.json", SHARD)
    shard_file(tmp_path, ".a.json.12.part", SHARD)
    clear_reports(tmp_path)
    assert list(tmp_path.iterdir()) == []
    shard_file(tmp_path, "a.json", SHARD)
    shard_file(tmp_path, "letter.txt", SHARD)
    clear_reports(tmp_path)
    assert [path.name for path in (tmp_path / PROGRESS_FOLDER).iterdir()] == ["letter.txt"]


class Told(Silent):
    def __init__(self):
        self.reports, self.came = [], threading.Event()

    def inside(self, reports):
        self.reports.append(reports)
        self.came.set()


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
def test_a_stage_is_told_from_another_thread(tmp_path, raised):
    stage, before = Told(), threading.active_count()
    try:
        with watching(tmp_path, stage):
            assert stage.came.wait(10)
            if raised:
                raise raised
    except KeyboardInterrupt:
        assert raised
    assert stage.reports[0] == ()
    assert threading.active_count() == before


def test_a_stage_may_have_no_inside(tmp_path):
    before = threading.active_count()
    with watching(tmp_path, object()):
        pass
    assert threading.active_count() == before


class TwoMembers:
    def __init__(self, nets):
        self.members, self.weights = nets, (0.25, 0.75)


@pytest.mark.parametrize("text", ["pgd:restarts=2,steps=3", "apgd:steps=3", "arc:steps=2", "joint:steps=3"])
def test_attacks_report_their_steps_and_craft_the_same(text):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    attack, threat, reports = AttackSpec.parse(text).attack, Threat.parse("Linf:0.1"), []

    def crafted():
        return attack(TwoMembers(nets), x, y, threat, torch.Generator().manual_seed(0))

    unheard = crafted()
    with listening(reports.append):
        heard = crafted()
    assert torch.equal(unheard.images, heard.images)
    done = [item.done for item in reports]
    assert done == sorted(set(done))
    assert done[-1] == reports[-1].total
    assert {item.stage for item in reports} == {attack.__class__.__name__.lower()}
    robust = [item.robust for item in reports]
    assert robust == sorted(robust, reverse=True) or text.startswith("pgd")
    assert 0 <= robust[-1] < 1


def test_early_stopped_images_are_no_longer_left():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, reports = torch.rand(20, 1, 8, 8), []
    y = net(x).argmax(1)
    attack = AttackSpec.parse("pgd:early_stop=true,steps=30").attack
    with listening(reports.append):
        crafted = attack(net, x, y, Threat.parse("Linf:0.1"), torch.Generator().manual_seed(0))
    fooled = int(crafted.stages["pgd"].sum())
    assert fooled > 0
    assert reports[-1].images_left == 20 - fooled == round(20 * reports[-1].robust)
    assert reports[-1].done == reports[-1].total
