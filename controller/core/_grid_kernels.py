# SPDX-License-Identifier: MIT
"""The histogram grid inside kernels: the same ranks and roundings as in `grid`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline
from kofn.controller.core.grid import TIE

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@inline
def rank(counts: I64, size: int, table: I64) -> int:
    """Return the rank of a histogram of `size` agents; `table` are the binomials of the grid."""
    n_states = counts.size
    index = 0
    left = size
    for j in range(n_states - 1):
        m = n_states - 1 - j
        index += table[left, m] - table[left - counts[j], m]
        left -= counts[j]
    return index


@inline
def project_rank(weights: F64, size: int, table: I64, counts: I64) -> int:
    """Return the rank of the weights rounded to the grid; `counts` is scratch, shape (S,)."""
    n_states = weights.size
    total = weights.sum()
    left = size
    for i in range(n_states):
        ideal = size * (weights[i] / total if total > 0.0 else 1.0 / n_states)
        counts[i] = int(np.floor(ideal + TIE))
        left -= counts[i]
    rounded_up = np.int64(0)  # bit i: state i has had its remainder
    for _ in range(left):
        best, best_remainder = 0, -np.inf
        for i in range(n_states):
            if (rounded_up >> i) & 1:
                continue
            ideal = size * (weights[i] / total if total > 0.0 else 1.0 / n_states)
            remainder = ideal - counts[i] - TIE * i
            if remainder > best_remainder:
                best, best_remainder = i, remainder
        counts[best] += 1
        rounded_up |= np.int64(1) << best
    return rank(counts, size, table)
