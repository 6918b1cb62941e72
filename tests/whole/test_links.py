"""Links in a folder that is written to, and in what is read: nothing lands or is truncated elsewhere."""

from __future__ import annotations

import os

import pytest

from rstbench.errors import BadRequest
from rstbench.evidence.merge import merge
from rstbench.evidence.packing import pack_folder
from rstbench.evidence.store import Store
from rstbench.files import write_folder, write_whole

ASKED = [
    "torchvision:resnet18[classes=10,seed=0]",
    "--data",
    "digits:test:10",
    "--threat",
    "Linf:0.1",
    "--attack",
]
ASKED += ["pgd:steps=1", "--quiet", "--out"]


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    return folder


def untouched(folder):
    return [(path.name, path.read_text()) for path in sorted(folder.iterdir())] == [("precious", "mine")]


@pytest.mark.parametrize(
    "name", ["results", "tickets", "figures", "switches", "adversarials/parts", "robustbench"]
)
def test_a_folder_that_is_a_link_is_not_written_through(name, hand_run, elsewhere, tmp_path, cli):
    run = tmp_path / "run"
    if name != "results":
        hand_run(run)
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(elsewhere)
    for arguments in (
        (["evaluate", *ASKED, run], ["report", run]) if name != "results" else (["evaluate", *ASKED, run],)
    ):
        done = cli(*arguments)
        assert done.returncode == 2
        assert done.stderr == (
            f"rstbench: {run / name} is a link, and nothing is written through links; put the folder itself "
            f"where it points, or choose another --out\n"
        )
    assert untouched(elsewhere)
    assert not (run / "leaderboard.csv").exists()


def test_files_that_are_added_to_are_no_links(hand_run, elsewhere, tmp_path):
    hand_run(tmp_path / "run")
    key = Store(tmp_path / "run").keys()[0]
    for name in (".lock", f"results/{key}.jsonl", "tickets/costs.jsonl"):
        path = tmp_path / "run" / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(elsewhere / "precious")
        with pytest.raises(BadRequest, match="is a link"):
            pack_folder(tmp_path / "run")
        assert untouched(elsewhere)
        path.unlink()


def test_out_itself_may_be_a_link(hand_run, elsewhere, tmp_path):
    hand_run(tmp_path / "run")
    (tmp_path / "out").symlink_to(elsewhere)
    (elsewhere / "precious").unlink()
    merge([tmp_path / "run"], tmp_path / "out")
    assert (elsewhere / "study.toml").exists()
    assert (tmp_path / "out").is_symlink()
    (elsewhere / "results").rename(tmp_path / "moved")
    (elsewhere / "results").symlink_to(tmp_path / "moved")
    with pytest.raises(BadRequest, match="is a link"):
        merge([tmp_path / "run"], tmp_path / "out")


def test_a_file_that_is_a_link_is_replaced_and_what_it_names_is_kept(elsewhere, tmp_path):
    (tmp_path / "a.csv").symlink_to(elsewhere / "precious")
    write_whole(tmp_path / "a.csv", b"new")
    assert untouched(elsewhere)
    assert not (tmp_path / "a.csv").is_symlink()
    (tmp_path / f".b.csv.{os.getpid()}.part").symlink_to(elsewhere / "precious")
    with pytest.raises(OSError, match=r"b\.csv"):
        write_whole(tmp_path / "b.csv", b"new")
    assert untouched(elsewhere)


def test_an_export_is_not_written_through_links(elsewhere, tmp_path):
    out = tmp_path / "out"
    write_folder(out, {"config.json": b'{"rstbench": 1}', "sub/a": b"1"}, "config.json")
    (out / "sub" / "a").unlink()
    (out / "sub").rmdir()
    (out / "sub").symlink_to(elsewhere)
    with pytest.raises(BadRequest, match="is a link"):
        write_folder(out, {"config.json": b'{"rstbench": 1}', "sub/a": b"2"}, "config.json")
    assert untouched(elsewhere)


def test_names_of_keys_do_not_lead_out(hand_run, tmp_path, cli):
    hand_run(tmp_path / "run")
    path = tmp_path / "run" / "study.toml"
    key = Store(tmp_path / "run").keys()[0]
    for wrong in ("../../secret", "a\\u0000b", "/etc/passwd"):
        path.write_text(path.read_text().replace(key, wrong))
        done = cli("report", "run")
        assert done.returncode == 2
        assert "a key is up to 64 letters and digits" in done.stderr
        path.write_text(path.read_text().replace(wrong, key))
