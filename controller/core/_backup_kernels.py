# SPDX-License-Identifier: MIT
"""Jitted passes of a Bellman sweep on the histogram grid, after the operator has been applied.

A function on the grid is an array (M, B) as in `_power_kernels`. `backup` chooses actions and earns
in blocks of points that stay in the cache; `interpolate` carries values to a grid of another size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline, jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

#: Points of a backup worked on together, in cache.
_POINTS = 128


@inline
def _action_values(e: F64, P: F64, reward: float, gamma: float, q: F64, best: F64) -> None:
    """Write q = reward + gamma P e for one action, and raise `best` to it."""
    q[:] = reward
    for t in range(e.shape[0]):
        ahead, weight = e[t], gamma * P[t]
        for x in range(q.size):
            q[x] += weight * ahead[x]
    for x in range(q.size):
        best[x] = max(best[x], q[x])


@inline
def _choose(q: F64, best: F64, slack: float, a: int, action: I32) -> None:
    """Write action a where its value is the best or as good as that."""
    for x in range(action.size):
        action[x] = a if q[x] >= best[x] - slack else action[x]


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
    values: F64,
    out: F64,
    s: int,
    first: int,
    last: int,
) -> tuple[float, float, float]:
    """Write the Bellman backup of one global state, points first..last-1, into column s of `out`.

    Q(c, a) = reward[a] + r_local[c, s] + gamma sum_s' P[s', a] expected[c, s'].

    Parameters
    ----------
    expected, r_local, values, out : arrays, shape (M, S_g)
    P : array, shape (S_g, A_g)
    reward : array, shape (A_g,)
    slack : float
        Actions this close to the best are equal; the lowest of them is taken.
    fixed : bool
        Whether `action`, shape (M,), is followed; otherwise the greedy action is written there.

    Returns
    -------
    smallest and largest difference to `values`, largest magnitude in `out`
    """
    n_next, n_actions = P.shape
    e, q = np.empty((n_next, _POINTS)), np.empty((n_actions, _POINTS))
    best = np.empty(_POINTS)
    low, high, largest = np.inf, -np.inf, 0.0
    for begin in range(first, last, _POINTS):
        size = min(_POINTS, last - begin)
        for x in range(size):
            for t in range(n_next):
                e[t, x] = expected[begin + x, t]
        if fixed:
            for x in range(size):
                a = action[begin + x]
                total = 0.0
                for t in range(n_next):
                    total += P[t, a] * e[t, x]
                best[x] = reward[a] + gamma * total
        else:
            best[:] = -np.inf
            for a in range(n_actions):
                _action_values(e, P[:, a], reward[a], gamma, q[a], best)
            chosen = action[begin : begin + size]
            for a in range(n_actions - 1, -1, -1):
                _choose(q[a], best, slack, a, chosen)
        for x in range(size):
            value = best[x] + r_local[begin + x, s]
            change = value - values[begin + x, s]
            out[begin + x, s] = value
            low, high = min(low, change), max(high, change)
            largest = max(largest, abs(value))
    return low, high, largest


@jit
def interpolate(values: F64, coarse: int, fine: int, counts: I64, table: I64, out: F64) -> None:
    """Interpolate functions on the grid of `coarse` agents linearly at the points of another.

    With y_j = (c_0 + .. + c_j) coarse / fine, the simplex around y has the corner floor(y), and
    goes on by raising the coordinates one by one, the largest remainder first (Freudenthal).

    Parameters
    ----------
    values, out : arrays, shape (M, B) and (M', B)
    counts : array, shape (M', S)
        The points of the grid of `fine` agents.
    table : array
        Binomials of the coarse grid.
    """
    n_states = counts.shape[1]
    corner = np.empty(n_states, dtype=np.int64)  # running sums
    rest = np.empty(n_states, dtype=np.int64)
    corner[n_states - 1] = coarse
    for p in range(counts.shape[0]):
        total = 0
        for j in range(n_states - 1):
            total += counts[p, j]
            corner[j] = total * coarse // fine
            rest[j] = total * coarse % fine
        for b in range(out.shape[1]):
            out[p, b] = 0.0
        before = fine
        while True:
            # Ties do not matter: the corners in between have no weight.
            best, largest = -1, 0
            for j in range(n_states - 1):
                if rest[j] > largest:
                    best, largest = j, rest[j]
            if before > largest:
                index, left = 0, coarse
                for j in range(n_states - 1):
                    m = n_states - 1 - j
                    index += table[left, m] - table[coarse - corner[j], m]
                    left = coarse - corner[j]
                weight = (before - largest) / fine
                for b in range(out.shape[1]):
                    out[p, b] += weight * values[index, b]
            if best < 0:
                break
            before = largest
            rest[best] = 0
            corner[best] += 1
