# SPDX-License-Identifier: MIT
r"""What is known about the fleet: pseudo-counts over the local states.

Pseudo-counts b of total w stand for a Dirichlet law of the fleet's shares, with mean m = b / w. It
starts as the law of the game's start. One poll of j agents with counts c informs (exactly, by
Bayes' rule), and one step of the fleet predicts:

.. math:: b &\leftarrow \min(1, (cap - j)/w)\, b + c \\
   b &\leftarrow w'\, P^T m, \qquad
   w' = \min\Bigl(cap,\ (w + 1) \frac{1 - |P^T m|^2}{\sum_i m_i |P_i|^2 - |P^T m|^2} - 1\Bigr)

with P = P^pi[s_g] and its rows P_i. The prediction is that of the Dirichlet law with the true mean
and the true total variance of P^T mu: where agents spread, what was unknown about them is
forgotten, so that the prediction is worth more agents than were ever polled (w' >= w). The fleet's
own chance (of order 1/n), the shape of the variance and errors of the model are left out; for them
the cap bounds the total.

With cap = k, the poll size, a full poll leaves nothing of the old belief: that is memoryless play.
Where replies are missing (j < k) more of the old belief stays. A poll without any reply only
predicts.

======  ==============  ====================  =====================================
symbol  name            shape                 meaning
======  ==============  ====================  =====================================
b       weights         (S_l,)                pseudo-counts, in agents
P^pi    kernels         (S_g, S_l, S_l)       one step of an agent under its policy
cap     cap             scalar                largest total, in agents
======  ==============  ====================  =====================================

The same arithmetic runs in the jitted rollouts and in the live controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import check_int, check_real, distribution, weights_table
from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, InitialLaw

#: Pseudo-counts of each state to start from where nothing better is known (Jeffreys).
USUAL_START = 0.5

#: A predicted variance below this share of the largest possible one is rounding.
SURE = 1e-12


def starting_weights(initial: InitialLaw, n_global: int, n_local: int) -> FloatArray:
    """Return the pseudo-counts before the first poll, shape (S_l,).

    A Dirichlet start is what it says. A fixed law is trusted for no more than S_l / 4 agents, as a
    real fleet may start elsewhere.
    """
    if initial.alpha is not None:
        return np.full(n_local, float(initial.alpha))
    _, law = initial.resolve(n_global, n_local)
    weights: FloatArray = USUAL_START / 2 * (1.0 + n_local * law)
    return weights


class Belief:
    """Pseudo-counts over the local states.

    Parameters
    ----------
    kernels : array of shape (S_g, S_l, S_l)
        P^pi, the local kernel under the local policy, for each global state.
    cap : float
        Largest total of pseudo-counts: the effective memory, in agents.
    start : array of shape (S_l,), optional
        Pseudo-counts before the first poll; 1/2 for each state by default.
    """

    __slots__ = ("_kernels", "_squares", "cap", "weights")

    def __init__(
        self, kernels: npt.ArrayLike, cap: float, start: npt.ArrayLike | None = None
    ) -> None:
        self._kernels: FloatArray = distribution("belief kernels", kernels, 3)
        if self._kernels.shape[1] != self._kernels.shape[2]:
            raise InputError(f"belief kernels have shape {self._kernels.shape}, not (G, S, S)")
        self.cap = check_real("belief memory", cap, above=0)
        self._squares: FloatArray = (self._kernels**2).sum(axis=2)
        n_local = self._kernels.shape[1]
        self.weights: FloatArray = np.zeros(n_local)
        self.restore(np.full(n_local, USUAL_START) if start is None else start)

    def predict(self, s_g: int) -> None:
        """Move the belief on by one step of the fleet under the global state that moved it."""
        s_g = check_int("s_g", s_g, 0, len(self._kernels) - 1)
        total = self.weights.sum()
        if total <= 0:
            return
        moved = self.weights @ self._kernels[s_g]
        even = (moved @ moved) / total**2
        spread = (self.weights @ self._squares[s_g]) / total - even
        worth = self.cap
        if spread > SURE:
            worth = min(self.cap, (total + 1.0) * (1.0 - even) / spread - 1.0)
        self.weights = moved * (max(worth, total) / total)

    def update(self, counts: npt.ArrayLike) -> None:
        """Add the fresh counts of one poll, shape (S_l,); fewer replies simply count less."""
        fresh = weights_table("counts", counts, 1, self.weights.shape)
        m = fresh.sum()
        if m <= 0:
            return
        room = max(self.cap - m, 0.0)
        total = self.weights.sum()
        keep = room / total if total > room else 1.0
        self.weights = keep * self.weights + fresh

    def restore(self, weights: npt.ArrayLike) -> None:
        """Continue from recorded pseudo-counts, shape (S_l,)."""
        self.weights = weights_table("weights", weights, 1, self.weights.shape)
