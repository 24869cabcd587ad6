# SPDX-License-Identifier: MIT
"""Alias tables (Walker 1977), made by Vose's algorithm (1991).

Column c of C is taken with probability 1 / C, and stands for outcome c below its level, else for
`other[c]`; so a draw takes one uniform number and no search.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def make_pairs(level: F64, other: I64, columns: int, small: I64, large: I64) -> None:
    """Turn masses that sum to `columns` into levels and others, in place.

    `small` and `large` are scratch; all arrays hold at least `columns` entries. A column that needs
    no other has itself: its level is 1 up to rounding.
    """
    n_small, n_large = 0, 0
    for c in range(columns):
        other[c] = c
        if level[c] < 1.0:
            small[n_small] = c
            n_small += 1
        else:
            large[n_large] = c
            n_large += 1
    while n_small > 0 and n_large > 0:  # each too small column with one that is too large
        n_small -= 1
        c, d = small[n_small], large[n_large - 1]
        other[c] = d
        level[d] -= 1.0 - level[c]
        if level[d] < 1.0:
            n_large -= 1
            small[n_small] = d
            n_small += 1


#: The same inside kernels.
pair_up = inline(make_pairs)
