# SPDX-License-Identifier: MIT
"""Work that is cut to fit a given time: rollouts of a policy, and bounds of growing size."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from kofn.controller.core._arguments import check_real
from kofn.controller.core.grid import grid_points
from kofn.controller.core.rollouts import Rollouts, rollout
from kofn.controller.core.team_bound import team_bound, team_bytes, team_work
from kofn.controller.core.upper_bounds import (
    MAX_BYTES,
    Bound,
    NoBoundError,
    global_bound,
    global_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from kofn.controller.core.game import Game
    from kofn.controller.core.policy import Policy

#: Episodes: those that measure the speed, and the fewest and the most that make a mean.
_PROBE, _FEWEST, _MOST = 50, 200, 20_000

#: Longest budget: ten years.
MAX_SECONDS = 10 * 366 * 86_400

#: Sizes that show how a bound falls; the last one is then as large as the budget allows.
_LADDER = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)

#: A size of the ladder is tried while it takes this share of what is left, the last one this much.
_STEP, _LAST = 0.1, 0.85

#: How often a largest size is looked for in what is left of the time.
_ATTEMPTS = 3


def check_budget(budget_s: object) -> float:
    """Return a wall time in seconds to aim at."""
    return check_real("budget in seconds", budget_s, above=0, most=MAX_SECONDS)


def play_for(
    seconds: float, game: Game, policy: Policy, *, n: int, k: int, horizon: int, seed: int
) -> Rollouts:
    """Return rollouts that take about as long as given: 200 to 20 000 episodes."""

    def play(rollouts: int) -> Rollouts:
        return rollout(game, policy, n=n, k=k, horizon=horizon, rollouts=rollouts, seed=seed)

    play(1)  # compiles
    clock = time.perf_counter()
    play(_PROBE)
    each = (time.perf_counter() - clock) / _PROBE
    return play(max(_FEWEST, min(_MOST, int(seconds / each))))


def global_ladder(
    game: Game, pi_l: npt.ArrayLike, n: int, seconds: float, *, horizon: int | None, tol: float
) -> list[Bound]:
    """Return bounds (a) of growing size, see `climb`."""

    def solve(size: int, deadline: float, start: Bound | None) -> Bound:
        return global_bound(
            game, pi_l, size, horizon=horizon, tol=tol, deadline=deadline, start=start
        )

    return climb(
        solve,
        lambda size: size * grid_points(size, game.n_local),
        lambda size: global_bytes(game, size) <= MAX_BYTES,
        n,
        seconds,
    )


def team_ladder(
    game: Game, n: int, seconds: float, *, horizon: int | None, tol: float
) -> list[Bound]:
    """Return bounds (b) of growing size, see `climb`."""

    def solve(size: int, deadline: float, start: Bound | None) -> Bound:
        return team_bound(game, size, horizon=horizon, tol=tol, deadline=deadline, start=start)

    return climb(
        solve,
        lambda size: team_work(size, game.n_local),
        lambda size: team_bytes(game, size) <= MAX_BYTES,
        n,
        seconds,
    )


def climb(
    solve: Callable[[int, float, Bound | None], Bound],
    work: Callable[[int], float],
    fits: Callable[[int], bool],
    n: int,
    seconds: float,
) -> list[Bound]:
    """Return bounds of growing size, the last one as large as time, memory and n allow.

    Parameters
    ----------
    solve : callable
        Takes size, deadline and the bound before; raises NoBoundError where there is none.
    work : callable
        Time of a size up to a factor, which is measured.
    fits : callable
        Whether a size fits in memory; size 1 must.
    n : int
        Largest size that is valid.
    seconds : float
        Time to stay within.
    """
    solve(1, math.inf, None)  # compiles
    began = time.perf_counter()
    bounds = [solve(1, math.inf, None)]
    # Small sizes are slower for their work than large ones, so this errs on the safe side.
    rate = bounds[0].seconds / work(1)
    for size in _LADDER[1:]:
        left = began + seconds - time.perf_counter()
        if size > n or not fits(size) or rate * work(size) > _STEP * left:
            break
        try:
            bounds.append(solve(size, began + seconds, bounds[-1]))
        except NoBoundError:
            return bounds
        rate = bounds[-1].seconds / work(size)
    for _ in range(_ATTEMPTS):
        left = began + seconds - time.perf_counter()
        size = bounds[-1].K
        while size < n and fits(size + 1) and rate * work(size + 1) <= _LAST * left:
            size += 1
        if size == bounds[-1].K:
            break
        try:
            bounds.append(solve(size, time.perf_counter() + left, bounds[-1]))
            rate = bounds[-1].seconds / work(size)
        except NoBoundError:
            rate *= 2  # the machine is slower than it was
    return bounds
