"""The options of every verb: a function for each, listed in `commands.VERBS`.

An option of one verb is a line in that verb's function. Settings for `draw` and `train` are fields of
`training.recipe.Recipe` and `DrawOptions`. Defaults live with what they configure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

from ..errors import BadRequest
from ..evaluation.batch import BATCH
from ..evidence.trial import FAST
from ..limits import TEXT_SHARE
from ..plugins import BUILTIN
from ..training.recipe import CHOICES, FORMS, offered

Add = Callable[..., object]  # `add_argument` of a verb's parser
# What a verb does with the parsed arguments, what adds its options, and an example of its arguments.
Verb = tuple[Callable[[argparse.Namespace], int], Callable[[Add], None], str]
_MODELS = "source:id such as ticket:FILE or torchvision:resnet18; file: and python: run the code they name"


class _Parser(argparse.ArgumentParser):
    """Report an error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise BadRequest(f"{message}; see '{self.prog} --help'")


def make_parser(verbs: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """Return the parser; `verb` of what it parses is the function of that name."""
    parser = _Parser(prog="rstbench", description="Draw robust scratch tickets and measure their robustness.")
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
        if add_options is not list_names:
            size = f"largest file to read, as it unpacks; text counts {TEXT_SHARE} times (default: 4GB)"
            verb.add_argument("--max-file-size", metavar="SIZE", help=size)
    return parser


def evaluate(add: Add) -> None:
    add("what", nargs="*", metavar="STUDY|MODEL", help=f"a study (default: digits), or models, {_MODELS}")
    add("--attack", action="append", help="pgd, pgd:steps=50, autoattack (repeatable)")
    add("--certify", action="append", help="ibp, crown, crown:alpha=20, milp (repeatable)")
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
    _settings(add, "draw", required="data")
    _common(add, out_required=True)


def train(add: Add) -> None:
    add("--from", dest="start", metavar="TICKET", help="fine-tune this ticket, its mask fixed")
    add("--size-of", metavar="TICKET", help="train a narrower dense network of as many weights")
    _settings(add, "train")
    _common(add, out_required=True)


def export(add: Add) -> None:
    add("model", metavar="TICKET", help="a ticket's or checkpoint's file, or a reference")
    add("--to", default="state_dict", help=f"{', '.join(BUILTIN['exports'])} (default: state_dict)")
    add("--fold", action="store_true", help="fold batch norm into the layers before it")
    add("--compressed", action="store_true", help="write weights without their zeros (CSR)")
    add("--results", metavar="DIR", help="the run whose figures go with it (default: its own)")
    add("--data", help="data set whose image shape and classes to assume for weights:FILE")
    _data_root(add)
    add("--out", required=True, metavar="PATH", help="a file, or a folder for robustbench, hub-folder")


def report(add: Add) -> None:
    add("folders", nargs="+", metavar="DIR", help="run folders, or folders that contain them")
    add("--out", metavar="DIR", help="merge the evidence of all folders into this one")
    add("--index", action="store_true", help="also write an index page that links all runs")
    formats = "beside CSV: markdown, latex, html, json, parquet, robustbench (repeatable)"
    add("--format", action="append", metavar="FORMAT", help=formats)
    add("--published", metavar="PATH", help="figures to quote: CSV, RobustBench's JSON, or a folder of them")


def pack(add: Add) -> None:
    add("folders", nargs="+", metavar="DIR", help="run folders, or folders that contain them")


def status(add: Add) -> None:
    add("folders", nargs="+", metavar="DIR", help="run folders")


def verify(add: Add) -> None:
    add("folders", nargs="+", metavar="DIR", help="run folders, or folders that contain them")
    add("--sample", type=_positive, default=1, metavar="N", help="shards of each attack and certificate")
    add("--seed", type=_natural, default=0, help="of the sample")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    _data_root(add)


def list_names(add: Add) -> None:
    kinds = "models, networks, recipes, init, adversary, …; all by default"
    add("kind", nargs="?", metavar="KIND", help=kinds)


def _measurement(add: Add) -> None:
    """Add the options of verbs that attack models."""
    add("--threat", action="append", help="Linf:8/255, L2:0.5, L1:12 (repeatable)")
    add("--data", help="digits, cifar10:test:1000, npz:FILE")
    add("--seed", type=_natural, help="of the attacks, and of what a study makes")
    sizes = ", ".join(f"{size} on {device.upper()}" for device, size in BATCH.items())
    size = f"images crafted at once, part of a result's identity: a number, or auto ({sizes}; default)"
    add("--batch-size", default="auto", metavar="N", help=size)
    crafting = "fast: through a faster copy, which never judges (default); exact: the model itself"
    add("--crafting", default=FAST, metavar="fast|exact", help=crafting)
    add("--limit", type=_positive, default=0, help="images, rounded up to whole batches")
    add("--only", action="append", metavar="MODEL", help="ask about this model only (repeatable)")
    add("--shards", metavar="I/N", help="ask every N-th shard only, from I = 0 on; `report` merges the parts")
    timeout = "seconds after which a shard is ended; its model and attack are then a fault (default: never)"
    add("--shard-timeout", metavar="S", help=timeout)
    _common(add)


def _settings(add: Add, verb: str, required: str = "") -> None:
    """Add the options that a verb takes from `training.recipe`; a recipe checks their values."""
    for name, setting in offered(verb).items():
        kind: type = type(setting.default)
        option, text = f"--{name.replace('_', '-')}", setting.metadata["text"]
        if kind is bool:
            add(option, action="store_true", default=None, help=text)
            continue
        choices = ",".join(filter(None, CHOICES.get(name, ())))
        metavar = f"{{{choices}}}" if choices else {int: "N", float: "X"}.get(kind)
        text += f": {', '.join(FORMS[name])}" if name in FORMS else ""
        read = _natural if kind is int else kind
        add(option, type=read, metavar=metavar, required=name == required, help=text)


def _common(add: Add, *, out_required: bool = False) -> None:
    """Add the options of all verbs that compute."""
    workers = "processes at once: a number, or auto (default): one a core on small networks, if it pays"
    add("--workers", default="auto", metavar="N|auto", help=workers)
    engines = "where: in processes of this machine (default), or by Ray, here or in the cluster at ADDRESS"
    add("--executor", default="local", metavar="local|ray[:ADDRESS]", help=engines)
    add("--out", metavar="DIR", required=out_required, help="where everything is written")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    _data_root(add)
    add("--download", action="store_true", help="fetch data and zoo models that are not there")
    add("--quiet", action="store_true", help="print warnings only")


def _data_root(add: Add) -> None:
    add("--data-root", metavar="DIR", help="default: $RSTBENCH_DATA, else ~/.cache/rstbench")


def _natural(text: str, least: int = 0) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"wants a whole number from {least} to 2**31 - 1, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    return _natural(text, least=1)
