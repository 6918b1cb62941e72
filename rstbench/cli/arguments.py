"""The options of every verb: a function for each, listed in `commands.VERBS`.

An option of one verb is a line in that verb's function. A setting of a recipe, for `draw` and `train`, is a
field of `training.recipe.Recipe` and a line in `_recipe`: options named like a field reach the recipe by
themselves. Defaults live with what they configure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

from ..errors import BadRequest
from ..evaluation.batch import BATCH
from ..plugins import BUILTIN
from ..training.recipe import CHOICES

Add = Callable[..., object]  # `add_argument` of a verb's parser
# What a verb does with the parsed arguments, what adds its options, and an example of its arguments.
Verb = tuple[Callable[[argparse.Namespace], int], Callable[[Add], None], str]
_MODELS = "source:id such as ticket:FILE or torchvision:resnet18; file: and python: run the code they name"


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise BadRequest(f"{message}; see '{self.prog} --help'")


def make_parser(verbs: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """Return the parser; `verb` of what it parses is the function of that name."""
    parser = _Parser(prog="rstbench", description="Draws robust scratch tickets and measures them.")
    parsers = parser.add_subparsers(title="verbs", required=True, metavar="VERB", parser_class=_Parser)
    for name, (function, add_options, example) in verbs.items():
        verb = parsers.add_parser(
            name,
            help=function.__doc__,
            description=function.__doc__,
            epilog=f"example:\n  rstbench {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.set_defaults(verb=function)
        add_options(verb.add_argument)
    return parser


def evaluate(add: Add) -> None:
    add("what", nargs="*", metavar="STUDY|MODEL", help=f"a study (default: digits), or models, {_MODELS}")
    add("--attack", action="append", help="pgd, pgd:steps=50, autoattack (repeatable)")
    _measurement(add)
    add("--save-adversarials", action="store_true", help="keep all crafted images")


def transfer(add: Add) -> None:
    add("models", nargs="+", metavar="MODEL", help=_MODELS)
    add("--attack", action="append", help="the crafting attack (default: pgd)")
    add("--early-stop", action="store_true", help="stop at the first success, as the paper does")
    _measurement(add)


def draw(add: Add) -> None:
    add("--remaining", required=True, help="kept fractions: 0.05,0.1,0.2")
    add("--from", dest="start", metavar="MODEL", help="choose among trained weights: checkpoint:FILE")
    add("--method", help="how the mask is found (default: rst)")
    add("--pattern", help="element, row, kernel, filter, or N:M such as 2:4")
    add("--allocation", help="ratio of each layer: uniform, p:0.1, global")
    add("--dense", choices=CHOICES["dense"][1:], help="layers that keep all")
    add("--floor", action="store_true", default=None, help="every output keeps a weight")
    add("--scale", action="store_true", default=None, help="scale weights to the kept fan in")
    add("--kept-count", choices=CHOICES["kept_count"], help="rounding of the kept weights")
    add("--no-weights", action="store_true", help="never store the random weights, only their seed")
    _recipe(add, data_required=True)


def train(add: Add) -> None:
    add("--from", dest="start", metavar="TICKET", help="fine-tune this ticket, its mask fixed")
    add("--weights", help="with --from: inherit (default), reinit, reinit-kaiming")
    add("--size-of", metavar="TICKET", help="train a narrower dense network of as many weights")
    _recipe(add, data_required=False)


def export(add: Add) -> None:
    add("model", metavar="TICKET", help="a ticket's or checkpoint's file, or a reference")
    add("--to", default="state_dict", help=f"{', '.join(BUILTIN['exports'])} (default: state_dict)")
    add("--fold", action="store_true", help="fold batch norm into the layers before it")
    add("--compressed", action="store_true", help="write weights without their zeros (CSR)")
    add("--results", metavar="DIR", help="the run whose figures go with it (default: its own)")
    add("--data", help="whose shape and classes bare weights take: weights:FILE[…]")
    _data_root(add)
    add("--out", required=True, metavar="PATH", help="a file, or a folder for robustbench, hub-folder")


def report(add: Add) -> None:
    add("folders", nargs="+", metavar="DIR", help="what evaluate wrote, or what holds such")
    add("--out", metavar="DIR", help="merge the evidence of all folders into this one")
    add("--index", action="store_true", help="a page beside the folders that links theirs")
    formats = "beside CSV: markdown, latex, html, json, parquet, robustbench (repeatable)"
    add("--format", action="append", metavar="FORMAT", help=formats)
    add("--published", metavar="PATH", help="figures to quote: CSV, RobustBench's JSON, or a folder of them")


def pack(add: Add) -> None:
    add("folders", nargs="+", metavar="DIR", help="what evaluate wrote, or what holds such")


def status(add: Add) -> None:
    add("folders", nargs="+", metavar="DIR")


def list_names(add: Add) -> None:
    kinds = "models, networks, recipes, init, adversary, …; all by default"
    add("kind", nargs="?", metavar="KIND", help=kinds)


def _measurement(add: Add) -> None:
    """Add the options of verbs that attack models."""
    add("--threat", action="append", help="Linf:8/255, L2:0.5, L1:12 (repeatable)")
    add("--data", help="digits, cifar10:test:1000, npz:FILE")
    add("--seed", type=_natural, help="of the attacks, and of what a study makes")
    sizes = ", ".join(f"{size} on {device}" for device, size in BATCH.items())
    size = f"images crafted at once, part of a result's identity: a number, or auto ({sizes}; default)"
    add("--batch-size", default="auto", metavar="N", help=size)
    add("--limit", type=_positive, default=0, help="images, rounded up to whole batches")
    _common(add)


def _recipe(add: Add, *, data_required: bool) -> None:
    """Add the options of verbs that make networks: settings of a `Recipe`, by the names of its fields."""
    add("--network", help="conv4, resnet18, wrn-28-10, torchvision:resnet50, …")
    add("--width", type=float, help="multiplier of the network's widths")
    add("--norm", choices=CHOICES["norm"])
    add("--normalize", help="a first layer for the pixels: cifar10, MEAN/STD, …")
    add("--last-norm", action="store_true", default=None, help="batch norm on the logits")
    add("--data", required=data_required, help="digits, mnist, cifar10, npz:FILE")
    add("--init", help="signed_constant, kaiming_normal, kaiming_uniform, xavier_normal, binary")
    add("--adversary", help="none, fgsm, fgsm-rs, pgd:steps=7, free:m=4, trades:beta=6")
    add("--threat", help="Linf:8/255")
    add("--recipe", help="paper-cifar, paper-imagenet, fast, digits")
    add("--select", choices=CHOICES["select"], help="which epoch is kept")
    add("--schedule", choices=CHOICES["schedule"])
    add("--augment", choices=CHOICES["augment"])
    for name, kind in (("epochs", _positive), ("batch", _positive), ("seed", _natural)):
        add(f"--{name}", type=kind)
    add("--attack-bn", choices=CHOICES["attack_bn"], help="batch norm in the inner attack")
    add("--drops", help="where a piecewise rate drops: 1/2+3/4")
    add("--precision", choices=CHOICES["precision"])
    add("--channels-last", action="store_true", default=None)
    for name in ("lr", "momentum", "weight-decay", "label-smoothing"):
        add(f"--{name}", type=float)
    _common(add, out_required=True)


def _common(add: Add, *, out_required: bool = False) -> None:
    """Add the options of all verbs that compute."""
    workers = "made and attacked at once, each in a process with its share of the threads"
    add("--workers", type=_positive, default=1, help=workers)
    add("--out", metavar="DIR", required=out_required, help="where everything is written")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    _data_root(add)
    add("--download", action="store_true", help="fetch data and zoo models that are not there")
    add("--quiet", action="store_true", help="no progress, only what one should know")


def _data_root(add: Add) -> None:
    add("--data-root", metavar="DIR", help="default: $RSTBENCH_DATA, else ~/.cache/rstbench")


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"wants a whole number from 0 to 2**31 - 1, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"wants a whole number from 1, got {text!r}")
    return int(text)
