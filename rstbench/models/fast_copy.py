"""A faster copy of a network for crafting adversarial images; the exact module judges them.

Batch norm in eval mode is an affine map, so it folds into the layer before it; subnormal numbers are zero,
dead filters gone, weights laid out for the kernels. Logits differ from the exact ones by rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product

import torch
import torch.fx
from torch import Tensor, nn

from .agreement import (
    AGREE,
    Answers,
    NotCopied,
    agrees,
    answers,
    gradient_of,
    logits_of,
    same_logits,
)
from .copy_timing import seconds_of, times
from .filters import without_dead_filters
from .frozen_forward import frozen_forward
from .precision import has_bfloat16, in_float32, mixed
from .strided import with_shuffled_gradients
from .traced_copy import LAYOUTS, FastCopy, ForwardCopy, traced

TIMED, TIMED_SLOW = 128, 8  # images that copies are timed on
SLOW = 0.03  # seconds that TIMED_SLOW images take forward in a slow network
COMPARED = 32  # images that a copy is compared on
GAIN = 0.97  # of the time of what is simpler: to be chosen, what is less simple takes no more


@dataclass(frozen=True)
class CopyPlan:
    """How a model is copied for fast crafting: chosen once a question, and written with its answers.

    layout: 'contiguous', 'channels-last', or 'none' where the module itself gives the gradients; precision:
    of the layers between the first and the last, 'float32' or 'bfloat16'; inference: what passes without
    gradients run, 'eager' or 'frozen', or 'compiled' for all passes on a GPU; filters: 'live' without dead
    ones, or 'all'; strided: whose gradients narrow strided convolutions have, the 'library' one's or
    'shuffled' ones; note: why there is no copy.
    """

    layout: str = "contiguous"
    precision: str = "float32"
    inference: str = "eager"
    filters: str = "all"
    strided: str = "library"
    note: str = ""

    def as_plain(self) -> dict[str, str]:
        """Return the plan for a line of evidence."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, str]) -> CopyPlan:
        """Read back what `as_plain` wrote."""
        return cls(**plain)


def plan_copy(module: nn.Module, x: Tensor) -> CopyPlan:
    """Return the plan that is fastest on images x (n, c, h, w), n > 0, with gradients and without apart.

    The module itself, in eval mode and frozen, is a candidate for both, so that no plan is slower than it.
    Takes a second or two for a small network, some passes of each candidate on part of x for a large one.
    """
    try:
        exact, graph = answers(module, _sample(module, x)), traced(module)
    except NotCopied as reason:
        return CopyPlan("none", note=str(reason))
    copies = _copies(module, graph, _plans(graph, x.device), exact)
    if not copies:
        return CopyPlan("none", note="the logits or gradients of its copy differ")
    batch, direction = exact.batches[0], exact.direction

    def backward(net: nn.Module) -> object:
        return gradient_of(net, batch, direction)

    def forward(net: nn.Module) -> object:
        return logits_of(net, batch)

    plan, share = _fastest(module, copies, backward, x.device)
    if further := _copies(module, graph, _further(graph, plan, x.device), exact):
        plan, share = _fastest(module, {plan: copies[plan]} | further, backward, x.device)
    plan = plan if share <= GAIN else CopyPlan("none")
    if plan.inference == "eager":
        own = {plan: (copies | further).get(plan, module)}
        frozen = _copies(module, graph, [replace(plan, inference="frozen")], exact)
        plan, _ = _fastest(module, {**own, **frozen}, forward, x.device)
    return plan if plan != CopyPlan("none") else replace(plan, note="its copies are no faster")


def make_copy(module: nn.Module, plan: CopyPlan, x: Tensor) -> nn.Module:
    """Return the copy of a plan: a module from float32 images to float32 logits that owns its weights.

    The module itself, in eval mode and frozen, where the plan says so, and where the copy's logits or
    gradients on images x (n, c, h, w), n > 0, differ.
    """
    if plan.layout == "none" and plan.inference == "eager":
        return module
    try:
        exact = answers(module, x[:COMPARED])
        return _copy(module, traced(module), plan, exact) or module
    except NotCopied:
        return module


def crafting_copy(module: nn.Module, x: Tensor) -> nn.Module:
    """Return a folded channels-last copy of a network that is in eval mode and frozen.

    The module itself is returned where it cannot be traced, or where the copy's logits on x (n, c, h, w)
    differ. Gradients for images come back contiguous.
    """
    with torch.no_grad():
        exact = module(x)
    try:
        fast = FastCopy(traced(module), "channels-last")
        with torch.no_grad():
            approximate = fast(x)
    except (NotCopied, RuntimeError, TypeError, ValueError):
        return module
    return fast if same_logits(exact, approximate, AGREE) else module


def _sample(module: nn.Module, x: Tensor) -> Tensor:
    """Return as many of the images as time allows to compare and time copies on."""
    few = x[:TIMED_SLOW]
    logits_of(module, few)
    return few if seconds_of(lambda: logits_of(module, few), x.device) > SLOW else x[:TIMED]


def _plans(graph: torch.fx.GraphModule, device: torch.device) -> Iterator[CopyPlan]:
    """Yield the plans that make a difference for a network, simplest first, all of eager inference."""
    filters = ("all", "live") if without_dead_filters(copy.deepcopy(graph)) else ("all",)
    able = has_bfloat16(device) and in_float32(graph) and mixed(copy.deepcopy(graph))
    for precision, layout, kept in product(
        ("float32", "bfloat16") if able else ("float32",), LAYOUTS, filters
    ):
        yield CopyPlan(layout, precision, filters=kept)


def _further(graph: torch.fx.GraphModule, plan: CopyPlan, device: torch.device) -> Iterator[CopyPlan]:
    """Yield what may be faster yet than the fastest of `_plans`."""
    if device.type == "cuda":
        yield replace(plan, inference="compiled")
    net = copy.deepcopy(graph)
    if plan.filters == "live":  # which makes layers narrow
        without_dead_filters(net)
    if device.type == "cpu" and with_shuffled_gradients(net):
        for layout in LAYOUTS:
            yield replace(plan, layout=layout, strided="shuffled")


def _copies(
    module: nn.Module, graph: torch.fx.GraphModule, plans: Iterable[CopyPlan], exact: Answers
) -> dict[CopyPlan, nn.Module]:
    """Return the copies that agree with the module's answers, by their plans."""
    return {plan: net for plan in plans if (net := _copy(module, graph, plan, exact)) is not None}


def _copy(module: nn.Module, graph: torch.fx.GraphModule, plan: CopyPlan, exact: Answers) -> nn.Module | None:
    """Return the copy of a plan, None where it does not agree with the module's answers."""
    net, inference = copy.deepcopy(graph), None
    if plan.filters == "live":
        without_dead_filters(net)
    if plan.precision == "bfloat16":
        mixed(net)
    if plan.inference == "frozen":
        inference = frozen_forward(net, exact.batches[0])
    if plan.strided == "shuffled":
        with_shuffled_gradients(net)
    if plan.layout == "none":
        fast: nn.Module | None = ForwardCopy(module, inference) if inference else None
    else:
        fast = FastCopy(net, plan.layout, inference)
    if fast is None:
        return None
    if plan.inference == "compiled":
        net.compile()
    return fast if agrees(fast, exact, coarse=plan.precision == "bfloat16") else None


def _fastest(
    module: nn.Module,
    copies: Mapping[CopyPlan, nn.Module],
    one_pass: Callable[[nn.Module], object],
    device: torch.device,
) -> tuple[CopyPlan, float]:
    """Return the plan of the fastest copy, and its share of the module's own time."""
    passes = [partial(one_pass, net) for net in (module, *copies.values())]
    own, *seconds = times(passes, device)
    best, least = None, 0.0
    for plan, taken in zip(copies, seconds, strict=True):
        if best is None or taken < GAIN * least:
            best, least = plan, taken
    assert best is not None
    return best, least / own
