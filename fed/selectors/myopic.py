# SPDX-License-Identifier: MIT
r"""Two stages and no continuation, on the same game and the same belief as the mean-field rule.

.. math:: a_g = \arg\max_a\; r_g(s_g, a) + \gamma\, E\bigl[\mu' \cdot r^\pi(s_g')\bigr],
   \qquad s_g' \sim P_g(\cdot|s_g, a), \quad \mu' = \mu P^\pi(s_g)

with mu the belief's shares. One stage would not do: a call is felt one round after it was chosen,
so that r_g alone always picks the cheapest call. Efforts are those that raise each stage reward.

A control of ours on the game and the belief of `mean_field`: Anand & Karmarkar 2026, arXiv
2603.03759.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kofn.controller.core.belief import Belief
from kofn.controller.core.errors import InputError
from kofn.fed.game import greedy_efforts
from kofn.fed.selectors.learned import Fit, LearnedSelector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kofn.controller.core.game import Game
    from kofn.fed.kernel import FloatArray

#: Memory of the belief in clients beyond the poll.
MEMORY = 80.0


class MyopicSelector(LearnedSelector):
    """Calls by a look one stage ahead."""

    name = "myopic"

    def __init__(self, **settings: Any) -> None:
        if settings.get("baseline"):
            raise InputError("selector myopic is a control for learned rules and takes no baseline")
        super().__init__(**settings)
        self._belief: Belief | None = None
        self._tables: tuple[FloatArray, FloatArray] | None = None

    def learn_game(self, game: Game, stop: Callable[[], bool]) -> FloatArray:
        """Return the local policy; there is nothing else to learn."""
        del stop
        return greedy_efforts(game)

    def adopt(self, fit: Fit) -> None:
        """Take up a new game; what is believed of the clients stays."""
        super().adopt(fit)
        self._take_up(fit, None if self._belief is None else self._belief.weights)

    def _take_up(self, fit: Fit, weights: FloatArray | None) -> None:
        self._tables = fit.game.marginals(fit.learned)
        self._belief = Belief(self._tables[0], self.k + MEMORY, weights)

    def choose(self, moved_by: int, s_g: int) -> int:
        """Return the call with the best next stage."""
        if self.fit is None or self._belief is None or self._tables is None:
            return 0
        game = self.fit.game
        self._belief.predict(moved_by)
        self._belief.update(self.counts)
        kernels, earned = self._tables
        weights = self._belief.weights
        shares = weights / max(weights.sum(), 1e-300)
        next_stage = earned @ (shares @ kernels[s_g])
        score = game.r_g[s_g] + game.gamma * (game.P_g[s_g] @ next_stage)
        return int(np.argmax(score))

    def efforts(self, call: int) -> Sequence[int]:
        """Return the efforts that raise the stage reward under a call."""
        if self.fit is None:
            return super().efforts(call)
        best = self.fit.learned[self.shape.state(self.phase, call)][1:].argmax(axis=1)
        return [int(e) for e in best]

    def remembered_fit(self, fit: Fit) -> dict[str, Any]:
        """Return the game's log round and tables as JSON values."""
        game = fit.game
        return {
            "round": fit.round,
            "weights": None if self._belief is None else self._belief.weights.tolist(),
            "tables": {name: getattr(game, name).tolist() for name in ("P_g", "r_g", "P_l", "r_l")},
        }

    def recall_fit(self, state: dict[str, Any]) -> Fit:
        """Return the game that was remembered, and take up its belief."""
        from kofn.controller.core.game import Game

        game = Game(**state["tables"], gamma=self.game_settings.gamma)
        fit = Fit(game, greedy_efforts(game), state["round"])
        weights = state["weights"]
        self._take_up(fit, None if weights is None else np.array(weights))
        return fit
