# SPDX-License-Identifier: MIT
"""The jitted inner loop of `rollout`: one episode of n agents, held as counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _random as draw
from kofn.controller.core._grid_kernels import project_rank
from kofn.controller.core._jit import jit, unrolled
from kofn.controller.core._multinomials import add
from kofn.controller.core.belief import SURE

if TYPE_CHECKING:
    from kofn.controller.core._earnings import Earnings
    from kofn.controller.core._multinomials import Rows

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

# Purposes of the random streams: agents in state j move by MOVE + 2 j, those in the pool by
# MOVE + 2 S_l, and the g-th lot of agents who earn by chance draws from MOVE + 2 g + 1.
START, TARGET, POLL, MOVE = 0, 1, 2, 3


@unrolled
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
    if spread > SURE:
        worth = min(cap, (total + 1.0) * (1.0 - even) / spread - 1.0)
    grown = max(worth, total) / total
    for l in range(belief.size):
        belief[l] = moved[l] * grown


@unrolled
def set_out(
    stream: draw.Stream,
    key: np.uint64,
    alpha: float,
    law_g: F64,
    law_l: F64,
    law: F64,
    n: int,
    counts: I64,
) -> int:
    """Fill `counts` with n agents from `law_l`, or for alpha > 0 from a Dirichlet law; return s_g.

    `law` is scratch, shape (S,).
    """
    draw.begin(stream, key, 0, START)
    s_g = draw.categorical(stream, law_g)
    if alpha > 0.0:
        draw.dirichlet(stream, alpha, law)
    else:
        law[:] = law_l
    counts[:] = 0
    draw.add_multinomial(stream, n, law, counts)
    return s_g


@unrolled
def take_in(
    belief: F64, sample: I64, k: int, cap: float, prior: F64, s: int, predicted: F64
) -> None:
    """Add a poll of k to a belief of at most `cap`; `predicted` is it with the pull of prior[s]."""
    room = max(cap - k, 0.0)
    total = belief.sum()
    keep = room / total if total > room else 1.0
    for j in range(belief.size):
        belief[j] = keep * belief[j] + sample[j]
    pseudo = prior[s].sum()
    pull = pseudo / (pseudo + belief.sum()) if pseudo > 0.0 else 0.0
    for j in range(belief.size):
        predicted[j] = belief[j] + pull * prior[s, j]


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
    motion: Rows,
    common: Rows,
    gains: Earnings,
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
    grid; records are filled only with `record`. Row e S_l + j of `motion` is the law by which
    agents leave state j in the event e: the global state that moves them or, with `act_first`, a
    pair s_g S_g + s_g'. Its last outcome is the pool, whose law is row e of `common` (`_pooling`).
    `gains` has the same events, except that with `local_next` alone they are
    s_g. With `act_first` agents that move under the next global state have chosen their actions
    before, and `kernels` and `squares` have a first axis of pairs.
    """
    usual, lot, first_lots, extra, gain_rows, most = gains
    n_local, n_actions = law_l.size, extra.shape[1]
    stream = np.empty(1, dtype=np.uint64)
    law = np.empty(n_local)
    counts = np.empty(n_local, dtype=np.int64)
    moved = np.empty(n_local, dtype=np.int64)
    left = np.empty(n_local, dtype=np.int64)
    sample = np.empty(n_local, dtype=np.int64)
    scratch = np.empty(n_local, dtype=np.int64)
    parts = n_local + 1
    cells = np.empty(n_local * parts, dtype=np.int64)  # those who leave j by part l
    pooled = np.empty(1, dtype=np.int64)
    lots = np.empty(max(most, 1), dtype=np.int64)
    chosen = np.empty(max(most, 1) * n_actions, dtype=np.int64)
    belief = np.empty(n_local)
    predicted = np.empty(n_local)
    for rollout in range(first, last):
        key = draw.key(seed, rollout)
        s_g = set_out(stream, key, alpha, law_g, law_l, law, n, counts)
        belief[:] = first_belief
        total_return = 0.0
        weight = 1.0
        hits = 0
        for step in range(horizon):
            draw.begin(stream, key, step, POLL)
            draw.sample_without_replacement(stream, k, counts, left, sample)
            take_in(belief, sample, k, cap, prior, s_g, predicted)
            mode_known = counts[np.argmax(belief)] == counts.max()
            if mode_known:
                hits += 1
            a_g = action[s_g, project_rank(predicted, grid, table, scratch)]

            draw.begin(stream, key, step, TARGET)
            s_next = draw.categorical(stream, P_g[s_g, a_g])
            s_move = s_next if local_next else s_g
            moved_by = s_g * P_g.shape[0] + s_next if act_first else s_move

            # First the moves, then what those who made them had chosen and earned.
            event = moved_by if act_first else s_g
            first_lot = first_lots[event]
            n_lots = first_lots[event + 1] - first_lot
            earned = 0.0
            cells[:] = 0
            for j in range(n_local):
                earned += counts[j] * usual[s_g, j]
            stride = parts if n_lots > 0 else 0
            add(key, step, MOVE, counts, n_local, motion, moved_by * n_local, cells, stride)
            for l in range(n_local):
                moved[l] = cells[l]
            pooled[0] = cells[n_local]
            if n_lots > 0:
                lots[:n_lots] = 0
                for j in range(n_local):
                    for l in range(parts):
                        goers = cells[j * parts + l]
                        if j > 0 and l < n_local:
                            moved[l] += goers
                        elif j > 0:
                            pooled[0] += goers
                        if lot[event, j, l] >= 0:
                            lots[lot[event, j, l] - first_lot] += goers
                chosen[: n_lots * n_actions] = 0
                add(key, step, MOVE + 1, lots, n_lots, gain_rows, first_lot, chosen, n_actions)
                for g in range(n_lots):
                    for a in range(n_actions):
                        earned += chosen[g * n_actions + a] * extra[first_lot + g, a]
            if pooled[0] > 0:
                add(key, step, MOVE + 2 * n_local, pooled, 1, common, moved_by, moved, 0)
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

            for l in range(n_local):
                counts[l] = moved[l]
            if cap > k:  # else the next poll replaces the belief anyway
                predict(belief, kernels, squares, moved_by, cap, predicted)
            s_g = s_next
        returns[rollout] = total_return
        mode_hits[rollout] = hits
