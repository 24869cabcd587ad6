# SPDX-License-Identifier: MIT
"""The jitted inner loop of `density`: episodes in counts whose motion depends on the crowd."""

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _random as draw
from kofn.controller.core._grid_kernels import project_rank, rank
from kofn.controller.core._jit import inline, jit
from kofn.controller.core._rollout_kernels import MOVE, POLL, TARGET, predict, set_out, take_in

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


@inline
def crowd_bin(count: int, total: int, edges: F64) -> int:
    """Return the bin of `count` agents among `total`."""
    share = count / total
    b = 0
    while b < edges.size and share >= edges[b]:
        b += 1
    return b


@inline
def _move(
    stream: npt.NDArray[np.uint64],
    key: np.uint64,
    step: int,
    s_g: int,
    n: int,
    counts: I64,
    edges: F64,
    motion: F64,
    moved: I64,
) -> None:
    moved[:] = 0
    for j in range(counts.size):
        if counts[j] > 0:
            draw.begin(stream, key, step, MOVE + j)  # a stream of their own for those who leave j
            row = motion[s_g, crowd_bin(counts[j], n, edges), j]
            draw.add_multinomial(stream, counts[j], row, moved)


@jit
def episodes(
    first: int,
    last: int,
    seed: int,
    n: int,
    k: int,
    horizon: int,
    hold: int,
    grid: int,
    cap: float,
    gamma: float,
    alpha: float,
    law_g: F64,
    law_l: F64,
    P_g: F64,
    r_g: F64,
    motion: F64,
    r_pi: F64,
    edges: F64,
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
) -> None:
    """Play episodes first..last-1 and fill their rows of the output arrays.

    As `core._rollout_kernels.episodes`, with `motion` (S_g, B, S_l, S_l) by the bin of the source
    count instead of one kernel, and rewards by their mean r_pi (S_g, S_l) over local actions. With
    `hold` > 0 targets follow a schedule: a new one, uniform over the others, every `hold` steps.
    """
    n_local, n_global = law_l.size, law_g.size
    stream = np.empty(1, dtype=np.uint64)
    law = np.empty(n_local)
    counts = np.empty(n_local, dtype=np.int64)
    moved = np.empty(n_local, dtype=np.int64)
    left = np.empty(n_local, dtype=np.int64)
    sample = np.empty(n_local, dtype=np.int64)
    scratch = np.empty(n_local, dtype=np.int64)
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
            if counts[np.argmax(belief)] == counts.max():
                hits += 1
            a_g = action[s_g, project_rank(predicted, grid, table, scratch)]
            earned = 0.0
            for j in range(n_local):
                earned += counts[j] * r_pi[s_g, j]
            total_return += weight * (r_g[s_g, a_g] + earned / n)
            weight *= gamma
            if record:
                s_g_record[rollout, step] = s_g
                a_g_record[rollout, step] = a_g
                counts_record[rollout, step] = counts
            draw.begin(stream, key, step, TARGET)
            s_next = draw.categorical(stream, P_g[s_g, a_g])
            if hold > 0:
                s_next = s_g
                if (step + 1) % hold == 0 and n_global > 1:
                    shift = 1 + int(draw.uniform(stream) * (n_global - 1))
                    s_next = (s_g + shift) % n_global
            _move(stream, key, step, s_g, n, counts, edges, motion, moved)
            counts[:] = moved
            if cap > k:  # else the next poll replaces the belief anyway
                predict(belief, kernels, squares, s_g, cap, predicted)
            s_g = s_next
        returns[rollout] = total_return
        mode_hits[rollout] = hits


@jit
def successors(
    points: I64, seed: int, s_g: int, edges: F64, motion: F64, table: I64, out: I32
) -> None:
    """Draw next histograms of each histogram of `points` (M, S): ranks, shape (M, m).

    The crowd of a zone is its share of the histogram itself.
    """
    n_local = points.shape[1]
    size = 0
    for j in range(n_local):
        size += points[0, j]
    stream = np.empty(1, dtype=np.uint64)
    counts = np.empty(n_local, dtype=np.int64)
    moved = np.empty(n_local, dtype=np.int64)
    for c in range(points.shape[0]):
        counts[:] = points[c]
        key = draw.key(seed, c)
        for i in range(out.shape[1]):
            _move(stream, key, i, s_g, size, counts, edges, motion, moved)
            out[c, i] = rank(moved, size, table)
