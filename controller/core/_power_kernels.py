# SPDX-License-Identifier: MIT
"""Jitted passes over the histogram grid for `symmetric_power`.

A function on the grid is an array (M, B): B functions side by side, the last axis contiguous. An
elementary operation of states i < j moves agents from i to j and nothing else. All histograms that
agree in the coordinates up to the later of i and j (or, if that is one of the last two, up to the
third-last) are neighbours in memory: a *block*. Along a *line* of blocks only c_i and c_j change,
c_i + c_j = s, and the block with r agents in state i becomes

    sum_q coef(r, q) block_q,   coef(r, q) = binomial(r, q) d^q a^(r-q),   q = 0..r,

read from the larger blocks q < r at an offset of r - q points where j is the last coordinate but
one. In place, r counts down. Within the last two coordinates the same is done step by step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline, jit
from kofn.controller.core._vector import sum_rows

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

#: Coefficients below this are zero: they cannot matter, and denormal numbers are slow.
_TINY = 1e-280


@inline
def _coefficients(size: int, d: float, a: float) -> F64:
    """Return binomial(r, q) d^q a^(r-q) at r (r + 1) / 2 + q."""
    coef = np.empty((size + 1) * (size + 2) // 2)
    coef[0] = 1.0
    for r in range(1, size + 1):
        row, above = r * (r + 1) // 2, (r - 1) * r // 2
        for q in range(r + 1):
            value = 0.0
            if q > 0:
                value += d * coef[above + q - 1]
            if q < r:
                value += a * coef[above + q]
            coef[row + q] = value if abs(value) >= _TINY else 0.0
    return coef


@inline
def _within_row(row: F64, lanes: int, d: float, a: float, one: F64, two: F64) -> None:
    """Apply an operation to a row: position x has x agents that decide one after the other."""
    size = row.size
    source, target = one, two
    source[:size] = row
    dd, da, aa = d * d, 2.0 * d * a, a * a
    at = lanes  # the first position with agents that have not decided
    while at + lanes < size:
        # One agent is left at this position, two or more at those behind it.
        here, before, out = source[at : at + lanes], source[at - lanes : at], row[at : at + lanes]
        for x in range(lanes):
            out[x] = d * here[x] + a * before[x]
        at += lanes
        here, before = source[at:size], source[at - lanes : size - lanes]
        earlier, out = source[at - 2 * lanes : size - 2 * lanes], target[at:size]
        for x in range(out.size):
            out[x] = dd * here[x] + da * before[x] + aa * earlier[x]
        row[at : at + lanes] = target[at : at + lanes]
        source, target = target, source
        at += lanes
    if at < size:
        here, before, out = source[at:size], source[at - lanes : size - lanes], row[at:size]
        for x in range(lanes):
            out[x] = d * here[x] + a * before[x]


@jit
def apply_elementary(
    values: F64,
    lanes: int,
    size: int,
    i_of: I64,
    j_of: I64,
    d_of: F64,
    a_of: F64,
    starts: I64,
    lengths: I64,
    lines: I64,
    pairs: I64,
    rows: I64,
) -> None:
    """Apply elementary operations to functions on the grid, in place, in the order given.

    Operation o lets each agent of state i stay with weight d or go to state j > i with weight a.

    Parameters
    ----------
    values : array, shape (M * B,)
    lanes : int
        B, functions side by side.
    size : int
        k, the number of agents.
    i_of, j_of, d_of, a_of : arrays, shape (n_operations,)
    starts, lengths : arrays, shape (n_blocks,)
        First point and points of each block, line by line; c_i counts up along a line.
    lines : array, shape (n_lines + 1,)
        Where each line begins among the blocks.
    pairs : array, shape (S, S, 3)
        First line, end of the lines, and 1 if reading is offset; for i < j.
    rows : array, shape (n_rows + 1,)
        Points that agree in all coordinates but the last two.
    """
    n_states = pairs.shape[0]
    one, two = np.empty((size + 1) * lanes), np.empty((size + 1) * lanes)
    for o in range(i_of.size):
        i, j, d, a = i_of[o], j_of[o], d_of[o], a_of[o]
        if i == n_states - 2:
            for row in range(rows.size - 1):
                _within_row(
                    values[rows[row] * lanes : rows[row + 1] * lanes], lanes, d, a, one, two
                )
            continue
        coef = _coefficients(size, d, a)
        shift = lanes * pairs[i, j, 2]
        for line in range(pairs[i, j, 0], pairs[i, j, 1]):
            first = lines[line]
            for r in range(lines[line + 1] - first - 1, 0, -1):
                block = first + r
                sum_rows(
                    values,
                    starts[block] * lanes,
                    lengths[block] * lanes,
                    starts,
                    first,
                    r,
                    shift,
                    lanes,
                    coef,
                    r * (r + 1) // 2,
                )


@inline
def _back_within_row(row: F64, lanes: int, d: float, a: float, moved: F64) -> None:
    """Apply the transpose of `_within_row`: moved[q] holds what stayed with q agents so far."""
    top = row.size // lanes - 1
    moved[:lanes] = row[top * lanes :]
    for left in range(top - 1, -1, -1):
        # One more agent decides; those with `left` undecided agents join.
        size = (top - left) * lanes
        for x in range(lanes):
            moved[size + x] = d * moved[size - lanes + x]
        for x in range(size - 1, lanes - 1, -1):
            moved[x] = a * moved[x] + d * moved[x - lanes]
        for x in range(lanes):
            moved[x] = a * moved[x] + row[left * lanes + x]
    row[:] = moved[: row.size]


@inline
def _give(values: F64, at: int, n: int, to: int, weight: float) -> None:
    """Add n numbers from `at`, weighted, to those from `to` on."""
    source, target = values[at : at + n], values[to : to + n]
    for x in range(n):
        target[x] += weight * source[x]


@inline
def _scale(values: F64, at: int, n: int, weight: float) -> None:
    """Multiply n numbers from `at` on."""
    part = values[at : at + n]
    for x in range(n):
        part[x] *= weight


@jit
def push_elementary(
    values: F64,
    lanes: int,
    size: int,
    i_of: I64,
    j_of: I64,
    d_of: F64,
    a_of: F64,
    starts: I64,
    lengths: I64,
    lines: I64,
    pairs: I64,
    rows: I64,
) -> None:
    """Apply the transposes of the operations in reverse order: push measures forward, in place.

    Parameters as for `apply_elementary`.
    """
    n_states = pairs.shape[0]
    moved = np.empty((size + 1) * lanes)
    for back in range(i_of.size):
        o = i_of.size - 1 - back
        i, j = i_of[o], j_of[o]
        if i == n_states - 2:
            for row in range(rows.size - 1):
                part = values[rows[row] * lanes : rows[row + 1] * lanes]
                _back_within_row(part, lanes, d_of[o], a_of[o], moved)
            continue
        coef = _coefficients(size, d_of[o], a_of[o])
        shift = lanes * pairs[i, j, 2]
        for line in range(pairs[i, j, 0], pairs[i, j, 1]):
            first = lines[line]
            for r in range(1, lines[line + 1] - first):
                block = first + r
                at, n = starts[block] * lanes, lengths[block] * lanes
                of_r = r * (r + 1) // 2
                for q in range(r):
                    to = starts[first + q] * lanes + (r - q) * shift
                    _give(values, at, n, to, coef[of_r + q])
                _scale(values, at, n, coef[of_r + r])


@jit
def convolve(values: F64, P: F64, size: int, table: I64, neighbours: I32, offsets: I64) -> F64:
    """Return W values by letting the agents decide one after the other: no cancellation, slow.

    Source states are taken in turn. With h the histogram of the agents that have not decided yet
    removed, g_m(h) = sum_l P[j, l] g_{m-1}(h + e_l) after m agents of state j.

    Parameters
    ----------
    values : array, shape (M, B)
    P : array, shape (S, S)
    table : array, shape (size + 1, S)
        Binomials of the grid.
    neighbours : array, shape (points of all grids, S)
        Rank of h + e_l for each h of the grids of size 0..size-1.
    offsets : array, shape (size + 1,)
        Where the grid of each size begins in `neighbours`.
    """
    n_states = P.shape[0]
    n_points, lanes = values.shape
    out = np.empty_like(values)
    work = np.empty((n_states, n_points, lanes))
    left = np.zeros(n_states + 1, dtype=np.int64)  # agents that have not decided, on each level
    moved = np.zeros(n_states, dtype=np.int64)  # agents of each state that have
    work[0] = values
    left[0] = size
    level = 0
    while level >= 0:
        if level == n_states - 1:
            for m in range(left[level]):
                _decide(work[level], P[level], left[level] - m, neighbours, offsets, table)
            moved[level] = left[level]
            index, rest = 0, size
            for j in range(n_states - 1):
                m = n_states - 1 - j
                index += table[rest, m] - table[rest - moved[j], m]
                rest -= moved[j]
            out[index] = work[level, 0]
            level -= 1
            # Step the nearest level that still has agents to move.
            while level >= 0 and moved[level] == left[level]:
                level -= 1
            if level >= 0:
                _decide(
                    work[level], P[level], left[level] - moved[level], neighbours, offsets, table
                )
                moved[level] += 1
        else:
            # Enter the next level with what this one has left.
            rest = left[level] - moved[level]
            points = table[rest, n_states - 1]
            work[level + 1, :points] = work[level, :points]
            left[level + 1] = rest
            moved[level + 1] = 0
            level += 1
    return out


@inline
def _decide(values: F64, row: F64, size: int, neighbours: I32, offsets: I64, table: I64) -> None:
    """Replace a function on the grid of `size` by its mean over one agent, on size - 1."""
    n_states = row.size
    first = offsets[size - 1]
    # In place: the points h + e_l never rank below h.
    for h in range(table[size - 1, n_states - 1]):
        for b in range(values.shape[1]):
            total = 0.0
            for l in range(n_states):
                total += row[l] * values[neighbours[first + h, l], b]
            values[h, b] = total


@jit
def gather(values: F64, lane: int, index: I32, out: F64) -> None:
    """Write out[p, b] = values[index[p], lane + b]: shapes (M, B), (M,) and (M, B')."""
    lanes = out.shape[1]
    for p in range(out.shape[0]):
        q = index[p]
        for b in range(lanes):
            out[p, b] = values[q, lane + b]


@jit
def exchange(values: F64, index: I32) -> None:
    """Let point p and point index[p] change places, for an index that is its own inverse."""
    for p in range(index.size):
        q = index[p]
        if q > p:
            for b in range(values.shape[1]):
                values[p, b], values[q, b] = values[q, b], values[p, b]


@jit
def average_successors(values: F64, lane: int, successors: I32, out: F64) -> None:
    """Write the mean of values[:, lane + b] over listed successors: (M, B), (M, m) and (M, B')."""
    lanes, m = out.shape[1], successors.shape[1]
    for c in range(successors.shape[0]):
        for b in range(lanes):
            out[c, b] = 0.0
        for i in range(m):
            point = successors[c, i]
            for b in range(lanes):
                out[c, b] += values[point, lane + b]
        for b in range(lanes):
            out[c, b] /= m
