# SPDX-License-Identifier: MIT
"""The team step of L-LEARN: exact policy improvement on the closed system of k agents.

Value V by policy evaluation, occupancy d by pushing the initial law forward, gradient as in
`local_learner`. Every accepted change has been evaluated exactly, so J never falls. (Where the
operator had to fall back to sampling, so does the occupancy; it only decides what is tried.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import array_of, check_kind
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.global_learner import Surrogate
from kofn.controller.core.grid import all_counts, check_grid, rank
from kofn.controller.core.symmetric_power import SymmetricPower

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray

#: Error bound of each evaluation, relative to the spread of rewards; a change must beat it twice.
_PRECISION = 1e-5

_MAX_STEPS = 50


def check_action(game: Game, pi_g: npt.ArrayLike, k: int) -> npt.NDArray[np.int32]:
    """Return a global table on the grid of k agents as a checked array, shape (S_g, M(k))."""
    check_kind("game", game, Game)
    points = check_grid(k, game.n_local, game.n_global)
    action = array_of("pi_g", pi_g)
    if action.shape != (game.n_global, points) or not np.issubdtype(action.dtype, np.integer):
        raise InputError(
            f"pi_g is {action.dtype} of shape {action.shape}, "
            f"but k = {k} asks for whole numbers of shape {(game.n_global, points)}"
        )
    if action.min() < 0 or action.max() >= game.n_global_actions:
        raise InputError(f"pi_g holds an action outside 0..{game.n_global_actions - 1}")
    return np.ascontiguousarray(action, dtype=np.int32)


def initial_histograms(game: Game, k: int) -> FloatArray:
    """Return the law of the first (c, s_g) of k agents, shape (M, S_g)."""
    counts = all_counts(k, game.n_local)
    law_g, law_l = game.initial.resolve(game.n_global, game.n_local)
    if game.initial.alpha is None:
        steps = np.zeros((game.n_local, k + 1))
        with np.errstate(divide="ignore"):
            steps[:, 1:] = np.log(law_l)[:, None] - np.log(np.arange(1, k + 1))
    else:  # Polya's urn: the i-th agent in a state weighs alpha + i - 1
        i = np.arange(1, k + 1)
        steps = np.zeros((game.n_local, k + 1))
        steps[:, 1:] = np.log((game.initial.alpha + i - 1) / i)
    logs = np.cumsum(steps, axis=1)
    exponent = logs[np.arange(game.n_local), counts].sum(axis=1)
    mass = np.exp(exponent - exponent.max())
    law: FloatArray = np.outer(mass / mass.sum(), law_g)
    return law


def evaluate(
    surrogate: Surrogate, action: npt.NDArray[np.int32], start: FloatArray, tol: float
) -> FloatArray:
    """Return the value of a fixed pair, shape (M, S_g)."""
    return surrogate.solve(start, tol, action)[0]


def global_flux(
    game: Game, action: npt.NDArray[np.int32], measure: FloatArray, s: int
) -> FloatArray:
    """Return how a measure at s_g = s splits over the next global state, shape (M, S_g)."""
    flux: FloatArray = measure[:, s, None] * game.P_g[s][action[s]]
    return flux


def occupancy(
    surrogate: Surrogate, action: npt.NDArray[np.int32], law: FloatArray, tol: float = 1e-7
) -> FloatArray:
    """Return the discounted visits of (c, s_g) from an initial law, shape (M, S_g).

    Once the law of the state stands still up to `tol`, the rest of the series is geometric.
    """
    game = surrogate.game
    total = np.zeros_like(law)
    weight = 1.0
    for _ in range(10_000):
        total += weight * law
        after = np.zeros_like(law)
        for s in range(game.n_global):
            flux = global_flux(game, action, law, s)
            if game.local_sees == "next":
                after += flux
            else:
                after += _operator(surrogate, s).push(flux)
        if game.local_sees == "next":
            for s in range(game.n_global):
                after[:, s] = _operator(surrogate, s).push(after[:, s : s + 1])[:, 0]
        weight *= game.gamma
        change = float(np.abs(after - law).sum())
        law = after
        if change * weight <= tol:
            break
    rest: FloatArray = total + weight / (1 - game.gamma) * law
    return rest


def _operator(surrogate: Surrogate, s: int) -> SymmetricPower:
    operator = surrogate.operators[s]
    assert isinstance(operator, SymmetricPower)  # noqa: S101 - the exact backend holds no other
    return operator


def gradient(
    surrogate: Surrogate,
    action: npt.NDArray[np.int32],
    value: FloatArray,
    visits: FloatArray,
) -> FloatArray:
    """Return dJ/dpi_l for fixed V and d, shape (S_g, S_l, A_l)."""
    game, k = surrogate.game, surrogate.k
    n_local = game.n_local
    # Histograms of the other k - 1 agents, and the index of each with one agent added in state j.
    others = all_counts(k - 1, n_local) if k > 1 else np.zeros((1, n_local), dtype=np.int64)
    with_one = rank(others[:, None, :] + np.eye(n_local, dtype=np.int64))
    small: list[SymmetricPower | None] = [
        SymmetricPower(P, k - 1) if k > 1 else None for P in surrogate.P_pi
    ]
    mean_counts = visits.T @ surrogate.counts / k
    result: FloatArray = mean_counts[:, :, None] * game.r_l

    # landing[s, j, j']: value of one agent going from j to j', summed over where that happens.
    landing = np.zeros((game.n_global, n_local, n_local))
    flux = [global_flux(game, action, visits, s) for s in range(game.n_global)]
    after = value[with_one]  # (M', S_l, S_g): V(s', h + e_j')
    for s in range(game.n_global):
        operator = small[s]
        if game.local_sees == "current":
            weights, target = flux[s], after.reshape(len(others), -1).copy()
        else:
            weights = sum((f[:, s : s + 1] for f in flux), np.zeros((len(visits), 1)))
            target = after[:, :, s].copy()
        if operator is not None:
            operator.apply_in_place(target)
        lanes = weights.shape[1]
        landed = target.reshape(len(others), n_local, lanes)
        for j in range(n_local):
            # An agent leaves state j of c = h + e_j in c_j = h_j + 1 ways.
            moved = weights[with_one[:, j]] * (others[:, j, None] + 1.0)
            landing[s, j] = np.einsum("hs,hls->l", moved, landed)
    result += game.gamma * np.einsum("gjal,gjl->gja", game.P_l, landing)
    return result


def improve_team(game: Game, action: npt.NDArray[np.int32], pi_l: FloatArray, k: int) -> FloatArray:
    """Raise J by exact gradient steps until none helps; return the improved pi_l.

    Entries (s_g, s_l) are ordered by their promised gain. All are switched to their best action,
    else the better half, and so on down to one; where even that fails, the first one is mixed in.
    """
    law = initial_histograms(game, k)
    scale = float(np.ptp(game.r_l) + np.ptp(game.r_g)) or 1.0
    tol = _PRECISION * scale
    surrogate = Surrogate(game, pi_l, k)
    value = evaluate(surrogate, action, np.zeros_like(law), tol)
    best = float((law * value).sum())
    eye = np.eye(game.n_local_actions)
    for _ in range(_MAX_STEPS):
        visits = occupancy(surrogate, action, law)
        slope = gradient(surrogate, action, value, visits)
        held = (pi_l * slope).sum(axis=2)
        gain = slope.max(axis=2) - held
        order = np.argsort(-gain, axis=None, kind="stable")
        promising = int((gain > tol).sum())
        greedy = eye[np.argmax(slope, axis=2)]
        trials: list[tuple[int, float]] = []
        count = promising
        while count >= 1:
            trials.append((count, 1.0))
            count //= 2
        if promising:
            trials += [(1, 0.5), (1, 0.25)]
        for count, step in trials:
            states = np.unravel_index(order[:count], gain.shape)
            candidate = pi_l.copy()
            candidate[states] += step * (greedy[states] - candidate[states])
            trial = Surrogate(game, candidate, k)
            trial_value = evaluate(trial, action, value, tol)
            reached = float((law * trial_value).sum())
            if reached > best + 2 * tol:
                pi_l, surrogate, value, best = candidate, trial, trial_value, reached
                break
        else:
            break
    return pi_l
