# SPDX-License-Identifier: MIT
"""Jitted passes over the histogram grid for `symmetric_power`.

A function on the grid is an array (M, B): B functions side by side, the last axis contiguous. Along
a grid line of states (i, j) only (c_i, c_j) change, c_i + c_j = s; its s + 1 points are gathered
into a contiguous buffer, worked on, and scattered back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline, jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


#: Numbers in a line buffer: two of them stay in the first-level cache of common processors.
_BUFFER = 2048


@inline
def _step(d: float, a: float, source: F64, target: F64, size: int, width: int) -> None:
    """Write target[q] = d source[q] + a source[q + width]: one agent decides."""
    # Slices, not offsets: numba then knows that no index is negative, and the loop is vectorised.
    stay, go, out = source[:size], source[width : width + size], target[:size]
    for q in range(size):
        out[q] = d * stay[q] + a * go[q]


@inline
def _two_steps(d: float, a: float, source: F64, target: F64, size: int, width: int) -> None:
    """Do the work of two `_step`s in one pass over the buffer."""
    none, one = source[:size], source[width : width + size]
    both, out = source[2 * width : 2 * width + size], target[:size]
    dd, da, aa = d * d, 2.0 * d * a, a * a
    for q in range(size):
        out[q] = dd * none[q] + da * one[q] + aa * both[q]


@inline
def _buffer_size(starts: I64, lanes: int) -> int:
    longest = 1
    for line in range(starts.size - 1):
        longest = max(longest, starts[line + 1] - starts[line])
    return max(longest * lanes, _BUFFER)


@inline
def _bundle(starts: I64, line: int, lanes: int) -> int:
    """Return how many lines from `line` on are worked on together: of one length, in cache."""
    length = starts[line + 1] - starts[line]
    most = min(max(1, _BUFFER // (length * lanes)), starts.size - 1 - line)
    bundle = 1
    while bundle < most and starts[line + bundle + 1] - starts[line + bundle] == length:
        bundle += 1
    return bundle


@inline
def _load(
    values: F64, points: I32, first: int, bundle: int, length: int, t: int, lift: bool, out: F64
) -> None:
    """Copy the values at position t of each line of a bundle to out[t, line, lane]."""
    lanes = values.shape[1]
    q = t * bundle * lanes
    place = first + (length - 1 - t if lift else t)
    for _ in range(bundle):
        point = points[place]
        for b in range(lanes):
            out[q] = values[point, b]
            q += 1
        place += length


@inline
def _store(
    values: F64, points: I32, first: int, bundle: int, length: int, t: int, lift: bool, source: F64
) -> None:
    """Copy source[t, line, lane] back to the values."""
    lanes = values.shape[1]
    q = t * bundle * lanes
    place = first + (length - 1 - t if lift else t)
    for _ in range(bundle):
        point = points[place]
        for b in range(lanes):
            values[point, b] = source[q]
            q += 1
        place += length


@jit
def apply_elementary(
    values: F64, lines: I32, starts: I64, i_of: I64, j_of: I64, d_of: F64, a_of: F64, pair_of: I64
) -> None:
    """Apply elementary row operations to functions on the grid, in place, in the order given.

    Operation o lets each agent of state i stay with weight d or go to state j with weight a. Lines
    of one length are worked on in bundles, so that the inner loop is long and flat.

    Parameters
    ----------
    values : array, shape (M, B)
    lines : array, shape (n_pairs, M)
        Point indices, line by line, for each pair i < j; t = c_j counts up along a line.
    starts : array, shape (n_lines + 1,)
        Where each line begins in a row of `lines`; lines of one length are neighbours.
    i_of, j_of, d_of, a_of, pair_of : arrays, shape (n_operations,)
    """
    lanes = values.shape[1]
    one, two = (
        np.empty(_buffer_size(starts, lanes)),
        np.empty(_buffer_size(starts, lanes)),
    )
    for o in range(d_of.size):
        d, a = d_of[o], a_of[o]
        points = lines[pair_of[o]]
        lift = i_of[o] > j_of[o]
        line = 0
        while line < starts.size - 1:
            first = starts[line]
            length = starts[line + 1] - first
            bundle = _bundle(starts, line, lanes)
            line += bundle
            if length == 1:
                continue  # no agent in either state
            width = bundle * lanes
            source, target = one, two
            for t in range(length):
                _load(values, points, first, bundle, length, t, lift, source)
            s = length - 1
            while s >= 2:
                # Position s - 1 has one step left, the positions below two or more.
                last = (s - 1) * width
                _step(d, a, source[last:], target[last:], width, width)
                _store(values, points, first, bundle, length, s - 1, lift, target)
                _two_steps(d, a, source, target, last, width)
                _store(values, points, first, bundle, length, s - 2, lift, target)
                source, target = target, source
                s -= 2
            if s == 1:
                _step(d, a, source, target, width, width)
                _store(values, points, first, bundle, length, 0, lift, target)


@inline
def _step_back(d: float, a: float, source: F64, target: F64, size: int, width: int) -> None:
    """Let one agent per position decide, and push the measure on: the transpose of `_step`."""
    head, out = source[:width], target[:width]
    for q in range(width):
        out[q] = d * head[q]
    stay, come, out = source[width:size], source[: size - width], target[width:size]
    for q in range(size - width):
        out[q] = d * stay[q] + a * come[q]
    stay, come, out = source[size : size + width], source[size - width : size], target[size:]
    for q in range(width):
        out[q] = stay[q] + a * come[q]


@jit
def push_elementary(
    values: F64, lines: I32, starts: I64, i_of: I64, j_of: I64, d_of: F64, a_of: F64, pair_of: I64
) -> None:
    """Apply the transposes of the operations in reverse order: push measures forward, in place.

    Parameters as for `apply_elementary`.
    """
    lanes = values.shape[1]
    one, two = (
        np.empty(_buffer_size(starts, lanes)),
        np.empty(_buffer_size(starts, lanes)),
    )
    for back in range(d_of.size):
        o = d_of.size - 1 - back
        d, a = d_of[o], a_of[o]
        points = lines[pair_of[o]]
        lift = i_of[o] > j_of[o]
        line = 0
        while line < starts.size - 1:
            first = starts[line]
            length = starts[line + 1] - first
            bundle = _bundle(starts, line, lanes)
            line += bundle
            if length == 1:
                continue
            width = bundle * lanes
            source, target = one, two
            _load(values, points, first, bundle, length, 0, lift, source)
            for s in range(1, length):
                # Positions 0..s-1 hold the measure so far; position s joins unmoved.
                _load(values, points, first, bundle, length, s, lift, source)
                _step_back(d, a, source, target, s * width, width)
                source, target = target, source
            for t in range(length):
                _store(values, points, first, bundle, length, t, lift, source)


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
def average_successors(values: F64, successors: I32, out: F64) -> None:
    """Write the mean of `values` over listed successors: shapes (M, B), (M, m) and (M, B)."""
    lanes, m = values.shape[1], successors.shape[1]
    for c in range(successors.shape[0]):
        for b in range(lanes):
            out[c, b] = 0.0
        for i in range(m):
            point = successors[c, i]
            for b in range(lanes):
                out[c, b] += values[point, b]
        for b in range(lanes):
            out[c, b] /= m


@jit
def backup(
    expected: F64,
    P: F64,
    reward: F64,
    r_local: F64,
    gamma: float,
    slack: float,
    fixed: bool,
    action: I32,
    out: F64,
    s: int,
) -> None:
    """Write one global state's Bellman backup into column s of `out`.

    Q(c, a) = reward[a] + r_local[c, s] + gamma sum_s' P[a, s'] expected[c, s'].

    Parameters
    ----------
    expected, r_local, out : arrays, shape (M, S_g)
    P : array, shape (A_g, S_g)
    reward : array, shape (A_g,)
    slack : float
        Actions this close to the best are equal; the lowest of them is taken.
    fixed : bool
        Whether `action`, shape (M,), is followed; otherwise the greedy action is written there.
    """
    n_actions, n_next = P.shape
    q = np.empty(n_actions)
    for c in range(expected.shape[0]):
        if fixed:
            a = action[c]
            total = 0.0
            for t in range(n_next):
                total += P[a, t] * expected[c, t]
            out[c, s] = reward[a] + r_local[c, s] + gamma * total
            continue
        best = -np.inf
        for a in range(n_actions):
            total = 0.0
            for t in range(n_next):
                total += P[a, t] * expected[c, t]
            q[a] = reward[a] + gamma * total
            best = max(best, q[a])
        for a in range(n_actions):
            if q[a] >= best - slack:
                action[c] = a
                break
        out[c, s] = best + r_local[c, s]
