"""Bare state dicts: `weights:FILE[arch=NETWORK]`, and library networks with a file's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import BadRequest, unknown
from ...evidence.trial import ModelInfo
from ...flags import MATCHED_BY_ORDER
from ...networks.choices import BIASES
from ...networks.network import NetworkSpec, build, prunable
from ..checkpoints.foreign import Foreign, as_ticket, read_foreign
from ..checkpoints.layer_names import layouts
from ..checkpoints.match import DoesNotFit, Fit, LeftOver, Wanted, fit, meant
from ..checkpoints.select import TIMM, Found
from ..checkpoints.state_dict import load, read_network
from ..normalise import normalised
from ..wrapper import EvalModel, wrap
from .alternatives import fits, instead_of, last_bias
from .input_shape import fitting, image_shape, takes
from .native import ticket_entry
from .options import given_options, number_of, shape_of, typed_of, width_of, written
from .sizes import random_start, sized
from .torchvision_files import as_saved, library_entry, library_layouts

LIBRARIES = ("torchvision", "timm")
# Options that networks of the one kind lack, and of the other.
OF_OURS = ("width", "norm", "last_norm", "bias", "shortcut", "recipe")
OF_LIBRARIES = ("in_chans", "transform_input")


def weights(
    id: str,
    arch: str = "",
    width: str = "1",
    norm: str = "batch",
    classes: str | int = "",
    shape: str | Sequence[int] = "",
    remaining: str = "",
    allocation: str = "uniform",
    last_norm: str = "false",
    normalize: str = "",
    recipe: str = "",
    bias: str = "",
    key: str = "",
    prefix: str = "",
    without: str = "",
    scores: str = "",
    match: str = "",
    in_chans: str = "",
    transform_input: str = "",
    shortcut: str = "",
    **settings: str,
) -> EvalModel:
    """`weights:FILE[arch=resnet18,norm=affine]` for a network of this tool, `[arch=timm:NAME]` or
    `[arch=torchvision:NAME]` for a library's.

    classes and shape (channels x height x width, such as 3x32x32) are those of the data unless given. Files
    that hold scores or masks beside the weights, as other projects' tickets do, become dense (see
    `checkpoints.foreign`); scores need the kept fraction, `[remaining=0.05]`. bias: 'last' for a network with
    one on its last layer, which a file that has it tells; shortcut: see `NetworkSpec`. key: which network of
    a training checkpoint; prefix: where its names begin; without: what takes no part, names or their
    beginnings joined by '+'. Names of public code are known (see `checkpoints.layouts`); others are matched
    by order, in networks with branches only with `[match=order]`. normalize puts that layer first. With
    `[recipe=paper-cifar,data=cifar10]`, and more settings of a recipe, scores over a random network of this
    tool become a `Ticket`. Raises BadRequest with the names that differ, and what to add.
    """
    if not arch:
        raise BadRequest(f"weights:{id} are weights only; name their network, [arch=resnet18]")
    given = given_options(arch=arch, width=width, norm=norm, remaining=remaining, allocation=allocation,
                   last_norm=last_norm, normalize=normalize, bias=bias, key=key, prefix=prefix,
                   without=without, scores=scores, match=match, in_chans=in_chans,
                   transform_input=transform_input, shortcut=shortcut)  # fmt: skip
    text = written(f"weights:{id}", given)
    _check(text, given | ({"recipe": recipe} if recipe else {}), () if recipe else settings)
    if kept := library_entry(Path(id).expanduser(), text, given, classes, shape):
        return kept
    wanted = Wanted(prefix, without, normalize, order=match == "order")
    file = _read(Path(id), text, wanted, key, TIMM if arch.startswith("timm:") else ())
    found = read_foreign(file.state, remaining, allocation, scores)
    if recipe and not found.pattern and not found.masks:
        raise BadRequest(f"{text}: recipe goes with files that hold scores, this one has none")
    if arch.partition(":")[0] in LIBRARIES:
        return _library(classes, id, file, found, given, wanted, shape)
    size = (shape_of(shape, text), number_of(classes, "classes", text), width_of(width), norm)
    bare = NetworkSpec(arch, *size, last_norm=last_norm == "true", shortcut=shortcut)
    if not recipe:
        return _own(id, bare, file, found, given, wanted)
    typed = typed_of({**settings, "recipe": recipe, "allocation": allocation})
    return _ticket(id, bare, file, found, given, wanted, typed)


def _ticket(
    id: str,
    bare: NetworkSpec,
    file: Found,
    found: Foreign,
    given: Mapping[str, str],
    wanted: Wanted,
    settings: Mapping[str, Any],
) -> EvalModel:
    """The ticket that scores over a random network of this tool are; settings: of its recipe."""
    bare, fitted = _fitted(bare, given, found, written(f"weights:{id}", given), _of_file(wanted, file))
    normalize = wanted.normalize or ""
    found = found.under(fitted.names, build(bare).state_dict()).behind("1." if normalize else "")
    spec, remaining = replace(bare, normalize=normalize), given.get("remaining", "")
    entry = ticket_entry(as_ticket(found, spec, remaining, settings), Path(id).stem)
    card = replace(entry.card, flags=(*entry.card.flags, *_flags(fitted)))
    return replace(entry, card=card, notes=file.notes)


def _check(text: str, given: Mapping[str, str], unknown_ones: Iterable[str]) -> None:
    """Raises BadRequest for options that have no such value, or no meaning together."""
    if given.get("last_norm", "false") not in ("true", "false") or given.get("match", "order") != "order":
        raise BadRequest(f"{text}: last_norm is true or false, match is order")
    if given.get("bias", "none") not in BIASES:
        raise unknown("bias", given["bias"], BIASES)
    if strange := list(unknown_ones):
        raise BadRequest(f"{text}: {', '.join(strange)} go with recipe=NAME, or are unknown")
    library = given["arch"].partition(":")[0] in LIBRARIES
    if given.get("transform_input", "true") not in ("true", "false"):
        raise BadRequest(f"{text}: transform_input is true or false")
    if strange := [name for name in (OF_OURS if library else OF_LIBRARIES) if name in given]:
        whose = "this tool" if library else "torchvision and timm"
        raise BadRequest(f"{text}: {', '.join(strange)} go with networks of {whose}")


def _own(
    id: str, bare: NetworkSpec, file: Found, found: Foreign, given: Mapping[str, str], wanted: Wanted
) -> EvalModel:
    """A network of this tool with the weights, behind the normalisation that is wanted."""
    text = written(f"weights:{id}", given)
    wanted = _of_file(wanted, file)
    bare, fitted = _fitted(bare, given, found, text, wanted)
    spec = replace(bare, normalize=wanted.normalize or "")
    module = build(spec)
    held = module.get_submodule("1") if wanted.normalize else module
    found = found.under(fitted.names, held.state_dict())
    load(held, found.dense(), text)
    told = _told(file, fitted) | ({"bias": bare.bias} if bare.bias != "none" else {})
    kept, total = _counts(found, held)
    name = written(f"weights:{id}", {**given, **told})
    card = ModelInfo(name, "external", "", str(spec), round(kept / total, 6), kept, total, _flags(fitted))
    return wrap(module.requires_grad_(False).eval(), card, made_by=str(spec), notes=file.notes)


def _library(
    classes: str | int,
    id: str,
    file: Found,
    found: Foreign,
    given: Mapping[str, str],
    wanted: Wanted,
    shape: str | Sequence[int],
) -> EvalModel:
    """A library's network with the weights, behind the normalisation that is wanted."""
    text = written(f"weights:{id}", given)
    arch, in_chans = given["arch"], given.get("in_chans", "")
    sizes: dict[str, str | int] = {"classes": classes, "in_chans": in_chans}
    again = partial(random_start, arch)
    start, named = as_saved(again(sizes), given, text)
    wanted = replace(wanted, network=arch, layouts=named)
    module, told, card = _filled(start, file, found, text, wanted, sizes, again)
    channels = takes(module, in_chans)
    module = fitting(module, image_shape(shape, text), channels, option=False)
    name = written(f"weights:{id}", {**given, **told})
    module = normalised(module, wanted.normalize) if wanted.normalize else module
    return wrap(module, replace(card, name=name), made_by=name, notes=file.notes)


def _flags(fitted: Fit) -> tuple[str, ...]:
    """The alarm for names that only their order tells."""
    return (MATCHED_BY_ORDER.name,) if fitted.by_order else ()


def timm_checkpoint(
    build: Callable[..., nn.Module],
    id: str,
    checkpoint: str,
    classes: str | int = "",
    in_chans: str = "",
    shape: str | Sequence[int] | None = None,
    key: str = "",
    prefix: str = "",
    without: str = "",
) -> EvalModel:
    """`timm:NAME[checkpoint=FILE]`: of several networks in a file the one that timm's own loader takes, the
    average of the weights first, unless `key` names another.

    build: makes the network, given num_classes. Raises BadFile and BadRequest as `weights` does.
    """
    given = given_options(checkpoint=checkpoint, in_chans=in_chans, key=key, prefix=prefix, without=without)
    text = written(f"timm:{id}", given)
    wanted = Wanted(prefix, without, None, network=id, layouts=library_layouts(id))
    file = _read(Path(checkpoint), text, wanted, key, TIMM)
    found = read_foreign(file.state)
    # The last matrix tells; only it is looked at.
    matrices = [value for value in found.state.values() if value.dim() == 2]
    classes = classes or (len(matrices[-1]) if matrices else "")
    sizes: dict[str, str | int] = {"classes": number_of(classes, "classes", text), "in_chans": in_chans}
    again = partial(random_start, f"timm:{id}")
    module, told, card = _filled(build(num_classes=sizes["classes"]), file, found, text, wanted, sizes, again)
    module = fitting(module, image_shape(shape, text), takes(module, in_chans), option=False)
    card = replace(card, name=written(f"timm:{id}", given | told))
    return wrap(module, card, made_by=id, notes=file.notes)


def _read(path: Path, text: str, wanted: Wanted, key: str, rule: Sequence[str]) -> Found:
    file = read_network(path, key, rule, wanted.prefix, wanted.without, parts=True)
    return replace(file, state=meant(file.state, text, wanted))


def _of_file(wanted: Wanted, file: Found) -> Wanted:
    return replace(wanted, ordered=file.ordered, unclear=file.unclear)


def _filled(
    module: nn.Module,
    file: Found,
    found: Foreign,
    text: str,
    wanted: Wanted,
    sizes: Mapping[str, str | int],
    again: Callable[[Mapping[str, str | int]], nn.Module],
) -> tuple[nn.Module, dict[str, str], ModelInfo]:
    """(a library's network with the weights, what is told of how they were found, a card without a name).

    sizes, again: what it was built for, and how it is built for other sizes."""
    with sized(module, found.state, wanted, sizes, again):
        fitted = fit(module, found.state, text, _of_file(wanted, file))
    found = found.under(fitted.names, module.state_dict())
    load(module, found.dense(), text)
    card = ModelInfo("", "external", flags=_flags(fitted))
    if found.masks:
        kept, total = _counts(found, module)
        card = replace(card, remaining=round(kept / total, 6), kept_weights=kept, total_weights=total)
    return module, _told(file, fitted), card


def _told(file: Found, fitted: Fit) -> dict[str, str]:
    """The options that say what was chosen without having been asked."""
    return ({"key": file.key} if file.key else {}) | fitted.told


def _fitted(
    bare: NetworkSpec, given: Mapping[str, str], found: Foreign, text: str, wanted: Wanted
) -> tuple[NetworkSpec, Fit]:
    """The network, with a bias on its last layer where the file has one, and whose tensor is whose in it."""
    bias = given.get("bias", "")
    wanted = replace(wanted, layouts=layouts(bare.name), network=bare.name)
    plain = build(replace(bare, bias=bias or "none"))  # says what is wrong with the network itself
    tried = [replace(bare, bias=one) for one in ((bias,) if bias else ("last", "none"))]
    nearest = tried[0] if last_bias(found.state) == "last" else tried[-1]
    spec = next((one for one in tried if fits(one, found, replace(wanted, order=True))), nearest)
    try:
        fitted = fit(plain if spec == tried[-1] else build(spec), found.state, text, wanted)
    except (DoesNotFit, LeftOver) as error:
        other = instead_of(tried[-1], found, wanted)
        if other:
            raise DoesNotFit(error.problem, other) from None
        raise
    if fitted.asks and "shortcut" not in given:
        raise BadRequest(f"{text}: {fitted.asks}")
    return spec, fitted


def _counts(found: Foreign, module: nn.Module) -> tuple[int, int]:
    """(weights in use, all weights): as the masks say, and where there is none what is not 0."""
    weights = prunable(module)
    kept = sum(
        int(found.masks[n].sum() if n in found.masks else w.count_nonzero()) for n, w in weights.items()
    )
    return kept, sum(weight.numel() for weight in weights.values())
