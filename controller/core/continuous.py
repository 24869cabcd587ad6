# SPDX-License-Identifier: MIT
"""Learning for a continuous simulator, and playing in it with k of n agents observed per step.

The simulator is binned into a game (`binning`). The two players answer each other in that game, the
dispatcher by `mean_field_learn`, the agents each for themselves against the global state's movement
that follows. Every pair is then played in the continuous simulator, under common random numbers,
and replaces the best one only if the paired confidence interval lies above zero: the bins propose,
the simulator decides.

In play a local agent sees its own bin and that of the global state; the dispatcher sees the bin of
the global state and the bins of k agents, drawn afresh in each step.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kofn.controller.core._arguments import (
    MAX_TIMES,
    check_callable,
    check_int,
    check_kind,
    check_poll,
    check_seed,
)
from kofn.controller.core.belief import Belief
from kofn.controller.core.binning import Binned
from kofn.controller.core.bins import bins_of
from kofn.controller.core.field_filter import DEFAULT_MEMORY, DEFAULT_TRUST, FieldFilter
from kofn.controller.core.game import Game
from kofn.controller.core.local_learner import selfish_response
from kofn.controller.core.mean_field import (
    MeanFieldSolution,
    effective_kernel_of_plans,
    mean_field_learn,
)
from kofn.controller.core.policy import Policy
from kofn.controller.core.simulator import check_methods, reset, spawn, step

if TYPE_CHECKING:
    from kofn.controller.core.alternation import Progress
    from kofn.controller.core.game import FloatArray, IntArray

#: Steps of an episode of a game without horizon.
_STEPS = 100

#: Largest fleet, each agent of which is simulated, and most episodes of one call.
MAX_FLEET, MAX_EPISODES = 10**7, 10**6

#: Agents that are simulated at once.
_AT_ONCE = 400_000

#: Separates the episodes of training from those of evaluation under the same seed.
_TRAINING = 0x7261696E

#: Standard errors that the paired difference must exceed.
_CONFIDENCE = 2.0


class Dispatcher(Protocol):
    """The global agent in play, for E episodes side by side, and the local policy beside it."""

    @property
    def pi_l(self) -> FloatArray:
        """Local policy, shape (S_g, S_l, A_l)."""

    def start(self, episodes: int) -> None:
        """Begin new episodes."""

    def decide(self, s_g: IntArray, counts: IntArray) -> IntArray:
        """Return the global actions (E,) for global states (E,) and polled counts (E, S_l)."""


class TableDispatcher:
    """Plays a `Policy`: its belief and its table, as the live controller does.

    Parameters
    ----------
    policy : Policy
    k : int
        Poll size.
    memory : "auto", "none" or number
        As in `Policy.memory_cap`.
    """

    def __init__(self, policy: Policy, k: int, memory: float | str | None = "auto") -> None:
        check_kind("policy", policy, Policy).memory_cap(k, memory)  # refuses bad ones
        self._policy, self._k, self._memory = policy, int(k), memory
        self._beliefs: list[Belief] = []
        self._s_g: IntArray | None = None

    @property
    def pi_l(self) -> FloatArray:
        """Local policy, shape (S_g, S_l, A_l)."""
        return self._policy.pi_l

    def start(self, episodes: int) -> None:
        """Begin new episodes."""
        kernels = self._policy.game.marginals(self._policy.pi_l)[0]
        cap = self._policy.memory_cap(self._k, self._memory)
        self._beliefs = [Belief(kernels, cap) for _ in range(episodes)]
        self._s_g = None

    def decide(self, s_g: IntArray, counts: IntArray) -> IntArray:
        """Return the global actions (E,)."""
        movers = self._s_g if self._policy.game.local_sees == "current" else s_g
        chosen = np.empty(len(s_g), dtype=np.int64)
        for e, belief in enumerate(self._beliefs):
            if self._s_g is not None and movers is not None:
                belief.predict(int(movers[e]))
            belief.update(counts[e])
            chosen[e] = self._policy.decide(int(s_g[e]), belief.weights)
        self._s_g = s_g
        return chosen


class FieldDispatcher:
    """Follows the plan that is best for the filtered shares of the fleet.

    Parameters
    ----------
    game : Game
    pi_l : array, shape (S_g, S_l, A_l)
    solution : MeanFieldSolution
        The answer to `pi_l`.
    fields : array, shape (H, S_l)
        Sampled starts, see `FieldFilter`; `trust` and `memory` as there.
    """

    def __init__(
        self,
        game: Game,
        pi_l: FloatArray,
        solution: MeanFieldSolution,
        fields: FloatArray,
        *,
        trust: float = DEFAULT_TRUST,
        memory: float = DEFAULT_MEMORY,
    ) -> None:
        self._pi_l = check_kind("game", game, Game).local_policy(pi_l)
        self.solution = check_kind("solution", solution, MeanFieldSolution)
        self._filter = FieldFilter(
            game.marginals(pi_l)[0],
            fields,
            local_sees=game.local_sees,
            trust=trust,
            memory=memory,
        )

    @property
    def pi_l(self) -> FloatArray:
        """Local policy, shape (S_g, S_l, A_l)."""
        return self._pi_l

    def start(self, episodes: int) -> None:
        """Begin new episodes."""
        self._filter.start(episodes)

    def decide(self, s_g: IntArray, counts: IntArray) -> IntArray:
        """Return the global actions (E,)."""
        return self.solution.decide(s_g, self._filter.observe(s_g, counts))


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """The result of `play_continuous`: discounted returns, shape (episodes,)."""

    returns: FloatArray

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean return (nan for a single episode)."""
        size = self.returns.size
        return float(self.returns.std(ddof=1) / math.sqrt(size)) if size > 1 else math.nan


def play_continuous(
    model: Binned,
    dispatcher: Dispatcher,
    *,
    k: int,
    n: int | None = None,
    horizon: int | None = None,
    episodes: int = 300,
    seed: int = 0,
) -> Played:
    """Play episodes of n agents in the continuous simulator, k of them polled in each step.

    Parameters
    ----------
    model : Binned
        Simulator and bins; its game gives the discount and the usual horizon.
    dispatcher : Dispatcher
    k, n : int
        Poll size and fleet size, 1 <= k <= n; n is the model's by default.
    horizon : int, optional
        Steps; the game's, or 100 where it has none.
    episodes : int
    seed : int
        Different dispatchers under one seed meet the same starts, polls and random numbers.
    """
    k, fleet = _fleet(model, k, n)
    usual = model.game.horizon or _STEPS
    steps = usual if horizon is None else check_int("horizon", horizon, 1, MAX_TIMES)
    episodes = check_int("episodes", episodes, 1, MAX_EPISODES)
    check_methods("dispatcher", dispatcher, ("start", "decide"))
    model.game.local_policy(dispatcher.pi_l)
    at_once = max(1, _AT_ONCE // fleet)
    parts = [min(at_once, episodes - first) for first in range(0, episodes, at_once)]
    seeds = spawn(seed, len(parts))
    returns = [
        _play_part(model, dispatcher, k, fleet, steps, size, part)
        for size, part in zip(parts, seeds, strict=True)
    ]
    return Played(np.concatenate(returns))


def _fleet(model: Binned, k: int, n: int | None) -> tuple[int, int]:
    """Return checked poll size and fleet size."""
    check_kind("model", model, Binned)
    poll, fleet = check_poll(k, model.n if n is None else n)
    return poll, check_int("fleet size", fleet, 1, MAX_FLEET)


def _play_part(
    model: Binned,
    dispatcher: Dispatcher,
    k: int,
    n: int,
    steps: int,
    episodes: int,
    seed: np.random.SeedSequence,
) -> FloatArray:
    # One stream each, so that no part of the play shifts the random numbers of another.
    world, polls, acts = map(np.random.default_rng, seed.spawn(3))
    cumulated = dispatcher.pi_l.cumsum(axis=2)
    n_local = model.game.n_local
    rows = np.arange(episodes)[:, None]
    s_g, s_l = reset(model.simulator, world, episodes, n)
    dispatcher.start(episodes)
    returns = np.zeros(episodes)
    for t in range(steps):
        g = bins_of(model.bins_g, s_g, (episodes,))
        j = bins_of(model.bins_l, s_l, (episodes, n))
        polled = np.argpartition(polls.random((episodes, n)), k - 1, axis=1)[:, :k]
        seen = rows * n_local + np.take_along_axis(j, polled, axis=1)
        counts = np.bincount(seen.ravel(), minlength=episodes * n_local)
        a_g = dispatcher.decide(g, counts.reshape(episodes, n_local))
        u = acts.random((episodes, n))
        a_l = np.zeros((episodes, n), dtype=np.int64)
        for a in range(cumulated.shape[2] - 1):
            a_l += u >= cumulated[g[:, None], j, a]
        s_g, s_l, r_g, r_l = step(model.simulator, world, s_g, s_l, model.actions[a_g], a_l)
        returns += model.game.gamma**t * (r_g + r_l.mean(axis=1))
    return returns


@dataclass(frozen=True, slots=True)
class ContinuousRound:
    """One judged pair: mean return in the simulator, value in the limit game, whether accepted."""

    round: int
    played: float
    stderr: float
    limit_value: float
    sweeps: int
    accepted: bool
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class ContinuousSolution:
    """The result of `learn_continuous`: the best dispatcher, its table of responses, the history.

    Attributes
    ----------
    dispatcher : FieldDispatcher
    history : tuple of ContinuousRound
    """

    dispatcher: FieldDispatcher
    history: tuple[ContinuousRound, ...]


def learn_continuous(
    model: Binned,
    *,
    k: int,
    n: int | None = None,
    rounds: int = 3,
    episodes: int = 300,
    seed: int = 0,
    progress: Progress | None = None,
) -> ContinuousSolution:
    """Learn for polls of k of n agents in the simulator behind a binned game.

    Parameters
    ----------
    model : Binned
    k, n : int
        Poll size and fleet size; n is the model's by default.
    rounds : int
        Largest number of answers of the dispatcher; the first one is to agents that expect the
        global state to stay.
    episodes : int
        Episodes of each judgement.
    seed : int
    progress : callable, optional
        Told about each round.
    """
    k, fleet = _fleet(model, k, n)
    rounds = check_int("rounds", rounds, 1, MAX_TIMES)
    episodes = check_int("episodes", episodes, 1, MAX_EPISODES)
    seed = check_seed(seed)
    check_callable("progress", progress)
    game = model.game
    states = np.arange(game.n_global)
    holding = np.argmax(game.P_g[states, :, states], axis=1)
    pi_l = selfish_response(game, np.array(game.P_g[states, holding]))
    judged_on = int(np.random.SeedSequence([seed, _TRAINING]).generate_state(1)[0])
    best: FieldDispatcher | None = None
    best_returns = np.empty(0)
    history: list[ContinuousRound] = []
    seen: set[bytes] = set()
    for index in range(rounds):
        if pi_l.tobytes() in seen:
            break
        seen.add(pi_l.tobytes())
        clock = time.perf_counter()
        solution = mean_field_learn(game, pi_l, model.fields, seed=seed)
        candidate = FieldDispatcher(game, pi_l, solution, model.fields)
        played = play_continuous(model, candidate, k=k, n=fleet, episodes=episodes, seed=judged_on)
        accepted = best is None or _better(played.returns - best_returns)
        if accepted:
            best, best_returns = candidate, played.returns
        history.append(
            ContinuousRound(
                round=index,
                played=played.mean,
                stderr=played.stderr,
                limit_value=solution.value,
                sweeps=solution.sweeps,
                accepted=accepted,
                seconds=time.perf_counter() - clock,
            )
        )
        if progress is not None:
            progress(index + 1, rounds, f"round {index}: {played.mean:.2f}")
        effective = effective_kernel_of_plans(game, pi_l, solution, model.fields, seed)
        pi_l = selfish_response(game, effective)
    assert best is not None  # noqa: S101 - the first pair is always accepted
    return ContinuousSolution(best, tuple(history))


def _better(difference: FloatArray) -> bool:
    if difference.size < 2:
        return bool(difference.mean() > 0)
    error = float(difference.std(ddof=1)) / math.sqrt(difference.size)
    return float(difference.mean()) > _CONFIDENCE * error
