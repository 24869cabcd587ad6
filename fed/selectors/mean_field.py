# SPDX-License-Identifier: MIT
"""The learned rule: a belief over client states from k polled statuses, and an exact policy on it.

The federated game (`kofn.fed.game`) is estimated from the rounds so far, solved by
`alternating_marl`, and played by the core's `Decider`: counts of the poll, belief, cell, call. The
local policy of the same solution says which bins train for how long.

Reference: Anand & Karmarkar 2026, arXiv 2603.03759.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from kofn.controller.core.policy import Policy
from kofn.fed.checks import check_size
from kofn.fed.game import greedy_efforts
from kofn.fed.selectors.learned import Cancelled, Fit, LearnedSelector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kofn.controller.core.decision import Decider
    from kofn.controller.core.game import Game


#: Error of a value, in those of one round's training, that is left to G-LEARN without exchanges.
TOLERANCE = 1e-3


class MeanFieldSelector(LearnedSelector):
    """Calls by the policy of `alternating_marl`.

    Parameters
    ----------
    grid : int
        Size of the policy's histogram grid.
    restarts, exchanges : int
        Starts of the loop besides the greedy one, and exchanges from each. With no exchange the
        policy is G-LEARN's answer to the greedy efforts, with the usual memory: far less
        work, and nothing is tuned by episodes.
    seed : int
        Of the episodes in which policies are compared.
    settings
        As for `LearnedSelector`.
    """

    name = "mean-field"

    def __init__(
        self,
        *,
        grid: int = 8,
        restarts: int = 0,
        exchanges: int = 2,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.grid = check_size("grid", grid, 2)
        self.exchanges = check_size("exchanges", exchanges, 0)
        self.restarts, self.seed = restarts, seed
        self._decider: Decider | None = None

    def learn_game(self, game: Game, stop: Callable[[], bool]) -> Policy:
        """Return the policy of the alternating loop."""
        from kofn.controller.core.alternation import alternating_marl

        def progress(done: int, total: int, text: str) -> None:
            del done, total, text
            if stop():
                raise Cancelled

        n = max(len(self.registered), 1)
        if self.exchanges == 0:
            from kofn.controller.core.deployment import USUAL_MEMORY
            from kofn.controller.core.global_learner import g_learn

            pi_l = greedy_efforts(game)
            table = g_learn(game, pi_l, self.grid, tol=TOLERANCE)
            return Policy(game, self.grid, table.action, pi_l, memory=min(self.k, n) + USUAL_MEMORY)
        return alternating_marl(
            game,
            min(self.k, n),
            n,
            grid=self.grid,
            restarts=self.restarts,
            rounds=self.exchanges,
            starts={"greedy": greedy_efforts(game)},
            seed=self.seed,
            progress=progress,
        ).policy

    def adopt(self, fit: Fit) -> None:
        """Take up a new policy; what is believed of the clients stays."""
        super().adopt(fit)
        self._decider = None if self.fit is None else self._prepare(fit)

    def as_policy(self, game: Game, learned: Policy) -> Policy:
        """Return the policy."""
        del game
        return learned

    def _prepare(self, fit: Fit) -> Decider:
        from kofn.controller.core.decision import Decider

        believed = None if self._decider is None else self._decider.weights
        return Decider(fit.learned, min(self.k, max(len(self.registered), 1)), start=believed)

    def choose(self, moved_by: int, s_g: int) -> int:
        """Return the next call."""
        if self._decider is None:
            return 0
        return self._decider.decide(moved_by, s_g, self.counts)

    def efforts(self, call: int) -> Sequence[int]:
        """Return the efforts of the learned local policy under a call."""
        if self.fit is None:
            return super().efforts(call)
        law = self.fit.learned.pi_l[self.shape.state(self.phase, call)]
        best = law[1:].argmax(axis=1)
        return [int(e) for e in best]

    def remembered_fit(self, fit: Fit) -> dict[str, Any]:
        """Return the policy as JSON values."""
        return {
            "round": fit.round,
            "policy": base64.b64encode(fit.learned.to_bytes()).decode(),
            "weights": None if self._decider is None else self._decider.weights.tolist(),
        }

    def recall_fit(self, state: dict[str, Any]) -> Fit:
        """Return the policy that was remembered, and take up its belief."""
        policy = Policy.from_bytes(base64.b64decode(state["policy"]))
        fit = Fit(policy.game, policy, state["round"])
        self._decider = self._prepare(fit)
        if state["weights"] is not None:
            self._decider.restore(np.array(state["weights"]))
        return fit
