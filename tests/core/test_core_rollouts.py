# SPDX-License-Identifier: MIT
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import (
    Belief,
    Game,
    InitialLaw,
    InputError,
    Policy,
    _jit,
    _multinomials,
    _random,
    g_learn,
    load_game,
    rollout,
)
from kofn.controller.core.grid import grid_points, rank

if TYPE_CHECKING:
    from types import ModuleType

    from kofn.controller.core.game import LocalSees

RandomGame = Callable[..., Game]


@_jit.inline
def draws_of_binomial(seed: int, n: int, p: float, size: int) -> npt.NDArray[np.int64]:
    out = np.empty(size, dtype=np.int64)
    stream = np.empty(1, dtype=np.uint64)
    _random.start(stream, seed, 0, 0, 0)
    for i in range(size):
        out[i] = _random.binomial(stream, n, p)
    return out


@_jit.inline
def draws_of_poll(
    seed: int, k: int, counts: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.int64]:
    out = np.empty((size, counts.size), dtype=np.int64)
    left = np.empty(counts.size, dtype=np.int64)
    stream = np.empty(1, dtype=np.uint64)
    _random.start(stream, seed, 0, 0, 0)
    for i in range(size):
        _random.sample_without_replacement(stream, k, counts, left, out[i])
    return out


@_jit.inline
def draws_of_dirichlet(seed: int, alpha: float, size: int) -> npt.NDArray[np.float64]:
    out = np.empty((size, 4))
    stream = np.empty(1, dtype=np.uint64)
    _random.start(stream, seed, 0, 0, 0)
    for i in range(size):
        _random.dirichlet(stream, alpha, out[i])
    return out


@pytest.mark.parametrize(
    ("n", "p"), [(1, 0.3), (7, 0.5), (40, 0.2), (30, 0.9), (60, 0.4), (1000, 0.02), (200, 0.7)]
)
def test_binomial_draws_follow_the_exact_law(n: int, p: float) -> None:
    size = 40_000
    seen = np.bincount(draws_of_binomial(n, n, p, size), minlength=n + 1)
    exact = size * np.array([math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n + 1)])
    kept = exact > 5
    chi = float(((seen - exact)[kept] ** 2 / exact[kept]).sum())
    freedom = max(int(kept.sum()) - 1, 1)
    assert chi < freedom + 6 * math.sqrt(2 * freedom)
    assert abs(int(seen[~kept].sum()) - exact[~kept].sum()) < 6 * math.sqrt(exact[~kept].sum() + 1)


@pytest.mark.parametrize(("n", "p"), [(10**9, 0.3), (10**12, 1e-11), (10**12, 0.999)])
def test_binomial_draws_of_large_fleets_have_the_right_moments(n: int, p: float) -> None:
    x = draws_of_binomial(1, n, p, 20_000).astype(float)
    sd = math.sqrt(n * p * (1 - p))
    assert abs(x.mean() - n * p) < 6 * sd / math.sqrt(20_000)
    assert abs(x.std() / sd - 1) < 0.04


@pytest.mark.parametrize("n", [1, 17, 300, 10**5, 10**9, 10**12])
@pytest.mark.parametrize("p", [1e-11, 1e-6, 0.004, 0.11, 0.5, 0.87, 1 - 1e-9])
def test_binomial_draws_follow_the_law_from_few_trials_to_a_million_million(
    n: int, p: float
) -> None:
    size = 40_000
    drawn = draws_of_binomial(n % 1000 + 7, n, p, size)
    law = scipy.stats.binom(n, p)
    # Bins of about equal probability: the law is discrete, so some may fall together.
    edges = np.unique(law.ppf(np.linspace(0.01, 0.99, 41)))
    exact = size * np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]]))
    seen = np.bincount(np.searchsorted(edges, drawn), minlength=exact.size)
    kept = exact > 5
    chi = float(((seen - exact)[kept] ** 2 / exact[kept]).sum())
    freedom = max(int(kept.sum()) - 1, 1)
    assert chi < freedom + 6 * math.sqrt(2 * freedom)
    assert abs(int(seen[~kept].sum()) - exact[~kept].sum()) < 6 * math.sqrt(exact[~kept].sum() + 1)


@_jit.inline
def draws_of_row(
    rows: _multinomials.Rows, row: int, n: int, size: int, width: int
) -> npt.NDArray[np.int64]:
    out = np.zeros((size, width), dtype=np.int64)
    counts = np.array([n])
    for i in range(size):
        _multinomials.add(_random.key(3, i), 0, 0, counts, 1, rows, row, out[i], 0)
    return out


@pytest.mark.parametrize("n", [1, 6, 40, 500, 10**9])
def test_prepared_rows_draw_multinomials(n: int) -> None:
    laws = np.array(
        [
            [0.0, 0.05, 0.9, 0.0, 0.03, 0.02, 0.0],
            [1 / 7] * 7,
            [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
            [0.3, 0.1, 0.2, 0.1, 0.05, 0.15, 0.1],
        ]
    )
    rows = _multinomials.prepare(laws)
    size = 20_000
    for i, law in enumerate(laws):
        x = draws_of_row(rows, i, n, size, 7).astype(float)
        assert np.all(x.sum(axis=1) == n)
        assert np.all(x[:, law == 0] == 0)
        covariance = n * (np.diag(law) - np.outer(law, law))
        sd = np.sqrt(np.diag(covariance))
        assert np.all(np.abs(x.mean(axis=0) - n * law) <= 5 * sd / math.sqrt(size) + 1e-9 * n)
        scale = np.outer(sd, sd) + 1e-9
        assert np.abs((np.cov(x.T) - covariance) / scale).max() < (0.5 if n < 40 else 0.06)


@pytest.mark.parametrize("k", [3, 9, 12])
def test_a_poll_is_multivariate_hypergeometric(k: int) -> None:
    counts = np.array([5, 0, 4, 3])
    x = draws_of_poll(2, k, counts, 40_000)
    assert np.all(x.sum(axis=1) == k)
    assert np.all(x <= counts)
    share = counts / 12
    assert np.abs(x.mean(axis=0) - k * share).max() < 0.03
    variance = k * share * (1 - share) * (12 - k) / 11
    assert np.abs(x.var(axis=0) - variance).max() < 0.03


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_dirichlet_draws_have_the_right_moments(alpha: float) -> None:
    x = draws_of_dirichlet(3, alpha, 40_000)
    assert np.allclose(x.sum(axis=1), 1)
    assert np.abs(x.mean(axis=0) - 0.25).max() < 0.01
    assert np.abs(x.var(axis=0) - 0.1875 / (4 * alpha + 1)).max() < 0.005


def trained(game: Game, k: int, seed: int = 5) -> Policy:
    pi = np.random.default_rng(seed).dirichlet(
        np.ones(game.n_local_actions), (game.n_global, game.n_local)
    )
    return Policy(game, k, g_learn(game, pi, k).action, pi)


@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_the_mean_equals_exact_enumeration(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees
) -> None:
    game = random_game(21, local_sees=local_sees, initial=InitialLaw(s_l=[0.6, 0.3, 0.1]))
    policy = trained(game, 2)
    exact = reference.expected_return(game, policy, n=4, k=2, horizon=4)
    played = rollout(game, policy, n=4, k=2, horizon=4, rollouts=60_000, memory="none")
    assert abs(played.mean - exact) < 4.5 * played.stderr


@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_counts_and_separate_agents_have_the_same_law(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees
) -> None:
    game = random_game(22, local_sees=local_sees, initial=InitialLaw(alpha=0.5))
    policy = trained(game, 3)
    apart = reference.simulate_agents(game, policy, n=6, k=3, horizon=4, rollouts=1500, seed=1)
    counts = rollout(game, policy, n=6, k=3, horizon=4, rollouts=60_000, memory="none")
    error = math.hypot(counts.stderr, apart.std() / math.sqrt(apart.size))
    assert abs(counts.mean - apart.mean()) < 4.5 * error
    assert abs(counts.returns.std() / apart.std() - 1) < 0.1


def test_agents_that_act_first_move_by_what_they_chose_before(random_game: RandomGame) -> None:
    game = random_game(5, local_sees="next")
    rng = np.random.default_rng(5)
    action = rng.integers(0, 3, (3, 3)).astype(np.int32)
    pi_l = rng.dirichlet(np.ones(2), (3, 3))
    policy = Policy(game, 1, action, pi_l)
    cell = rank(np.eye(3, dtype=np.int64))
    value = np.zeros((3, 3))  # of one agent, backwards: (s_g, s_l)
    for _ in range(6):
        new = np.empty_like(value)
        for s, j in np.ndindex(3, 3):
            a_g = action[s, cell[j]]
            ahead = np.einsum("a,t,tal,tl->", pi_l[s, j], game.P_g[s, a_g], game.P_l[:, j], value)
            new[s, j] = game.r_g[s, a_g] + pi_l[s, j] @ game.r_l[s, j] + game.gamma * ahead
        value = new
    played = rollout(
        game, policy, n=1, k=1, horizon=6, rollouts=40_000, memory="none", act_first=True
    )
    assert abs(played.mean - value.mean()) < 4.5 * played.stderr
    anew = rollout(game, policy, n=1, k=1, horizon=6, rollouts=40_000, memory="none")
    assert abs(anew.mean - value.mean()) > 4.5 * anew.stderr
    with pytest.raises(InputError, match="act first"):
        rollout(random_game(5), policy, n=1, k=1, act_first=True)


def test_records_hold_what_the_law_allows() -> None:
    game = load_game("ring-current")
    r = rollout(game, Policy.uniform(game, 3), n=17, k=3, horizon=6, rollouts=50, record=True)
    records = r.records
    assert records is not None
    assert np.all(records.counts.sum(axis=2) == 17)
    assert np.all(records.sample.sum(axis=2) == 3)
    assert np.all(records.sample <= records.counts)
    assert np.allclose(records.reward @ game.gamma ** np.arange(6), r.returns)
    assert rollout(game, Policy.uniform(game, 3), n=17, k=3, rollouts=2).records is None


@pytest.mark.parametrize("memory", ["none", 7.5, 40])
@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_the_plain_belief_repeats_the_decisions_of_the_rollouts(
    random_game: RandomGame, memory: float | str, local_sees: LocalSees
) -> None:
    game = random_game(23, S_l=4, local_sees=local_sees)
    k, prior = 3, np.random.default_rng(1).random((3, 4)) * 3
    bare = trained(game, 6)
    policy = Policy(game, 6, bare.action, bare.pi_l, prior=prior)
    played = rollout(game, policy, n=30, k=k, horizon=12, rollouts=40, memory=memory, record=True)
    records = played.records
    assert records is not None
    remembered = policy.remembers(k, memory)
    for r in range(40):
        belief = policy.belief(k, memory)
        for t in range(12):
            belief.update(records.sample[r, t])
            chosen = policy.decide(records.s_g[r, t], belief.weights, remembered=remembered)
            assert chosen == records.a_g[r, t]
            known = records.counts[r, t, belief.weights.argmax()] == records.counts[r, t].max()
            assert known == records.mode_known[r, t]
            if t + 1 < 12:
                belief.predict(records.s_g[r, t + (local_sees == "next")])


def test_a_full_poll_without_memory_forgets_everything() -> None:
    belief = Belief(np.full((1, 2, 2), 0.5), cap=4)
    belief.update([1, 3])
    assert belief.weights.tolist() == [1, 3]
    belief.predict(0)
    assert belief.weights.tolist() == [2, 2]
    belief.update([4, 0])
    assert belief.weights.tolist() == [4, 0]


def dirichlet_spread(weights: npt.NDArray[np.float64]) -> float:
    total = weights.sum()
    mean = weights / total
    return float((1 - mean @ mean) / (total + 1))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_a_prediction_has_the_exact_mean_and_total_variance(seed: int, states: int) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.dirichlet(np.full(states, 0.5), states)
    belief = Belief(kernel[None], cap=1e9, start=rng.uniform(0.05, 5, states))
    before = belief.weights
    mean = before / before.sum()
    covariance = (np.diag(mean) - np.outer(mean, mean)) / (before.sum() + 1)
    belief.predict(0)
    after = belief.weights
    assert np.allclose(after / after.sum(), mean @ kernel)
    assert dirichlet_spread(after) == pytest.approx(np.trace(kernel.T @ covariance @ kernel))
    assert after.sum() >= before.sum() * (1 - 1e-12)


def test_agents_who_stay_put_teach_nothing_and_those_who_mix_are_known() -> None:
    still = Belief(np.eye(3)[None], cap=50, start=[1, 2, 3])
    still.predict(0)
    assert np.allclose(still.weights, [1, 2, 3])
    mixing = Belief(np.full((1, 3, 3), 1 / 3), cap=50, start=[1, 2, 3])
    mixing.predict(0)
    assert np.allclose(mixing.weights, 50 / 3)


def test_a_belief_never_claims_more_than_its_cap() -> None:
    game = load_game("ring-current")
    belief = Policy.uniform(game, 3).belief(2, 9)
    rng = np.random.default_rng(0)
    for _ in range(50):
        belief.update(rng.multinomial(2, np.full(5, 0.2)))
        assert belief.weights.sum() <= 9 + 1e-9
        belief.predict(int(rng.integers(5)))
        assert belief.weights.sum() <= 9 + 1e-9


def test_a_belief_starts_from_the_law_of_the_game() -> None:
    ring = Policy.uniform(load_game("ring-current"), 3)
    assert ring.belief(2, 9).weights.tolist() == [0.3] * 5
    assert ring.belief(2, "none").weights.tolist() == [0] * 5
    game = load_game("arena")
    sure = Game(
        game.P_g, game.r_g, game.P_l, game.r_l, 0.9, initial=InitialLaw(s_l=[1, 0, 0, 0, 0])
    )
    start = Policy.uniform(sure, 3).belief(2, 9).weights
    assert start.tolist() == [1.5, 0.25, 0.25, 0.25, 0.25]


def test_a_belief_errs_about_as_much_as_it_claims() -> None:
    game = load_game("ring-current")
    policy = Policy.uniform(game, 3)
    played = rollout(game, policy, n=10**6, k=1, rollouts=300, memory=200, record=True)
    records = played.records
    assert records is not None
    misses = []
    for r in range(300):
        belief = policy.belief(1, 200)
        for t in range(10):
            belief.update(records.sample[r, t])
            if t < 9:
                belief.predict(records.s_g[r, t])
        b = belief.weights
        gap = ((b / b.sum() - records.counts[r, 9] / 10**6) ** 2).sum()
        misses.append((gap, dirichlet_spread(b)))
    real, claimed = np.mean(misses, axis=0)
    # The error that the belief claims is about the one that it makes.
    assert 0.6 * claimed < real < 1.2 * claimed


def test_an_interval_covers_the_mean_and_narrows_with_the_level() -> None:
    game = load_game("arena")
    played = rollout(game, Policy.uniform(game, 3), n=20, k=3, rollouts=400)
    low, high = played.interval()
    assert high - played.mean == pytest.approx(1.96 * played.stderr, rel=1e-3)
    assert low < played.mean < high
    inner = played.interval(0.5)
    assert low < inner[0] < inner[1] < high
    with pytest.raises(InputError, match="confidence level 1 is not a number between 0 and 1"):
        played.interval(1)
    one = rollout(game, Policy.uniform(game, 3), n=20, k=3, rollouts=1)
    with pytest.raises(InputError, match="takes at least 2 rollouts"):
        one.interval()


def test_records_tell_the_true_mode() -> None:
    game = load_game("arena")
    played = rollout(game, Policy.uniform(game, 3), n=20, k=3, rollouts=30, record=True)
    records = played.records
    assert records is not None
    assert np.array_equal(records.mode, records.counts.argmax(axis=2))
    assert np.allclose(records.mode_known.mean(axis=1), played.mode_accuracies)


def test_missing_replies_leave_more_of_the_old_belief() -> None:
    belief = Belief(np.eye(2)[None], cap=4)
    belief.update([0, 4])
    belief.update([1, 0])
    assert belief.weights.tolist() == [1, 3]
    belief.update([0, 0])
    assert belief.weights.tolist() == [1, 3]
    belief.restore([2, 2])
    assert belief.weights.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Belief(np.eye(2), 3), "belief kernels has 2 axes, not 3"),
        (lambda: Belief(np.eye(2)[None], 0), "belief memory 0 is not a number above 0"),
        (lambda: Belief(np.eye(2)[None], 3).update([1, 2, 3]), "counts has shape"),
        (
            lambda: Belief(np.eye(2)[None], 3).restore([-1, 2]),
            r"weights\[0\] is -1, not a number of agents",
        ),
        (lambda: Belief(np.eye(2)[None], 3, [1, 2, 3]), r"weights has shape \(3,\)"),
    ],
)
def test_beliefs_refuse_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_an_episode_depends_on_seed_and_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    game = load_game("arena")
    policy = Policy.uniform(game, 3)
    many = rollout(game, policy, n=20, k=3, rollouts=64, seed=4).returns
    few = rollout(game, policy, n=20, k=3, rollouts=10, seed=4).returns
    assert np.array_equal(many[:10], few)
    monkeypatch.setattr(_jit, "thread_count", lambda: 1)
    assert np.array_equal(rollout(game, policy, n=20, k=3, rollouts=64, seed=4).returns, many)
    assert not np.array_equal(rollout(game, policy, n=20, k=3, rollouts=64, seed=5).returns, many)


def test_common_random_numbers_shrink_the_paired_difference() -> None:
    game = load_game("ring-current")
    a = trained(game, 4)
    b = Policy(game, 4, a.action, 0.95 * a.pi_l + 0.05 * game.uniform_local_policy())
    x, y = (rollout(game, p, n=1000, k=4, rollouts=2000, seed=1).returns for p in (a, b))
    assert (x - y).std() < 0.5 * np.hypot(x.std(), y.std())


def test_a_billion_agents_are_no_more_work_to_describe() -> None:
    game = load_game("ring-released")
    r = rollout(game, Policy.uniform(game, 5), n=10**9, k=5, rollouts=200, record=True)
    assert r.records is not None
    assert np.all(r.records.counts.sum(axis=2) == 10**9)
    assert r.n == 10**9


def test_polling_everybody_knows_the_mode() -> None:
    game = load_game("arena")
    assert rollout(game, Policy.uniform(game, 7), n=7, k=7, rollouts=50).mode_accuracy == 1.0


def test_an_endless_game_is_cut_where_the_tail_is_light(random_game: RandomGame) -> None:
    game = random_game(0, gamma=0.9)
    r = rollout(game, Policy.uniform(game, 2), n=5, k=2, rollouts=3)
    assert 0.9**r.horizon <= 1e-4 < 0.9 ** (r.horizon - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 10, "k": 12}, "poll size 12 exceeds fleet size 10"),
        ({"k": 0}, "poll size 0"),
        ({"n": 2.5}, "fleet size 2.5"),
        ({"n": 10**13}, "fleet size 10000000000000"),
        ({"rollouts": 0}, "rollouts 0"),
        ({"horizon": 0}, "horizon 0"),
        ({"seed": -1}, "seed -1"),
        ({"memory": "some"}, "memory 'some' is not 'auto', 'none' or a number"),
        ({"memory": -2.0}, "memory -2.0"),
        ({"memory": 1e-300}, "memory 1e-300 is not a number of at least 1"),
        ({"memory": "0.5"}, "memory 0.5 is not"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, object], message: str) -> None:
    game = load_game("arena")
    chosen: dict[str, object] = {"n": 20, "k": 5, "rollouts": 2, **arguments}
    with pytest.raises(InputError, match=message):
        rollout(game, Policy.uniform(game, 5), **chosen)  # type: ignore[arg-type]


def test_a_policy_of_another_shape_is_refused(random_game: RandomGame) -> None:
    game = load_game("arena")
    with pytest.raises(InputError, match="made for game"):
        rollout(random_game(0), Policy.uniform(game, 5), n=20, k=5)


def test_the_belief_grid_of_a_policy_may_exceed_the_poll() -> None:
    game = load_game("arena")
    assert Policy.uniform(game, 9).action.shape == (5, grid_points(9, 5))
    assert rollout(game, Policy.uniform(game, 9), n=20, k=2, rollouts=2).k == 2


def test_without_a_writable_cache_kernels_are_compiled_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = numba.njit

    def read_only(
        *, nogil: bool, error_model: Literal["python", "numpy"], cache: bool = False
    ) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(nogil=nogil, error_model=error_model)

    monkeypatch.setattr(numba, "njit", read_only)

    @_jit.jit
    def double(x: int) -> int:
        return 2 * x

    assert double(4) == 8


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"horizon": "x"}, "horizon 'x' is not a whole number"),
        ({"n": True}, "fleet size True is not a whole number"),
        ({"rollouts": float("inf")}, "rollouts inf is not a whole number"),
    ],
)
def test_what_is_no_number_is_refused_by_name(setting: dict[str, Any], sentence: str) -> None:
    game = load_game("arena")
    call = {"n": 4, "k": 2, "rollouts": 1, **setting}
    with pytest.raises(InputError, match=sentence):
        rollout(game, Policy.uniform(game, 2), **call)
