# SPDX-License-Identifier: MIT
"""Exact evaluation against brute force over separate agents, rollouts and G-LEARN."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InitialLaw, InputError, Policy, g_learn, load_game, rollout
from kofn.controller.core.exact_evaluation import (
    enumerate_fleet,
    evaluate_exactly,
    lift,
    poll_actions,
)
from kofn.controller.core.grid import all_counts, grid_points
from kofn.controller.core.team import initial_histograms

if TYPE_CHECKING:
    from types import ModuleType

    from kofn.controller.core.game import FloatArray, LocalSees

RandomGame = Callable[..., Game]

BOTH: list[LocalSees] = ["current", "next"]


def some_policy(game: Game, grid: int, seed: int = 5, *, prior: bool = True) -> Policy:
    """Return a policy that no symmetry makes special."""
    rng = np.random.default_rng(seed)
    shape = (game.n_global, grid_points(grid, game.n_local))
    return Policy(
        game,
        grid,
        rng.integers(0, game.n_global_actions, shape),
        rng.dirichlet(np.ones(game.n_local_actions), (game.n_global, game.n_local)),
        prior=rng.random((game.n_global, game.n_local)) * 2 if prior else None,
    )


def start_of_tuples(game: Game, n: int) -> dict[tuple[int, ...], float]:
    """Return the law of (s_1, ..., s_n), drawn one after the other by Polya's urn if need be."""
    law_l = game.initial.resolve(game.n_global, game.n_local)[1]
    alpha, S_l = game.initial.alpha, game.n_local
    law = {}
    for x in itertools.product(range(S_l), repeat=n):
        p = 1.0
        for i, j in enumerate(x):
            p *= law_l[j] if alpha is None else (alpha + x[:i].count(j)) / (S_l * alpha + i)
        law[x] = p
    return law


def brute_force(game: Game, policy: Policy, n: int, k: int, horizon: int) -> float:
    """Return the expected return by enumerating agents, polls, actions and moves one by one."""
    S_l, A_l = game.n_local, game.n_local_actions
    law_g = game.initial.resolve(game.n_global, S_l)[0]
    tuples = list(itertools.product(range(S_l), repeat=n))
    polls = list(itertools.combinations(range(n), k))

    def moves(x: tuple[int, ...], mover: int) -> FloatArray:
        law = np.ones(1)
        for i in x:
            row = sum(policy.pi_l[mover, i, b] * game.P_l[mover, i, b] for b in range(A_l))
            law = np.outer(law, row).ravel()
        return law

    V = {(s, x): 0.0 for s in range(game.n_global) for x in tuples}
    for _ in range(horizon):
        columns = [np.array([V[s, x] for x in tuples]) for s in range(game.n_global)]
        new = {}
        for s, x in V:
            total = np.mean([policy.pi_l[s, i] @ game.r_l[s, i] for i in x])
            for polled in polls:
                a = policy.decide(s, np.bincount([x[i] for i in polled], minlength=S_l))
                total += game.r_g[s, a] / len(polls)
                for t in range(game.n_global):
                    mover = s if game.local_sees == "current" else t
                    ahead = moves(x, mover) @ columns[t]
                    total += game.gamma * game.P_g[s, a, t] * ahead / len(polls)
            new[s, x] = float(total)
        V = new
    start = start_of_tuples(game, n)
    return float(sum(law_g[s] * start[x] * value for (s, x), value in V.items()))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    S_g=st.integers(1, 3),
    A_g=st.integers(1, 3),
    S_l=st.integers(1, 3),
    n=st.integers(1, 3),
    k=st.integers(1, 3),
    grid=st.integers(1, 4),
    local_sees=st.sampled_from(BOTH),
    alpha=st.sampled_from([None, 0.3]),
    horizon=st.integers(1, 4),
)
def test_it_is_the_enumeration_of_separate_agents(
    random_game: RandomGame,
    seed: int,
    S_g: int,
    A_g: int,
    S_l: int,
    n: int,
    k: int,
    grid: int,
    local_sees: LocalSees,
    alpha: float | None,
    horizon: int,
) -> None:
    law = np.random.default_rng(seed).dirichlet(np.ones(S_l))
    initial = InitialLaw(s_l=law) if alpha is None else InitialLaw(alpha=alpha)
    game = random_game(seed, S_g, A_g, S_l, 2, local_sees=local_sees, initial=initial)
    policy, k = some_policy(game, grid, seed), min(k, n)
    exact = evaluate_exactly(game, policy, n=n, k=k, horizon=horizon)
    assert exact == pytest.approx(brute_force(game, policy, n, k, horizon), abs=1e-11)


@pytest.mark.parametrize("local_sees", BOTH)
def test_larger_fleets_agree_with_the_reference(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees
) -> None:
    game = random_game(3, local_sees=local_sees, initial=InitialLaw(s_l=[0.6, 0.3, 0.1]))
    policy = some_policy(game, 4, prior=False)
    expected = reference.expected_return(game, policy, 6, 3, 5)
    assert evaluate_exactly(game, policy, n=6, k=3, horizon=5) == pytest.approx(expected, abs=1e-10)


def test_the_lift_is_the_hypergeometric_law_of_the_poll() -> None:
    n, k = 7, 3
    matrix = lift(np.eye(grid_points(k, 3)), k, n, 3)
    for N, row in zip(all_counts(n, 3), matrix, strict=True):
        expected = [
            math.prod(math.comb(int(a), int(b)) for a, b in zip(N, c, strict=True))
            / math.comb(n, k)
            for c in all_counts(k, 3)
        ]
        assert np.allclose(row, expected, atol=1e-15)


def test_polls_are_answered_as_the_live_controller_answers_them(random_game: RandomGame) -> None:
    game = random_game(8)
    policy = some_policy(game, 5, 2)
    for s in range(game.n_global):
        expected = [policy.decide(s, c) for c in all_counts(4, 3)]
        assert poll_actions(policy, s, 4).tolist() == expected


def test_the_pair_for_bare_polls_is_the_one_that_is_enumerated(random_game: RandomGame) -> None:
    game = random_game(8)
    bare, full = some_policy(game, 3, 2), some_policy(game, 4, 3)
    both = Policy(game, 4, full.action, full.pi_l, memory=9.0, bare=bare)
    found = evaluate_exactly(game, both, n=4, k=2)
    assert found == evaluate_exactly(game, bare, n=4, k=2)
    assert abs(found - evaluate_exactly(game, full, n=4, k=2)) > 1e-3
    with pytest.raises(InputError, match="memory of 9 agents"):
        evaluate_exactly(game, both, n=4, k=2, memory="auto")


@pytest.mark.parametrize("local_sees", BOTH)
@pytest.mark.parametrize(
    ("seed", "n", "k", "alpha"), [(1, 5, 2, None), (2, 12, 4, 0.3), (3, 30, 1, 0.3), (4, 8, 8, 2.0)]
)
def test_rollouts_scatter_around_it(
    random_game: RandomGame, local_sees: LocalSees, seed: int, n: int, k: int, alpha: float | None
) -> None:
    game = random_game(seed, local_sees=local_sees, initial=InitialLaw(alpha=alpha))
    policy = some_policy(game, 3, seed)
    exact = evaluate_exactly(game, policy, n=n, k=k, horizon=12)
    played = rollout(game, policy, n=n, k=k, horizon=12, rollouts=20_000, memory="none", seed=seed)
    assert abs(played.mean - exact) < 4 * played.stderr


def test_the_ring_of_ten_robots_scatters_around_it() -> None:
    game = load_game("ring-released")
    policy = Policy(game, 4, g_learn(game, game.uniform_local_policy(), 4).action,
                    game.uniform_local_policy())  # fmt: skip
    exact = evaluate_exactly(game, policy, n=10, k=3)
    played = rollout(game, policy, n=10, k=3, rollouts=10_000, memory="none")
    assert abs(played.mean - exact) < 4 * played.stderr


@pytest.mark.parametrize("local_sees", BOTH)
def test_polling_everybody_with_the_optimal_table_earns_the_optimum(
    random_game: RandomGame, local_sees: LocalSees
) -> None:
    game = random_game(9, gamma=0.9, local_sees=local_sees, initial=InitialLaw(alpha=0.5))
    pi = some_policy(game, 1).pi_l
    solution = g_learn(game, pi, 6, tol=1e-9)
    found = enumerate_fleet(game, Policy(game, 6, solution.action, pi), n=6, k=6, tol=1e-9)
    assert found.error <= 2e-9
    optimum = float((initial_histograms(game, 6) * solution.value.T).sum())
    assert abs(found.value - optimum) <= solution.error_bound + found.error
    assert np.abs(found.values.T - solution.value).max() <= solution.error_bound + found.error


def test_an_endless_value_is_the_limit_of_long_horizons(random_game: RandomGame) -> None:
    game = random_game(4, gamma=0.9)
    policy = some_policy(game, 2)
    long = evaluate_exactly(game, policy, n=5, k=2, horizon=250)
    assert evaluate_exactly(game, policy, n=5, k=2) == pytest.approx(long, abs=1e-8)
    rough = enumerate_fleet(game, policy, n=5, k=2, tol=0.05)
    assert 1e-6 < abs(rough.value - long) <= rough.error <= 0.05 + 1e-9
    assert rough.states == 3 * grid_points(5, 3)


def test_no_discounting_of_the_first_step_alone(random_game: RandomGame) -> None:
    game = random_game(4, gamma=0.0)
    policy = some_policy(game, 2)
    once = evaluate_exactly(game, policy, n=4, k=2, horizon=1)
    assert evaluate_exactly(game, policy, n=4, k=2) == pytest.approx(once, abs=1e-12)


def test_the_game_s_own_horizon_is_the_default(random_game: RandomGame) -> None:
    game = random_game(4, horizon=3)
    policy = some_policy(game, 2)
    found = enumerate_fleet(game, policy, n=4, k=2)
    assert found.sweeps == 3
    assert found.value == evaluate_exactly(game, policy, n=4, k=2, horizon=3)


def test_two_states_allow_hundreds_of_agents(random_game: RandomGame) -> None:
    game = random_game(6, S_l=2, initial=InitialLaw(alpha=1.0))
    policy = some_policy(game, 4)
    exact = evaluate_exactly(game, policy, n=300, k=4, horizon=8)
    played = rollout(game, policy, n=300, k=4, horizon=8, rollouts=20_000, memory="none")
    assert abs(played.mean - exact) < 4 * played.stderr


def test_a_fleet_that_does_not_fit_is_refused_before_it_is_allocated() -> None:
    game = load_game("ring-current")
    policy = Policy.uniform(game, 2)
    tracemalloc.start()
    try:
        with pytest.raises(
            InputError, match=r"1000 agents .* has 210423968755 states .* limit of \d"
        ):
            evaluate_exactly(game, policy, n=1000, k=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_fleet_that_takes_too_long_is_refused(random_game: RandomGame) -> None:
    game = random_game(1, S_l=2)
    message = r"has 300003 states and takes about \S+ elementary steps"
    with pytest.raises(InputError, match=message):
        evaluate_exactly(game, some_policy(game, 2), n=100_000, k=2, horizon=50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "fleet size 0"),
        ({"n": 2.5}, "fleet size 2.5"),
        ({"k": 9}, "poll size 9 exceeds fleet size 5"),
        ({"k": True}, "poll size True"),
        ({"horizon": 0}, "horizon 0"),
        ({"memory": 50}, "memory of 50 agents cannot be enumerated"),
        ({"memory": "some"}, "memory 'some' is not 'auto'"),
        ({"tol": 0.0}, "tolerance 0.0"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    random_game: RandomGame, arguments: dict[str, object], message: str
) -> None:
    game = random_game(1)
    full: dict[str, object] = {"n": 5, "k": 2, **arguments}
    with pytest.raises(InputError, match=message):
        evaluate_exactly(game, some_policy(game, 2), **full)  # type: ignore[arg-type]


def test_a_policy_of_another_shape_is_refused(random_game: RandomGame) -> None:
    policy = some_policy(random_game(1, S_l=2), 2)
    with pytest.raises(InputError, match="policy was made for"):
        evaluate_exactly(random_game(1), policy, n=5, k=2)
