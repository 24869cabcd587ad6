# SPDX-License-Identifier: MIT
"""From simulation to robots: preflight against a simulated run, and a fleet let loose in stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_fleet import small_policy

from kofn.controller.core.errors import InputError
from kofn.controller.link.hostlog import Header, HostLog, Poses
from kofn.controller.record import RunFolder
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.ring import RingLayout
from kofn.launch.preflight import preflight
from kofn.launch.rollout import Decision, Rollout

ARENA = RingLayout(zones=4)


def simulated(folder: Path, way: list[list[tuple[float, float, float]]]) -> Path:
    """A run folder in which robots stood at these poses, one row a second."""
    run = RunFolder.create(folder, "sim")
    run.write_policy(small_policy())
    run.update_summary(k=2, completed=True)
    with HostLog(run.hosts / "sim.jsonl") as log:
        names = [f"r{i}" for i in range(len(way[0]))]
        head: dict[str, Any] = {"host": "sim", "robots": names, "arena": {}, "option_s": 6.0}
        log.write(Header(**head, seed=0, backend="bullet", versions={}))
        for i, poses in enumerate(way):
            log.write(Poses(time_s=float(i), p=poses))
    return run.path


GOOD = [[(1.5, 0.0, 0.0), (0.0, 1.5, 0.0)], [(1.5, 0.2, 0.0), (0.0, 1.5, 0.0)]]


def failures(run: Path, **changes: Any) -> set[str]:
    settings: dict[str, Any] = {"n": 3, "k": 2, "limits": RobotLimits(v=0.4)} | changes
    policy = settings.pop("policy", small_policy())
    layout = settings.pop("layout", ARENA)
    return {line.name for line in preflight(run, policy, layout, **settings) if not line.ok}


def test_row_12_a_policy_that_was_simulated_without_violation_passes(tmp_path: Path) -> None:
    assert failures(simulated(tmp_path, GOOD)) == set()


EAST = [(0.5, -1.0), (2.0, -1.0), (2.0, 1.0), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"policy": small_policy(5)}, "policy"),
        ({"layout": RingLayout(zones=5)}, "spaces"),
        ({"k": 3}, "poll size"),
        ({"k": 2, "n": 1}, "poll size"),
        ({"limits": RobotLimits(v=0.1)}, "speed"),
        (
            {"limits": RobotLimits(v=0.4, geofence=[(0.5, -1), (2, -1), (2, 1), (0.5, 1)])},
            "geofence",
        ),
    ],
)
def test_row_12_each_condition_of_preflight_is_named(
    tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    assert failures(simulated(tmp_path, GOOD), **changes) == {found}


def test_row_12_robots_that_met_or_left_the_ring_in_simulation_do_not_pass(tmp_path: Path) -> None:
    met = [[(1.5, 0.0, 0.0), (1.5, 0.05, 0.0)]]
    left = [[(2.5, 0.0, 0.0), (0.0, 1.5, 0.0)]]
    assert failures(simulated(tmp_path / "a", met)) == {"separation"}
    assert failures(simulated(tmp_path / "b", left)) == {"geofence"}


def test_row_12_a_rollout_goes_from_one_robot_to_k_to_all() -> None:
    rollout, allowed = Rollout(20, 5, steps=3), []
    while not rollout.complete:
        allowed.append(rollout.allowed)
        rollout.observe(0)
    assert allowed == [1, 1, 1, 5, 5, 5]
    assert rollout.allowed == 20


def test_row_12_a_rollout_halts_for_good_when_robots_fail_too_often() -> None:
    """A fleet of 20 in which each robot fails with 5 % a step, against a limit of 1 %."""
    rng = np.random.default_rng(0)
    halted = []
    for _ in range(200):
        rollout = Rollout(20, 5, steps=20, fault_rate=0.01)
        for _ in range(60):
            rollout.observe(int(rng.binomial(rollout.allowed, 0.05)))
        halted.append(rollout.halted)
        if rollout.halted:
            assert rollout.allowed == 0
            assert rollout.observe(0) is Decision.HALT
    assert np.mean(halted) > 0.99
    calm = Rollout(20, 5, steps=20, fault_rate=0.1)
    while not calm.complete:
        assert calm.observe(int(rng.binomial(calm.allowed, 0.01))) is not Decision.HALT


def test_bad_stages_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"second stage of 9 robots must lie in 1\.\.5"):
        Rollout(5, 9)
    with pytest.raises(InputError, match="fault_rate 2 must lie in"):
        Rollout(5, 2, fault_rate=2)
