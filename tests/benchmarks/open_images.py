"""What stronger certificates decide of the images that a run left open, image by image.

`python tests/benchmarks/open_images.py RUN --threat Linf:0.05 --model rst-0.05 --model narrow`

Takes of each model the first `--images` that were neither broken nor certified at this threat, with all that
the folder's evidence and its curve tell, and asks each certificate of them, one at a time. Every answer is
a line of `--out`/open_images.jsonl, so that a run that was stopped goes on; `--out`/open_images.csv counts
them. The networks must lie in the folder, as after the command that made it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from machine import processor
from torch import nn

from rstbench.certificates import CertificateSpec
from rstbench.data import load
from rstbench.data.images import Images
from rstbench.evidence.manifest import Row
from rstbench.models.wrapper import load_reference
from rstbench.reports.lookup import Evidence
from rstbench.reports.model_references import reference_of
from rstbench.reports.per_image import per_image_answers
from rstbench.threat import Threat

CERTIFICATES = ("crown:alpha=20", "milp:seconds=60")
PROVED, BROKEN, OPEN = "certified", "broken", "open"
COLUMNS = ["model", "seed", "threat", "remaining", "weights", "certificate", "asked", PROVED, BROKEN, OPEN]
COLUMNS += ["seconds_median", "seconds_largest", "processor", "torch"]


def open_images(evidence: Evidence, row: Row, count: int) -> list[int]:
    """Return the first images that are neither broken nor certified."""
    found = per_image_answers(evidence, row)
    if found is None or found.worst is None or found.certified is None:
        raise SystemExit(f"{evidence.info(row.model).name}: no complete answers at {row.threat}")
    return [int(index) for index in np.flatnonzero((found.worst > 0) & (found.certified == 0))[:count]]


def answer(
    certificate: str, module: nn.Module, images: Images, index: int, threat: Threat
) -> dict[str, object]:
    """Ask a certificate of one image."""
    x, y = images.at(slice(index, index + 1))
    began = time.perf_counter()
    found = CertificateSpec.parse(certificate).certificate(module, x, y, threat)
    seconds = time.perf_counter() - began
    broken = found.counterexamples is not None and bool(found.counterexamples.isfinite().all())
    verdict = PROVED if bool(found.proved) else BROKEN if broken else OPEN
    return {"verdict": verdict, "margin": float(found.margins), "seconds": round(seconds, 2)}


def run(args: argparse.Namespace, table: Path) -> None:
    """Add the answers that are missing, one certificate after the other, the models in turn."""
    evidence = Evidence.read(args.folder)
    rows = [row for row in evidence.manifest.rows if row.threat == str(args.threat) and row.seed == args.seed]
    named = {evidence.info(row.model).name: row for row in rows}
    images = load(evidence.manifest.run["data"], *([args.data_root] if args.data_root else []))
    asked = [
        (place, name, index)
        for name in args.model
        for place, index in enumerate(open_images(evidence, named[name], args.images))
    ]
    for certificate, (_, name, index) in product(args.certificate or CERTIFICATES, sorted(asked)):
        key = {"model": name, "seed": args.seed, "threat": str(args.threat)}
        key |= {"certificate": certificate, "image": index}
        if key in [{part: line[part] for part in key} for line in read(table)]:
            continue
        info = evidence.info(named[name].model)
        module = load_reference(reference_of(evidence.manifest, info, args.seed, args.folder)).module
        line = key | {"remaining": info.remaining, "weights": info.kept_weights}
        line |= answer(certificate, module, images, index, args.threat)
        line |= {"processor": processor(), "torch": torch.__version__}
        with table.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(certificate, name, index, line["verdict"], line["seconds"], flush=True)


def read(table: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []


def summarise(table: Path) -> None:
    """Write a line for each model and certificate."""
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for line in read(table):
        groups.setdefault(
            tuple(line[name] for name in ("model", "seed", "threat", "certificate")), []
        ).append(line)
    with table.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for lines in groups.values():
            seconds = [float(str(line["seconds"])) for line in lines]
            verdicts = [line["verdict"] for line in lines]
            counts = {verdict: verdicts.count(verdict) for verdict in (PROVED, BROKEN, OPEN)}
            same = {name: lines[0][name] for name in COLUMNS if name in lines[0]}
            median, largest = float(np.median(seconds)), max(seconds)
            writer.writerow(
                same
                | {"asked": len(lines), **counts}
                | {"seconds_median": round(median, 2), "seconds_largest": round(largest, 2)}
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--threat", type=Threat.parse, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--certificate", action="append")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RSTBENCH_DATA"))
    parser.add_argument("--out", type=Path, default=Path("leaderboards/certified"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = args.out / "open_images.jsonl"
    run(args, table)
    summarise(table)


if __name__ == "__main__":
    main()
