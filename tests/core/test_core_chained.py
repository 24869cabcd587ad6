# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InitialLaw, InputError, g_learn, l_learn, load_game
from kofn.controller.core._replicas import Choice, Replicas, sweep_chain
from kofn.controller.core.chain_tables import chain_tables, finite_value
from kofn.controller.core.chained import (
    MAX_JOINT,
    chain_learn,
    chain_states,
    check_chain,
    count_decisions,
    joint_optimum,
    needed_states,
    realised_value,
)
from kofn.controller.core.grid import rank

if TYPE_CHECKING:
    from kofn.controller.core.game import LocalSees

RandomGame = Callable[..., Game]
Array = npt.NDArray[np.float64]
Table = npt.NDArray[np.int32]


def steered(game: Game, k: int) -> Table:
    """Return a dispatcher that answers the uniform policy."""
    return g_learn(game, game.uniform_local_policy(), k).action


def wavering(game: Game, k: int, seed: int = 0) -> Table:
    """Return a random dispatcher, on which the histogram has much influence."""
    points = steered(game, k).shape
    drawn = np.random.default_rng(seed).integers(game.n_global_actions, size=points)
    return drawn.astype(np.int32)


def best_shared(game: Game, action: Table, k: int) -> float:
    """Return the largest value of a deterministic shared policy, by enumeration."""
    S_g, S_l, A_l = game.r_l.shape
    return max(
        realised_value(game, action, np.eye(A_l)[np.reshape(choice, (S_g, S_l))], k)
        for choice in itertools.product(range(A_l), repeat=S_g * S_l)
    )


def chain_by_definition(game: Game, action: Table, k: int, sweeps: int) -> Array:
    """Return V by plain recursion over replicas, (S_g, S_l^k); "current" only."""
    S_g, S_l, A_l = game.r_l.shape
    tuples = list(itertools.product(range(S_l), repeat=k))
    index = {x: i for i, x in enumerate(tuples)}
    V = np.zeros((S_g, len(tuples)))

    def ahead(s: int, t: int, x: tuple[int, ...], i: int) -> float:
        if i == k:
            return float(game.gamma * V[t, index[x]])
        return max(
            float(game.r_l[s, x[i], b]) / k
            + sum(
                float(game.P_l[s, x[i], b, l]) * ahead(s, t, (*x[:i], l, *x[i + 1 :]), i + 1)
                for l in range(S_l)
            )
            for b in range(A_l)
        )

    for _ in range(sweeps):
        new = np.empty_like(V)
        for s, x in itertools.product(range(S_g), tuples):
            a = action[s, rank(np.bincount(x, minlength=S_l))]
            new[s, index[x]] = game.r_g[s, a] + max(
                game.r_l[s, x[0], b] / k
                + sum(
                    game.P_g[s, a, t] * game.P_l[s, x[0], b, l] * ahead(s, t, (l, *x[1:]), 1)
                    for t in range(S_g)
                    for l in range(S_l)
                )
                for b in range(A_l)
            )
        V = new
    return V


def test_a_sweep_is_the_recursion_over_replicas(random_game: RandomGame) -> None:
    game = random_game(1, S_g=2, A_g=2, S_l=3, A_l=2)
    action = wavering(game, 2)
    values = np.zeros((2, 9))
    for _ in range(3):
        values = sweep_chain(Replicas(game, action, 2), values)
    assert np.allclose(values, chain_by_definition(game, action, 2, 3))


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_chain_is_above_the_joint_optimum_and_that_above_all_shared_policies(
    random_game: RandomGame, local_sees: LocalSees, k: int, seed: int
) -> None:
    game = random_game(seed, S_g=2, A_g=2, S_l=2, A_l=2, gamma=0.9, local_sees=local_sees)
    action = wavering(game, k, seed)
    solved = chain_learn(game, action, k, joint=True, tol=1e-9)
    assert solved.joint is not None
    assert solved.upper >= solved.joint - 1e-8
    assert solved.joint >= best_shared(game, action, k) - 1e-7
    assert solved.realised <= best_shared(game, action, k) + 1e-7
    assert np.isclose(solved.inflation, solved.upper - solved.realised)


def test_seeing_where_the_others_went_is_worth_something(random_game: RandomGame) -> None:
    game = random_game(2, S_g=2, A_g=2, S_l=2, A_l=2, gamma=0.9)
    solved = chain_learn(game, steered(game, 2), 2, joint=True, tol=1e-9)
    assert solved.joint is not None
    assert solved.upper > solved.joint + 0.1


def test_one_replica_has_nobody_to_see_and_its_optimum_is_realised(random_game: RandomGame) -> None:
    game = random_game(4, gamma=0.9)
    action = wavering(game, 1)
    solved = chain_learn(game, action, 1, tol=1e-9)
    # A single replica knows (s_g, s_l): its policy is a local policy, and the game is its own.
    assert abs(solved.inflation) < 1e-6


@pytest.mark.parametrize("k", [1, 2])
def test_the_joint_optimum_is_that_of_one_big_decision_process(
    random_game: RandomGame, k: int
) -> None:
    game = random_game(5, S_g=2, A_g=2, S_l=2, A_l=2)
    action = wavering(game, k)
    tuples = list(itertools.product(range(2), repeat=k))
    V = np.zeros((2, len(tuples)))
    for _ in range(200):
        new = np.empty_like(V)
        for s, (i, x) in itertools.product(range(2), enumerate(tuples)):
            a = action[s, rank(np.bincount(x, minlength=2))]
            ahead = game.P_g[s, a] @ V
            options = [
                np.mean([game.r_l[s, j, b] for j, b in zip(x, bs, strict=True)])
                + game.gamma
                * sum(
                    ahead[m] * np.prod([game.P_l[s, x[r], bs[r], y[r]] for r in range(k)])
                    for m, y in enumerate(tuples)
                )
                for bs in tuples
            ]
            new[s, i] = game.r_g[s, a] + max(options)
        V = new
    law = Replicas(game, action, k).law
    assert np.isclose(joint_optimum(game, action, k, 1e-10), (law * V).sum(), atol=1e-7)


@pytest.mark.parametrize(
    "initial", [InitialLaw(), InitialLaw(s_l=[0.1, 0.7, 0.2]), InitialLaw(alpha=0.3)]
)
def test_the_initial_law_of_tuples_has_the_right_moments(
    random_game: RandomGame, initial: InitialLaw
) -> None:
    game = random_game(0, initial=initial)
    replicas = Replicas(game, wavering(game, 3), 3)
    law = replicas.law.sum(axis=0)
    assert np.isclose(law.sum(), 1)
    marginal = game.initial.resolve(3, 3)[1]
    for i in range(3):
        assert np.allclose(np.bincount(replicas.digits[:, i], law), marginal)
    same = law[replicas.digits[:, 0] == replicas.digits[:, 2]].sum()
    alike = (0.3 + 1) / (0.9 + 1) if initial.alpha else (marginal**2).sum()
    assert np.isclose(same, alike)


def test_the_projection_of_the_ring_is_what_the_team_step_finds_and_its_loss_is_known() -> None:
    game = load_game("ring-current")
    uniform = game.uniform_local_policy()
    action = g_learn(game, uniform, 2).action
    solved = chain_learn(game, action, 2, joint=True)
    assert solved.joint is not None
    assert solved.upper > solved.joint > solved.realised
    team = realised_value(game, action, l_learn(game, action, uniform, 2), 2)
    assert np.isclose(solved.realised, team, atol=0.1)
    chained = l_learn(game, action, uniform, 2, objective="chain")
    assert np.isclose(realised_value(game, action, chained, 2), solved.realised)


@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_decisions_are_counted_as_often_as_the_chain_written_out_takes_them(
    random_game: RandomGame, local_sees: LocalSees
) -> None:
    game = random_game(3, S_g=2, A_g=2, S_l=2, A_l=2, local_sees=local_sees)
    action = wavering(game, 2, 1)
    replicas = Replicas(game, action, 2)
    values = np.zeros(replicas.law.shape)
    for _ in range(200):
        values = sweep_chain(replicas, values)
    choices: list[list[Choice]] = []
    sweep_chain(replicas, values, choices)
    moves, earns = count_decisions(replicas, choices)
    tables = chain_tables(game, action, 2)
    acts = len(tables.phases) - 1
    weight = game.gamma ** (np.arange(200 * acts) // acts).astype(float)
    policy = finite_value(tables, weight)[1][:acts]  # far from the end it does not change
    expected, law = np.zeros(game.r_l.shape), tables.start
    states = np.arange(len(law))
    decided = tables.agent[:, 0] >= 0
    for t in range(100 * acts):
        chosen = policy[t % acts]
        where = (*tables.agent[decided].T, chosen[decided])
        np.add.at(expected, where, weight[t] * law[decided])
        flow = law[:, None] * tables.probability[states, chosen]
        moved = np.bincount(tables.successor.ravel(), flow.ravel(), minlength=len(law))
        law = moved.astype(np.float64)
    assert np.allclose(moves, expected, atol=1e-6)
    assert np.isclose(moves.sum(), 2 / (1 - game.gamma))
    assert np.isclose(earns.sum(), 0 if local_sees == "current" else 2 / (1 - game.gamma))


def test_the_chain_objective_never_lowers_the_value(random_game: RandomGame) -> None:
    for seed in range(4):
        game = random_game(seed, S_g=2, A_g=2, S_l=2, gamma=0.9, local_sees="next")
        action = wavering(game, 2, seed)
        good = l_learn(game, action, game.uniform_local_policy(), 2)
        kept = l_learn(game, action, good, 2, objective="chain")
        assert realised_value(game, action, kept, 2) >= realised_value(game, action, good, 2) - 1e-6


def test_states_are_counted_as_in_the_paper_and_fewer_occur(random_game: RandomGame) -> None:
    game = random_game(0, S_g=2, S_l=3)
    assert chain_states(game, 2) == 2 * 2 * 3 * 9
    assert needed_states(game, 2) == (1 + 2) * 2 * 9
    assert needed_states(random_game(0, S_g=2, S_l=3, local_sees="next"), 2) == 3 * 2 * 9
    solved = chain_learn(game, wavering(game, 2), 2)
    assert (solved.states, solved.needed, solved.k) == (108, 54, 2)


@pytest.mark.parametrize(
    ("k", "count"), [(6, "2812500"), (20, "57220458984375000"), (10**6, "more than 1e698970")]
)
def test_a_chain_that_is_too_large_is_refused_with_its_states(k: int, count: str) -> None:
    game = load_game("ring-current")
    with pytest.raises(InputError, match=f"has {count} states, above the limit of 1000000"):
        check_chain(game, k)
    with pytest.raises(InputError, match=f"has {count} states"):
        l_learn(game, [[0]], game.uniform_local_policy(), k, objective="chain")


def test_a_joint_table_that_is_too_large_is_refused(random_game: RandomGame) -> None:
    game = random_game(0, S_l=2, A_l=3)
    with pytest.raises(InputError, match=f"10077696 joint states and .* limit of {MAX_JOINT}"):
        joint_optimum(game, wavering(game, 9), 9)


def junk() -> st.SearchStrategy[object]:
    """Return values that a careless caller might pass anywhere."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 6),
        st.floats(width=16),
        st.text(max_size=3),
        st.lists(st.one_of(st.integers(-1, 3), st.text(max_size=2)), max_size=4),
        st.just(np.zeros((2, 3), dtype=np.int64)),
        st.just(np.full((2, 3), np.nan)),
        st.just(np.full((2, 2, 2), 0.5)),
    )


@given(
    pi_g=junk(),
    k=junk(),
    tol=st.one_of(st.just(1e-3), junk()),
    max_states=st.one_of(st.just(1000), junk()),
)
@settings(max_examples=150, deadline=None)
def test_bad_arguments_of_the_chain_are_refused_in_a_sentence(
    pi_g: object, k: object, tol: object, max_states: object
) -> None:
    rng = np.random.default_rng(0)
    game = Game(
        rng.dirichlet(np.ones(2), (2, 2)),
        rng.random((2, 2)),
        rng.dirichlet(np.ones(2), (2, 2, 2)),
        rng.random((2, 2, 2)),
        0.5,
    )
    for call in (
        lambda: chain_learn(game, pi_g, k, tol=tol, max_states=max_states),  # type: ignore[arg-type]
        lambda: joint_optimum(game, pi_g, k, tol),  # type: ignore[arg-type]
        lambda: realised_value(game, pi_g, game.uniform_local_policy(), k, tol),  # type: ignore[arg-type]
    ):
        sentence = "nothing was wrong"
        try:
            call()
        except InputError as error:
            sentence = str(error)
        assert len(sentence) > 10
        assert "\n" not in sentence
