# SPDX-License-Identifier: MIT
r"""G-LEARN: the best response of the global agent to a fixed local policy.

On the closed system of k agents, x = (s_g, c):

.. math:: Q(s_g,c,a) = r_g(s_g,a) + \frac1k \sum_j c_j r^\pi(s_g,j)
   + \gamma \sum_{s'} P_g(s'|s_g,a)\, (W_{s_g} V(s',\cdot))(c), \qquad V = \max_a Q.

With `local_sees="next"` the operator is W_{s'}. W does not depend on a, so each sweep applies it
once to all V(s', .).

Value iteration with the bounds of MacQueen (1966): if V' - V lies in [lo, hi] after a sweep, the
fixed point lies in V' + gamma/(1-gamma) [lo, hi]. The middle is returned, with half the width as
error bound; these bounds close as fast as the fleet mixes, not as gamma^sweeps. They hold for any
V, so the next V may be guessed: by `_acceleration`, and at first from solutions on grids of k/2 and
k/4, interpolated and followed on in 1/k. On the ring, k = 50, relative bound 1e-4, that leaves 7 to
11 sweeps of the 38 to 65 that plain sweeps took from the nearest point of the grid of k/2. Grids of
up to 2000 points start from zero: making the operators of coarser ones costs more than it saves.

Backends: *exact* (`symmetric_power`), *sampled* and *rounded* (`successors`).

======  ==================  ============  ================================
symbol  name                shape         meaning
======  ==================  ============  ================================
V       value               (S_g, M)      optimal value of each cell
pi_g    action              (S_g, M)      greedy action, ties to the lowest
W       operator            M -> M        one step of k agents
======  ==================  ============  ================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _backup_kernels as kernels
from kofn.controller.core._arguments import (
    MAX_TIMES,
    check_choice,
    check_int,
    check_kind,
    check_real,
    check_seed,
    rewards,
)
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.grid import all_counts, binomials, grid_points
from kofn.controller.core.surrogate import Backend, Operator, Surrogate, run

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray
    from kofn.controller.core.symmetric_power import Method

__all__ = ["Backend", "GlobalSolution", "Operator", "Surrogate", "g_learn", "prolong", "run"]

#: A grid with more points than this is first solved at half its size.
_COARSE_POINTS = 2000

#: Error bound of the coarser solutions: their own grid is the larger error.
_COARSE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class GlobalSolution:
    """The result of `g_learn`.

    Attributes
    ----------
    value : array, shape (S_g, M)
        Optimal value; the optimum of the backend's own model for sampled and rounded.
    action : array of int, shape (S_g, M)
        Greedy action of each cell.
    sweeps : int
        Applications of the Bellman operator on the final grid.
    error_bound : float
        Largest distance of `value` from the fixed point.
    samples : int
        Draws of a next histogram; 0 unless the operator was sampled.
    k : int
        Size of the grid.
    backend : str
        The backend asked for.
    methods : tuple of str
        How each operator was applied: "factored", or a fallback of the exact backend.
    """

    value: FloatArray
    action: npt.NDArray[np.int32]
    sweeps: int
    error_bound: float
    samples: int
    k: int
    backend: Backend
    methods: tuple[Method | Backend, ...]


def prolong(values: FloatArray, coarse: int, fine: int, n_local: int) -> FloatArray:
    """Carry functions from one grid to another by linear interpolation, (M, B) to (M', B)."""
    out = np.empty((grid_points(fine, n_local), values.shape[1]))
    kernels.interpolate(
        np.ascontiguousarray(values),
        coarse,
        fine,
        all_counts(fine, n_local),
        binomials(coarse, n_local),
        out,
    )
    return out


def grid_size_of(n_points: int, n_local: int) -> int | None:
    """Return the k whose grid has this many points, if there is one."""
    k = 1
    while grid_points(k, n_local) < n_points:
        k += 1
    return k if grid_points(k, n_local) == n_points else None


def g_learn(
    game: Game,
    pi_l: npt.ArrayLike,
    k: int,
    *,
    backend: Backend = "exact",
    samples: int | None = None,
    tol: float = 1e-6,
    warm_start: GlobalSolution | npt.ArrayLike | None = None,
    seed: int = 0,
) -> GlobalSolution:
    """Return the best response of the global agent to a local policy, on k agents.

    Parameters
    ----------
    game : Game
    pi_l : array, shape (S_g, S_l, A_l)
        The local policy that everybody follows.
    k : int
        Agents in a histogram.
    backend : {"exact", "sampled", "rounded"}
        How one step of the agents is averaged.
    samples : int, optional
        Draws per cell of the sampled backend (10 unless given).
    tol : float
        Error bound of the value to stop at, in units of the value.
    warm_start : GlobalSolution or array of shape (S_g, M'), optional
        A value to start from, on any grid of the same game; speeds up, does not change the result.
    seed : int
        For sampled operators.
    """
    check_kind("game", game, Game)
    check_choice("backend", backend, get_args(Backend))
    if samples is not None:
        samples = check_int("samples", samples, 1, MAX_TIMES)
        if backend != "sampled":
            raise InputError(f"samples {samples} need backend 'sampled', not {backend!r}")
    seed, tol = check_seed(seed), check_real("tolerance", tol, above=0)
    surrogate = Surrogate(game, pi_l, k, backend, samples, seed)
    start = _start(game, pi_l, surrogate, tol, warm_start)
    values, action, sweeps, bound = surrogate.solve(start, tol)
    return GlobalSolution(
        value=np.ascontiguousarray(values.T),
        action=action,
        sweeps=sweeps,
        error_bound=bound,
        samples=surrogate.samples,
        k=surrogate.k,
        backend=backend,
        methods=surrogate.methods,
    )


def _start(
    game: Game,
    pi_l: npt.ArrayLike,
    surrogate: Surrogate,
    tol: float,
    warm_start: GlobalSolution | npt.ArrayLike | None,
) -> FloatArray:
    """Return the values to start from, shape (M, S_g)."""
    if warm_start is not None:
        given = rewards(
            "warm start",
            warm_start.value if isinstance(warm_start, GlobalSolution) else warm_start,
            2,
        )
        if given.shape[0] != game.n_global:
            raise InputError(f"warm start has shape {given.shape}, not ({game.n_global}, M)")
        coarse = grid_size_of(given.shape[1], game.n_local)
        if coarse is None:
            raise InputError(
                f"warm start has {given.shape[1]} points, which is no grid of {game.n_local} states"
            )
        return prolong(np.ascontiguousarray(given.T), coarse, surrogate.k, game.n_local)
    if surrogate.n_points <= _COARSE_POINTS or surrogate.backend != "exact":
        return np.zeros((surrogate.n_points, game.n_global))
    return _from_coarser(game, pi_l, surrogate.k, tol)


def _from_coarser(game: Game, pi_l: npt.ArrayLike, k: int, tol: float) -> FloatArray:
    """Return a start from the solutions on grids of k/2 and k/4, shape (M, S_g).

    The value is nearly linear in 1/k, so the step from k/4 to k/2 is followed half as far.
    """
    half, quarter = k // 2, k // 4
    finer = g_learn(game, pi_l, half, tol=max(tol, _COARSE_TOLERANCE)).value.T
    start = prolong(finer, half, k, game.n_local)
    if quarter >= 1:
        coarser = g_learn(game, pi_l, quarter, tol=max(tol, _COARSE_TOLERANCE)).value.T
        ahead = (1 / k - 1 / half) / (1 / half - 1 / quarter)
        start *= 1 + ahead
        start -= ahead * prolong(coarser, quarter, k, game.n_local)
    return start
