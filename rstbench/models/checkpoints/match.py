"""Match the tensors of a file to those of a network, by name or by order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ...errors import BadRequest, listed
from .differences import ArchitectureMismatch, UnexpectedTensors, difference, refuse_quantized
from .formats import OWN_CODE
from .layer_names import OWN, NamingScheme
from .layer_order import core_shape, is_counter, is_sequential, layers_of, match_in_order, without_wrappers
from .masks import equal, masked_name
from .normalisers import mean_std_pairs, without_normalisation

MOST_PREFIXES = 8  # that a person is told to type


@dataclass(frozen=True)
class MatchOptions:
    """How the tensors of a file may be matched.

    prefix: only tensors under it count; without: names, or prefixes up to a dot, of tensors to ignore, joined
    by '+'; normalize: the normalisation that is put before the network, None where that comes later; order:
    whether tensors may be matched by their order; ordered: whether the file has one; schemes: names of
    public code to try; network: its name in messages; ambiguity: see `select.StoredNetwork`.
    """

    prefix: str = ""
    without: str = ""
    normalize: str | None = ""
    order: bool = False
    ordered: bool = True
    schemes: Sequence[NamingScheme] = (OWN,)
    network: str = "network"
    ambiguity: str = ""


@dataclass(frozen=True)
class Match:
    """A matched network.

    names: our name -> the file's; options: that say what was ignored; by_order: whether only the order of the
    tensors told; question: what the user has to say besides, see `NamingScheme`.
    """

    names: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)
    by_order: bool = False
    question: str = ""


@dataclass(frozen=True)
class _Candidate:
    """A complete network in a file: its prefix, our names -> the file's, the scheme of these."""

    prefix: str
    names: dict[str, str]
    scheme: NamingScheme

    @property
    def unused(self) -> tuple[str, ...]:
        """The prefixes of tensors that the scheme's code never uses."""
        return tuple(f"{self.prefix}{start}" for start in self.scheme.unused)


def match_tensors(module: nn.Module, state: Mapping[str, Tensor], what: str, options: MatchOptions) -> Match:
    """Find the tensor of the file for each tensor of the network.

    Raises BadRequest where the file does not hold the complete network, holds several different ones, or
    other tensors that no option accounts for; the text says what to add.
    """
    if not options.ambiguity:
        return _match(module, state, what, options)
    for names in _joined_names(state):
        try:
            match = _match(module, {name: state[stored] for name, stored in names.items()}, what, options)
        except BadRequest:
            continue
        return replace(match, names={name: names[joined] for name, joined in match.names.items()})
    raise BadRequest(options.ambiguity)


def _joined_names(state: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Yield {name in one network: name in the file} for a network that may be saved in parts.

    The names come with those of all parts, without them, and without that of each part.
    """
    parts = dict.fromkeys(name.partition(".")[0] for name in state if "." in name)
    for removed in ((), (*parts,), *((part,) for part in parts)):
        names = {(n.partition(".")[2] if n.partition(".")[0] in removed else "") or n: n for n in state}
        if len(names) == len(state):
            yield names


def _match(module: nn.Module, state: Mapping[str, Tensor], what: str, options: MatchOptions) -> Match:
    own = module.state_dict()
    refuse_quantized(state, what)
    candidates = list(_candidates(own, state, options.schemes))
    if not candidates:
        if match := _match_by_order(module, own, state, what, options):
            return match
        raise ArchitectureMismatch(f"{what}: {difference(own, state, options.schemes)}")
    chosen = candidates[0]
    others = [other for other in candidates[1:] if other.prefix != chosen.prefix]
    if not all(_equal_weights(state, chosen, other) for other in others):
        prefixes = [candidate.prefix for candidate in (chosen, *others)]
        places = [f"'{prefix}'" if prefix else "no prefix" for prefix in prefixes]
        name = next(filter(None, prefixes))
        raise BadRequest(
            f"{what}: under {' and '.join(places)} is a whole {options.network}, with other weights; "
            f"name one, [prefix={name}]" + ("" if all(prefixes) else f" or [without={name.rstrip('.')}]")
        )
    copies = {name for other in others for name in other.names.values()}
    used = {*chosen.names.values(), *copies}
    rest = [name for name in state if name not in used and not is_counter(name)]
    rest = without_normalisation(rest, state, what, options.normalize)
    unused = [name for name in rest if name.startswith(chosen.unused)]
    if unexpected := {name: state[name] for name in rest if name not in unused}:
        raise _unexpected(unexpected, chosen, what, options)
    found = {"prefix": chosen.prefix} if copies and chosen.prefix and not options.prefix else {}
    if unused:
        found["without"] = "+".join(dict.fromkeys(_foreign_prefix(name, chosen) for name in unused))
    return Match(chosen.names, found, question=chosen.scheme.question)


def contains_network(
    module: nn.Module, state: Mapping[str, Tensor], options: MatchOptions, *, alone: bool = False
) -> bool:
    """Whether a file holds a complete network, by name or, where that is allowed, by order.

    alone: and no tensor that would be unexpected.
    """
    own = module.state_dict()
    for candidate in _candidates(own, state, options.schemes):
        rest = {name for name in state if not is_counter(name)} - set(candidate.names.values())
        rest -= _in_pairs(rest)
        if not alone or all(name.startswith(candidate.unused) for name in rest):
            return True
    if not options.ordered or not (options.order or is_sequential(module)):
        return False
    norms = _in_pairs(state)
    return match_in_order(own, {n: tensor for n, tensor in state.items() if n not in norms}) is not None


def select_tensors(state: Mapping[str, Tensor], what: str, options: MatchOptions) -> dict[str, Tensor]:
    """Return the tensors that `prefix` and `without` leave, with masks on them and normalisations.

    Raises BadRequest where an option names no tensor.
    """
    selected = dict(state)
    for start in filter(None, options.without.split("+")):
        ignored = {name for name in selected if _has_prefix(name, start)}
        ignored = ignored or {name for name in selected if _has_prefix(name, without_wrappers(start))}
        if not ignored:
            raise BadRequest(
                f"{what}: no tensor of the file is named {start!r} or begins with it: {listed(selected)}"
            )
        selected = {name: tensor for name, tensor in selected.items() if name not in ignored}
    if options.prefix:
        prefix = options.prefix.rstrip(".")
        inside = {name for name in selected if name.startswith(f"{prefix}.")}
        if not inside and (plain := without_wrappers(prefix)) != prefix:
            inside = {name for name in selected if name.startswith(f"{plain}." if plain else "")}
        if not inside:
            raise BadRequest(f"{what}: no tensor of the file begins with '{prefix}.': {listed(selected)}")
        inside |= {name for name in selected if masked_name(name, selected) in inside} | _in_pairs(selected)
        selected = {name: tensor for name, tensor in selected.items() if name in inside}
    return selected


def _in_pairs(names: Iterable[str]) -> set[str]:
    """Return the names of means and deviations among others."""
    return {name for pair in mean_std_pairs(list(names)) for name in pair}


def _has_prefix(name: str, prefix: str) -> bool:
    return bool(prefix) and (name == prefix or name.startswith(f"{prefix.rstrip('.')}."))


def _candidates(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], schemes: Sequence[NamingScheme]
) -> Iterator[_Candidate]:
    """Yield each prefix under which a file has every tensor of a network in its shape.

    Layers with more tensors than the network's are other layers.
    """
    required = [name for name in own if not is_counter(name)]
    layers = layers_of(state)
    for scheme in schemes:
        renamed = {name: scheme.rename(name) for name in own}
        first = renamed[required[0]] if required else ""
        for stored in state if first else ():
            prefix = stored.removesuffix(first)
            if not stored.endswith(first) or (prefix and not prefix.endswith(".")):
                continue
            names = {name: prefix + renamed[name] for name in own}
            if not all(
                names[n] in state and core_shape(state[names[n]]) == core_shape(own[n]) for n in required
            ):
                continue
            used, top = set(names.values()), prefix.rstrip(".")
            if not any(
                0 < len(used & set(layer.values())) < len(layer) for n, layer in layers.items() if n != top
            ):
                yield _Candidate(prefix, {n: name for n, name in names.items() if name in state}, scheme)


def _equal_weights(state: Mapping[str, Tensor], one: _Candidate, other: _Candidate) -> bool:
    names = [name for name in one.names if not is_counter(name)]
    return all(equal(state[one.names[name]], state[other.names[name]]) for name in names)


def _match_by_order(
    module: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    what: str,
    options: MatchOptions,
) -> Match | None:
    """Match layers by their order.

    In a plain sequence the order is the function; networks with branches may share it, so there the user has
    to say so.
    """
    if not options.ordered:
        return None
    state = {n: state[n] for n in without_normalisation(list(state), state, what, options.normalize)}
    names = match_in_order(own, state)
    if names is None:
        for start in dict.fromkeys(name.partition(".")[0] for name in state):
            inside = {name: tensor for name, tensor in state.items() if name.startswith(f"{start}.")}
            rest = {name: tensor for name, tensor in state.items() if name not in inside}
            for part, other, helps in (
                (inside, rest, f"prefix={start}."),
                (rest, inside, f"without={start}"),
            ):
                if match_in_order(own, part) is not None and other:
                    raise BadRequest(
                        f"{what}: the tensors of {options.network} are in the file, in their order, beside "
                        f"{listed(other)}; where it does not use that, add [{helps}]"
                    )
        return None
    if not options.order and not is_sequential(module):
        raise BadRequest(
            f"{what}: the names of the file are of no known layout of {options.network} "
            f"({listed(state)}), though its tensors fit in their order; where its layers are connected "
            f"alike, add [match=order]"
        )
    return Match(names, by_order=True)


def _unexpected(
    unexpected: Mapping[str, Tensor], candidate: _Candidate, what: str, options: MatchOptions
) -> BadRequest:
    """Make the error for a complete network with unexpected tensors."""
    where = f"under {candidate.prefix!r}" if candidate.prefix else "in the file"
    problem = f"{what}: {where} is the whole {options.network}; left over: {listed(unexpected)}"
    prefixes = list(dict.fromkeys(_foreign_prefix(name, candidate) for name in unexpected))
    if any(_continues_blocks(prefix, candidate) for prefix in prefixes):
        return ArchitectureMismatch(f"{problem}, further blocks of a deeper network")
    unless_used = "where the network does not use that, add"
    if candidate.prefix and not any(name.startswith(candidate.prefix) for name in unexpected):
        # One value, or one a channel, may be what the images are normalised by.
        small = all(tensor.numel() <= 4 for tensor in unexpected.values())
        norms = f"; where it normalises by that, [normalize=MEAN/STD] too, or {OWN_CODE}" if small else ""
        return UnexpectedTensors(problem, f"{unless_used} [prefix={candidate.prefix}]{norms}")
    if len(prefixes) > MOST_PREFIXES:
        return UnexpectedTensors(problem, OWN_CODE)
    return UnexpectedTensors(problem, f"{unless_used} [without={'+'.join(prefixes)}]")


def _continues_blocks(prefix: str, candidate: _Candidate) -> bool:
    """Whether a prefix is of a block that follows numbered ones of the network."""
    parent, _, number = prefix.removeprefix(candidate.prefix).rpartition(".")
    inside = f"{candidate.prefix}{parent}." if parent else candidate.prefix
    return number.isdigit() and prefix.startswith(candidate.prefix) and any(
        own.startswith(inside) and own.removeprefix(inside).partition(".")[0].isdigit()
        for own in candidate.names.values()
    )  # fmt: skip


def _foreign_prefix(name: str, candidate: _Candidate) -> str:
    """Return the shortest prefix of a name, up to a dot, that no tensor of the network has."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count])
        if not any(own == prefix or own.startswith(f"{prefix}.") for own in candidate.names.values()):
            return prefix
    return name
