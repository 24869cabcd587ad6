# SPDX-License-Identifier: MIT
"""Certificates against brute force on games small enough to enumerate."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import (
    Game,
    InitialLaw,
    InputError,
    Policy,
    certify,
    g_learn,
    l_learn,
    load_game,
)
from kofn.controller.core._rotation import find_rotation
from kofn.controller.core.budget import climb
from kofn.controller.core.certificates import relative_gap
from kofn.controller.core.grid import all_counts, histogram_rank
from kofn.controller.core.team import initial_histograms
from kofn.controller.core.team_bound import Team, team_bound
from kofn.controller.core.upper_bounds import Bound, NoBoundError, global_bound

if TYPE_CHECKING:
    from types import ModuleType

    from kofn.controller.core.game import FloatArray, LocalSees

RandomGame = Callable[..., Game]

BOTH: list[LocalSees] = ["current", "next"]


def some_policy(game: Game, seed: int = 5) -> FloatArray:
    return np.random.default_rng(seed).dirichlet(
        np.ones(game.n_local_actions), (game.n_global, game.n_local)
    )


def joint_sweep(game: Game, V: FloatArray, size: int) -> FloatArray:
    """Apply the Bellman operator of the joint MDP: all joint actions of all tuples of agents."""
    S_l, A_l = game.n_local, game.n_local_actions
    tuples = list(itertools.product(range(S_l), repeat=size))
    choices = list(itertools.product(range(A_l), repeat=size))
    out = np.empty_like(V)

    def ahead(x: tuple[int, ...], b: tuple[int, ...], mover: int, t: int) -> float:
        law = np.ones(1)
        for i, a in zip(x, b, strict=True):
            law = np.outer(law, game.P_l[mover, i, a]).ravel()
        return float(law @ V[t])

    for s in range(game.n_global):
        for i, x in enumerate(tuples):
            earned = [
                sum(game.r_l[s, j, a] for j, a in zip(x, b, strict=True)) / size for b in choices
            ]
            q = []
            for a in range(game.n_global_actions):
                if game.local_sees == "current":
                    best = max(
                        e
                        + game.gamma
                        * sum(game.P_g[s, a, t] * ahead(x, b, s, t) for t in range(game.n_global))
                        for e, b in zip(earned, choices, strict=True)
                    )
                else:  # the move is chosen when s' is known, and does not bind what is earned
                    best = max(earned) + game.gamma * sum(
                        game.P_g[s, a, t] * max(ahead(x, b, t, t) for b in choices)
                        for t in range(game.n_global)
                    )
                q.append(game.r_g[s, a] + best)
            out[s, i] = max(q)
    return out


def joint_optimum(game: Game, size: int, horizon: int) -> float:
    """Return the optimum of `size` agents steered together, from agents that start iid."""
    law_g, law_l = game.initial.resolve(game.n_global, game.n_local)
    V = np.zeros((game.n_global, game.n_local**size))
    for _ in range(horizon):
        V = joint_sweep(game, V, size)
    start = np.ones(1)
    for _ in range(size):
        start = np.outer(start, law_l).ravel()
    return float(law_g @ V @ start)


def sequential_sweep(game: Game, values: FloatArray, size: int) -> FloatArray:
    """Apply the operator of agents that act one after the other, by recursion on tuples."""
    S_l, A_l = game.n_local, game.n_local_actions
    out = np.empty_like(values)

    def play(
        todo: tuple[int, ...],
        mover: int,
        reward: FloatArray,
        end: Callable[[tuple[int, ...]], float],
    ) -> float:
        @cache
        def best(todo: tuple[int, ...], done: tuple[int, ...]) -> float:
            if not todo:
                return end(done)
            j = todo[0]
            options = []
            for a in range(A_l):
                total = reward[j, a]
                for l in range(S_l):
                    after = tuple(c + (i == l) for i, c in enumerate(done))
                    total += game.P_l[mover, j, a, l] * best(todo[1:], after)
                options.append(total)
            return float(max(options))

        return best(todo, (0,) * S_l)

    for i, c in enumerate(all_counts(size, S_l)):
        agents = tuple(int(j) for j in np.repeat(np.arange(S_l), c)[::-1])
        for s in range(game.n_global):
            if game.local_sees == "current":
                out[i, s] = max(
                    game.r_g[s, a]
                    + play(
                        agents,
                        s,
                        game.r_l[s] / size,
                        lambda g, s=s, a=a: float(  # type: ignore[misc]
                            game.gamma * game.P_g[s, a] @ values[histogram_rank(g)]
                        ),
                    )
                    for a in range(game.n_global_actions)
                )
            else:
                moved = [
                    play(
                        agents,
                        t,
                        np.zeros((S_l, A_l)),
                        lambda g, t=t: float(values[histogram_rank(g), t]),  # type: ignore[misc]
                    )
                    for t in range(game.n_global)
                ]
                out[i, s] = max(
                    game.r_g[s, a] + game.gamma * game.P_g[s, a] @ moved
                    for a in range(game.n_global_actions)
                ) + float(c @ game.r_l[s].max(axis=1) / size)
    return out


@pytest.mark.parametrize("local_sees", BOTH)
@pytest.mark.parametrize(
    ("S_l", "A_l", "size"), [(1, 2, 3), (2, 3, 4), (3, 2, 3), (5, 2, 3), (6, 3, 2), (11, 2, 2)]
)
def test_the_kernel_is_the_recursion_over_agents(
    random_game: RandomGame, local_sees: LocalSees, S_l: int, A_l: int, size: int
) -> None:
    game = random_game(S_l, S_g=2, A_g=3, S_l=S_l, A_l=A_l, local_sees=local_sees)
    team = Team(game, size)
    values = np.random.default_rng(1).normal(size=(team.n_points, 2))
    assert np.abs(team.sweep(values) - sequential_sweep(game, values, size)).max() <= 1e-12


def turned_game(seed: int, zones: int, local_sees: LocalSees, shift: int = 1) -> Game:
    """Return a random game that s_g -> s_g + 1, s_l -> s_l + shift maps onto itself."""
    rng = np.random.default_rng(seed)
    P, p = rng.dirichlet(np.ones(zones), 2), rng.dirichlet(np.ones(zones), (zones, 2))
    r, q = rng.random(2), rng.random((zones, 2))
    turn = range(zones)
    P_g = np.array([np.roll(P, s, axis=1) for s in turn])
    P_l = np.array([np.roll(np.roll(p, shift * s, axis=0), shift * s, axis=2) for s in turn])
    r_l = np.array([np.roll(q, shift * s, axis=0) for s in turn])
    order = [rng.permutation(2) for _ in turn]  # the names of actions are not part of it
    P_g = np.array([P_g[s][order[s]] for s in turn])
    r_g = np.array([r[order[s]] for s in turn])
    return Game(P_g, r_g, P_l, r_l, 0.9, local_sees=local_sees)


@pytest.mark.parametrize("local_sees", BOTH)
@pytest.mark.parametrize(("zones", "shift"), [(3, 1), (4, 1), (3, 2), (4, 2)])
def test_rotated_copies_have_the_value_that_is_solved_for_them(
    local_sees: LocalSees, zones: int, shift: int
) -> None:
    # One agent has nobody to wait for; with more, the order of their turns is rotated too.
    game = turned_game(3, zones, local_sees, shift)
    for size, closeness in ((1, 1e-12), (4, 1e-3)):
        team, plain = Team(game, size), Team(game, size)
        assert team.seen is not None
        plain.seen = None
        turned = straight = np.zeros((team.n_points, zones))
        for _ in range(6):
            turned, straight = team.sweep(turned), plain.sweep(straight)
        assert np.abs(turned - straight).max() <= closeness
        assert np.abs(turned[:, 0] - straight[:, 0]).max() <= closeness
        assert float(np.ptp(straight, axis=1).max()) > 10 * closeness


def test_the_rotated_ring_is_bounded_as_closely_as_by_all_its_states() -> None:
    game = load_game("ring-current")
    law = initial_histograms(game, 4)
    team, plain = Team(game, 4), Team(game, 4)
    plain.seen = None
    turned = straight = np.zeros((team.n_points, game.n_global))
    for _ in range(50):
        turned, straight = team.sweep(turned), plain.sweep(straight)
    assert abs(float((law * (turned - straight)).sum())) <= 0.05


def test_rings_can_be_rotated_and_near_misses_cannot() -> None:
    assert find_rotation(load_game("ring-current")) == 1
    assert find_rotation(load_game("ring-paper")) is None  # r_g = 4 - |s_g - a_g| is no ring
    game = turned_game(1, 3, "current")
    assert find_rotation(game) == 1
    for name in ("P_g", "r_g", "P_l", "r_l"):
        tables = {x: np.array(getattr(game, x)) for x in ("P_g", "r_g", "P_l", "r_l")}
        entry = tables[name].reshape(-1, tables[name].shape[-1])[1]
        entry[:2] += (1e-7, -1e-7)
        P_g, r_g, P_l, r_l = tables.values()
        assert find_rotation(Game(P_g, r_g, P_l, r_l, 0.9)) is None


@pytest.mark.parametrize("local_sees", BOTH)
@pytest.mark.parametrize(("S_l", "size", "horizon"), [(2, 2, 9), (2, 3, 6), (3, 2, 6)])
def test_the_team_bound_is_above_the_joint_optimum_and_near_it(
    random_game: RandomGame, local_sees: LocalSees, S_l: int, size: int, horizon: int
) -> None:
    game = random_game(7, S_g=2, A_g=2, S_l=S_l, A_l=2, local_sees=local_sees)
    optimum = joint_optimum(game, size, horizon)
    upper = team_bound(game, size, horizon=horizon).upper
    assert optimum <= upper <= 1.01 * optimum


@pytest.mark.parametrize("local_sees", BOTH)
def test_the_team_bound_of_one_agent_is_its_optimum(
    random_game: RandomGame, local_sees: LocalSees
) -> None:
    game = random_game(3, local_sees=local_sees, initial=InitialLaw(s_l=[0.2, 0.5, 0.3]))
    assert abs(team_bound(game, 1, horizon=12).upper - joint_optimum(game, 1, 12)) <= 1e-9


@pytest.mark.parametrize("local_sees", BOTH)
@pytest.mark.parametrize("horizon", [None, 4])
def test_the_global_bound_is_the_value_of_separate_agents(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees, horizon: int | None
) -> None:
    game = random_game(3, S_l=2, local_sees=local_sees, initial=InitialLaw(s_l=[0.3, 0.7]))
    pi = some_policy(game)
    exact = reference.solve_tuples(game, pi, k=3, sweeps=horizon or 160)
    expected = sum(
        value / game.n_global * math.prod([0.3, 0.7][j] for j in x)
        for (_, *x), value in exact.items()
    )
    bound = global_bound(game, pi, 3, horizon=horizon, tol=1e-7)
    assert expected <= bound.upper <= expected + 1e-5


@pytest.mark.parametrize("horizon", [None, 5])
def test_the_initial_law_of_dirichlet_draws_is_that_of_a_pick(horizon: int | None) -> None:
    law = initial_histograms(load_game("ring-current"), 2)
    # Two agents are in one state with chance (alpha + 1) / (S alpha + 1) under Dirichlet(alpha).
    counts = all_counts(2, 5)
    together = law.sum(axis=1)[(counts == 2).any(axis=1)].sum()
    assert together == pytest.approx(1.3 / 2.5)


GAMES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "S_g": st.integers(1, 3),
        "A_g": st.integers(1, 3),
        "S_l": st.integers(1, 3),
        "A_l": st.integers(1, 3),
        "local_sees": st.sampled_from(BOTH),
        "gamma": st.sampled_from([0.0, 0.5, 0.9]),
        "initial": st.sampled_from([InitialLaw(), InitialLaw(alpha=0.3)]),
    }
)


@settings(max_examples=40, deadline=None)
@given(kwargs=GAMES, horizon=st.sampled_from([None, 1, 2, 7]))
def test_bounds_fall_with_the_size_and_the_team_is_above_the_dispatcher(
    random_game: RandomGame, kwargs: dict[str, object], horizon: int | None
) -> None:
    game = random_game(**kwargs)
    pi = some_policy(game)
    before: tuple[Bound, Bound] | None = None
    for size in range(1, 5):
        a = global_bound(game, pi, size, horizon=horizon, tol=1e-8)
        b = team_bound(game, size, horizon=horizon, tol=1e-8)
        # `error` is what a bound may lie above the optimum that the theorem is about.
        assert a.upper <= b.upper + a.error + 1e-12
        if before is not None:
            assert a.upper <= before[0].upper + a.error
            assert b.upper <= before[1].upper + b.error
        before = a, b


@settings(max_examples=25, deadline=None)
@given(
    kwargs=GAMES,
    horizon=st.integers(1, 6),
    k=st.integers(1, 3),
    choice=st.integers(0, 10**6),
)
def test_no_enumerated_return_is_above_a_bound(
    random_game: RandomGame,
    reference: ModuleType,
    kwargs: dict[str, object],
    horizon: int,
    k: int,
    choice: int,
) -> None:
    game = random_game(**{**kwargs, "initial": InitialLaw()})
    rng = np.random.default_rng(choice)
    points = len(all_counts(3, game.n_local))
    action = rng.integers(0, game.n_global_actions, (game.n_global, points))
    policy = Policy(game, 3, action, some_policy(game, choice))
    value = reference.expected_return(game, policy, 3, k, horizon)
    for size in (1, 2, 3):
        assert value <= global_bound(game, policy.pi_l, size, horizon=horizon).upper
        assert value <= team_bound(game, size, horizon=horizon).upper


@pytest.mark.parametrize("kind", ["global", "team"])
def test_a_long_horizon_comes_as_near_to_the_endless_bound_as_the_tail_allows(
    random_game: RandomGame, kind: str
) -> None:
    game = random_game(4, gamma=0.9)
    pi = some_policy(game)

    def upper(horizon: int | None) -> float:
        if kind == "team":
            return team_bound(game, 4, horizon=horizon, tol=1e-9).upper
        return global_bound(game, pi, 4, horizon=horizon, tol=1e-9).upper

    endless = upper(None)
    largest = float(game.r_g.max() + game.r_l.max())
    for horizon in (5, 30, 120):
        tail = 0.9**horizon / (1 - 0.9)
        assert 0 <= endless - upper(horizon) <= tail * largest + 1e-6
    assert endless - upper(5) > 1e-3


def test_a_rough_endless_solution_is_still_an_upper_bound(random_game: RandomGame) -> None:
    game = random_game(6, gamma=0.95)
    exact = team_bound(game, 4, tol=1e-9)
    for tol in (10.0, 0.1, 1e-3):
        rough = team_bound(game, 4, tol=tol)
        assert exact.upper - exact.error <= rough.upper <= exact.upper + rough.error
        assert rough.error <= 2 * tol + 1e-6
        assert np.all(rough.values >= exact.values - exact.error)


def test_a_warm_start_saves_sweeps_and_changes_nothing(random_game: RandomGame) -> None:
    game = random_game(6, gamma=0.95)
    cold = team_bound(game, 8, tol=1e-6)
    warm = team_bound(game, 8, tol=1e-6, start=team_bound(game, 6, tol=1e-6))
    assert abs(cold.upper - warm.upper) <= cold.error + warm.error
    assert warm.sweeps <= cold.sweeps


@pytest.mark.parametrize("local_sees", BOTH)
def test_the_bound_is_tight_after_an_exact_best_response_to_all_agents(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees
) -> None:
    n = 4
    game = random_game(9, S_l=2, local_sees=local_sees, gamma=0.8)
    pi = some_policy(game)
    table = g_learn(game, pi, n, tol=1e-10).action
    value = reference.expected_return(game, Policy(game, n, table, pi), n, n, 120)
    assert abs(global_bound(game, pi, n, tol=1e-8).upper - value) <= 1e-6
    result = certify(game, Policy(game, n, table, pi), n=n, budget_s=1.0)
    assert result.grid["global"] == n
    # How many episodes are played depends on the machine, so allow for 5 standard errors.
    half = (result.value_ci[1] - result.value_ci[0]) / 2
    assert abs(result.upper_global - result.value) <= 2.6 * half


def test_the_ring_has_the_bounds_known_for_it() -> None:
    game = load_game("ring-current")
    assert team_bound(game, 8, horizon=50).upper == pytest.approx(118.2, abs=0.1)
    assert team_bound(game, 10, horizon=50).upper == pytest.approx(117.1, abs=0.1)


def test_the_paper_ring_has_the_global_bounds_known_for_a_selfish_local_policy() -> None:
    game = load_game("ring-paper")
    uniform = game.uniform_local_policy()
    selfish = l_learn(game, g_learn(game, uniform, 5).action, uniform, 5, objective="selfish")
    uppers = [global_bound(game, selfish, size, tol=1e-3).upper for size in (1, 2, 3, 4, 5, 6, 8)]
    known = [226.1, 188.7, 179.5, 174.5, 171.4, 169.2, 166.5]
    assert uppers == pytest.approx(known, abs=0.1)


@pytest.mark.parametrize("name", ["ring-current", "ring-released"])
def test_a_certificate_holds_the_deployed_value_between_its_bounds(name: str) -> None:
    game = load_game(name)
    pi = np.zeros(game.r_l.shape)
    pi[..., 1] = 1.0
    policy = Policy(game, 6, g_learn(game, pi, 6, tol=1e-3).action, pi, provenance={"k": 5})
    result = certify(game, policy, n=1000, budget_s=1.5, seed=3)
    assert (result.n, result.k, result.horizon) == (1000, 5, 50)
    low, high = result.value_ci
    assert low < result.value < high
    assert high < result.upper_global <= result.upper_team
    assert result.value <= result.lower_global
    assert result.lower_global_ci[0] < result.upper_global
    assert result.global_gap_ci[0] < result.global_gap_relative < result.global_gap_ci[1]
    assert result.welfare_gap_relative == relative_gap(result.upper_team, result.value)
    assert result.theory > result.upper_team
    for kind in ("global", "team"):
        found = [b for b in result.bounds if b.kind == kind]
        assert [b.K for b in found] == sorted({b.K for b in found})
        assert all(a.upper > b.upper for a, b in itertools.pairwise(found))
        assert result.grid[kind] == found[-1].K
    assert [notion.name for notion in result.notions] == [
        "full-observation global response",
        "restricted symmetric equilibrium",
        "single local deviator",
    ]
    data = json.loads(json.dumps(result.to_dict()))
    assert data["bounds"][0]["K"] == 1
    assert "Nash" not in json.dumps(data)


def test_the_cut_tail_of_an_endless_game_widens_the_interval(random_game: RandomGame) -> None:
    game = random_game(2, gamma=0.9)
    result = certify(game, Policy.uniform(game, 3), n=20, budget_s=0.5)
    assert result.horizon is None
    endless = certify(game, Policy.uniform(game, 3), n=20, horizon=88, budget_s=0.5)
    assert endless.horizon == 88
    width = result.value_ci[1] - result.value_ci[0]
    tail = 0.9**88 / 0.1
    spread = float(np.ptp(game.r_g) + np.ptp(game.r_l))
    other = endless.value_ci[1] - endless.value_ci[0]
    if result.rollouts == endless.rollouts:
        assert width == pytest.approx(other + tail * spread)
    assert result.value > endless.value - other
    assert result.value_ci[0] <= result.upper_global


def test_bounds_are_those_of_the_local_policy_that_is_played() -> None:
    game = load_game("ring-current")
    pi = np.zeros(game.r_l.shape)
    pi[..., 1] = 1.0
    bare, full = (Policy(game, 1, np.zeros((5, 5), int), p) for p in (pi, some_policy(game)))
    both = Policy(game, 1, full.action, full.pi_l, memory=6.0, bare=bare)
    remembering, forgetting = (certify(game, both, n=50, k=k, budget_s=0.5) for k in (3, 8))
    for result, pair in ((remembering, full), (forgetting, bare)):
        first = next(bound for bound in result.bounds if bound.kind == "global")
        assert first.upper == global_bound(game, pair.pi_l, 1, horizon=50).upper


def test_a_longer_budget_never_loosens_the_bounds() -> None:
    game = load_game("ring-current")
    policy = Policy.uniform(game, 5)
    short, long = (certify(game, policy, n=100, budget_s=budget) for budget in (0.2, 2.0))
    assert short.grid["team"] < long.grid["team"]
    assert long.upper_team < short.upper_team
    assert long.upper_global < short.upper_global


def test_bounds_never_use_more_agents_than_there_are(random_game: RandomGame) -> None:
    result = certify(random_game(1), Policy.uniform(random_game(1), 2), n=7, budget_s=2.0)
    assert result.grid == {"global": 7, "team": 7}


def fake(size: int, seconds: float = 1e-6) -> Bound:
    return Bound("team", size, 100.0 / size, 0.0, 1, seconds, np.zeros((1, 1)))


def test_the_climb_keeps_what_it_has_when_a_size_gives_no_bound() -> None:
    def solve(size: int, deadline: float, start: Bound | None) -> Bound:
        if size > 4:
            raise NoBoundError("too slow")
        return fake(size)

    bounds = climb(solve, float, lambda size: size <= 50, 100, 10.0)
    assert [b.K for b in bounds] == [1, 2, 3, 4]


def test_the_climb_ends_at_the_largest_size_that_fits() -> None:
    bounds = climb(
        lambda size, deadline, start: fake(size), float, lambda size: size <= 37, 1000, 10.0
    )
    assert bounds[-1].K == 37
    assert bounds[-2].K == 30


def test_the_climb_takes_no_step_that_would_exceed_the_time() -> None:
    bounds = climb(
        lambda size, deadline, start: fake(size, float(size**3)),
        lambda size: size**3,
        lambda size: True,
        1000,
        1001.0,
    )
    assert bounds[-1].K == 9  # 9^3 = 729 is within 85 % of the time, 10^3 is not


def test_a_bound_that_will_miss_its_deadline_is_given_up() -> None:
    game = load_game("ring-current")
    with pytest.raises(NoBoundError, match="10 agents would miss its deadline"):
        team_bound(game, 10, horizon=50, deadline=-math.inf)


REFUSAL = r"agents over 5 states has \d+ states and takes \d+ bytes, above the limit of \d+"


def test_a_team_that_does_not_fit_is_refused_with_states_and_bytes() -> None:
    with pytest.raises(InputError, match=REFUSAL):
        team_bound(load_game("ring-current"), 200)


def test_a_grid_that_does_not_fit_is_refused_with_states_and_bytes() -> None:
    game = load_game("ring-current")
    with pytest.raises(InputError, match=REFUSAL):
        global_bound(game, game.uniform_local_policy(), 200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "fleet size 0"),
        ({"n": 2.5}, "fleet size 2.5"),
        ({"n": 5, "k": 6}, "poll size 6 exceeds fleet size 5"),
        ({"n": 5, "budget_s": 0}, "budget in seconds 0 is not"),
        ({"n": 5, "budget_s": math.nan}, "budget in seconds nan is not"),
        ({"n": 5, "horizon": 0}, "horizon 0"),
        ({"n": 5, "seed": -1}, "seed -1"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    random_game: RandomGame, arguments: dict[str, float], message: str
) -> None:
    game = random_game(1)
    with pytest.raises(InputError, match=message):
        certify(game, Policy.uniform(game, 2), **arguments)  # type: ignore[arg-type]


def test_a_policy_of_another_shape_is_refused(random_game: RandomGame) -> None:
    with pytest.raises(InputError, match="policy was made for"):
        certify(random_game(1), Policy.uniform(random_game(1, S_l=2), 2), n=5)


def test_a_gap_is_relative_to_the_value() -> None:
    assert relative_gap(110.0, 100.0) == pytest.approx(0.1)
    assert relative_gap(-90.0, -100.0) == pytest.approx(0.1)
    assert relative_gap(99.9, 100.0) == 0.0
    assert relative_gap(1.0, 0.0) == math.inf
    assert relative_gap(0.0, 0.0) == 0.0
