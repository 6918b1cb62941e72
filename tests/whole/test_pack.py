"""The verb `pack`: killed anywhere it loses nothing, and every other verb reads what it wrote."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

import rstbench
from rstbench.evidence.pack import PACK_FILE
from rstbench.evidence.packing import pack_folder
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult, Trial

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "leaderboards" / "digits"
TRIALS = [Trial("a", "a", "pgd", "Linf:0.1", "d", 2, seed) for seed in range(4)]


def records(root):
    store = Store(root)
    keys = store.keys()
    return {key: store.read(key) for key in keys}


def names(root):
    return sorted(path.name for path in root.iterdir() if path.name != ".lock")


CALLS = ("replace", "fsync", "unlink", "rmdir", "open")
KILLED = """
import os, signal, sys
from pathlib import Path
from rstbench.evidence.packing import pack_folder
left = [int(sys.argv[2])]
def killing(call):
    def instead(*arguments, **more):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)
    return instead
for name in sys.argv[3:]:
    setattr(os, name, killing(getattr(os, name)))
pack_folder(Path(sys.argv[1]))
"""


def make_partly_packed(root):
    """A pack, files beside it, one of them about a packed question."""
    store, models = Store(root), {"a": ModelInfo("a", "ticket")}
    for seed, start in ((0, 0), (1, 0), (None, 0), (1, 2), (1, 0), (2, 2), (2, 0), (3, 2)):
        if seed is None:
            pack_folder(root)
        else:
            store.add(TRIALS[seed], ShardResult(start, "01"), models, "digits:test")


def test_a_packing_killed_at_any_step_loses_nothing(tmp_path):
    make_partly_packed(tmp_path / "start")
    before, step, killed = records(tmp_path / "start"), 0, True
    while killed:
        step += 1
        root = tmp_path / str(step)
        shutil.copytree(tmp_path / "start", root)
        command = [sys.executable, "-c", KILLED, str(root), str(step), *CALLS]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
        killed = done.returncode == -signal.SIGKILL
        assert killed or done.returncode == 0
        assert records(root) == before
        pack_folder(root)
        assert names(root) == [PACK_FILE]
        assert records(root) == before
    assert step > 6


@pytest.mark.parametrize("call", CALLS)
def test_a_packing_that_fails_at_any_step_loses_nothing(tmp_path, monkeypatch, call):
    real, count, failed = getattr(os, call), 0, True
    while failed:
        count += 1
        root, left = tmp_path / str(count), [count]
        make_partly_packed(root)
        before = records(root)

        def failing(*arguments, left=left, **more):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(28, "No space left on device")
            return real(*arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            with suppress(OSError):
                pack_folder(root)
            failed = left[0] <= 0
        assert records(root) == before
        pack_folder(root)
        assert names(root) == [PACK_FILE]


@pytest.fixture
def digits(tmp_path):
    """A copy of the committed study, its evidence as files."""
    copy = tmp_path / "digits"
    shutil.copytree(DIGITS, copy, ignore=shutil.ignore_patterns("figures", ".lock"))
    if (copy / PACK_FILE).exists():
        with zipfile.ZipFile(copy / PACK_FILE) as pack:
            pack.extractall(copy / "results")
        (copy / PACK_FILE).unlink()
    return copy


def test_every_verb_reads_a_pack_like_the_files(cli, digits, tmp_path):
    ticket = digits / "tickets" / "rst-0.1-seed0.safetensors"
    export = ("export", ticket, "--to", "hub-folder", "--results", digits, "--out")
    status = cli("status", digits).stdout
    assert "done" in status
    exported = cli(*export, tmp_path / "files").returncode
    assert (exported, cli("report", digits).returncode) == (0, 0)
    tables = {path.name: path.read_bytes() for path in digits.glob("*.csv")}
    evidence = records(digits)
    packed = cli("pack", digits)
    assert (packed.returncode, packed.stdout.partition(":")[0].split("\t")[0]) == (0, str(digits / PACK_FILE))
    assert not (digits / "results").exists()
    assert records(digits) == evidence
    assert cli("status", digits).stdout == status
    assert cli(*export, tmp_path / "pack").returncode == 0
    for path in (tmp_path / "files").rglob("*"):
        if path.is_file():
            assert (
                tmp_path / "pack" / path.relative_to(tmp_path / "files")
            ).read_bytes() == path.read_bytes()
    for path in digits.glob("*.csv"):
        path.unlink()
    assert cli("report", digits).returncode == 0
    assert {path.name: path.read_bytes() for path in digits.glob("*.csv")} == tables
    page = (digits / "index.html").read_text()
    assert all(f"<code>{key}.jsonl</code>" in page for key in list(evidence)[:1])
    assert f'<a href="{PACK_FILE}">{PACK_FILE}</a>, member <code>' in page
    assert 'href="results/' not in page
    assert cli("report", digits, "--out", tmp_path / "merged").returncode == 0
    assert set(records(tmp_path / "merged")) == set(evidence)


def test_a_run_continues_beside_a_pack(ticket_files, tmp_path):
    """Of 40 images half are packed; the rest is asked, and lies in files until the folder is packed again."""
    ask = {"threat": "Linf:0.1", "attacks": ["pgd:steps=2"], "out": tmp_path, "batch_size": 20}
    models = {"net": f"ticket:{ticket_files[0]}"}
    rstbench.evaluate(models, data="digits:test:20", **ask)
    half = records(tmp_path)
    pack_folder(tmp_path)
    content = (tmp_path / PACK_FILE).read_bytes()
    rstbench.evaluate(models, data="digits:test:20", **ask)
    assert not (tmp_path / "results").exists()
    table = rstbench.evaluate(models, data="digits:test:40", **ask)
    assert table["images"].tolist() == [40]
    assert (tmp_path / PACK_FILE).read_bytes() == content
    assert {path.stem for path in (tmp_path / "results").iterdir()} == half.keys()
    joined = records(tmp_path)
    assert all(joined[key].shards[0] == record.shards[0] for key, record in half.items())
    assert [len(record.bits) for record in joined.values()] == [40, 40]
    pack_folder(tmp_path)
    assert records(tmp_path) == joined


def test_what_cannot_be_packed_is_one_line(cli, tmp_path):
    for root, message in ((tmp_path / "none", "no folder"), (tmp_path, "no evidence in")):
        done = cli("pack", root)
        assert done.returncode == 2
        assert done.stderr.startswith("rstbench: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
