# SPDX-License-Identifier: MIT
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InitialLaw, InputError, g_learn, l_learn, load_game
from kofn.controller.core.global_learner import Surrogate
from kofn.controller.core.grid import all_counts
from kofn.controller.core.local_learner import (
    effective_kernel,
    joint_kernel,
    own_value,
    released_kernel,
    stationary,
)
from kofn.controller.core.team import evaluate, gradient, initial_histograms, occupancy

if TYPE_CHECKING:
    from kofn.controller.core.game import LocalSees

RandomGame = Callable[..., Game]
Array = npt.NDArray[np.float64]


def some_policy(game: Game, seed: int = 5) -> Array:
    return np.random.default_rng(seed).dirichlet(
        np.ones(game.n_local_actions), (game.n_global, game.n_local)
    )


def team_value(game: Game, action: npt.NDArray[np.int32], pi: Array, k: int) -> float:
    law = initial_histograms(game, k)
    surrogate = Surrogate(game, pi, k)
    return float((law * evaluate(surrogate, action, np.zeros_like(law), 1e-11)).sum())


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("k", [1, 4])
def test_the_gradient_equals_finite_differences(
    random_game: RandomGame, local_sees: LocalSees, k: int
) -> None:
    game = random_game(7, local_sees=local_sees)
    pi = some_policy(game)
    action = g_learn(game, some_policy(game, 6), k).action
    law = initial_histograms(game, k)
    surrogate = Surrogate(game, pi, k)
    value = evaluate(surrogate, action, np.zeros_like(law), 1e-11)
    visits = occupancy(surrogate, action, law, 1e-12)
    assert np.isclose(visits.sum(), 1 / (1 - game.gamma))
    slope = gradient(surrogate, action, value, visits)
    for s, j in [(0, 0), (1, 2), (2, 1)]:
        step = np.zeros_like(pi)
        step[s, j] = [1e-4, -1e-4]
        difference = team_value(game, action, pi + step, k) - team_value(game, action, pi - step, k)
        assert np.isclose(difference / 2, (slope * step).sum(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("seed", range(3))
def test_the_team_step_never_lowers_the_value(
    random_game: RandomGame, local_sees: LocalSees, seed: int
) -> None:
    game = random_game(seed, local_sees=local_sees, gamma=0.9)
    pi = some_policy(game)
    value = -np.inf
    for _ in range(3):
        action = g_learn(game, pi, 4, tol=1e-9).action
        answered = team_value(game, action, pi, 4)
        assert answered >= value - 1e-8
        pi = l_learn(game, action, pi, 4)
        value = team_value(game, action, pi, 4)
        assert value >= answered - 1e-8
        assert np.allclose(pi.sum(axis=2), 1)


@pytest.mark.parametrize(("seed", "k"), [(1, 4), (2, 2), (6, 2), (11, 4)])
@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_a_step_that_goes_too_far_is_taken_back(
    random_game: RandomGame, local_sees: LocalSees, seed: int, k: int
) -> None:
    # Against a dispatcher that calls at random, all promising switches at once often lose.
    game = random_game(seed, S_l=2, gamma=0.9, local_sees=local_sees)
    game = replace(game, r_l=0.2 * game.r_l, r_g=5 * game.r_g)
    action = np.random.default_rng(seed).integers(3, size=(3, k + 1)).astype(np.int32)
    pi = some_policy(game, seed + 1)
    before = team_value(game, action, pi, k)
    assert team_value(game, action, l_learn(game, action, pi, k), k) >= before - 1e-8


def test_the_team_step_reaches_a_policy_that_no_single_switch_improves() -> None:
    game = load_game("ring-current")
    pi = game.uniform_local_policy()
    action = g_learn(game, pi, 3).action
    better = l_learn(game, action, pi, 3)
    reached = team_value(game, action, better, 3)
    assert reached > team_value(game, action, pi, 3) + 1
    for s, j, a in [(0, 1, 0), (1, 1, 2), (2, 4, 1), (4, 0, 0)]:
        switched = better.copy()
        switched[s, j] = np.eye(3)[a]
        assert team_value(game, action, switched, 3) <= reached + 1e-2


@pytest.mark.parametrize(
    "initial", [InitialLaw(s_l=[0.2, 0.5, 0.3]), InitialLaw(alpha=0.3), InitialLaw(s_l=[1, 0, 0])]
)
def test_the_initial_law_of_histograms_has_the_right_moments(
    random_game: RandomGame, initial: InitialLaw
) -> None:
    game = random_game(0, initial=initial)
    law = initial_histograms(game, 4).sum(axis=1)
    counts = all_counts(4, 3)
    share = np.array([0.2, 0.5, 0.3]) if initial.s_l is not None else np.full(3, 1 / 3)
    if initial.s_l is not None:
        share = np.asarray(initial.s_l, dtype=float)
    assert np.isclose(law.sum(), 1)
    assert np.allclose(law @ counts, 4 * share)
    spread = 1.0 if initial.alpha is None else (4 + 0.9) / (1 + 0.9)
    variance = law @ counts**2 - (law @ counts) ** 2
    assert np.allclose(variance, 4 * share * (1 - share) * spread)


def counter_example() -> Game:
    """Return a game in which a selfish agent, indifferent itself, spoils the dispatcher's reward.

    The dispatcher earns 1 for action 0 only. Agents own nothing; action 0 takes them to state 0,
    action 1 to state 1.
    """
    P_l = np.zeros((1, 2, 2, 2))
    P_l[0, :, 0, 0] = 1
    P_l[0, :, 1, 1] = 1
    return Game(np.ones((1, 2, 1)), np.array([[1.0, 0.0]]), P_l, np.zeros((1, 2, 2)), 0.5)


def test_a_selfish_answer_can_lower_the_common_reward_and_the_team_answer_does_not() -> None:
    game = counter_example()
    # A fixed dispatcher that does the right thing only while its agent stands in state 1.
    action = np.array([[0, 1]], dtype=np.int32)  # histograms (0, 1) and (1, 0)
    go_to_1 = np.array([[[0.0, 1.0], [0.0, 1.0]]])
    before = team_value(game, action, go_to_1, 1)
    selfish = l_learn(game, action, go_to_1, 1, objective="selfish")
    assert team_value(game, action, selfish, 1) < before - 0.4
    team = l_learn(game, action, selfish, 1, objective="team")
    assert np.isclose(team_value(game, action, team, 1), before)


@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_no_deviation_of_one_entry_improves_on_the_selfish_answer(
    random_game: RandomGame, local_sees: LocalSees
) -> None:
    game = random_game(11, local_sees=local_sees)
    pi = some_policy(game)
    action = g_learn(game, pi, 3).action
    effective = effective_kernel(game, action, pi, 3)
    answer = l_learn(game, action, pi, 3, objective="selfish")
    best = own_value(game, effective, answer)
    assert best >= own_value(game, effective, pi)
    for s, j in np.ndindex(3, 3):
        other = answer.copy()
        other[s, j] = answer[s, j, ::-1]
        assert own_value(game, effective, other) <= best + 1e-9


def test_the_effective_kernel_is_consistent_with_its_mean_field(random_game: RandomGame) -> None:
    game = random_game(12)
    pi = some_policy(game)
    k = 2
    action = g_learn(game, pi, k).action
    effective = effective_kernel(game, action, pi, k)
    assert np.allclose(effective.sum(axis=1), 1)
    joint = stationary(joint_kernel(game, effective, game.marginals(pi)[0])).reshape(3, 3)
    field = joint / joint.sum(axis=1, keepdims=True)
    for s in range(3):
        row = np.zeros(3)
        for i in range(3):
            for j in range(3):
                c = np.bincount([i, j], minlength=3)
                cell = [tuple(x) for x in all_counts(k, 3)].index(tuple(c))
                row += field[s, i] * field[s, j] * game.P_g[s, action[s, cell]]
        assert np.abs(row - effective[s]).max() < 1e-6


def test_the_stationary_law_is_kept_by_the_chain() -> None:
    P = np.random.default_rng(0).dirichlet(np.ones(6), 6)
    law = stationary(P)
    assert np.abs(law @ P - law).max() < 1e-12
    assert np.allclose(stationary(np.eye(3)), 1 / 3)


def test_a_hot_softmax_answer_is_uniform_and_a_cold_one_greedy(random_game: RandomGame) -> None:
    game = random_game(13)
    pi = some_policy(game)
    action = g_learn(game, pi, 3).action
    greedy = l_learn(game, action, pi, 3, objective="selfish")
    cold = l_learn(game, action, pi, 3, objective="selfish", softmax=1e-5)
    hot = l_learn(game, action, pi, 3, objective="selfish", softmax=1e6)
    assert np.allclose(cold, greedy, atol=1e-6)
    assert np.allclose(hot, 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "greedy"}, "unknown objective 'greedy'; known are team, selfish, chain"),
        ({"objective": 3}, "unknown objective 3; known are team, selfish, chain"),
        ({"softmax": 1.0}, "softmax response needs objective 'selfish'"),
        ({"objective": "selfish", "softmax": 0.0}, "temperature 0.0 is not a number above 0"),
        ({"objective": "selfish", "softmax": np.inf}, "temperature inf is not a number above 0"),
        ({"objective": "selfish", "softmax": "cold"}, "temperature 'cold' is not a number above 0"),
        ({"objective": "selfish", "mean_field": "x"}, "unknown mean field 'x'; known are stat"),
        ({"mean_field": "released"}, "mean field 'released' needs objective 'selfish'"),
    ],
)
def test_bad_settings_are_refused(
    random_game: RandomGame, arguments: dict[str, object], message: str
) -> None:
    game = random_game(0)
    action = np.zeros((3, 10), dtype=int)
    with pytest.raises(InputError, match=message):
        l_learn(game, action, game.uniform_local_policy(), 3, **arguments)  # type: ignore[arg-type]


def test_an_empty_state_of_the_mean_field_is_no_trouble() -> None:
    # Everybody ends up in state 0, so that log 0 stands in the law of the poll.
    P_l = np.zeros((1, 3, 2, 3))
    P_l[..., 0] = 1
    P_g = np.ones((1, 2, 1))
    game = Game(P_g, np.zeros((1, 2)), P_l, np.arange(6.0).reshape(1, 3, 2), 0.5)
    action = np.zeros((1, 10), dtype=np.int32)
    for kernel in (effective_kernel, released_kernel):
        assert np.allclose(kernel(game, action, game.uniform_local_policy(), 3), 1)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_passed_the_answer_is_a_policy_or_a_sentence(data: st.DataObject) -> None:
    junk = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 3),
        st.floats(width=16),
        st.text(max_size=3),
        st.lists(st.integers(0, 1), max_size=3),
        st.just([[0, 1], [0]]),
        st.just(np.zeros((2, 2), dtype=np.int64)),
        st.just(np.full((2, 2, 2), np.nan)),
        st.just("released"),
    )
    rng = np.random.default_rng(0)
    game = Game(
        rng.dirichlet(np.ones(2), (2, 2)),
        rng.random((2, 2)),
        rng.dirichlet(np.ones(2), (2, 2, 2)),
        rng.random((2, 2, 2)),
        0.5,
    )
    good: dict[str, object] = {
        "pi_g": np.zeros((2, 2), int),
        "pi_l": game.uniform_local_policy(),
        "k": 1,
        "objective": data.draw(st.sampled_from(["team", "selfish", "chain"])),
        "softmax": None,
        "mean_field": "stationary",
    }
    bad = data.draw(st.sampled_from(sorted(good)))
    try:
        answer = l_learn(game, **{**good, bad: data.draw(junk)})
    except InputError as error:
        sentence = str(error)
    else:
        assert np.allclose(answer.sum(axis=2), 1)
        sentence = "this is a policy"
    assert len(sentence) > 10
    assert "\n" not in sentence


def test_a_table_of_the_wrong_grid_or_range_is_refused(random_game: RandomGame) -> None:
    game = random_game(0)
    uniform = game.uniform_local_policy()
    with pytest.raises(InputError, match=r"k = 3 asks for whole numbers of shape \(3, 10\)"):
        l_learn(game, np.zeros((3, 6), dtype=int), uniform, 3)
    with pytest.raises(InputError, match=r"outside 0\.\.2"):
        l_learn(game, np.full((3, 10), 3), uniform, 3)
