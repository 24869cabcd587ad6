# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from kofn.controller.core import Game, InputError, alternating_marl, arena, load_game, rollout
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
    # Published: 87.8. Floors: 104 without memory, 110 with it.
    assert bare.mean - 3 * bare.stderr > 104
    assert full.mean - 3 * full.stderr > 110


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
    assert all(h.rollouts >= 2000 for h in history)
    dones = [done for done, _, _ in told]
    assert dones == sorted(dones)
    assert told[-1][0] == told[-1][1]
    assert solution.policy.provenance["start"] in {h.start for h in history if h.accepted}
    assert solution.policy.provenance["pairs_judged"] == len(history)


def test_the_same_seed_gives_the_same_policy(random_game: RandomGame) -> None:
    game = random_game(4, horizon=10)
    first, second = (alternating_marl(game, 2, 9, restarts=2, rounds=2) for _ in range(2))
    assert first.policy.sha256 == second.policy.sha256


def test_a_cycle_ends_a_chain(random_game: RandomGame) -> None:
    game = random_game(5, horizon=10)
    solution = alternating_marl(game, 2, 9, restarts=1, rounds=50)
    assert len(solution.history) < 50


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
from kofn.controller.core import _power_kernels as power, _rollout_kernels as play
game = arena(zones=3)
policy = alternating_marl(game, 2, 6, restarts=1, rounds=2).policy
rollout(game, policy, n=6, k=2, rollouts=4)
used = (power.apply_elementary, power.push_elementary, play.episodes)
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
