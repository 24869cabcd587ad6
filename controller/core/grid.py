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

from kofn.controller.core._arguments import MAX_AGENTS, check_int, shown, whole_table
from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray

#: Largest grid that is built, in bytes of one value function with all its global states.
MAX_BYTES = 256 * 2**20

#: Most agents of a grid, however few their states.
MAX_SIZE = 2**20

#: Most states of a histogram that is ranked: the binomials grow with them.
MAX_STATES = 1000

#: Shares closer than this count as equal when a belief is rounded to the grid, so that the last
#: bits of a sum never decide; ties go to the lower state.
TIE = 1e-9


def grid_points(size: int, n_states: int) -> int:
    """Return M, the number of histograms of `size` agents over `n_states` states."""
    return math.comb(size + n_states - 1, n_states - 1)


def check_grid(size: int, n_states: int, n_global: int = 1) -> int:
    """Return M, or refuse a grid whose value function would not fit, before allocating it."""
    size = check_int("grid size", size, 1, MAX_SIZE)
    points = grid_points(size, n_states)
    needed = 8 * points * n_global
    if needed > MAX_BYTES:
        raise InputError(
            f"a grid of {size} agents over {n_states} states has {shown(points * n_global)} "
            f"states, and one value function takes {shown(needed)} bytes, above the limit of "
            f"{MAX_BYTES}"
        )
    return points


@lru_cache(maxsize=64)
def binomials(size: int, n_states: int) -> IntArray:
    """Return B[r, m] = binomial(r + m, m), shape (size + 1, n_states), read-only."""
    if math.comb(size + n_states - 1, n_states - 1) > np.iinfo(np.int64).max:
        raise InputError(f"a grid of {size} agents over {n_states} states has too many points")
    result = np.ones((size + 1, n_states), dtype=np.int64)
    for m in range(1, n_states):
        np.cumsum(result[:, m - 1], out=result[:, m])
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
    c = whole_table("histogram", counts, 1)
    if c.size > MAX_STATES:
        raise InputError(f"histogram has {c.size} states, above the limit of {MAX_STATES}")
    if c.max() > MAX_AGENTS:
        raise InputError(f"histogram counts {c.max()} agents, above the limit of {MAX_AGENTS}")
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
