"""Drawing and training from the command line: what they begin from, every method, refusals."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from rstbench.cli import main
from rstbench.tickets.checkpoint import Checkpoint
from rstbench.tickets.ticket import Ticket

SMALL = ["--network", "conv2", "--width", "0.1", "--data", "digits:train:256", "--epochs", "2"]
SMALL += ["--batch", "32"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one ticket and one trained network."""
    folder = tmp_path_factory.mktemp("made")
    for verb in (["draw", "--remaining", "0.3"], ["train"]):
        assert main([*verb, *SMALL, "--quiet", "--out", str(folder)]) == 0
    return folder


def test_a_ticket_among_trained_weights(cli, made, tmp_path):
    checkpoint = f"checkpoint:{made / 'conv2.safetensors'}"
    more = ["--data", "digits:train:256", "--epochs", "1", "--batch", "32", "--quiet"]
    done = cli("draw", "--from", checkpoint, "--remaining", "0.2,0.5", *more, "--out", "rtt")
    assert done.returncode == 0, done.stderr
    trained = Checkpoint.load(made / "conv2.safetensors")
    for ratio in ("0.2", "0.5"):
        ticket = Ticket.load(tmp_path / "rtt" / f"conv2-{ratio}.safetensors")
        assert all(ticket.random_network()[name].equal(trained.state[name]) for name in ticket.masks)
        assert ticket.recipe.origin
    board = cli("evaluate", "ticket:rtt/conv2-0.2.safetensors", checkpoint, "--attack", "pgd:steps=2",
                "--limit", "20", "--quiet")  # fmt: skip
    assert board.returncode == 0, board.stderr
    frame = pd.read_csv(tmp_path / "runs" / "adhoc" / "leaderboard.csv").set_index("kind")
    assert frame.loc["ticket", "method"] == "rtt"


def test_a_ticket_among_the_weights_of_any_model(cli, tmp_path):
    (tmp_path / "m.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(hidden=8):\n"
        "    torch.manual_seed(0)\n"
        "    conv = [nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU(),\n"
        "            nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU(),\n"
        "            nn.MaxPool2d(2), nn.Flatten()]\n"
        "    full = [nn.Linear(96, 26, bias=False), nn.BatchNorm1d(26, affine=False), nn.ReLU(),\n"
        "            nn.Linear(26, 26, bias=False), nn.BatchNorm1d(26, affine=False), nn.ReLU()]\n"
        "    return nn.Sequential(*conv, *full, nn.Linear(26, 10, bias=False))\n"
    )
    done = cli("draw", "--from", "file:m.py:net", "--remaining", "0.5", *SMALL, "--quiet", "--out", "t")
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    first = torch.nn.Conv2d(1, 6, 3, padding=1, bias=False).weight
    assert Ticket.load(tmp_path / "t" / "conv2-0.5.safetensors").random_network()["0.weight"].equal(first)
    wrong = cli(
        "draw", "--from", "file:m.py:net", "--remaining", "0.5", *SMALL, "--width", "0.2", "--out", "u"
    )
    assert wrong.returncode == 2
    assert "has not the weights of conv2[width=0.2]" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_a_network_of_the_size_of_a_ticket(cli, made, tmp_path):
    ticket = Ticket.load(made / "conv2-0.3.safetensors")
    done = cli("train", "--size-of", made / "conv2-0.3.safetensors", "--epochs", "1", "--batch", "32",
               "--quiet", "--out", "n")  # fmt: skip
    assert done.returncode == 0, done.stderr
    narrow = Checkpoint.load(tmp_path / "n" / "conv2-0.3-narrow.safetensors")
    assert abs(narrow.kept_weights - ticket.kept_weights) < 0.1 * ticket.kept_weights
    assert narrow.recipe.data == ticket.recipe.data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["draw", "--from", "DENSE", "--network", "conv4"], "network is that of the network it begins from"),
        (["draw", "--from", "DENSE", "--no-weights"], "trained weights follow from no seed"),
        (["draw", "--from", "TICKET"], "holds no checkpoint of this tool, but rstbench-ticket-1"),
        (["draw", "--from", "checkpoint:none"], "no checkpoint file none"),
        (["draw", "--from", "DENSE", "--data", "mnist"], "RSTBENCH_DATA"),
        (["train", "--from", "DENSE"], "holds no ticket of this tool, but rstbench-checkpoint-1"),
        (["train", "--from", "TICKET", "--size-of", "TICKET"], "exclude each other"),
        (["train", "--size-of", "TICKET", "--width", "0.5"], "width is that of"),
        (["train", "--size-of", "TICKET", "--weights", "inherit"], "goes with a ticket to start from"),
        (["train", "--size-of", "nothing"], "no ticket file nothing"),
        (["draw", "--method", "aws", "--norm", "batch"], "norm must be affine, not 'batch'"),
        (["draw", "--method", "hydra"], "begins at trained weights"),
        (["draw", "--method", "magnitude"], "choose another init"),
        (
            [
                "draw",
                "--network",
                "conv6",
                "--method",
                "awt:kernel=full,chunk=600,batch=1200,period=1",
                "--data",
                "digits:train",
            ],
            "GiB at batch=1200, chunk=600",
        ),
        (
            ["draw", "--method", "snip", "--pattern", "row", "--allocation", "uniform"],
            "scores single weights",
        ),
        (["draw", "--method", "awt-moved", "--no-weights"], "they are stored"),
        (["draw", "--workers", "0"], "reads auto or a number of processes"),
    ],
)
def test_a_wrong_start_is_one_line(cli, made, tmp_path, arguments, message):
    files = {"DENSE": f"checkpoint:{made / 'conv2.safetensors'}", "TICKET": made / "conv2-0.3.safetensors"}
    arguments = [files.get(argument, argument) for argument in arguments]
    if arguments[0] == "draw":
        arguments += ["--remaining", "0.5", *([] if "--data" in arguments else ["--data", "digits"])]
    done = cli(*arguments, "--out", "x", "--data-root", ".")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_models_of_a_users_file_are_attacked_beside_others(tmp_path, cli, made):
    """They cannot be sent to another process: they stay in the first, and the rest goes on meanwhile."""
    (tmp_path / "m.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Own(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        torch.manual_seed(0)\n"
        "        self.fc = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        return self.fc(x.flatten(1))\n"
        "def net():\n    return Own()\n"
        "class Bad(Own):\n    def forward(self, x):\n        return super().forward(x)[:, :7]\n"
        "def bad():\n    return Bad()\n"
    )
    command = ["evaluate", "file:m.py:net", "file:m.py:bad", f"ticket:{made / 'conv2-0.3.safetensors'}"]
    command += ["--attack", "pgd:steps=2", "--limit", "20", "--batch-size", "10"]
    alone = cli(*command, "--out", "alone", env={"OMP_NUM_THREADS": "1"})
    several = cli(*command, "--out", "several", "--workers", "2", env={"OMP_NUM_THREADS": "2"})
    assert (alone.returncode, several.returncode) == (1, 1)
    assert "has 7 classes, the data 10" in several.stderr.splitlines()[-1]
    assert several.stdout == alone.stdout
    assert "2 at a time" in several.stderr


METHODS = {
    "rst": {},
    "reconstruct": {"method": "reconstruct"},
    "binary": {"init": "binary", "allocation": "p:0.1", "last-norm": True},
    "hydra": {"method": "hydra", "from": "dense"},
    "snip": {"method": "snip"},
    "grasp": {"method": "grasp", "adversary": "none"},
    "awt": {"method": "awt:passes=1,batch=16,probes=1,period=2,lr=0.05"},
    "awt-moved": {"method": "awt-moved:passes=1,batch=16,kernel=trace,chunk=4,period=2,lr=0.05"},
    "aws": {"method": "aws:warmup=1,epochs=1"},
    "magnitude": {"method": "magnitude"},
    "random": {"method": "random"},
}


@pytest.mark.slow
def test_every_method_in_one_study(tmp_path, cli):
    """Each is drawn, trained, exported and attacked, and its cost is written."""
    import tomli_w

    study = {
        "data": "digits:test",
        "threats": ["Linf:0.1"],
        "attacks": ["pgd:steps=2"],
        "images": 40,
        "transfer": True,
        "common": {"network": "conv2", "width": 0.1, "data": "digits:train:128", "epochs": 1, "batch": 32,
                   "init": "kaiming_normal", "adversary": "pgd:steps=2", "remaining": [0.3, 0.5]},
        "draw": [{"name": name, **settings} for name, settings in METHODS.items()],
        "train": [{"name": "dense"}, *({"name": f"{name}-trained", "from": name} for name in METHODS)],
    }  # fmt: skip
    (tmp_path / "s.toml").write_text(tomli_w.dumps(study))
    done = cli("evaluate", "s.toml", "--quiet", "--out", "out")
    assert (done.returncode, done.stderr) == (0, "")
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("model")
    assert len(board) == 1 + 4 * len(METHODS)
    methods = {f"{name}-0.3": board.loc[f"{name}-0.3", "method"] for name in METHODS}
    assert methods.pop("binary-0.3") == "rst"
    assert all(method == name.removesuffix("-0.3") for name, method in methods.items())
    kept = board.loc[[f"{name}-0.5" for name in METHODS if name not in ("aws", "binary")], "kept_weights"]
    assert kept.nunique() == 1  # the same number of weights for all; aws keeps its last layer whole
    assert (board.loc[[f"{n}-trained-0.5" for n in METHODS], "kept_weights"].to_numpy()
            == board.loc[[f"{n}-0.5" for n in METHODS], "kept_weights"].to_numpy()).all()  # fmt: skip
    costs = pd.read_csv(tmp_path / "out" / "ratios.csv").set_index(["setting", "ratio"])
    assert (costs["made_seconds"] > 0).all()
    assert costs["made_mib"].notna().all()
    matrix = pd.read_csv(tmp_path / "out" / "transfer.csv")
    assert {"awt-0.3", "aws-0.5"} <= set(matrix["target"])
    exported = cli("export", "out/tickets/binary-0.3-seed0.safetensors", "--out", "b.pt")
    assert exported.returncode == 0, exported.stderr
    assert "1.running_mean" in torch.load(tmp_path / "b.pt", weights_only=True)
