# SPDX-License-Identifier: MIT
"""Jitted parts of `ucfh`: confidence intervals, extended value iteration, episodes.

Shapes as in `ChainTables`: N states, A actions, at most C successors each; H sub-steps.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _random as draw
from kofn.controller.core._jit import inline, jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@inline
def interval(p: float, n: int, log_term: float) -> tuple[float, float]:
    """Return the convex hull of the confidence set of a probability seen as p in n draws."""
    if n <= 1:
        return 0.0, 1.0
    deviation = math.sqrt(p * (1.0 - p))
    hoeffding = math.sqrt(log_term / (2.0 * n))
    bernstein = deviation * math.sqrt(2.0 * log_term / n) + 7.0 * log_term / (3.0 * (n - 1))
    width = min(hoeffding, bernstein)
    low, high = max(0.0, p - width), min(1.0, p + width)
    # The standard deviation, too, must be near the one that was seen: neither too small, ...
    slack = math.sqrt(2.0 * log_term / (n - 1))
    if deviation > slack:
        v = math.sqrt(max(0.0, 0.25 - (deviation - slack) ** 2))
        low, high = max(low, 0.5 - v), min(high, 0.5 + v)
    # ... which cuts off both ends, nor too large, which leaves a gap around 1/2 beside p.
    if deviation + slack < 0.5:
        v = math.sqrt(0.25 - (deviation + slack) ** 2)
        if low > 0.5 - v:
            low = max(low, 0.5 + v)
        if high < 0.5 + v:
            high = min(high, 0.5 - v)
    return min(low, p), max(high, p)  # rounding must not exclude what was seen


@jit
def intervals(n: I64, n_next: I64, width: I64, log_term: float, low: F64, high: F64) -> None:
    """Fill the confidence bounds, shape (N, A, C), from counts (N, A) and (N, A, C)."""
    for s in range(n.shape[0]):
        for a in range(n.shape[1]):
            for c in range(width[s]):
                p = n_next[s, a, c] / n[s, a] if n[s, a] > 0 else 0.0
                low[s, a, c], high[s, a, c] = interval(p, n[s, a], log_term)


@inline
def _expect(low: F64, high: F64, ahead: F64, order: I64, size: int) -> float:
    """Return the mean of `ahead` with as much mass as allowed on what comes first in `order`."""
    left, mean = 1.0, 0.0
    for c in range(size):
        left -= low[c]
        mean += low[c] * ahead[c]
    for i in range(size):
        c = order[i]
        extra = min(left, high[c] - low[c])
        if extra > 0.0:
            mean += extra * ahead[c]
            left -= extra
    return mean


@jit
def extended_values(
    low: F64,
    high: F64,
    successor: I64,
    width: I64,
    reward: F64,
    weight: F64,
    phases: I64,
    optimistic: bool,
    values: F64,
    policy: I64,
) -> None:
    """Fixed-horizon extended value iteration, in place.

    Optimistic: the best action under the best model of the confidence set, and `policy` is filled.
    Otherwise: the given policy under the worst model.

    Parameters
    ----------
    low, high : arrays, shape (N, A, C)
    successor, width : arrays, shape (N, C) and (N,)
    reward, weight : arrays, shape (N, A) and (H,)
        Reward of a pair, and how much it counts in each sub-step.
    phases : array, shape (substeps + 1,)
        In sub-step t the state lies in phases[p]..phases[p + 1] - 1, p = t mod substeps.
    values, policy : arrays, shape (H + 1, N) and (H, N)
        values[H] is zero.
    """
    substeps = phases.size - 1
    longest = successor.shape[1]
    ahead = np.empty(longest)
    order = np.empty(longest, dtype=np.int64)
    for t in range(weight.size - 1, -1, -1):
        for s in range(phases[t % substeps], phases[t % substeps + 1]):
            size = width[s]
            for c in range(size):
                value = values[t + 1, successor[s, c]]
                ahead[c] = value
                i = c
                while i > 0 and (
                    ahead[order[i - 1]] < value if optimistic else ahead[order[i - 1]] > value
                ):
                    order[i] = order[i - 1]
                    i -= 1
                order[i] = c
            if not optimistic:
                a = policy[t, s]
                mean = _expect(low[s, a], high[s, a], ahead, order, size)
                values[t, s] = weight[t] * reward[s, a] + mean
                continue
            best, choice = -np.inf, 0
            for a in range(reward.shape[1]):
                mean = _expect(low[s, a], high[s, a], ahead, order, size)
                q = weight[t] * reward[s, a] + mean
                if q > best:
                    best, choice = q, a
            values[t, s] = best
            policy[t, s] = choice


@jit
def play_until_due(
    seed: int,
    first: int,
    most: int,
    start: F64,
    successor: I64,
    probability: F64,
    policy: I64,
    threshold: float,
    cap: float,
    n: I64,
    visits: I64,
    visits_next: I64,
) -> int:
    """Play episodes until a pair is due for an update; return how many, at most `most`.

    A pair is due once it has been visited max(threshold, n) times since its last update and its n
    is below the cap. `visits` (N, A) and `visits_next` (N, A, C) count on.
    """
    stream = np.empty(1, dtype=np.uint64)
    for episode in range(most):
        draw.start(stream, seed, first + episode, 0, 0)
        s = draw.categorical(stream, start)
        due = False
        for t in range(policy.shape[0]):
            a = policy[t, s]
            c = draw.categorical(stream, probability[s, a])
            visits[s, a] += 1
            visits_next[s, a, c] += 1
            if n[s, a] < cap and visits[s, a] >= max(threshold, n[s, a]):
                due = True
            s = successor[s, c]
        if due:
            return episode + 1
    return most
