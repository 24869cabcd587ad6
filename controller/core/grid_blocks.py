# SPDX-License-Identifier: MIT
"""Where the points of a histogram grid lie in memory: its lines, and the order of other labels.

Made once for each grid and kept; what is computed on them is in `_power_kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core.grid import all_counts, grid_points, rank

if TYPE_CHECKING:
    from kofn.controller.core.game import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Contiguous blocks along the grid lines of each pair of states, see `apply_elementary`."""

    starts: IntArray
    lengths: IntArray
    lines: IntArray
    pairs: IntArray
    rows: IntArray


@lru_cache(maxsize=4)
def grid_blocks(size: int, n_states: int) -> Blocks:
    """Return the blocks of a grid, for all pairs of states at once.

    The blocks of a pair (i, j) are themselves the points of a grid: of the states up to the later
    of the two and one that stands for all others.
    """
    starts, lengths, lines = [], [], [0]
    pairs = np.zeros((n_states, n_states, 3), dtype=np.int64)
    for i in range(n_states - 2):
        for j in range(i + 1, n_states - 1):
            within = j == n_states - 2  # then a block is a row, and j lies within it
            n_kept = j + 1 if within else j + 2
            kept = all_counts(size, n_kept)
            merged = kept.copy()
            merged[:, j] += merged[:, i]
            merged[:, i] = 0
            order = np.lexsort((kept[:, i], rank(merged)))
            kept = kept[order]
            # Line after line, c_i counting up from 0 along each.
            ends = np.append(np.flatnonzero(kept[:, i] == 0)[1:], len(kept))
            first_line = len(lines) - 1
            lines.extend((lines[-1] + ends).tolist())
            pairs[i, j] = first_line, len(lines) - 1, within
            starts.append(_first_points(kept, n_states))
            n_other = n_states - n_kept + 1
            points = [grid_points(rest, n_other) for rest in range(size + 1)]
            lengths.append(np.array(points, dtype=np.int64)[kept[:, -1]])
        pairs[i, n_states - 1] = *pairs[i, n_states - 2, :2], 0
    rows = _first_points(all_counts(size, n_states - 1), n_states)
    none = np.empty(0, dtype=np.int64)
    return Blocks(
        starts=np.concatenate([*starts, none]),
        lengths=np.concatenate([*lengths, none]),
        lines=np.array(lines, dtype=np.int64),
        pairs=pairs,
        rows=np.append(rows, grid_points(size, n_states)),
    )


def _first_points(kept: IntArray, n_states: int) -> IntArray:
    """Return the index of the first point whose leading coordinates are kept[:, :-1]."""
    points = np.zeros((len(kept), n_states), dtype=np.int64)
    points[:, : kept.shape[1] - 1] = kept[:, :-1]
    points[:, -1] = kept[:, -1]
    return rank(points)


@lru_cache(maxsize=8)
def relabelled(size: int, order: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return, for each histogram c, the index of c[order]."""
    return rank(all_counts(size, len(order))[:, order]).astype(np.int32)


@lru_cache(maxsize=2)
def neighbour_table(size: int, n_states: int) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Return the index of each smaller histogram with one agent added in each state, and offsets.

    The rows of the histograms of r agents begin at offsets[r].
    """
    sizes = [grid_points(r, n_states) for r in range(size)]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    parts = [
        rank(all_counts(r, n_states)[:, None, :] + np.eye(n_states, dtype=np.int64))
        if r
        else rank(np.eye(n_states, dtype=np.int64))[None]
        for r in range(size)
    ]
    return np.concatenate(parts).astype(np.int32), offsets
