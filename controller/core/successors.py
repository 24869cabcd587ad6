# SPDX-License-Identifier: MIT
r"""Next histograms by sampling or rounding: the paper's two stand-ins for the exact operator.

*Sampled*: m next histograms of each histogram c are drawn once and reused in every sweep; without
the reuse there is no fixed point. *Rounded*: the expected histogram c P, rounded to the grid by
largest remainder; one deterministic successor, biased, kept for comparison.

Both are arrays of point indices, shape (M, m), with m = 1 for the rounded one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.core.grid import MAX_BYTES, all_counts, project, rank

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray

_BLOCK = 65536


def sample_successors(P: FloatArray, size: int, m: int, seed: int) -> npt.NDArray[np.int32]:
    """Draw m next histograms for each histogram of `size` agents, shape (M, m)."""
    counts = all_counts(size, len(P))
    if 4 * len(counts) * m > MAX_BYTES:
        raise InputError(
            f"{m} samples for each of {len(counts)} histograms take {4 * len(counts) * m} bytes, "
            f"above the limit of {MAX_BYTES}"
        )
    rng = np.random.default_rng(seed)
    out = np.empty((len(counts), m), dtype=np.int32)
    for first in range(0, len(counts), _BLOCK):
        block = counts[first : first + _BLOCK]
        for i in range(m):
            moved = np.zeros_like(block)
            for j, row in enumerate(P):
                moved += rng.multinomial(block[:, j], row)
            out[first : first + _BLOCK, i] = rank(moved)
    return out


def rounded_successors(P: FloatArray, size: int) -> npt.NDArray[np.int32]:
    """Return the rounded expected next histogram of each histogram, shape (M, 1)."""
    counts = all_counts(size, len(P))
    return rank(project(counts @ P, size)).astype(np.int32)[:, None]
