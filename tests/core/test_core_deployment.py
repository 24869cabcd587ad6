# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from kofn.controller.core import (
    Game,
    InputError,
    Policy,
    g_learn,
    load_game,
    polish,
    rollout,
    tune_memory,
)
from kofn.controller.core import deployment as judging
from kofn.controller.core.deployment import LOOK, MOST, Deployment, Estimate, Judged, gain
from kofn.controller.core.polishing import switched
from kofn.controller.core.starts import starting_policies
from kofn.controller.core.tuning import best_memory, best_prior

RandomGame = Callable[..., Game]
Array = npt.NDArray[np.float64]


def pair(game: Game, pi_l: Array, grid: int = 4, memory: float | None = 30.0) -> Policy:
    return Policy(game, grid, g_learn(game, pi_l, grid).action, pi_l, memory=memory)


class Coins(Deployment):
    """Policies whose returns are noise around means that are told apart by their memory."""

    means: dict[float, tuple[float, float]]
    trial = 0

    def judge(self, policy: Policy, rollouts: int = LOOK, *, fresh: bool = False) -> Judged:
        assert policy.memory is not None
        rng = np.random.default_rng([self.trial, int(policy.memory)])
        noise = rng.normal(0, 1, (MOST, 2))[:rollouts]
        bare, full = self.means[policy.memory]
        return Judged(policy, 100 + bare + noise[:, 0], 100 + full + noise[:, 1])


def coins(game: Game, means: dict[float, tuple[float, float]]) -> tuple[Coins, Policy, Policy]:
    deployment = Coins(game, 10, 2, 0)
    deployment.means = means
    first, second = (
        Policy(game, 1, np.zeros((3, 3), int), game.uniform_local_policy(), memory=m) for m in means
    )
    return deployment, first, second


def test_no_better_a_policy_wins_at_most_at_the_stated_level(random_game: RandomGame) -> None:
    deployment, old, new = coins(random_game(0), {10.0: (0, 0), 11.0: (0, 0)})
    wins = 0
    for trial in range(800):
        deployment.trial = trial
        judged, best = deployment.judge(new, LOOK // 4), deployment.judge(old, LOOK // 4)
        wins += deployment.better(judged, best, "memory")[0]
    # Level 2.5 %; with futility stops it is less. Above 4.5 % has probability below 1e-3.
    assert wins / 800 <= 0.045


def test_a_better_policy_wins_and_a_close_call_is_looked_at_again(random_game: RandomGame) -> None:
    deployment, old, new = coins(random_game(0), {10.0: (0, 0), 11.0: (0.0, 1.0)})
    wins, judged, _ = deployment.better(deployment.judge(new), deployment.judge(old), "memory")
    assert wins
    assert judged.episodes == LOOK
    deployment.means[11.0] = (0.0, 0.15)
    results = []
    for trial in range(30):
        deployment.trial = trial
        wins, judged, best = deployment.better(
            deployment.judge(new), deployment.judge(old), "memory"
        )
        assert judged.episodes == best.episodes <= MOST
        results.append((wins, judged.episodes))
    assert {episodes for _, episodes in results} >= {LOOK, 2 * LOOK}
    assert sum(wins for wins, _ in results) >= 27


def test_play_in_both_ways_must_not_lose_in_one(random_game: RandomGame) -> None:
    deployment, old, new = coins(random_game(0), {10.0: (0, 0), 11.0: (-1.0, 3.0)})
    judged, best = deployment.judge(new), deployment.judge(old)
    assert deployment.better(judged, best, "memory")[0]
    assert not deployment.better(judged, best, "none")[0]
    assert not deployment.better(judged, best, "both")[0]
    assert gain(judged, best, "both").mean == pytest.approx(1.0, abs=0.2)


def test_an_estimate_has_the_usual_interval() -> None:
    estimate = Estimate.of(np.array([1.0, 2.0, 3.0, 4.0]))
    assert estimate.mean == 2.5
    assert estimate.stderr == pytest.approx(np.sqrt(5 / 3) / 2)
    assert estimate.interval == pytest.approx((2.5 - 1.96 * 0.6455, 2.5 + 1.96 * 0.6455), abs=1e-3)


def test_judging_training_and_evaluation_meet_different_episodes() -> None:
    game = load_game("ring-current")
    policy = pair(game, game.uniform_local_policy())
    deployment = Deployment(game, 100, 3, 7)
    seen = [
        deployment.judge(policy, 50).belief,
        deployment.judge(policy, 50, fresh=True).belief,
        rollout(game, policy, n=100, k=3, rollouts=50, seed=7).returns,
    ]
    for i in range(3):
        for j in range(i):
            assert not np.isin(seen[i], seen[j]).any()


def test_a_useful_memory_is_found_and_the_pair_is_kept() -> None:
    game = dataclasses.replace(load_game("ring-released"), horizon=15)
    policy = pair(game, starting_policies(game, 3)["hold"], 6, memory=None)
    tuned = tune_memory(game, policy, n=1000, k=2, seed=3)
    assert tuned.memory is not None
    assert tuned.memory >= 7
    assert np.array_equal(tuned.action, policy.action)
    assert np.array_equal(tuned.pi_l, policy.pi_l)
    before, after = (
        rollout(game, p, n=1000, k=2, rollouts=1000, seed=8).mean for p in (policy, tuned)
    )
    assert after > before + 1


class Plateau(Deployment):
    """Play with memory earns `heights[memory beyond the poll]`, play without it `floor`."""

    heights: dict[float, float]
    floor = 0.0

    def remembering(self, policy: Policy, rollouts: int = LOOK) -> Array:
        gain = self.floor if policy.memory is None else self.heights.get(policy.memory - self.k, 0)
        return np.random.default_rng(0).normal(0, 1, rollouts) + gain


def test_the_shortest_of_equally_good_memories_is_taken(random_game: RandomGame) -> None:
    game = random_game(2, horizon=10)
    deployment = Plateau(game, 9, 2, 0)
    policy = pair(game, game.uniform_local_policy())
    deployment.heights = dict.fromkeys((20.0, 40.0, 80.0), 1.0)
    assert best_memory(deployment, policy).memory == 22
    deployment.heights[80.0] = 2.0
    assert best_memory(deployment, policy).memory == 82


def test_play_without_memory_is_chosen_only_where_it_earns_more(random_game: RandomGame) -> None:
    game = random_game(2, horizon=10)
    deployment = Plateau(game, 9, 2, 0)
    policy = pair(game, game.uniform_local_policy())
    deployment.heights = {10.0: 1.0}
    deployment.floor = 1.0
    assert best_memory(deployment, policy).memory == 12
    deployment.floor = 1.1
    assert best_memory(deployment, policy).memory is None


def test_a_prior_is_never_worse_than_none_where_it_was_tuned() -> None:
    game = load_game("ring-released")
    deployment = Deployment(game, 1000, 1, 0)
    policy = pair(game, game.uniform_local_policy(), 5)
    tuned = best_prior(deployment, policy, 300)
    gap = deployment.memoryless(tuned, 300).mean() - deployment.memoryless(policy, 300).mean()
    assert gap >= 0


def test_each_entry_is_switched_to_each_other_action() -> None:
    pi_l = np.zeros((2, 2, 3))
    pi_l[..., 0] = 1
    pi_l[1, 1] = [0.5, 0.5, 0]
    assert [action for _, action in switched(pi_l, 0, 0)] == [1, 2]
    candidates = switched(pi_l, 1, 1)
    assert [action for _, action in candidates] == [0, 1, 2]
    assert np.array_equal(candidates[2][0][1, 1], [0, 0, 1])
    assert np.array_equal(candidates[2][0][0], pi_l[0])


def test_polish_repairs_a_bad_policy_and_proves_it_on_fresh_episodes(
    random_game: RandomGame,
) -> None:
    game = random_game(3, horizon=8)
    worst = np.eye(2)[game.r_l.argmin(axis=2)]
    policy = pair(game, worst)
    told: list[tuple[int, int]] = []
    result = polish(
        game, policy, n=50, k=3, progress=lambda done, total, _: told.append((done, total))
    )
    assert result.confirmed
    assert result.gain.interval[0] > 0
    assert told[-1] == (9, 9)
    assert result.tried >= 9
    changed = worst.copy()
    for c in result.changes:
        changed[c.s_g, c.s_l] = np.eye(2)[c.action]
    assert np.array_equal(changed, result.policy.pi_l)
    seen = [rollout(game, p, n=50, k=3, rollouts=1000, seed=4) for p in (policy, result.policy)]
    assert seen[1].mean > seen[0].mean


def test_polish_hands_back_what_it_cannot_improve(random_game: RandomGame) -> None:
    # One action: nothing to switch to.
    game = random_game(1, A_l=1, horizon=8)
    policy = pair(game, game.uniform_local_policy())
    result = polish(game, policy, n=9, k=2, passes=3)
    assert result.policy is policy
    assert (result.confirmed, result.tried, result.changes) == (False, 0, ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"passes": 0}, "passes 0 is not a whole number from 1"),
        ({"k": 12}, "poll size 12 exceeds fleet size 9"),
        ({"play": "some"}, "unknown play 'some'; known are both, memory, none"),
    ],
)
def test_bad_settings_of_polish_are_refused(
    random_game: RandomGame, arguments: dict[str, object], message: str
) -> None:
    game = random_game(1)
    policy = pair(game, game.uniform_local_policy())
    call: dict[str, object] = {"n": 9, "k": 2, **arguments}
    with pytest.raises(InputError, match=message):
        polish(game, policy, **call)  # type: ignore[arg-type]


def test_the_levels_are_those_of_the_text() -> None:
    assert judging.LEVEL == 0.025
    assert MOST == 4 * LOOK
