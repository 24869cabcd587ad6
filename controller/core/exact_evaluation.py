# SPDX-License-Identifier: MIT
r"""The exact expected return of n agents that are polled k at a time: nothing is drawn.

Agents in one state are exchangeable, so (s_g, N) with the counts N of the fleet is all there is to
know. Played without memory, a policy is a law of a_g in each such state, and

.. math::
   V(s_g, N) = E_c\, r_g(s_g, a(s_g, c)) + \frac1n \sum_j N_j r^\pi(s_g, j)
   + \gamma \sum_{s'} E_c\, P_g(s' | s_g, a(s_g, c))\, (W_{s_g} V(s', \cdot))(N)

where c is the histogram of the poll, multivariate hypergeometric given N, and W is the exact
operator of n agents (`symmetric_power`). With `local_sees="next"` the operator is W_{s'}.

The mean over polls is taken by leaving out one agent after the other: a function f of m - 1 agents
becomes the function N -> sum_j (N_j / m) f(N - e_j) of m agents, from m = k + 1 up to n. These are
means of non-negative weights: no factorials, no cancellation.

======  ==========  ======================  ===============================================
symbol  name        shape                   meaning
======  ==========  ======================  ===============================================
N       counts      (M, S_l)                agents in each local state, sum n
V       values      (M, S_g)                expected return from (s_g, N)
F       flux        (S_g, M, S_g)           law of s_g' given (s_g, N)
======  ==========  ======================  ===============================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core._arguments import MAX_TIMES, check_int, check_poll, check_real, shown
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.global_learner import run
from kofn.controller.core.grid import all_counts, grid_points, project, rank, unrank
from kofn.controller.core.policy import check_policy
from kofn.controller.core.symmetric_power import SymmetricPower
from kofn.controller.core.team import initial_histograms

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game
    from kofn.controller.core.policy import Policy

#: Memory that an enumeration may take, and elementary steps it may need (minutes on two cores).
MAX_BYTES = 512 * 2**20
MAX_WORK = 10**12

#: Sweeps that an endless game is reckoned with.
_USUAL_SWEEPS = 200

_MAX_SWEEPS = 1_000_000

#: Accuracy of an endless game, relative to the largest return that rewards allow.
PRECISION = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class ExactValue:
    """The result of `enumerate_fleet`.

    Attributes
    ----------
    value : float
        Expected discounted return from the initial law.
    error : float
        How far `value` may be from it: rounding, and for endless games the solver's bound.
    states : int
        States (s_g, N) that were enumerated.
    sweeps : int
        Applications of the operator: the horizon, where there is one.
    values : array, shape (M, S_g)
        Expected return from each state.
    """

    value: float
    error: float
    states: int
    sweeps: int
    values: FloatArray


def evaluate_exactly(
    game: Game,
    policy: Policy,
    *,
    n: int,
    k: int,
    horizon: int | None = None,
    memory: float | str | None = "none",
    tol: float | None = None,
) -> float:
    """Return the expected return of n agents, k of them polled in each step, without sampling.

    Parameters
    ----------
    game : Game
        The game to play; the policy may have been made for another one of the same shape.
    policy : Policy
        Table, prior and local policy, played as `rollout` plays them.
    n, k : int
        Fleet size and poll size, 1 <= k <= n.
    horizon : int, optional
        Steps; the game's own by default, and where it has none, for ever.
    memory : "none", "auto" or number
        Only memoryless play can be enumerated; anything else is refused.
    tol : float, optional
        Largest error for an endless game, in units of the value; by default `PRECISION` times the
        largest return that the rewards allow.
    """
    return enumerate_fleet(
        game, policy, n=n, k=k, horizon=horizon, memory=memory, tol=tol
    ).value  # fmt: skip


def enumerate_fleet(
    game: Game,
    policy: Policy,
    *,
    n: int,
    k: int,
    horizon: int | None = None,
    memory: float | str | None = "none",
    tol: float | None = None,
) -> ExactValue:
    """Return the exact value with its error and all values by state; as `evaluate_exactly`."""
    check_policy(policy, game)
    k, n = check_poll(k, n)
    if (cap := policy.memory_cap(k, memory)) > k:
        raise InputError(
            f"a memory of {cap:g} agents cannot be enumerated: only memoryless play can"
        )
    policy = policy.in_play(k, memory)
    steps = game.horizon if horizon is None else check_int("horizon", horizon, 1, MAX_TIMES)
    tol = None if tol is None else check_real("tolerance", tol, above=0)
    check_fleet(game, n, steps)

    fleet = _Fleet(game, policy, n, k)
    start = np.zeros((grid_points(n, game.n_local), game.n_global))
    if steps is None:
        values, error, sweeps = fleet.solve(start, tol)
    else:
        values, error, sweeps = start, 0.0, steps
        for _ in range(steps):
            values = fleet.sweep(values)
    law = initial_histograms(game, n)
    return ExactValue(
        value=float((law * values).sum()),
        error=error + fleet.rounding * float(np.abs(values).max()) * min(sweeps, 1 / _left(game)),
        states=values.size,
        sweeps=sweeps,
        values=values,
    )


def check_fleet(game: Game, n: int, horizon: int | None) -> None:
    """Refuse a fleet that is too large to enumerate, before anything is allocated."""
    points, S_g, S_l = grid_points(n, game.n_local), game.n_global, game.n_local
    # Flux and the functions it is lifted from; values, images and law; lines, counts and indices.
    columns = S_g * S_g + 2 * (S_g + 1) * (S_l + 1) + (5 + S_g) * S_g + 4 * S_l
    needed = points * (8 * columns + 2 * S_l * (S_l - 1))
    what = f"the exact value of {n} agents over {S_l} local and {S_g} global states has "
    if needed > MAX_BYTES:
        raise InputError(
            f"{what}{shown(points * S_g)} states and takes {shown(needed)} bytes, above the limit "
            f"of {MAX_BYTES}"
        )
    lift = math.comb(n + S_l, S_l) * S_l * S_g * (S_g + 1)
    work = lift + (horizon or _USUAL_SWEEPS) * S_g * S_g * points * S_l * n
    if work > MAX_WORK:
        raise InputError(
            f"{what}{points * S_g} states and takes about {work:.2g} elementary steps, above the "
            f"limit of {MAX_WORK:.2g}"
        )


def poll_actions(policy: Policy, s_g: int, k: int) -> FloatArray:
    """Return the action for each histogram of k polled agents, shape (M(k),); as `decide`."""
    known = all_counts(k, policy.game.n_local).astype(np.float64)
    prior = policy.prior[s_g]
    size = prior.sum()
    informed = known + prior * (size / (size + k)) if size > 0 else known
    actions: FloatArray = policy.action[s_g, rank(project(informed, policy.grid))]
    return actions


def lift(functions: FloatArray, k: int, n: int, n_states: int) -> FloatArray:
    """Return E f(c) for polls c of k among n agents, shape (M(k), B) to (M(n), B)."""
    for m in range(k + 1, n + 1):
        counts = unrank(np.arange(grid_points(m, n_states)), m, n_states)
        larger = np.zeros((len(counts), functions.shape[1]))
        for j in range(n_states):
            there = np.flatnonzero(counts[:, j])
            without = counts[there]
            without[:, j] -= 1
            larger[there] += (counts[there, j] / m)[:, None] * functions[rank(without)]
        functions = larger
    return functions


class _Fleet:
    """The Bellman operator of n agents under a fixed memoryless policy."""

    def __init__(self, game: Game, policy: Policy, n: int, k: int) -> None:
        self.game = game
        P_pi, r_pi = game.marginals(policy.pi_l)
        self.operators = [SymmetricPower(P, n) for P in P_pi]
        if any(operator.method == "sampled" for operator in self.operators):
            raise RunError(f"the operator of {n} agents is sampled, so no exact value follows")
        self.rounding = max(1e-15, *(operator.check_error for operator in self.operators))
        self.flux: list[FloatArray] = []
        counts = all_counts(n, game.n_local)
        self.reward: FloatArray = counts @ r_pi.T / n
        for s in range(game.n_global):
            action = poll_actions(policy, s, k)
            polled = np.column_stack([game.P_g[s][action], game.r_g[s][action]])
            lifted = lift(polled, k, n, game.n_local)
            self.flux.append(np.ascontiguousarray(lifted[:, :-1]))
            self.reward[:, s] += lifted[:, -1]

    def sweep(self, values: FloatArray) -> FloatArray:
        """Apply the operator once to values, shape (M, S_g)."""
        game, new = self.game, self.reward.copy()
        states = range(game.n_global)
        if game.local_sees == "next":
            columns = [values[:, s : s + 1].copy() for s in states]
            run(lambda s: self.operators[s].apply_in_place(columns[s]), states, len(values))
            moved = np.hstack(columns)

        def one(s: int) -> None:
            if game.local_sees == "current":
                ahead = values.copy()
                self.operators[s].apply_in_place(ahead)
            else:
                ahead = moved
            new[:, s] += game.gamma * np.einsum("ms,ms->m", self.flux[s], ahead)

        run(one, states, len(values))
        return new

    def solve(self, values: FloatArray, tol: float | None) -> tuple[FloatArray, float, int]:
        """Return the values of endless play, their largest error, and the sweeps.

        If V' - V lies in [lo, hi] after a sweep, the value lies in V' + gamma/(1-gamma) [lo, hi]
        (MacQueen 1966).
        """
        ahead = self.game.gamma / _left(self.game)
        if tol is None:
            tol = max(1e-300, PRECISION * float(np.abs(self.reward).max()) / _left(self.game))
        for sweeps in range(1, _MAX_SWEEPS + 1):
            new = self.sweep(values)
            low, high = float((new - values).min()), float((new - values).max())
            values, error = new, ahead * (high - low) / 2
            floor = ahead * 16 * np.finfo(np.float64).eps * float(np.abs(new).max())
            if error <= max(tol, floor):
                return values + ahead * (high + low) / 2, error, sweeps
        raise RunError(f"the value is not within {tol:g} after {_MAX_SWEEPS} sweeps")


def _left(game: Game) -> float:
    return 1 - game.gamma
