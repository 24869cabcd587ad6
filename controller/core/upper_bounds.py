# SPDX-License-Identifier: MIT
r"""Upper bounds on the return of n agents from closed systems of K <= n agents.

Pick K of the n agents: they and the global state evolve by themselves given the actions, and the
reward of the system is the average over all picks of the reward of the pick. So what n agents earn
is at most what K agents earn under the best control of their own, from the law of the pick:

.. math:: V_n \le E\, V^*_K(s_g, c), \qquad s_g, c \sim \text{initial law, K agents}

*global*: the local agents follow a fixed pi_l; V*_K is the exact value of `g_learn`. No dispatcher
earns more, even if it sees all agents. *team* (`team_bound`): nothing is fixed. Both fall with K.

Values are solved by sweeps of a Bellman operator T: backwards from zero over a finite horizon; for
ever, V* <= V' + gamma/(1-gamma) max(V' - V) for V' = T V (MacQueen 1966), so that each number is an
upper bound whatever the accuracy of the solver.

======  ==========  ==========  ==========================================
symbol  name        shape       meaning
======  ==========  ==========  ==========================================
K       size        scalar      agents of the closed system
V       values      (M, S_g)    value on the grid of K agents
H       horizon     scalar      steps; None: for ever
======  ==========  ==========  ==========================================
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from kofn.controller.core._jit import thread_count
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.global_learner import Surrogate, prolong
from kofn.controller.core.grid import check_grid, grid_points
from kofn.controller.core.symmetric_power import CHECK_TOLERANCE
from kofn.controller.core.team import initial_histograms

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from kofn.controller.core.game import FloatArray, Game

Kind = Literal["global", "team"]

#: Memory that the arrays of one bound may take.
MAX_BYTES = 512 * 2**20

_MAX_SWEEPS = 100_000

#: Relative rounding error granted to one sweep of convex combinations.
ROUNDING = 1e-13


class NoBoundError(RunError):
    """No bound at this size: it would miss its deadline, or the operator is not exact there."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An upper bound on the return from the game's initial law.

    Attributes
    ----------
    kind : {"global", "team"}
        Whether the local policy is fixed or nothing is.
    K : int
        Agents of the closed system that was solved.
    upper : float
        The bound, solver error included.
    error : float
        How far `upper` may lie above the optimum of the closed system.
    sweeps : int
        Applications of the Bellman operator.
    seconds : float
        Time that took.
    values : array, shape (M, S_g)
        Upper bounds from each first state.
    """

    kind: Kind
    K: int
    upper: float
    error: float
    sweeps: int
    seconds: float
    values: FloatArray = field(repr=False)


def bound_from_sweeps(
    sweep: Callable[[FloatArray], FloatArray],
    values: FloatArray,
    law: FloatArray,
    *,
    kind: Kind,
    size: int,
    gamma: float,
    horizon: int | None,
    tol: float,
    slack: float = ROUNDING,
    began: float | None = None,
    deadline: float = math.inf,
) -> Bound:
    """Bound E V* from above by repeated application of a Bellman operator.

    Parameters
    ----------
    sweep : callable
        Maps values, shape (M, S_g), to new values.
    values : array, shape (M, S_g)
        Values to start from; zero for a finite horizon.
    law : array, shape (M, S_g)
        Law of the first state.
    tol : float
        An endless game is swept until lower and upper bound are within 2 `tol`.
    slack : float
        Relative error of one sweep; what it can add up to is added to the bound.
    began, deadline : float
        Times (of `time.perf_counter`) at which the work began and by which it should be done.
    """
    first = time.perf_counter()
    began = first if began is None else began
    ahead = gamma / (1 - gamma)
    widths: list[float] = []
    high = low = 0.0
    sweeps = 0
    while sweeps < (horizon or _MAX_SWEEPS):
        new = sweep(values)
        sweeps += 1
        high, low = float((new - values).max()), float((new - values).min())
        values = new
        if horizon is None:
            widths.append(ahead * (high - low) / 2)
            floor = ahead * 16 * np.finfo(np.float64).eps * float(np.abs(new).max())
            if widths[-1] <= max(tol, floor):
                break
        now = time.perf_counter()
        left = _sweeps_left(sweeps, horizon, widths, tol)
        # Half as late again as promised is forgiven: other work on the machine comes and goes.
        if now + left * (now - first) / sweeps > deadline + 0.5 * (deadline - began):
            raise NoBoundError(f"the bound of {size} agents would miss its deadline")
    else:
        if horizon is None:
            raise RunError(f"the bound of {size} agents is not within {tol} after {sweeps} sweeps")
    shift, error = (ahead * high, ahead * (high - low)) if horizon is None else (0.0, 0.0)
    # Errors of sweeps are discounted, and each is relative to values no larger than these.
    largest = float(np.abs(values).max()) + abs(shift) + ahead * abs(low)
    rounding = slack * largest / (1 - gamma)
    return Bound(
        kind=kind,
        K=size,
        upper=float((law * values).sum()) + shift + rounding,
        error=error + 2 * rounding,
        sweeps=sweeps,
        seconds=time.perf_counter() - began,
        values=values + (shift + rounding),
    )


def _sweeps_left(sweeps: int, horizon: int | None, widths: list[float], tol: float) -> float:
    """Return how many sweeps are still to come, as far as can be told."""
    if horizon is not None:
        return horizon - sweeps
    if len(widths) < 4 or not 0 < widths[-1] < widths[-3]:
        return 0.0
    rate = math.log(widths[-3] / widths[-1]) / 2
    return max(0.0, math.log(widths[-1] / tol) / rate)


def warm_start(game: Game, size: int, horizon: int | None, start: Bound | None) -> FloatArray:
    """Return the values to start from, shape (M, S_g): zero, or another bound's for ever."""
    if start is None or horizon is not None:
        return np.zeros((grid_points(size, game.n_local), game.n_global))
    return prolong(start.values, start.K, size, game.n_local)


def global_bytes(game: Game, size: int) -> int:
    """Return the memory that the bound of a fixed local policy takes, in bytes."""
    S_l, S_g = game.n_local, game.n_global
    lines = S_l * (S_l - 1) // 2 * 4
    columns = 6 * S_g + 2 * S_g * thread_count() + 5
    return grid_points(size, S_l) * (8 * (columns + 3 * S_l) + 2 * lines)


def global_bound(
    game: Game,
    pi_l: npt.ArrayLike,
    size: int,
    *,
    horizon: int | None = None,
    tol: float = 1e-6,
    deadline: float = math.inf,
    start: Bound | None = None,
) -> Bound:
    """Return an upper bound on the return of `size` or more agents that follow pi_l.

    Parameters
    ----------
    game : Game
    pi_l : array, shape (S_g, S_l, A_l)
        The local policy of all agents.
    size : int
        K, the agents of the closed system.
    horizon, tol, deadline, start
        As for `team_bound`.

    Raises
    ------
    InputError
        If the grid does not fit in memory, before anything is allocated.
    NoBoundError
        As soon as the deadline cannot be met, or if the operator is not exact at this size.
    """
    if isinstance(size, (int, np.integer)) and size >= 1:
        needed = global_bytes(game, int(size))
        if needed > MAX_BYTES:
            raise InputError(
                f"a bound of {size} agents over {game.n_local} states has "
                f"{grid_points(int(size), game.n_local) * game.n_global} states and takes {needed} "
                f"bytes, above the limit of {MAX_BYTES}"
            )
    check_grid(size, game.n_local, game.n_global)
    began = time.perf_counter()
    surrogate = Surrogate(game, pi_l, size)
    if surrogate.samples:
        raise NoBoundError(f"the operator of {size} agents is sampled, so it bounds nothing")
    return bound_from_sweeps(
        lambda values: surrogate.sweep(values)[0],
        warm_start(game, surrogate.k, horizon, start),
        initial_histograms(game, surrogate.k),
        kind="global",
        size=surrogate.k,
        gamma=game.gamma,
        horizon=horizon,
        tol=tol,
        slack=CHECK_TOLERANCE,
        began=began,
        deadline=deadline,
    )
