"""Which images stand under AutoAttack: by pyautoattack, by our exact way and by our fast one, image by image.

`python tests/benchmarks/verdicts.py --file small-cifar=FILE --file mnist=FILE`

The files are `cifar_cnn_a_adv.model` of alpha-beta-CROWN and `mnist_lenet5_advtrained.pt` of advertorch.
Eight small models, 200 images in shards of 100, three seeds. Every shard is a line of `--out`/verdicts.jsonl,
so that a run that was stopped goes on; `--only 0/2` does every second one, `--model NAME` one model's. At the
end `--out`/verdicts.csv has a line for each model and seed, with the images on which a way differs from
pyautoattack: `7+` stands by that way only, `7-` by pyautoattack only. pyautoattack attacks the module, with
subnormal numbers flushed to zero, exact the copy that `--crafting exact` attacks, fast the fast copy; the
module itself judges.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from attack_sides import Copied, Work, normalised_cifar
from machine import processor
from torch import Generator, Tensor, nn

from rstbench.attacks.autoattack import AutoAttack
from rstbench.data import load
from rstbench.models.fast_copy import crafting_copy
from rstbench.models.wrapper import load_reference
from rstbench.threat import Threat

SHARD, SHARDS, SEEDS = 100, 2, (0, 1, 2)
TICKETS, CHECKPOINTS = "leaderboards/digits/tickets", "leaderboards/digits/checkpoints"
DIGITS = {
    "rst-0.1": f"ticket:{TICKETS}/rst-0.1-seed0.safetensors",
    "rst-0.2": f"ticket:{TICKETS}/rst-0.2-seed0.safetensors",
    "rst-0.4": f"ticket:{TICKETS}/rst-0.4-seed0.safetensors",
    "rst-0.05, zero-gradient": f"ticket:{TICKETS}/rst-0.05-seed0.safetensors",
    "dense-adversarial": f"checkpoint:{CHECKPOINTS}/dense-adversarial-seed0.safetensors",
    "dense-natural": f"checkpoint:{CHECKPOINTS}/dense-natural-seed0.safetensors",
}
WAYS = ("fast", "exact", "pyautoattack")


def mnist_lenet(path: Path) -> nn.Module:
    """An adversarially trained network of others, `mnist_lenet5_advtrained.pt` of advertorch."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    first = nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    net = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(3136, 200), nn.ReLU(), nn.Linear(200, 10))
    places = {"conv1": "0", "conv2": "3", "linear1": "7", "linear2": "9"}
    renamed = {f"{places[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in state.items()}
    net.load_state_dict(renamed)
    return net


def models(files: dict[str, Path]) -> dict[str, tuple[Callable[[], nn.Module], str, str]]:
    """Each model with its data and its threat."""
    found: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
        name: (lambda ref=ref: load_reference(ref).module, "digits", "Linf:0.1")
        for name, ref in DIGITS.items()
    }
    if "small-cifar" in files:
        found["cifar_cnn_a_adv"] = (
            lambda: normalised_cifar(files["small-cifar"]),
            "cifar10",
            "Linf:2/255",
        )
    if "mnist" in files:
        found["mnist_lenet5_advtrained"] = (lambda: mnist_lenet(files["mnist"]), "mnist", "Linf:0.3")
    return found


def stand(work: Work, way: str, seed: int) -> Tensor:
    """Which images the module gets right after the attack, bool (n,)."""
    torch.set_flush_denormal(way == "pyautoattack")
    attack = AutoAttack(impl="library" if way == "pyautoattack" else "own")
    source = {
        "pyautoattack": lambda: work.module,
        "exact": lambda: crafting_copy(work.module, work.x),
        "fast": lambda: Copied(work),
    }[way]()
    images = attack(source, work.x, work.y, work.threat, Generator().manual_seed(seed)).images
    torch.set_flush_denormal(False)
    work.threat.check(work.x, images)
    with torch.no_grad():
        clean, robust = (work.module(x).argmax(1) == work.y for x in (work.x, images))
    return clean & robust


def run(args: argparse.Namespace, table: Path) -> None:
    """Add the shards that are missing."""
    files = {name: Path(path) for name, _, path in (text.partition("=") for text in args.file)}
    place, count = map(int, args.only.split("/"))
    known = models(files)
    for index, (seed, way, name, shard) in enumerate(product(SEEDS, WAYS, known, range(SHARDS))):
        key = {"model": name, "seed": seed, "shard": shard, "way": way}
        asked = index % count == place and (not args.model or name in args.model)
        if not asked or key in [{part: line[part] for part in key} for line in read(table)]:
            continue
        make, data, threat = known[name]
        images = load(f"{data}:test:{SHARD * SHARDS}", *([args.data_root] if args.data_root else []))
        x, y = images.at(slice(shard * SHARD, (shard + 1) * SHARD))
        work = Work(make().eval().requires_grad_(False), x, y, Threat.parse(threat))
        right = stand(work, way, seed)
        bits = "".join("1" if value else "0" for value in right.tolist())
        line = {**key, "threat": threat, "bits": bits, "torch": torch.__version__, "processor": processor()}
        with table.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(way, seed, name, shard, int(right.sum()), flush=True)


def read(table: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []


def summarise(table: Path) -> None:
    """Write a line for each model and seed that is complete."""
    bits: dict[tuple[object, object, object], dict[object, str]] = {}
    threats = {}
    for line in read(table):
        bits.setdefault((line["model"], line["seed"], line["way"]), {})[line["shard"]] = str(line["bits"])
        threats[line["model"]] = line["threat"]
    whole = {key: "".join(found[n] for n in sorted(found)) for key, found in bits.items()}  # type: ignore
    with table.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "threat", "seed", "images", *WAYS, *(f"{way}_differs" for way in WAYS[:2])])
        for model, seed in sorted({key[:2] for key in whole}, key=str):
            each = [whole.get((model, seed, way), "") for way in WAYS]
            if len({len(found) for found in each}) == 1:
                differ = [
                    " ".join(f"{n}{'+' if a > b else '-'}" for n, (a, b) in enumerate(pairs) if a != b)
                    for pairs in (zip(found, each[2], strict=True) for found in each[:2])
                ]
                right = [found.count("1") for found in each]
                writer.writerow([model, threats[model], seed, len(each[0]), *right, *differ])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", action="append", default=[], help="small-cifar=PATH, mnist=PATH")
    parser.add_argument("--only", default="0/1", help="I/N: of N equal parts the one of this number")
    parser.add_argument("--model", action="append", help="only the model of this name (repeatable)")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RSTBENCH_DATA"))
    parser.add_argument("--out", type=Path, default=Path("leaderboards/speed"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table = args.out / "verdicts.jsonl"
    torch.set_num_threads(1)
    run(args, table)
    summarise(table)


if __name__ == "__main__":
    main()
