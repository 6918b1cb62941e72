"""Load bare state dicts into networks of this tool or a library: `weights:FILE[arch=NETWORK]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import BadRequest, unknown
from ...evidence.trial import ModelInfo
from ...flags import MATCHED_BY_ORDER
from ...networks.choices import BIASES
from ...networks.network import NetworkSpec, build, prunable
from ..checkpoints.differences import ArchitectureMismatch, UnexpectedTensors
from ..checkpoints.foreign import MaskedState, read_masked_state, to_ticket
from ..checkpoints.layer_names import naming_schemes
from ..checkpoints.match import (
    Match,
    MatchOptions,
    match_tensors,
    select_tensors,
)
from ..checkpoints.select import TIMM_KEYS, StoredNetwork
from ..checkpoints.state_dict import load_tensors, read_checkpoint
from ..normalise import normalised
from ..wrapper import EvalModel, wrap
from .alternatives import fits, last_layer_bias, suggest_options
from .input_shape import checked_input, input_channels, parse_shape, required_shape
from .native import ticket_model
from .options import non_default, positive_int, recipe_settings, reference_text, width_multiplier
from .sizes import Sizes, random_start, suggest_sizes
from .torchvision_files import library_model, library_naming, with_transform_input

Given = Mapping[str, str]  # options of a reference as the user gave them
LIBRARIES = ("torchvision", "timm")
# Options of the one kind of network that the other lacks.
NATIVE_OPTIONS = ("width", "norm", "last_norm", "bias", "shortcut", "recipe")
LIBRARY_OPTIONS = ("in_chans", "transform_input")


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
    """Load `weights:FILE[arch=resnet18,norm=affine]`, `[arch=timm:NAME]` or `[arch=torchvision:NAME]`.

    classes and shape (channels x height x width, such as 3x32x32) are those of the data unless given. Files
    with scores or masks beside the weights, as other projects' tickets have, become dense (see
    `checkpoints.foreign`); scores need the kept fraction, `[remaining=0.05]`. bias: 'last' for a network with
    one on its last layer, by default as in the file; shortcut: see `NetworkSpec`. key: of the network in a
    training checkpoint; prefix: of its names; without: names or prefixes of tensors to ignore, joined by '+'.
    Names of public code are known (see `checkpoints.layer_names`); others are matched by order, in networks
    with branches only with `[match=order]`. normalize puts that layer first. With
    `[recipe=paper-cifar,data=cifar10]`, and more settings of a recipe, scores over a random network of this
    tool become a `Ticket`. Raises BadRequest with the names that differ, and what to add.
    """
    if not arch:
        raise BadRequest(f"weights:{id} are weights only; name their network, [arch=resnet18]")
    given = non_default(arch=arch, width=width, norm=norm, remaining=remaining, allocation=allocation,
                   last_norm=last_norm, normalize=normalize, bias=bias, key=key, prefix=prefix,
                   without=without, scores=scores, match=match, in_chans=in_chans,
                   transform_input=transform_input, shortcut=shortcut)  # fmt: skip
    text = reference_text(f"weights:{id}", given)
    _check_options(text, given | ({"recipe": recipe} if recipe else {}), () if recipe else settings)
    if model := library_model(Path(id).expanduser(), text, given, classes, shape):
        return model
    options = MatchOptions(prefix, without, normalize, order=match == "order")
    file = _read(Path(id), text, options, key, TIMM_KEYS if arch.startswith("timm:") else ())
    state = read_masked_state(file.state, remaining, allocation, scores)
    if recipe and not state.pattern and not state.masks:
        raise BadRequest(f"{text}: recipe goes with files that hold scores, this one has none")
    if arch.partition(":")[0] in LIBRARIES:
        return _library_model(classes, id, file, state, given, options, shape)
    shape_and_classes = (required_shape(shape, text), positive_int(classes, "classes", text))
    size = (*shape_and_classes, width_multiplier(width), norm)
    spec = NetworkSpec(arch, *size, last_norm=last_norm == "true", shortcut=shortcut)
    if not recipe:
        return _native_model(id, spec, file, state, given, options)
    typed = recipe_settings({**settings, "recipe": recipe, "allocation": allocation})
    return _ticket_model(id, spec, file, state, given, options, typed)


def _ticket_model(
    id: str,
    spec: NetworkSpec,
    file: StoredNetwork,
    state: MaskedState,
    given: Given,
    options: MatchOptions,
    settings: Mapping[str, Any],
) -> EvalModel:
    """Make a ticket of scores over a random network of this tool; settings: of its recipe."""
    text = reference_text(f"weights:{id}", given)
    spec, match = _match_native(spec, given, state, text, _for_file(options, file))
    normalize = options.normalize or ""
    state = state.renamed(match.names, build(spec).state_dict()).prefixed("1." if normalize else "")
    spec, remaining = replace(spec, normalize=normalize), given.get("remaining", "")
    model = ticket_model(to_ticket(state, spec, remaining, settings), Path(id).stem)
    info = replace(model.info, flags=(*model.info.flags, *_flags(match)))
    return replace(model, info=info, notes=file.notes)


def _check_options(text: str, given: Given, unknown_names: Iterable[str]) -> None:
    """Raise BadRequest for options that have no such value, or no meaning together."""
    if given.get("last_norm", "false") not in ("true", "false") or given.get("match", "order") != "order":
        raise BadRequest(f"{text}: last_norm is true or false, match is order")
    if given.get("bias", "none") not in BIASES:
        raise unknown("bias", given["bias"], BIASES)
    if names := list(unknown_names):
        raise BadRequest(f"{text}: {', '.join(names)} go with recipe=NAME, or are unknown")
    library = given["arch"].partition(":")[0] in LIBRARIES
    if given.get("transform_input", "true") not in ("true", "false"):
        raise BadRequest(f"{text}: transform_input is true or false")
    if names := [name for name in (NATIVE_OPTIONS if library else LIBRARY_OPTIONS) if name in given]:
        whose = "this tool" if library else "torchvision and timm"
        raise BadRequest(f"{text}: {', '.join(names)} go with networks of {whose}")


def _native_model(
    id: str, spec: NetworkSpec, file: StoredNetwork, state: MaskedState, given: Given, options: MatchOptions
) -> EvalModel:
    """Load a network of this tool, behind its normalisation where there is one."""
    text = reference_text(f"weights:{id}", given)
    spec, match = _match_native(spec, given, state, text, _for_file(options, file))
    bias = {"bias": spec.bias} if spec.bias != "none" else {}
    spec = replace(spec, normalize=options.normalize or "")
    module = build(spec)
    net = module.get_submodule("1") if options.normalize else module
    state = state.renamed(match.names, net.state_dict())
    load_tensors(net, state.dense(), text)
    kept, total = _count_weights(state, net)
    name = reference_text(f"weights:{id}", {**given, **_found_options(file, match), **bias})
    info = ModelInfo(name, "external", "", str(spec), round(kept / total, 6), kept, total, _flags(match))
    return wrap(module.requires_grad_(False).eval(), info, made_by=str(spec), notes=file.notes)


def _library_model(
    classes: str | int,
    id: str,
    file: StoredNetwork,
    state: MaskedState,
    given: Given,
    options: MatchOptions,
    shape: str | Sequence[int],
) -> EvalModel:
    """Load a library's network, behind a normalisation where one is given."""
    text = reference_text(f"weights:{id}", given)
    arch, in_chans = given["arch"], given.get("in_chans", "")
    sizes: Sizes = {"classes": classes, "in_chans": in_chans}
    start, schemes = with_transform_input(random_start(arch, sizes), given, text)
    options = replace(options, network=arch, schemes=schemes)
    module, found, info = _load_library(start, arch, file, state, text, options, sizes, shape)
    name = reference_text(f"weights:{id}", {**given, **found})
    module = normalised(module, options.normalize) if options.normalize else module
    return wrap(module, replace(info, name=name), made_by=name, notes=file.notes)


def _flags(match: Match) -> tuple[str, ...]:
    return (MATCHED_BY_ORDER.name,) if match.by_order else ()


def timm_checkpoint_model(
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
    """Load `timm:NAME[checkpoint=FILE]`.

    Of several networks in a file timm's own choice is taken, the averaged weights first, unless `key` names
    another. build: makes the network, given num_classes. Raises BadFile and BadRequest as `weights` does.
    """
    given = non_default(checkpoint=checkpoint, in_chans=in_chans, key=key, prefix=prefix, without=without)
    text = reference_text(f"timm:{id}", given)
    options = MatchOptions(prefix, without, None, network=id, schemes=library_naming(id))
    file = _read(Path(checkpoint), text, options, key, TIMM_KEYS)
    state = read_masked_state(file.state)
    matrices = [value for value in state.state.values() if value.dim() == 2]
    classes = classes or (len(matrices[-1]) if matrices else "")  # the last layer has a row a class
    sizes: Sizes = {"classes": positive_int(classes, "classes", text), "in_chans": in_chans}
    start = build(num_classes=sizes["classes"])
    module, found, info = _load_library(start, f"timm:{id}", file, state, text, options, sizes, shape)
    info = replace(info, name=reference_text(f"timm:{id}", given | found))
    return wrap(module, info, made_by=id, notes=file.notes)


def _read(
    path: Path, text: str, options: MatchOptions, key: str, preferred_keys: Sequence[str]
) -> StoredNetwork:
    file = read_checkpoint(path, key, preferred_keys, options.prefix, options.without, parts=True)
    return replace(file, state=select_tensors(file.state, text, options))


def _for_file(options: MatchOptions, file: StoredNetwork) -> MatchOptions:
    return replace(options, ordered=file.ordered, ambiguity=file.ambiguity)


def _load_library(
    module: nn.Module,
    arch: str,
    file: StoredNetwork,
    state: MaskedState,
    text: str,
    options: MatchOptions,
    sizes: Sizes,
    shape: str | Sequence[int] | None,
) -> tuple[nn.Module, dict[str, str], ModelInfo]:
    """Load the weights into a library's network; return (network, options found, info without a name).

    arch, sizes: as which it was built; shape: of the images it is for.
    """
    with suggest_sizes(module, state.state, options, arch, sizes):
        match = match_tensors(module, state.state, text, _for_file(options, file))
    state = state.renamed(match.names, module.state_dict())
    load_tensors(module, state.dense(), text)
    info = ModelInfo("", "external", flags=_flags(match))
    if state.masks:
        kept, total = _count_weights(state, module)
        info = replace(info, remaining=round(kept / total, 6), kept_weights=kept, total_weights=total)
    channels = input_channels(module, str(sizes["in_chans"]))
    module = checked_input(module, parse_shape(shape, text), channels, adaptable=False)
    return module, _found_options(file, match), info


def _found_options(file: StoredNetwork, match: Match) -> dict[str, str]:
    """Return the options that say what was chosen although none was given."""
    return ({"key": file.key} if file.key else {}) | match.options


def _match_native(
    spec: NetworkSpec, given: Given, state: MaskedState, text: str, options: MatchOptions
) -> tuple[NetworkSpec, Match]:
    """Match a network of this tool, with a bias on its last layer where the file has one."""
    bias = given.get("bias", "")
    options = replace(options, schemes=naming_schemes(spec.name), network=spec.name)
    build(replace(spec, bias=bias or "none"))  # says what is wrong with the network itself
    candidates = [replace(spec, bias=choice) for choice in ((bias,) if bias else ("last", "none"))]
    nearest = candidates[0] if last_layer_bias(state.state) == "last" else candidates[-1]
    by_order = replace(options, order=True)
    spec = next((candidate for candidate in candidates if fits(candidate, state.state, by_order)), nearest)
    try:
        match = match_tensors(build(spec), state.state, text, options)
    except (ArchitectureMismatch, UnexpectedTensors) as error:
        if advice := suggest_options(candidates[-1], state.state, options):
            raise ArchitectureMismatch(error.problem, advice) from None
        raise
    if match.question and "shortcut" not in given:
        raise BadRequest(f"{text}: {match.question}")
    return spec, match


def _count_weights(state: MaskedState, module: nn.Module) -> tuple[int, int]:
    """Count (weights in use, all weights): kept by a mask, or not 0 where there is none."""
    weights = prunable(module)
    kept = sum(int(state.masks.get(name, weight).count_nonzero()) for name, weight in weights.items())
    return kept, sum(weight.numel() for weight in weights.values())
