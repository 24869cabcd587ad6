# SPDX-License-Identifier: MIT
r"""A stochastic matrix as elementary operations, each from one state to a later one.

The factors are P = L U up to permutations of rows and columns, L unit lower triangular but for its
last row, row by row: R_i changes row i only, U = R_{S-2} ... R_0 and L = R_1 ... R_{S-1}. U moves
agents to later states only, and so does L when the states are counted backwards: between the two
the function is written backwards, so that each operation works on contiguous blocks (see
`_power_kernels`; against gathering the lines, this takes a third of the time at k = 50, S = 5).

Entries may be negative; rounding errors then grow like g^k with g = max_i (|L| |U| 1)_i, and the
permutations are chosen to keep g near 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray

#: Logarithm of the growth over all agents that costs no more than two digits.
_HARMLESS = math.log(100)

#: All pairs of row and column orders are searched up to this many states.
_FULL_SEARCH = 5


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
