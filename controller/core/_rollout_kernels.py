# SPDX-License-Identifier: MIT
"""The jitted inner loop of `rollout`: one episode of n agents, held as counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _random as draw
from kofn.controller.core._jit import inline, jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

# Purposes of the random streams; motion and actions of state j use MOVE + 2 j and MOVE + 2 j + 1.
_START, _TARGET, _POLL, _MOVE = 0, 1, 2, 3

#: Must equal grid.TIE: the same rounding decides in rollouts and in the live controller.
_TIE = 1e-9


@inline
def project_rank(weights: F64, size: int, table: I64, counts: I64) -> int:
    """Return the rank of the weights rounded to the grid; `counts` is scratch, shape (S,)."""
    n_states = weights.size
    total = weights.sum()
    left = size
    for i in range(n_states):
        ideal = size * (weights[i] / total if total > 0.0 else 1.0 / n_states)
        counts[i] = int(np.floor(ideal + _TIE))
        left -= counts[i]
    rounded_up = np.int64(0)  # bit i: state i has had its remainder
    for _ in range(left):
        best, best_remainder = 0, -np.inf
        for i in range(n_states):
            if (rounded_up >> i) & 1:
                continue
            ideal = size * (weights[i] / total if total > 0.0 else 1.0 / n_states)
            remainder = ideal - counts[i] - _TIE * i
            if remainder > best_remainder:
                best, best_remainder = i, remainder
        counts[best] += 1
        rounded_up |= np.int64(1) << best
    index = 0
    left = size
    for j in range(n_states - 1):
        m = n_states - 1 - j
        index += table[left, m] - table[left - counts[j], m]
        left -= counts[j]
    return index


@jit
def episodes(
    first: int,
    last: int,
    seed: int,
    n: int,
    k: int,
    horizon: int,
    grid: int,
    cap: float,
    gamma: float,
    local_next: bool,
    alpha: float,
    law_g: F64,
    law_l: F64,
    P_g: F64,
    r_g: F64,
    P_l: F64,
    r_l: F64,
    pi_l: F64,
    kernels: F64,
    prior: F64,
    action: I32,
    table: I64,
    returns: F64,
    mode_hits: F64,
    record: bool,
    s_g_record: I64,
    a_g_record: I64,
    counts_record: I64,
    sample_record: I64,
    reward_record: F64,
) -> None:
    """Play episodes first..last-1 and fill their rows of the output arrays.

    Shapes as in `kofn.controller.core.rollouts`; `alpha` 0 means the fixed law `law_l`; `table` are
    the binomials of the grid; records are filled only with `record`.
    """
    n_local, n_actions = pi_l.shape[1], pi_l.shape[2]
    stream = np.empty(1, dtype=np.uint64)
    law = np.empty(n_local)
    counts = np.empty(n_local, dtype=np.int64)
    moved = np.empty(n_local, dtype=np.int64)
    left = np.empty(n_local, dtype=np.int64)
    sample = np.empty(n_local, dtype=np.int64)
    scratch = np.empty(n_local, dtype=np.int64)
    chosen = np.empty((n_local, n_actions), dtype=np.int64)
    belief = np.empty(n_local)
    predicted = np.empty(n_local)
    for rollout in range(first, last):
        draw.start(stream, seed, rollout, 0, _START)
        s_g = draw.categorical(stream, law_g)
        if alpha > 0.0:
            draw.dirichlet(stream, alpha, law)
        else:
            law[:] = law_l
        counts[:] = 0
        draw.add_multinomial(stream, n, law, counts)
        belief[:] = 0.0
        total_return = 0.0
        weight = 1.0
        hits = 0
        for step in range(horizon):
            draw.start(stream, seed, rollout, step, _POLL)
            draw.sample_without_replacement(stream, k, counts, left, sample)
            room = max(cap - k, 0.0)
            total = belief.sum()
            keep = room / total if total > room else 1.0
            for j in range(n_local):
                belief[j] = keep * belief[j] + sample[j]
            if counts[np.argmax(belief)] == counts.max():
                hits += 1
            size = prior[s_g].sum()
            pull = size / (size + belief.sum()) if size > 0.0 else 0.0
            for j in range(n_local):
                predicted[j] = belief[j] + pull * prior[s_g, j]
            a_g = action[s_g, project_rank(predicted, grid, table, scratch)]

            # Local actions: one draw for each agent, kept for the motion when it follows at once.
            earned = 0.0
            for j in range(n_local):
                chosen[j, :] = 0
                draw.start(stream, seed, rollout, step, _MOVE + 2 * j)
                draw.add_multinomial(stream, counts[j], pi_l[s_g, j], chosen[j])
                for a in range(n_actions):
                    earned += chosen[j, a] * r_l[s_g, j, a]
            reward = r_g[s_g, a_g] + earned / n
            total_return += weight * reward
            weight *= gamma
            if record:
                s_g_record[rollout, step] = s_g
                a_g_record[rollout, step] = a_g
                counts_record[rollout, step] = counts
                sample_record[rollout, step] = sample
                reward_record[rollout, step] = reward

            draw.start(stream, seed, rollout, step, _TARGET)
            s_next = draw.categorical(stream, P_g[s_g, a_g])
            s_move = s_next if local_next else s_g
            moved[:] = 0
            for j in range(n_local):
                if counts[j] == 0:
                    continue
                draw.start(stream, seed, rollout, step, _MOVE + 2 * j + 1)
                if local_next:
                    # They act anew, on the global state that they now see; that action earns
                    # nothing, so its law and the kernel's may be taken together.
                    draw.add_multinomial(stream, counts[j], kernels[s_move, j], moved)
                    continue
                for a in range(n_actions):
                    if chosen[j, a] > 0:
                        draw.add_multinomial(stream, chosen[j, a], P_l[s_move, j, a], moved)
            counts[:] = moved
            predicted[:] = 0.0
            for j in range(n_local):
                for l in range(n_local):
                    predicted[l] += belief[j] * kernels[s_move, j, l]
            belief[:] = predicted
            s_g = s_next
        returns[rollout] = total_return
        mode_hits[rollout] = hits
