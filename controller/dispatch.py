# SPDX-License-Identifier: MIT
"""From answers to the global action: belief, table cell, action, next target.

    b <- predict(b, g(t-1));  b <- b + c(t), capped;  u(t) = pi_g(g(t), cell(b));  g(t+1) ~ P_g

| symbol | name | shape |
|---|---|---|
| b | `belief` pseudo-counts per zone | (S_l,) |
| c | `weights` of the round per zone (`estimate`) | (S_l,) |
| g, u | target (global state), global action | - |

The control run (`"random"`) draws u uniformly and has its robots act uniformly; its belief is kept
all the same, for the record.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kofn.controller.config import ControllerConfig
from kofn.controller.core.decision import NOT_MOVED, Decider
from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.streams import Streams

FIRST_ACTION = 0
"""u(-1), carried by step 0, which no action led to; also kept while no answer has come yet."""


class Dispatcher:
    """Applies a policy step by step.

    Parameters
    ----------
    config
        Poll size, memory, and whether to follow the policy or chance.
    policy
        The learned pair and its game.
    """

    def __init__(self, config: ControllerConfig, policy: Policy) -> None:
        game = policy.game
        if game.local_sees == "next":
            raise InputError(
                f"game {game.name or 'unnamed'} moves robots with the next target, but a live "
                "fleet acts on the current one: train a game with local_sees = 'current'"
            )
        self._game = game
        self._random = config.dispatcher == "random"
        self._streams = Streams(config.seed)
        self._law_g, _ = game.initial.resolve(game.n_global, game.n_local)
        played = policy.in_play(config.k, config.memory)
        if self._random:
            uniform = game.uniform_local_policy()
            played = Policy(game, played.grid, played.action, uniform, memory=played.memory)
        self.pi_l: npt.NDArray[np.float64] = played.pi_l
        self.kernels: npt.NDArray[np.float64] = game.marginals(self.pi_l)[0]
        """Local kernel under the local policy for each target, shape (S_g, S_l, S_l)."""
        self._decider = Decider(played, config.k, config.memory)

    @property
    def belief(self) -> npt.NDArray[np.float64]:
        """Pseudo-counts per zone now, shape (S_l,)."""
        return self._decider.weights.copy()

    def restore(self, belief: Sequence[float]) -> None:
        """Continue from recorded pseudo-counts, shape (S_l,)."""
        self._decider.restore(belief)

    def first_target(self) -> int:
        """Draw g(0) from the game's initial law."""
        return self._draw(self._law_g, t=0)

    def next_target(self, t: int, g: int, u: int) -> int:
        """Draw g(t+1) ~ P_g(. | g(t), u(t))."""
        return self._draw(self._game.P_g[g, u], t=t + 1)

    def predict(self, g: int) -> None:
        """Move the belief through one step of the fleet under target `g`."""
        self._decider.predict(g)

    def decide(self, t: int, g: int, weights: npt.NDArray[np.float64]) -> int:
        """Add what a round says, shape (S_l,), to the belief; return u(t)."""
        u = self._decider.decide(NOT_MOVED, g, weights)
        if self._random:
            rng = self._streams.at("dispatcher", t)
            return int(rng.integers(self._game.n_global_actions))
        # Asked to decide on nothing (m_min = 0 without memory), the fleet is left alone.
        return u if self._decider.weights.any() else FIRST_ACTION

    def _draw(self, law: npt.NDArray[np.float64], t: int) -> int:
        """Invert the distribution function at the one uniform number of step t."""
        point = self._streams.at("target", t).random() * law.sum()
        return int(min(np.searchsorted(np.cumsum(law), point, side="right"), law.size - 1))
