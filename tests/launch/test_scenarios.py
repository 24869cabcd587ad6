# SPDX-License-Identifier: MIT
"""Scenario files: what is read is what is run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from kofn_process import Kofn

from kofn.launch.preparing import build_game
from kofn.launch.scenario import GameSection, load_scenario, scenario_names


@pytest.mark.parametrize("name", scenario_names())
def test_each_scenario_of_ours_loads_and_names_a_game(name: str) -> None:
    scenario = load_scenario(name)
    assert build_game(scenario.game).n_local == scenario.arena.zones
    assert 1 <= scenario.k <= scenario.robots


def test_the_demo_scenario_is_twenty_robots_in_two_processes_polling_five() -> None:
    scenario = load_scenario("ring20")
    assert [host.robots for host in scenario.hosts] == [10, 10]
    assert (scenario.robots, scenario.k, scenario.steps) == (20, 5, 40)
    assert scenario.control
    assert scenario.pace == "lockstep"


def test_one_robot_makes_the_run_real_time() -> None:
    assert load_scenario("mixed").pace == "realtime"


def test_parameters_reach_the_game() -> None:
    game = build_game(GameSection(parameters={"move_success": 0.4}))
    assert game.P_l[0, 2, 1, 3] == pytest.approx(0.4)


def test_a_byte_order_mark_does_not_matter(scenario: Callable[..., Path]) -> None:
    path = scenario()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_scenario(str(path)).k == 2


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
def test_the_mixed_scenario_runs_and_learns_its_own_policy(kofn: Kofn) -> None:
    result = kofn.json("up", "mixed", "--steps", "4", "--no-video")
    assert (result["robots"], result["steps"]) == (8, 4)
    assert result["replies_used"] > 0


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
def test_options_replace_what_the_file_says(kofn: Kofn, scenario: Callable[..., Path]) -> None:
    result = kofn.json("up", str(scenario()), "--steps", "2", "--seed", "9", "--no-video")
    assert result["steps"] == 2
    config = (kofn.home / result["run_dir"] / "config.toml").read_text()
    assert "seed = 9" in config
