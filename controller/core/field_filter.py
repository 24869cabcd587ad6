# SPDX-License-Identifier: MIT
r"""What the polls of an episode say about the whole fleet, starting from what starts look like.

A fleet is large, so its shares mu_t over local states follow from its start and from the path of
the global state. What is unknown is the start. Let mu^1 .. mu^H be sampled starts, each moved on by
P^pi; the polled counts c weigh them, and the belief b adds up the polls as in `Belief`:

.. math:: \log w_h \mathrel{+}= \sum_j c_j \log\bigl((1-\epsilon) \mu^h_j + \epsilon / S_l\bigr),
   \qquad \hat\mu = \frac{p \sum_h w_h \mu^h + b}{p + |b|}

The first part knows what a fleet can look like: a single agent tells of its whole cluster. The
second one outvotes it, after p polled agents, where the fleet looks like none of the starts.

======  ===========  ==================  ==================================
symbol  name         shape               meaning
======  ===========  ==================  ==================================
mu^h    fields       (E, H, S_l)         starts, moved on
w       log_weights  (E, H)              log likelihood of each start
b       weights      (E, S_l)            pseudo-counts of the polls
p       trust        scalar              agents that the starts weigh
======  ===========  ==================  ==================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import (
    MAX_TIMES,
    check_choice,
    check_int,
    check_real,
    distribution,
    index_array,
    weights_table,
)
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import LocalSees

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray

#: Pseudo-agents of the starts, and the most that polls add up to.
DEFAULT_TRUST = 300.0
DEFAULT_MEMORY = 2000.0

#: Share of agents that may be anywhere: no start is ruled out by a single reply.
_ANYWHERE = 1e-3


class FieldFilter:
    """Estimates of the fleet's shares in E episodes side by side.

    Parameters
    ----------
    kernels : array, shape (S_g, S_l, S_l)
        P^pi for each global state.
    fields : array, shape (H, S_l)
        Sampled starts.
    local_sees : {"current", "next"}
        Which global state moves the agents, as in `Game`.
    trust, memory : float
        p, and the cap on the pseudo-counts b, in agents.
    """

    def __init__(
        self,
        kernels: npt.ArrayLike,
        fields: npt.ArrayLike,
        *,
        local_sees: LocalSees = "current",
        trust: float = DEFAULT_TRUST,
        memory: float = DEFAULT_MEMORY,
    ) -> None:
        self._kernels: FloatArray = distribution("kernels", kernels, 3)
        self._starts = distribution("fields", fields, 2)
        if self._kernels.shape[1:] != (self._starts.shape[1],) * 2:
            raise InputError(
                f"kernels of shape {self._kernels.shape} do not fit "
                f"fields of {self._starts.shape[1]} local states"
            )
        check_choice("local_sees", local_sees, get_args(LocalSees))
        self._local_sees = local_sees
        self._trust = check_real("trust", trust, above=0)
        self._memory = check_real("memory", memory, above=0)
        self.start(1)

    def start(self, episodes: int) -> None:
        """Forget everything and begin new episodes."""
        episodes = check_int("episodes", episodes, 1, MAX_TIMES)
        H, S_l = self._starts.shape
        self._fields = np.broadcast_to(self._starts, (episodes, H, S_l))
        self._log_weights = np.zeros((episodes, H))
        self._weights = np.zeros((episodes, S_l))
        self._s_g: IntArray | None = None

    def observe(self, s_g: npt.ArrayLike, counts: npt.ArrayLike) -> FloatArray:
        """Return the shares, shape (E, S_l), after one more step and its poll.

        Parameters
        ----------
        s_g : array of int, shape (E,)
            Global state now.
        counts : array, shape (E, S_l)
            Polled agents in each local state.
        """
        fresh = weights_table("counts", counts, 2, self._weights.shape)
        s_g = index_array("s_g", s_g, fresh.shape[:1], len(self._kernels))
        if self._s_g is not None:
            kernels = self._kernels[self._s_g if self._local_sees == "current" else s_g]
            self._fields = np.matmul(self._fields, kernels)
            self._weights = np.matmul(self._weights[:, None], kernels)[:, 0]
        self._s_g = s_g
        likely = np.log((1 - _ANYWHERE) * self._fields + _ANYWHERE / fresh.shape[1])
        self._log_weights += np.matmul(likely, fresh[:, :, None])[:, :, 0]
        w = np.exp(self._log_weights - self._log_weights.max(axis=1, keepdims=True))
        w /= w.sum(axis=1, keepdims=True)
        room = np.maximum(self._memory - fresh.sum(axis=1, keepdims=True), 0.0)
        total = self._weights.sum(axis=1, keepdims=True)
        keep = np.where(total > room, room / np.maximum(total, 1e-300), 1.0)
        self._weights = keep * self._weights + fresh
        pooled = self._trust * np.matmul(w[:, None], self._fields)[:, 0] + self._weights
        shares: FloatArray = pooled / pooled.sum(axis=1, keepdims=True)
        return shares
