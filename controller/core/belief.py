# SPDX-License-Identifier: MIT
r"""What is known about the fleet: pseudo-counts over the local states.

One step of the fleet predicts, one poll of m agents with counts c informs:

.. math:: b \leftarrow P^\pi[s_g]^T b, \qquad b \leftarrow \min(1, (cap - m)/|b|)\, b + c

so the total never exceeds the cap: old knowledge is first scaled down to what the cap leaves beside
the fresh counts. With cap = k, the poll size, a full poll leaves nothing of the old belief: that is
memoryless play. Where replies are missing (m < k) more of the old belief stays. A poll without any
reply only predicts.

The same arithmetic runs in the jitted rollouts and in the live controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray


class Belief:
    """Pseudo-counts over the local states.

    Parameters
    ----------
    kernels : array of shape (S_g, S_l, S_l)
        P^pi, the local kernel under the local policy, for each global state.
    cap : float
        Largest total of pseudo-counts after a poll: the effective memory, in agents.
    """

    __slots__ = ("_kernels", "cap", "weights")

    def __init__(self, kernels: npt.ArrayLike, cap: float) -> None:
        self._kernels: FloatArray = np.asarray(kernels, dtype=np.float64)
        if self._kernels.ndim != 3 or self._kernels.shape[1] != self._kernels.shape[2]:
            raise InputError(f"belief kernels have shape {self._kernels.shape}, not (G, S, S)")
        if not cap > 0:
            raise InputError(f"belief memory {cap} is not positive")
        self.cap = float(cap)
        self.weights: FloatArray = np.zeros(self._kernels.shape[1])

    def predict(self, s_g: int) -> None:
        """Move the belief on by one step of the fleet under the global state that moved it."""
        self.weights = self.weights @ self._kernels[s_g]

    def update(self, counts: npt.ArrayLike) -> None:
        """Add the fresh counts of one poll, shape (S_l,); fewer replies simply count less."""
        fresh = np.asarray(counts, dtype=np.float64)
        if fresh.shape != self.weights.shape:
            raise InputError(f"counts have shape {fresh.shape}, not {self.weights.shape}")
        m = fresh.sum()
        if m <= 0:
            return
        room = max(self.cap - m, 0.0)
        total = self.weights.sum()
        keep = room / total if total > room else 1.0
        self.weights = keep * self.weights + fresh

    def restore(self, weights: npt.ArrayLike) -> None:
        """Continue from recorded pseudo-counts, shape (S_l,)."""
        recorded = np.array(weights, dtype=np.float64)
        if recorded.shape != self.weights.shape or not np.all(recorded >= 0):
            raise InputError(f"a belief holds {self.weights.size} non-negative pseudo-counts")
        self.weights = recorded
