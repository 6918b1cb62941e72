"""The verbs of the command line: each parses its texts into objects and calls one function."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from ..errors import BadRequest, ModelFault, RstbenchError, unknown
from ..limits import file_size_limit
from ..plugins import BUILTIN, names
from ..references import Reference
from . import arguments, requests
from .arguments import Verb, make_parser

DONE, FAULTS, REFUSED, INTERRUPTED = 0, 1, 2, 130
WARNINGS_OF_OTHERS = (
    # Third parties' warnings that say nothing to a user of this tool, by message.
    "pkg_resources is deprecated",
    "`torch.jit",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 some model or attack failed, 2 refused."""
    import warnings

    for message in WARNINGS_OF_OTHERS:
        warnings.filterwarnings("ignore", message=message)
    try:
        parsed = make_parser(VERBS).parse_args(argv)
        with file_size_limit(getattr(parsed, "max_file_size", None)):
            status: int = parsed.verb(parsed)
        return status
    except RstbenchError as error:
        if os.environ.get("RSTBENCH_DEBUG"):
            raise
        _print_error(error)
        return REFUSED if isinstance(error, BadRequest) else FAULTS
    except KeyboardInterrupt:
        _print_error("stopped; the same command continues where it stopped")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone
        return DONE
    except OSError as error:
        if os.environ.get("RSTBENCH_DEBUG"):
            raise
        wrong_kind = isinstance(error, FileExistsError | NotADirectoryError)
        what = "is not a folder; choose another --out" if wrong_kind else error.strerror or str(error)
        _print_error(f"{error.filename or 'the system'}: {what}")
        return REFUSED


def evaluate(args: argparse.Namespace) -> int:
    """Make what a study names, attack everything, write the leaderboard."""
    from ..reports.tables import as_text
    from ..study.run import run_study
    from .tables import show

    study, given = requests.study_of(args)
    if args.seed is not None:
        study = replace(study, seeds=(args.seed,))
    outcome = run_study(study, requests.options_of(args, study.name), requests.progress_of(args), given)
    show(outcome.tables, as_text)
    return _exit_status(outcome.faults)


def transfer(args: argparse.Namespace) -> int:
    """Craft images against each model and let every model judge them."""
    from ..reports.tables import as_text
    from ..study.transfer import run_transfer
    from .tables import show

    outcome = run_transfer(
        [Reference.parse(text) for text in args.models],
        requests.attacks_of(args.attack or ["pgd"]),
        *requests.threats_and_data_of(args),
        args.seed or 0,
        args.early_stop,
        requests.options_of(args, "transfer"),
        requests.progress_of(args),
    )
    show(outcome.tables, as_text)
    return _exit_status(outcome.faults)


def draw(args: argparse.Namespace) -> int:
    """Draw tickets at several remaining ratios from one random network."""
    from ..study.draw_train import draw_tickets

    remaining = [part.strip() for part in args.remaining.split(",") if part.strip()]
    how = requests.options_of(args, ""), requests.progress_of(args)
    made = draw_tickets(requests.settings_of(args), remaining, *how, start=args.start or "")
    return _list_made(*made)


def train(args: argparse.Namespace) -> int:
    """Train adversarially a dense network, or the weights of a ticket with its mask fixed."""
    from ..study.draw_train import train_network

    how = requests.options_of(args, ""), requests.progress_of(args)
    made = train_network(requests.settings_of(args), *how, start=args.start or "", size_of=args.size_of or "")
    return _list_made(*made)


def export(args: argparse.Namespace) -> int:
    """Write a ticket or checkpoint in a form that needs no part of this tool."""
    from ..study.export import export_model

    files = export_model(
        args.model,
        args.to,
        Path(args.out).expanduser(),
        fold=args.fold,
        compressed=args.compressed,
        results=args.results,
        data=args.data,
        root=requests.root_of(args),
    )
    print("\n".join(map(str, files)))
    return DONE


def report(args: argparse.Namespace) -> int:
    """Rebuild tables, figures and pages from stored evidence alone; with --out, of all folders together."""
    from ..evidence.merge import merge
    from ..reports.certified import contradictions
    from ..reports.formats import formats
    from ..reports.lookup import Evidence
    from ..reports.published import gather
    from ..reports.report import runs_in, write_index, write_report
    from ..reports.tables import as_text, write
    from .progress import Notes
    from .tables import show

    folders = runs_in(args.folders)
    formats(args.format or [])  # an unknown one is refused before anything is written
    own = gather(Path(args.published).expanduser()) if args.published else None
    if args.out:
        out = Path(args.out).expanduser()
        for line in merge(folders, out):
            Notes().note(line)
        folders = [out]
    runs = [(folder, Evidence.read(folder)) for folder in folders]  # all, before anything is written
    reported, contradicted = [], False
    for folder, evidence in runs:
        frames = write(evidence, folder, args.format or [], own)
        for note in write_report(evidence, frames, folder):
            _print_error(note)
        show(frames, as_text)
        for line in contradictions(evidence):
            _print_error(line)
            contradicted = True
        reported.append((evidence, frames, folder))
    if args.index:
        print(write_index(reported))
    return FAULTS if contradicted else DONE


def pack(args: argparse.Namespace) -> int:
    """Pack the evidence of each folder into one file, results.zip, which all verbs read."""
    from ..evidence.packing import pack_folder
    from ..reports.page.template import PAGE_FILE
    from ..reports.report import runs_in

    refused = False
    for folder in runs_in(args.folders):
        try:
            print(pack_folder(folder))
        except BadRequest as error:  # the other folders are packed all the same
            _print_error(error)
            refused = True
        else:
            if (folder / PAGE_FILE).exists():
                print(f"  {PAGE_FILE} there may link files that are packed now: rstbench report {folder}")
    return REFUSED if refused else DONE


def verify(args: argparse.Namespace) -> int:
    """Repeat a sample of the evidence and judge kept images again; say whether it holds on this machine."""
    from ..evaluation.evaluate import pick_device
    from ..reports.report import runs_in
    from ..study.verify import summary
    from ..study.verify import verify as checks_of
    from .tables import printable

    folders, device, holds = runs_in(args.folders), pick_device(args.device), True
    for folder in folders:
        checks = []
        for check in checks_of(folder, requests.root_of(args), device, args.sample, args.seed):
            checks.append(check)
            print(printable(check.line()), flush=True)
        print(printable(summary(folder, checks)))
        holds &= any(check.images for check in checks) and all(c.holds for c in checks if c.repeated)
    return DONE if holds else FAULTS


def status(args: argparse.Namespace) -> int:
    """Show how far runs are, their rate and when they end, from their folders alone."""
    import time

    from ..reports.status import read_status, status_text
    from .tables import printable

    for folder in map(Path, args.folders):
        now = time.time()
        print("\n".join(map(printable, status_text(read_status(folder, now), now))))
    return DONE


def list_names(args: argparse.Namespace) -> int:
    """Print what can be named, and which package offers it; settings of a recipe with their values."""
    from ..study.reading import shipped
    from ..training.recipe import CHOICES, FORMS, NAMED, Recipe

    booleans = {f.name: ("false", "true") for f in fields(Recipe) if f.type == "bool"}
    own = {"recipes": sorted(NAMED), "studies": shipped(), **FORMS, **CHOICES, **booleans}
    extra = {kind: [(name, "rstbench") for name in known if name] for kind, known in own.items()}
    kinds = [*BUILTIN, *extra]
    wanted = (args.kind or "").replace("-", "_")
    if wanted and wanted not in kinds:
        raise unknown("kind of name", args.kind, [kind.replace("_", "-") for kind in kinds])
    for kind in [wanted] if wanted else kinds:
        for name, package in extra[kind] if kind in extra else names(kind):
            print(f"{kind.replace('_', '-')}\t{name}\t{package}")
    return DONE


_NETWORK = "--network conv4 --width 0.5"
_TICKETS = "ticket:tickets/conv4-0.1.safetensors ticket:tickets/conv4-0.2.safetensors"
VERBS: Mapping[str, Verb] = {
    "evaluate": (evaluate, arguments.evaluate, "digits --limit 50"),
    "transfer": (transfer, arguments.transfer, _TICKETS),
    "draw": (draw, arguments.draw, f"{_NETWORK} --data digits --remaining 0.1,0.2 --out tickets"),
    "train": (train, arguments.train, f"{_NETWORK} --out checkpoints"),
    "export": (export, arguments.export, "tickets/conv4-0.1.safetensors --to onnx --out conv4.onnx"),
    "report": (report, arguments.report, "runs/digits"),
    "pack": (pack, arguments.pack, "leaderboards/*"),
    "verify": (verify, arguments.verify, "runs/digits"),
    "status": (status, arguments.status, "runs/digits"),
    "list": (list_names, arguments.list_names, "attacks"),
}


def _list_made(made: Sequence[tuple[Path, str]], faults: Sequence[ModelFault]) -> int:
    for path, summary in made:
        print(f"{path}\t{summary}")
    return _exit_status(faults)


def _exit_status(faults: Sequence[ModelFault]) -> int:
    for fault in faults:
        _print_error(fault)
    return FAULTS if faults else DONE


def _print_error(error: object) -> None:
    from .tables import printable

    print(printable(f"rstbench: {' '.join(str(error).split())}"), file=sys.stderr)
