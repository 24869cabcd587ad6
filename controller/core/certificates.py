# SPDX-License-Identifier: MIT
r"""What can be claimed of a policy: its deployed value between proven bounds.

=====================  ======================================================================
field                  meaning
=====================  ======================================================================
value, value_ci        mean return of n agents with polls of k, and its 95 % interval
upper_global           no dispatcher earns more while the local agents follow pi_l
upper_team             no policy of n agents earns more, whatever it sees
global_gap_relative    (upper_global - value) / |value|
welfare_gap_relative   (upper_team - value) / |value|
lower_global           the most that a deviation of the dispatcher was found to earn
=====================  ======================================================================

The upper bounds are theorems up to rounding (`upper_bounds`, `team_bound`), solver error included.
The value is a mean of rollouts: the gaps of the interval's ends are stated beside those of the
mean. Gaps are relative to the value, the larger of the two usual choices where it is positive.

Each notion of equilibrium is named, with the gain that is excluded:

- *full-observation global response*: another dispatcher, even one that sees all n agents;
- *restricted symmetric equilibrium*: besides, another local policy that all local agents share;
- *single local deviator*: one local agent that leaves the shared policy, in the system's reward.
  What it could gain in its own reward is not bounded here.

The paper's own guarantee is the Nash gap eta, of order 1/sqrt(k) with prefactor 2 r/(1 - gamma)^2,
r the largest reward. `theory` is that prefactor over sqrt(k), logarithms left out. At gamma = 0.95
it exceeds any return the game can have: it is shown for comparison and used nowhere.

Reference: Anand & Karmarkar 2026, arXiv 2603.03759.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core._arguments import MAX_AGENTS, check_int, check_poll, check_seed
from kofn.controller.core.budget import check_budget, global_ladder, play_for, team_ladder
from kofn.controller.core.global_learner import Surrogate
from kofn.controller.core.policy import Policy, check_policy
from kofn.controller.core.rollouts import resolve_horizon

if TYPE_CHECKING:
    from kofn.controller.core.game import Game
    from kofn.controller.core.rollouts import Rollouts
    from kofn.controller.core.upper_bounds import Bound

#: Standard errors of a 95 % interval.
NORMAL_95 = 1.959964

#: Shares of the budget: rollouts of the policy, of its deviation, and the two bounds.
_SHARE_VALUE, _SHARE_DEVIATION, _SHARE_GLOBAL = 0.1, 0.05, 0.15

#: Accuracy of endless games, relative to the largest return that rewards allow.
_PRECISION = 1e-5


@dataclass(frozen=True, slots=True)
class Notion:
    """One notion of equilibrium and the largest gain in the system's return that is left open."""

    name: str
    gain: float
    statement: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """The result of `certify`; see the module for what each number claims.

    Attributes
    ----------
    value, value_ci, lower_global, lower_global_ci
        Deployed means and their 95 % intervals. For an endless game the intervals also hold what
        could be earned after the rollouts were cut.
    upper_global, upper_team : float
        Proven upper bounds, the best over all K tried.
    global_gap_relative, welfare_gap_relative : float
        Gaps at `value`, not below 0.
    global_gap_ci, welfare_gap_ci : tuple of float
        The same gaps at the ends of `value_ci`, the smaller first.
    grid : dict
        Largest K of each kind, "global" and "team".
    bounds : tuple of Bound
        All bounds found, by kind and K.
    theory : float
        The paper's eta without its logarithms: vacuous.
    notions : tuple of Notion
    n, k, horizon, rollouts, seconds
        Fleet, poll, steps (None: for ever), episodes of the value, time spent.
    """

    value: float
    value_ci: tuple[float, float]
    lower_global: float
    lower_global_ci: tuple[float, float]
    upper_global: float
    upper_team: float
    global_gap_relative: float
    global_gap_ci: tuple[float, float]
    welfare_gap_relative: float
    welfare_gap_ci: tuple[float, float]
    grid: dict[str, int]
    bounds: tuple[Bound, ...]
    theory: float
    notions: tuple[Notion, ...]
    n: int
    k: int
    horizon: int | None
    rollouts: int
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return everything but the value functions as JSON values."""
        result: dict[str, object] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("bounds", "notions")
        }
        for name in ("value_ci", "lower_global_ci", "global_gap_ci", "welfare_gap_ci"):
            result[name] = list(getattr(self, name))
        names = ("kind", "K", "upper", "error", "sweeps", "seconds")
        result["bounds"] = [{name: getattr(b, name) for name in names} for b in self.bounds]
        result["notions"] = [
            {"name": x.name, "gain": x.gain, "statement": x.statement} for x in self.notions
        ]
        return result


def certify(
    game: Game,
    policy: Policy,
    *,
    n: int,
    k: int | None = None,
    horizon: int | None = None,
    budget_s: float = 30.0,
    seed: int = 0,
) -> Certificate:
    """Bound how far a policy is from the best there can be, in about `budget_s` seconds.

    Parameters
    ----------
    game : Game
    policy : Policy
        Played with its own memory.
    n : int
        Fleet size.
    k : int, optional
        Poll size; by default that of the policy's provenance, otherwise its grid, at most n.
    horizon : int, optional
        Steps of an episode; the game's own by default, and where it has none, for ever.
    budget_s : float
        Wall time to aim at; a longer one gives larger K and tighter bounds. At least 200 episodes
        are played and the bounds of K = 1 computed, however long that takes.
    seed : int
        Of the rollouts.
    """
    began = time.perf_counter()
    check_policy(policy, game)
    budget_s, seed = check_budget(budget_s), check_seed(seed)
    n = check_int("fleet size", n, 1, MAX_AGENTS)
    if k is not None:
        k, n = check_poll(k, n)
    poll = poll_size(policy, n) if k is None else k
    policy = policy.in_play(poll)
    endless = horizon is None and game.horizon is None
    cut = resolve_horizon(game, horizon)
    steps = None if endless else cut

    own = play_for(_SHARE_VALUE * budget_s, game, policy, n=n, k=poll, horizon=cut, seed=seed)
    value, value_ci = interval(game, own, endless)
    tol = precision(game)
    dispatcher = global_ladder(
        game, policy.pi_l, n, _SHARE_GLOBAL * budget_s, horizon=steps, tol=tol
    )
    # Before the long part, so that it can have all the time that is left.
    deviation = _informed_dispatcher(game, policy, dispatcher[-1])
    informed = play_for(
        _SHARE_DEVIATION * budget_s, game, deviation, n=n, k=n, horizon=cut, seed=seed
    )
    lower, lower_ci = interval(game, informed, endless)
    if lower < value:
        lower, lower_ci = value, value_ci
    left = budget_s - (time.perf_counter() - began)
    team = team_ladder(game, n, left, horizon=steps, tol=tol)
    upper_team = min(bound.upper for bound in team)
    upper_global = min(upper_team, *(bound.upper for bound in dispatcher))
    return Certificate(
        value=value,
        value_ci=value_ci,
        lower_global=lower,
        lower_global_ci=lower_ci,
        upper_global=upper_global,
        upper_team=upper_team,
        global_gap_relative=relative_gap(upper_global, value),
        global_gap_ci=_gap_interval(upper_global, value_ci),
        welfare_gap_relative=relative_gap(upper_team, value),
        welfare_gap_ci=_gap_interval(upper_team, value_ci),
        grid={"global": dispatcher[-1].K, "team": team[-1].K},
        bounds=(*dispatcher, *team),
        theory=2 * _largest_reward(game) / (1 - game.gamma) ** 2 / math.sqrt(poll),
        notions=_notions(upper_global - value, upper_team - value),
        n=own.n,
        k=own.k,
        horizon=steps,
        rollouts=own.returns.size,
        seconds=time.perf_counter() - began,
    )


def poll_size(policy: Policy, n: int) -> int:
    """Return the poll size that a policy was made for, or else its grid, at most n."""
    made_for = policy.provenance.get("k")
    return min(made_for if isinstance(made_for, int) else policy.grid, n)


def relative_gap(upper: float, value: float) -> float:
    """Return how far `upper` lies above `value`, relative to it and not below 0."""
    gap = max(0.0, upper - value)
    if gap == 0:
        return 0.0
    return gap / abs(value) if value != 0 else math.inf


def _informed_dispatcher(game: Game, policy: Policy, bound: Bound) -> Policy:
    """Return the policy with a table that is greedy for the value of a bound."""
    surrogate = Surrogate(game, policy.pi_l, bound.K)
    return Policy(game, bound.K, surrogate.sweep(bound.values)[1], policy.pi_l)


def precision(game: Game) -> float:
    """Return the accuracy to which bounds on endless games are solved."""
    return _PRECISION * _largest_reward(game) / (1 - game.gamma)


def _largest_reward(game: Game) -> float:
    """Return the largest magnitude of a reward, r in the paper."""
    return float(np.abs(game.r_g).max() + np.abs(game.r_l).max())


def tail_range(game: Game, horizon: int, endless: bool) -> tuple[float, float]:
    """Return the least and the most that an endless game leaves to earn after `horizon` steps."""
    if not endless:
        return 0.0, 0.0
    weight = game.gamma**horizon / (1 - game.gamma)
    low = weight * float(game.r_g.min() + game.r_l.min())
    return low, weight * float(game.r_g.max() + game.r_l.max())


def interval(game: Game, played: Rollouts, endless: bool) -> tuple[float, tuple[float, float]]:
    """Return a mean return and its 95 % interval, with all that the cut tail might be."""
    low, high = tail_range(game, played.horizon, endless)
    error = NORMAL_95 * played.stderr
    mean = played.mean
    return mean + (low + high) / 2, (mean - error + low, mean + error + high)


def _gap_interval(upper: float, value_ci: tuple[float, float]) -> tuple[float, float]:
    small, large = sorted(relative_gap(upper, end) for end in value_ci)
    return small, large


def _notions(global_gain: float, team_gain: float) -> tuple[Notion, ...]:
    global_gain, team_gain = max(0.0, global_gain), max(0.0, team_gain)
    return (
        Notion(
            "full-observation global response",
            global_gain,
            "no other dispatcher, even one that sees all agents, raises the return by more while "
            "the local policy stays",
        ),
        Notion(
            "restricted symmetric equilibrium",
            team_gain,
            "neither another dispatcher nor another local policy shared by all local agents, "
            "nor both together, raise the return by more",
        ),
        Notion(
            "single local deviator",
            team_gain,
            "no single local agent that leaves the shared policy raises the system's return by "
            "more; its gain in its own reward is not bounded",
        ),
    )
