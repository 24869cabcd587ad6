# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kofn.controller.core import Game, InputError, Policy, g_learn, l_learn, load_game, rollout
from kofn.controller.core.local_learner import joint_kernel, released_kernel, stationary
from kofn.controller.core.released import released_marl

RandomGame = Callable[..., Game]


@pytest.mark.parametrize(("k", "published"), [(1, 83.3), (5, 85.9), (10, 87.8)])
def test_the_published_returns_are_reproduced_within_two(k: int, published: float) -> None:
    game = load_game("ring-released")
    solution = released_marl(game, k, 1000)
    played = rollout(
        game, solution.policy, n=1000, k=k, horizon=50, rollouts=4000, seed=9, memory="none"
    )
    assert abs(played.mean - published) < 2
    assert played.stderr < 0.15


def test_the_published_level_is_not_met_by_chance() -> None:
    game = load_game("ring-released")
    idle = Policy.uniform(game, 5)
    played = rollout(game, idle, n=1000, k=5, horizon=50, rollouts=2000, seed=9, memory="none")
    assert played.mean < 83.9


def test_the_policy_is_memoryless_and_its_last_answer_is_the_local_one() -> None:
    game = load_game("ring-released")
    solution = released_marl(game, 5, 1000, rounds=1)
    policy, model = solution.policy, replace(game, local_sees="current")
    uniform = game.uniform_local_policy()
    answer = g_learn(model, uniform, 5, backend="rounded", tol=1e-4)
    assert np.array_equal(policy.action, answer.action)
    local = l_learn(
        model,
        answer.action,
        uniform,
        5,
        objective="selfish",
        softmax="released",
        mean_field="released",
    )
    assert np.allclose(policy.pi_l, local)
    assert policy.memory is None
    assert not policy.prior.any()


def test_the_learners_believe_that_agents_move_under_the_present_state(
    random_game: RandomGame,
) -> None:
    game = random_game(8, S_g=2, A_g=2, S_l=2, gamma=0.9, local_sees="next")
    game = replace(game, r_g=0.1 * game.r_g, r_l=np.eye(2)[:, :, None] + 0 * game.r_l)
    uniform = game.uniform_local_policy()
    answers = [
        g_learn(replace(game, local_sees=sees), uniform, 6, backend="rounded").action
        for sees in ("current", "next")
    ]
    assert not np.array_equal(answers[0], answers[1])
    assert np.array_equal(released_marl(game, 6, 50, rounds=1).policy.action, answers[0])


def test_rounds_end_when_two_short_looks_agree_and_never_exceed_their_number() -> None:
    game = load_game("ring-released")
    for k in (1, 5, 10):
        values = released_marl(game, k, 200, rounds=4).values
        close = [abs(b - a) < 0.01 * abs(a) for a, b in itertools.pairwise(values)]
        assert len(values) <= 4
        assert not any(close[:-1])
        assert close[-1] or len(values) == 4


def test_the_released_temperature_is_a_third_of_the_range_but_not_below_a_floor(
    random_game: RandomGame,
) -> None:
    game = random_game(3, gamma=0.0)  # without a future Q is the reward
    calm = l_learn(
        game,
        np.zeros((3, 10), int),
        game.uniform_local_policy(),
        3,
        objective="selfish",
        softmax="released",
    )
    spread = np.ptp(game.r_l, axis=2, keepdims=True)
    weights = np.exp(game.r_l / np.maximum(0.3, spread / 3))
    assert np.allclose(calm, weights / weights.sum(axis=2, keepdims=True))
    assert (spread > 0.9).any()
    assert (spread < 0.9).any()


def test_the_released_mean_field_forgets_the_global_state(random_game: RandomGame) -> None:
    game = random_game(8)
    pi = game.uniform_local_policy()
    P_pi, _ = game.marginals(pi)
    mu = np.linalg.matrix_power(P_pi.mean(axis=0), 50)[0]
    # One agent: the cell of state j is 2 - j. Its state decides what is called.
    action = np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0]], dtype=np.int32)
    expected = np.array([mu @ game.P_g[s, action[s, ::-1]] for s in range(3)])
    assert np.allclose(released_kernel(game, action, pi, 1), expected)
    # The stationary law of the pair knows better where agents are while s_g is what it is.
    joint = stationary(joint_kernel(game, expected, P_pi)).reshape(3, 3)
    given = joint / joint.sum(axis=1, keepdims=True)
    assert np.abs(given - mu).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0, "n": 3}, "poll size 0 is not a whole number of at least 1"),
        ({"k": 4, "n": 3}, "poll size 4 exceeds fleet size 3"),
        ({"k": 1, "n": 2.5}, r"fleet size 2\.5 is not a whole number from 1 to"),
        ({"k": 1, "n": 2, "rounds": 0}, "rounds 0 is not a whole number from 1"),
        ({"k": 1, "n": 2, "seed": -1}, "seed -1 is not a whole number from 0"),
        ({"k": 1, "n": [2]}, "fleet size of type list is not a whole number"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    random_game: RandomGame, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        released_marl(random_game(0), **arguments)  # type: ignore[arg-type]
