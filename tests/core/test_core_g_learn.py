# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InputError, g_learn, histogram_rank, load_game
from kofn.controller.core.global_learner import Surrogate, prolong
from kofn.controller.core.grid import all_counts

if TYPE_CHECKING:
    from types import ModuleType

    from kofn.controller.core.game import LocalSees
    from kofn.controller.core.global_learner import Backend

RandomGame = Callable[..., Game]


def some_policy(game: Game, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(
        np.ones(game.n_local_actions), (game.n_global, game.n_local)
    )


@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_histograms_and_tuples_have_the_same_value(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees
) -> None:
    game = random_game(3, S_l=2, local_sees=local_sees)
    pi = some_policy(game)
    exact = reference.solve_tuples(game, pi, k=3, sweeps=160)
    solution = g_learn(game, pi, 3, tol=1e-11)
    for s, *x in itertools.product(range(game.n_global), *[range(2)] * 3):
        c = np.bincount(x, minlength=2)
        assert abs(solution.value[s, histogram_rank(c)] - exact[(s, *x)]) <= 1e-9


@pytest.mark.parametrize("backend", ["exact", "sampled", "rounded"])
@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_the_result_is_the_fixed_point_of_its_operator(
    random_game: RandomGame, backend: Backend, local_sees: LocalSees
) -> None:
    game = random_game(1, local_sees=local_sees)
    pi = some_policy(game)
    solution = g_learn(game, pi, 5, backend=backend, tol=1e-9, seed=3)
    surrogate = Surrogate(game, pi, 5, backend, None, 3)
    again, action = surrogate.sweep(np.ascontiguousarray(solution.value.T))
    assert np.abs(again.T - solution.value).max() <= 1e-9
    assert np.array_equal(action, solution.action)
    assert solution.error_bound <= 1e-9


def test_the_error_bound_holds(random_game: RandomGame) -> None:
    game = random_game(2, gamma=0.95)
    pi = some_policy(game)
    exact = g_learn(game, pi, 6, tol=1e-11).value
    for tol in (1.0, 1e-2, 1e-5):
        rough = g_learn(game, pi, 6, tol=tol)
        assert np.abs(rough.value - exact).max() <= rough.error_bound + 1e-10
        assert rough.error_bound <= tol


def test_a_warm_start_changes_the_work_and_not_the_result(random_game: RandomGame) -> None:
    game = random_game(2, gamma=0.95)
    pi = some_policy(game)
    cold = g_learn(game, pi, 8, tol=1e-9)
    warm = g_learn(game, pi, 8, tol=1e-9, warm_start=cold)
    other_grid = g_learn(game, pi, 8, tol=1e-9, warm_start=g_learn(game, pi, 4).value)
    assert warm.sweeps < cold.sweeps
    assert np.abs(warm.value - cold.value).max() <= 2e-9
    assert np.abs(other_grid.value - cold.value).max() <= 2e-9
    assert np.array_equal(warm.action, cold.action)


def test_coarse_to_fine_agrees_with_a_start_from_zero() -> None:
    game = load_game("ring-current")
    pi = game.uniform_local_policy()
    fine = g_learn(game, pi, 10, tol=1e-8)
    flat = g_learn(game, pi, 10, tol=1e-8, warm_start=np.zeros_like(fine.value))
    assert np.abs(fine.value - flat.value).max() <= 2e-8


@pytest.mark.parametrize("S_l", [2, 3, 5])
@pytest.mark.parametrize(("coarse", "fine"), [(3, 7), (5, 10), (6, 6), (8, 4), (1, 9)])
def test_linear_functions_are_carried_to_another_grid_unchanged(
    S_l: int, coarse: int, fine: int
) -> None:
    weights = np.random.default_rng(0).random((S_l, 2))
    values = all_counts(coarse, S_l) / coarse @ weights
    carried = prolong(values, coarse, fine, S_l)
    assert np.abs(carried - all_counts(fine, S_l) / fine @ weights).max() <= 1e-14


def test_acceleration_saves_sweeps_and_keeps_the_result() -> None:
    game = load_game("ring-current")
    surrogate = Surrogate(game, game.uniform_local_policy(), 8)
    values = start = np.zeros((surrogate.n_points, 5))
    _, _, sweeps, bound = surrogate.solve(start, 1e-4)
    plain = 0
    width = np.inf
    while width > 1e-4:
        new = surrogate.sweep(values)[0]
        width = 19 / 2 * np.ptp(new - values)
        values, plain = new, plain + 1
    assert sweeps <= plain / 2
    assert bound <= 1e-4
    assert not start.any()


def test_ties_go_to_the_lowest_action() -> None:
    game = load_game("ring-current")
    # Two actions that do the same: the copy is never chosen.
    twin = Game(
        np.concatenate([game.P_g, game.P_g], axis=1),
        np.concatenate([game.r_g, game.r_g], axis=1),
        game.P_l,
        game.r_l,
        game.gamma,
    )
    solution = g_learn(twin, twin.uniform_local_policy(), 4)
    assert solution.action.max() < game.n_global_actions


def test_without_future_the_best_action_has_the_best_reward(random_game: RandomGame) -> None:
    game = random_game(4, gamma=0.0)
    solution = g_learn(game, game.uniform_local_policy(), 2)
    assert np.array_equal(solution.action, np.repeat(game.r_g.argmax(axis=1)[:, None], 6, axis=1))
    assert solution.error_bound == 0.0


def test_sampling_converges_to_the_exact_operator_like_one_over_root_m() -> None:
    game = load_game("ring-current")
    pi = game.uniform_local_policy()
    exact = g_learn(game, pi, 4, tol=1e-4).value

    def error(m: int) -> float:
        gaps = [
            g_learn(game, pi, 4, backend="sampled", samples=m, tol=1e-4, seed=seed).value - exact
            for seed in range(4)
        ]
        return float(np.sqrt(np.mean(np.square(gaps))))

    few, many = error(8), error(512)
    # A factor 64 in samples is a factor 8 in error; maximisation bias may add to it.
    assert 4 < few / many < 32


def test_samples_are_counted() -> None:
    game = load_game("ring-current")
    solution = g_learn(game, game.uniform_local_policy(), 3, backend="sampled", samples=7, tol=1e-2)
    assert solution.samples == 7 * 35 * 5
    assert g_learn(game, game.uniform_local_policy(), 3, tol=1e-2).samples == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "magic"}, "unknown backend 'magic'; known are exact, sampled, round"),
        ({"samples": 3}, "samples 3 need backend 'sampled'"),
        ({"backend": "sampled", "samples": 0}, "samples 0"),
        ({"tol": 0.0}, "tolerance 0.0"),
        ({"seed": -1}, "seed -1"),
        ({"k": 0}, "grid size 0"),
        ({"k": 10_000}, "above the limit"),
        ({"warm_start": np.zeros((3, 7))}, "warm start has 7 points"),
        ({"warm_start": np.zeros(7)}, "warm start has 1 axes"),
    ],
)
def test_bad_input_is_refused(
    random_game: RandomGame, arguments: dict[str, object], message: str
) -> None:
    game = random_game(0)
    k = arguments.pop("k", 3)
    with pytest.raises(InputError, match=message):
        g_learn(game, game.uniform_local_policy(), k, **arguments)  # type: ignore[arg-type]


@given(seed=st.integers(0, 10**6), k=st.integers(1, 4), S_l=st.integers(2, 3))
@settings(max_examples=25, deadline=None)
def test_with_one_global_state_it_does_not_matter_which_one_the_locals_see(
    seed: int, k: int, S_l: int
) -> None:
    rng = np.random.default_rng(seed)
    tables = (
        np.ones((1, 2, 1)),
        rng.normal(size=(1, 2)),
        rng.dirichlet(np.ones(S_l), (1, S_l, 2)),
        rng.normal(size=(1, S_l, 2)),
    )
    pi_l = rng.dirichlet(np.ones(2), (1, S_l))
    now, then = (
        g_learn(Game(*tables, 0.8, local_sees=sees), pi_l, k, tol=1e-9)
        for sees in ("current", "next")
    )
    np.testing.assert_allclose(then.value, now.value, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(then.action, now.action)


def test_a_sweep_over_an_array_of_another_shape_is_refused() -> None:
    game = load_game("ring-current")
    surrogate = Surrogate(game, game.uniform_local_policy(), 3)
    with pytest.raises(InputError, match=r"values of shape \(5, 35\) must have shape \(35, 5\)"):
        surrogate.sweep(np.zeros((5, 35)))
    with pytest.raises(InputError, match=r"action of shape"):
        surrogate.sweep(np.zeros((35, 5)), np.zeros((35, 5), dtype=np.int32))
