# SPDX-License-Identifier: MIT
from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import (
    Game,
    InitialLaw,
    InputError,
    QSolution,
    Transitions,
    _q_kernels,
    g_learn,
    histogram_rank,
    load_game,
    q_learn,
    q_learning,
)
from kofn.controller.core.grid import all_counts, grid_points

if TYPE_CHECKING:
    from types import ModuleType

    from kofn.controller.core.game import FloatArray, LocalSees

RandomGame = Callable[..., Game]


def some_policy(game: Game, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(
        np.ones(game.n_local_actions), (game.n_global, game.n_local)
    )


def law_of_steps(game: Game, pi_l: np.ndarray, k: int, reference: ModuleType) -> np.ndarray:
    """Return P(s', c' | s, c, a), shape (S_g, M, A_g, S_g, M), by enumeration."""
    P_pi, _ = game.marginals(pi_l)
    W = np.array([reference.power_matrix(P, k) for P in P_pi])
    if game.local_sees == "current":
        law: FloatArray = np.einsum("sat,scd->scatd", game.P_g, W)
    else:
        law = np.einsum("sat,tcd->scatd", game.P_g, W)
    return law


def rewards(game: Game, pi_l: np.ndarray, k: int) -> np.ndarray:
    """Return r_g + (1/k) sum_j c_j r^pi(s_g, j), shape (S_g, M, A_g)."""
    _, r_pi = game.marginals(pi_l)
    local = r_pi @ all_counts(k, game.n_local).T / k
    return game.r_g[:, None, :] + local[:, :, None]


def exact_q(game: Game, pi_l: np.ndarray, k: int, reference: ModuleType) -> np.ndarray:
    """Return Q of `g_learn`: its value, backed up once, shape (S_g, M, A_g)."""
    value = g_learn(game, pi_l, k, tol=1e-11).value
    ahead = np.einsum("scatd,td->sca", law_of_steps(game, pi_l, k, reference), value)
    q: FloatArray = rewards(game, pi_l, k) + game.gamma * ahead
    return q


def record_of(
    game: Game, pi_l: np.ndarray, k: int, per_pair: int, reference: ModuleType, seed: int = 0
) -> Transitions:
    """Draw `per_pair` transitions of each pair with numpy alone, and shuffle them."""
    rng = np.random.default_rng(seed)
    law = law_of_steps(game, pi_l, k, reference)
    r = rewards(game, pi_l, k)
    points = all_counts(k, game.n_local)
    rows = []
    for s, c, a in np.ndindex(r.shape):
        after = rng.choice(law[s, c, a].size, size=per_pair, p=law[s, c, a].ravel())
        rows += [(s, c, a, r[s, c, a], x // len(points), x % len(points)) for x in after]
    order = rng.permutation(len(rows))
    s_g, c, a_g, reward, s_next, c_next = (np.array(x)[order] for x in zip(*rows, strict=True))
    return Transitions(s_g, points[c], a_g, reward, s_next, points[c_next])


def twin_of_replay(
    pairs: np.ndarray,
    reward: np.ndarray,
    cells: np.ndarray,
    gamma: float,
    step: Callable[[int], float],
    seen_only: bool,
    q: np.ndarray,
    visits: np.ndarray,
) -> None:
    for pair, r, x_next in zip(pairs, reward, cells, strict=True):
        x, a = divmod(int(pair), q.shape[1])
        known = visits[x_next] > 0
        ahead = q[x_next][known].max() if seen_only and known.any() else q[x_next].max()
        q[x, a] += step(visits[x, a]) * (r + gamma * ahead - q[x, a])
        visits[x, a] += 1


@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_the_error_falls_to_zero_as_samples_grow(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees
) -> None:
    game = random_game(0, local_sees=local_sees)
    pi, k = some_policy(game), 3
    exact = exact_q(game, pi, k, reference)
    errors = [
        np.abs(q_learn(game, pi, k, samples=n, seed=1).q - exact).max()
        for n in (10_000, 100_000, 2_000_000)
    ]
    # Three digits at 20 000 visits a pair; the values span more than 0.9 and lie near 10.
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02
    assert np.ptp(exact) > 0.9


def test_value_and_action_are_those_of_the_exact_solution(random_game: RandomGame) -> None:
    game = random_game(1)
    pi, k = some_policy(game), 3
    exact = g_learn(game, pi, k, tol=1e-11)
    learned = q_learn(game, pi, k, samples=2_000_000)
    assert np.abs(learned.value - exact.value).max() < 0.02
    assert np.array_equal(learned.value, learned.q.max(axis=2))
    assert learned.value.shape == learned.action.shape == exact.action.shape


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("exploration", ["uniform", "epsilon-greedy"])
def test_with_clear_gaps_the_greedy_table_is_the_exact_one(
    reference: ModuleType, local_sees: LocalSees, exploration: str
) -> None:
    # Two states of the world, each good for one local state, and an action that chooses it: the
    # better choice is the one that more agents are ready for.
    game = Game(
        [[[0.9, 0.1], [0.1, 0.9]]] * 2,
        [[0.0, 0.0]] * 2,
        [[[[0.8, 0.2]], [[0.2, 0.8]]]] * 2,
        [[[2.0], [0.0]], [[0.0], [2.0]]],
        0.6,
        local_sees=local_sees,
    )
    pi, k = game.uniform_local_policy(), 3
    exact = exact_q(game, pi, k, reference)
    assert np.abs(exact[..., 0] - exact[..., 1]).min() > 0.05
    learned = q_learn(
        game,
        pi,
        k,
        samples=200_000,
        exploration=exploration,  # type: ignore[arg-type]
    )
    assert np.array_equal(learned.action, exact.argmax(axis=2))
    assert set(learned.action.ravel()) == {0, 1}


def test_greedy_episodes_learn_the_same_values(
    random_game: RandomGame, reference: ModuleType
) -> None:
    game = random_game(1, initial=InitialLaw(alpha=0.5))
    pi, k = some_policy(game), 2
    exact = exact_q(game, pi, k, reference)
    errors = [
        np.abs(
            q_learn(game, pi, k, samples=n, exploration="epsilon-greedy", epsilon=0.5, horizon=20).q
            - exact
        ).max()
        for n in (20_000, 2_000_000)
    ]
    assert errors[0] > 3 * errors[1]
    assert errors[1] < 0.05


def test_less_exploration_visits_greedy_actions_more(random_game: RandomGame) -> None:
    game = random_game(1)
    pi = some_policy(game)
    shares = []
    for epsilon in (1.0, 0.3, 0.0):
        learned = q_learn(
            game, pi, 2, samples=100_000, exploration="epsilon-greedy", epsilon=epsilon
        )
        greedy = np.take_along_axis(learned.visits, learned.action[..., None], axis=2)
        shares.append(greedy.sum() / learned.visits.sum())
    # Of 3 actions, 1 in 3 is greedy at random; else 1 - epsilon 2/3 once the table has settled.
    assert abs(shares[0] - 1 / 3) < 0.01
    assert abs(shares[1] - 0.8) < 0.1
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize("n", [1, 7, 65_536, 65_537, 200_000])
def test_samples_are_counted_and_spread_evenly(random_game: RandomGame, n: int) -> None:
    game = random_game(2)
    learned = q_learn(game, game.uniform_local_policy(), 2, samples=n)
    assert learned.samples == learned.updates == learned.visits.sum() == n
    assert np.ptp(learned.visits) <= 1
    played = q_learn(game, game.uniform_local_policy(), 2, samples=n, exploration="epsilon-greedy")
    assert played.samples == played.updates == played.visits.sum() == n


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("k", [3, 14])  # agent by agent, and by multinomials
def test_the_sampler_draws_the_law_of_the_game(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees, k: int
) -> None:
    game = random_game(4, S_g=2, A_g=2, S_l=2 if k == 14 else 3, local_sees=local_sees)
    pi = some_policy(game)
    law = law_of_steps(game, pi, k, reference)
    sampler = q_learning._Sampler(game, pi, k, 3)
    grid = all_counts(k, game.n_local)
    shape = law.shape[:3]
    each = 40_000
    size = each * math.prod(shape)
    pairs, cells, reward = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size)
    _q_kernels.draw_transitions(
        0,
        size,
        0,
        sampler.seed,
        k,
        local_sees == "next",
        *sampler.model,
        grid,
        sampler.table,
        pairs,
        reward,
        cells,
    )
    assert np.array_equal(pairs[: 2 * math.prod(shape)], [*range(math.prod(shape))] * 2)
    assert np.abs(reward - rewards(game, pi, k).ravel()[pairs]).max() < 1e-12
    flat = law.reshape(math.prod(shape), -1)
    seen = np.zeros_like(flat)
    np.add.at(seen, (pairs, cells), 1 / each)
    # Six standard errors for each frequency, and a few chance hits where next to none is expected.
    assert (np.abs(seen - flat) <= 6 * np.sqrt(flat * (1 - flat) / each) + 4 / each).all()


def test_impossible_steps_are_never_drawn() -> None:
    # Sums of tenths miss 1 by rounding: the draw must not fall off the end of a row.
    row = [0.1] * 10 + [0.0, 0.0]
    game = Game(
        [[[0.0, 1.0]], [[1.0, 0.0]]], np.zeros((2, 1)), [[[row]] * 12] * 2, np.zeros((2, 12, 1)), 0
    )
    sampler = q_learning._Sampler(game, game.uniform_local_policy(), 1, 0)
    cdf_g, _, cdf_l = sampler.model[:3]
    assert np.array_equal(cdf_g[:, 0], [[0, 1], [1, 1]])
    assert (cdf_l[..., 9:] == 1).all()
    assert (cdf_l[..., :9] < 1).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_cells=st.integers(1, 6),
    n_actions=st.integers(1, 4),
    size=st.integers(1, 80),
    gamma=st.sampled_from([0.0, 0.5, 0.95]),
    seen_only=st.booleans(),
    mode=st.sampled_from(["default", "constant", "listed"]),
)
def test_replay_equals_its_numpy_twin(
    seed: int,
    n_cells: int,
    n_actions: int,
    size: int,
    gamma: float,
    seen_only: bool,
    mode: str,
) -> None:
    rng = np.random.default_rng(seed)
    pairs = rng.integers(n_cells * n_actions, size=size)
    reward = rng.normal(size=size)
    cells = rng.integers(n_cells, size=size)
    table = {"default": np.empty(0), "constant": np.array([0.3]), "listed": rng.random(9)}[mode]

    def step(n: int) -> float:
        return float(table[min(n, table.size - 1)]) if table.size else 1 / (1 + (1 - gamma) * n)

    start = rng.normal(size=(n_cells, n_actions))
    q, visits = start.copy(), np.zeros(start.shape, np.int64)
    _q_kernels.replay(pairs, reward, cells, gamma, table, seen_only, q, visits)
    q_twin, visits_twin = start.copy(), np.zeros(start.shape, np.int64)
    twin_of_replay(pairs, reward, cells, gamma, step, seen_only, q_twin, visits_twin)
    assert np.abs(q - q_twin).max() <= 1e-12
    assert np.array_equal(visits, visits_twin)
    value, action = np.empty(n_cells), np.empty(n_cells, np.int32)
    _q_kernels.greedy(q, visits, seen_only, 1e-11, value, action)
    for x in range(n_cells):
        use = visits[x] > 0 if seen_only and visits[x].any() else np.ones(n_actions, bool)
        assert value[x] == q[x][use].max()
        assert action[x] == np.where(use, q[x], -np.inf).argmax()


@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_greedy_play_equals_its_numpy_twin(local_sees: LocalSees) -> None:
    # Nothing is left to chance: s_g and the agents move by permutations, from one start.
    rng = np.random.default_rng(8)
    S_g, A_g, S_l, k, T, n, gamma = 3, 2, 3, 4, 7, 60, 0.8
    to = rng.integers(S_g, size=(S_g, A_g))
    turn = np.array([rng.permutation(S_l) for _ in range(S_g)])
    game = Game(
        np.eye(S_g)[to],
        rng.random((S_g, A_g)),
        np.eye(S_l)[turn][:, :, None, :],
        rng.random((S_g, S_l, 1)),
        gamma,
        local_sees=local_sees,
        initial=InitialLaw(s_g=[0, 1, 0], s_l=[0, 0, 1]),
    )
    pi = game.uniform_local_policy()
    learned = q_learn(
        game, pi, k, samples=n, exploration="epsilon-greedy", epsilon=0, horizon=T, start=1.0
    )
    q = np.full((S_g, grid_points(k, S_l), A_g), 1.0)
    visits = np.zeros(q.shape, np.int64)
    for i in range(n):
        if i % T == 0:
            s, c = 1, np.array([0, 0, k])
        x = histogram_rank(c)
        a = int(q[s, x].argmax())
        s_next = int(to[s, a])
        moved = np.zeros(S_l, np.int64)
        moved[turn[s if local_sees == "current" else s_next]] = c
        r = game.r_g[s, a] + c @ game.r_l[s, :, 0] / k
        target = r + gamma * q[s_next, histogram_rank(moved)].max()
        q[s, x, a] += (target - q[s, x, a]) / (1 + (1 - gamma) * visits[s, x, a])
        visits[s, x, a] += 1
        s, c = s_next, moved
    assert np.abs(learned.q - q).max() <= 1e-12
    assert np.array_equal(learned.visits, visits)


@pytest.mark.parametrize("local_sees", ["current", "next"])
def test_a_record_and_the_sampler_have_the_same_limit(
    random_game: RandomGame, reference: ModuleType, local_sees: LocalSees
) -> None:
    game = random_game(5, S_g=2, A_g=2, S_l=2, gamma=0.7, local_sees=local_sees)
    pi, k = some_policy(game), 3
    per_pair = 20_000
    record = record_of(game, pi, k, per_pair, reference)
    replayed = q_learn(game, None, k, transitions=record)
    sampled = q_learn(game, pi, k, samples=len(record))
    exact = exact_q(game, pi, k, reference)
    assert replayed.samples == sampled.samples == 16 * per_pair
    assert np.array_equal(replayed.visits, sampled.visits)
    assert np.abs(replayed.q - exact).max() < 0.015
    assert np.abs(sampled.q - exact).max() < 0.015


def test_passes_lead_to_the_optimum_of_the_recorded_process(
    random_game: RandomGame, reference: ModuleType
) -> None:
    game = random_game(5, S_g=2, A_g=2, S_l=2, gamma=0.7)
    pi, k = some_policy(game), 2
    record = record_of(game, pi, k, 20, reference)
    # The process whose law is the record's frequencies, solved by plain iteration.
    law = np.zeros((2, 3, 2, 2, 3))
    for s, c, a, t, d in zip(
        record.s_g, record.counts, record.a_g, record.s_g_next, record.counts_next, strict=True
    ):
        law[s, histogram_rank(c), a, t, histogram_rank(d)] += 1 / 20
    q = np.zeros((2, 3, 2))
    for _ in range(200):
        q = rewards(game, pi, k) + 0.7 * np.einsum("scatd,td->sca", law, q.max(axis=2))
    learned = q_learn(game, pi, k, transitions=record, passes=2000)
    assert learned.samples == len(record) == 240
    assert learned.updates == learned.visits.sum() == 480_000
    assert np.abs(learned.q - q).max() < 1e-3
    # That optimum is another one than the game's: passes do not replace data.
    assert np.abs(q - exact_q(game, pi, k, reference)).max() > 0.01


def test_a_record_says_nothing_about_actions_never_tried() -> None:
    game = Game(np.ones((1, 2, 1)), [[-1.0, -1.0]], np.ones((1, 1, 1, 1)), [[[0.0]]], 0.5)
    record = Transitions([0], [[1]], [1], [-1.0], [0], [[1]])
    learned = q_learn(game, None, 1, transitions=record, passes=3000)
    # Always action 1: -1 / (1 - 0.5). The untried action's start of 0 must not lure it away.
    assert abs(learned.value[0, 0] + 2) < 1e-3
    assert learned.action[0, 0] == 1
    assert learned.q[0, 0, 0] == 0


def test_without_a_future_values_are_exact_averages(random_game: RandomGame) -> None:
    game = random_game(0, gamma=0.0)
    pi, k = some_policy(game), 3
    learned = q_learn(game, pi, k, samples=10_000, start=7.0)
    assert np.abs(learned.q - rewards(game, pi, k)).max() < 1e-12
    rng = np.random.default_rng(0)
    noise = rng.normal(size=500)
    first = all_counts(k, 3)[0]
    record = Transitions(
        np.zeros(500), [first] * 500, np.ones(500), noise, np.zeros(500), [first] * 500
    )
    for passes in (1, 3):
        averaged = q_learn(game, None, k, transitions=record, passes=passes, start=-4.0)
        assert abs(averaged.q[0, 0, 1] - noise.mean()) < 1e-13
        assert averaged.visits[0, 0, 1] == 500 * passes


@pytest.mark.parametrize("exploration", ["uniform", "epsilon-greedy"])
def test_the_seed_decides_everything(
    random_game: RandomGame, exploration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = random_game(0)
    pi = some_policy(game)

    def learn(seed: int) -> np.ndarray:
        return q_learn(
            game,
            pi,
            2,
            samples=100_000,
            exploration=exploration,  # type: ignore[arg-type]
            seed=seed,
        ).q

    first = learn(1)
    assert np.array_equal(first, learn(1))
    assert not np.array_equal(first, learn(2))
    monkeypatch.setattr(q_learning, "thread_count", lambda: 5)
    monkeypatch.setattr(q_learning, "_BLOCK", 1001)
    assert np.array_equal(first, learn(1))


def test_learning_goes_on_from_an_earlier_result(random_game: RandomGame) -> None:
    game = random_game(0)
    pi = some_policy(game)
    whole = q_learn(game, pi, 2, samples=90_000, seed=4)
    part = q_learn(game, pi, 2, samples=12_345, seed=4)
    kept = part.q.copy()
    both = q_learn(game, pi, 2, samples=90_000 - 12_345, seed=4, start=part)
    assert np.array_equal(both.q, whole.q)
    assert np.array_equal(both.visits, whole.visits)
    assert both.samples == both.updates == 90_000
    assert np.array_equal(part.q, kept)


def test_the_step_size_can_be_chosen(random_game: RandomGame) -> None:
    game = random_game(0)
    pi = some_policy(game)

    def learn(**more: Any) -> np.ndarray:
        return q_learn(game, pi, 2, samples=50_000, **more).q

    default = learn()
    assert np.array_equal(learn(step_size=lambda n: 1 / (1 + (1 - game.gamma) * n)), default)
    assert np.array_equal(learn(step_size=0.1), learn(step_size=lambda n: 0.1))
    assert not np.array_equal(learn(step_size=0.1), default)
    # A step of 1 forgets: each entry is its last target, reward and all.
    forgetful = learn(step_size=1)
    assert np.abs(forgetful - default).max() > 0.05
    played = learn(step_size=lambda n: (1 + n) ** -0.7, exploration="epsilon-greedy")
    assert np.isfinite(played).all()


def record(**change: Any) -> Transitions:
    given: dict[str, Any] = {
        "s_g": [0, 1],
        "counts": [[1, 1, 0], [0, 0, 2]],
        "a_g": [2, 0],
        "reward": [0.5, 1.0],
        "s_g_next": [1, 2],
        "counts_next": [[0, 2, 0], [1, 0, 1]],
    }
    return Transitions(**(given | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s_g": [0, -1]}, r"s_g\[1\] is -1, not a whole number of at least 0"),
        ({"a_g": [0.5, 1]}, r"a_g\[0\] is 0.5, not a whole number of at least 0"),
        ({"counts": [[1, 1, 0], [0, -1, 3]]}, r"counts\[1, 1\] is -1, not a whole"),
        ({"s_g": [[0, 1]]}, "s_g has 2 axes, not 1"),
        ({"counts": [1, 1]}, "counts has 1 axes, not 2"),
        ({"a_g": [2]}, "a_g tells of 1 transitions, but s_g of 2"),
        ({"reward": [0.5, math.nan]}, r"reward\[1\] is nan, not a finite number"),
        ({"reward": "abc"}, "reward is not a rectangular table of numbers"),
        ({"counts_next": [[1, 1], [0, 2]]}, "counts_next has 2 local states, but counts has 3"),
        ({"s_g": []}, "s_g is empty"),
    ],
)
def test_a_malformed_record_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        record(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s_g": [0, 3]}, r"s_g\[1\] is 3, not one of the 3 global states of the game"),
        ({"a_g": [3, 0]}, r"a_g\[0\] is 3, not one of the 3 global actions of the game"),
        ({"s_g_next": [0, 9]}, r"s_g_next\[1\] is 9, not one of the 3 global states"),
        (
            {"counts": [[1, 1, 0], [0, 0, 3]]},
            r"counts\[1\] is \[0, 0, 3\], which does not sum to k = 2",
        ),
        (
            {"counts_next": [[0, 1, 0], [1, 0, 1]]},
            r"counts_next\[0\] is \[0, 1, 0\], which does not sum to k = 2",
        ),
        ({"counts": [[2**52, 1, 0], [0, 0, 2]]}, "which does not sum to k = 2"),
        (
            {"counts": [[1, 1], [0, 2]], "counts_next": [[1, 1], [0, 2]]},
            "counts has 2 local states, but the game has 3",
        ),
    ],
)
def test_a_record_of_another_game_is_refused(
    random_game: RandomGame, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        q_learn(random_game(0), None, 2, transitions=record(**change))


def test_a_record_cannot_be_changed_afterwards() -> None:
    given = np.array([0.5, 1.0])
    kept = record(reward=given)
    given[0] = 9
    assert kept.reward[0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        kept.counts[0, 0] = 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples 0 is not a whole number from 1 to"),
        ({"samples": 1.5}, "samples 1.5 is not a whole number"),
        ({"samples": "many"}, "samples 'many' is not a whole number"),
        ({"samples": math.inf}, "samples inf is not a whole number"),
        ({"seed": -1}, "seed -1 is not a whole number from 0 to"),
        ({"seed": 10**400}, "seed about 1e400 is not a whole number from 0 to"),
        ({"exploration": "softmax"}, "unknown exploration 'softmax'; known are uniform, epsilon"),
        ({"epsilon": 0.1}, "epsilon and horizon need exploration 'epsilon-greedy'"),
        ({"horizon": 5}, "epsilon and horizon need exploration 'epsilon-greedy'"),
        (
            {"exploration": "epsilon-greedy", "epsilon": 1.5},
            "epsilon 1.5 is not a number from 0 to 1",
        ),
        (
            {"exploration": "epsilon-greedy", "epsilon": "x"},
            "epsilon 'x' is not a number from 0 to 1",
        ),
        (
            {"exploration": "epsilon-greedy", "horizon": "x"},
            "horizon 'x' is not a whole number",
        ),
        ({"step_size": 0}, "step_size 0 is not a number above 0 and at most 1"),
        ({"step_size": math.nan}, "step_size nan is not a number above 0"),
        ({"step_size": lambda n: 1 / n}, "step size of visit 0 is inf, but must be above 0"),
        ({"step_size": lambda n: [1, 2]}, "step_size gave no number for each of 19 visits"),
        ({"step_size": "fast"}, "step_size 'fast' is not a number above 0 and at most 1"),
        ({"step_size": lambda n: n["x"]}, "step_size gave no number for each of 19 visits"),
        (
            {"step_size": lambda n: n, "samples": 10**10, "exploration": "epsilon-greedy"},
            "a step size for each of up to 10000000000 visits takes 80000000000 bytes, above",
        ),
        ({"start": math.inf}, "start inf is not a finite number"),
        ({"start": 10**400}, "start about 1e400 is not a finite number"),
        ({"start": "zero"}, "start 'zero' is not a finite number"),
        ({"passes": 2}, "passes 2 need transitions to replay"),
        ({"transitions": [1, 2]}, "transitions of type list is not a Transitions"),
        ({"transitions": record(), "samples": 5}, "samples and exploration are for the sampler"),
        (
            {"transitions": record(), "exploration": "epsilon-greedy"},
            "samples and exploration are for the sampler",
        ),
        (
            {"transitions": record(), "samples": None, "passes": 0},
            "passes 0 is not a whole number from 1",
        ),
        ({"pi_l": None}, "pi_l is missing: without transitions the game is sampled under it"),
        ({"pi_l": [[[1.0]]]}, r"pi_l has shape \(1, 1, 1\), but must have"),
        ({"k": 0}, "grid size 0 is not a whole number from 1 to"),
        ({"k": 2.5}, "grid size 2.5 is not a whole number from 1 to"),
    ],
)
def test_each_bad_setting_is_one_sentence(
    random_game: RandomGame, settings: dict[str, Any], message: str
) -> None:
    game = random_game(0)
    given: dict[str, Any] = {"pi_l": some_policy(game), "k": 2, "samples": 1000} | settings
    if "transitions" in settings and "samples" not in settings:
        given["samples"] = None
    with pytest.raises(InputError, match=message) as caught:
        q_learn(game, **given)
    assert "\n" not in str(caught.value)


def test_a_start_from_another_grid_is_refused(random_game: RandomGame) -> None:
    game = random_game(0)
    pi = some_policy(game)
    small = q_learn(game, pi, 2, samples=10)
    with pytest.raises(InputError, match=r"start was learned on 2 agents with a table of shape"):
        q_learn(game, pi, 3, samples=10, start=small)


def test_a_table_that_does_not_fit_is_refused_before_it_is_allocated() -> None:
    game = load_game("ring-current")
    pi = game.uniform_local_policy()
    with pytest.raises(InputError, match=r"a grid of 500 agents over 5 states has \d+ states"):
        q_learn(game, pi, 500, samples=10)
    # One value function fits here; values and visits of each action do not.
    states = 5 * grid_points(70, 5)
    with pytest.raises(
        InputError,
        match=rf"Q-learning on {states} states with 5 actions takes {80 * states} bytes for values",
    ):
        q_learn(game, pi, 70, samples=10)


def test_the_result_says_what_it_is(random_game: RandomGame) -> None:
    game = random_game(0, S_g=2, A_g=3, S_l=3)
    learned = q_learn(game, some_policy(game), 4, samples=5000)
    assert isinstance(learned, QSolution)
    assert learned.q.shape == learned.visits.shape == (2, 15, 3)
    assert learned.value.shape == learned.action.shape == (2, 15)
    assert learned.k == 4
    assert learned.action.dtype == np.int32
    for s, c in itertools.product(range(2), range(15)):
        assert learned.value[s, c] == learned.q[s, c, learned.action[s, c]]
