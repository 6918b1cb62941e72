"""The command line: text in, nouns out. Each verb builds what it names and calls one function."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import BadRequest, RstbenchError, unknown
from .plugins import BUILTIN, names

if TYPE_CHECKING:
    from .harness.progress import Progress
    from .study.plan import Study
    from .study.run import Options, Outcome

DONE, FAULTS, REFUSED, INTERRUPTED = 0, 1, 2, 130
WARNINGS_OF_OTHERS = (
    # Third parties' warnings that say nothing to a user of this tool, by message.
    "pkg_resources is deprecated",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 some model or attack failed, 2 refused."""
    import warnings

    for message in WARNINGS_OF_OTHERS:
        warnings.filterwarnings("ignore", message=message)
    try:
        parsed = _parser().parse_args(arguments)
        status: int = parsed.verb(parsed)
        return status
    except RstbenchError as error:
        if os.environ.get("RSTBENCH_DEBUG"):
            raise
        _complain(error)
        return REFUSED if isinstance(error, BadRequest) else FAULTS
    except KeyboardInterrupt:
        _complain("stopped; the same command continues where it stopped")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone
        return DONE
    except OSError as error:
        if os.environ.get("RSTBENCH_DEBUG"):
            raise
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        return REFUSED


def evaluate(args: argparse.Namespace) -> int:
    """Makes what a study names, attacks everything, writes the leaderboard."""
    import dataclasses

    from .reporters.tables import as_text
    from .study.run import run_study

    study = _study(args)
    if args.seed is not None:
        study = dataclasses.replace(study, seeds=(args.seed,))
    outcome = run_study(study, _options(args, study.name), _progress(args))
    print("\n".join(as_text(outcome.tables["leaderboard"])))
    return _finish(outcome)


def transfer(args: argparse.Namespace) -> int:
    """Crafts images against each model and lets every model judge them."""
    from .reporters.tables import matrix_text
    from .study.cross import run_transfer

    outcome = run_transfer(
        args.models,
        args.attack or ["pgd"],
        args.threat or [],
        args.data,
        args.seed or 0,
        args.early_stop,
        _options(args, "transfer"),
        _progress(args),
    )
    print("\n".join(matrix_text(outcome.tables["transfer"])))
    return _finish(outcome)


def draw(args: argparse.Namespace) -> int:
    """Draws tickets at several remaining ratios from one random network."""
    from .study.verbs import draw_tickets

    remaining = [part.strip() for part in args.remaining.split(",") if part.strip()]
    made = draw_tickets(
        _settings(args), remaining, _options(args, ""), _progress(args), store=not args.no_weights
    )
    _print_made(made)
    return DONE


def train(args: argparse.Namespace) -> int:
    """Adversarially trains a dense network, or fine-tunes a ticket with its mask fixed."""
    from .study.verbs import train_network

    made = train_network(_settings(args), args.start or "", _options(args, ""), _progress(args))
    _print_made(made)
    return DONE


def export(args: argparse.Namespace) -> int:
    """Writes a ticket as the plain state dict of a dense network, with its recipe beside."""
    from .adapters.export import export_state_dict
    from .tickets.ticket import Ticket

    path = args.ticket.removeprefix("ticket:")
    out = Path(args.out).expanduser()
    beside = export_state_dict(Ticket.load(Path(path).expanduser()), out)
    print(f"{out}\n{beside}")
    return DONE


def report(args: argparse.Namespace) -> int:
    """Rebuilds the CSV files of folders from their stored evidence alone."""
    from .reporters.evidence import Evidence
    from .reporters.tables import as_text, write

    for folder in map(Path, args.folders):
        frames = write(Evidence.read(folder), folder)
        print("\n".join(as_text(frames["leaderboard"])))
    return DONE


def list_names(args: argparse.Namespace) -> int:
    """Prints what can be named, and which package offers it."""
    from .study.plan import shipped
    from .tickets.recipe import NAMED

    extra = {"recipes": [(name, "rstbench") for name in sorted(NAMED)]}
    extra["studies"] = [(name, "rstbench") for name in shipped()]
    kinds = [*BUILTIN, *extra]
    if args.kind and args.kind not in kinds:
        raise unknown("kind of name", args.kind, kinds)
    for kind in [args.kind] if args.kind else kinds:
        for name, package in extra[kind] if kind in extra else names(kind):
            print(f"{kind}\t{name}\t{package}")
    return DONE


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise BadRequest(f"{message}; see '{self.prog} --help'")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rstbench", description="Draws robust scratch tickets and measures them.")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB", parser_class=_Parser)

    verb = _verb(verbs, "evaluate", evaluate, "rstbench evaluate digits --limit 50")
    verb.add_argument("what", nargs="*", metavar="STUDY|MODEL", help="a study (default: digits), or models")
    verb.add_argument("--attack", action="append", help="pgd, pgd:steps=50, autoattack (repeatable)")
    _asking(verb)
    verb.add_argument("--save-adversarials", action="store_true", help="keep all crafted images")

    verb = _verb(verbs, "transfer", transfer, "rstbench transfer ticket:A.safetensors ticket:B.safetensors")
    verb.add_argument("models", nargs="+", metavar="MODEL")
    verb.add_argument("--attack", action="append", help="the crafting attack (default: pgd)")
    verb.add_argument(
        "--early-stop", action="store_true", help="stop at the first success, as the paper does"
    )
    _asking(verb)

    verb = _verb(
        verbs,
        "draw",
        draw,
        "rstbench draw --network conv4 --width 0.5 --data digits --remaining 0.1,0.2 --out tickets",
    )
    verb.add_argument("--remaining", required=True, help="kept fractions: 0.05,0.1,0.2")
    verb.add_argument("--method", help="how the mask is found (default: rst)")
    verb.add_argument("--kept-count", choices=["ceil", "authors"], help="rounding of the kept weights")
    verb.add_argument(
        "--no-weights", action="store_true", help="never store the random weights, only their seed"
    )
    _making(verb)

    verb = _verb(
        verbs, "train", train, "rstbench train --network conv4 --width 0.5 --data digits --out checkpoints"
    )
    verb.add_argument("--from", dest="start", metavar="TICKET", help="fine-tune this ticket, its mask fixed")
    verb.add_argument("--weights", help="with --from: inherit (default), reinit, reinit-kaiming")
    _making(verb)

    verb = _verb(verbs, "export", export, "rstbench export tickets/conv4-0.1.safetensors --out conv4.pt")
    verb.add_argument("ticket", metavar="TICKET")
    verb.add_argument("--to", choices=["state_dict"], default="state_dict")
    verb.add_argument("--out", required=True, metavar="FILE")

    verb = _verb(verbs, "report", report, "rstbench report runs/digits")
    verb.add_argument("folders", nargs="+", metavar="DIR")

    verb = _verb(verbs, "list", list_names, "rstbench list attacks")
    verb.add_argument(
        "kind", nargs="?", metavar="KIND", help="models, data, attacks, networks, …; all by default"
    )
    return parser


def _verb(verbs: Any, name: str, function: Any, example: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=function.__doc__, description=function.__doc__, epilog=f"example: {example}"
    )
    verb.set_defaults(verb=function)
    return verb


def _asking(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--threat", action="append", help="Linf:8/255, L2:0.5, L1:12 (repeatable)")
    verb.add_argument("--data", help="digits, cifar10:test:1000, npz:FILE")
    verb.add_argument("--seed", type=_whole, help="of the attacks, and of what a study makes")
    verb.add_argument(
        "--batch-size", default="auto", help="images crafted at once; part of a result's identity"
    )
    verb.add_argument("--limit", type=_positive, default=0, help="images, rounded up to whole batches")
    _common(verb)


def _making(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--network", help="conv2, conv4, conv6")
    verb.add_argument("--width", type=float, help="multiplier of the network's widths")
    verb.add_argument("--norm", choices=["none", "batch", "affine"])
    verb.add_argument("--data", required=verb.prog.endswith("draw"), help="digits, mnist, cifar10, npz:FILE")
    verb.add_argument(
        "--init", help="signed_constant, kaiming_normal, kaiming_uniform, xavier_normal, binary"
    )
    verb.add_argument("--adversary", help="none, or pgd:steps=7")
    verb.add_argument("--threat", help="Linf:8/255")
    verb.add_argument("--recipe", help="paper-cifar, fast, digits")
    verb.add_argument("--select", choices=["validation", "last", "test"], help="which epoch is kept")
    verb.add_argument("--schedule", choices=["piecewise", "cosine", "one-cycle"])
    verb.add_argument("--augment", choices=["none", "crop-flip"])
    for name, kind in (("epochs", _positive), ("batch", _positive), ("seed", _whole)):
        verb.add_argument(f"--{name}", type=kind)
    for name in ("lr", "momentum", "weight-decay"):
        verb.add_argument(f"--{name}", type=float)
    _common(verb, out_required=True)


def _common(verb: argparse.ArgumentParser, *, out_required: bool = False) -> None:
    verb.add_argument("--out", metavar="DIR", required=out_required, help="where everything is written")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    verb.add_argument("--data-root", metavar="DIR", help="default: $RSTBENCH_DATA, else ~/.cache/rstbench")
    verb.add_argument("--quiet", action="store_true", help="no progress")


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"wants a whole number from 0, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"wants a whole number from 1, got {text!r}")
    return int(text)


def _study(args: argparse.Namespace) -> Study:
    """What `evaluate` was given: one study, or models."""
    from .study.plan import narrowed, read_study
    from .study.run import adhoc

    what = args.what or ["digits"]
    studies = [text for text in what if text.endswith(".toml") or ":" not in text]
    if not studies:
        return adhoc(what, args.attack or [], args.threat or [], args.data, args.seed or 0)
    if len(what) > 1:
        raise BadRequest(f"one study at a time, or models only; got {' '.join(what)}")
    return narrowed(read_study(what[0]), args.attack or [], args.threat or [], args.data)


def _options(args: argparse.Namespace, name: str) -> Options:
    from .data import data_root
    from .study.run import Options

    return Options(
        out=Path(args.out or f"runs/{name}").expanduser(),
        device=args.device,
        batch=getattr(args, "batch_size", "auto"),
        limit=getattr(args, "limit", 0),
        root=data_root(args.data_root),
        save_adversarials=getattr(args, "save_adversarials", False),
    )


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a recipe that were given."""
    from .tickets.recipe import Recipe

    given = {f.name: getattr(args, f.name, None) for f in fields(Recipe)}
    return {name: value for name, value in given.items() if value is not None}


def _progress(args: argparse.Namespace) -> Progress:
    from .harness.progress import Silent
    from .terminal import Bars, Lines

    if args.quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()


def _finish(outcome: Outcome) -> int:
    for fault in outcome.faults:
        _complain(fault)
    return FAULTS if outcome.faults else DONE


def _print_made(made: Sequence[tuple[Path, str]]) -> None:
    for path, summary in made:
        print(f"{path}\t{summary}")


def _complain(error: object) -> None:
    print(f"rstbench: {' '.join(str(error).split())}", file=sys.stderr)
