"""Whose tensor is whose: the names of a file's tensors against those of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ...errors import BadRequest, listed
from .differences import difference, refuse_quantised
from .formats import OWN_CODE
from .layer_names import OWN, Layout
from .layer_order import core, in_order, is_counter, is_stack, layers_of, unwrapped
from .masks import mask_target, same
from .normalisers import pairs, without_normalisers

MOST_STARTS = 8  # of names to be typed


class DoesNotFit(BadRequest):
    """A file that does not hold the network that was asked for; problem: what differs."""

    def __init__(self, problem: str, helps: str = OWN_CODE) -> None:
        super().__init__(f"{problem}; choose another arch, or {helps}")
        self.problem = problem


class LeftOver(BadRequest):
    """A file that holds the network, and something else that may take part; problem: what."""

    def __init__(self, problem: str, helps: str) -> None:
        super().__init__(f"{problem}; {helps}")
        self.problem = problem


@dataclass(frozen=True)
class Wanted:
    """What a user says about the names: prefix: only tensors under it are meant; without: names, or
    beginnings up to a dot, of what takes no part; normalize: the normalisation that is put before the
    network, None where it is put there later; order: whether tensors may be matched by their order; ordered:
    whether the file has one; layouts: names of public code to be tried; network: what to call it; unclear:
    of a network that may be saved in parts, what to say where it is not, see `Found`."""

    prefix: str = ""
    without: str = ""
    normalize: str | None = ""
    order: bool = False
    ordered: bool = True
    layouts: Sequence[Layout] = (OWN,)
    network: str = "network"
    unclear: str = ""


@dataclass(frozen=True)
class Fit:
    """names: our name -> the file's; told: options that say what was left out; by_order: whether only the
    order of the tensors told; asks: what a user has to say besides, see `Layout`."""

    names: dict[str, str]
    told: dict[str, str] = field(default_factory=dict)
    by_order: bool = False
    asks: str = ""


@dataclass(frozen=True)
class _Whole:
    """A whole network in a file: where, under which names."""

    prefix: str
    names: dict[str, str]
    layout: Layout

    @property
    def unused(self) -> tuple[str, ...]:
        """How the names of what the layout never calls begin."""
        return tuple(f"{self.prefix}{start}" for start in self.layout.unused)


def fit(module: nn.Module, state: Mapping[str, Tensor], what: str, wanted: Wanted) -> Fit:
    """The tensor of the file for each of the network's.

    state: as the file has it, decoded. Raises BadRequest where the file does not hold the network whole,
    holds several different ones, or something that nobody accounts for; the text says what to add.
    """
    if not wanted.unclear:
        return _fit(module, state, what, wanted)
    for names in _as_parts(state):
        try:
            found = _fit(module, {name: state[place] for name, place in names.items()}, what, wanted)
        except BadRequest:
            continue
        return replace(found, names={name: names[place] for name, place in found.names.items()})
    raise BadRequest(wanted.unclear)


def _as_parts(state: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """The names that tensors may have in one network saved in parts, the file's by them: with the names of
    the parts, without them, and without that of one."""
    tops = dict.fromkeys(name.partition(".")[0] for name in state if "." in name)
    for bare in ((), (*tops,), *((top,) for top in tops)):
        names = {(n.partition(".")[2] if n.partition(".")[0] in bare else "") or n: n for n in state}
        if len(names) == len(state):
            yield names


def _fit(module: nn.Module, state: Mapping[str, Tensor], what: str, wanted: Wanted) -> Fit:
    own = module.state_dict()
    refuse_quantised(state, what)
    wholes = list(_wholes(own, state, wanted.layouts))
    if not wholes:
        if found := _by_order(module, own, state, what, wanted):
            return found
        raise DoesNotFit(f"{what}: {difference(own, state, wanted.layouts)}")
    chosen = wholes[0]
    others = [whole for whole in wholes[1:] if whole.prefix != chosen.prefix]
    if not all(_alike(state, chosen, other) for other in others):
        places = [f"'{whole.prefix}'" if whole.prefix else "no prefix" for whole in (chosen, *others)]
        name = next(whole.prefix for whole in (chosen, *others) if whole.prefix)
        raise BadRequest(
            f"{what}: under {' and '.join(places)} is a whole {wanted.network}, with other weights; "
            f"name one, [prefix={name}]" + ("" if all(whole.prefix for whole in (chosen, *others)) else
                                  f" or [without={name.rstrip('.')}]")
        )  # fmt: skip
    copies = {name for whole in others for name in whole.names.values()}
    used = {*chosen.names.values(), *copies}
    left = [name for name in state if name not in used and not is_counter(name)]
    left = without_normalisers(left, state, what, wanted.normalize)
    dropped = [name for name in left if name.startswith(chosen.unused)]
    left = [name for name in left if name not in dropped]
    if left:
        raise _left_over(state, left, chosen, what, wanted)
    told = {"prefix": chosen.prefix} if copies and chosen.prefix and not wanted.prefix else {}
    if dropped:
        told["without"] = "+".join(dict.fromkeys(_start(name, chosen) for name in dropped))
    return Fit(chosen.names, told, asks=chosen.layout.asks)


def holds(module: nn.Module, state: Mapping[str, Tensor], wanted: Wanted, *, alone: bool = False) -> bool:
    """Whether a file holds a network whole, by name or, where that may be, by order; alone: and nothing that
    the network would leave over."""
    own = module.state_dict()
    for whole in _wholes(own, state, wanted.layouts):
        left = {name for name in state if not is_counter(name)} - set(whole.names.values())
        left -= {name for pair in pairs(list(left)) for name in pair}
        if not alone or all(name.startswith(whole.unused) for name in left):
            return True
    if not wanted.ordered or not (wanted.order or is_stack(module)):
        return False
    norms = {name for pair in pairs(list(state)) for name in pair}
    return in_order(own, {name: tensor for name, tensor in state.items() if name not in norms}) is not None


def meant(state: Mapping[str, Tensor], what: str, wanted: Wanted) -> dict[str, Tensor]:
    """The tensors that a user's options leave. Masks on them stay, wherever they are, and normalisers, for
    which `normalize` answers."""
    kept = dict(state)
    for start in filter(None, wanted.without.split("+")):
        gone = {name for name in kept if _begins(name, start)} or {
            name for name in kept if _begins(name, unwrapped(start))
        }
        if not gone:
            raise BadRequest(
                f"{what}: no tensor of the file is named {start!r} or begins with it: {listed(kept)}"
            )
        kept = {name: tensor for name, tensor in kept.items() if name not in gone}
    if wanted.prefix:
        prefix = wanted.prefix.rstrip(".")
        inside = {name for name in kept if name.startswith(f"{prefix}.")}
        if not inside and (plain := unwrapped(prefix)) != prefix:
            inside = {name for name in kept if name.startswith(f"{plain}." if plain else "")}
        if not inside:
            raise BadRequest(f"{what}: no tensor of the file begins with '{prefix}.': {listed(kept)}")
        stay = inside | {name for pair in pairs(list(kept)) for name in pair}
        stay |= {name for name in kept if mask_target(name, kept) in inside}
        kept = {name: tensor for name, tensor in kept.items() if name in stay}
    return kept


def _begins(name: str, start: str) -> bool:
    return bool(start) and (name == start or name.startswith(f"{start.rstrip('.')}."))


def _wholes(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], layouts: Sequence[Layout]
) -> Iterator[_Whole]:
    """Every place of a file under which each tensor of a network lies, with its shape, and whose layers have
    no other tensors: a layer with more is another one."""
    needed = [name for name in own if not is_counter(name)]
    layers = layers_of(state)
    for layout in layouts:
        theirs = {name: layout.theirs(name) for name in own}
        first = theirs[needed[0]] if needed else ""
        for found in state if first else ():
            prefix = found.removesuffix(first)
            if not found.endswith(first) or (prefix and not prefix.endswith(".")):
                continue
            names = {name: prefix + theirs[name] for name in own}
            if not all(names[n] in state and core(state[names[n]]) == core(own[n]) for n in needed):
                continue
            used, top = set(names.values()), prefix.rstrip(".")
            if not any(
                0 < len(used & set(layer.values())) < len(layer) for n, layer in layers.items() if n != top
            ):
                yield _Whole(prefix, {n: place for n, place in names.items() if place in state}, layout)


def _alike(state: Mapping[str, Tensor], one: _Whole, other: _Whole) -> bool:
    return all(
        same(state[place], state[other.names[name]])
        for name, place in one.names.items()
        if not is_counter(name)
    )


def _by_order(
    module: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str, wanted: Wanted
) -> Fit | None:
    """Layers matched in their order. In a plain stack the order is the function; in a network with branches
    others may share it, so the user has to say so."""
    if not wanted.ordered:
        return None
    plain = without_normalisers(list(state), state, what, wanted.normalize)
    state = {name: state[name] for name in plain}
    names = in_order(own, state)
    if names is None:
        for start in dict.fromkeys(name.partition(".")[0] for name in state):
            inside = {name: tensor for name, tensor in state.items() if name.startswith(f"{start}.")}
            rest = {name: tensor for name, tensor in state.items() if name not in inside}
            for part, left, helps in ((inside, rest, f"prefix={start}."), (rest, inside, f"without={start}")):
                if in_order(own, part) is not None and left:
                    raise BadRequest(
                        f"{what}: the tensors of {wanted.network} are in the file, in their order, beside "
                        f"{listed(left)}; where it does not use that, add [{helps}]"
                    )
        return None
    if not wanted.order and not is_stack(module):
        raise BadRequest(
            f"{what}: the names of the file are of no known layout of {wanted.network} "
            f"({listed(state)}), though its tensors fit in their order; where its layers are connected "
            f"alike, add [match=order]"
        )
    return Fit(names, by_order=True)


def _left_over(
    state: Mapping[str, Tensor], left: Sequence[str], whole: _Whole, what: str, wanted: Wanted
) -> BadRequest:
    """What to say of a whole network with something beside it."""
    where = f"under {whole.prefix!r}" if whole.prefix else "in the file"
    problem = f"{what}: {where} is the whole {wanted.network}; left over: {listed(left)}"
    starts = list(dict.fromkeys(_start(name, whole) for name in left))
    if any(_goes_on(start, whole) for start in starts):
        return DoesNotFit(f"{problem}, further blocks of a deeper network")
    if whole.prefix and not any(name.startswith(whole.prefix) for name in left):
        # One value, or one a channel, may be what the images are normalised by.
        small = all(state[name].numel() <= 4 for name in left)
        norms = f"; where it normalises by that, [normalize=MEAN/STD] too, or {OWN_CODE}" if small else ""
        return LeftOver(problem, f"where the network does not use that, add [prefix={whole.prefix}]{norms}")
    if len(starts) > MOST_STARTS:
        return LeftOver(problem, OWN_CODE)
    return LeftOver(problem, f"where the network does not use that, add [without={'+'.join(starts)}]")


def _goes_on(start: str, whole: _Whole) -> bool:
    """Whether a name is of a block that follows numbered ones of the network."""
    parent, _, number = start.removeprefix(whole.prefix).rpartition(".")
    inside = f"{whole.prefix}{parent}." if parent else whole.prefix
    return number.isdigit() and start.startswith(whole.prefix) and any(
        own.startswith(inside) and own.removeprefix(inside).partition(".")[0].isdigit()
        for own in whole.names.values()
    )  # fmt: skip


def _start(name: str, whole: _Whole) -> str:
    """The shortest beginning of a name, up to a dot, that no tensor of the network has."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        start = ".".join(parts[:count])
        if not any(own == start or own.startswith(f"{start}.") for own in whole.names.values()):
            return start
    return name
