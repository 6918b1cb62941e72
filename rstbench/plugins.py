"""Names to objects: what this package offers, and what other installed packages add.

A built-in name is a "module:object" string that is imported when first asked for, so that listing
names costs nothing. Other packages add names through entry points in the groups `rstbench.models`,
`rstbench.data`, `rstbench.attacks`, `rstbench.networks`, `rstbench.methods` and `rstbench.exports`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import BadRequest, unknown

SOURCES = "rstbench.adapters.sources"
EXPORTS = "rstbench.adapters.exports"
BUILTIN: dict[str, dict[str, str]] = {
    "models": {
        "ticket": f"{SOURCES}.own:ticket",
        "checkpoint": f"{SOURCES}.own:checkpoint",
        "switch": f"{SOURCES}.own:switch",
        "file": f"{SOURCES}.code:file",
        "python": f"{SOURCES}.code:python",
        "robustbench": f"{SOURCES}.zoo:robustbench",
        "torchvision": f"{SOURCES}.library:torchvision",
        "timm": f"{SOURCES}.library:timm",
        "weights": f"{SOURCES}.weights:weights",
        "bundled": f"{SOURCES}.bundled:bundled",
        "hub": f"{SOURCES}.hub:hub",
        "onnx": f"{SOURCES}.graph:onnx",
        "torch-export": f"{SOURCES}.program:torch_export",
    },
    "exports": {
        "state_dict": f"{EXPORTS}.state_dict:state_dict",
        "torch-export": f"{EXPORTS}.program:torch_export",
        "onnx": f"{EXPORTS}.graph:onnx",
        "robustbench": f"{EXPORTS}.zoo:robustbench",
        "hub-folder": f"{EXPORTS}.hub:hub_folder",
        "ticket": f"{EXPORTS}.ticket:ticket",
    },
    "data": {
        "digits": "rstbench.data.digits:digits",
        "mnist": "rstbench.data.mnist:mnist",
        "fashionmnist": "rstbench.data.mnist:fashionmnist",
        "cifar10": "rstbench.data.cifar:cifar10",
        "cifar100": "rstbench.data.cifar:cifar100",
        "svhn": "rstbench.data.cifar:svhn",
        "tiny-imagenet": "rstbench.data.folders:tiny_imagenet",
        "imagefolder": "rstbench.data.folders:imagefolder",
        "npz": "rstbench.data.npz:npz",
    },
    "attacks": {
        "pgd": "rstbench.attacks.pgd:PGD",
        "apgd": "rstbench.attacks.apgd:APGD",
        "arc": "rstbench.attacks.arc:ARC",
        "joint": "rstbench.attacks.joint:Joint",
        "autoattack": "rstbench.attacks.autoattack:AutoAttack",
    },
    "networks": {
        "conv2": "rstbench.tickets.networks.conv:conv2",
        "conv4": "rstbench.tickets.networks.conv:conv4",
        "conv6": "rstbench.tickets.networks.conv:conv6",
        "vgg16": "rstbench.tickets.networks.vgg:vgg16",
        "resnet18": "rstbench.tickets.networks.resnet:resnet18",
        "resnet34": "rstbench.tickets.networks.resnet:resnet34",
        "resnet50": "rstbench.tickets.networks.resnet:resnet50",
        "preactresnet18": "rstbench.tickets.networks.preact:preactresnet18",
        "preactresnet18-raw": "rstbench.tickets.networks.preact:preactresnet18_raw",
        "wrn-28-10": "rstbench.tickets.networks.preact:wrn_28_10",
        "wrn-34-10": "rstbench.tickets.networks.preact:wrn_34_10",
        "mobilenetv2": "rstbench.tickets.networks.mobilenet:mobilenetv2",
        "torchvision": "rstbench.tickets.networks.library:torchvision",
    },
    "methods": {
        "rst": "rstbench.tickets.draw:edge_popup",
        "hydra": "rstbench.tickets.draw:Hydra",
        "random": "rstbench.tickets.saliency:random",
        "magnitude": "rstbench.tickets.saliency:Magnitude",
        "snip": "rstbench.tickets.saliency:Snip",
        "grasp": "rstbench.tickets.saliency:Grasp",
        "aws": "rstbench.tickets.signs:AWS",
        "reconstruct": "rstbench.tickets.reconstruct:Reconstruct",
        "awt": "rstbench.tickets.awt:AWT",
        "awt-moved": "rstbench.tickets.awt:AWTMoved",
    },
}
_SINGULAR = {
    "models": "model source",
    "exports": "export format",
    "data": "data set",
    "attacks": "attack",
    "networks": "network",
    "methods": "method",
}


@dataclass(frozen=True)
class Reference:
    """`source:id[option=value,…]`, the grammar of everything a user names."""

    source: str
    id: str
    options: dict[str, str]


# Brackets without '=' belong to a path.
_BRACKETS = re.compile(r"\A(?P<body>.*?)(?:\[(?P<options>[^\[\]]*=[^\[\]]*)\])?\Z", re.DOTALL)


def parse_reference(text: str) -> Reference:
    """Splits `source:id[a=1,b=2]`. Raises BadRequest where the text is malformed."""
    match = _BRACKETS.match(text.strip())
    if not match or not match["body"]:
        raise BadRequest(f"a reference must read 'source:id[option=value,…]', got {text!r}")
    source, _, rest = match["body"].partition(":")
    return Reference(source, rest, parse_options(match["options"] or "", text))


def parse_options(text: str, whole: str) -> dict[str, str]:
    """`a=1,b=2` as a dictionary of texts; `whole` is quoted in the error."""
    options: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadRequest(f"options must read 'name=value', got {part!r} in {whole!r}")
        if name.strip() in options:
            raise BadRequest(f"option {name.strip()!r} is given twice in {whole!r}")
        options[name.strip()] = value.strip()
    return options


def names(group: str) -> list[tuple[str, str]]:
    """Every (name, package that offers it) of a group, sorted; imports none of them."""
    found = [(name, "rstbench") for name in BUILTIN[group]]
    found += [(point.name, _package(point)) for point in _entry_points(group).values()]
    return sorted(found)


def find(group: str, name: str) -> Callable[..., Any]:
    """The object behind a name. Raises BadRequest for a miss, a clash, or a plug-in that cannot load."""
    foreign = _entry_points(group)
    if name in BUILTIN[group]:
        module, _, attribute = BUILTIN[group][name].partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return loaded
    if name not in foreign:
        raise unknown(_SINGULAR[group], name, [known for known, _ in names(group)])
    try:
        plugin: Callable[..., Any] = foreign[name].load()
    except Exception as error:
        raise BadRequest(
            f"the plug-in {name!r} of package {_package(foreign[name])!r} does not load: {error}"
        ) from error
    return plugin


def _entry_points(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"rstbench.{group}"):
        known = found.get(point.name)
        if point.name in BUILTIN[group] or (known and known.value != point.value):
            owner = _package(known) if known else "rstbench"
            raise BadRequest(
                f"two packages offer the {_SINGULAR[group]} {point.name!r}: {owner!r} and "
                f"{_package(point)!r}; uninstall one of them"
            )
        found[point.name] = point
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
