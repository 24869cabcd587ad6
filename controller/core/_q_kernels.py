# SPDX-License-Identifier: MIT
"""The jitted loops of `q_learn`: draw transitions of k agents, and learn from transitions.

A cell x = s_g M + rank(c) numbers the states of the k-agent system, a pair x A_g + a those with an
action. Tables are flat: `q` and `visits` have shape (S_g M, A_g). Random numbers are addressed by
(seed, sample, purpose), so neither blocks nor threads change what is drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _random as draw
from kofn.controller.core._grid_kernels import rank
from kofn.controller.core._jit import inline, jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

# Purposes of the random streams.
_TARGET, _MOVE, _EXPLORE, _START = 0, 1, 2, 3

#: Up to this many agents per state are cheaper to move one at a time than by a multinomial.
_FEW = 4


@inline
def _pick(stream: draw.Stream, cdf: F64, i: int, j: int) -> int:
    """Return an index by inversion of row (i, j), which is 1 from its last possible index on."""
    u = draw.uniform(stream)
    index = 0
    while u >= cdf[i, j, index]:
        index += 1
    return index


@inline
def _advance(
    stream: draw.Stream,
    seed: int,
    sample: int,
    s: int,
    a: int,
    counts: I64,
    local_next: bool,
    cdf_g: F64,
    cdf_l: F64,
    kernels: F64,
    moved: I64,
) -> int:
    """Draw one step of the k agents: return s_g' and fill `moved`, shape (S_l,)."""
    n_local = counts.size
    draw.start(stream, seed, sample, 0, _TARGET)
    s_next = _pick(stream, cdf_g, s, a)
    mover = s_next if local_next else s
    draw.start(stream, seed, sample, 0, _MOVE)
    moved[:] = 0
    for j in range(n_local):
        if counts[j] <= _FEW * n_local:
            for _ in range(counts[j]):
                moved[_pick(stream, cdf_l, mover, j)] += 1
        else:
            draw.add_multinomial(stream, counts[j], kernels[mover, j], moved)
    return s_next


@inline
def _reward(s: int, a: int, counts: I64, k: int, r_g: F64, r_pi: F64) -> float:
    """Return r_g + (1/k) sum_j c_j r^pi(s_g, j)."""
    earned: float = 0.0
    for j in range(counts.size):
        earned += counts[j] * r_pi[s, j]
    reward: float = r_g[s, a] + earned / k
    return reward


@inline
def _best(q: F64, visits: I64, x: int, seen_only: bool) -> float:
    """Return the largest value of a cell, over its visited actions if it has any."""
    best: float = -np.inf
    for a in range(q.shape[1]):
        if not seen_only or visits[x, a] > 0:
            best = max(best, q[x, a])
    if best == -np.inf:
        for a in range(q.shape[1]):
            best = max(best, q[x, a])
    return best


@inline
def _learn(
    q: F64,
    visits: I64,
    x: int,
    a: int,
    reward: float,
    x_next: int,
    gamma: float,
    steps: F64,
    seen_only: bool,
) -> None:
    """Move one entry of q towards its target; see `replay` for `steps`."""
    n = visits[x, a]
    step = steps[min(n, steps.size - 1)] if steps.size > 0 else 1.0 / (1.0 + (1.0 - gamma) * n)
    target = reward + gamma * _best(q, visits, x_next, seen_only)
    q[x, a] += step * (target - q[x, a])
    visits[x, a] = n + 1


@jit
def draw_transitions(
    first: int,
    last: int,
    offset: int,
    seed: int,
    k: int,
    local_next: bool,
    cdf_g: F64,
    r_g: F64,
    cdf_l: F64,
    kernels: F64,
    r_pi: F64,
    grid: I64,
    table: I64,
    pairs: I64,
    rewards: F64,
    next_cells: I64,
) -> None:
    """Fill entries first..last-1 with samples offset + first..; sample i visits pair i mod pairs.

    `cdf_g` (S_g, A_g, S_g), `cdf_l` and `kernels` (S_g, S_l, S_l), `grid` (M, S_l), `table` the
    binomials of the grid.
    """
    n_points, n_local = grid.shape
    n_global, n_actions = r_g.shape
    n_pairs = n_global * n_points * n_actions
    stream = np.empty(1, dtype=np.uint64)
    moved = np.empty(n_local, dtype=np.int64)
    for i in range(first, last):
        pair = (offset + i) % n_pairs
        a = pair % n_actions
        x = pair // n_actions
        s = x // n_points
        counts = grid[x % n_points]
        s_next = _advance(
            stream, seed, offset + i, s, a, counts, local_next, cdf_g, cdf_l, kernels, moved
        )
        pairs[i] = pair
        rewards[i] = _reward(s, a, counts, k, r_g, r_pi)
        next_cells[i] = s_next * n_points + rank(moved, k, table)


@jit
def replay(
    pairs: I64,
    rewards: F64,
    next_cells: I64,
    gamma: float,
    steps: F64,
    seen_only: bool,
    q: F64,
    visits: I64,
) -> None:
    """Learn from transitions in their order.

    `steps` lists the step size of each visit to a pair, the last one holds from there on; empty
    means 1 / (1 + (1 - gamma) N). With `seen_only` a cell is worth its best visited action.
    """
    n_actions = q.shape[1]
    for i in range(pairs.size):
        x, a = pairs[i] // n_actions, pairs[i] % n_actions
        _learn(q, visits, x, a, rewards[i], next_cells[i], gamma, steps, seen_only)


@jit
def play(
    samples: int,
    offset: int,
    seed: int,
    k: int,
    local_next: bool,
    cdf_g: F64,
    r_g: F64,
    cdf_l: F64,
    kernels: F64,
    r_pi: F64,
    table: I64,
    n_points: int,
    horizon: int,
    alpha: float,
    law_g: F64,
    law_l: F64,
    epsilon: float,
    gamma: float,
    steps: F64,
    q: F64,
    visits: I64,
    place: I64,
    counts: I64,
) -> None:
    """Learn along epsilon-greedy episodes, for a number of samples.

    `place` holds s_g and the steps left of the episode, `counts` its histogram; both are advanced,
    so that a call goes on where the last one stopped. `alpha` 0 means the fixed law `law_l`.
    """
    n_actions, n_local = q.shape[1], counts.size
    stream = np.empty(1, dtype=np.uint64)
    moved = np.empty(n_local, dtype=np.int64)
    law = np.empty(n_local)
    for i in range(offset, offset + samples):
        if place[1] == 0:
            draw.start(stream, seed, i, 0, _START)
            place[0] = draw.categorical(stream, law_g)
            place[1] = horizon
            if alpha > 0.0:
                draw.dirichlet(stream, alpha, law)
            else:
                law[:] = law_l
            counts[:] = 0
            draw.add_multinomial(stream, k, law, counts)
        s = place[0]
        x = s * n_points + rank(counts, k, table)
        draw.start(stream, seed, i, 0, _EXPLORE)
        if draw.uniform(stream) < epsilon:
            a = int(draw.uniform(stream) * n_actions)
        else:
            a = 0
            for b in range(1, n_actions):
                if q[x, b] > q[x, a]:
                    a = b
        s_next = _advance(stream, seed, i, s, a, counts, local_next, cdf_g, cdf_l, kernels, moved)
        x_next = s_next * n_points + rank(moved, k, table)
        reward = _reward(s, a, counts, k, r_g, r_pi)
        _learn(q, visits, x, a, reward, x_next, gamma, steps, False)
        place[0] = s_next
        place[1] -= 1
        counts[:] = moved


@jit
def greedy(q: F64, visits: I64, seen_only: bool, tie: float, value: F64, action: I32) -> None:
    """Fill the value and the greedy action of each cell, shape (S_g M,); ties to the lowest."""
    for x in range(q.shape[0]):
        best = _best(q, visits, x, seen_only)
        seen = False
        for a in range(q.shape[1]):
            seen = seen or visits[x, a] > 0
        slack = tie * max(1.0, abs(best))
        value[x] = best
        for a in range(q.shape[1]):
            if q[x, a] >= best - slack and (visits[x, a] > 0 or not (seen_only and seen)):
                action[x] = a
                break
