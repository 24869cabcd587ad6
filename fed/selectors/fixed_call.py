# SPDX-License-Identifier: MIT
"""One constant call, chosen on seeds that a study does not use: the control for learned rules.

Polls as the mean-field rule does, with the same bins, deadlines and efforts; only the decision is
missing. If it ties with a learned policy, the learning bought nothing. The rule is ours; its
source is the game of `mean_field` (arXiv 2603.03759), played by a constant policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kofn.fed.selectors.calls import CallSelector

if TYPE_CHECKING:
    import numpy as np


class FixedCallSelector(CallSelector):
    """Always the call of this name."""

    name = "fixed-call"

    def __init__(self, *, call: str = "all", **settings: Any) -> None:
        super().__init__(**settings)
        self._fixed = self.call_index(call)

    def decide(self, server_round: int, rng: np.random.Generator) -> tuple[int, float]:
        """Return the call."""
        del server_round, rng
        return self._fixed, 1.0
