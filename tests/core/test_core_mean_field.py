# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kofn.controller.core import Game, InitialLaw, InputError, Policy, g_learn, rollout
from kofn.controller.core import _mean_field_kernels as kernels
from kofn.controller.core.field_filter import FieldFilter
from kofn.controller.core.mean_field import (
    constant_plans,
    effective_kernel_of_plans,
    mean_field_learn,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kofn.controller.core.game import LocalSees

BOTH = pytest.mark.parametrize("sees", ["current", "next"])


def followers(gamma: float = 0.8, sees: LocalSees = "current", turn: float = 0.25) -> Game:
    """Agents that walk round in a circle, rewarded where the target is: it has to go along."""
    rng = np.random.default_rng(2)
    eye = np.eye(3)
    P_g = 0.8 * eye[None] + 0.1 * eye[:, None] + 0.1 * rng.dirichlet(np.ones(3), (3, 3))
    walk = (1 - turn) * eye + turn * np.roll(eye, 1, axis=1)
    P_l = 0.9 * walk[None, :, None] + 0.1 * rng.dirichlet(np.ones(3), (3, 3, 1))
    r_l = 5.0 * eye[:, :, None]
    law = InitialLaw(alpha=0.3)
    return Game(P_g, np.zeros((3, 3)), P_l, r_l, gamma, local_sees=sees, initial=law)


def test_with_one_local_state_it_is_the_markov_decision_process_of_the_target() -> None:
    rng = np.random.default_rng(0)
    P_g, r_g = rng.dirichlet(np.ones(4), (4, 3)), rng.random((4, 3))
    game = Game(P_g, r_g, np.ones((4, 1, 1, 1)), np.ones((4, 1, 1)), 0.9)
    value = np.zeros(4)
    for _ in range(500):
        q = r_g + 1.0 + 0.9 * P_g @ value
        value = q.max(axis=1)
    found = mean_field_learn(game, game.uniform_local_policy(), points=200, sweeps=500, tol=1e-12)
    states, fields = np.arange(4), np.ones((4, 1))
    assert np.allclose(found.values(states, fields), value, atol=1e-6)
    assert np.array_equal(found.decide(states, fields), q.argmax(axis=1))


@BOTH
def test_the_value_of_finite_grids_falls_towards_that_of_the_limit(sees: LocalSees) -> None:
    game = followers(sees=sees)
    pi_l = game.uniform_local_policy()
    fields = np.vstack([np.eye(3), np.random.default_rng(0).dirichlet(np.full(3, 0.3), 9)])
    limit = mean_field_learn(game, pi_l, fields, points=4000, sweeps=300, tol=1e-8)
    # With all agents in one state each subset of them looks the same.
    at_corners = np.array([limit.values(np.full(3, s), np.eye(3)) for s in range(3)])
    gaps = []
    for k in (1, 4, 16, 48):
        solved = g_learn(game, pi_l, k)
        ranks = [np.flatnonzero((grid_of(k) == k * np.eye(3)[j]).all(axis=1))[0] for j in range(3)]
        gap = solved.value[:, ranks] - at_corners
        assert np.all(gap >= -1e-4)
        gaps.append(float(gap.max()))
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[3] < 0.03 * at_corners.mean()


def grid_of(k: int) -> np.ndarray:
    points = [(a, b, k - a - b) for a in range(k + 1) for b in range(k + 1 - a)]
    return np.array(points)


@BOTH
def test_the_promised_value_is_reached_by_a_large_fleet(sees: LocalSees) -> None:
    game = followers(gamma=0.7, sees=sees, turn=0.9)
    pi_l = game.uniform_local_policy()
    found = mean_field_learn(game, pi_l)
    policy = Policy(game, 40, found.table(40), pi_l)
    played = rollout(game, policy, n=10**7, k=600, horizon=40, rollouts=2000, memory="none")
    rng = np.random.default_rng(5)
    s_g, fields = rng.integers(3, size=20_000), rng.dirichlet(np.full(3, 0.3), 20_000)
    promised = found.values(s_g, fields).mean()
    assert played.mean > promised - 4 * played.stderr - 0.005 * promised
    constant = constant_plans(game, *game.marginals(pi_l))[s_g]
    assert promised > np.einsum("ej,eja->ea", fields, constant).max(axis=1).mean() + 0.1


def test_sweeps_never_lower_the_value(random_game: Callable[..., Game]) -> None:
    game = random_game(seed=4, S_g=4, S_l=4, gamma=0.9)
    pi_l = game.uniform_local_policy()
    values = [
        mean_field_learn(game, pi_l, points=400, sweeps=sweeps, tol=0.0).value
        for sweeps in (1, 2, 4, 8, 16)
    ]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))


@BOTH
def test_a_backup_is_the_equation_of_the_text(
    sees: LocalSees, random_game: Callable[..., Game]
) -> None:
    game = random_game(seed=6, S_g=3, A_g=4, S_l=5, local_sees=sees)
    P_pi, r_pi = game.marginals(game.uniform_local_policy())
    rng = np.random.default_rng(1)
    plans = rng.random((3, 5, 6))
    field = rng.dirichlet(np.ones(5))
    s = 1
    mover = [s] * 3 if sees == "current" else [0, 1, 2]
    follow = [int((field @ P_pi[mover[t]] @ plans[t]).argmax()) for t in range(3)]
    candidates = [
        game.r_g[s, a]
        + r_pi[s]
        + game.gamma
        * sum(game.P_g[s, a, t] * P_pi[mover[t]] @ plans[t][:, follow[t]] for t in range(3))
        for a in range(4)
    ]
    best = int(np.argmax([field @ c for c in candidates]))
    new, actions = np.zeros((5, 1)), np.zeros(1, dtype=np.int64)
    plans -= 100.0  # so that the old plans are worse, which changes all candidates alike
    count = kernels.back_up_state(
        s,
        field[None],
        np.zeros(1, dtype=np.int64),
        plans,
        np.full(3, 6),
        np.zeros((3, 6), dtype=np.int64),
        np.array(game.P_g),
        np.array(game.r_g),
        P_pi,
        r_pi,
        game.gamma,
        sees == "next",
        new,
        actions,
    )
    assert count == 1
    assert actions[0] == best
    assert np.allclose(new[:, 0], candidates[best] - 100.0 * game.gamma)


def test_the_global_state_moves_as_the_plans_say() -> None:
    game = followers()
    pi_l = game.uniform_local_policy()
    fields = np.eye(3)[[2]]
    found = mean_field_learn(game, pi_l, fields)
    effective = effective_kernel_of_plans(game, pi_l, found, fields)
    assert np.allclose(effective.sum(axis=1), 1)
    # The fleet starts in state 2 and leaves it slowly, so the target is called there at once.
    assert np.all(effective[:, 2] > 0.5)


@BOTH
def test_the_filter_is_the_rule_of_bayes(sees: LocalSees) -> None:
    rng = np.random.default_rng(3)
    P_pi = rng.dirichlet(np.ones(4), (2, 4))
    starts = rng.dirichlet(np.ones(4), 3)
    polls = np.array([[0, 2, 0, 0], [1, 0, 0, 1], [0, 0, 3, 0]])
    path = [0, 1, 1]
    filter_ = FieldFilter(P_pi, starts, local_sees=sees, trust=1e9)
    filter_.start(1)
    posterior, fields = np.full(3, 1 / 3), starts
    for t in range(3):
        if t:
            fields = fields @ P_pi[path[t - 1] if sees == "current" else path[t]]
        posterior = posterior * np.prod((0.999 * fields + 0.001 / 4) ** polls[t], axis=1)
        posterior /= posterior.sum()
        found = filter_.observe(np.array([path[t]]), polls[t : t + 1])
        assert np.allclose(found[0], posterior @ fields, atol=1e-6)


def test_polls_outvote_the_starts_where_the_fleet_looks_like_none_of_them() -> None:
    still = np.eye(3)[None]
    filter_ = FieldFilter(still, [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]], trust=50)
    filter_.start(1)
    truth = np.array([0.1, 0.1, 0.8])
    for _ in range(100):
        found = filter_.observe(np.zeros(1, dtype=np.int64), 10 * truth[None])
    assert np.allclose(found[0], truth, atol=0.06)
    filter_.start(2)
    fresh = filter_.observe(np.zeros(2, dtype=np.int64), np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    assert fresh[0].argmax() == 0
    assert fresh[1].argmax() == 1


def test_bad_input_is_named(random_game: Callable[..., Game]) -> None:
    game = random_game()
    pi_l = game.uniform_local_policy()
    for given, message in (
        ({"points": 0}, "points 0"),
        ({"sweeps": 0}, "sweeps 0"),
        ({"fields": np.ones((2, 2)) / 2}, "2 local states, but the game has 3"),
        ({"fields": np.ones((2, 3))}, r"fields\[0\] sums to 3"),
    ):
        with pytest.raises(InputError, match=message):
            mean_field_learn(game, pi_l, **given)
    with pytest.raises(InputError, match="do not fit fields of 2"):
        FieldFilter(np.eye(3)[None], [[0.5, 0.5]])
    with pytest.raises(InputError, match="trust 0"):
        FieldFilter(np.eye(2)[None], [[0.5, 0.5]], trust=0)
    with pytest.raises(InputError, match=r"counts has shape \(1, 3\)"):
        FieldFilter(np.eye(2)[None], [[0.5, 0.5]]).observe(np.zeros(1, int), np.zeros((1, 3)))
