# SPDX-License-Identifier: MIT
"""Games from logged transitions, and what can be claimed of policies in them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InitialLaw, InputError, Policy, g_learn, load_game, rollout
from kofn.controller.core.estimated_certificates import certify_estimate
from kofn.controller.core.estimation import (
    EstimatedGame,
    blank_game,
    estimate_from_counts,
    estimate_game,
)
from kofn.controller.core.exact_evaluation import evaluate_exactly
from kofn.controller.core.logged_transitions import GlobalTransitions, LocalTransitions

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray, LocalSees

RandomGame = Callable[..., Game]

BOTH: list[LocalSees] = ["current", "next"]


def log_of(
    game: Game, steps: int, agents: int, seed: int
) -> tuple[LocalTransitions, GlobalTransitions]:
    """Return what is logged of agents and a dispatcher that act at random."""
    rng = np.random.default_rng(seed)
    s, x = int(rng.integers(game.n_global)), rng.integers(game.n_local, size=agents)
    moves: list[tuple[IntArray, ...]] = []
    calls: list[tuple[int, int, int]] = []
    for _ in range(steps):
        a, b = (
            int(rng.integers(game.n_global_actions)),
            rng.integers(game.n_local_actions, size=agents),
        )
        after = int(rng.choice(game.n_global, p=game.P_g[s, a]))
        rows = game.P_l[after if game.local_sees == "next" else s, x, b]
        there = (rng.random(agents)[:, None] < rows.cumsum(axis=1)).argmax(axis=1)
        moves.append((np.full(agents, s), x, b, there, np.full(agents, after)))
        calls.append((s, a, after))
        s, x = after, there
    s_g, s_l, a_l, s_l_next, s_g_next = map(np.concatenate, zip(*moves, strict=True))
    called = np.array(calls)
    return (
        LocalTransitions(s_g, s_l, a_l, s_l_next, s_g_next),
        GlobalTransitions(called[:, 0], called[:, 1], called[:, 2]),
    )


def counted(game: Game, visits: int, seed: int) -> EstimatedGame:
    """Return an estimate from so many transitions out of every row."""
    rng = np.random.default_rng(seed)
    return estimate_from_counts(
        game,
        P_g_counts=rng.multinomial(visits, game.P_g),
        P_l_counts=rng.multinomial(visits, game.P_l),
    )


@pytest.mark.parametrize("local_sees", BOTH)
def test_counts_are_those_of_the_log(random_game: RandomGame, local_sees: LocalSees) -> None:
    game = random_game(1, local_sees=local_sees, horizon=9, initial=InitialLaw(alpha=0.4))
    local, calls = log_of(game, 40, 3, 1)
    found = estimate_game(game, local=local, global_=calls, prior_weight=0.6)
    N_l, N_g = np.zeros(game.P_l.shape), np.zeros(game.P_g.shape)
    mover = local.s_g_next if local_sees == "next" else local.s_g
    assert mover is not None
    for s, j, b, l in zip(mover, local.s_l, local.a_l, local.s_l_next, strict=True):
        N_l[s, j, b, l] += 1
    for s, a, t in zip(calls.s_g, calls.a_g, calls.s_g_next, strict=True):
        N_g[s, a, t] += 1
    assert np.array_equal(found.P_l_counts, N_l)
    assert np.array_equal(found.P_g_counts, N_g)
    assert found.visits_l.sum() == 120
    assert found.visits_g.sum() == 40
    mean = (N_l + 0.2) / (N_l.sum(axis=-1, keepdims=True) + 0.6)
    assert np.allclose(found.game.P_l, mean)
    assert np.array_equal(found.game.r_l, game.r_l)
    settings = ("gamma", "local_sees", "horizon")
    assert all(getattr(found.game, name) == getattr(game, name) for name in settings)
    assert found.game.initial.alpha == 0.4
    assert found.rewards == "known"


def test_tables_of_counts_say_the_same_as_the_log(random_game: RandomGame) -> None:
    game = random_game(2)
    local, calls = log_of(game, 30, 2, 2)
    found = estimate_game(game, local=local, global_=calls)
    again = estimate_from_counts(game, P_l_counts=found.P_l_counts, P_g_counts=found.P_g_counts)
    assert found.game.sha256 == again.game.sha256


def test_the_estimate_approaches_the_game_that_was_logged(random_game: RandomGame) -> None:
    game = random_game(3, S_g=2, A_g=2)
    local, calls = log_of(game, 4000, 20, 3)
    found = estimate_game(game, local=local, global_=calls).game
    assert np.abs(found.P_l - game.P_l).max() < 0.03
    assert np.abs(found.P_g - game.P_g).max() < 0.08
    # A game whose local agents are moved by the other global state is told apart.
    turned = estimate_game(
        Game(game.P_g, game.r_g, game.P_l, game.r_l, game.gamma, local_sees="next"), local=local
    )
    assert np.abs(turned.game.P_l - game.P_l).max() > 0.1


def test_rows_without_data_are_the_prior_and_are_flagged(random_game: RandomGame) -> None:
    game, model = random_game(4), random_game(5)
    local = LocalTransitions([0, 0], [1, 1], [1, 1], [2, 0])
    found = estimate_game(game, local=local, prior=model, prior_weight=5.0)
    assert found.unvisited_g.all()
    assert found.unvisited_l.sum() == game.r_l.size - 1
    assert not found.unvisited_l[0, 1, 1]
    assert np.allclose(found.game.P_g, model.P_g)
    assert np.allclose(found.game.P_l[1], model.P_l[1])
    expected = (5 * model.P_l[0, 1, 1] + [1, 0, 1]) / 7
    assert np.allclose(found.game.P_l[0, 1, 1], expected)
    l1_g, l1_l = found.l1_radius()
    assert np.all(l1_g == 2)
    assert np.all(l1_l[found.unvisited_l] == 2)


def test_a_template_without_kernels_is_enough(random_game: RandomGame) -> None:
    game = random_game(6)
    local, calls = log_of(game, 50, 2, 1)
    blank = blank_game(game.r_g, game.r_l, game.gamma)
    found = estimate_game(blank, local=local, global_=calls)
    assert found.game.sha256 == estimate_game(game, local=local, global_=calls).game.sha256


def test_observed_rewards_are_averaged_where_there_are_any(random_game: RandomGame) -> None:
    game = random_game(7)
    local = LocalTransitions([0, 0, 2], [1, 1, 0], [1, 1, 0], [2, 0, 0], reward=[1.0, 4.0, -1.0])
    calls = GlobalTransitions([1, 1], [2, 2], [0, 1], reward=[7.0, 7.0])
    found = estimate_game(game, local=local, global_=calls)
    assert found.rewards == "estimated"
    assert found.game.r_l[0, 1, 1] == 2.5
    assert found.game.r_l[2, 0, 0] == -1.0
    assert found.game.r_g[1, 2] == 7.0
    untouched = np.ones(game.r_g.shape, dtype=bool)
    untouched[1, 2] = False
    assert np.array_equal(found.game.r_g[untouched], game.r_g[untouched])


def test_draws_follow_the_posterior_and_the_seed(random_game: RandomGame) -> None:
    game = random_game(8)
    found = counted(game, 6, 1)
    draws = np.array([found.sample(seed).P_l for seed in range(600)])
    alpha = found.prior_l + found.P_l_counts
    mean = alpha / alpha.sum(axis=-1, keepdims=True)
    variance = mean * (1 - mean) / (alpha.sum(axis=-1, keepdims=True) + 1)
    assert np.abs(draws.mean(axis=0) - mean).max() < 5 * math.sqrt(variance.max() / 600)
    assert np.abs(draws.var(axis=0) - variance).max() < 0.25 * variance.max()
    assert found.sample(3).sha256 == found.sample(3).sha256 != found.sample(4).sha256


def test_draws_from_next_to_no_prior_are_distributions(random_game: RandomGame) -> None:
    game = random_game(8)
    found = estimate_game(game, prior_weight=1e-6)
    P = found.sample(0).P_l
    # Such a row is a corner, and all corners are as likely as the prior has them.
    assert np.allclose(P.max(axis=-1), 1)
    corners = np.concatenate([found.sample(i).P_l.argmax(axis=-1).ravel() for i in range(60)])
    assert np.bincount(corners, minlength=3).min() > 0.28 * corners.size
    model = Game(game.P_g, game.r_g, np.eye(3)[np.zeros((3, 3, 2), int)], game.r_l, 0.5)
    known = estimate_game(game, prior=model, prior_weight=2.0).sample(1)
    assert np.array_equal(known.P_l, model.P_l)


def test_radii_shrink_as_one_over_the_root_of_the_visits(random_game: RandomGame) -> None:
    game = random_game(9)
    radii = [counted(game, m, 1).l1_radius()[1].mean() for m in (100, 10_000, 1_000_000)]
    assert radii[0] / radii[1] > 8
    assert 8 < radii[1] / radii[2] < 12
    found = counted(game, 500, 1)
    assert np.all(found.l1_radius(0.999)[0] > found.l1_radius(0.5)[0])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), S_l=st.integers(1, 4))
def test_all_rows_lie_within_their_radii_more_often_than_promised(
    random_game: RandomGame, seed: int, S_l: int
) -> None:
    game = random_game(seed, S_g=2, A_g=2, S_l=S_l)
    missed = 0
    for i in range(20):
        local, calls = log_of(game, 30, 4, seed + i)
        found = estimate_game(game, local=local, global_=calls)
        l1_g, l1_l = found.l1_radius(0.8)
        off_g = np.abs(found.game.P_g - game.P_g).sum(axis=-1) > l1_g + 1e-12
        off_l = np.abs(found.game.P_l - game.P_l).sum(axis=-1) > l1_l + 1e-12
        missed += bool(off_g.any() or off_l.any())
    assert missed <= 4


def test_what_is_learned_on_the_estimate_is_nearly_best_in_the_truth(
    random_game: RandomGame,
) -> None:
    truth = random_game(12, gamma=0.9)
    pi = truth.uniform_local_policy()

    def earned(game: Game) -> float:
        policy = Policy(game, 3, g_learn(game, pi, 3, tol=1e-8).action, pi)
        return evaluate_exactly(truth, policy, n=3, k=3)

    best = earned(truth)
    lost = [
        np.mean([best - earned(counted(truth, m, seed).game) for seed in range(8)])
        for m in (2, 30, 3000)
    ]
    assert lost[0] > lost[1] > lost[2] >= -1e-6
    assert lost[2] < 1e-3 * best


def policy_of(game: Game, seed: int = 1) -> Policy:
    rng = np.random.default_rng(seed)
    pi = rng.dirichlet(np.ones(game.n_local_actions), (game.n_global, game.n_local))
    return Policy(game, 3, g_learn(game, pi, 3).action, pi)


def credible(found: EstimatedGame, policy: Policy, level: float, draws: int) -> FloatArray:
    values = [
        evaluate_exactly(found.sample(seed), policy, n=3, k=1, horizon=8) for seed in range(draws)
    ]
    ends: FloatArray = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return ends


def test_credible_intervals_cover_at_their_level_and_narrow_with_data(
    random_game: RandomGame,
) -> None:
    """40 games from the prior; quantiles of 30 draws hold 31 +- 2.6 of them at 80 %."""
    template = random_game(1, S_g=2, A_g=2, S_l=2, A_l=2)
    policy = policy_of(template)
    prior = estimate_game(template, prior_weight=2.0)
    widths = {}
    for visits in (5, 50):
        inside, width = 0, 0.0
        for study in range(40):
            truth = prior.sample(10_000 + study)
            rng = np.random.default_rng(study)
            found = estimate_from_counts(
                template,
                P_g_counts=rng.multinomial(visits, truth.P_g),
                P_l_counts=rng.multinomial(visits, truth.P_l),
                prior_weight=2.0,
            )
            low, high = credible(found, policy, 0.8, 30)
            true = evaluate_exactly(truth, policy, n=3, k=1, horizon=8)
            inside += bool(low <= true <= high)
            width += high - low
        assert 23 <= inside <= 38
        widths[visits] = width
    assert 2 < widths[5] / widths[50] < 4


def test_a_certificate_from_data_states_all_three_answers() -> None:
    truth = load_game("ring-current")
    pi = np.zeros(truth.r_l.shape)
    pi[..., 1] = 1.0
    found = counted(truth, 50_000, 1)
    policy = Policy(found.game, 3, g_learn(found.game, pi, 3, tol=1e-3).action, pi)
    result = certify_estimate(found, policy, n=100, k=3, budget_s=3.0, draws=25, seed=2)
    true = rollout(truth, policy, n=100, k=3, rollouts=4000).mean
    low, high = result.credible.value
    assert low < true < high
    assert low < result.model.value < high
    assert result.proven.value[0] < low < high < result.proven.value[1]
    # How far the bounds get depends on the machine, what they claim does not.
    assert true < result.proven.upper_global <= result.proven.upper_team
    assert true < result.credible.upper_global <= result.credible.upper_team
    assert result.credible.welfare_gap < result.proven.welfare_gap
    # Answering to polls, the dispatcher could multiply errors: nothing is proven of its value.
    assert result.vacuous == ("value",)
    assert 20 <= result.draws == len(result.draw_values) <= 25
    assert result.data.unvisited_g == result.data.unvisited_l == 0
    assert 0.02 < result.data.l1_l < 0.03
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["credible"]["value"] == [low, high]
    assert data["model"]["n"] == 100


def test_more_data_make_every_claim_narrower() -> None:
    truth = load_game("ring-current")
    pi = np.zeros(truth.r_l.shape)
    pi[..., 1] = 1.0
    # A dispatcher that calls one zone for ever: then errors of P_l are not multiplied.
    policy = Policy(truth, 1, np.zeros((5, 5), int), pi)
    few, many = (
        certify_estimate(counted(truth, m, 1), policy, n=100, k=3, budget_s=1.5, draws=20)
        for m in (500, 2_000_000)
    )
    assert few.vacuous == ("value", "upper_global", "upper_team")
    assert many.vacuous == ()
    assert np.std(many.draw_values) < 0.2 * np.std(few.draw_values)
    for name in ("proven", "credible"):
        wide, narrow = getattr(few, name), getattr(many, name)
        assert narrow.value[1] - narrow.value[0] < wide.value[1] - wide.value[0]
    assert many.proven.global_gap < few.proven.global_gap
    assert many.proven.welfare_gap < few.proven.welfare_gap
    assert many.data.l1_g < 0.05 * few.data.l1_g
    true = rollout(truth, policy, n=100, k=3, rollouts=4000)
    assert many.proven.value[0] < true.mean < many.proven.value[1]


def test_the_path_of_the_policy_tells_of_rows_without_data(random_game: RandomGame) -> None:
    game = random_game(3, S_g=2, A_g=2, horizon=5)
    counts_g, counts_l = np.full(game.P_g.shape, 50), np.full(game.P_l.shape, 50)
    counts_g[:, 1], counts_l[0] = 0, 0
    found = estimate_from_counts(game, P_g_counts=counts_g, P_l_counts=counts_l)
    pi = game.uniform_local_policy()
    calls = [Policy(game, 1, np.full((2, 3), a), pi) for a in (0, 1)]
    first, second = (
        certify_estimate(found, policy, n=10, budget_s=0.3, draws=1).data for policy in calls
    )
    assert first.unvisited_g == 0
    assert second.unvisited_g == pytest.approx(1)
    assert second.l1_g == pytest.approx(2)
    assert 0.2 < first.unvisited_l < 0.8


def test_an_endless_game_is_certified_from_data_too(random_game: RandomGame) -> None:
    game = random_game(3, S_g=2, A_g=2, S_l=2, gamma=0.8, local_sees="next")
    policy = policy_of(game)
    found = counted(game, 400, 2)
    result = certify_estimate(found, policy, n=3, k=1, budget_s=0.5, draws=20)
    assert result.horizon is None
    true = evaluate_exactly(game, policy, n=3, k=1)
    assert result.proven.value[0] <= true <= result.proven.value[1]
    assert true <= result.proven.upper_global
    assert result.grid["draw_team"] <= 3


BAD: list[tuple[Callable[[Game], Any], str]] = [
    (lambda g: LocalTransitions([0], [0, 1], [0], [0]), "s_l has 2 entries, but s_g has 1"),
    (lambda g: LocalTransitions([0.5], [0], [0], [0]), r"s_g\[0\] is 0.5, not a whole number"),
    (lambda g: GlobalTransitions([0], [-1], [0]), r"a_g\[0\] is -1, not a whole number"),
    (lambda g: GlobalTransitions([0], ["x"], [0]), "a_g is not a rectangular table of numbers"),
    (
        lambda g: GlobalTransitions([0, 0], [0, 0], [0, 0], [1, math.inf]),
        r"reward\[1\] is inf, not a finite number",
    ),
    (
        lambda g: estimate_game(g, local=LocalTransitions([0, 1], [0, 3], [0, 0], [0, 0])),
        r"local transitions: s_l\[1\] is 3, but the game has 3 of them",
    ),
    (
        lambda g: estimate_game(g, global_=GlobalTransitions([0], [0], [7])),
        r"global transitions: s_g_next\[0\] is 7",
    ),
    (lambda g: estimate_game(g, prior_weight=0.0), "prior weight 0.0 is not a number above 0"),
    (lambda g: estimate_game(g, prior_weight=math.nan), "prior weight nan is not a number above 0"),
    (
        lambda g: estimate_game(g, prior=load_game("ring-current")),
        r"P_g of the prior has shape \(5, 5, 5\)",
    ),
    (
        lambda g: estimate_from_counts(g, P_g_counts=np.zeros((3, 3, 2)), P_l_counts=g.P_l),
        r"P_g_counts has shape \(3, 3, 2\)",
    ),
    (
        lambda g: estimate_from_counts(
            g, P_g_counts=np.full((3, 3, 3), 0.5), P_l_counts=np.zeros(g.P_l.shape)
        ),
        r"P_g_counts\[0, 0, 0\] is 0.5, not a whole number",
    ),
    (
        lambda g: estimate_game(g).l1_radius(1.0),
        "confidence level 1.0 is not a number between 0 and 1",
    ),
    (lambda g: estimate_game(g).sample(-1), "seed -1"),
    (
        lambda g: certify_estimate(estimate_game(g), Policy.uniform(g, 1), n=3, draws=0),
        "draws 0 is not a whole number",
    ),
    (
        lambda g: certify_estimate(estimate_game(g), Policy.uniform(g, 1), n=3, budget_s=-1),
        "budget in seconds -1 is not a number above 0",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_data_are_refused_in_a_sentence(
    random_game: RandomGame, call: Callable[[Game], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(random_game(1))


def test_logs_of_locals_that_see_the_next_state_must_tell_it(random_game: RandomGame) -> None:
    game = random_game(1, local_sees="next")
    with pytest.raises(InputError, match="local transitions lack s_g_next"):
        estimate_game(game, local=LocalTransitions([0], [0], [0], [0]))
    with pytest.raises(InputError, match="the action that earns is not the one that moves"):
        estimate_game(game, local=LocalTransitions([0], [0], [0], [0], [1], [2.0]))


def test_an_empty_log_teaches_nothing(random_game: RandomGame) -> None:
    found = estimate_game(random_game(1), global_=GlobalTransitions([], [], []))
    assert found.unvisited_g.all()
    assert np.allclose(found.game.P_g, 1 / 3)


def test_logs_cannot_be_changed_afterwards() -> None:
    log = GlobalTransitions([0], [0], [0])
    with pytest.raises(ValueError, match="read-only"):
        log.s_g[0] = 1
