"""The options of every verb: a function for each, listed in `VERBS` with an example.

An option of one verb is a line in that verb's function. A setting of a recipe, for `draw` and `train`, is a
field of `training.recipe.Recipe` and a line in `_recipe`: options named like a field reach the recipe by
themselves. Defaults live with what they configure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

from ..errors import BadRequest
from ..plugins import BUILTIN
from ..training.recipe import CHOICES

_MODELS = "source:id such as ticket:FILE or torchvision:resnet18; file: and python: run the code they name"


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise BadRequest(f"{message}; see '{self.prog} --help'")


def make_parser(functions: Mapping[str, Callable[..., int]]) -> argparse.ArgumentParser:
    """Return the parser; `verb` of what it parses is the function of that name."""
    parser = _Parser(prog="rstbench", description="Draws robust scratch tickets and measures them.")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB", parser_class=_Parser)
    for name, function in functions.items():
        add_options, example = VERBS[name]
        verb = verbs.add_parser(
            name,
            help=function.__doc__,
            description=function.__doc__,
            epilog=f"example:\n  rstbench {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.set_defaults(verb=function)
        add_options(verb)
    return parser


def _evaluate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "what", nargs="*", metavar="STUDY|MODEL", help=f"a study (default: digits), or models, {_MODELS}"
    )
    verb.add_argument("--attack", action="append", help="pgd, pgd:steps=50, autoattack (repeatable)")
    _measurement(verb)
    verb.add_argument("--save-adversarials", action="store_true", help="keep all crafted images")


def _transfer(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("models", nargs="+", metavar="MODEL", help=_MODELS)
    verb.add_argument("--attack", action="append", help="the crafting attack (default: pgd)")
    verb.add_argument(
        "--early-stop", action="store_true", help="stop at the first success, as the paper does"
    )
    _measurement(verb)


def _draw(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--remaining", required=True, help="kept fractions: 0.05,0.1,0.2")
    verb.add_argument(
        "--from", dest="start", metavar="MODEL", help="choose among trained weights: checkpoint:FILE"
    )
    verb.add_argument("--method", help="how the mask is found (default: rst)")
    verb.add_argument("--pattern", help="element, row, kernel, filter, or N:M such as 2:4")
    verb.add_argument("--allocation", help="ratio of each layer: uniform, p:0.1, global")
    verb.add_argument("--dense", choices=CHOICES["dense"][1:], help="layers that keep all")
    verb.add_argument("--floor", action="store_true", default=None, help="every output keeps a weight")
    verb.add_argument("--scale", action="store_true", default=None, help="scale weights to the kept fan in")
    verb.add_argument("--kept-count", choices=CHOICES["kept_count"], help="rounding of the kept weights")
    verb.add_argument(
        "--no-weights", action="store_true", help="never store the random weights, only their seed"
    )
    _recipe(verb, data_required=True)


def _train(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--from", dest="start", metavar="TICKET", help="fine-tune this ticket, its mask fixed")
    verb.add_argument("--weights", help="with --from: inherit (default), reinit, reinit-kaiming")
    verb.add_argument("--size-of", metavar="TICKET", help="train a narrower dense network of as many weights")
    _recipe(verb, data_required=False)


def _export(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="TICKET", help="a ticket's or checkpoint's file, or a reference")
    verb.add_argument(
        "--to", default="state_dict", help=f"{', '.join(BUILTIN['exports'])} (default: state_dict)"
    )
    verb.add_argument("--fold", action="store_true", help="fold batch norm into the layers before it")
    verb.add_argument("--compressed", action="store_true", help="write weights without their zeros (CSR)")
    verb.add_argument("--results", metavar="DIR", help="the run whose figures go with it (default: its own)")
    verb.add_argument("--data", help="whose shape and classes bare weights take: weights:FILE[…]")
    _data_root(verb)
    verb.add_argument(
        "--out", required=True, metavar="PATH", help="a file, or a folder for robustbench, hub-folder"
    )


def _report(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folders", nargs="+", metavar="DIR", help="what evaluate wrote, or what holds such")
    verb.add_argument("--out", metavar="DIR", help="merge the evidence of all folders into this one")
    verb.add_argument("--index", action="store_true", help="a page beside the folders that links theirs")
    formats = "beside CSV: markdown, latex, html, json, parquet, robustbench (repeatable)"
    verb.add_argument("--format", action="append", metavar="FORMAT", help=formats)
    published = "figures to quote: CSV, RobustBench's JSON, or a folder of them"
    verb.add_argument("--published", metavar="PATH", help=published)


def _pack(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folders", nargs="+", metavar="DIR", help="what evaluate wrote, or what holds such")


def _status(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folders", nargs="+", metavar="DIR")


def _list(verb: argparse.ArgumentParser) -> None:
    kinds = "models, networks, recipes, init, adversary, …; all by default"
    verb.add_argument("kind", nargs="?", metavar="KIND", help=kinds)


VERBS: Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], str]] = {
    "evaluate": (_evaluate, "digits --limit 50"),
    "transfer": (_transfer, "ticket:tickets/conv4-0.1.safetensors ticket:tickets/conv4-0.2.safetensors"),
    "draw": (_draw, "--network conv4 --width 0.5 --data digits --remaining 0.1,0.2 --out tickets"),
    "train": (_train, "--network conv4 --width 0.5 --out checkpoints"),
    "export": (_export, "tickets/conv4-0.1.safetensors --to onnx --out conv4.onnx"),
    "report": (_report, "runs/digits"),
    "pack": (_pack, "leaderboards/*"),
    "status": (_status, "runs/digits"),
    "list": (_list, "attacks"),
}


def _measurement(verb: argparse.ArgumentParser) -> None:
    """Add the options of verbs that attack models."""
    verb.add_argument("--threat", action="append", help="Linf:8/255, L2:0.5, L1:12 (repeatable)")
    verb.add_argument("--data", help="digits, cifar10:test:1000, npz:FILE")
    verb.add_argument("--seed", type=_natural, help="of the attacks, and of what a study makes")
    verb.add_argument(
        "--batch-size", default="auto", help="images crafted at once; part of a result's identity"
    )
    verb.add_argument("--limit", type=_positive, default=0, help="images, rounded up to whole batches")
    _common(verb)


def _recipe(verb: argparse.ArgumentParser, *, data_required: bool) -> None:
    """Add the options of verbs that make networks: settings of a `Recipe`, by the names of its fields."""
    verb.add_argument("--network", help="conv4, resnet18, wrn-28-10, torchvision:resnet50, …")
    verb.add_argument("--width", type=float, help="multiplier of the network's widths")
    verb.add_argument("--norm", choices=CHOICES["norm"])
    verb.add_argument("--normalize", help="a first layer for the pixels: cifar10, MEAN/STD, …")
    verb.add_argument("--last-norm", action="store_true", default=None, help="batch norm on the logits")
    verb.add_argument("--data", required=data_required, help="digits, mnist, cifar10, npz:FILE")
    verb.add_argument(
        "--init", help="signed_constant, kaiming_normal, kaiming_uniform, xavier_normal, binary"
    )
    verb.add_argument("--adversary", help="none, fgsm, fgsm-rs, pgd:steps=7, free:m=4, trades:beta=6")
    verb.add_argument("--threat", help="Linf:8/255")
    verb.add_argument("--recipe", help="paper-cifar, paper-imagenet, fast, digits")
    verb.add_argument("--select", choices=CHOICES["select"], help="which epoch is kept")
    verb.add_argument("--schedule", choices=CHOICES["schedule"])
    verb.add_argument("--augment", choices=CHOICES["augment"])
    for name, kind in (("epochs", _positive), ("batch", _positive), ("seed", _natural)):
        verb.add_argument(f"--{name}", type=kind)
    verb.add_argument("--attack-bn", choices=CHOICES["attack_bn"], help="batch norm in the inner attack")
    verb.add_argument("--drops", help="where a piecewise rate drops: 1/2+3/4")
    verb.add_argument("--precision", choices=CHOICES["precision"])
    verb.add_argument("--channels-last", action="store_true", default=None)
    for name in ("lr", "momentum", "weight-decay", "label-smoothing"):
        verb.add_argument(f"--{name}", type=float)
    _common(verb, out_required=True)


def _common(verb: argparse.ArgumentParser, *, out_required: bool = False) -> None:
    """Add the options of all verbs that compute."""
    workers = "made and attacked at once, each in a process with its share of the threads"
    verb.add_argument("--workers", type=_positive, default=1, help=workers)
    verb.add_argument("--out", metavar="DIR", required=out_required, help="where everything is written")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    _data_root(verb)
    verb.add_argument("--download", action="store_true", help="fetch data and zoo models that are not there")
    verb.add_argument("--quiet", action="store_true", help="no progress, only what one should know")


def _data_root(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--data-root", metavar="DIR", help="default: $RSTBENCH_DATA, else ~/.cache/rstbench")


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"wants a whole number from 0 to 2**31 - 1, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"wants a whole number from 1, got {text!r}")
    return int(text)
