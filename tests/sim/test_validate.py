# SPDX-License-Identifier: MIT
"""The gap table finds the model that moves the world, and shows how far the others are off."""

from typing import Any

import numpy as np
import pytest
from synthetic import drawn, info, ring_kernel

from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import arena
from kofn.sim.identify import from_recordings
from kofn.sim.kernel import Kernel
from kofn.sim.motion import MotionKernel
from kofn.sim.recording import Play, Recording, WorldConfig, record_replicas
from kofn.sim.validate import validate

FIRST = (0, 4, 6, 8, 11)
CROWDED = [0.9, 0.8, 0.7, 0.6, 0.5]


def gathering() -> Policy:
    """Robots go to the target the shorter way; the dispatcher holds it where it is."""
    pi_l = np.zeros((5, 5, 3))
    for g in range(5):
        for s in range(5):
            ahead = (g - s) % 5
            pi_l[g, s, 0 if ahead == 0 else (1 if ahead <= 2 else 2)] = 1.0
    action = np.repeat(np.arange(5)[:, None], 126, axis=1)
    return Policy(arena(), 5, action, pi_l, memory=20.0)


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    recording = drawn(ring_kernel(CROWDED), FIRST, n=30, steps=600, seed=4)
    return from_recordings([recording], arena(), info(symmetry="ring"), first=FIRST)


def world(kernel: Kernel, n: int = 30) -> WorldConfig:
    """A world that moves by the very law that the data were drawn from."""
    motion = MotionKernel(ring_kernel(CROWDED), kernel.edges)
    return WorldConfig(backend="finite", robots=n, motion=motion)


@pytest.mark.parametrize(("k", "least"), [(None, 0.1), (5, 0.05)])  # a dispatcher moves it less
def test_the_binned_model_is_right_where_crowds_matter_and_the_ideal_one_is_not(
    kernel: Kernel, k: int | None, least: float
) -> None:
    found = validate(gathering(), kernel, world(kernel), k=k, periods=200, seed=1)
    physics, ideal, plain, binned = found.rows
    assert [row.name for row in found.rows] == ["physics", "ideal", "plain", "binned"]
    assert abs(binned.gap) < 0.02 + 2 * binned.gap_stderr
    assert ideal.gap > least
    assert plain.gap > binned.gap + 0.1 * least  # uniform data know less crowded zones
    assert physics.periods == 200 if k is None else physics.periods > 50
    assert physics.stay == pytest.approx(0.96, abs=0.01)
    assert binned.stay == pytest.approx(0.96, abs=0.01)
    assert binned.curve[1] == pytest.approx(physics.curve[1], abs=0.05)
    optimistic, true = ideal.curve[3], physics.curve[3]
    assert optimistic is not None
    assert true is not None
    assert optimistic > true + 0.1


def test_standard_errors_cover_the_spread_between_seeds(kernel: Kernel) -> None:
    rows = [
        validate(gathering(), kernel, world(kernel), periods=40, seed=seed, episodes=2).rows[0]
        for seed in range(20)
    ]
    spread = float(np.std([row.share for row in rows], ddof=1))
    assert 0.5 < spread / np.mean([row.stderr for row in rows]) < 1.7


def test_a_kernel_of_another_fleet_is_refused_unless_forced(kernel: Kernel) -> None:
    with pytest.raises(InputError, match=r"identified for 30 robots and options of 6 s, the world"):
        validate(gathering(), kernel, world(kernel, 20))
    forced = validate(gathering(), kernel, world(kernel, 20), periods=4, force=True, episodes=20)
    assert forced.row("binned").share > 0
    with pytest.raises(InputError, match=r"poll size 31 must lie in 1\.\.30"):
        validate(gathering(), kernel, world(kernel), k=31)


def test_the_physics_is_not_what_a_kernel_of_the_same_seed_was_counted_in(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recording] = []

    def watched(*arguments: Any, **keys: Any) -> list[Recording]:
        seen.extend(record_replicas(*arguments, **keys))
        return seen

    monkeypatch.setattr("kofn.sim.validate.record_replicas", watched)
    validate(gathering(), kernel, world(kernel), periods=8, seed=3, episodes=2)
    counted = record_replicas(world(kernel), Play.of_policy(gathering()), 48, seed=3, burn_in=6)
    assert not np.array_equal(seen[0].zones[:24], counted[0].zones[:24])
