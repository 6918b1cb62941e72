"""What `run.py` measures: on a GPU, and in its dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What is measured. batch, most: images of each side of the attacks, which double until there are so many
    or no time is left; images: of the transfers and the last part; ratios: of the tickets that learn; matrix:
    of the random masks that are transferred between."""

    device: str
    network: Sequence[str]
    learn: Sequence[str]
    brief: Sequence[str]
    test: str
    threat: str
    strong: str
    ratios: Sequence[str]
    matrix: Sequence[str]
    batch: int
    most: int
    images: int
    step: Sequence[str]


CUDA = Plan(
    device="cuda",
    network=("--network", "resnet18"),
    learn=("--data", "cifar10:train", "--recipe", "fast", "--precision", "bf16", "--channels-last"),
    brief=(
        "--data",
        "cifar10:train:10000",
        "--recipe",
        "fast",
        "--epochs",
        "3",
        "--adversary",
        "fgsm-rs:step=5/4",
    ),
    test="cifar10:test",
    threat="Linf:8/255",
    strong="autoattack",
    ratios=("0.05", "0.1", "0.2", "0.4"),
    matrix=("0.05", "0.1", "0.15", "0.2", "0.3", "0.4", "0.6", "0.8"),
    batch=128,
    most=8192,
    images=1000,
    step=("--network", "resnet18", "--batch", "256", "--bf16", "--channels-last"),
)
DRY = Plan(
    device="cpu",
    network=("--network", "conv2", "--width", "0.1"),
    learn=("--data", "digits:train:128", "--epochs", "1"),
    brief=("--data", "digits:train:128", "--epochs", "1"),
    test="digits:test",
    threat="Linf:0.1",
    strong="autoattack:attacks=apgd-ce,iterations=2",
    ratios=("0.2", "0.4"),
    matrix=("0.2", "0.4"),
    batch=20,
    most=20,
    images=20,
    step=("--network", "conv4", "--batch", "2", "--repeats", "1"),
)
