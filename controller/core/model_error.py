# SPDX-License-Identifier: MIT
r"""What errors in the kernels do to values: a model game with raised or lowered rewards.

Let the true kernels lie within total variation d_g(s,a) and d_l(s,j,b) of those of a model, row by
row (half the L1 radii). Write P, ^P for one step of the whole fleet, V for the true value of some
policy of the fleet.

*Simulation lemma.* Following the policy in the model, with u the joint action,

.. math:: V(x_0) = ^E \sum_t \gamma^t [r + \gamma\, ((P - ^P) V)(x_t, u_t)].

*One step.* P is a product of one factor for s_g and one for each agent. Exchange one factor after
the other: each exchange moves at most the total variation of its row, and what is moved changes V
by at most its sway, so

.. math:: |(P - ^P) V| \le d_g(s, a)\, G + \frac1n \sum_i d_l(s, s_i, b_i)\, L

with G the most by which V can change when s_g alone changes, and L n times the most by which it can
change when the state of one agent changes. This is a reward: so V is at most the value of the same
policy in the model with the rewards

.. math:: r_g + \gamma d_g G, \qquad r_l + \gamma d_l L

and at least that with both signs turned. The best value of all policies is bounded likewise, in
particular the optimum of a closed system of K agents, with the sways of the true optimum. (With
`local_sees="next"` agents move with s', which the reward of a step does not know: there d_l is
replaced by its largest value over global states, and for free local actions over actions.)

*Sway.* Couple two fleets that differ in s_g or in one agent: the same actions where states are the
same, otherwise as likely to become equal as total variation allows. With y the chance that the
global states differ, and x that a given agent does,

.. math:: y' \le \kappa_2 y + \kappa_1 \min(1, k x), \qquad x' \le \tau_1 x + \tau_3 y

- tau_1, tau_3: the largest distance of the moves of two agents, in two states at the same s_g, or
  in the same state at two s_g;
- kappa_1, kappa_2: the largest distance of P_g(.|s,a) for two actions that the dispatcher uses at
  s, or for any two states and actions. The poll contains a differing agent with a chance of at most
  k x; only then does the action differ while s_g does not. A dispatcher with memory may never
  forget what it saw: kappa_1 = kappa_2 = 1;
- G is the discounted sum of the differences in reward from y = 1, x = 0. One agent out of n that
  differs is polled with chance k/n, so L <= (l + k (l_g + gamma kappa_1 G)) / (1 - gamma tau_1), l
  and l_g being the ranges of the local reward over s_j and of the global reward over actions.

Optima need no poll: from another state a controller of everything may act as if it were in the
first one, simulating the difference, so the two fleets take the same actions: kappa_1 = 0, kappa_2
and tau compare rows of one action only, and L <= l / (1 - gamma tau_1), however large k is.

All distances are those of the true rows, at most those of the model plus the errors of both rows.
Rewards are taken as known. The envelope of a policy says nothing once gamma d_l L / (1 - gamma)
reaches the range of returns: for a dispatcher that answers to polls, from d_l about
(1 - gamma)(1 - gamma tau_1) / (kappa_1 k) on. The bounds on optima stay useful much longer.

Reference for the lemma: Kearns & Singh 2002, "Near-optimal reinforcement learning".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core._arguments import (
    MAX_TIMES,
    check_int,
    check_kind,
    check_poll,
    first,
    index_text,
    table,
)
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import FloatArray, Game
from kofn.controller.core.policy import check_policy

if TYPE_CHECKING:
    import numpy.typing as npt

    from kofn.controller.core.policy import Policy

#: Part of a sway that an endless sum may leave to its closed-form tail.
_TAIL = 1e-9

_MAX_STEPS = 200_000


@dataclass(frozen=True, slots=True)
class Sway:
    """By how much a value can change: with s_g (G), and n times that with one agent (L)."""

    global_: float
    local: float


@dataclass(frozen=True, slots=True, eq=False)
class Envelope:
    """Games with the model's kernels whose values lie on both sides of the true one.

    Attributes
    ----------
    low, high : Game
        In the true game the policy earns at least what it earns in `low`, at most as in `high`.
    sway : Sway
    """

    low: Game
    high: Game
    sway: Sway


@dataclass(frozen=True, slots=True)
class _Coupling:
    """Constants of the coupling of two fleets, see the module."""

    kappa_1: float
    kappa_2: float
    tau_1: float
    tau_3: float
    #: Largest differences in reward: with the global state, with all agents, with the action.
    over_g: float
    over_l: float
    over_a: float
    #: Largest difference of two rewards.
    spread: float
    polled: int


def policy_envelope(
    game: Game,
    l1_g: npt.ArrayLike,
    l1_l: npt.ArrayLike,
    policy: Policy,
    *,
    n: int,
    k: int,
    horizon: int | None = None,
    memory: float | str | None = "auto",
) -> Envelope:
    """Return games between whose values the true value of a policy lies.

    Parameters
    ----------
    game : Game
        The model.
    l1_g, l1_l : array, shapes (S_g, A_g) and (S_g, S_l, A_l)
        L1 distances that the true rows keep from the model's.
    policy : Policy
    n, k : int
        Fleet size and poll size.
    horizon : int, optional
        Steps; None means for ever, whatever the game's own horizon.
    memory : "auto", "none" or number
        As for `rollout`.
    """
    check_policy(policy, game)
    tv_g, tv_l = _errors(game, l1_g, l1_l)
    k, n = check_poll(k, n)
    horizon = None if horizon is None else check_int("horizon", horizon, 1, MAX_TIMES)
    policy = policy.in_play(k, memory)
    pi = policy.pi_l
    P_pi, r_pi = game.marginals(pi)
    tv_pi = (pi * tv_l).sum(axis=2)
    used = [np.unique(row) for row in policy.action]
    rewards = np.concatenate([game.r_g[s, a] for s, a in enumerate(used)])
    lasting = policy.memory_cap(k, memory) > k
    kappa_2 = _farthest(
        np.concatenate([game.P_g[s, a] for s, a in enumerate(used)])[None],
        np.concatenate([tv_g[s, a] for s, a in enumerate(used)])[None],
    )
    kappa_1 = max(_farthest(game.P_g[s, a][None], tv_g[s, a][None]) for s, a in enumerate(used))
    ends = [(game.r_g[s, a], r_pi[s]) for s, a in enumerate(used)]
    spread = max(g.max() + l.max() for g, l in ends) - min(g.min() + l.min() for g, l in ends)
    coupling = _Coupling(
        kappa_1=1.0 if lasting else kappa_1,
        kappa_2=1.0 if lasting else kappa_2,
        tau_1=_farthest(P_pi, tv_pi),
        tau_3=_farthest(P_pi.swapaxes(0, 1), tv_pi.T),
        over_g=float(np.ptp(rewards) + np.ptp(r_pi, axis=0).max()),
        over_l=float(np.ptp(r_pi, axis=1).max()),
        over_a=float(max(np.ptp(game.r_g[s, a]) for s, a in enumerate(used))),
        spread=float(spread),
        polled=k,
    )
    sway = _sway(game, coupling, horizon, agents=n)
    moved = tv_l if game.local_sees == "current" else _of_any_target(tv_pi, game)
    return Envelope(
        low=_shifted(game, tv_g, moved, sway, -1.0, "low"),
        high=_shifted(game, tv_g, moved, sway, 1.0, "high"),
        sway=sway,
    )


def optimistic_game(
    game: Game,
    l1_g: npt.ArrayLike,
    l1_l: npt.ArrayLike,
    *,
    horizon: int | None = None,
    pi_l: npt.ArrayLike | None = None,
) -> tuple[Game, Sway]:
    """Return a game whose upper bounds are upper bounds in the true game, and the sway used.

    Parameters
    ----------
    game, l1_g, l1_l, horizon
        As for `policy_envelope`.
    pi_l : array, shape (S_g, S_l, A_l), optional
        The local policy that everybody follows, for bounds on the dispatcher alone
        (`global_bound`); None for bounds on all policies (`team_bound`).
    """
    check_kind("game", game, Game)
    tv_g, tv_l = _errors(game, l1_g, l1_l)
    horizon = None if horizon is None else check_int("horizon", horizon, 1, MAX_TIMES)
    if pi_l is None:
        # Axis of local actions first: only rows of one action are compared.
        P, r, tv = (np.moveaxis(x, 2, 0) for x in (game.P_l, game.r_l, tv_l))
    else:
        pi = game.local_policy(pi_l)
        P_pi, r_pi = game.marginals(pi)
        P, r, tv = P_pi[None], r_pi[None], (pi * tv_l).sum(axis=2)[None]
    actions = range(len(P))
    spread = (game.r_g.max(axis=1) + r.max(axis=(0, 2))).max() - (
        game.r_g.min(axis=1) + r.min(axis=(0, 2))
    ).min()
    coupling = _Coupling(
        kappa_1=0.0,
        kappa_2=_farthest(game.P_g.swapaxes(0, 1), tv_g.T),
        tau_1=max(_farthest(P[b], tv[b]) for b in actions),
        tau_3=max(_farthest(P[b].swapaxes(0, 1), tv[b].T) for b in actions),
        over_g=float(np.ptp(game.r_g, axis=0).max() + np.ptp(r, axis=1).max()),
        over_l=float(np.ptp(r, axis=2).max()),
        over_a=0.0,
        spread=float(spread),
        polled=0,
    )
    sway = _sway(game, coupling, horizon, agents=None)
    moved = tv_l if game.local_sees == "current" else _of_any_target(tv.max(axis=0), game)
    return _shifted(game, tv_g, moved, sway, 1.0, "optimistic"), sway


def _sway(game: Game, c: _Coupling, horizon: int | None, agents: int | None) -> Sway:
    """Return G and L of the module for a coupling, from the step after the change on."""
    gamma, later = game.gamma, game.local_sees == "next"
    steps = _MAX_STEPS if horizon is None else horizon - 1
    total, weight = 0.0, 1.0
    y, x = 1.0, (c.tau_3 if later else 0.0)
    for _ in range(steps):
        seen = min(1.0, c.polled * x)
        total += weight * min(c.spread, c.over_g * y + c.over_l * x + c.over_a * seen)
        ahead = min(1.0, c.kappa_2 * y + c.kappa_1 * seen)
        x = min(1.0, c.tau_1 * x + c.tau_3 * (ahead if later else y))
        y = ahead
        weight *= gamma
        if horizon is None and weight * c.spread <= _TAIL * (1 - gamma) * total:
            break
    if horizon is None:
        total += weight * c.spread / (1 - gamma)
    ratio = gamma * c.tau_1
    terms = 1 / (1 - ratio) if horizon is None else _geometric(ratio, horizon - 1)
    local = terms * (c.over_l + c.polled * (c.over_a + gamma * c.kappa_1 * total))
    if agents is not None:
        whole = 1 / (1 - gamma) if horizon is None else _geometric(gamma, horizon - 1)
        local = min(local, agents * c.spread * whole)
    return Sway(total, local)


def _geometric(ratio: float, terms: int) -> float:
    return terms if ratio == 1 else (1 - ratio**terms) / (1 - ratio)


def _farthest(rows: FloatArray, tv: FloatArray) -> float:
    """Return the largest distance of two true rows of one group, at most 1.

    Parameters
    ----------
    rows : array, shape (groups, rows, S)
        Distributions of the model.
    tv : array, shape (groups, rows)
        How far the true ones may be from them, in total variation.
    """
    largest = 0.0
    for group, error in zip(rows, tv, strict=True):
        for i in range(1, len(group)):
            apart = 0.5 * np.abs(group[:i] - group[i]).sum(axis=1) + error[:i] + error[i]
            largest = max(largest, float(apart.max()))
    return min(1.0, largest)


def _of_any_target(tv: FloatArray, game: Game) -> FloatArray:
    """Return errors of the moves out of each local state at the worst s_g, shape of r_l."""
    worst: FloatArray = np.broadcast_to(tv.max(axis=0)[None, :, None], game.r_l.shape)
    return worst


def _shifted(
    game: Game, tv_g: FloatArray, tv_l: FloatArray, sway: Sway, sign: float, label: str
) -> Game:
    step = sign * game.gamma
    return Game(
        game.P_g,
        game.r_g + step * sway.global_ * tv_g,
        game.P_l,
        game.r_l + step * sway.local * tv_l,
        game.gamma,
        local_sees=game.local_sees,
        initial=game.initial,
        horizon=game.horizon,
        name=f"{game.name} {label}".strip(),
    )


def _errors(game: Game, l1_g: npt.ArrayLike, l1_l: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return checked total variations, shapes (S_g, A_g) and (S_g, S_l, A_l)."""
    found = []
    for name, given, shape in (("l1_g", l1_g, game.r_g.shape), ("l1_l", l1_l, game.r_l.shape)):
        array = table(name, given, len(shape), shape)
        if (bad := (array < 0) | (array > 2)).any():
            index = first(bad)
            where = index_text(index)
            raise InputError(f"{name}[{where}] is {array[index]:g}, not an L1 distance (0 to 2)")
        found.append(array / 2)
    return found[0], found[1]


def trivial_range(game: Game, horizon: int | None) -> tuple[float, float]:
    """Return the least and the most that rewards allow anybody to earn."""
    weight = 1 / (1 - game.gamma) if horizon is None else _geometric(game.gamma, horizon)
    low = (game.r_g.min(axis=1) + game.r_l.min(axis=(1, 2))).min()
    high = (game.r_g.max(axis=1) + game.r_l.max(axis=(1, 2))).max()
    return float(weight * low), float(weight * high)
