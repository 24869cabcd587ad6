# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from kofn.controller.core import Game, Policy, g_learn, l_learn, rollout
from kofn.controller.core.chained import chain_learn, realised_value
from kofn.controller.core.upper_bounds import global_bound

if TYPE_CHECKING:
    from types import ModuleType

    from kofn.controller.core.game import LocalSees
    from kofn.controller.core.local_learner import MeanField

RandomGame = Callable[..., Game]
Table = npt.NDArray[np.int32]

KEEP = np.array([[0, 0], [1, 1]], dtype=np.int32)  # a_g = s_g whatever is seen
COST = 0.5


def statues() -> Game:
    """Return a game of agents that never move and like the global state to be theirs.

    The global state becomes what is called, and a call for a change costs `COST`. To one agent that
    takes itself for all, calling it is worth the cost once; in a fleet whose polled agent changes
    with each step, calls flip about every other time.
    """
    P_g = np.broadcast_to(np.eye(2)[None], (2, 2, 2))
    r_g = np.where(np.eye(2, dtype=bool), 0.0, -COST)
    P_l = np.broadcast_to(np.eye(2)[None, :, None], (2, 2, 1, 2))
    return Game(P_g, r_g, P_l, np.eye(2)[:, :, None], 0.9)


@pytest.mark.parametrize("n", [3, 6])
def test_the_surrogate_rises_while_the_deployed_return_falls(reference: ModuleType, n: int) -> None:
    game = statues()
    still = game.uniform_local_policy()
    answer = g_learn(game, still, 1, tol=1e-10).action
    # By hand, on one agent: keeping is right for half of the starts, for ever; calling the agent
    # costs once in half of the starts and is right from the second step on.
    keep, call = 0.5 / 0.1, -COST / 2 + 0.5 + 0.9 / 0.1
    assert np.isclose(realised_value(game, KEEP, still, 1), keep)
    assert np.isclose(realised_value(game, answer, still, 1), call)
    assert call > keep + 4
    # On n agents, one polled afresh in each step: two polls differ with probability (1 - 1/n)/2.
    horizon = 40
    weights = 0.9 ** np.arange(horizon)
    apart = (1 - 1 / n) / 2
    deployed = weights[0] * (0.5 - COST / 2) + weights[1:].sum() * (1 - apart - COST * apart)
    kept = reference.expected_return(game, Policy(game, 1, KEEP, still), n, 1, horizon)
    called = reference.expected_return(game, Policy(game, 1, answer, still), n, 1, horizon)
    assert np.isclose(kept, 0.5 * weights.sum())
    assert np.isclose(called, deployed)
    assert called < kept - 0.2


def test_a_thousand_agents_lose_what_the_surrogate_promises() -> None:
    game = statues()
    still = game.uniform_local_policy()
    answer = g_learn(game, still, 1).action

    def deployed(table: Table) -> float:
        policy = Policy(game, 1, table, still)
        return rollout(game, policy, n=1000, k=1, horizon=40, rollouts=2000, memory="none").mean

    assert deployed(answer) < deployed(KEEP) - 2


def obedience() -> Game:
    """Return a game of one global state in which agents own nothing and go where they choose.

    Action 0 of the dispatcher earns 1, action 1 nothing.
    """
    P_l = np.broadcast_to(np.eye(2)[None, None], (1, 2, 2, 2))
    return Game(np.ones((1, 2, 1)), [[1.0, 0.0]], P_l, np.zeros((1, 2, 2)), 0.5)


@pytest.mark.parametrize("mean_field", ["stationary", "released"])
def test_a_selfish_answer_lowers_the_return_of_a_single_agent_s_system(
    reference: ModuleType, mean_field: MeanField
) -> None:
    game = obedience()
    right_in_1 = np.array([[0, 1]], dtype=np.int32)  # histograms (0, 1) and (1, 0)
    go_to_1 = np.array([[[0.0, 1.0], [0.0, 1.0]]])
    selfish = l_learn(game, right_in_1, go_to_1, 1, objective="selfish", mean_field=mean_field)
    team = l_learn(game, right_in_1, selfish, 1)

    def deployed(pi: npt.NDArray[np.float64]) -> float:
        policy = Policy(game, 1, right_in_1, pi)
        return float(reference.expected_return(game, policy, 1, 1, 60))

    # The first state is uniform; from the second step on the dispatcher is right, or wrong.
    assert np.isclose(deployed(go_to_1), 0.5 + 1.0)
    assert np.isclose(deployed(selfish), 0.5)
    assert np.isclose(deployed(team), 0.5 + 1.0)


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("n", [2, 6])
def test_team_answers_in_turn_never_lower_the_return_of_a_fully_polled_fleet(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees, n: int
) -> None:
    game = random_game(3, S_g=2, S_l=2, gamma=0.8, local_sees=local_sees)
    pi, returns = game.uniform_local_policy(), []
    for _ in range(3):
        table = g_learn(game, pi, n, tol=1e-10).action
        returns.append(reference.expected_return(game, Policy(game, n, table, pi), n, n, 80))
        pi = l_learn(game, table, pi, n)
        returns.append(reference.expected_return(game, Policy(game, n, table, pi), n, n, 80))
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(returns))
    assert returns[-1] > returns[0] + 0.1


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("n", [2, 4, 6])
def test_exact_best_responses_leave_no_gap_where_everybody_is_polled(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees, n: int
) -> None:
    game = random_game(7, S_g=2, S_l=2, gamma=0.8, local_sees=local_sees)
    pi = game.uniform_local_policy()
    for _ in range(3):
        pi = l_learn(game, g_learn(game, pi, n, tol=1e-10).action, pi, n)
    table = g_learn(game, pi, n, tol=1e-10).action
    value = reference.expected_return(game, Policy(game, n, table, pi), n, n, 120)
    uppers = [global_bound(game, pi, size, tol=1e-9).upper for size in range(1, n + 1)]
    assert abs(uppers[-1] - value) < 1e-6
    assert all(a >= b - 1e-7 for a, b in itertools.pairwise(uppers))


def scatter() -> Game:
    """Return a game of two agents that should stand apart and reach where they aim with 0.8.

    The dispatcher, who is told by a table below, earns 1 while they do.
    """
    P_l = np.array([[0.8, 0.2], [0.2, 0.8]])[None, None].repeat(2, axis=1)
    return Game(np.ones((1, 2, 1)), [[0.0, 1.0]], P_l, np.zeros((1, 2, 2)), 0.9)


def test_the_chain_promises_what_two_agents_that_do_not_see_each_other_cannot_keep() -> None:
    game = scatter()
    apart = np.array([[0, 1, 0]], dtype=np.int32)  # histograms (0, 2), (1, 1), (2, 0)
    solved = chain_learn(game, apart, 2, joint=True, tol=1e-10)
    ahead = 0.9 / (1 - 0.9)
    # The second replica aims away from where the first one has gone; at once, both can only aim
    # apart; agents that share one policy and do not see each other come to stand like coins.
    assert np.isclose(solved.upper, 0.5 + ahead * 0.8)
    assert solved.joint is not None
    assert np.isclose(solved.joint, 0.5 + ahead * (0.8**2 + 0.2**2))
    assert solved.realised <= 0.5 / (1 - 0.9) + 1e-6
    shared = [
        realised_value(game, apart, np.eye(2)[np.array([choice])], 2)
        for choice in itertools.product(range(2), repeat=2)
    ]
    assert max(shared) <= 0.5 / (1 - 0.9) + 1e-6
    assert solved.inflation >= ahead * 0.3 - 1e-6
