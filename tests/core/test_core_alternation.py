# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from kofn.controller.core import (
    Game,
    InputError,
    Policy,
    alternating_marl,
    alternation,
    arena,
    load_game,
    rollout,
)
from kofn.controller.core.alternation import default_grid, holding_actions, starting_policies

RandomGame = Callable[..., Game]


def test_the_arena_policy_gathers_most_robots_in_the_target() -> None:
    game = arena()
    solution = alternating_marl(game, 5, 20, restarts=1, rounds=2)
    played = rollout(game, solution.policy, n=20, k=5, rollouts=500, seed=9, record=True)
    records = played.records
    assert records is not None
    in_target = np.take_along_axis(records.counts, records.s_g[:, :, None], axis=2)[:, -10:] / 20
    assert in_target.mean() > 0.7


def test_the_released_ring_beats_the_published_return_with_and_without_memory() -> None:
    game = load_game("ring-released")
    policy = alternating_marl(game, 10, 1000, restarts=1, rounds=1).policy
    bare = rollout(game, policy, n=1000, k=10, rollouts=3000, seed=5, memory="none")
    full = rollout(game, policy, n=1000, k=10, rollouts=3000, seed=5)
    # Published: 87.8. The goals are 104.5 without memory and 110.2 with it.
    assert bare.mean - 3 * bare.stderr > 106
    assert full.mean - 3 * full.stderr > 112


def test_play_without_memory_gets_a_pair_of_its_own_where_it_wants_one() -> None:
    # One agent tells little: without memory it is best to keep all agents at one place.
    game = dataclasses.replace(load_game("ring-released"), horizon=25)
    policy = alternating_marl(game, 1, 1000, restarts=3, rounds=1, grid=6).policy
    assert policy.bare is not None
    assert policy.provenance["start"] == "hold"
    assert policy.provenance["bare_start"] == "constant 0"
    alone = Policy(game, 6, policy.action, policy.pi_l, memory=policy.memory, prior=policy.prior)
    seen = {
        (name, memory): rollout(game, p, n=1000, k=1, rollouts=2000, seed=5, memory=memory).mean
        for name, p in (("both", policy), ("alone", alone))
        for memory in ("none", "auto")
    }
    assert seen["both", "none"] > seen["alone", "none"] + 0.3
    assert seen["both", "auto"] == seen["alone", "auto"]
    assert seen["both", "auto"] > seen["both", "none"] + 1


def test_the_history_tells_what_happened(random_game: RandomGame) -> None:
    game = random_game(3, horizon=10)
    told: list[tuple[int, int, str]] = []
    solution = alternating_marl(
        game, 3, 12, rounds=2, progress=lambda done, total, text: told.append((done, total, text))
    )
    history = solution.history
    assert history[0].accepted
    assert history[0].start == "hold"
    assert {h.player for h in history} <= {"global", "local"}
    assert all(h.rollouts >= 1000 and h.samples == 2 * h.rollouts * 10 for h in history)
    assert all(h.belief.interval[0] < h.belief.mean < h.belief.interval[1] for h in history)
    assert set(solution.ends) == {"hold", "uniform", "constant 0", "constant 1", "constant 2"}
    dones = [done for done, _, _ in told]
    assert dones == sorted(dones)
    assert told[-1][0] == told[-1][1]
    assert solution.policy.provenance["start"] in {h.start for h in history if h.accepted}
    assert solution.policy.provenance["pairs_judged"] == len(history)


def test_the_same_seed_gives_the_same_policy(random_game: RandomGame) -> None:
    game = random_game(4, horizon=10)
    first, second = (alternating_marl(game, 2, 9, restarts=2, rounds=2) for _ in range(2))
    assert first.policy.sha256 == second.policy.sha256


def test_a_pair_met_again_ends_a_chain(random_game: RandomGame) -> None:
    game = random_game(5, horizon=10)
    solution = alternating_marl(game, 2, 9, restarts=1, rounds=50)
    assert len(solution.history) < 50
    assert solution.ends["hold"] in ("fixed point", "cycle")
    again = alternating_marl(game, 2, 9, starts={"mine": solution.policy}, restarts=1, rounds=1)
    assert again.ends["mine"] == "rounds used up"


def test_a_cycle_is_told_from_a_fixed_point(
    random_game: RandomGame, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = random_game(5, horizon=10)
    eye = np.eye(2)
    turn = {0: np.tile(eye[0], (3, 3, 1)), 1: np.tile(eye[1], (3, 3, 1))}

    def other(_game: Game, _action: object, pi_l: np.ndarray, *_: object, **__: object) -> object:
        return turn[int(pi_l[0, 0, 0] == 1)]

    monkeypatch.setattr(alternation, "l_learn", other)
    solution = alternating_marl(game, 2, 9, starts={"mine": turn[0]}, restarts=0, rounds=50)
    assert solution.ends == {"mine": "cycle"}
    assert len(solution.history) == 2


def test_given_starts_are_tried_and_named(random_game: RandomGame) -> None:
    game = random_game(3, horizon=10)
    neighbour = alternating_marl(game, 2, 12, restarts=1, rounds=1, grid=3).policy
    starts: dict[str, Policy | np.ndarray] = {
        "k = 2": neighbour,
        "table": game.uniform_local_policy(),
    }
    solution = alternating_marl(game, 3, 12, starts=starts, restarts=0, rounds=1, grid=3)
    assert [h.start for h in solution.history] == ["k = 2", "table"]
    with pytest.raises(InputError, match="start 'bad': pi_l"):
        alternating_marl(game, 3, 12, starts={"bad": np.ones((2, 2))})
    with pytest.raises(InputError, match="'hold' has the name of a start of the loop"):
        alternating_marl(game, 3, 12, starts={"hold": neighbour})
    with pytest.raises(InputError, match="start 'far': the policy was made for game"):
        alternating_marl(random_game(4), 3, 12, starts={"far": neighbour})


def test_polish_is_part_of_the_loop_on_request(random_game: RandomGame) -> None:
    game = random_game(6, horizon=8)
    told: list[tuple[int, int]] = []
    solution = alternating_marl(
        game,
        2,
        30,
        objective="selfish",
        restarts=1,
        rounds=1,
        polish=1,
        progress=lambda done, total, _: told.append((done, total)),
    )
    assert solution.polished is not None
    assert solution.polished.tried >= 9
    kept = solution.polished.gain.mean if solution.polished.confirmed else 0.0
    assert solution.policy.provenance["polish_gain"] == kept
    assert np.array_equal(solution.policy.pi_l, solution.polished.policy.pi_l)
    # One round, table, nine entries, end.
    assert told[-1] == (12, 12)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_selfish_objective_is_available(random_game: RandomGame) -> None:
    game = random_game(6, horizon=10)
    solution = alternating_marl(game, 2, 9, objective="selfish", restarts=2, rounds=2)
    assert solution.policy.provenance["objective"] == "selfish"


def test_the_grid_may_be_chosen_and_may_exceed_the_poll(random_game: RandomGame) -> None:
    game = random_game(7, horizon=10)
    assert alternating_marl(game, 2, 9, grid=5, restarts=1, rounds=1).policy.grid == 5
    assert default_grid(load_game("arena"), 5) == 20


def test_the_holding_dispatcher_keeps_the_target() -> None:
    game = load_game("ring-current")
    assert holding_actions(game).tolist() == [0, 1, 2, 3, 4]
    starts = starting_policies(game, 3)
    assert list(starts) == ["hold", "uniform", *(f"constant {a}" for a in range(5))]
    # Under a dispatcher that holds the target, whoever is next to it goes there.
    assert starts["hold"][0, 1].argmax() == 2
    assert starts["hold"][1, 0].argmax() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 12, "n": 10}, "poll size 12 exceeds fleet size 10"),
        ({"k": 0}, "poll size 0"),
        ({"n": 2.5}, "fleet size 2.5"),
        ({"rounds": 0}, "rounds 0"),
        ({"seed": -1}, "seed -1"),
        ({"restarts": 0}, "restarts 0"),
        ({"polish": -1}, "polish -1 is not a whole number from 0"),
        ({"grid": 10**6}, "above the limit"),
        ({"objective": "none"}, "unknown objective"),
    ],
)
def test_bad_input_is_refused(
    random_game: RandomGame, arguments: dict[str, object], message: str
) -> None:
    settings: dict[str, object] = {"k": 3, "n": 10, **arguments}
    with pytest.raises(InputError, match=message):
        alternating_marl(random_game(0), **settings)  # type: ignore[arg-type]


def test_a_second_process_compiles_nothing() -> None:
    code = """
import json
from kofn.controller.core import alternating_marl, arena, rollout
from kofn.controller.core import _backup_kernels as bellman, _power_kernels as power
from kofn.controller.core import _rollout_kernels as play
game = arena(zones=3)
policy = alternating_marl(game, 2, 6, restarts=1, rounds=2).policy
rollout(game, policy, n=6, k=2, rollouts=4)
used = (power.apply_elementary, power.push_elementary, bellman.backup, play.episodes)
counts = [[sum(x.values()) for x in (k.stats.cache_hits, k.stats.cache_misses)] for k in used]
print(json.dumps(counts))
"""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for hits, misses in json.loads(done.stdout):
        assert hits >= 1
        assert misses == 0
