# SPDX-License-Identifier: MIT
r"""The exact operator: k agents that move independently by a stochastic matrix P.

.. math:: (W_P f)(c) = E\, f(C'), \qquad C' = \sum_j Multinomial(c_j, P_j)

is the k-th symmetric power of P on functions of histograms. Symmetric powers multiply,
W_{AB} = W_A W_B, so P is factored into elementary row operations "row i becomes d e_i + a e_j" and
each is applied by itself. It acts along the grid lines on which only (c_i, c_j) change: with
c_i + c_j = s and r = c_i,

.. math:: (W f)(r) = \sum_{q=0}^r \binom{r}{q} d^q a^{r-q} f(q).

The coefficients do not depend on the line. The work is about S^2 M k / S against M^2 for the
matrix, which is never built.

The factors are P = L U up to permutations of rows and columns, L unit lower triangular but for its
last row, row by row: R_i changes row i only, U = R_{S-2} ... R_0 and L = R_1 ... R_{S-1}. U moves
agents to later states only, and so does L when the states are counted backwards: between the two
the function is written backwards, so that each operation works on contiguous blocks (see
`_power_kernels`; against gathering the lines, this takes a third of the time at k = 50, S = 5).

Entries may be negative; rounding errors then grow like g^k with g = max_i (|L| |U| 1)_i, and the
permutations are chosen to keep g near 1. Each factorisation checks itself on functions with known
images: 1, linear and quadratic ones, and characters prod_j z_j^{c_j}, mapped to
prod_j (P z)_j^{c_j}. Where it fails, agents are convolved one after the other (no cancellation,
more work) or, on grids too large for that, successors are sampled; `method` says which.

======  ============  ==========  ==============================
symbol  name          shape       meaning
======  ============  ==========  ==============================
k       size          scalar      agents
S       n_states      scalar      states
M       n_points      scalar      histograms
B       lanes         scalar      functions mapped at once
======  ============  ==========  ==============================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _power_kernels as kernels
from kofn.controller.core._arguments import array_of, check_choice, check_seed, distribution, table
from kofn.controller.core.errors import InputError
from kofn.controller.core.grid import all_counts, binomials, check_grid, grid_points, rank
from kofn.controller.core.successors import sample_successors

if TYPE_CHECKING:
    from collections.abc import Callable

    from kofn.controller.core.game import FloatArray, IntArray

Method = Literal["factored", "convolution", "sampled"]

#: Relative error of the self-check above which a factorisation is not used.
CHECK_TOLERANCE = 1e-9

#: Elementary steps of one application above which convolution gives way to sampling.
CONVOLUTION_LIMIT = 2e9

#: Successors per histogram where an operator has to be sampled.
FALLBACK_SAMPLES = 16

#: Logarithm of the growth over all agents that costs no more than two digits.
_HARMLESS = math.log(100)

#: All pairs of row and column orders are searched up to this many states.
_FULL_SEARCH = 5


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Contiguous blocks along the grid lines of each pair of states, see `apply_elementary`."""

    starts: IntArray
    lengths: IntArray
    lines: IntArray
    pairs: IntArray
    rows: IntArray


@lru_cache(maxsize=4)
def grid_blocks(size: int, n_states: int) -> Blocks:
    """Return the blocks of a grid, for all pairs of states at once.

    The blocks of a pair (i, j) are themselves the points of a grid: of the states up to the later
    of the two and one that stands for all others.
    """
    starts, lengths, lines = [], [], [0]
    pairs = np.zeros((n_states, n_states, 3), dtype=np.int64)
    for i in range(n_states - 2):
        for j in range(i + 1, n_states - 1):
            within = j == n_states - 2  # then a block is a row, and j lies within it
            n_kept = j + 1 if within else j + 2
            kept = all_counts(size, n_kept)
            merged = kept.copy()
            merged[:, j] += merged[:, i]
            merged[:, i] = 0
            order = np.lexsort((kept[:, i], rank(merged)))
            kept = kept[order]
            # Line after line, c_i counting up from 0 along each.
            ends = np.append(np.flatnonzero(kept[:, i] == 0)[1:], len(kept))
            first_line = len(lines) - 1
            lines.extend((lines[-1] + ends).tolist())
            pairs[i, j] = first_line, len(lines) - 1, within
            starts.append(_first_points(kept, n_states))
            n_other = n_states - n_kept + 1
            points = [grid_points(rest, n_other) for rest in range(size + 1)]
            lengths.append(np.array(points, dtype=np.int64)[kept[:, -1]])
        pairs[i, n_states - 1] = *pairs[i, n_states - 2, :2], 0
    rows = _first_points(all_counts(size, n_states - 1), n_states)
    none = np.empty(0, dtype=np.int64)
    return Blocks(
        starts=np.concatenate([*starts, none]),
        lengths=np.concatenate([*lengths, none]),
        lines=np.array(lines, dtype=np.int64),
        pairs=pairs,
        rows=np.append(rows, grid_points(size, n_states)),
    )


def _first_points(kept: IntArray, n_states: int) -> IntArray:
    """Return the index of the first point whose leading coordinates are kept[:, :-1]."""
    points = np.zeros((len(kept), n_states), dtype=np.int64)
    points[:, : kept.shape[1] - 1] = kept[:, :-1]
    points[:, -1] = kept[:, -1]
    return rank(points)


@lru_cache(maxsize=8)
def _relabelled(size: int, order: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return, for each histogram c, the index of c[order]."""
    return rank(all_counts(size, len(order))[:, order]).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Operations:
    """Elementary operations in the order in which they act on functions."""

    i: IntArray
    j: IntArray
    d: FloatArray
    a: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """P as two sequences of elementary operations, each from a state to a later one.

    Position p of `upper` is column columns[p] of P; position p of `lower`, which acts second,
    is row rows[S - 1 - p].
    """

    upper: Operations
    lower: Operations
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    growth: float


def _eliminate(A: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Factor a batch of matrices (N, S, S) without pivoting; return L, U and the growth.

    A zero pivot above non-zero entries has no factorisation: its growth is infinite.
    """
    U = A.copy()
    n_states = A.shape[-1]
    L = np.broadcast_to(np.eye(n_states), A.shape).copy()
    possible = np.ones(len(A), dtype=bool)
    for p in range(n_states - 1):
        pivot = U[:, p, p][:, None]
        below = U[:, p + 1 :, p]
        possible &= ~((pivot == 0) & (below != 0)).any(axis=1)
        factor = np.divide(below, pivot, out=np.zeros_like(below), where=pivot != 0)
        L[:, p + 1 :, p] = factor
        U[:, p + 1 :, p + 1 :] -= factor[:, :, None] * U[:, None, p, p + 1 :]
        U[:, p + 1 :, p] = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        growth = (np.abs(L) @ np.abs(U)).sum(axis=-1).max(axis=-1)
    growth[~possible | ~np.isfinite(growth)] = np.inf
    return L, U, growth


@lru_cache(maxsize=8)
def _orders(n_states: int) -> IntArray:
    return np.array(list(permutations(range(n_states))), dtype=np.int64)


def _best_orders(P: FloatArray, size: int) -> tuple[IntArray, IntArray]:
    """Return orders of rows and columns whose growth is harmless, or the smallest found.

    Tried are: the states backwards; all common orders with large entries on the diagonal; all pairs
    of orders, for few states. Beyond 8 states complete pivoting takes their place.
    """
    n_states = len(P)
    natural = np.arange(n_states)
    # Backwards, because the last operations then end in the natural order.
    backwards = natural[::-1]
    if _harmless(_eliminate(P[None, ::-1, ::-1])[2][0], size):
        return backwards, backwards
    if n_states > 8:
        return _complete_pivoting(P)
    orders = _orders(n_states)
    with np.errstate(divide="ignore"):
        weight = np.log(P)[natural, orders].sum(axis=1)
    rows, columns = orders, orders[int(np.argmax(weight))][orders]
    growth = _eliminate(P[rows[:, :, None], columns[:, None, :]])[2]
    best = int(np.argmin(growth))
    if n_states <= _FULL_SEARCH and not _harmless(growth[best], size):
        rows, columns = np.repeat(orders, len(orders), axis=0), np.tile(orders, (len(orders), 1))
        growth = _eliminate(P[rows[:, :, None], columns[:, None, :]])[2]
        best = int(np.argmin(growth))
    return rows[best], columns[best]


def _harmless(growth: float, size: int) -> bool:
    return size * math.log(growth) <= _HARMLESS


def _complete_pivoting(P: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the orders in which the largest remaining entry is always the pivot."""
    A = P.copy()
    n_states = len(P)
    rows, columns = np.arange(n_states), np.arange(n_states)
    for p in range(n_states - 1):
        r, c = np.unravel_index(np.argmax(np.abs(A[p:, p:])), A[p:, p:].shape)
        for order, axis, q in ((rows, 0, p + int(r)), (columns, 1, p + int(c))):
            order[[p, q]] = order[[q, p]]
            A[...] = np.take(A, _swap(n_states, p, q), axis=axis)
        if A[p, p] != 0:
            A[p + 1 :] -= np.outer(A[p + 1 :, p] / A[p, p], A[p])
    return rows, columns


def _swap(size: int, p: int, q: int) -> IntArray:
    order = np.arange(size)
    order[[p, q]] = q, p
    return order


def factor(P: FloatArray, size: int) -> Factors:
    """Factor a stochastic matrix, shape (S, S), into elementary operations for `size` agents."""
    return _factor(P.tobytes(), len(P), size)


@lru_cache(maxsize=256)
def _factor(table: bytes, n_states: int, size: int) -> Factors:
    P = np.frombuffer(table, dtype=np.float64).reshape(n_states, n_states)
    rows, columns = _best_orders(P, size)
    L, U, growth = (x[0] for x in _eliminate(P[np.ix_(rows, columns)][None]))
    # The last row of U is D e_{S-1}; D is moved into the last row of L.
    L[-1, -1] = U[-1, -1]
    U[-1, -1] = 1.0
    return Factors(
        upper=_operations(U),
        lower=_operations(L[::-1, ::-1]),
        rows=tuple(rows.tolist()),
        columns=tuple(columns.tolist()),
        growth=float(growth),
    )


def _operations(U: FloatArray) -> Operations:
    """Return an upper triangular matrix, last entry 1, as elementary operations, row by row."""
    todo: list[tuple[int, int, float, float]] = []
    for i in range(len(U) - 1):
        d = float(U[i, i])
        targets = [j for j in range(i + 1, len(U)) if U[i, j] != 0]
        if not targets and d != 1:
            targets = [i + 1]
        # The operation that acts first carries d, zero or not.
        for position, j in enumerate(targets):
            todo.append((i, j, d if position == 0 else 1.0, float(U[i, j])))
    return Operations(
        i=np.array([o[0] for o in todo], dtype=np.int64),
        j=np.array([o[1] for o in todo], dtype=np.int64),
        d=np.array([o[2] for o in todo], dtype=np.float64),
        a=np.array([o[3] for o in todo], dtype=np.float64),
    )


@lru_cache(maxsize=2)
def _neighbour_table(size: int, n_states: int) -> tuple[npt.NDArray[np.int32], IntArray]:
    sizes = [grid_points(r, n_states) for r in range(size)]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    parts = [
        rank(all_counts(r, n_states)[:, None, :] + np.eye(n_states, dtype=np.int64))
        if r
        else rank(np.eye(n_states, dtype=np.int64))[None]
        for r in range(size)
    ]
    return np.concatenate(parts).astype(np.int32), offsets


class SymmetricPower:
    """W_P for one stochastic matrix and one number of agents.

    Parameters
    ----------
    P : array of shape (S, S)
        Stochastic matrix.
    size : int
        k, the number of agents.
    method : {"factored", "convolution", "sampled"}, optional
        Forces a method; by default the first of these that is accurate and affordable.
    seed : int
        For the sampled method.

    Attributes
    ----------
    method : str
        The method in use.
    growth : float
        The factorisation's a-priori error growth per agent.
    check_error : float
        Relative error of the self-check of the method in use (0 by construction if sampled).
    """

    def __init__(
        self, P: npt.ArrayLike, size: int, *, method: Method | None = None, seed: int = 0
    ) -> None:
        self.P = distribution("P", P, 2)
        if self.P.shape[0] != self.P.shape[1]:
            raise InputError(f"P has shape {self.P.shape}, but must be square")
        self.n_states, self._seed = len(self.P), check_seed(seed)
        self.n_points = check_grid(size, self.n_states)
        self.size = int(size)
        if method is not None:
            check_choice("method", method, get_args(Method))
        self.growth, self.check_error = 1.0, 0.0
        self.method: Method = method or "factored"
        self._successors: npt.NDArray[np.int32] | None = None
        if self.n_states == 1:
            return
        if self.method == "factored":
            factors = factor(self.P, self.size)
            self._factors, self._blocks = factors, grid_blocks(self.size, self.n_states)
            # Functions enter and leave renamed; in between they are written backwards.
            back = range(self.n_states)[::-1]
            self._reverse = _relabelled(self.size, tuple(back))
            enter = tuple(np.argsort(factors.columns).tolist())
            leave = tuple(factors.rows[p] for p in back)
            natural = tuple(range(self.n_states))
            self._enter = None if enter == natural else _relabelled(self.size, enter)
            self._leave = None if leave == natural else _relabelled(self.size, leave)
            self.growth = factors.growth
            self.check_error = self._check()
            if method is None and not self.check_error <= CHECK_TOLERANCE:
                work = self.n_states * math.comb(
                    self.size + 2 * self.n_states - 1, 2 * self.n_states - 1
                )
                self.method = "convolution" if work <= CONVOLUTION_LIMIT else "sampled"
                self.check_error = self._check() if self.method == "convolution" else 0.0
        if self.method == "sampled":
            self._successors = sample_successors(self.P, self.size, FALLBACK_SAMPLES, seed)

    def apply(self, values: npt.ArrayLike) -> FloatArray:
        """Return W f for functions on the grid, shape (M,) or (M, B)."""
        f = array_of("functions", values)
        if f.shape[:1] != (self.n_points,) or f.ndim > 2:
            raise InputError(
                f"functions have shape {f.shape}, but the grid asks for ({self.n_points}, B)"
            )
        flat = table("functions", f, f.ndim).reshape(self.n_points, -1)
        self.apply_in_place(flat)
        return flat.reshape(f.shape)

    def apply_in_place(self, values: FloatArray) -> None:
        """Replace functions, a C-contiguous float64 array of shape (M, B), by their images."""
        self.apply_to(values.copy(), 0, values)

    def apply_to(self, values: FloatArray, lane: int, out: FloatArray) -> None:
        """Write the images of values[:, lane : lane + B'] to `out`: shapes (M, B) and (M, B')."""
        lanes = out.shape[1]
        if self.n_states == 1:
            out[...] = values[:, lane : lane + lanes]
        elif self.method == "convolution":
            neighbours, offsets = _neighbour_table(self.size, self.n_states)
            table = np.array(binomials(self.size, self.n_states))
            f = np.ascontiguousarray(values[:, lane : lane + lanes])
            out[...] = kernels.convolve(f, self.P, self.size, table, neighbours, offsets)
        elif self._successors is not None:
            kernels.average_successors(values, lane, self._successors, out)
        else:
            if self._enter is None:
                out[...] = values[:, lane : lane + lanes]
            else:
                kernels.gather(values, lane, self._enter, out)
            self._operate(kernels.apply_elementary, self._factors.upper, out)
            kernels.exchange(out, self._reverse)
            self._operate(kernels.apply_elementary, self._factors.lower, out)
            if self._leave is not None:
                kernels.gather(out.copy(), 0, self._leave, out)

    def push(self, measure: FloatArray) -> FloatArray:
        """Return the law of C' when c has the given law: the adjoint of `apply`, shape (M, B).

        Exact for the factored method; by sampled successors for the others.
        """
        out = np.array(measure, dtype=np.float64, order="C")
        if self.n_states == 1:
            return out
        if self.method != "factored":
            moved = np.zeros_like(out)
            successors = self._successors
            if successors is None:
                successors = sample_successors(self.P, self.size, FALLBACK_SAMPLES, self._seed)
            for column in successors.T:
                np.add.at(moved, column, out / successors.shape[1])
            return moved
        out = self._scatter(out, self._leave)
        self._operate(kernels.push_elementary, self._factors.lower, out)
        kernels.exchange(out, self._reverse)
        self._operate(kernels.push_elementary, self._factors.upper, out)
        return self._scatter(out, self._enter)

    @staticmethod
    def _scatter(measure: FloatArray, index: npt.NDArray[np.int32] | None) -> FloatArray:
        if index is None:
            return measure
        moved = np.empty_like(measure)
        moved[index] = measure
        return moved

    def _operate(
        self, kernel: Callable[..., None], operations: Operations, values: FloatArray
    ) -> None:
        o, b = operations, self._blocks
        kernel(
            values.reshape(-1),
            values.shape[1],
            self.size,
            o.i,
            o.j,
            o.d,
            o.a,
            b.starts,
            b.lengths,
            b.lines,
            b.pairs,
            b.rows,
        )

    @property
    def n_samples(self) -> int:
        """Successors drawn; 0 unless the method is sampled."""
        return 0 if self._successors is None else self._successors.size

    def _check(self) -> float:
        """Return the largest relative error on functions whose images are known."""
        shares = all_counts(self.size, self.n_states) / self.size
        v = np.cos(1.0 + 2.0 * np.arange(self.n_states))
        mean, square = self.P @ v, self.P @ v**2
        z = np.where(np.arange(self.n_states) % 2 == 0, 1.0, -1.0)
        y = np.cos(3.0 * np.arange(self.n_states))
        functions = np.column_stack(
            [
                np.ones(self.n_points),
                shares @ v,
                (shares @ v) ** 2,
                self._character(z),
                self._character(y),
            ]
        )
        images = np.column_stack(
            [
                np.ones(self.n_points),
                shares @ mean,
                (shares @ mean) ** 2 + shares @ (square - mean**2) / self.size,
                self._character(self.P @ z),
                self._character(self.P @ y),
            ]
        )
        self.apply_in_place(functions)
        error = np.abs(functions - images).max()
        return float(error) if np.isfinite(error) else math.inf

    def _character(self, z: FloatArray) -> FloatArray:
        """Return prod_j z_j^{c_j} at each point, shape (M,)."""
        powers = z[:, None] ** np.arange(self.size + 1)
        counts = all_counts(self.size, self.n_states)
        result = np.ones(self.n_points)
        for j in range(self.n_states):
            result *= powers[j][counts[:, j]]
        return result
