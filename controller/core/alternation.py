# SPDX-License-Identifier: MIT
r"""ALTERNATING-MARL: best responses in turn, judged in the n-agent system.

From a starting local policy, G-LEARN answers pi_l, L-LEARN answers pi_g, and so on. The value of
the closed system of K agents is not the value of the n deployed ones, so it never decides: every
pair is played by n agents under common random numbers and replaces the best one so far only if the
confidence interval of the paired difference lies above zero.

From the uniform policy alone the responses often settle in a poor equilibrium. Further starts are
the local answers to the dispatcher that *holds* the global state (for each s_g the action that most
likely keeps it) and to each constant dispatcher.

How a pair is deployed matters as much as the pair:

- the grid of the table (K) and the poll (k) are separate; a finer table knows more;
- what a poll shows is pulled towards the usual picture of the fleet (`Policy.prior`) by a tuned
  number of pseudo-agents;
- the memory of the belief is tuned for play with it.

Pairs are judged by the mean of the two returns, without memory and with it, so that the policy is
good for both.

Reference: Anand & Karmarkar 2026, arXiv 2603.03759, Algorithm 1.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.core.global_learner import g_learn
from kofn.controller.core.grid import check_grid, grid_points
from kofn.controller.core.local_learner import Objective, l_learn
from kofn.controller.core.policy import Policy
from kofn.controller.core.rollouts import resolve_horizon, rollout
from kofn.controller.core.team import initial_histograms

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game

#: Points of the default table, and of the smaller one on which starts are compared.
TABLE_POINTS = 11_000
SCREEN_POINTS = 1_100
_MAX_GRID = 60

#: Episodes of one judgement: the first look, and the most that a close call may take.
_LOOK, _MOST = 1000, 4000

#: Separates the episodes of training from those of evaluation under the same seed.
_TRAINING = 0x7261696E

#: Standard errors that the paired difference must exceed.
_CONFIDENCE = 2.0

#: A pair that can be better by no more than this share of the return is not looked at again.
_INDIFFERENT = 1e-3

#: Belief caps and sizes of the prior, in agents: those tried in the end, and those with which pairs
#: are compared. What a good prior weighs depends on the fleet's spread, hardly on the poll.
_MEMORIES = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)
_PRIORS = (0.0, 2.0, 4.0, 6.0, 8.0, 11.0, 14.0, 18.0, 25.0, 40.0)
_USUAL_MEMORY, _USUAL_PRIOR = 80.0, 12.0


class Progress(Protocol):
    """Called after each piece of work: how many are done, of how many at most, and what it was."""

    def __call__(self, done: int, total: int, text: str) -> None:
        """Report one piece of work."""


@dataclass(frozen=True, slots=True)
class Round:
    """One judged pair.

    Attributes
    ----------
    start : str
        Where its chain began: "hold", "uniform" or "constant a".
    round : int
        0 for the answer to the start itself.
    player : {"global", "local"}
        Who moved last before the pair was judged.
    surrogate : float
        Value of the closed system of K agents from the initial law.
    memoryless, belief, stderr : float
        Deployed mean returns, and the standard error of their mean.
    rollouts : int
        Episodes played, in both modes together.
    accepted : bool
        Whether it became the best pair.
    seconds : float
        Time spent on it.
    """

    start: str
    round: int
    player: Literal["global", "local"]
    surrogate: float
    memoryless: float
    belief: float
    stderr: float
    rollouts: int
    accepted: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Solution:
    """The result of `alternating_marl`: the best deployed policy and all pairs judged."""

    policy: Policy
    history: tuple[Round, ...]


def default_grid(game: Game, k: int, points: int = TABLE_POINTS) -> int:
    """Return the table's grid for polls of k: as fine as `points` allow, at least 2."""
    size = 2
    while size < max(_MAX_GRID, k) and grid_points(size + 1, game.n_local) <= points:
        size += 1
    return size


def holding_actions(game: Game) -> npt.NDArray[np.int32]:
    """Return for each global state the action that most likely keeps it, shape (S_g,)."""
    states = np.arange(game.n_global)
    holding: npt.NDArray[np.int32] = np.argmax(game.P_g[states, :, states], axis=1).astype(np.int32)
    return holding


def starting_policies(game: Game, k: int) -> dict[str, FloatArray]:
    """Return the local policies to start from, by name, the most promising first."""
    points = check_grid(k, game.n_local, game.n_global)
    uniform = game.uniform_local_policy()

    def answer(actions: npt.NDArray[np.int32]) -> FloatArray:
        # A dispatcher that ignores the agents leaves each of them alone with its own reward, so
        # the selfish answer is the team's, and on one agent it is exact.
        table = np.repeat(actions[:, None], points, axis=1)
        return l_learn(game, table, uniform, k, objective="selfish")

    starts = {"hold": answer(holding_actions(game)), "uniform": uniform}
    for a in range(game.n_global_actions):
        starts[f"constant {a}"] = answer(np.full(game.n_global, a, dtype=np.int32))
    return starts


@dataclass(frozen=True, slots=True)
class _Judged:
    policy: Policy
    memoryless: FloatArray
    belief: FloatArray

    @property
    def scores(self) -> FloatArray:
        result: FloatArray = (self.memoryless + self.belief) / 2
        return result


class _Deployment:
    """The n-agent system in which pairs are judged, always with the same random numbers."""

    def __init__(self, game: Game, n: int, k: int, seed: int) -> None:
        self.game, self.n, self.k = game, n, k
        # Not the user's seed itself: whoever evaluates the policy under it must meet new episodes.
        self.seed = int(np.random.SeedSequence([seed, _TRAINING]).generate_state(1)[0])
        self.horizon = resolve_horizon(game, None)

    def returns(self, policy: Policy, rollouts: int, memory: float | str) -> FloatArray:
        return rollout(
            self.game,
            policy,
            n=self.n,
            k=self.k,
            horizon=self.horizon,
            rollouts=rollouts,
            seed=self.seed,
            memory=memory,
        ).returns

    def usual_picture(self, policy: Policy) -> FloatArray:
        """Return the mean shares of the fleet while the global state is s_g, (S_g, S_l)."""
        records = rollout(
            self.game,
            policy,
            n=self.n,
            k=self.k,
            horizon=self.horizon,
            rollouts=200,
            seed=self.seed + 1,
            record=True,
        ).records
        assert records is not None  # noqa: S101 - record=True
        shares = np.full((self.game.n_global, self.game.n_local), 1.0 / self.game.n_local)
        for s in range(self.game.n_global):
            seen = records.s_g == s
            if seen.any():
                shares[s] = records.counts[seen].mean(axis=0) / self.n
        return shares

    def dress(self, grid: int, action: npt.NDArray[np.int32], pi_l: FloatArray) -> Policy:
        """Return the pair with an ordinary memory and prior."""
        memory = max(_USUAL_MEMORY, 8.0 * self.k)
        picture = self.usual_picture(Policy(self.game, grid, action, pi_l, memory=memory))
        return Policy(self.game, grid, action, pi_l, memory=memory, prior=_USUAL_PRIOR * picture)

    def judge(self, policy: Policy, rollouts: int) -> _Judged:
        return _Judged(
            policy, self.returns(policy, rollouts, "none"), self.returns(policy, rollouts, "auto")
        )

    def better(self, new: _Judged, best: _Judged | None) -> tuple[bool, _Judged, _Judged | None]:
        """Decide whether a pair replaces the best one, with more episodes while it is close."""
        if best is None:
            return True, new, best
        while True:
            size = min(new.scores.size, best.scores.size)
            gap = new.scores[:size] - best.scores[:size]
            mean, error = float(gap.mean()), float(gap.std(ddof=1)) / math.sqrt(size)
            margin = _CONFIDENCE * error
            hopeless = mean + margin <= _INDIFFERENT * abs(float(best.scores.mean()))
            if mean > margin or mean <= 0 or hopeless or size >= _MOST:
                return mean > margin, new, best
            new = self.judge(new.policy, 2 * size)
            if best.scores.size < 2 * size:
                best = self.judge(best.policy, 2 * size)

    def tune(self, policy: Policy, picture: FloatArray, rollouts: int) -> Policy:
        """Return the policy with the prior best for play without and with memory, then the memory.

        A prior is tried with a few memories, as a large one wants a long memory beside it.
        """

        def variant(memory: float | None, prior: FloatArray) -> Policy:
            return Policy(
                self.game, policy.grid, policy.action, policy.pi_l, memory=memory, prior=prior
            )

        def mean(candidate: Policy) -> float:
            return float(self.returns(candidate, rollouts, "auto").mean())

        priors = [size * picture for size in _PRIORS]
        coarse = [m for m in _MEMORIES[2::2] if m > self.k]
        scores = [
            mean(variant(None, prior)) + max((mean(variant(m, prior)) for m in coarse), default=0.0)
            for prior in priors
        ]
        prior = priors[int(np.argmax(scores))]
        options = [variant(m, prior) for m in (None, *(m for m in _MEMORIES if m > self.k))]
        return options[int(np.argmax([mean(option) for option in options]))]


def alternating_marl(
    game: Game,
    k: int,
    n: int,
    *,
    grid: int | None = None,
    objective: Objective = "team",
    restarts: int | None = None,
    rounds: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
) -> Solution:
    """Learn a policy for n agents of which k are polled in each step.

    Parameters
    ----------
    game : Game
    k, n : int
        Poll size and fleet size, 1 <= k <= n.
    grid : int, optional
        Size of the table's histogram grid, which may exceed k; chosen by the number of its points
        if omitted.
    objective : {"team", "selfish"}
        What the local agents raise, see `l_learn`.
    restarts : int, optional
        How many starting policies are tried: hold, uniform, then the constants; all if omitted.
    rounds : int
        Largest number of exchanges from each start.
    seed : int
        Of all deployed episodes.
    progress : callable, optional
        Told about each piece of work.

    Returns
    -------
    Solution
        The best deployed pair, with tuned memory and prior, and the history.
    """
    for what, given in (("poll size", k), ("fleet size", n), ("rounds", rounds)):
        if not isinstance(given, (int, np.integer)) or given < 1:
            raise InputError(f"{what} {given} is not a whole number of at least 1")
    if k > n:
        raise InputError(f"poll size {k} exceeds fleet size {n}")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed {seed} is not a whole number of at least 0")
    if restarts is not None and restarts < 1:
        raise InputError(f"restarts {restarts} is not at least 1")
    began = time.perf_counter()
    size = default_grid(game, k) if grid is None else grid
    check_grid(size, game.n_local, game.n_global)
    small = min(size, default_grid(game, k, SCREEN_POINTS))
    deployment = _Deployment(game, n, k, seed)
    starts = list(starting_policies(game, small).items())[:restarts]
    total = len(starts) * rounds + 2
    done = 0
    history: list[Round] = []
    best: _Judged | None = None
    best_start = ""
    seen: set[bytes] = set()
    law = initial_histograms(game, small)
    tol = 1e-4 * float(np.ptp(game.r_l) + np.ptp(game.r_g) + 1e-300) / (1 - game.gamma)

    def report(text: str) -> None:
        if progress is not None:
            progress(done, total, text)

    for position, (name, start) in enumerate(starts):
        pi_l = start
        value: FloatArray | None = None
        for index in range(rounds):
            clock = time.perf_counter()
            answer = g_learn(game, pi_l, small, tol=tol, warm_start=value)
            value = answer.value
            key = answer.action.tobytes() + np.round(pi_l, 9).tobytes()
            if key in seen:  # a pair met before: a fixed point, a cycle or another start's chain
                break
            seen.add(key)
            judged = deployment.judge(deployment.dress(small, answer.action, pi_l), _LOOK)
            accepted, judged, best = deployment.better(judged, best)
            if accepted:
                best, best_start = judged, name
            scores = judged.scores
            history.append(
                Round(
                    start=name,
                    round=index,
                    player="global" if index == 0 else "local",
                    surrogate=float((law * value.T).sum()),
                    memoryless=float(judged.memoryless.mean()),
                    belief=float(judged.belief.mean()),
                    stderr=float(scores.std(ddof=1) / math.sqrt(scores.size)),
                    rollouts=2 * scores.size,
                    accepted=accepted,
                    seconds=time.perf_counter() - clock,
                )
            )
            done = position * rounds + index + 1
            report(f"{name}, round {index}: {float(scores.mean()):.2f}")
            if index + 1 < rounds:
                pi_l = l_learn(game, answer.action, pi_l, small, objective=objective)
        done = (position + 1) * rounds
    assert best is not None  # noqa: S101 - the first pair is always accepted

    pi_l = best.policy.pi_l
    table = g_learn(game, pi_l, size, tol=tol)
    done += 1
    report(f"table on grid {size}")
    dressed = deployment.dress(size, table.action, pi_l)
    tuned = deployment.tune(dressed, dressed.prior / _USUAL_PRIOR, _LOOK)
    final = deployment.judge(tuned, 2 * _LOOK)
    done = total
    report("memory and prior tuned")
    policy = Policy(
        game,
        size,
        tuned.action,
        tuned.pi_l,
        memory=tuned.memory,
        prior=tuned.prior,
        provenance={
            "kind": "alternating-marl",
            "k": int(k),
            "n": int(n),
            "objective": objective,
            "restarts": len(starts),
            "rounds": int(rounds),
            "seed": int(seed),
            "start": best_start,
            "pairs_judged": len(history),
            "memoryless": float(final.memoryless.mean()),
            "belief": float(final.belief.mean()),
            "seconds": round(time.perf_counter() - began, 3),
        },
    )
    return Solution(policy, tuple(history))
