# SPDX-License-Identifier: MIT
r"""The local agents behind an environment: in counts, or as the robots of a world.

Both forms answer three questions: how many agents are in each local state, what k polled ones say,
and what happens in one step in which each draws its action from `pi`:

.. math:: N_s, \qquad c \sim Hypergeometric(N, k), \qquad N_{sa} \sim Mult(N_s, \pi(\cdot|s))

| symbol | name | shape | unit |
|---|---|---|---|
| N | `counts`: available agents per local state | (S_l,) | counts |
| c | result of `poll` | (S_l,) | counts, sum k or all that are available |
| N_sa | result of `act` | (S_l, A_l) | counts |
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import check_int
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import load_game
from kofn.hardware.ring import RingLayout
from kofn.sim.crowd import MAX_ROBOTS, Crowd
from kofn.sim.finite import FiniteWorld
from kofn.sim.motion import MotionKernel
from kofn.sim.world import BoolArray, FloatArray, IntArray, Snapshot, World
from kofn.sim.worlds import make_world

MAX_SEED = 2**63 - 1

WorldSource = str | Callable[[], World]
"""A world by its name, or whatever builds one, such as `WorldConfig(...).build`."""


class Fleet(Protocol):
    """What an environment asks of its local agents."""

    @property
    def counts(self) -> IntArray:
        """Available agents per local state, shape (S_l,)."""
        ...

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        ...

    def poll(self, rng: np.random.Generator, k: int) -> IntArray:
        """Ask k agents that are drawn anew; return the histogram of what they say."""
        ...

    def act(self, rng: np.random.Generator, pi: FloatArray, s_g: int) -> IntArray:
        """Let every agent draw its action from `pi` (S_l, A_l) and move under s_g."""
        ...

    def close(self) -> None:
        """Release what is behind it; idempotent."""
        ...


class CountedFleet:
    """n agents of a game in counts: a step costs the same for ten and for a billion."""

    def __init__(self, game: Game, n: int) -> None:
        self._game, self._n = game, n
        self._kernel = MotionKernel.of_game(game)
        self._crowd: Crowd | None = None

    @property
    def counts(self) -> IntArray:
        """Agents per local state, shape (S_l,)."""
        return self._open().counts

    def reset(self, rng: np.random.Generator) -> None:
        """Draw the agents' states from the game's initial law."""
        self._crowd = Crowd(self._n, self._kernel, start=draw_start(self._game, rng))
        self._crowd.reset(int(rng.integers(MAX_SEED)))

    def poll(self, rng: np.random.Generator, k: int) -> IntArray:
        """Return the histogram of k agents drawn without replacement."""
        return draw_histogram(rng, self.counts, k)

    def act(self, rng: np.random.Generator, pi: FloatArray, s_g: int) -> IntArray:  # noqa: ARG002
        """Let every agent act; the crowd has random numbers of its own."""
        return self._open().step(pi, s_g)

    def close(self) -> None:
        """Forget the agents."""
        self._crowd = None

    def _open(self) -> Crowd:
        if self._crowd is None:
            raise RunError("the environment has no state: reset it first")
        return self._crowd


class WorldFleet:
    """The robots of a world; those that are not available are neither polled nor paid.

    Parameters
    ----------
    game, n
        The game and the number of robots.
    source
        "finite" is the game's own kernel from its initial law; "kinematic" and "bullet" are a ring
        of S_l zones. A function builds any other world; the fleet resets and closes it.

    Raises
    ------
    InputError
        Unknown world, robots that do not fit, or a world that is not of the game's size.
    """

    def __init__(self, game: Game, n: int, source: WorldSource) -> None:
        self._game, self._n = game, n
        self._kernel = MotionKernel.of_game(game) if source == "finite" else None
        self._world: World | None = self._build(source)
        spec = self._world.spec
        have = (spec.n, spec.n_zones, spec.n_actions)
        if have != (n, game.n_local, game.n_local_actions):
            self._world.close()
            raise InputError(
                f"a world of {spec.n} robots, {spec.n_zones} zones and {spec.n_actions} actions "
                f"for a game of {n}, {game.n_local} and {game.n_local_actions}"
            )
        self._snapshot: Snapshot | None = None
        self.actions: IntArray = np.full(n, -1, dtype=np.int64)
        self.polled: BoolArray = np.zeros(n, dtype=np.bool_)

    def _build(self, source: WorldSource) -> World:
        if callable(source):
            return source()
        if self._kernel is not None:
            return FiniteWorld(self._n, self._kernel)
        return make_world(source, self._n, RingLayout(zones=self._game.n_local))

    @property
    def snapshot(self) -> Snapshot:
        """The robots now."""
        if self._snapshot is None:
            raise RunError("the environment has no state: reset it first")
        return self._snapshot

    @property
    def world(self) -> World:
        """The world."""
        if self._world is None:
            raise RunError("the environment is closed")
        return self._world

    @property
    def counts(self) -> IntArray:
        """Available robots per zone, shape (S_l,)."""
        now = self.snapshot
        return np.bincount(now.zones[now.up], minlength=self._game.n_local)

    def reset(self, rng: np.random.Generator) -> None:
        """Rebuild the world."""
        start, seed = draw_start(self._game, rng), int(rng.integers(MAX_SEED))
        if self._kernel is not None:
            period_s = self.world.spec.period_s
            self._world = FiniteWorld(self._n, self._kernel, start=start, period_s=period_s)
        self.world.reset(seed)
        self.actions = np.full(self._n, -1, dtype=np.int64)
        self.polled = np.zeros(self._n, dtype=np.bool_)
        self._snapshot = self.world.observe()

    def poll(self, rng: np.random.Generator, k: int) -> IntArray:
        """Return the histogram of k available robots, or of all if there are fewer."""
        now = self.snapshot
        able = np.flatnonzero(now.up)
        asked = rng.choice(able, size=min(k, able.size), replace=False)
        self.polled = np.zeros(self._n, dtype=np.bool_)
        self.polled[asked] = True
        return np.bincount(now.zones[asked], minlength=self._game.n_local)

    def act(self, rng: np.random.Generator, pi: FloatArray, s_g: int) -> IntArray:
        """Let every robot draw its action and act it out for one option."""
        cdf = np.cumsum(pi, axis=1)
        rows = (cdf / cdf[:, -1:])[self.snapshot.zones]
        x = rng.random((self._n, 1))
        return self.play((rows[:, :-1] <= x).sum(axis=1), s_g)

    def play(self, actions: IntArray, s_g: int) -> IntArray:
        """Let robots act out these actions, shape (n,), for one option; return N_sa."""
        before, world = self.snapshot, self.world
        see_target = getattr(world, "see_target", None)
        if see_target is not None:
            see_target(s_g)
        self.actions = np.where(before.up, actions, -1).astype(np.int64)
        world.apply(self.actions)
        world.advance(world.spec.period_s)
        self._snapshot = world.observe()
        acting = np.zeros((self._game.n_local, self._game.n_local_actions), dtype=np.int64)
        np.add.at(acting, (before.zones[before.up], actions[before.up]), 1)
        return acting

    def close(self) -> None:
        """Close the world."""
        if self._world is not None:
            self._world.close()
        self._world = self._snapshot = None


def draw_start(game: Game, rng: np.random.Generator) -> FloatArray:
    """Return the law of the local states at the start of an episode, shape (S_l,)."""
    alpha = game.initial.alpha
    if alpha is not None:
        drawn: FloatArray = rng.dirichlet(np.full(game.n_local, alpha))
        return drawn
    return game.initial.resolve(game.n_global, game.n_local)[1]


def draw_histogram(rng: np.random.Generator, counts: IntArray, k: int) -> IntArray:
    """Return a sample of k of `counts` (S_l,) without replacement, for totals below 10^9."""
    size = min(k, int(counts.sum()))
    # "marginals" does not walk through the counts one by one.
    drawn: IntArray = rng.multivariate_hypergeometric(counts, size, method="marginals")
    return drawn


def check_game(game: Game | str) -> Game:
    """Return the game, loaded if it is given by its name or file."""
    return game if isinstance(game, Game) else load_game(game)


def check_sizes(n: object, k: object) -> tuple[int, int]:
    """Return fleet size and poll size, 1 <= k <= n < 10^9."""
    fleet, poll = check_int("fleet size", n, 1, MAX_ROBOTS), check_int("poll size", k, 1)
    if poll > fleet:
        raise InputError(f"poll size {poll} exceeds fleet size {fleet}")
    return fleet, poll


def check_render_mode(mode: str | None, known: list[str]) -> None:
    """Raise `InputError` for a way of rendering that there is not."""
    if mode is not None and mode not in known:
        raise InputError(f"render_mode is {mode!r}, not None or one of {', '.join(known)}")


def check_action(name: str, action: object, limit: int) -> int:
    """Return an action below `limit` as an int; libraries also hand over arrays without axes."""
    if isinstance(action, np.ndarray) and action.ndim == 0:
        action = action.item()
    return check_int(name, action, 0, limit - 1)


def check_local_policy(game: Game, given: Policy | str | Path | npt.ArrayLike | None) -> FloatArray:
    """Return a local policy (S_g, S_l, A_l): of a policy or its file, a table, None = uniform."""
    if given is None:
        return game.uniform_local_policy()
    if isinstance(given, (Policy, str, Path)):
        given = policy_of(given).pi_l
    return game.local_policy(given)


def policy_of(given: Policy | str | Path) -> Policy:
    """Return a policy, read if it is given as a path."""
    return given if isinstance(given, Policy) else Policy.load(given)
