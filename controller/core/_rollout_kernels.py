# SPDX-License-Identifier: MIT
"""The jitted inner loop of `rollout`: one episode of n agents, held as counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _random as draw
from kofn.controller.core._grid_kernels import project_rank
from kofn.controller.core._jit import inline, jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

# Purposes of the random streams; motion and actions of state j use MOVE + 2 j and MOVE + 2 j + 1.
_START, _TARGET, _POLL, _MOVE = 0, 1, 2, 3

#: Must equal belief.SURE.
_SURE = 1e-12


@inline
def predict(belief: F64, kernels: F64, squares: F64, s: int, cap: float, moved: F64) -> None:
    """Move a belief by one step of the fleet, as `Belief.predict`; `moved` is scratch, (S,)."""
    total = belief.sum()
    if total <= 0.0:
        return
    moved[:] = 0.0
    kept = 0.0
    for j in range(belief.size):
        kept += belief[j] * squares[s, j]
        for l in range(belief.size):
            moved[l] += belief[j] * kernels[s, j, l]
    even = 0.0
    for l in range(belief.size):
        even += moved[l] * moved[l]
    even /= total * total
    spread = kept / total - even
    worth = cap
    if spread > _SURE:
        worth = min(cap, (total + 1.0) * (1.0 - even) / spread - 1.0)
    grown = max(worth, total) / total
    for l in range(belief.size):
        belief[l] = moved[l] * grown


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
    act_first: bool,
    alpha: float,
    law_g: F64,
    law_l: F64,
    P_g: F64,
    r_g: F64,
    P_l: F64,
    r_l: F64,
    pi_l: F64,
    kernels: F64,
    squares: F64,
    first_belief: F64,
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
    mode_record: I64,
    known_record: npt.NDArray[np.bool_],
    reward_record: F64,
) -> None:
    """Play episodes first..last-1 and fill their rows of the output arrays.

    Shapes as in `kofn.controller.core.rollouts`; `alpha` 0 means the fixed law `law_l`; `squares`
    (S_g, S_l) are the squared norms of the rows of `kernels`; `table` are the binomials of the
    grid; records are filled only with `record`. With `act_first` agents that move under the next
    global state have chosen their actions before, and `kernels` and `squares` have a first axis of
    pairs s_g S_g + s_g'.
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
        belief[:] = first_belief
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
            mode_known = counts[np.argmax(belief)] == counts.max()
            if mode_known:
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
                mode_record[rollout, step] = np.argmax(counts)
                known_record[rollout, step] = mode_known
                reward_record[rollout, step] = reward

            draw.start(stream, seed, rollout, step, _TARGET)
            s_next = draw.categorical(stream, P_g[s_g, a_g])
            s_move = s_next if local_next else s_g
            moved[:] = 0
            for j in range(n_local):
                if counts[j] == 0:
                    continue
                draw.start(stream, seed, rollout, step, _MOVE + 2 * j + 1)
                if local_next and not act_first:
                    # They act anew, on the global state that they now see; that action earns
                    # nothing, so its law and the kernel's may be taken together.
                    draw.add_multinomial(stream, counts[j], kernels[s_move, j], moved)
                    continue
                for a in range(n_actions):
                    if chosen[j, a] > 0:
                        draw.add_multinomial(stream, chosen[j, a], P_l[s_move, j, a], moved)
            counts[:] = moved
            moved_by = s_g * P_g.shape[0] + s_next if act_first else s_move
            predict(belief, kernels, squares, moved_by, cap, predicted)
            s_g = s_next
        returns[rollout] = total_return
        mode_hits[rollout] = hits
