# SPDX-License-Identifier: MIT
"""Bounds for a true game near a model, against both games solved exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InitialLaw, InputError, Policy, rollout
from kofn.controller.core.exact_evaluation import enumerate_fleet, evaluate_exactly
from kofn.controller.core.grid import all_counts, grid_points, rank
from kofn.controller.core.model_error import (
    optimistic_game,
    policy_envelope,
    trivial_range,
)
from kofn.controller.core.symmetric_power import SymmetricPower
from kofn.controller.core.team_bound import team_bound
from kofn.controller.core.upper_bounds import global_bound

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, LocalSees

RandomGame = Callable[..., Game]

BOTH: list[LocalSees] = ["current", "next"]


def some_policy(game: Game, grid: int, seed: int, memory: float | None = None) -> Policy:
    rng = np.random.default_rng(seed)
    shape = (game.n_global, grid_points(grid, game.n_local))
    return Policy(
        game,
        grid,
        rng.integers(0, game.n_global_actions, shape),
        rng.dirichlet(np.full(game.n_local_actions, 0.5), (game.n_global, game.n_local)),
        memory=memory,
    )


def pulled(table: FloatArray, share: float, rng: np.random.Generator) -> FloatArray:
    """Return kernels whose rows are mixed with extreme ones, some more and some less."""
    n_states = table.shape[-1]
    corners = np.eye(n_states)[rng.integers(0, n_states, table.shape[:-1])]
    shares = share * rng.random(table.shape[:-1])[..., None]
    result: FloatArray = (1 - shares) * table + shares * corners
    return result


def nearby(model: Game, share: float, seed: int) -> tuple[Game, FloatArray, FloatArray]:
    """Return another game with the L1 distances of its rows from those of the model."""
    rng = np.random.default_rng(seed)
    P_g, P_l = pulled(model.P_g, share, rng), pulled(model.P_l, share, rng)
    truth = Game(
        P_g, model.r_g, P_l, model.r_l, model.gamma,
        local_sees=model.local_sees, initial=model.initial, horizon=model.horizon,
    )  # fmt: skip
    return truth, np.abs(P_g - model.P_g).sum(axis=-1), np.abs(P_l - model.P_l).sum(axis=-1)


GAMES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "S_g": st.integers(1, 3),
        "A_g": st.integers(1, 3),
        "S_l": st.integers(1, 3),
        "A_l": st.integers(1, 2),
        "local_sees": st.sampled_from(BOTH),
        "gamma": st.sampled_from([0.0, 0.5, 0.9]),
        "initial": st.sampled_from([InitialLaw(), InitialLaw(alpha=0.3)]),
    }
)
SHARES = st.sampled_from([0.001, 0.02, 0.2, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    kwargs=GAMES,
    share=SHARES,
    horizon=st.sampled_from([None, 1, 2, 6]),
    n=st.integers(1, 5),
    k=st.integers(1, 5),
)
def test_the_true_value_lies_in_the_envelope(
    random_game: RandomGame,
    kwargs: dict[str, object],
    share: float,
    horizon: int | None,
    n: int,
    k: int,
) -> None:
    model, k = random_game(**kwargs), min(k, n)
    truth, l1_g, l1_l = nearby(model, share, n)
    policy = some_policy(model, 3, k)
    envelope = policy_envelope(model, l1_g, l1_l, policy, n=n, k=k, horizon=horizon)
    low, true, high = (
        evaluate_exactly(game, policy, n=n, k=k, horizon=horizon)
        for game in (envelope.low, truth, envelope.high)
    )
    assert low - 1e-7 <= true <= high + 1e-7


def test_the_envelope_shrinks_with_the_errors_and_ends_at_the_value(
    random_game: RandomGame,
) -> None:
    model = random_game(3, gamma=0.9)
    _, l1_g, l1_l = nearby(model, 0.2, 1)
    policy = some_policy(model, 3, 1)

    def ends(scale: float) -> tuple[float, float]:
        found = policy_envelope(model, scale * l1_g, scale * l1_l, policy, n=5, k=2)
        low, high = (evaluate_exactly(g, policy, n=5, k=2) for g in (found.low, found.high))
        return low, high

    value = evaluate_exactly(model, policy, n=5, k=2)
    widths = []
    for scale in (1.0, 0.3, 0.01, 0.0):
        low, high = ends(scale)
        assert low <= value <= high
        widths.append(high - low)
    assert all(a > b for a, b in itertools.pairwise(widths))
    assert widths[-1] <= 1e-7
    # Linear in small errors: a hundredth of the errors, about a hundredth of the width or less.
    assert widths[2] <= 0.02 * widths[0]


def test_an_envelope_does_not_widen_with_the_fleet(random_game: RandomGame) -> None:
    model = random_game(5)
    l1_g, l1_l = np.full(model.r_g.shape, 0.01), np.full(model.r_l.shape, 0.01)
    policy = some_policy(model, 3, 1)

    def local(n: int) -> float:
        return policy_envelope(model, l1_g, l1_l, policy, n=n, k=2).sway.local

    assert local(100) == local(10**6) < 1000


def test_a_dispatcher_that_ignores_the_poll_is_not_swayed_by_it(random_game: RandomGame) -> None:
    model = random_game(5, gamma=0.9)
    l1_g, l1_l = np.full(model.r_g.shape, 0.01), np.full(model.r_l.shape, 0.01)
    constant = Policy(model, 3, np.ones((3, grid_points(3, 3)), int), some_policy(model, 3, 1).pi_l)
    few, many = (
        policy_envelope(model, l1_g, l1_l, constant, n=1000, k=k).sway for k in (1, 500)
    )  # fmt: skip
    assert few == many
    r_pi = model.marginals(constant.pi_l)[1]
    # Without a poll one agent changes no more than its own reward, until it moves as it would have.
    assert few.local <= np.ptp(r_pi, axis=1).max() / (1 - 0.9)
    polled = policy_envelope(model, l1_g, l1_l, some_policy(model, 3, 1), n=1000, k=500).sway
    assert polled.local > 100 * few.local


@pytest.mark.parametrize("local_sees", BOTH)
def test_the_envelope_holds_for_play_with_memory(
    random_game: RandomGame, local_sees: LocalSees
) -> None:
    model = random_game(7, local_sees=local_sees)
    truth, l1_g, l1_l = nearby(model, 0.05, 3)
    policy = some_policy(model, 4, 2, memory=9.0)
    forgetful = policy_envelope(model, l1_g, l1_l, policy, n=12, k=2, horizon=6, memory="none")
    found = policy_envelope(model, l1_g, l1_l, policy, n=12, k=2, horizon=6)
    assert found.sway.local > forgetful.sway.local
    assert found.sway.global_ >= forgetful.sway.global_
    low, true, high = (
        rollout(g, policy, n=12, k=2, horizon=6, rollouts=20_000)
        for g in (found.low, truth, found.high)
    )
    assert low.mean < true.mean < high.mean
    assert trivial_range(model, 6)[0] < low.mean


@settings(max_examples=40, deadline=None)
@given(kwargs=GAMES, share=SHARES, horizon=st.sampled_from([None, 1, 5]), K=st.integers(1, 3))
def test_bounds_of_the_optimistic_game_are_above_the_true_optima(
    random_game: RandomGame,
    kwargs: dict[str, object],
    share: float,
    horizon: int | None,
    K: int,
) -> None:
    model = random_game(**kwargs)
    truth, l1_g, l1_l = nearby(model, share, K)
    pi = some_policy(model, 2, K).pi_l
    hopeful, _ = optimistic_game(model, l1_g, l1_l, horizon=horizon, pi_l=pi)
    true = global_bound(truth, pi, K, horizon=horizon, tol=1e-8)
    assert true.upper - true.error <= global_bound(hopeful, pi, K, horizon=horizon).upper
    hopeful, _ = optimistic_game(model, l1_g, l1_l, horizon=horizon)
    joint = team_bound(truth, K, horizon=horizon, tol=1e-8)
    # The sequential optimum of the truth is itself a little above the joint one, which is bounded.
    slack = joint.error + (0.0 if K == 1 else 0.01 * abs(joint.upper))
    assert joint.upper - slack <= team_bound(hopeful, K, horizon=horizon).upper


def frozen_fleet(kind: str, leak: float) -> tuple[Game, Policy]:
    """Return a fleet of one in which nothing moves, but what `leak` moves to where it earns less.

    The reward is lost with the global state, with the local one, or with an action: that which the
    dispatcher takes when it polls the agent in its bad state, and either the action itself earns
    less or it leads to a bad global state.
    """
    stay = np.array([[1 - leak, leak], [0.0, 1.0]])
    nothing, both = np.zeros((2, 2)), np.eye(2)
    r_g, r_l = nothing, np.zeros((2, 2, 1))
    P_g, P_l = np.repeat(both[:, None], 2, axis=1), np.repeat(both[None, :, None], 2, axis=0)
    if kind == "global":
        P_g, r_g = np.repeat(stay[:, None], 2, axis=1), np.array([[1.0, 1.0], [0.0, 0.0]])
    else:
        P_l = np.repeat(stay[None, :, None], 2, axis=0)
    if kind == "local":
        r_l = np.array([[[1.0], [0.0]]] * 2)
    elif kind == "action":
        r_g = np.array([[1.0, 0.0]] * 2)
    elif kind == "call":
        P_g = np.array([both, both])
        r_g = np.array([[1.0, 1.0], [0.0, 0.0]])
    initial = InitialLaw(s_g=[1.0, 0.0], s_l=[1.0, 0.0])
    game = Game(P_g, r_g, P_l, r_l, 0.9, initial=initial)
    return game, Policy(game, 1, [[1, 0], [1, 0]], np.ones((2, 2, 1)))


@pytest.mark.parametrize("kind", ["global", "local", "action"])
def test_the_envelope_is_tight_where_nothing_can_be_regained(kind: str) -> None:
    leak = 1e-5
    (model, policy), (truth, _) = frozen_fleet(kind, 0.0), frozen_fleet(kind, leak)
    # Histograms of one agent are ordered (0, 1), (1, 0): in its good state it means action 0.
    l1_g, l1_l = (np.abs(getattr(truth, P) - getattr(model, P)).sum(-1) for P in ("P_g", "P_l"))
    found = policy_envelope(model, l1_g, l1_l, policy, n=1, k=1)
    value, true, low = (
        evaluate_exactly(game, policy, n=1, k=1) for game in (model, truth, found.low)
    )
    lost = 0.9 * leak / (1 - 0.9) ** 2
    assert value - true == pytest.approx(lost, rel=1e-3)
    assert value - low == pytest.approx(lost, rel=1e-2)
    assert low < true


def test_an_answer_to_the_poll_that_moves_s_g_is_paid_for() -> None:
    leak = 1e-5
    (model, policy), (truth, _) = frozen_fleet("call", 0.0), frozen_fleet("call", leak)
    l1_l = np.abs(truth.P_l - model.P_l).sum(axis=-1)
    found = policy_envelope(model, np.zeros((2, 2)), l1_l, policy, n=1, k=1)
    value, true, low = (
        evaluate_exactly(game, policy, n=1, k=1) for game in (model, truth, found.low)
    )
    assert value - true == pytest.approx(0.9**2 * leak / (1 - 0.9) ** 2, rel=1e-3)
    # Each later poll could lose everything anew: ten times as much as can be lost.
    assert 1 <= (value - low) / (value - true) <= 10.1


def extreme_game(
    seed: int, local_sees: LocalSees, gamma: float, S_g: int = 2, S_l: int = 2, A_l: int = 1
) -> Game:
    """Return a random game whose kernels and rewards are mostly zeros and ones."""
    rng = np.random.default_rng(seed)

    def kernel(*shape: int) -> FloatArray:
        corners = np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
        even = rng.random(shape[:-1])[..., None] < 0.3
        result: FloatArray = np.where(even, 0.5 * corners + 0.5 / shape[-1], corners)
        return result

    return Game(
        kernel(S_g, 2, S_g),
        rng.integers(0, 2, (S_g, 2)),
        kernel(S_g, S_l, A_l, S_l),
        rng.integers(0, 2, (S_g, S_l, A_l)),
        gamma,
        local_sees=local_sees,
    )


def seen_sway(game: Game, values: FloatArray, pi_l: FloatArray, size: int) -> tuple[float, float]:
    """Return by how much values on the grid really change, as `Sway` bounds it.

    Parameters
    ----------
    values : array, shape (M, S_g)
    """
    after = values
    if game.local_sees == "next":  # s_g is exchanged before the agents move
        P_pi = game.marginals(pi_l)[0]
        after = np.column_stack(
            [SymmetricPower(P, size).apply(values[:, s]) for s, P in enumerate(P_pi)]
        )
    with_one = rank(
        all_counts(size - 1, game.n_local)[:, None] + np.eye(game.n_local, dtype=np.int64)
        if size > 1
        else np.eye(game.n_local, dtype=np.int64)[None]
    )
    return float(np.ptp(after, axis=1).max()), size * float(np.ptp(values[with_one], axis=1).max())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    local_sees=st.sampled_from(BOTH),
    n=st.integers(1, 4),
    k=st.integers(1, 4),
    horizon=st.sampled_from([None, 1, 2, 3, 6]),
)
def test_values_are_swayed_no_more_than_claimed(
    seed: int, local_sees: LocalSees, n: int, k: int, horizon: int | None
) -> None:
    game, k = extreme_game(seed, local_sees, 0.8), min(k, n)
    policy = some_policy(game, n, seed)
    zero = np.zeros_like(game.r_g), np.zeros_like(game.r_l)
    claimed = policy_envelope(game, *zero, policy, n=n, k=k, horizon=horizon).sway
    best = optimistic_game(game, *zero, horizon=horizon, pi_l=policy.pi_l)[1]
    if horizon == 1:
        assert claimed.global_ == claimed.local == best.global_ == best.local == 0
        return
    left = None if horizon is None else horizon - 1
    values = enumerate_fleet(game, policy, n=n, k=k, horizon=left).values
    optimum = global_bound(game, policy.pi_l, n, horizon=left, tol=1e-9).values
    for sway, seen in ((claimed, values), (best, optimum)):
        global_, local = seen_sway(game, seen, policy.pi_l, n)
        assert global_ <= sway.global_ + 1e-6
        assert local <= sway.local + 1e-6


def lasting_damage(local_sees: LocalSees) -> Game:
    """Return a game in which s_g = 1, left at once, ruins all agents for ever."""
    P_l = np.empty((3, 2, 1, 2))
    P_l[:] = np.eye(2)[:, None]
    P_l[1, 0, 0] = [0.0, 1.0]
    P_g = np.zeros((3, 2, 3))
    P_g[:, 0, 0] = 1.0  # whatever s_g is, action 0 leads to 0, action 1 sometimes to 2
    P_g[:, 1] = [0.5, 0.0, 0.5]
    r_l = np.zeros((3, 2, 1))
    r_l[:, 0] = 1.0
    r_g = np.array([[0.0, 0.0], [0.0, 0.0], [-1.0, -1.0]])
    return Game(P_g, r_g, P_l, r_l, 0.9, local_sees=local_sees)


@pytest.mark.parametrize(("local_sees", "lost"), [("current", 0.9 / 0.1), ("next", 1 / 0.1)])
def test_damage_that_outlives_its_cause_is_counted(local_sees: LocalSees, lost: float) -> None:
    game = lasting_damage(local_sees)
    zero = np.zeros((3, 2)), np.zeros((3, 2, 1))
    blind = Policy(game, 1, np.zeros((3, 2), int), np.ones((3, 2, 1)))
    sway = policy_envelope(game, *zero, blind, n=2, k=1).sway
    values = enumerate_fleet(game, blind, n=2, k=1).values
    seen = seen_sway(game, values, blind.pi_l, 2)[0]
    # The bound has besides what s_g = 2 costs in the one step that it lasts.
    assert lost - 1e-6 <= seen <= sway.global_ <= lost + 1 + 1e-6


@pytest.mark.parametrize("local_sees", BOTH)
def test_damage_that_the_dispatcher_answers_to_is_counted(local_sees: LocalSees) -> None:
    game = lasting_damage(local_sees)
    zero = np.zeros((3, 2)), np.zeros((3, 2, 1))
    # Histograms of one agent are ordered (0, 1), (1, 0): action 1 when a ruined agent is polled.
    policy = Policy(game, 1, np.tile([1, 0], (3, 1)), np.ones((3, 2, 1)))
    sway = policy_envelope(game, *zero, policy, n=2, k=1).sway
    seen = seen_sway(game, enumerate_fleet(game, policy, n=2, k=1).values, policy.pi_l, 2)[0]
    assert 0.5 * sway.global_ <= seen <= sway.global_


def test_rows_that_the_model_takes_for_alike_may_not_be() -> None:
    """The model mends every agent at once; in truth one in two breaks, and none is mended."""
    r_l = np.array([[[1.0], [0.0]]])
    mended, broken = [[[[1.0, 0.0]], [[1.0, 0.0]]]], [[[[0.5, 0.5]], [[0.0, 1.0]]]]
    initial = InitialLaw(s_l=[1.0, 0.0])
    model, truth = (
        Game([[[1.0]]], [[0.0]], P_l, r_l, 0.9, initial=initial) for P_l in (mended, broken)
    )
    policy = Policy.uniform(model, 1)
    l1_l = np.abs(truth.P_l - model.P_l).sum(axis=-1)
    low = policy_envelope(model, np.zeros((1, 1)), l1_l, policy, n=2, k=1).low
    true = evaluate_exactly(truth, policy, n=2, k=1)
    assert true == pytest.approx(1 / (1 - 0.45))
    assert evaluate_exactly(low, policy, n=2, k=1) < true


def test_agents_that_see_the_next_state_pay_for_errors_there() -> None:
    """Only the moves at s_g = 1 are wrong; the first step leads there, the second is the last."""
    P_g = np.zeros((2, 1, 2))
    P_g[:, 0, 1] = 1.0
    good = np.empty((2, 2, 1, 2))
    good[:] = np.eye(2)[:, None]
    bad = good.copy()
    bad[1, 0, 0] = [0.5, 0.5]
    r_l = np.zeros((2, 2, 1))
    r_l[:, 0] = 1.0
    initial = InitialLaw(s_g=[1.0, 0.0], s_l=[1.0, 0.0])
    model, truth = (
        Game(P_g, np.zeros((2, 1)), P_l, r_l, 0.9, local_sees="next", initial=initial)
        for P_l in (good, bad)
    )
    policy = Policy.uniform(model, 1)
    l1_l = np.abs(bad - good).sum(axis=-1)
    low = policy_envelope(model, np.zeros((2, 1)), l1_l, policy, n=2, k=1, horizon=2).low
    true = evaluate_exactly(truth, policy, n=2, k=1, horizon=2)
    assert true == pytest.approx(1 + 0.45)
    assert evaluate_exactly(low, policy, n=2, k=1, horizon=2) <= true + 1e-12
    # The other way round, for the best that can be had where the model is too bleak.
    for pi in (policy.pi_l, None):
        hopeful = optimistic_game(truth, np.zeros((2, 1)), l1_l, horizon=2, pi_l=pi)[0]
        upper = (
            team_bound(hopeful, 1, horizon=2)
            if pi is None
            else global_bound(hopeful, pi, 1, horizon=2)
        ).upper
        assert upper >= 1.9 - 1e-12


def test_optimism_costs_nothing_where_nothing_is_unknown(random_game: RandomGame) -> None:
    model = random_game(4)
    hopeful, _ = optimistic_game(model, np.zeros_like(model.r_g), np.zeros_like(model.r_l))
    assert np.array_equal(hopeful.r_g, model.r_g)
    assert np.array_equal(hopeful.r_l, model.r_l)


def test_optimism_about_many_agents_costs_no_more_than_about_one(random_game: RandomGame) -> None:
    model = random_game(4, gamma=0.9, initial=InitialLaw(alpha=0.3))
    pi = some_policy(model, 2, 1).pi_l
    l1_g, l1_l = np.full(model.r_g.shape, 0.01), np.full(model.r_l.shape, 0.01)
    hopeful, sway = optimistic_game(model, l1_g, l1_l, pi_l=pi)
    cost = 0.9 * (0.005 * sway.global_ + 0.005 * sway.local) / (1 - 0.9)
    for K in (1, 4, 8):
        wider = global_bound(hopeful, pi, K).upper - global_bound(model, pi, K).upper
        assert wider == pytest.approx(cost, abs=1e-4)


def test_the_trivial_range_is_reached_by_a_game_of_one_state() -> None:
    game = Game([[[1.0]]], [[2.0]], [[[[1.0]]]], [[[0.5]]], 0.5)
    assert trivial_range(game, None) == pytest.approx((5.0, 5.0))
    assert trivial_range(game, 2) == pytest.approx((3.75, 3.75))
    policy = Policy.uniform(game, 1)
    assert evaluate_exactly(game, policy, n=2, k=1, horizon=2) == pytest.approx(3.75)


@pytest.mark.parametrize(
    ("l1_g", "l1_l", "message"),
    [
        (np.zeros((2, 2)), np.zeros((3, 3, 2)), r"l1_g has shape \(2, 2\)"),
        (np.zeros((3, 3)), np.zeros((3, 3)), "l1_l has 2 axes"),
        (np.full((3, 3), -0.1), np.zeros((3, 3, 2)), r"l1_g\[0, 0\] is -0.1, not an L1 distance"),
        (np.zeros((3, 3)), np.full((3, 3, 2), 2.5), r"l1_l\[0, 0, 0\] is 2.5"),
        (np.full((3, 3), np.nan), np.zeros((3, 3, 2)), r"l1_g\[0, 0\] is nan"),
    ],
)
def test_errors_that_are_none_are_refused(
    random_game: RandomGame, l1_g: FloatArray, l1_l: FloatArray, message: str
) -> None:
    game = random_game(1)
    with pytest.raises(InputError, match=message):
        optimistic_game(game, l1_g, l1_l)
    with pytest.raises(InputError, match=message):
        policy_envelope(game, l1_g, l1_l, Policy.uniform(game, 2), n=5, k=2)
