"""Names to objects: what this package offers, and what other installed packages add.

A built-in name is a "module:object" string that is imported when first asked for, so that listing
names costs nothing. Other packages add names through entry points in the groups `rstbench.models`,
`rstbench.data`, `rstbench.attacks`, `rstbench.networks`, `rstbench.methods` and `rstbench.exports`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
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
    "networks": "network",
    "methods": "method",
}


@dataclass(frozen=True)
class Reference:
    """`source:id[option=value,…]`, the grammar of everything a user names."""

    source: str
    id: str
    options: dict[str, str]


def parse_reference(text: str) -> Reference:
    """Splits `source:id[a=1,b=2]`. Raises BadRequest where the text is malformed, or has two meanings.

    Options are the brackets that close a text, unless the whole names a file that is there; brackets within
    them come in pairs. For commas in the path of a file see `parse_options`.
    """
    text = text.strip()
    body, options = _cut(text)
    source, _, id = body.partition(":")
    if not source:
        raise BadRequest(f"a reference must read 'source:id[option=value,…]', got {text!r}")
    whole = text[len(source) + 1 :]
    if id and options and _is_path(whole):
        if _is_path(id):
            raise BadRequest(f"{text!r} names {whole!r}, or {id!r} with options; rename one")
        id, options = whole, ""
    if text.endswith("]") and text.count("[") != text.count("]") and not _is_path(whole):
        raise BadRequest(f"the brackets of a reference come in pairs, got {text!r}")
    return Reference(source, id, parse_options(options, text, paths=True))


def _cut(text: str) -> tuple[str, str]:
    """(what stands before the options, the options without their brackets). Brackets without '=' belong to a
    path."""
    depth, start = 0, len(text)
    while start and (text.endswith("]") and (depth or start == len(text))):
        start -= 1
        depth += {"]": 1, "[": -1}.get(text[start], 0)
    options = text[start + 1 : -1]
    return (text[:start], options) if not depth and "=" in options else (text, "")


def _is_path(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name that no file system takes, a home that is not there
        return False


def parse_options(text: str, whole: str, *, paths: bool = False) -> dict[str, str]:
    """`a=1,b=2` as a dictionary of texts; `whole` is quoted in the error.

    paths: values may be paths with commas in them, where such a path is there. Raises BadRequest.
    """
    options: dict[str, str] = {}
    parts = text.split(",")
    while parts:
        count = _path_length(parts, whole) if paths else 1
        part, parts = ",".join(parts[:count]).strip(), parts[count:]
        if not part:
            continue
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadRequest(f"options must read 'name=value', got {part!r} in {whole!r}")
        if name.strip() in options:
            raise BadRequest(f"option {name.strip()!r} is given twice in {whole!r}")
        options[name.strip()] = value.strip()
    return options


def _path_length(parts: Sequence[str], whole: str) -> int:
    """Of how many parts the first option is: of one, but where its value with more of them is a path."""
    value = parts[0].partition("=")[2]
    longer = [",".join([value, *parts[1:count]]).strip() for count in range(1, len(parts) + 1)]
    ends = [count for count in range(1, len(parts)) if "=" in parts[count]] + [len(parts)]
    there = [count for count in ends if _is_path(longer[count - 1])]
    if len(there) > 1:
        found = " or ".join(repr(longer[count - 1]) for count in there)
        raise BadRequest(f"{whole!r} names {found}; rename one")
    return there[0] if there else 1


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
