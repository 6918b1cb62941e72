"""Load bare state dicts into networks of this tool or a library: `weights:FILE[arch=NETWORK]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import BadRequest
from ...evidence.trial import ModelInfo
from ...flags import MATCHED_BY_ORDER
from ...networks.choices import BIASES
from ...networks.network import NetworkSpec, build, prunable
from ..checkpoints.differences import ArchitectureMismatch, UnexpectedTensors
from ..checkpoints.foreign import MaskedState, read_masked_state, to_ticket
from ..checkpoints.layer_names import naming_schemes
from ..checkpoints.match import Match, MatchOptions, match_tensors, select_tensors
from ..checkpoints.select import TIMM_KEYS, StoredNetwork
from ..checkpoints.state_dict import load_tensors, read_checkpoint
from ..normalise import normalised
from ..wrapper import EvalModel, wrap
from .alternatives import fits, last_layer_bias, suggest_options
from .input_shape import checked_input, input_channels, parse_shape, required_shape
from .native import ticket_model
from .options import WeightOptions, positive_int, recipe_settings, reference_text, width_multiplier
from .sizes import Sizes, random_start, suggest_sizes
from .torchvision_files import library_model, library_naming, with_transform_input

LIBRARIES = ("torchvision", "timm")
# Options of the one kind of network that the other lacks.
NATIVE_OPTIONS = ("width", "norm", "last_norm", "bias", "shortcut", "recipe")
LIBRARY_OPTIONS = ("in_chans", "transform_input")
YES_NO = ("true", "false")
VALUES = {"last_norm": YES_NO, "match": ("order",), "bias": BIASES, "transform_input": YES_NO}


def weights(
    id: str,
    classes: str | int = "",
    shape: str | Sequence[int] = "",
    normalize: str = "",
    recipe: str = "",
    **options: str,
) -> EvalModel:
    """Load `weights:FILE[arch=resnet18,norm=affine]`, `[arch=timm:NAME]` or `[arch=torchvision:NAME]`.

    options: those of `WeightOptions`, and more settings of a recipe. classes and shape (channels x height x
    width, such as 3x32x32) are those of the data unless given. Files with scores or masks beside the weights,
    as other projects' tickets have, become dense (see `checkpoints.foreign`). normalize puts that layer
    first. With `[recipe=paper-cifar,data=cifar10]` scores over a random network of this tool become a
    `Ticket`. Raises BadRequest with the names that differ, and what to add.
    """
    names = [f.name for f in fields(WeightOptions)]
    settings = {name: value for name, value in options.items() if name not in names}
    chosen = {name: value for name, value in options.items() if name in names}
    selected = WeightOptions(**chosen, normalize=normalize)
    if not selected.arch:
        raise BadRequest(f"weights:{id} are weights only; name their network, [arch=resnet18]")
    given = selected.given()
    text = reference_text(f"weights:{id}", given)
    _check_options(text, given | ({"recipe": recipe} if recipe else {}), () if recipe else settings)
    if model := library_model(Path(id).expanduser(), text, given, classes, shape):
        return model
    match = MatchOptions(selected.prefix, selected.without, normalize, order=selected.match == "order")
    timm_keys = TIMM_KEYS if selected.arch.startswith("timm:") else ()
    file, match = _read(Path(id), text, match, selected.key, timm_keys)
    state = read_masked_state(file.state, selected.remaining, selected.allocation, selected.scores)
    if recipe and not state.pattern and not state.masks:
        raise BadRequest(f"{text}: recipe goes with files that hold scores, this one has none")
    request = _Request(id, text, given, file, state, match)
    if selected.arch.partition(":")[0] in LIBRARIES:
        return _library_model(request, classes, shape)
    size = (required_shape(shape, text), positive_int(classes, "classes", text))
    width, last_norm = width_multiplier(selected.width), selected.last_norm == "true"
    spec = NetworkSpec(
        selected.arch, *size, width, selected.norm, last_norm=last_norm, shortcut=selected.shortcut
    )
    if not recipe:
        return _native_model(request, spec)
    settings |= {"recipe": recipe, "allocation": selected.allocation}
    return _ticket_model(request, spec, recipe_settings(settings))


@dataclass(frozen=True)
class _Request:
    """Hold a reference to weights and what was read for it.

    text: the reference with the options `given`; file, state: what the file holds, as stored and with masks.
    """

    id: str
    text: str
    given: Mapping[str, str]
    file: StoredNetwork
    state: MaskedState
    match: MatchOptions

    def name(self, **more: str) -> str:
        """Return the reference with more options, those that the file told."""
        return reference_text(f"weights:{self.id}", {**self.given, **more})


def _ticket_model(request: _Request, spec: NetworkSpec, settings: Mapping[str, Any]) -> EvalModel:
    """Make a ticket of scores over a random network of this tool; settings: of its recipe."""
    spec, match = _match_native(request, spec)
    normalize = request.match.normalize or ""
    state = request.state.renamed(match.names, build(spec).state_dict()).prefixed("1." if normalize else "")
    spec, remaining = replace(spec, normalize=normalize), request.given.get("remaining", "")
    model = ticket_model(to_ticket(state, spec, remaining, settings), Path(request.id).stem)
    info = replace(model.info, flags=(*model.info.flags, *_flags(match)))
    return replace(model, info=info, notes=request.file.notes)


def _check_options(text: str, given: Mapping[str, str], unknown_names: Iterable[str]) -> None:
    """Raise BadRequest for options that have no such value, or no meaning together."""
    for name, values in VALUES.items():
        if given.get(name, values[0]) not in values:
            raise BadRequest(f"{text}: {name} is {' or '.join(values)}")
    if names := list(unknown_names):
        raise BadRequest(f"{text}: {', '.join(names)} go with recipe=NAME, or are unknown")
    library = given["arch"].partition(":")[0] in LIBRARIES
    if names := [name for name in (NATIVE_OPTIONS if library else LIBRARY_OPTIONS) if name in given]:
        whose = "this tool" if library else "torchvision and timm"
        raise BadRequest(f"{text}: {', '.join(names)} go with networks of {whose}")


def _native_model(request: _Request, spec: NetworkSpec) -> EvalModel:
    """Load a network of this tool, behind its normalisation where there is one."""
    spec, match = _match_native(request, spec)
    bias = {"bias": spec.bias} if spec.bias != "none" else {}
    spec = replace(spec, normalize=request.match.normalize or "")
    module = build(spec)
    net = module.get_submodule("1") if spec.normalize else module
    state = request.state.renamed(match.names, net.state_dict())
    load_tensors(net, state.dense(), request.text)
    kept, total = _count_weights(state, net)
    name = request.name(**_found_options(request.file, match), **bias)
    info = ModelInfo(name, "external", "", str(spec), round(kept / total, 6), kept, total, _flags(match))
    return wrap(module.requires_grad_(False).eval(), info, made_by=str(spec), notes=request.file.notes)


def _library_model(request: _Request, classes: str | int, shape: str | Sequence[int]) -> EvalModel:
    """Load a library's network, behind a normalisation where one is given."""
    arch = request.given["arch"]
    sizes: Sizes = {"classes": classes, "in_chans": request.given.get("in_chans", "")}
    start, schemes = with_transform_input(random_start(arch, sizes), request.given, request.text)
    request = replace(request, match=replace(request.match, network=arch, schemes=schemes))
    module, found, info = _load_library(request, start, arch, sizes, shape)
    name = request.name(**found)
    module = normalised(module, request.match.normalize) if request.match.normalize else module
    return wrap(module, replace(info, name=name), made_by=name, notes=request.file.notes)


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
    names = ("checkpoint", "in_chans", "key", "prefix", "without")
    values = (checkpoint, in_chans, key, prefix, without)
    given = {name: value for name, value in zip(names, values, strict=True) if value}
    text = reference_text(f"timm:{id}", given)
    match = MatchOptions(prefix, without, None, network=id, schemes=library_naming(id))
    file, match = _read(Path(checkpoint), text, match, key, TIMM_KEYS)
    state = read_masked_state(file.state)
    matrices = [value for value in state.state.values() if value.dim() == 2]
    classes = classes or (len(matrices[-1]) if matrices else "")  # the last layer has a row a class
    sizes: Sizes = {"classes": positive_int(classes, "classes", text), "in_chans": in_chans}
    start = build(num_classes=sizes["classes"])
    request = _Request(id, text, given, file, state, match)
    module, found, info = _load_library(request, start, f"timm:{id}", sizes, shape)
    info = replace(info, name=reference_text(f"timm:{id}", given | found))
    return wrap(module, info, made_by=id, notes=file.notes)


def _read(
    path: Path, text: str, options: MatchOptions, key: str, preferred_keys: Sequence[str]
) -> tuple[StoredNetwork, MatchOptions]:
    """Read a file; return (its network, the options with what the file tells of its order and parts)."""
    file = read_checkpoint(path, key, preferred_keys, options, parts=True)
    file = replace(file, state=select_tensors(file.state, text, options))
    return file, replace(options, ordered=file.ordered, ambiguity=file.ambiguity)


def _load_library(
    request: _Request, module: nn.Module, arch: str, sizes: Sizes, shape: str | Sequence[int] | None
) -> tuple[nn.Module, dict[str, str], ModelInfo]:
    """Load the weights into a library's network; return (network, options found, info without a name).

    arch, sizes: as which it was built; shape: of the images it is for.
    """
    state, text = request.state, request.text
    with suggest_sizes(module, state.state, request.match, arch, sizes):
        match = match_tensors(module, state.state, text, request.match)
    state = state.renamed(match.names, module.state_dict())
    load_tensors(module, state.dense(), text)
    info = ModelInfo("", "external", flags=_flags(match))
    if state.masks:
        kept, total = _count_weights(state, module)
        info = replace(info, remaining=round(kept / total, 6), kept_weights=kept, total_weights=total)
    channels = input_channels(module, str(sizes["in_chans"]))
    module = checked_input(module, parse_shape(shape, text), channels, adaptable=False)
    return module, _found_options(request.file, match), info


def _found_options(file: StoredNetwork, match: Match) -> dict[str, str]:
    """Return the options that say what was chosen although none was given."""
    return ({"key": file.key} if file.key else {}) | match.options


def _match_native(request: _Request, spec: NetworkSpec) -> tuple[NetworkSpec, Match]:
    """Match a network of this tool, with a bias on its last layer where the file has one."""
    given, state = request.given, request.state.state
    bias = given.get("bias", "")
    options = replace(request.match, schemes=naming_schemes(spec.name), network=spec.name)
    build(replace(spec, bias=bias or "none"))  # says what is wrong with the network itself
    candidates = [replace(spec, bias=choice) for choice in ((bias,) if bias else ("last", "none"))]
    nearest = candidates[0] if last_layer_bias(state) == "last" else candidates[-1]
    by_order = replace(options, order=True)
    spec = next((candidate for candidate in candidates if fits(candidate, state, by_order)), nearest)
    try:
        match = match_tensors(build(spec), state, request.text, options)
    except (ArchitectureMismatch, UnexpectedTensors) as error:
        if advice := suggest_options(candidates[-1], state, options):
            raise ArchitectureMismatch(error.problem, advice) from None
        raise
    if match.question and "shortcut" not in given:
        raise BadRequest(f"{request.text}: {match.question}")
    return spec, match


def _count_weights(state: MaskedState, module: nn.Module) -> tuple[int, int]:
    """Count (weights in use, all weights): kept by a mask, or not 0 where there is none."""
    weights = prunable(module)
    kept = sum(int(state.masks.get(name, weight).count_nonzero()) for name, weight in weights.items())
    return kept, sum(weight.numel() for weight in weights.values())
