# SPDX-License-Identifier: MIT
r"""Binomial draws of at most 1023 trials by look-up, for probabilities that are used again.

A number of trials is written in base 4, and the successes of each digit's trials are drawn by
themselves, each by one random word and one look-up in an alias table (Walker 1977, Vose 1991):

.. math:: \mathrm{Bin}(n, p) = \sum_i \mathrm{Bin}(d_i 4^i, p), \qquad n = \sum_i d_i 4^i.

The five look-ups do not wait for each other, and no branch depends on chance. An entry holds the
53 bits of a threshold and the 10 bits of the column that is taken beyond it, so the law is exact to
2^-53, the resolution of our uniform numbers.

========  ============  ========================================================
name      shape         meaning
========  ============  ========================================================
tables    (T, ENTRIES)  entries of the probabilities, one table after the other
OFFSET    (20,)         where the table of digit d at place i begins: [4 i + d]
========  ============  ========================================================
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kofn.controller.core._alias import pair_up
from kofn.controller.core._jit import jit, unrolled
from kofn.controller.core._random import GOLDEN, mix

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

PLACES = 5
LIMIT = 4**PLACES
"""Trials below this number are looked up."""
MOST = 256
"""Probabilities that get tables: 16 kB each, of which the caches hold the busy part."""


def _offsets() -> tuple[I64, int]:
    offset, at = [], 0
    for place in range(PLACES):
        for digit in range(4):
            offset.append(at)
            at += digit * 4**place + 1
    return np.array(offset), at


OFFSET, ENTRIES = _offsets()
_SHIFT_11, _SHIFT_53, _SHIFT_10 = np.uint64(11), np.uint64(53), np.uint64(10)
_FRACTION, _COLUMN = np.uint64(2**53 - 1), np.uint64(1023)


@jit
def _fill(p: float, out: U64) -> None:
    """Fill the tables of one probability, 0 < p < 1."""
    mass = np.empty(LIMIT)
    small = np.empty(LIMIT, dtype=np.int64)
    large = np.empty(LIMIT, dtype=np.int64)
    other = np.empty(LIMIT, dtype=np.int64)
    for at in range(OFFSET.size):
        n = (at % 4) * 4 ** (at // 4)
        columns = n + 1
        mode = min(int((n + 1) * p), n)
        mass[mode] = 1.0
        for k in range(mode, 0, -1):
            mass[k - 1] = mass[k] * k * (1.0 - p) / ((n - k + 1) * p)
        for k in range(mode, n):
            mass[k + 1] = mass[k] * (n - k) * p / ((k + 1) * (1.0 - p))
        total = 0.0
        for k in range(columns):
            total += mass[k]
        for k in range(columns):
            mass[k] *= columns / total
        pair_up(mass, other, columns, small, large)
        for k in range(columns):
            level = 1.0 if other[k] == k else min(mass[k], 1.0)
            threshold = np.uint64(min(math.floor(level * 2.0**53), 2.0**53 - 1.0))
            out[OFFSET[at] + k] = (threshold << _SHIFT_10) | np.uint64(other[k])


@lru_cache(maxsize=2048)
def _table(p: float) -> U64:
    out = np.zeros(ENTRIES, dtype=np.uint64)
    _fill(p, out)
    return out


def tables_of(shares: F64) -> tuple[I64, U64]:
    """Tables for probabilities of any shape: their numbers (-1 without a table), and the tables.

    Equal probabilities share a table, up to rounding in the 15th digit; 0 and 1 need none.
    """
    flat = shares.ravel()
    wanted = (flat > 0.0) & (flat < 1.0)
    values, index = np.unique(np.round(flat[wanted], 15), return_inverse=True)
    inside = np.clip(values, 1e-15, 1.0 - 1e-15)
    number = np.full(flat.size, -1, dtype=np.int64)
    number[wanted] = np.where(index < MOST, index, -1)
    kept = [_table(float(p)) for p in inside[:MOST]]
    tables = np.stack(kept) if kept else np.zeros((1, ENTRIES), dtype=np.uint64)
    return number.reshape(shares.shape), tables


@unrolled
def look_up(state: np.uint64, n: int, tables: U64, number: int) -> tuple[np.uint64, int]:
    """Return the advanced state and the successes in n < LIMIT trials."""
    k = 0
    place = 0
    while n > 0:
        digit = n & 3
        columns = np.uint64((digit << (2 * place)) + 1)
        state += GOLDEN
        product = (mix(state) >> _SHIFT_11) * columns
        column = product >> _SHIFT_53
        entry = tables[number, OFFSET[4 * place + digit] + int(column)]
        above = (product & _FRACTION) >= (entry >> _SHIFT_10)
        k += int(entry & _COLUMN) if above else int(column)
        n >>= 2
        place += 1
    return state, k
