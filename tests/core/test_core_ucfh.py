# SPDX-License-Identifier: MIT
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InputError, g_learn, load_game
from kofn.controller.core import _ucfh_kernels as kernels
from kofn.controller.core.chain_tables import ChainTables, chain_tables, finite_value
from kofn.controller.core.chained import chain_learn, realised_value
from kofn.controller.core.ucfh import Constants, ucfh_learn

if TYPE_CHECKING:
    from kofn.controller.core.game import LocalSees

RandomGame = Callable[..., Game]
Array = npt.NDArray[np.float64]
Table = npt.NDArray[np.int32]

LOG = 10.0  # ln(6 / delta_1) of the interval tests


def toy(
    random_game: RandomGame, local_sees: LocalSees = "current", k: int = 2
) -> tuple[Game, Table]:
    """Return a game on which choices matter, and a dispatcher that answers the uniform policy."""
    game = random_game(2, S_g=2, A_g=2, S_l=2, A_l=2, gamma=0.9, local_sees=local_sees)
    return game, g_learn(game, game.uniform_local_policy(), k).action


def step_weights(tables: ChainTables, gamma: float, steps: int) -> Array:
    acts = len(tables.phases) - 1
    weights: Array = gamma ** (np.arange(steps * acts) // acts).astype(float)
    return weights


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_chain_written_out_has_the_value_of_the_chain_solved_by_replicas(
    random_game: RandomGame, local_sees: LocalSees, k: int
) -> None:
    game, action = toy(random_game, local_sees, k)
    tables = chain_tables(game, action, k)
    assert np.allclose(tables.probability.sum(axis=2), 1)
    value, _ = finite_value(tables, step_weights(tables, 0.9, 250))
    assert np.isclose(value, chain_learn(game, action, k, tol=1e-10).upper, atol=1e-7)


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("seed", range(3))
def test_it_learns_an_epsilon_optimal_policy_and_is_optimistic(
    random_game: RandomGame, local_sees: LocalSees, seed: int
) -> None:
    game, action = toy(random_game, local_sees)
    learned = ucfh_learn(game, action, 2, epsilon=0.3, horizon=4, m=1000, seed=seed)
    assert learned.certified
    assert learned.optimum - 0.3 <= learned.value <= learned.optimum + 1e-12
    assert learned.lower <= learned.value
    assert learned.upper >= learned.optimum
    assert 1000 < learned.samples < 1_000_000


def test_at_every_stage_the_optimistic_value_is_above_the_optimum_and_falls(
    random_game: RandomGame,
) -> None:
    game, action = toy(random_game)
    stages = [
        ucfh_learn(game, action, 2, epsilon=1e-3, horizon=3, m=100, max_samples=limit, seed=4)
        for limit in (5_000, 20_000, 100_000, 500_000)
    ]
    uppers = [stage.upper for stage in stages]
    assert all(stage.upper >= stage.optimum for stage in stages)
    assert all(stage.lower <= stage.value for stage in stages)
    assert uppers == sorted(uppers, reverse=True)
    assert not any(stage.certified for stage in stages)


def test_without_samples_everything_is_possible(random_game: RandomGame) -> None:
    game, action = toy(random_game, k=1)
    learned = ucfh_learn(game, action, 1, epsilon=1e-6, horizon=3, m=1e-3, max_samples=1)
    # All successors may follow with certainty, so each step earns the best reward there is.
    weight = (1 + 0.9 + 0.81) / 3
    assert learned.samples == 0
    assert learned.upper - learned.lower > 0.5 * weight
    assert learned.upper >= learned.optimum >= learned.value >= learned.lower


def test_samples_count_every_transition_and_the_seed_decides(random_game: RandomGame) -> None:
    game, action = toy(random_game)
    first = ucfh_learn(game, action, 2, epsilon=0.5, horizon=4, m=100, seed=1)
    again = ucfh_learn(game, action, 2, epsilon=0.5, horizon=4, m=100, seed=1)
    other = ucfh_learn(game, action, 2, epsilon=0.5, horizon=4, m=100, seed=2)
    assert first.samples == first.episodes * 8  # four steps of two replicas
    assert (first.samples, first.upper) == (again.samples, again.upper)
    assert first.upper != other.upper


def test_it_stops_when_all_that_it_visits_is_at_the_cap(random_game: RandomGame) -> None:
    game, action = toy(random_game, k=1)
    learned = ucfh_learn(game, action, 1, epsilon=1e-4, horizon=4, m=50, max_samples=20_000_000)
    assert not learned.certified
    assert learned.samples < 2_000_000


def test_the_projection_of_what_was_learned_is_that_of_the_exact_chain(
    random_game: RandomGame,
) -> None:
    game, action = toy(random_game)
    learned = ucfh_learn(game, action, 2, epsilon=0.2, horizon=8, m=1000)
    exact = chain_learn(game, action, 2)
    assert np.allclose(learned.pi_l.sum(axis=2), 1)
    assert np.isclose(realised_value(game, action, learned.pi_l, 2), exact.realised, atol=0.05)


@given(
    n=st.integers(2, 10**6),
    share=st.floats(0, 1),
    candidate=st.floats(0, 1),
    log_term=st.floats(1, 30),
)
@settings(max_examples=300, deadline=None)
def test_an_interval_is_the_hull_of_the_confidence_set(
    n: int, share: float, candidate: float, log_term: float
) -> None:
    p = round(share * n) / n
    low, high = kernels.interval.py_func(p, n, log_term)  # type: ignore[attr-defined]
    assert 0 <= low <= p <= high <= 1

    def allowed(q: float, slack: float = 0.0) -> bool:
        sd = math.sqrt(p * (1 - p))
        width = min(
            math.sqrt(log_term / (2 * n)),
            sd * math.sqrt(2 * log_term / n) + 7 * log_term / (3 * (n - 1)),
        )
        deviation = abs(math.sqrt(max(0.0, q * (1 - q))) - sd)
        return (
            abs(q - p) <= width + slack and deviation <= math.sqrt(2 * log_term / (n - 1)) + slack
        )

    if allowed(candidate):
        assert low - 1e-9 <= candidate <= high + 1e-9
    # A hull has no slack: its ends belong to the set.
    assert allowed(low, 1e-6)
    assert allowed(high, 1e-6)


def test_a_single_observation_says_nothing() -> None:
    assert kernels.interval.py_func(0.0, 1, LOG) == (0.0, 1.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("optimistic", [True, False])
def test_extended_values_are_those_of_the_best_or_worst_model(optimistic: bool) -> None:
    # One step ahead of known values: a linear programme over a box and the simplex.
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.dirichlet(np.ones(3))
        low, high = np.maximum(p - rng.random(3) * 0.4, 0), np.minimum(p + rng.random(3) * 0.4, 1)
        ahead = rng.random(3)
        corners = [
            q
            for i in range(3)
            for x in (low, high)
            for y in (low, high)
            if low[i] - 1e-12 <= 1 - x[(i + 1) % 3] - y[(i + 2) % 3] <= high[i] + 1e-12
            for q in [
                np.roll([1 - x[(i + 1) % 3] - y[(i + 2) % 3], x[(i + 1) % 3], y[(i + 2) % 3]], i)
            ]
        ]
        worths = [float(q @ ahead) for q in corners]
        values = np.zeros((3, 4))
        # State 0 leads to 1..3, which earn `ahead` in the last step.
        reward = np.concatenate([[0.0], ahead])[:, None]
        box = np.zeros((4, 1, 3))
        tops = np.zeros((4, 1, 3))
        box[0, 0], tops[0, 0] = low, high
        box[1:, 0, 0] = tops[1:, 0, 0] = 1.0
        successor = np.array([[1, 2, 3], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
        width = np.array([3, 1, 1, 1])
        kernels.extended_values(
            box,
            tops,
            successor,
            width,
            reward,
            np.ones(2),
            np.array([0, 4]),
            optimistic,
            values,
            np.zeros((2, 4), np.int64),
        )
        assert np.isclose(values[0, 0], max(worths) if optimistic else min(worths))


def test_the_constants_are_those_of_the_theorem() -> None:
    found = Constants.of(states=10, actions=2, successors=3, length=16, epsilon=0.5, delta=0.1)
    assert math.isclose(found.w_min, 0.5 / (4 * 16 * 10))
    delta_1 = 0.1 / (2 * 20 * math.log2(10 * 16 / found.w_min) * 3)
    assert math.isclose(found.log_term, math.log(6 / delta_1))
    logs = math.log2(8 * 256 * 100 / 0.5) ** 2 * math.log(
        6 * 20 * 3 * math.log2(4 * 100 * 256 / 0.5) ** 2 / 0.1
    )
    assert math.isclose(found.m, 512 * 4 * 3 * 256 / 0.25 * logs)  # log2 log2 16 = 2


def test_the_theoretical_constant_is_refused_with_states_and_samples(
    random_game: RandomGame,
) -> None:
    game, action = toy(random_game)
    with pytest.raises(InputError, match=r"24 states with 2 actions plans .*e\+1\d samples"):
        ucfh_learn(game, action, 2, epsilon=0.3, horizon=4)
    ring = load_game("ring-current")
    with pytest.raises(InputError, match=r"50000 states .* above the limits of 20000 states"):
        ucfh_learn(ring, np.zeros((5, 70), int), 4, epsilon=1, m=1)
    with pytest.raises(InputError, match="has 527343750 states, above the limit of 1000000"):
        ucfh_learn(ring, np.zeros((5, 70), int), 9, epsilon=1, m=1)
    with pytest.raises(
        InputError, match=r"20000000 acts .* has 480000000 entries, above the limit"
    ):
        ucfh_learn(game, action, 2, epsilon=1, m=1, horizon=10**7)


def junk() -> st.SearchStrategy[object]:
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 3),
        st.floats(width=16),
        st.text(max_size=3),
        st.lists(st.integers(0, 1), max_size=3),
        st.just(np.zeros((2, 2), dtype=np.int64)),
        st.just(np.full(3, np.nan)),
    )


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_bad_arguments_are_refused_in_a_sentence(data: st.DataObject) -> None:
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
        "k": 1,
        "epsilon": 0.5,
        "delta": 0.1,
        "horizon": 2,
        "m": 10.0,
        "max_samples": 500,
        "seed": 0,
    }
    bad = data.draw(st.sampled_from(sorted(good)))
    sentence = "nothing was wrong"
    try:
        ucfh_learn(game, **{**good, bad: data.draw(junk())})  # type: ignore[arg-type]
    except InputError as error:
        sentence = str(error)
    assert len(sentence) > 10
    assert "\n" not in sentence
