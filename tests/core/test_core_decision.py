# SPDX-License-Identifier: MIT
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InputError, Policy
from kofn.controller.core.decision import NOT_MOVED, Decider
from kofn.controller.core.grid import grid_points

RandomGame = Callable[..., Game]


def policy_of(game: Game, grid: int, seed: int, memory: float | None, prior: float) -> Policy:
    rng = np.random.default_rng(seed)
    shape = (game.n_global, grid_points(grid, game.n_local))
    return Policy(
        game,
        grid,
        rng.integers(0, game.n_global_actions, shape),
        rng.dirichlet(np.ones(game.n_local_actions), (game.n_global, game.n_local)),
        memory=memory,
        prior=prior * rng.random((game.n_global, game.n_local)),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 6),
    st.integers(1, 12),
    st.sampled_from([None, 3.0, 40.0]),
    st.sampled_from([0.0, 2.0]),
)
def test_it_chooses_what_policy_and_belief_choose(
    random_game: RandomGame, seed: int, S_l: int, grid: int, memory: float | None, prior: float
) -> None:
    rng = np.random.default_rng(seed)
    game = random_game(seed % 5, S_l=S_l)
    k = 4
    policy = policy_of(game, grid, seed, memory, prior)
    belief, decider = policy.belief(k), Decider(policy, k)
    moved_by = NOT_MOVED
    for _ in range(12):
        s_g = int(rng.integers(game.n_global))
        counts = rng.multinomial(int(rng.integers(0, k + 1)), np.full(S_l, 1 / S_l))
        if moved_by >= 0:
            belief.predict(moved_by)
        belief.update(counts)
        expected = policy.decide(s_g, belief.weights, remembered=policy.remembers(k))
        assert decider.decide(moved_by, s_g, counts.tolist()) == expected
        assert np.abs(decider.weights - belief.weights).max() <= 1e-11
        moved_by = s_g


def test_it_continues_from_recorded_weights(random_game: RandomGame) -> None:
    policy = policy_of(random_game(1), 5, 1, 20.0, 0.0)
    one = Decider(policy, 4)
    for s in (0, 1, 2):
        one.decide(NOT_MOVED, s, [2, 1, 1])
    other = Decider(policy, 4, start=one.weights)
    for s in (2, 0, 1):
        assert one.decide(s, s, [0, 3, 1]) == other.decide(s, s, [0, 3, 1])
    assert np.array_equal(one.weights, other.weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 0, [1, 1, 1]), "moved_by 3 is not a whole number from -1 to 2"),
        ((0, -1, [1, 1, 1]), "moved_by 0 and s_g -1 are not both global states"),
        ((0, 0, [1, 1]), "counts are not 3 numbers"),
        ((0, 0, ["a", 1, 1]), "counts are not 3 numbers"),
    ],
)
def test_bad_input_is_refused(
    random_game: RandomGame, arguments: tuple[int, int, list[float]], message: str
) -> None:
    decider = Decider(policy_of(random_game(1), 5, 1, None, 0.0), 4)
    with pytest.raises(InputError, match=message):
        decider.decide(*arguments)


def test_a_belief_of_the_wrong_size_is_refused(random_game: RandomGame) -> None:
    with pytest.raises(InputError, match="weights has shape \\(1,\\), but must have \\(3,\\)"):
        Decider(policy_of(random_game(1), 5, 1, None, 0.0), 4, start=[1.0])


def test_moving_and_deciding_apart_is_the_same(random_game: RandomGame) -> None:
    policy = policy_of(random_game(2), 6, 3, 20.0, 0.0)
    one, other = Decider(policy, 4), Decider(policy, 4)
    moved_by = NOT_MOVED
    for s in (0, 2, 1, 1):
        if moved_by != NOT_MOVED:
            other.predict(moved_by)
        assert one.decide(moved_by, s, [2, 0, 2]) == other.decide(NOT_MOVED, s, [2, 0, 2])
        assert np.array_equal(one.weights, other.weights)
        moved_by = s
    with pytest.raises(InputError, match="moved_by 3 is not a whole number from 0 to 2"):
        other.predict(3)


def test_the_pair_for_bare_polls_is_played_where_nothing_is_remembered(
    random_game: RandomGame,
) -> None:
    game = random_game(3)
    shape = (game.n_global, grid_points(4, game.n_local))
    pi_l = game.uniform_local_policy()
    bare = Policy(game, 4, np.ones(shape, np.int32), pi_l)
    policy = Policy(game, 4, np.zeros(shape, np.int32), pi_l, memory=20.0, bare=bare)
    assert Decider(policy, 2).decide(NOT_MOVED, 0, [1, 1, 0]) == 0
    assert Decider(policy, 2, "none").decide(NOT_MOVED, 0, [1, 1, 0]) == 1
