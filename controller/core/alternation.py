# SPDX-License-Identifier: MIT
r"""ALTERNATING-MARL: best responses in turn, judged in the n-agent system.

From a starting local policy, G-LEARN answers pi_l, L-LEARN answers pi_g, and so on. The value of
the closed system of K agents is not the value of the n deployed ones, so it never decides: every
pair is played by n agents under common random numbers and replaces the best one so far only if it
wins there (UPDATE; see `deployment` for the sequential test and its level).

The loop is repeated from several starts (`starts`). A chain ends when it meets a pair again, by the
hash of its tables: its own last one (a fixed point), an earlier one (a cycle), or one of another
start's chain, which it would only repeat.

How a pair is deployed matters as much as the pair:

- the grid of the table (K) and the poll (k) are separate; a finer table knows more;
- a bare poll is pulled towards the usual picture of the fleet (`Policy.prior`) by a tuned number
  of pseudo-agents;
- the memory of the belief is tuned for play with it.

Starts are compared on a smaller grid with usual settings. The pair that is best with memory gets
the full table and tuned settings, and on request it is polished (`polishing`). Small polls without
memory may want other local agents; where the pair that is best without memory is another one and
wins there, it is put beside the first (`Policy.bare`).

Reference: Anand & Karmarkar 2026, arXiv 2603.03759, Algorithm 1.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

from kofn.controller.core._arguments import check_callable, check_choice, check_int
from kofn.controller.core.deployment import LOOK, Deployment, Estimate, Judged, Play
from kofn.controller.core.errors import InputError
from kofn.controller.core.global_learner import g_learn
from kofn.controller.core.grid import check_grid, grid_points
from kofn.controller.core.local_learner import Objective, l_learn
from kofn.controller.core.policy import Policy
from kofn.controller.core.polishing import Polished, default_tolerance
from kofn.controller.core.polishing import polish as polish_policy
from kofn.controller.core.starts import given_policies, holding_actions, starting_policies
from kofn.controller.core.team import initial_histograms
from kofn.controller.core.tuning import best_memory, best_prior, with_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from kofn.controller.core.game import FloatArray, Game

__all__ = [
    "Progress",
    "Round",
    "Solution",
    "alternating_marl",
    "default_grid",
    "holding_actions",
    "starting_policies",
]

#: Points of the default table, and of the smaller one on which starts are compared.
TABLE_POINTS = 11_000
SCREEN_POINTS = 1_100
_MAX_GRID = 60

#: Pairs per start at most, whatever `rounds` asks for.
MAX_ROUNDS = 1000

#: Fresh episodes of the figures that are written into the policy.
_FINAL = 4 * LOOK

_PLAYS: tuple[Play, ...] = ("memory", "none")

#: How a chain of responses ended.
End = Literal["fixed point", "cycle", "met before", "rounds used up"]


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
        Where its chain began: "hold", "uniform", "constant a", or a given name.
    round : int
        0 for the answer to the start itself.
    player : {"global", "local"}
        Who moved last before the pair was judged.
    surrogate : float
        Value of the closed system of K agents from the initial law.
    memoryless, belief : Estimate
        Deployed mean returns without memory and with it, with standard error and 95 % interval.
    rollouts : int
        Episodes played in each way.
    samples : int
        Steps of the n-agent system that were simulated, in both ways together.
    accepted : bool
        Whether it became the best pair, with memory or without.
    seconds : float
        Time spent on it.
    """

    start: str
    round: int
    player: Literal["global", "local"]
    surrogate: float
    memoryless: Estimate
    belief: Estimate
    rollouts: int
    samples: int
    accepted: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Solution:
    """The result of `alternating_marl`.

    Attributes
    ----------
    policy : Policy
        The best deployed pair, with tuned memory and prior.
    history : tuple of Round
        All pairs judged, in order.
    ends : dict of str to str
        How the chain of each start ended.
    polished : Polished or None
        What polishing did, if asked for.
    """

    policy: Policy
    history: tuple[Round, ...]
    ends: dict[str, End]
    polished: Polished | None = None


def default_grid(game: Game, k: int, points: int = TABLE_POINTS) -> int:
    """Return the table's grid for polls of k: as fine as `points` allow, at least 2."""
    size = 2
    while size < max(_MAX_GRID, k) and grid_points(size + 1, game.n_local) <= points:
        size += 1
    return size


def _hash(action: npt.NDArray[np.int32], pi_l: FloatArray) -> bytes:
    # Rounded, so that the last bits of a mixture do not make a new pair.
    return hashlib.blake2b(action.tobytes() + np.round(pi_l, 9).tobytes(), digest_size=16).digest()


class _Search:
    """Chains of best responses from one start after another, and the best pairs so far."""

    def __init__(
        self, deployment: Deployment, grid: int, objective: Objective, rounds: int
    ) -> None:
        self.deployment, self.grid = deployment, grid
        self.objective, self.rounds = objective, rounds
        self.best: dict[Play, Judged] = {}
        self.winner: dict[Play, str] = {}
        self.history: list[Round] = []
        self.ends: dict[str, End] = {}
        self._seen: dict[bytes, str] = {}
        self._law = initial_histograms(deployment.game, grid)

    def run(
        self, name: str, start: FloatArray, report: Callable[[int, str], None], done: int
    ) -> None:
        """Follow the chain of one start, `done` pieces of work after the beginning."""
        game, tol = self.deployment.game, default_tolerance(self.deployment.game)
        pi_l, value, last = start, None, b""
        for index in range(self.rounds):
            clock = time.perf_counter()
            answer = g_learn(game, pi_l, self.grid, tol=tol, warm_start=value)
            value = answer.value
            key = _hash(answer.action, pi_l)
            if key in self._seen:
                own: End = "fixed point" if key == last else "cycle"
                self.ends[name] = own if self._seen[key] == name else "met before"
                return
            self._seen[key], last = name, key
            dressed = self.deployment.dress(self.grid, answer.action, pi_l)
            judged = self.deployment.judge(dressed)
            accepted = False
            for play in _PLAYS:
                wins = play not in self.best
                if not wins:
                    wins, judged, self.best[play] = self.deployment.better(
                        judged, self.best[play], play
                    )
                if wins:
                    accepted, self.best[play], self.winner[play] = True, judged, name
            surrogate = float((self._law * answer.value.T).sum())
            self.history.append(self._round(name, index, surrogate, judged, accepted, clock))
            report(done + index + 1, f"{name}, round {index}")
            if index + 1 < self.rounds:
                pi_l = l_learn(game, answer.action, pi_l, self.grid, objective=self.objective)
        self.ends[name] = "rounds used up"

    def _round(
        self,
        name: str,
        index: int,
        surrogate: float,
        judged: Judged,
        accepted: bool,
        clock: float,
    ) -> Round:
        return Round(
            start=name,
            round=index,
            player="global" if index == 0 else "local",
            surrogate=surrogate,
            memoryless=Estimate.of(judged.memoryless),
            belief=Estimate.of(judged.belief),
            rollouts=judged.episodes,
            samples=2 * judged.episodes * self.deployment.horizon,
            accepted=accepted,
            seconds=time.perf_counter() - clock,
        )


def _deploy(deployment: Deployment, pi_l: FloatArray, grid: int) -> Policy:
    """Return a local policy with its full table and tuned settings."""
    table = g_learn(deployment.game, pi_l, grid, tol=default_tolerance(deployment.game))
    dressed = deployment.dress(grid, table.action, pi_l)
    return best_memory(deployment, best_prior(deployment, dressed))


def _with_bare(deployment: Deployment, policy: Policy, pi_l: FloatArray) -> Policy:
    """Return the policy with the other pair beside it, if that wins where nothing is remembered."""
    other = with_settings(_deploy(deployment, pi_l, policy.grid), memory=None)
    judged = deployment.judge(other)
    wins, _, _ = deployment.better(judged, deployment.judge(policy), "none")
    if not wins:
        return policy
    # Where a memory is of no use, there is only one way of play.
    return (
        other if policy.memory is None else with_settings(policy, memory=policy.memory, bare=other)
    )


def alternating_marl(
    game: Game,
    k: int,
    n: int,
    *,
    grid: int | None = None,
    objective: Objective = "team",
    restarts: int | None = None,
    rounds: int = 4,
    starts: Mapping[str, Policy | npt.ArrayLike] | None = None,
    polish: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    deployment: Deployment | None = None,
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
    objective : str
        What the local agents raise, see `l_learn`.
    restarts : int, optional
        How many starting policies are tried: hold, uniform, then the constants; all if omitted.
        May be 0 where `starts` are given.
    rounds : int
        Largest number of exchanges from each start.
    starts : mapping of str to Policy or array of shape (S_g, S_l, A_l), optional
        Further local policies to start from, by name, tried first and beside `restarts`; a policy
        learned for a neighbouring k is a good one.
    polish : int
        Passes of `polishing.polish` over the best pair.
    seed : int
        Of all deployed episodes.
    progress : callable, optional
        Told about each piece of work.
    deployment : Deployment, optional
        Where pairs are judged, if not in the game itself: another n-agent system of its shape.
    """
    rounds = check_int("rounds", rounds, 1, MAX_ROUNDS)
    polish = check_int("polish", polish, 0, MAX_ROUNDS)
    check_choice("objective", objective, get_args(Objective))
    check_callable("progress", progress)
    began = time.perf_counter()
    if deployment is None:
        deployment = Deployment(game, n, k, seed)
    elif (deployment.n, deployment.k, deployment.game.sha256) != (n, k, game.sha256):
        raise InputError(f"the deployment is not for this game with k={k} and n={n}")
    n, k = deployment.n, deployment.k
    given_starts = given_policies(game, starts)
    if restarts is not None:
        restarts = check_int("restarts", restarts, 0 if given_starts else 1, MAX_ROUNDS)
    size = default_grid(game, k) if grid is None else grid
    check_grid(size, game.n_local, game.n_global)
    size = int(size)
    small = min(size, default_grid(game, k, SCREEN_POINTS))
    own = dict(list(starting_policies(game, small).items())[:restarts])
    if clash := sorted(given_starts.keys() & own.keys()):
        raise InputError(f"start {clash[0]!r} has the name of a start of the loop's own")
    chains = {**given_starts, **own}
    entries = game.n_global * game.n_local * polish
    total = len(chains) * rounds + 2 + entries

    def report(done: int, text: str) -> None:
        if progress is not None:
            progress(done, total, text)

    search = _Search(deployment, small, objective, rounds)
    for position, (name, start) in enumerate(chains.items()):
        search.run(name, start, report, position * rounds)
    policy = _deploy(deployment, search.best["memory"].policy.pi_l, size)
    if not np.array_equal(policy.pi_l, search.best["none"].policy.pi_l):
        policy = _with_bare(deployment, policy, search.best["none"].policy.pi_l)
    done = len(chains) * rounds + 1
    report(done, f"table on grid {size}, prior and memory tuned")
    polished = None
    if polish:
        polished = polish_policy(
            game,
            policy,
            n=n,
            k=k,
            passes=polish,
            seed=seed,
            play="both" if policy.bare is None else "memory",
            deployment=deployment,
            progress=lambda i, _total, text: report(done + i, text),
        )
        policy = polished.policy
    final = deployment.judge(policy, _FINAL, fresh=True)
    report(total, "deployed in fresh episodes")
    provenance: dict[str, object] = {
        "kind": "alternating-marl",
        "k": int(k),
        "n": int(n),
        "objective": objective,
        "restarts": len(own),
        "rounds": int(rounds),
        "seed": int(seed),
        "start": search.winner["memory"],
        "bare_start": None if policy.bare is None else search.winner["none"],
        "pairs_judged": len(search.history),
        "memoryless": float(final.memoryless.mean()),
        "belief": float(final.belief.mean()),
        "seconds": round(time.perf_counter() - began, 3),
    }
    if polished is not None:
        provenance["polish_gain"] = polished.gain.mean if polished.confirmed else 0.0
    learned = Policy(
        game,
        size,
        policy.action,
        policy.pi_l,
        memory=policy.memory,
        prior=policy.prior,
        provenance=provenance,
        bare=policy.bare,
    )
    return Solution(learned, tuple(search.history), search.ends, polished)
