# SPDX-License-Identifier: MIT
r"""`DispatcherEnv`: the global agent's problem as a Gymnasium environment.

In each step the learner sees its own state and what k of n agents say, and chooses a_g:

.. math:: o_t = (s_g, c), \quad c \sim poll(N, k), \qquad
   r_t = r_g(s_g, a_g) + \frac1n \sum_i r_l(s_i, s_g, a_i), \qquad s_g' \sim P_g(\cdot|s_g, a_g)

Local agents follow a given policy, as in `kofn.controller.core.rollout`: a policy has the same
expected discounted return here as there. Rewards are not discounted; the factor is `game.gamma`.
c is one poll: a learner that shall remember earlier ones needs memory of its own.

| symbol | name | shape | unit |
|---|---|---|---|
| s_g, c | observation | (1 + S_l,) int64 | index, then counts |
| a_g | action | - | index |
| N | info "counts", available agents per state; not for the learner | (S_l,) | counts |
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from kofn.controller.core.errors import RunError
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.core.rollouts import resolve_horizon
from kofn.sim.rl import fleets
from kofn.sim.rl.picture import Painter
from kofn.sim.world import IntArray


class DispatcherEnv(gymnasium.Env[IntArray, np.int64]):
    """Choose the global action from polls of k; registered as `kofn/Dispatcher-v0`.

    Observations are `MultiDiscrete([S_g, k+1, ..., k+1])`, actions `Discrete(A_g)`. Episodes do not
    terminate; they are truncated at the horizon.

    Parameters
    ----------
    game
        A game, or the name or file of one.
    n, k
        Fleet size and poll size, 1 <= k <= n.
    local
        What the local agents follow: a `Policy`, the path of its file, or a table of shape
        (S_g, S_l, A_l); None is uniform.
    horizon
        Steps of an episode; None is the game's, or until the discounted rest weighs 1e-4.
    world
        None plays in counts, "finite", "kinematic" and "bullet" with the robots of that world, and
        so does a function without arguments that returns a `World`. A world moves by its own rules:
        `P_l` then says nothing.
    render_mode
        None or "rgb_array".

    Raises
    ------
    InputError
        A value is out of range, or the world is not of the game's size.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as the base class declares it
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self,
        game: Game | str = "arena",
        *,
        n: int = 100,
        k: int = 5,
        local: Policy | str | Path | npt.ArrayLike | None = None,
        horizon: int | None = None,
        world: fleets.WorldSource | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.game = fleets.check_game(game)
        n, k = fleets.check_sizes(n, k)
        fleets.check_render_mode(render_mode, self.metadata["render_modes"])
        self.n, self.k, self.render_mode = n, k, render_mode
        self.horizon = resolve_horizon(self.game, horizon)
        self.pi_l = fleets.check_local_policy(self.game, local)
        self.observation_space = spaces.MultiDiscrete(
            [self.game.n_global] + [k + 1] * self.game.n_local
        )
        self.action_space = spaces.Discrete(self.game.n_global_actions)
        self._fleet: fleets.CountedFleet | fleets.WorldFleet = (
            fleets.CountedFleet(self.game, n)
            if world is None
            else fleets.WorldFleet(self.game, n, world)
        )
        self._painter = Painter(self.game.n_global == self.game.n_local)
        self._step: int | None = None
        self._s_g = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[IntArray, dict[str, Any]]:
        """Begin an episode; `options` has no entries."""
        super().reset(seed=seed, options=options)
        law_g, _ = self.game.initial.resolve(self.game.n_global, self.game.n_local)
        self._fleet.reset(self.np_random)
        self._s_g = int(self.np_random.choice(self.game.n_global, p=law_g))
        self._step = 0
        self._painter.begin()
        return self._observe()

    def step(self, action: np.int64 | int) -> tuple[IntArray, float, bool, bool, dict[str, Any]]:
        """Earn, draw the next global state, and let the local agents move."""
        if self._step is None:
            raise RunError("the environment has no state: reset it first")
        game, rng, s_g = self.game, self.np_random, self._s_g
        a_g = fleets.check_action("global action", action, game.n_global_actions)
        s_next = int(rng.choice(game.n_global, p=game.P_g[s_g, a_g]))
        if game.local_sees == "current":
            acting = self._fleet.act(rng, self.pi_l[s_g], s_g)
        else:  # they earn at s_g and move under s_g', as in `rollout`
            acting = rng.multinomial(self._fleet.counts, self.pi_l[s_g])
            self._fleet.act(rng, self.pi_l[s_next], s_next)
        reward = float(game.r_g[s_g, a_g]) + mean_reward(acting, game.r_l[s_g])
        self._s_g = s_next
        self._step += 1
        observation, info = self._observe()
        return observation, reward, False, self._step >= self.horizon, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Return a picture, shape (height, width, 3); None without a render mode."""
        if self.render_mode is None or self._step is None:
            return None
        return self._painter.draw(self._fleet, self._step, self._s_g, self.horizon)

    def close(self) -> None:
        """Release the world; idempotent."""
        self._fleet.close()
        self._step = None

    def _observe(self) -> tuple[IntArray, dict[str, Any]]:
        histogram = self._fleet.poll(self.np_random, self.k)
        observation = np.concatenate([[self._s_g], histogram]).astype(np.int64)
        counts = self._fleet.counts
        if self.render_mode is not None:
            self._painter.note(counts, self._s_g)
        return observation, {"counts": counts}


def mean_reward(acting: IntArray, r_l: npt.NDArray[np.float64]) -> float:
    """Mean local reward of those who acted, both of shape (S_l, A_l); 0 when nobody did."""
    total = int(acting.sum())
    return float((acting * r_l).sum()) / total if total else 0.0
