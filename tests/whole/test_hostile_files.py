"""Damaged files, folders of another kind, odd studies and options: refused, with the rest kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from rstbench.errors import BadFile, BadRequest
from rstbench.evidence.trial import ModelInfo
from rstbench.study.reading import parse_study, read_study
from rstbench.study.run import Options, run_study
from rstbench.tickets.checkpoint import Checkpoint
from rstbench.tickets.ticket import Ticket


class Net(nn.Module):
    """A linear model that is right on some digits."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.fc = nn.Linear(64, 10)
        self.fc.weight.data = torch.randn(10, 64, generator=generator)
        self.fc.bias.data.zero_()

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_a_ticket_that_does_not_fit_the_images_leaves_the_rest(ticket_files, tmp_path, cli, data_root):
    (tmp_path / "m.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
    )
    common = [
        "--data",
        "cifar10:test:20",
        "--quiet",
        "--threat",
        "Linf:8/255",
        "--attack",
        "pgd:steps=1",
        "--data-root",
    ]
    done = cli("evaluate", f"ticket:{ticket_files[0]}", "file:m.py:net", *common, data_root)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "raised on images of shape (3, 32, 32)" in done.stderr
    board = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv")
    assert board["model"].tolist() == ["file:m.py:net", ticket_files[0].stem]
    assert board["clean"].notna().tolist() == [True, False]


def test_saving_images_later_keeps_the_first_answer(tmp_path):
    class Noisy(Net):
        def forward(self, x):
            return super().forward(x) + torch.from_numpy(np.random.randn(len(x), 10)).float()

    plain = {"name": "x", "data": "digits:test:40", "threats": ["Linf:0.1"], "attacks": ["pgd:steps=1"]}
    study = parse_study({**plain, "model": [{"ref": "file:none"}]}, "x")
    from rstbench.models.wrapper import EvalModel

    entry = EvalModel(Noisy(), ModelInfo("noisy", "external"), "0" * 64)
    first = run_study(study, Options(tmp_path, batch="40"), given=[entry]).tables["leaderboard"]
    again = run_study(study, Options(tmp_path, batch="40", save_adversarials=True), given=[entry])
    assert again.tables["leaderboard"]["worst"].equals(first["worst"])
    assert list((tmp_path / "adversarials").glob("*.pt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": 5}, "attacks wants a list"),
        ({"attacks": "pgd"}, "attacks wants a list"),
        ({"seeds": 5}, "seeds wants a list"),
        ({"seeds": [True]}, "seeds are whole numbers"),
        ({"seeds": [2**40]}, "seeds are whole numbers"),
        ({"draw": 5}, r"write \[\[draw\]\]"),
        ({"draw": {"name": "x"}}, r"write \[\[draw\]\]"),
        ({"draw": [{"remaining": 0.1}]}, "remaining = "),
        ({"draw": [{"remaining": [0.1], "data": 5}]}, "data"),
        ({"draw": [{"remaining": [0.1], "recipe": ["a"]}]}, "recipe"),
        ({"draw": [{"remaining": [0.1], "weight-decay": -1.0}]}, "weight-decay"),
        ({"draw": [{"remaining": [0.1], "name": "../../esc"}]}, "a name is made of"),
        ({"draw": [{"remaining": [0.1], "name": ["a"]}]}, "name wants a str"),
        ({"train": [{"from": 5}]}, "from wants a str"),
        ({"train": [{"from": "x.safetensors", "network": "conv4"}]}, "that of the network"),
        ({"attacks": ["clean"]}, "no attack named 'clean'"),
        ({"threats": ["L2:1e400"]}, "a threat must read"),
        ({"name": "a/b"}, "a name is made of"),
    ],
)
def test_studies_that_are_refused(change, message):
    plain = {"name": "x", "data": "digits", "threats": ["Linf:0.1"], "draw": [{"remaining": [0.1]}], **change}
    with pytest.raises(BadRequest, match=message):
        parse_study(plain, "x.toml")


def test_a_seed_named_twice_counts_once():
    plain = {
        "data": "digits",
        "threats": ["Linf:0.1"],
        "draw": [{"remaining": [0.1]}],
        "seeds": [0, 0],
        "name": "x",
    }
    assert parse_study(plain, "x").seeds == (0,)


def test_the_study_that_is_written_is_a_study(tmp_path):
    out = tmp_path / "out"
    plain = {"name": "x", "data": "digits:test:20", "threats": ["Linf:0.1"], "attacks": ["pgd:steps=1"],
             "draw": [{"remaining": [0.5], "network": "conv2", "width": 0.1, "epochs": 1,
                       "data": "digits:train:64", "batch": 32}]}  # fmt: skip
    study = parse_study(plain, "x")
    run_study(study, Options(out))
    written = read_study(str(out / "study.toml"))
    assert written.draws[0].settings["lr"] == 0.1
    assert written.draws[0].settings["init"] == "signed_constant"
    assert written.draws[0].recipe(0) == study.draws[0].recipe(0)
    before = (out / "leaderboard.csv").read_bytes()
    run_study(written, Options(out))
    assert (out / "leaderboard.csv").read_bytes() == before


def test_damage_anywhere_in_a_file_is_noticed(ticket_files, tmp_path):
    content = bytearray(ticket_files[0].read_bytes())
    for place in (len(content) - 1, len(content) // 2, len(content) - 200):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "t.safetensors").write_bytes(changed)
        with pytest.raises(BadFile):
            Ticket.load(tmp_path / "t.safetensors")


def test_damage_in_a_checkpoint_is_noticed(spec, split, tmp_path):
    from rstbench.tickets.checkpoint import train
    from rstbench.training.recipe import recipe_for

    recipe = recipe_for({"network": "conv2", "width": 0.1, "epochs": 1, "batch": 32, "adversary": "none"})
    path = tmp_path / "c.safetensors"
    train(spec, split, recipe)[0].save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadFile, match="does not match its digest"):
        Checkpoint.load(path)


def test_folders_of_another_kind_and_files_of_ones_own_are_kept(ticket_files, cli, tmp_path):
    tickets = [f"ticket:{path}" for path in ticket_files]
    common = ["--attack", "pgd:steps=1", "--batch-size", "20", "--limit", "20", "--quiet", "--out", "o"]
    assert cli("evaluate", *tickets, *common).returncode == 0
    board = (tmp_path / "o" / "leaderboard.csv").read_bytes()
    refused = cli("transfer", *tickets, *common)
    assert refused.returncode == 2
    assert "o holds a leaderboard" in refused.stderr
    assert (tmp_path / "o" / "leaderboard.csv").read_bytes() == board
    twice = cli("transfer", tickets[0], tickets[0], *common[:-1], "t")
    assert twice.returncode == 0, twice.stderr
    assert not (tmp_path / "t" / "leaderboard.csv").exists()
    before = ticket_files[0].read_bytes()
    assert "is the model's own file" in cli("export", ticket_files[0], "--out", ticket_files[0]).stderr
    assert ticket_files[0].read_bytes() == before
    (tmp_path / "file").write_text("x")
    assert "is not a folder" in cli("evaluate", *tickets, *common[:-1], "file").stderr


def test_drawing_again_into_a_folder_keeps_the_history(cli, tmp_path):
    text = "draw --network conv2 --width 0.1 --data digits:train:64 --epochs 1 --batch 32 --out t --quiet"
    for ratio in ("0.3", "0.6"):
        assert cli(*text.split(), "--remaining", ratio).returncode == 0
    assert pd.read_csv(tmp_path / "t" / "history.csv")["name"].tolist() == ["conv2-0.3", "conv2-0.6"]


def test_plain_archives_are_for_measuring_only(tmp_path, cli):
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 8, 8), np.uint8), y=np.arange(40) % 10)
    done = cli("draw", "--data", "npz:a.npz", "--remaining", "0.5", "--out", "t")
    assert done.returncode == 2
    assert "its x and y are test images" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "²"], "--batch-size reads"),
        (["--device", "cpu:"], "--device reads"),
        (["--limit", "²"], "wants a whole number"),
        (["--seed", "99999999999999999999"], "wants a whole number"),
        (["--attack", "autoattack:attacks=apgd-ce,version=rand"], "not both"),
    ],
)
def test_odd_options(arguments, message, ticket_files, capsys):
    from rstbench.cli.commands import main

    assert main(["evaluate", f"ticket:{ticket_files[0]}", "--quiet", *arguments]) == 2
    assert message in capsys.readouterr().err
