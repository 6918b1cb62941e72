"""A network on one image's ball as a mixed-integer linear program (Tjeng et al., ICLR 2019).

By the bounds that are known stable ReLUs are linear, dead ones and those that no logit reads disappear, and
they are the big-M of the rest. Each row of an affine layer may be off by what the module's rounding may add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from .backward import Knowledge
from .network import Network
from .operations import Affine, MaxPool, ReLU, Sum
from .pullbacks import affine_matrix
from .windows import window_places, windows

Places = NDArray[np.int64]
Values = NDArray[np.float64]
ZERO = -1  # in place of a column: the value is 0 on the whole ball


@dataclass
class Program:
    """Columns and rows of a program: row_lower <= A z <= row_upper, lower <= z <= upper, some z integral."""

    lower: list[Values] = field(default_factory=list)
    upper: list[Values] = field(default_factory=list)
    integral: list[Values] = field(default_factory=list)
    row_lower: list[Values] = field(default_factory=list)
    row_upper: list[Values] = field(default_factory=list)
    entries: list[tuple[Places, Places, Values]] = field(default_factory=list)
    columns: int = 0
    rows: int = 0

    def add_columns(self, lower: Values, upper: Values, *, integral: bool = False) -> Places:
        """Add variables, and return their columns."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.integral.append(np.full(len(lower), float(integral)))
        self.columns += len(lower)
        return np.arange(self.columns - len(lower), self.columns)

    def add_rows(
        self, lower: Values | float, upper: Values | float, terms: Sequence[tuple[Places, Values | float]]
    ) -> None:
        """Add rows, one for each element of the columns in `terms`, which are summed times their factors."""
        count = len(terms[0][0])
        rows = np.arange(self.rows, self.rows + count)
        for columns, factors in terms:
            factors = np.broadcast_to(np.asarray(factors, dtype=float), (count,))
            there = columns != ZERO
            self.entries.append((rows[there], columns[there], factors[there]))
        self._bound_rows(lower, upper, count)

    def add_matrix(self, matrix: sparse.coo_matrix, inputs: Places, lower: Values, upper: Values) -> None:
        """Add the rows lower <= out − A in <= upper, with the columns `out` added last."""
        count = matrix.shape[0]
        out = np.arange(self.columns - count, self.columns)
        rows = np.arange(self.rows, self.rows + count)
        columns = inputs[matrix.col]
        there = columns != ZERO
        self.entries.append((self.rows + matrix.row[there], columns[there], -matrix.data[there]))
        self.entries.append((rows, out, np.ones(count)))
        self._bound_rows(lower, upper, count)

    def add_sums(self, rows: Places, columns: Places, count: int) -> None:
        """Add `count` rows in which the columns sum to 1, each in one of them."""
        self.entries.append((self.rows + rows, columns, np.ones(len(columns))))
        self._bound_rows(1.0, 1.0, count)

    def _bound_rows(self, lower: Values | float, upper: Values | float, count: int) -> None:
        self.row_lower.append(np.broadcast_to(np.asarray(lower, dtype=float), (count,)))
        self.row_upper.append(np.broadcast_to(np.asarray(upper, dtype=float), (count,)))
        self.rows += count

    def matrix(self) -> sparse.csc_matrix:
        """Return A."""
        rows, columns, values = (np.concatenate(parts) for parts in zip(*self.entries, strict=True))
        return sparse.csc_matrix((values, (rows, columns)), shape=(self.rows, self.columns))


def network_matrices(network: Network) -> dict[int, sparse.csr_matrix]:
    """Return the matrix of each affine layer by its place."""
    found = {}
    for place, node in enumerate(network.nodes):
        if isinstance(node.operation, Affine):
            matrix = affine_matrix(node.operation, network.nodes[node.inputs[0]].shape, node.shape).cpu()
            index = matrix.indices().numpy()
            found[place] = sparse.csr_matrix((matrix.values().numpy(), index), shape=tuple(matrix.shape))
    return found


class Encoding:
    """The program of one image; `logits` and `pixels` are the columns of these."""

    def __init__(self, known: Knowledge, matrices: Mapping[int, sparse.csr_matrix]) -> None:
        self.known, self.matrices, self.program = known, matrices, Program()
        self.needed = self._needed()
        self.columns: dict[int, Places] = {0: self._input()}
        for place, node in enumerate(known.network.nodes):
            if isinstance(node.operation, Affine):
                self.columns[place] = self._affine(place, self.matrices[place], self.columns[node.inputs[0]])
            elif isinstance(node.operation, Sum):
                self.columns[place] = self._sum(place)
            elif isinstance(node.operation, ReLU):
                self.columns[place] = self._relu(place)
            elif isinstance(node.operation, MaxPool):
                self.columns[place] = self._max_pool(place, node.operation)
        self.pixels, self.logits = self.columns[0], self.columns[len(known.network.nodes) - 1]

    def _bounds(self, place: int) -> tuple[Values, Values]:
        lower, upper = (_array(bound) for bound in self.known.bounds[place])
        return lower, upper

    def _needed(self) -> dict[int, NDArray[np.bool_]]:
        """Return which values of each layer some logit depends on."""
        nodes = self.known.network.nodes
        needed = {place: np.zeros(int(np.prod(node.shape)), dtype=bool) for place, node in enumerate(nodes)}
        needed[len(nodes) - 1][:] = True
        for place in range(len(nodes) - 1, 0, -1):
            node, asked = nodes[place], needed[place]
            source = node.inputs[0]
            if isinstance(node.operation, Affine):
                needed[source] |= abs(self.matrices[place]).T @ asked.astype(float) > 0
            elif isinstance(node.operation, Sum):
                for each in node.inputs:
                    needed[each] |= asked
            elif isinstance(node.operation, ReLU):
                needed[source] |= asked & (self._bounds(source)[1] > 0)
            elif isinstance(node.operation, MaxPool):
                places, may = self._window_candidates(place, node.operation)
                needed[source][places[may & asked[:, None]]] = True
        return needed

    def _input(self) -> Places:
        """Add the pixels of the ball: Linf by their bounds, L1 by how far each goes up and down."""
        region, (lower, upper) = self.known.region, self._bounds(0)
        pixels = self.program.add_columns(lower, upper)
        if region.norm == "L1":
            x = _array(region.x)
            up = self.program.add_columns(np.zeros_like(x), upper - x)
            down = self.program.add_columns(np.zeros_like(x), x - lower)
            self.program.add_rows(x, x, [(pixels, 1.0), (up, -1.0), (down, 1.0)])
            both = np.concatenate([up, down])
            self.program.entries.append((np.full(len(both), self.program.rows), both, np.ones(len(both))))
            self.program._bound_rows(-np.inf, region.eps, 1)
        return pixels

    def _new(self, place: int) -> tuple[Places, NDArray[np.bool_]]:
        """Add columns for a layer's values that are needed; return those of all values, and which are."""
        lower, upper = self._bounds(place)
        asked = self.needed[place]
        columns = np.full(len(asked), ZERO)
        columns[asked] = self.program.add_columns(lower[asked], upper[asked])
        return columns, asked

    def _affine(self, place: int, matrix: sparse.csr_matrix, inputs: Places) -> Places:
        operation, shape = self.known.network.nodes[place].operation, self.known.network.nodes[place].shape
        assert isinstance(operation, Affine)
        offset = np.zeros(matrix.shape[0])
        if operation.offset is not None:
            offset = _array(operation.offset.expand(shape))
        rounding = self._rounding(place)
        columns, asked = self._new(place)
        lower, upper = (offset - rounding)[asked], (offset + rounding)[asked]
        self.program.add_matrix(matrix[asked].tocoo(), inputs, lower, upper)
        return columns

    def _sum(self, place: int) -> Places:
        first, second = (self.columns[source] for source in self.known.network.nodes[place].inputs)
        columns, asked = self._new(place)
        rounding = self._rounding(place)[asked]
        terms = [(columns[asked], 1.0), (first[asked], -1.0), (second[asked], -1.0)]
        self.program.add_rows(-rounding, rounding, terms)
        return columns

    def _rounding(self, place: int) -> Values:
        found = self.known.rounding.get(place)
        size = int(np.prod(self.known.network.nodes[place].shape))
        return np.zeros(size) if found is None else _array(found)

    def _relu(self, place: int) -> Places:
        source = self.known.network.nodes[place].inputs[0]
        if self.known.network.pool_after(place) is not None:
            return self.columns[source]  # the max pool takes the zero among its inputs
        lower, upper = self._bounds(source)
        before, asked = self.columns[source], self.needed[place]
        columns = np.where(asked & (lower >= 0), before, ZERO)
        unstable = asked & (lower < 0) & (upper > 0)
        low, high, inputs = lower[unstable], upper[unstable], before[unstable]
        out = self.program.add_columns(np.zeros_like(high), high)
        on = self._choices(len(high))
        self.program.add_rows(0.0, np.inf, [(out, 1.0), (inputs, -1.0)])
        self.program.add_rows(-np.inf, 0.0, [(out, 1.0), (on, -high)])
        self.program.add_rows(-np.inf, -low, [(out, 1.0), (inputs, -1.0), (on, -low)])
        columns[unstable] = out
        return columns

    def _window_candidates(self, place: int, pool: MaxPool) -> tuple[Places, NDArray[np.bool_]]:
        """Return the places of each window's values (windows, values), and which may be the largest."""
        lower, upper = self.known.bounds[self.known.network.nodes[place].inputs[0]]
        low, high = windows(pool, lower, -torch.inf), windows(pool, upper, -torch.inf)
        most, leader = low.max(2, keepdim=True)
        may = (high > most).scatter(2, leader, True)
        places = window_places(pool, lower)
        flat = [found[0].movedim(1, 2).flatten(0, 1).cpu().numpy() for found in (places, may)]
        return flat[0], flat[1]

    def _max_pool(self, place: int, pool: MaxPool) -> Places:
        """Add the largest of each window; of ReLUs that only it reads, the largest of inputs and zero."""
        network, source = self.known.network, self.known.network.nodes[place].inputs[0]
        rectified = (
            isinstance(network.nodes[source].operation, ReLU) and network.pool_after(source) is not None
        )
        before, (places, may) = self.columns[source], self._window_candidates(place, pool)
        lower, upper = self._bounds(network.nodes[source].inputs[0] if rectified else source)
        asked, columns = self.needed[place], np.full(len(may), ZERO)
        if rectified:
            may = may & (upper[places] > 0)
        some_positive: NDArray[np.bool_] = np.any(np.where(may, lower[places], -np.inf) >= 0, axis=1)
        has_zero = ~some_positive if rectified else np.zeros_like(some_positive)
        count = may.sum(1)
        alone = asked & (count == 1) & ~has_zero
        columns[alone] = before[places[alone][may[alone]]]
        several = np.flatnonzero(asked & (count > 0) & ~alone)
        low, high = (bound[several] for bound in self._bounds(place))
        columns[several] = self.program.add_columns(low, high)
        window, index = np.nonzero(may[several])
        out, value = columns[several][window], places[several[window], index]
        room = high[window] - lower[value]
        chosen = self._choices(len(window))
        self.program.add_rows(0.0, np.inf, [(out, 1.0), (before[value], -1.0)])
        self.program.add_rows(-np.inf, room, [(out, 1.0), (before[value], -1.0), (chosen, room)])
        zeros = np.flatnonzero(has_zero[several])
        zero = self._choices(len(zeros))
        self.program.add_rows(-np.inf, high[zeros], [(columns[several][zeros], 1.0), (zero, high[zeros])])
        self.program.add_sums(np.concatenate([window, zeros]), np.concatenate([chosen, zero]), len(several))
        return columns

    def _choices(self, count: int) -> Places:
        return self.program.add_columns(np.zeros(count), np.ones(count), integral=True)


def _array(values: Tensor) -> Values:
    found: Values = values.detach().double().cpu().flatten().numpy()
    return found
