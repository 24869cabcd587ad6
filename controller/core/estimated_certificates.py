# SPDX-License-Identifier: MIT
r"""What can be claimed of a policy whose game is known from data alone.

Three answers, from the weakest assumption about errors of the model to the strongest:

============  ===================================================================================
answer        assumption
============  ===================================================================================
`proven`      the true rows lie within the L1 radii of the data, which they do with a chance of at
              least `level`; value and optima then lie within the bounds of `model_error`
`credible`    the true kernels are one more draw from the posterior: quantiles over draws of the
              value of the fixed policy, of the upper bounds, and of the gaps between them
`model`       the posterior mean is the truth: what `certify` says of it
============  ===================================================================================

The proven bounds hold for every game near the data, also for one made by an opponent; they need
many transitions of every row that matters and may say no more than that returns are bounded at
all: `vacuous` names those that do. The credible ones answer what a further experiment would show,
as far as the prior is fair; draws are compared with the model under
common random numbers, and the error of the rollouts is added. Neither covers errors in the rewards.

`data` measures how well the data cover what the policy does: mean L1 radius, and share of steps in
rows that were never visited, along the path of the policy in the model.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core._arguments import (
    MAX_AGENTS,
    MAX_TIMES,
    check_int,
    check_kind,
    check_poll,
    check_seed,
)
from kofn.controller.core.budget import check_budget, global_ladder, play_for, team_ladder
from kofn.controller.core.certificates import (
    NORMAL_95,
    Certificate,
    certify,
    interval,
    precision,
    relative_gap,
    tail_range,
)
from kofn.controller.core.estimation import EstimatedGame
from kofn.controller.core.model_error import optimistic_game, policy_envelope, trivial_range
from kofn.controller.core.policy import check_policy
from kofn.controller.core.rollouts import resolve_horizon, rollout
from kofn.controller.core.team_bound import team_bound
from kofn.controller.core.upper_bounds import Bound, global_bound

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game
    from kofn.controller.core.policy import Policy

#: Shares of the budget: the model's certificate, rollouts at both ends of the envelope, the bounds
#: of the optimistic games; the rest is for posterior draws.
_SHARE_MODEL, _SHARE_END, _SHARE_GLOBAL, _SHARE_TEAM = 0.35, 0.04, 0.07, 0.2

#: Episodes of one draw, at least and at most, and draws that are made even if time is out.
_FEWEST, _MOST, _DRAWS_AT_LEAST = 100, 2000, 20

#: Episodes along which the data are judged.
_PATHS = 200


@dataclass(frozen=True, slots=True)
class Claim:
    """A value between two ends, upper bounds, and the relative gaps that they leave open.

    Attributes
    ----------
    value : tuple of float
        Ends of the deployed value.
    upper_global, upper_team : float
        What no other dispatcher, and no other policy at all, exceeds.
    global_gap, welfare_gap : float
        Largest gaps, relative to the value.
    """

    value: tuple[float, float]
    upper_global: float
    upper_team: float
    global_gap: float
    welfare_gap: float


@dataclass(frozen=True, slots=True)
class DataQuality:
    """How well the data cover the path of the policy in the model.

    Attributes
    ----------
    l1_g, l1_l : float
        Mean L1 radius of the rows of P_g and P_l that are used, 2 where nothing is known.
    unvisited_g, unvisited_l : float
        Share of steps, and of moves of agents, in rows without a transition.
    """

    l1_g: float
    l1_l: float
    unvisited_g: float
    unvisited_l: float


@dataclass(frozen=True, slots=True)
class EstimateCertificate:
    """The result of `certify_estimate`; see the module.

    Attributes
    ----------
    model : Certificate
        Of the posterior mean, as if it were the truth.
    proven, credible : Claim
    level : float
        Chance that all true rows lie within their radii, and level of the credible claim.
    vacuous : tuple of str
        Fields of `proven` that say no more than the rewards do.
    data : DataQuality
    draws : int
        Posterior draws.
    draw_values : tuple of float
        Value of the policy in each.
    grid : dict
        K of the bounds: "global" and "team" of the proven claim, "draw_global" and "draw_team".
    n, k, horizon, seconds
        Fleet, poll, steps (None: for ever), time spent.
    """

    model: Certificate
    proven: Claim
    credible: Claim
    level: float
    vacuous: tuple[str, ...]
    data: DataQuality
    draws: int
    draw_values: tuple[float, ...]
    grid: dict[str, int]
    n: int
    k: int
    horizon: int | None
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return everything as JSON values."""
        plain = ("level", "draws", "grid", "n", "k", "horizon", "seconds")
        result: dict[str, object] = {name: getattr(self, name) for name in plain}
        result["model"] = self.model.to_dict()
        for name, claim in (("proven", self.proven), ("credible", self.credible)):
            result[name] = {**_fields(claim), "value": list(claim.value)}
        result["data"] = _fields(self.data)
        result["vacuous"], result["draw_values"] = list(self.vacuous), list(self.draw_values)
        return result


def _fields(part: Claim | DataQuality) -> dict[str, object]:
    return {name: getattr(part, name) for name in part.__dataclass_fields__}


def certify_estimate(
    estimate: EstimatedGame,
    policy: Policy,
    *,
    n: int,
    k: int | None = None,
    horizon: int | None = None,
    budget_s: float = 30.0,
    seed: int = 0,
    level: float = 0.95,
    draws: int = 100,
) -> EstimateCertificate:
    """Bound the value of a policy, and what others could earn, in a game known from data.

    Parameters
    ----------
    estimate : EstimatedGame
    policy : Policy
        Usually trained on `estimate.game`.
    n, k, horizon, budget_s, seed
        As for `certify`. At least 20 draws of the posterior are made, however long that takes.
    level : float
        Joint confidence of the radii, and level of the credible claim.
    draws : int
        Draws from the posterior, as many as fit in the time.
    """
    began = time.perf_counter()
    budget_s = check_budget(budget_s)
    check_kind("estimate", estimate, EstimatedGame)
    check_policy(policy, estimate.game)
    if k is not None:
        k, n = check_poll(k, n)
    n = check_int("fleet size", n, 1, MAX_AGENTS)
    horizon = None if horizon is None else check_int("horizon", horizon, 1, MAX_TIMES)
    seed = check_seed(seed)
    draws = check_int("draws", draws, 1, MAX_TIMES)
    l1_g, l1_l = estimate.l1_radius(level)
    game = estimate.game
    model = certify(
        game, policy, n=n, k=k, horizon=horizon, budget_s=_SHARE_MODEL * budget_s, seed=seed
    )  # fmt: skip
    poll, steps = model.k, model.horizon
    policy = policy.in_play(poll)
    proven, vacuous, grid = _prove(
        estimate, (l1_g, l1_l), policy, n=n, k=poll, steps=steps, budget_s=budget_s, seed=seed
    )
    left = budget_s - (time.perf_counter() - began)
    credible, values, sizes = _draw(
        estimate, policy, model, seconds=left, seed=seed, level=level, draws=draws
    )
    return EstimateCertificate(
        model=model,
        proven=proven,
        credible=credible,
        level=level,
        vacuous=vacuous,
        data=_quality(estimate, (l1_g, l1_l), policy, n, poll, horizon, seed),
        draws=len(values),
        draw_values=tuple(values),
        grid={**grid, **sizes},
        n=model.n,
        k=poll,
        horizon=steps,
        seconds=time.perf_counter() - began,
    )


def _prove(
    estimate: EstimatedGame,
    radii: tuple[FloatArray, FloatArray],
    policy: Policy,
    *,
    n: int,
    k: int,
    steps: int | None,
    budget_s: float,
    seed: int,
) -> tuple[Claim, tuple[str, ...], dict[str, int]]:
    """Return the claim that holds for all games within the radii."""
    game = estimate.game
    cut = resolve_horizon(game, steps)
    least, most = trivial_range(game, steps)
    envelope = policy_envelope(game, *radii, policy, n=n, k=k, horizon=steps)
    ends = []
    for end in (envelope.low, envelope.high):
        played = play_for(
            _SHARE_END * budget_s, end, policy, n=n, k=k, horizon=cut, seed=seed
        )  # fmt: skip
        ends.append(interval(end, played, steps is None)[1])
    low, high = max(least, ends[0][0]), min(most, ends[1][1])
    hopeful_global = optimistic_game(game, *radii, horizon=steps, pi_l=policy.pi_l)[0]
    hopeful_team = optimistic_game(game, *radii, horizon=steps)[0]
    dispatcher = global_ladder(
        hopeful_global, policy.pi_l, n, _SHARE_GLOBAL * budget_s,
        horizon=steps, tol=precision(game),
    )  # fmt: skip
    team = team_ladder(
        hopeful_team, n, _SHARE_TEAM * budget_s, horizon=steps, tol=precision(game)
    )  # fmt: skip
    upper_team = min(most, *(bound.upper for bound in team))
    upper_global = min(upper_team, *(bound.upper for bound in dispatcher))
    claim = Claim(
        value=(low, high),
        upper_global=upper_global,
        upper_team=upper_team,
        global_gap=relative_gap(upper_global, low),
        welfare_gap=relative_gap(upper_team, low),
    )
    trivial = {
        "value": low <= least or high >= most,
        "upper_global": upper_global >= most,
        "upper_team": upper_team >= most,
    }
    sizes = {"global": dispatcher[-1].K, "team": team[-1].K}
    return claim, tuple(name for name, empty in trivial.items() if empty), sizes


def _draw(
    estimate: EstimatedGame,
    policy: Policy,
    model: Certificate,
    *,
    seconds: float,
    seed: int,
    level: float,
    draws: int,
) -> tuple[Claim, list[float], dict[str, int]]:
    """Return the claim that holds for most draws, the values in the draws, and the sizes used."""
    began = time.perf_counter()
    n, k, steps = model.n, model.k, model.horizon
    cut = resolve_horizon(estimate.game, steps)
    tol = precision(estimate.game)
    each = max(seconds, 0.0) / draws
    # The model's own bounds tell what a size costs, and start the solution of endless games.
    start_global = _affordable(model.bounds, "global", each / 3)
    start_team = _affordable(model.bounds, "team", each / 3)

    def play(game: Game, episodes: int) -> FloatArray:
        return rollout(
            game, policy, n=n, k=k, horizon=cut, rollouts=episodes, seed=seed
        ).returns  # fmt: skip

    clock = time.perf_counter()
    play(estimate.game, _FEWEST)
    pace = (time.perf_counter() - clock) / _FEWEST
    episodes = max(_FEWEST, min(_MOST, int(each / 3 / pace)))
    usual = play(estimate.game, episodes)
    tail = tail_range(estimate.game, cut, steps is None)
    known = (model.value_ci[1] - model.value_ci[0] + tail[1] - tail[0]) / 2
    values, errors, uppers_global, uppers_team = [], [], [], []
    sources = np.random.SeedSequence(seed).generate_state(draws)
    for i, source in enumerate(sources):
        if i >= _DRAWS_AT_LEAST and time.perf_counter() - began > seconds:
            break
        game = estimate.sample(int(source))
        # Under common random numbers the difference to the model is known far better than either.
        more = play(game, episodes) - usual
        values.append(model.value + float(more.mean()))
        errors.append(NORMAL_95 * float(more.std(ddof=1)) / math.sqrt(episodes))
        team = team_bound(game, start_team.K, horizon=steps, tol=tol, start=start_team).upper
        dispatcher = global_bound(
            game, policy.pi_l, start_global.K, horizon=steps, tol=tol, start=start_global
        )
        uppers_team.append(team)
        uppers_global.append(min(team, dispatcher.upper))
    error = known + float(np.median(errors))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])

    def largest_gap(uppers: list[float]) -> float:
        gaps = [relative_gap(u, v - error) for u, v in zip(uppers, values, strict=True)]
        return float(np.quantile(gaps, level, method="higher"))

    claim = Claim(
        value=(float(low) - error, float(high) + error),
        upper_global=float(np.quantile(uppers_global, level)),
        upper_team=float(np.quantile(uppers_team, level)),
        global_gap=largest_gap(uppers_global),
        welfare_gap=largest_gap(uppers_team),
    )
    return claim, values, {"draw_global": start_global.K, "draw_team": start_team.K}


def _affordable(bounds: tuple[Bound, ...], kind: str, seconds: float) -> Bound:
    """Return the largest bound of a kind that took no longer than given, or else the smallest."""
    found = [bound for bound in bounds if bound.kind == kind]
    cheap = [bound for bound in found if bound.seconds <= seconds]
    return max(cheap, key=lambda bound: bound.K) if cheap else found[0]


def _quality(
    estimate: EstimatedGame,
    radii: tuple[FloatArray, FloatArray],
    policy: Policy,
    n: int,
    k: int,
    horizon: int | None,
    seed: int,
) -> DataQuality:
    game = estimate.game
    records = rollout(
        game, policy, n=n, k=k, horizon=horizon, rollouts=_PATHS, seed=seed, record=True
    ).records
    assert records is not None  # noqa: S101 - asked for
    s_g, a_g, counts = records.s_g[:, :-1], records.a_g[:, :-1], records.counts[:, :-1]
    # Agents move with the global state that they see.
    mover = records.s_g[:, 1:] if game.local_sees == "next" else s_g
    share = np.zeros(game.r_l.shape[:2])
    np.add.at(share, mover.ravel(), counts.reshape(-1, game.n_local) / n)
    used_l = share[:, :, None] * policy.pi_l / max(1, s_g.size)
    used_g = np.zeros(game.r_g.shape)
    np.add.at(used_g, (s_g, a_g), 1 / max(1, s_g.size))
    return DataQuality(
        l1_g=float((used_g * radii[0]).sum()),
        l1_l=float((used_l * radii[1]).sum()),
        unvisited_g=float(used_g[estimate.unvisited_g].sum()),
        unvisited_l=float(used_l[estimate.unvisited_l].sum()),
    )
