# SPDX-License-Identifier: MIT
r"""The histogram grid: all ways in which K agents spread over S states.

.. math:: \{c \in N^S : |c| = K\}, \qquad M(K) = \binom{K+S-1}{S-1}

Points are ordered lexicographically, the first coordinate slowest. The rank of a point follows from
the binomials alone: with r agents left for the coordinates j.., the points that have a smaller
c_j number B(r + m, m) - B(r - c_j + m, m), m = S - 1 - j. No dictionary, no look-up table.

======  ==============  =======  ============================
symbol  name            shape    meaning
======  ==============  =======  ============================
K       size            scalar   agents in a histogram
S       n_states        scalar   states of an agent
M       n_points        scalar   points of the grid
c       counts          (S,)     a histogram, sum K
======  ==============  =======  ============================
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray

#: Largest grid that is built, in bytes of one value function with all its global states.
MAX_BYTES = 256 * 2**20

#: Shares closer than this count as equal when a belief is rounded to the grid, so that the last
#: bits of a sum never decide; ties go to the lower state.
TIE = 1e-9


def grid_points(size: int, n_states: int) -> int:
    """Return M, the number of histograms of `size` agents over `n_states` states."""
    return math.comb(size + n_states - 1, n_states - 1)


def check_grid(size: int, n_states: int, n_global: int = 1) -> int:
    """Return M, or refuse a grid whose value function would not fit, before allocating it."""
    if not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"grid size {size} is not a whole number of at least 1")
    points = grid_points(int(size), n_states)
    needed = 8 * points * n_global
    if needed > MAX_BYTES:
        raise InputError(
            f"a grid of {size} agents over {n_states} states has {points * n_global} states, "
            f"and one value function takes {needed} bytes, above the limit of {MAX_BYTES}"
        )
    return points


@lru_cache(maxsize=64)
def binomials(size: int, n_states: int) -> IntArray:
    """Return B[r, m] = binomial(r + m, m), shape (size + 1, n_states), read-only."""
    values = [[math.comb(r + m, m) for m in range(n_states)] for r in range(size + 1)]
    if values[-1][-1] > np.iinfo(np.int64).max:
        raise InputError(f"a grid of {size} agents over {n_states} states has too many points")
    result = np.array(values, dtype=np.int64)
    result.setflags(write=False)
    return result


def rank(counts: npt.ArrayLike) -> IntArray:
    """Return the index on its grid of each histogram; all must have the same sum.

    Parameters
    ----------
    counts : array of shape (..., S)
        Histograms.

    Returns
    -------
    array of shape (...)
    """
    c = np.asarray(counts, dtype=np.int64)
    n_states = c.shape[-1]
    left = c.sum(axis=-1)
    table = binomials(int(left.max(initial=0)), n_states)
    index = np.zeros(left.shape, dtype=np.int64)
    for j in range(n_states - 1):
        m = n_states - 1 - j
        index += table[left, m] - table[left - c[..., j], m]
        left = left - c[..., j]
    return index


def unrank(index: npt.ArrayLike, size: int, n_states: int) -> IntArray:
    """Return the histogram at each index: the inverse of `rank`, shape (..., S)."""
    left_index = np.array(index, dtype=np.int64)
    left = np.full(left_index.shape, size, dtype=np.int64)
    table = binomials(size, n_states)
    counts = np.empty((*left_index.shape, n_states), dtype=np.int64)
    for j in range(n_states - 1):
        m = n_states - 1 - j
        # The points with smaller c_j number B[left] - B[left - c_j]: find the remainder left - c_j
        # as the smallest rest whose B[rest] is at least B[left] - index.
        rest = np.searchsorted(table[:, m], table[left, m] - left_index)
        left_index -= table[left, m] - table[rest, m]
        counts[..., j] = left - rest
        left = rest
    counts[..., n_states - 1] = left
    return counts


@lru_cache(maxsize=8)
def all_counts(size: int, n_states: int) -> IntArray:
    """Return the whole grid in order, shape (M, S), read-only."""
    points = unrank(np.arange(check_grid(size, n_states)), size, n_states)
    points.setflags(write=False)
    return points


def histogram_rank(counts: npt.ArrayLike) -> int:
    """Return the index of one histogram on its grid, the axis M of values and actions.

    Parameters
    ----------
    counts : array of shape (S,)
        Non-negative whole numbers; their sum is the grid's size.
    """
    c = np.asarray(counts)
    if c.ndim != 1 or c.size == 0:
        raise InputError(f"a histogram has one axis of states, not shape {c.shape}")
    if (
        not np.issubdtype(c.dtype, np.number)
        or not np.all(np.isfinite(c))
        or np.any(c != c.round())
    ):
        raise InputError(f"histogram {c.tolist()} does not hold whole numbers")
    if np.any(c < 0):
        raise InputError(f"histogram {c.tolist()} has a negative count")
    left = sum(int(x) for x in c)
    index = 0
    for m, x in zip(range(c.size - 1, 0, -1), c, strict=False):
        index += math.comb(left + m, m) - math.comb(left - int(x) + m, m)
        left -= int(x)
    return index


def project(weights: npt.ArrayLike, size: int) -> IntArray:
    """Round a non-negative vector to the grid of `size` agents by largest remainder.

    Ties go to the lower state. A vector of zeros carries no information and is read as uniform.

    Parameters
    ----------
    weights : array of shape (..., S)
        Pseudo-counts or shares, any positive total.

    Returns
    -------
    array of shape (..., S)
        Histograms that sum to `size`.
    """
    w = np.asarray(weights, dtype=np.float64)
    n_states = w.shape[-1]
    total = w.sum(axis=-1, keepdims=True)
    share: FloatArray = np.where(total > 0, w / np.where(total > 0, total, 1.0), 1 / n_states)
    ideal = size * share
    counts = np.floor(ideal + TIE).astype(np.int64)
    missing = size - counts.sum(axis=-1, keepdims=True)
    remainder = ideal - counts - TIE * np.arange(n_states)
    order = np.argsort(-remainder, axis=-1, kind="stable")
    position = np.argsort(order, axis=-1, kind="stable")
    rounded: IntArray = counts + (position < missing)
    return rounded
