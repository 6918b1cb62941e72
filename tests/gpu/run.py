"""Measure a GPU in a few minutes: attacks, search, transfer, and tickets of ResNet-18 on CIFAR-10.

`python tests/gpu/run.py --data DIR --out OUT --minutes 8`

Needs this project and torch, nothing else; DIR holds CIFAR-10 as torchvision unpacks it, or in pieces that
`tests/gpu/pieces.py` wrote. The parts, in this order, each with a share of the time: the tests marked `gpu`;
AutoAttack and PGD by the library in float32, by ours exactly and fast, on a ticket and a dense network; a
step of the search; a transfer matrix of eight tickets; drawing and training; and what was drawn, attacked,
transferred and switched between. Everything is written as it comes, and the same command with the same OUT
goes on: what a part has answered is not asked again. `OUT/parts.csv` says what each part did, `OUT/README.md`
holds the tables. `--dry-run` does the same on the CPU with tiny networks on digits, in a minute or two.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "benchmarks")]

import torch  # noqa: E402
from compared import compare, markdown  # noqa: E402
from machine import processor  # noqa: E402
from passes import measure  # noqa: E402
from pieces import join  # noqa: E402
from plans import CUDA, DRY, Plan  # noqa: E402

from rstbench.cli.commands import main as rstbench  # noqa: E402
from rstbench.data import load  # noqa: E402
from rstbench.models.wrapper import load_reference  # noqa: E402

ROOT = Path(__file__).parents[2]


class Run:
    """Does the parts one after the other, each within its share of the time, and logs what each did."""

    def __init__(self, plan: Plan, data: Path | None, out: Path, minutes: float) -> None:
        self.plan, self.data, self.out, self.end = plan, data, out, time.monotonic() + 60 * minutes
        self.common = ["--device", plan.device, *(("--data-root", str(data)) if data else ())]
        self.part = ""

    def left(self) -> float:
        return self.end - time.monotonic()

    def do(self, part: str, share: float, work: Callable[[], object]) -> None:
        """Do a part within its share of what is left; a fault of it is logged, and the next part goes on."""
        self.part, began, seconds = part, time.monotonic(), share * self.left()
        if seconds < 1:
            return self.log(part, "no time left", 0.0)
        try:
            with alarm(seconds):
                outcome = str(work() or "done")
        except KeyboardInterrupt:
            outcome = f"stopped after its {seconds:.0f} s; the same command goes on"
        except Exception as error:  # of one part: the others are worth their time
            outcome = f"{type(error).__name__}: {error}"
        return self.log(part, outcome, time.monotonic() - began)

    def log(self, part: str, outcome: str, seconds: float) -> None:
        where = torch.cuda.get_device_name() if self.plan.device == "cuda" else processor()
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.plan.device == "cuda" else 0.0
        table, new = self.out / "parts.csv", not (self.out / "parts.csv").exists()
        with table.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(["part", "outcome", "seconds", "peak_gib", "machine", "torch"])
            writer.writerow([part, outcome, round(seconds, 1), round(memory, 2), where, torch.__version__])
        print(f"{part}: {outcome} ({seconds:.0f} s)", flush=True)

    def rstbench(self, *argv: object) -> None:
        """Run a command of this tool in this process; its output goes to a log of the part."""
        words = [str(word) for word in (*argv, *self.common)]
        with (self.out / f"{self.part}.log").open("a") as log:
            print("rstbench", *words, file=log, flush=True)
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                status = rstbench(words)
        if status == 130:
            raise KeyboardInterrupt
        if status:
            raise RuntimeError(f"exit status {status}, see {self.part}.log")

    def script(self, *argv: object, seconds: float) -> str:
        """Run a script of this project in a process of its own, and return what it printed."""
        command = [sys.executable, *map(str, argv)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds)
        with (self.out / f"{self.part}.log").open("a") as log:
            print(*command, done.stdout, done.stderr, sep="\n", file=log)
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode}, see {self.part}.log")
        return done.stdout.strip()


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Interrupt the block after so many seconds, as Ctrl-C would."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tests(run: Run) -> str:
    """Run the tests that need a GPU."""
    command = ("-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider")
    return run.script(*command, seconds=max(60.0, run.left())).splitlines()[-1]


def attacks(run: Run) -> str:
    """Attack a ticket and a dense network in turn by the library, exactly and fast; more images while there
    is time."""
    plan, models = run.plan, brief_networks(run)
    library = f"{plan.strong}{',' if ':' in plan.strong else ':'}impl=library"
    sides = {"exact": [plan.strong, library, "pgd"], "fast": [plan.strong, "pgd"]}
    images = plan.batch
    while True:
        for crafting, asked in sides.items():
            for attack in asked:
                run.rstbench(
                    *("evaluate", *models, "--data", plan.test, "--threat", plan.threat, "--attack", attack),
                    *("--crafting", crafting, "--limit", images, "--batch-size", plan.batch, "--workers", 1),
                    *("--out", run.out / "attacks" / f"{crafting}-{attack.replace(':', '-')}"),
                )
        if images >= plan.most:
            return "done"
        images *= 2


def brief_networks(run: Run) -> list[str]:
    """Return a ticket and a dense network that learnt for a moment, which is enough to tell speeds."""
    plan, folder, name = run.plan, run.out / "brief", run.plan.network[1]
    ticket, dense = folder / f"{name}-0.2.safetensors", folder / f"{name}.safetensors"
    if not ticket.exists():
        run.rstbench(
            "draw", *plan.network, *plan.brief, "--remaining", "0.2", "--threat", plan.threat, "--out", folder
        )
    if not dense.exists():
        run.rstbench("train", *plan.network, *plan.brief, "--threat", plan.threat, "--out", folder)
    return [f"ticket:{ticket}", f"checkpoint:{dense}"]


def speeds(run: Run) -> str:
    """How fast both networks pass images, and where the time goes."""
    plan = run.plan
    data = [run.data] if run.data else []
    x = load(f"{plan.test}:{plan.batch}", *data).at(slice(None))[0].to(plan.device)
    for reference in brief_networks(run):
        module = load_reference(reference).module.eval().requires_grad_(False).to(plan.device)
        measure(reference.partition(":")[0], module, x, run.out)
    return "passes.csv, profile-*.txt"


def step(run: Run) -> str:
    """A step of the search against the published one."""
    command = ("tests/benchmarks/draw.py", *run.plan.step, "--device", run.plan.device)
    return run.script(*command, seconds=max(30.0, run.left())).splitlines()[-1].strip()


def matrix(run: Run) -> str:
    """The transfer matrix of random masks of one network."""
    plan, folder = run.plan, run.out / "matrix"
    files = [folder / f"{plan.network[1]}-{ratio}.safetensors" for ratio in plan.matrix]
    if not all(file.exists() for file in files):
        masks = ("--method", "random", "--remaining", ",".join(plan.matrix), "--threat", plan.threat)
        run.rstbench("draw", *plan.network, *plan.brief[:2], *masks, "--out", folder)
    tickets = [f"ticket:{file}" for file in files]
    began = time.monotonic()
    run.rstbench(
        *("transfer", *tickets, "--data", plan.test, "--threat", plan.threat, "--limit", plan.images),
        *("--batch-size", plan.batch, "--workers", 1, "--out", run.out / "transfer-of-masks"),
    )
    return f"{len(files)} tickets, {plan.images} images in {time.monotonic() - began:.1f} s"


def learning(run: Run) -> str:
    """Draw the tickets and train the dense network, in the order in which they are wanted."""
    plan, folder = run.plan, run.out / "networks"
    for ratio in (*plan.ratios[:3], "", *plan.ratios[3:]):
        common = (*plan.network, *plan.learn, "--threat", plan.threat)
        if ratio:
            run.rstbench("draw", *common, "--remaining", ratio, "--out", folder)
        else:
            run.rstbench("train", *common, "--out", folder)
    return "done"


def verdicts(run: Run) -> str:
    """Attack what was drawn, transfer between the tickets, and switch between them."""
    plan, folder = run.plan, run.out / "networks"
    files = [folder / f"{plan.network[1]}-{ratio}.safetensors" for ratio in plan.ratios]
    tickets, dense = [file for file in files if file.exists()], folder / f"{plan.network[1]}.safetensors"
    if not tickets:
        return "no ticket is drawn yet"
    models = [f"ticket:{file}" for file in tickets]
    both = ("--data", plan.test, "--threat", plan.threat, "--limit", plan.images, "--batch-size", plan.batch)
    others = [f"checkpoint:{dense}"] if dense.exists() else []
    switch = [f"switch:{'+'.join(map(str, tickets))}"] if len(tickets) > 1 else []
    asked = ("--attack", "pgd", "--attack", plan.strong)
    run.rstbench(
        "evaluate", *models, *others, *switch, *asked, *both, "--workers", 1, "--out", run.out / "study"
    )
    if len(tickets) > 1:
        run.rstbench("transfer", *models, *both, "--workers", 1, "--out", run.out / "transfer")
    return f"{len(tickets)} tickets, {len(others)} dense"


# Each part with its share of the time that is left when it begins.
PARTS = {
    "tests": (tests, 0.2),
    "attacks": (attacks, 0.4),
    "speeds": (speeds, 0.15),
    "step": (step, 0.15),
    "matrix": (matrix, 0.2),
    "learning": (learning, 0.6),
    "verdicts": (verdicts, 1.0),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="CIFAR-10 as torchvision unpacks it, or its pieces")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; by default all")
    parser.add_argument("--dry-run", action="store_true", help="tiny networks on the CPU")
    args = parser.parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device on this machine; --dry-run tries the script on the CPU")
    if not args.dry_run and args.data is None:
        parser.error("--data names the folder of CIFAR-10")
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(
        DRY if args.dry_run else CUDA,
        join(args.data, args.out / "data") if args.data else None,
        args.out,
        args.minutes,
    )
    for name in args.only or PARTS:
        work, share = PARTS[name]
        run.do(name, share, lambda work=work: work(run))
        (args.out / "README.md").write_text(markdown(compare(args.out / "attacks"), args.out / "parts.csv"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
