"""The registry of names: what this package offers, and what other installed packages add.

A new network, attack, method, data set, model source or export format is one line in `BUILTIN`: a
"module:object" string that is imported at its first use, so that listing names costs nothing. Other packages
add names through entry points in the groups `rstbench.models`, `rstbench.data`, `rstbench.attacks`,
`rstbench.certificates`, `rstbench.networks`, `rstbench.methods` and `rstbench.exports`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import BadRequest, unknown

SOURCES = "rstbench.models.sources"
EXPORTS = "rstbench.models.exports"
BUILTIN: dict[str, dict[str, str]] = {
    "models": {
        "ticket": f"{SOURCES}.native:ticket",
        "checkpoint": f"{SOURCES}.native:checkpoint",
        "switch": f"{SOURCES}.native:switch",
        "file": f"{SOURCES}.code:file",
        "python": f"{SOURCES}.code:python",
        "robustbench": f"{SOURCES}.robustbench:robustbench",
        "torchvision": f"{SOURCES}.libraries:torchvision",
        "timm": f"{SOURCES}.libraries:timm",
        "weights": f"{SOURCES}.weights:weights",
        "bundled": f"{SOURCES}.bundled:bundled",
        "hub": f"{SOURCES}.hub:hub",
        "onnx": f"{SOURCES}.onnx:onnx",
        "torch-export": f"{SOURCES}.torch_export:torch_export",
    },
    "exports": {
        "state_dict": f"{EXPORTS}.state_dict:state_dict",
        "torch-export": f"{EXPORTS}.torch_export:torch_export",
        "onnx": f"{EXPORTS}.onnx:onnx",
        "robustbench": f"{EXPORTS}.robustbench:robustbench",
        "hub-folder": f"{EXPORTS}.hub_folder:hub_folder",
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
        "screen": "rstbench.attacks.screen:Screen",
    },
    "certificates": {
        "auto_lirpa": "rstbench.certificates.auto_lirpa:AutoLirpa",
        "ibp": "rstbench.certificates.ibp:IBP",
        "crown": "rstbench.certificates.crown:Crown",
        "milp": "rstbench.certificates.milp:Milp",
    },
    "networks": {
        "conv2": "rstbench.networks.conv:conv2",
        "conv4": "rstbench.networks.conv:conv4",
        "conv6": "rstbench.networks.conv:conv6",
        "vgg16": "rstbench.networks.vgg:vgg16",
        "resnet18": "rstbench.networks.resnet:resnet18",
        "resnet34": "rstbench.networks.resnet:resnet34",
        "resnet50": "rstbench.networks.resnet:resnet50",
        "preactresnet18": "rstbench.networks.preact:preactresnet18",
        "preactresnet18-raw": "rstbench.networks.preact:preactresnet18_raw",
        "wrn-28-10": "rstbench.networks.preact:wrn_28_10",
        "wrn-34-10": "rstbench.networks.preact:wrn_34_10",
        "mobilenetv2": "rstbench.networks.mobilenet:mobilenetv2",
        "torchvision": "rstbench.networks.torchvision:torchvision",
    },
    "methods": {
        "rst": "rstbench.tickets.methods.edge_popup:edge_popup",
        "hydra": "rstbench.tickets.methods.edge_popup:Hydra",
        "random": "rstbench.tickets.methods.saliency:random",
        "magnitude": "rstbench.tickets.methods.saliency:Magnitude",
        "snip": "rstbench.tickets.methods.saliency:Snip",
        "grasp": "rstbench.tickets.methods.saliency:Grasp",
        "aws": "rstbench.tickets.methods.aws:AWS",
        "reconstruct": "rstbench.tickets.methods.reconstruct:Reconstruct",
        "awt": "rstbench.tickets.methods.awt:AWT",
        "awt-moved": "rstbench.tickets.methods.awt:AWTMoved",
    },
}
_SINGULAR = {
    "models": "model source",
    "exports": "export format",
    "data": "data set",
    "attacks": "attack",
    "certificates": "certificate",
    "networks": "network",
    "methods": "method",
}


def singular(group: str) -> str:
    """Return what one of a group is called in a message."""
    return _SINGULAR[group]


def names(group: str) -> list[tuple[str, str]]:
    """Return every (name, package that offers it) of a group, sorted, without importing any."""
    builtin = [(name, "rstbench") for name in BUILTIN[group]]
    return sorted([*builtin, *((point.name, _package(point)) for point in _entry_points(group).values())])


def find(group: str, name: str) -> Callable[..., Any]:
    """Return the object behind a name. Raises BadRequest for a miss, a clash, or a plug-in that fails."""
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


def _entry_points(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name. Raises BadRequest where two packages offer one name."""
    return _found_on(tuple(sys.path), group)


@cache
def _found_on(path: tuple[str, ...], group: str) -> Mapping[str, EntryPoint]:
    """Look through all installed packages, which takes a while, once."""
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"rstbench.{group}"):
        known = points.get(point.name)
        if point.name in BUILTIN[group] or (known and known.value != point.value):
            owner = _package(known) if known else "rstbench"
            raise BadRequest(
                f"two packages offer the {_SINGULAR[group]} {point.name!r}: {owner!r} and "
                f"{_package(point)!r}; uninstall one of them"
            )
        points[point.name] = point
    return points


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
