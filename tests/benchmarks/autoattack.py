"""AutoAttack, ours against others', in turn, each run in a process of its own.

`python tests/benchmarks/autoattack.py --work digits --against pyautoattack torchattacks --repeats 3`

Each repeat runs `fast` and every other side once, and `fast-ten` before a side that takes ten steps; a side
with `+flush` computes with zeros in place of subnormal numbers (`torch.set_flush_denormal`), which slow a
ticket as it is shipped. Every run is a line of `--out`/runs.csv; `--summary` makes `--out`/autoattack.csv of
it: the median of the ratios of each repeat. Seconds are from the loaded model to the adversarial images;
ours include the choice of the copy.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from attack_sides import SIDES, works
from machine import processor

COLUMNS = ["work", "repeat", "side", "images", "threat", "clean", "robust", "seconds", "inside", "threads"]
COLUMNS += ["torch", "processor"]
SUMMARY = ["work", "images", "threat", "against", "pairs", "ratio", "ratio_low", "ratio_high", "seconds"]
SUMMARY += ["seconds_theirs", "robust", "robust_theirs", "inside_model", "threads", "processor", "torch"]
FLUSH, OURS, TEN = "+flush", "fast", "-ten"


def ours_against(side: str) -> str:
    """Our side with as many steps as this one."""
    return OURS + TEN if side.endswith(TEN) else OURS


def run(args: argparse.Namespace) -> dict[str, object]:
    """One run of one side."""
    name, flushed = args.side.removesuffix(FLUSH), args.side.endswith(FLUSH)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(flushed)
    work = works(files_of(args), args.data_root, args.device)[args.work[0]]()
    with torch.no_grad():
        clean = work.module(work.x).argmax(1) == work.y
    began = time.perf_counter()
    adversarial, inside = SIDES[name](work)
    if args.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    work.threat.check(work.x, adversarial)
    with torch.no_grad():
        robust = work.module(adversarial).argmax(1) == work.y
    return {
        "images": len(work.x),
        "threat": str(work.threat),
        "clean": int(clean.sum()),
        "robust": int((robust & clean).sum()),
        "seconds": round(seconds, 2),
        "inside": round(inside / seconds, 3) if inside else "",
        "threads": args.threads,
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name() if args.device == "cuda" else processor(),
    }


def files_of(args: argparse.Namespace) -> dict[str, Path]:
    return {name: Path(path) for name, _, path in (text.partition("=") for text in args.file)}


def run_in_turn(args: argparse.Namespace) -> None:
    """Run all sides, repeat after repeat, each in a fresh process; append a line for each."""
    table = args.out / "runs.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    if not table.exists():
        table.write_text(",".join(COLUMNS) + "\n")
    for work in args.work:
        done = [int(row["repeat"]) + 1 for row in read(table) if row["work"] == work]
        for repeat in range(max(done, default=0), max(done, default=0) + args.repeats):
            for side in dict.fromkeys([*map(ours_against, args.against), *args.against]):
                command = [sys.executable, __file__, "--side", side, "--work", work]
                command += ["--device", args.device, "--threads", str(args.threads)]
                command += [*(f"--file={text}" for text in args.file)]
                command += ["--data-root", str(args.data_root)] if args.data_root else []
                environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
                found = subprocess.run(command, capture_output=True, text=True, env=environment)
                if found.returncode:
                    sys.exit(f"{work}, {side}: {found.stderr.strip().splitlines()[-1]}")
                row = {"work": work, "repeat": repeat, "side": side, **json.loads(found.stdout)}
                with table.open("a", newline="") as file:
                    csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
                print(*(row[name] for name in ("work", "repeat", "side", "robust", "seconds")), flush=True)


def read(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def summarise(folder: Path) -> None:
    """Write one line for each work and opponent: seconds, and how many times as fast ours is."""
    runs = defaultdict[tuple[str, str], dict[str, dict[str, str]]](dict)
    for row in read(folder / "runs.csv"):
        runs[row["work"], row["repeat"]][row["side"]] = row
    pairs = defaultdict[tuple[str, str], list[tuple[dict[str, str], dict[str, str]]]](list)
    for (work, _), sides in runs.items():
        for name, row in sides.items():
            if not name.startswith(OURS):
                pairs[work, name].append((sides[ours_against(name)], row))
    with (folder / "autoattack.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(SUMMARY)
        for (work, name), both in pairs.items():
            ours = both[0][0]
            ratios = [float(other["seconds"]) / float(own["seconds"]) for own, other in both]
            medians = [
                round(statistics.median(float(pair[side]["seconds"]) for pair in both), 1) for side in (0, 1)
            ]
            table.writerow(
                [work, ours["images"], ours["threat"], name, len(both)]
                + [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))]
                + [*medians, *("/".join(sorted({pair[i]["robust"] for pair in both})) for i in (0, 1))]
                + [ours["inside"], ours["threads"], ours["processor"], ours["torch"]]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs="+", default=["digits"])
    parser.add_argument("--against", nargs="*", default=["pyautoattack"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", action="append", default=[], help="small-cifar=PATH, resnet18=PATH")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RSTBENCH_DATA"))
    parser.add_argument("--out", type=Path, default=Path("leaderboards/speed"))
    parser.add_argument("--side", help="run this side once and print what it found")
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(run(args)))
    elif args.summary:
        summarise(args.out)
    else:
        run_in_turn(args)
        summarise(args.out)


if __name__ == "__main__":
    main()
