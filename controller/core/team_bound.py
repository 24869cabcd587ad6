# SPDX-License-Identifier: MIT
r"""The centralised team of K agents: an upper bound on every policy of n >= K agents.

Pick K of the n agents. They and the global state evolve by themselves given the actions, and the
system's reward is the average over all picks of the reward of the pick. So no policy of the n
agents, whatever it sees and whoever computes it, earns more than the optimum of K agents that are
steered together and see everything. The bound falls as K grows.

The joint choice of K agents is too large to maximise over at once. Instead the agents choose and
move one after the other within a step, state by state: with U_a the value ahead of global action a,

.. math::
   F_a(h, g) &= \max_b \tfrac1K r_l(s,j,b) + \sum_l P_l(l|s,j,b)\, F_a(h - e_j, g + e_l), \quad
   F_a(0, g) = U_a(g) = \gamma \sum_{s'} P_g(s'|s,a) V(s', g) \\
   V(s, c) &= \max_a r_g(s,a) + F_a(c, 0)

where j is the state whose turn it is. An agent so sees where those before it went, which can only
raise the optimum, by little: the bound stays valid and still falls with K.

With `local_sees="next"` the agents choose their move after s' is known, and what an agent earns in
a step does not bind its move; then V(s,c) = max_a r_g(s,a) + sum_j c_j max_b r_l(s,j,b) / K
+ gamma sum_s' P_g(s'|s,a) F_{s'}(c, 0), F_{s'}(0, g) = V(s', g).

======  ==========  ============  =================================================
symbol  name        shape         meaning
======  ==========  ============  =================================================
h       -           (S_l,)        agents that have not chosen yet, by state
g       -           (S_l,)        next histogram of those that have
V       value       (M, S_g)      optimum of the team
F       -           (M, lanes)    the same once a_g (or s') is known
======  ==========  ============  =================================================

The pairs (h, g) number C(K + 2 S_l - 1, 2 S_l - 1), which is the time of a sweep; they are gone
through depth first, so memory is S_l functions on the grid and no more. Games that can be rotated
(`_rotation`) are solved for one global state only.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core import _team_kernels as kernels
from kofn.controller.core._jit import parallel_map, thread_count
from kofn.controller.core._rotation import TOLERANCE, find_rotation
from kofn.controller.core.errors import InputError
from kofn.controller.core.grid import all_counts, binomials, check_grid, grid_points, rank
from kofn.controller.core.team import initial_histograms
from kofn.controller.core.upper_bounds import (
    MAX_BYTES,
    ROUNDING,
    Bound,
    bound_from_sweeps,
    warm_start,
)

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game, IntArray


def team_work(size: int, n_states: int) -> int:
    """Return the pairs (h, g) of a team of `size` agents: the work of a sweep, per lane."""
    return math.comb(size + 2 * n_states - 1, 2 * n_states - 1)


def team_bytes(game: Game, size: int) -> int:
    """Return the memory that the bound of `size` agents takes, in bytes."""
    points, S_l = grid_points(size, game.n_local), game.n_local
    current = game.local_sees == "current"
    lanes = game.n_global_actions if current else 1
    columns = game.n_global * (lanes if current else 2)
    # Values ahead and after, old and new values, law; levels of each thread; runs and counts.
    arrays = 2 * columns + 6 * game.n_global + lanes * S_l * thread_count() + 4 * S_l + 12
    return 8 * points * arrays


def check_team(game: Game, size: int) -> None:
    """Refuse a team that does not fit, before anything is allocated."""
    if isinstance(size, (int, np.integer)) and size >= 1:
        needed = team_bytes(game, int(size))
        if needed > MAX_BYTES:
            raise InputError(
                f"a team of {size} agents over {game.n_local} states has "
                f"{grid_points(int(size), game.n_local) * game.n_global} states and takes {needed} "
                f"bytes, above the limit of {MAX_BYTES}"
            )
    check_grid(size, game.n_local, game.n_global)


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Runs of all grids up to a size, see `_team_kernels`."""

    first: IntArray
    length: IntArray
    target: IntArray
    source: IntArray


@lru_cache(maxsize=2)
def _runs(size: int, n_states: int) -> _Runs:
    first, lengths, targets, sources = [0], [], [], []
    eye = np.eye(n_states, dtype=np.int64)
    padding = -n_states % kernels.BLOCK
    for m in range(size):
        if n_states == 1:
            start = np.array([[m]])
            length = np.ones(1, dtype=np.int64)
        else:
            # A histogram with the last two states merged, taken apart as (0, rest).
            merged = all_counts(m, n_states - 1) if m else np.zeros((1, n_states - 1), np.int64)
            start = np.insert(merged, n_states - 2, 0, axis=1)
            length = merged[:, -1] + 1
        lengths.append(length)
        targets.append(rank(start))
        neighbours = rank(start[:, None, :] + eye)
        sources.append(np.hstack([neighbours, np.repeat(neighbours[:, :1], padding, axis=1)]))
        first.append(first[-1] + len(start))
    return _Runs(
        np.array(first, dtype=np.int64),
        np.concatenate(lengths),
        np.concatenate(targets),
        np.ascontiguousarray(np.concatenate(sources)),
    )


class Team:
    """The Bellman operator of K agents that are steered together."""

    def __init__(self, game: Game, size: int) -> None:
        check_team(game, size)
        self.game, self.size = game, int(size)
        self.n_points = grid_points(self.size, game.n_local)
        self._table = np.array(binomials(self.size, game.n_local))
        self._runs = _runs(self.size, game.n_local)
        # Writable copies: numba compiles a second version for read-only arrays.
        padding = -game.n_local % kernels.BLOCK
        self._P_l = np.pad(game.P_l, ((0, 0), (0, 0), (0, 0), (0, padding)))
        self._r_l = game.r_l / self.size
        self._counts = all_counts(self.size, game.n_local)
        turn = find_rotation(game)
        #: Index of each histogram as seen from s_g, shape (S_g, M), if the game can be rotated.
        self.seen: IntArray | None = None
        if turn is not None:
            self.seen = np.array(
                [rank(np.roll(self._counts, -turn * s, axis=1)) for s in range(game.n_global)]
            )

    def act(
        self, ahead: list[FloatArray], movers: list[int], reward: list[FloatArray]
    ) -> list[FloatArray]:
        """Let all agents choose and move.

        Parameters
        ----------
        ahead : list of arrays, shape (M, lanes)
            What is earned afterwards.
        movers : list of int
            For each, the global state that moves the agents.
        reward : list of arrays, shape (S_l, A_l)
            For each, what an agent earns by its choice.

        Returns
        -------
        list of arrays, shape (M, lanes)
        """
        out = [np.empty_like(values) for values in ahead]
        runs = self._runs

        def branch(task: tuple[int, int]) -> None:
            top, i = task
            kernels.team_branch(
                ahead[i],
                self._P_l[movers[i]],
                reward[i],
                self.size,
                top,
                self._table,
                runs.first,
                runs.length,
                runs.target,
                runs.source,
                out[i],
            )

        # The longest branches first, so that the threads finish together.
        tasks = [(top, i) for top in range(self.size + 1) for i in range(len(ahead))]
        if self.n_points < 100:
            for task in tasks:
                branch(task)
        else:
            parallel_map(branch, tasks)
        return out

    def sweep(self, values: FloatArray) -> FloatArray:
        """Apply the Bellman operator once to values, shape (M, S_g)."""
        game = self.game
        states = range(game.n_global)
        new = np.empty_like(values)
        solved = states if self.seen is None else states[:1]
        if game.local_sees == "current":
            ahead = [np.ascontiguousarray(game.gamma * (values @ game.P_g[s].T)) for s in solved]
            moved = self.act(ahead, list(solved), [self._r_l[s] for s in solved])
            for s in solved:
                new[:, s] = (moved[s] + game.r_g[s]).max(axis=1)
            return self._turn(new)
        columns = [values[:, s : s + 1].copy() for s in solved]
        nothing = np.zeros_like(self._r_l[0])
        after = np.empty_like(values)
        after[:, : len(solved)] = np.hstack(
            self.act(columns, list(solved), [nothing for _ in solved])
        )
        after = self._turn(after)
        for s in states:
            ahead_s = game.gamma * (after @ game.P_g[s].T)
            earned = self._counts @ self._r_l[s].max(axis=1)
            new[:, s] = (ahead_s + game.r_g[s]).max(axis=1) + earned
        return new

    def _turn(self, values: FloatArray) -> FloatArray:
        """Fill in the global states that are rotated copies of the first."""
        if self.seen is not None:
            values[:, 1:] = values[self.seen[1:], 0].T
        return values


def team_bound(
    game: Game,
    size: int,
    *,
    horizon: int | None = None,
    tol: float = 1e-6,
    deadline: float = math.inf,
    start: Bound | None = None,
) -> Bound:
    """Return an upper bound on the return of every policy of `size` or more agents.

    Parameters
    ----------
    game : Game
    size : int
        K, the agents of the team.
    horizon : int, optional
        Steps of an episode; None means for ever, whatever the game's own horizon.
    tol : float
        Half the width at which an endless game is solved, in units of the value.
    deadline : float
        Time (of `time.perf_counter`) by which it should be done.
    start : Bound, optional
        A bound of the same kind, to start an endless game from.

    Raises
    ------
    InputError
        If the team does not fit in memory, before anything is allocated.
    NoBoundError
        As soon as the deadline cannot be met.
    """
    began = time.perf_counter()
    team = Team(game, size)
    # Rotated copies differ in the last bits, for the kernels of all agents and of s_g.
    slack = (
        ROUNDING
        if team.seen is None
        else ROUNDING + TOLERANCE * (size * game.n_local + game.n_global + 1)
    )
    return bound_from_sweeps(
        team.sweep,
        warm_start(game, team.size, horizon, start),
        initial_histograms(game, team.size),
        kind="team",
        size=team.size,
        gamma=game.gamma,
        horizon=horizon,
        tol=tol,
        slack=slack,
        began=began,
        deadline=deadline,
    )
