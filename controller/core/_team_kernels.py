# SPDX-License-Identifier: MIT
"""Jitted pass of `team_bound`: agents choose and move one after the other within a step.

A function on a histogram grid is an array (M, B), B functions side by side. Letting one agent of
state j choose and move turns a function on the grid of m + 1 agents into one on the grid of m:

    f'(h) = max_a r[j, a] + sum_l P[j, a, l] f(h + e_l).

Points that differ only in the last two coordinates are neighbours in memory and form a *run*; all
h + e_l of a run are runs as well, so each run is a few flat vector operations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline, jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


#: Neighbours that are taken in one pass; tables are padded to a multiple of it with weight 0.
BLOCK = 5


@inline
def _act(
    flat: F64,
    P: F64,
    reward: F64,
    lanes: int,
    low: int,
    high: int,
    length: I64,
    target: I64,
    source: I64,
    best: F64,
    other: F64,
) -> None:
    """Let one agent choose and move, in place: no h + e_l ranks below h."""
    # Everything in one function, on slices: calls per run, and indices that might be negative, cost
    # several times the arithmetic.
    for run in range(low, high):
        size = length[run] * lanes
        for b in range(0, P.shape[1], BLOCK):
            u = flat[source[run, b] * lanes : source[run, b] * lanes + size]
            v = flat[source[run, b + 1] * lanes : source[run, b + 1] * lanes + size]
            w = flat[source[run, b + 2] * lanes : source[run, b + 2] * lanes + size]
            x = flat[source[run, b + 3] * lanes : source[run, b + 3] * lanes + size]
            y = flat[source[run, b + 4] * lanes : source[run, b + 4] * lanes + size]
            for a in range(reward.size):
                r = reward[a]
                p0, p1, p2, p3, p4 = P[a, b], P[a, b + 1], P[a, b + 2], P[a, b + 3], P[a, b + 4]
                if P.shape[1] > BLOCK:
                    partial = other[a, :size]
                    if b == 0:
                        for q in range(size):
                            partial[q] = r
                    for q in range(size):
                        partial[q] += p0 * u[q] + p1 * v[q] + p2 * w[q] + p3 * x[q] + p4 * y[q]
                elif a == 0:
                    for q in range(size):
                        best[q] = r + p0 * u[q] + p1 * v[q] + p2 * w[q] + p3 * x[q] + p4 * y[q]
                else:
                    for q in range(size):
                        rival = r + p0 * u[q] + p1 * v[q] + p2 * w[q] + p3 * x[q] + p4 * y[q]
                        best[q] = max(best[q], rival)
        out = flat[target[run] * lanes : target[run] * lanes + size]
        if P.shape[1] > BLOCK:
            for q in range(size):
                top = other[0, q]
                for a in range(1, reward.size):
                    top = max(top, other[a, q])
                out[q] = top
        else:
            for q in range(size):
                out[q] = best[q]


@jit
def team_branch(
    values: F64,
    P: F64,
    reward: F64,
    size: int,
    top: int,
    table: I64,
    first: I64,
    length: I64,
    target: I64,
    source: I64,
    out: F64,
) -> None:
    """Write the value of the agents' best moves for all histograms c with c_0 = top.

    States are gone through depth first: on level j the agents of states 0..j-1, who move last, have
    been dealt with, and those of state j are dealt with one at a time. Memory is one function per
    level.

    Parameters
    ----------
    values : array, shape (M, B)
        What is earned once all agents have moved.
    P : array, shape (S, A, S')
        S' is S padded to a multiple of `BLOCK` with zeros.
    reward : array, shape (S, A)
        Added for each agent that moves from a state by an action.
    size, top : int
        Agents, and how many of them are in state 0.
    table : array, shape (size + 1, S)
        Binomials of the grid.
    first, length, target, source : arrays, (size + 1,), (R,), (R,) and (R, S')
        Runs of the grid of m agents are first[m]..first[m + 1] - 1; where each begins, and where
        its neighbours h + e_l begin on the grid of m + 1 agents.
    out : array, shape (M, B)
    """
    n_states = P.shape[0]
    n_points, lanes = values.shape
    work = np.empty((n_states, n_points * lanes))
    left = np.zeros(n_states + 1, dtype=np.int64)  # agents in the states of this level and below
    moved = np.zeros(n_states, dtype=np.int64)  # agents of each state that have moved
    longest = (size + 1) * lanes
    best, other = np.empty(longest), np.empty((reward.shape[1], longest))
    for c in range(n_points):
        for b in range(lanes):
            work[0, c * lanes + b] = values[c, b]
    left[0] = size
    for t in range(top):
        m = size - 1 - t
        _act(
            work[0], P[0], reward[0], lanes, first[m], first[m + 1],
            length, target, source, best, other,
        )  # fmt: skip
    moved[0] = top
    if n_states == 1:
        out[0] = work[0, :lanes]
        return
    left[1] = size - top
    used = table[size - top, n_states - 1] * lanes
    work[1, :used] = work[0, :used]
    level = 1
    while level >= 1:
        if level == n_states - 1:
            for t in range(left[level]):
                m = left[level] - 1 - t
                _act(
                    work[level], P[level], reward[level], lanes, first[m], first[m + 1],
                    length, target, source, best, other,
                )  # fmt: skip
            moved[level] = left[level]
            index, rest = 0, size
            for j in range(n_states - 1):
                m = n_states - 1 - j
                index += table[rest, m] - table[rest - moved[j], m]
                rest -= moved[j]
            for b in range(lanes):
                out[index, b] = work[level, b]
            level -= 1
            while level >= 1 and moved[level] == left[level]:
                level -= 1
            if level >= 1:
                m = left[level] - moved[level] - 1
                _act(
                    work[level], P[level], reward[level], lanes, first[m], first[m + 1],
                    length, target, source, best, other,
                )  # fmt: skip
                moved[level] += 1
        else:
            rest = left[level] - moved[level]
            used = table[rest, n_states - 1] * lanes
            work[level + 1, :used] = work[level, :used]
            level += 1
            left[level] = rest
            moved[level] = 0
