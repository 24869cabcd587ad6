# SPDX-License-Identifier: MIT
r"""`SwarmEnv`: the robots as agents of a PettingZoo `ParallelEnv`.

A robot sees its own zone and the global state, and all of them earn the same:

.. math:: o_i = (s_i, s_g), \qquad r = r_g(s_g, a_g) + \frac1n \sum_i r_l(s_i, s_g, a_i)

The global agent is part of the environment: a policy that polls k robots, or one that holds the
target. Robots choose by s_g(t). In games with `local_sees="next"` they then move under s_g(t+1), as
in `rollout(act_first=True)`.

| symbol | name | shape | unit |
|---|---|---|---|
| s_i, s_g | observation of a robot | (2,) int64 | index |
| a_i | action of a robot | - | index |
| - | `state()`: s_g, then available robots per zone | (1 + S_l,) int64 | index, counts |
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from pettingzoo import ParallelEnv

from kofn.controller.core.decision import NOT_MOVED, Decider
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.core.rollouts import resolve_horizon
from kofn.controller.core.starts import holding_actions
from kofn.sim.rl import fleets
from kofn.sim.rl.dispatcher import mean_reward
from kofn.sim.rl.picture import Painter
from kofn.sim.world import IntArray

MAX_AGENTS = 100_000


class SwarmEnv(ParallelEnv[str, IntArray, np.int64]):  # type: ignore[misc]
    """n robots, `robot_0` to `robot_{n-1}`, in any world.

    A robot that is not available (fallen, dead) stays an agent: its info says `up = False`, its
    action moves nothing, and the team's mean is over the others. Episodes are truncated at the
    horizon and never terminate before.

    Parameters
    ----------
    game
        A game, or the name or file of one.
    n, k
        Robots, at most 100 000, and how many the dispatcher polls.
    dispatcher
        The global agent: a `Policy` or the path of its file; None holds the global state. It
        believes that robots follow its own `pi_l`.
    memory
        Its memory, as in `Policy.memory_cap`.
    horizon
        Steps of an episode; None is the game's, or until the discounted rest weighs 1e-4.
    world
        "finite" (the game's own kernel), "kinematic", "bullet", or a function without arguments
        that returns a `World`.
    render_mode
        None or "rgb_array".

    Raises
    ------
    InputError
        A value is out of range, or the world is not of the game's size.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "kofn_swarm_v0",
        "render_modes": ["rgb_array"],
        "render_fps": 4,
        "is_parallelizable": True,
    }

    def __init__(
        self,
        game: Game | str = "arena",
        *,
        n: int = 20,
        k: int = 5,
        dispatcher: Policy | str | Path | None = None,
        memory: float | str | None = "auto",
        horizon: int | None = None,
        world: fleets.WorldSource = "finite",
        render_mode: str | None = None,
    ) -> None:
        self.game = fleets.check_game(game)
        n, k = fleets.check_sizes(n, k)
        if n > MAX_AGENTS:
            raise InputError(f"{n} robots as agents, the limit is {MAX_AGENTS}")
        fleets.check_render_mode(render_mode, self.metadata["render_modes"])
        self.n, self.k, self.render_mode = n, k, render_mode
        self.horizon = resolve_horizon(self.game, horizon)
        policy = None if dispatcher is None else fleets.policy_of(dispatcher)
        if policy is not None:
            policy.check_game(self.game)
        self._decider = None if policy is None else Decider(policy, k, memory)
        self._first_belief = None if self._decider is None else self._decider.weights.copy()
        self._holding = holding_actions(self.game)
        self._fleet = fleets.WorldFleet(self.game, n, world)
        self._painter = Painter(self.game.n_global == self.game.n_local)
        self.possible_agents = [f"robot_{i}" for i in range(n)]
        self.agents: list[str] = []
        sizes = [self.game.n_local, self.game.n_global]
        self.observation_spaces = {
            name: spaces.MultiDiscrete(sizes) for name in self.possible_agents
        }
        choices = self.game.n_local_actions
        self.action_spaces = {name: spaces.Discrete(choices) for name in self.possible_agents}
        self.state_space = spaces.MultiDiscrete([self.game.n_global] + [n + 1] * self.game.n_local)
        self._rng: np.random.Generator | None = None
        self._step: int | None = None
        self._s_g, self._moved_by = 0, NOT_MOVED

    def observation_space(self, agent: str) -> spaces.MultiDiscrete:
        """Return the space of (own zone, global state)."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """Return the space of local actions."""
        return self.action_spaces[agent]

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, IntArray], dict[str, dict[str, Any]]]:
        """Begin an episode; `options` has no entries."""
        if seed is not None or self._rng is None:
            self._rng, _ = np_random(seed)
        law_g, _ = self.game.initial.resolve(self.game.n_global, self.game.n_local)
        self._fleet.reset(self._rng)
        self._s_g, self._moved_by = int(self._rng.choice(self.game.n_global, p=law_g)), NOT_MOVED
        if self._decider is not None and self._first_belief is not None:
            self._decider.restore(self._first_belief)
        self._step = 0
        self.agents = list(self.possible_agents)
        self._painter.begin()
        return self._observe()

    def step(
        self, actions: dict[str, np.int64]
    ) -> tuple[
        dict[str, IntArray],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Let the dispatcher choose, all robots act, and everybody earn the team's reward."""
        if self._step is None or self._rng is None or not self.agents:
            raise RunError("no episode is under way: reset the environment first")
        game, s_g = self.game, self._s_g
        played = self._check(actions)
        a_g = self._dispatch()
        s_next = int(self._rng.choice(game.n_global, p=game.P_g[s_g, a_g]))
        moved_by = s_g if game.local_sees == "current" else s_next
        acting = self._fleet.play(played, moved_by)
        reward = float(game.r_g[s_g, a_g]) + mean_reward(acting, game.r_l[s_g])
        self._s_g, self._moved_by = s_next, moved_by
        self._step += 1
        over = self._step >= self.horizon
        names = self.agents
        observations, infos = self._observe()
        if over:
            self.agents = []
        return (
            observations,
            dict.fromkeys(names, reward),
            dict.fromkeys(names, False),
            dict.fromkeys(names, over),
            infos,
        )

    def state(self) -> IntArray:
        """Return the global state and the available robots per zone, shape (1 + S_l,)."""
        return np.concatenate([[self._s_g], self._fleet.counts]).astype(np.int64)

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Return a picture, shape (height, width, 3); None without a render mode."""
        if self.render_mode is None or self._step is None:
            return None
        return self._painter.draw(self._fleet, self._step, self._s_g, self.horizon)

    def close(self) -> None:
        """Release the world; idempotent."""
        self._fleet.close()
        self.agents, self._step = [], None

    def _check(self, actions: dict[str, np.int64]) -> IntArray:
        if missing := next((name for name in self.agents if name not in actions), None):
            raise InputError(f"no action for agent {missing}")
        if len(actions) != len(self.agents):
            foreign = next(name for name in actions if name not in set(self.agents))
            raise InputError(f"an action for {foreign!r}, which is no agent")
        limit = self.game.n_local_actions
        checked = [fleets.check_action(f"action of {name}", actions[name], limit)
                   for name in self.agents]  # fmt: skip
        return np.array(checked, dtype=np.int64)

    def _dispatch(self) -> int:
        """Return the global action, after a poll if the dispatcher is one that asks."""
        if self._decider is None or self._rng is None:
            return int(self._holding[self._s_g])
        histogram = self._fleet.poll(self._rng, self.k)
        return self._decider.decide(self._moved_by, self._s_g, histogram)

    def _observe(self) -> tuple[dict[str, IntArray], dict[str, dict[str, Any]]]:
        now = self._fleet.snapshot
        rows = np.stack([now.zones, np.full(self.n, self._s_g)], axis=1).astype(np.int64)
        if self.render_mode is not None:
            self._painter.note(self._fleet.counts, self._s_g)
        observations = {name: row.copy() for name, row in zip(self.agents, rows, strict=True)}
        infos = {name: {"up": up} for name, up in zip(self.agents, now.up.tolist(), strict=True)}
        return observations, infos
