# SPDX-License-Identifier: MIT
"""The kinematic and the finite world: contract, law, geometry, and what they refuse."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import load_game
from kofn.controller.core.errors import InputError
from kofn.hardware.arena import Layout
from kofn.hardware.grid import GridLayout
from kofn.hardware.option import OptionController
from kofn.hardware.ring import RingLayout
from kofn.sim import _kinematic_kernels as kernels
from kofn.sim.conformance import check_world
from kofn.sim.finite import FiniteWorld
from kofn.sim.kinematic import KinematicWorld
from kofn.sim.motion import MotionKernel
from kofn.sim.worlds import make_world

ARENA = MotionKernel.of_game(load_game("arena"))
RING_WITH_A_PILLAR = RingLayout(obstacles=((1.5, 0.0, 0.15),))
GRID = GridLayout(columns=3, rows=2, obstacles=((0.6, 0.6, 0.1),))


@pytest.mark.parametrize("layout", [RingLayout(), RING_WITH_A_PILLAR, GRID])
def test_kinematic_world_fulfils_the_protocol(layout: Layout) -> None:
    check_world(lambda: KinematicWorld(8, layout, period_s=2.0))


def test_finite_world_fulfils_the_protocol() -> None:
    check_world(lambda: FiniteWorld(8, ARENA, period_s=2.0))


def test_finite_robots_move_with_the_probabilities_of_the_bin_their_zone_was_in() -> None:
    generator = np.random.default_rng(5)
    P = generator.dirichlet(np.ones(3), size=(2, 3, 2))
    kernel = MotionKernel(P, edges=[0.4])
    n = 90_000
    world = FiniteWorld(n, kernel, start=np.array([0.6, 0.3, 0.1]))
    world.reset(1)
    before = world.observe().zones
    actions = generator.integers(-1, 2, n)
    world.apply(actions)
    world.advance(world.spec.period_s - 0.1)
    assert np.array_equal(world.observe().zones, before)
    world.advance(0.1)
    after = world.observe().zones
    assert np.array_equal(after[actions < 0], before[actions < 0])
    for zone, crowded in enumerate((1, 0, 0)):
        for action in range(2):
            here = (before == zone) & (actions == action)
            expected = P[crowded, zone, action] * here.sum()
            counts = np.bincount(after[here], minlength=3)
            # 99.99 % point of chi-square with 2 degrees of freedom.
            assert float(((counts - expected) ** 2 / expected).sum()) < 18.4


def test_motion_that_depends_on_the_target_follows_it() -> None:
    P = np.zeros((2, 1, 3, 1, 3))
    P[0, 0, :, 0, 0] = 1.0
    P[1, 0, :, 0, 2] = 1.0
    world = FiniteWorld(5, MotionKernel(P))
    world.reset(0)
    for target, zone in ((0, 0), (1, 2)):
        world.see_target(target)
        world.apply(np.zeros(5, dtype=np.int64))
        world.advance(6.0)
        assert world.observe().zones.tolist() == [zone] * 5


def test_kernel_files_are_read_back(tmp_path: Path) -> None:
    kernel = MotionKernel(np.stack([ARENA.P[0, 0], ARENA.P[0, 0][:, ::-1]]), edges=[0.25])
    kernel.save(tmp_path / "kernel.npz")
    again = MotionKernel.load(tmp_path / "kernel.npz")
    assert np.array_equal(again.P, kernel.P)
    assert again.edges.tolist() == [0.25]
    (tmp_path / "kernel.npz").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="holds no motion kernel"):
        MotionKernel.load(tmp_path / "kernel.npz")


@pytest.mark.parametrize(
    ("P", "edges", "sentence"),
    [
        (np.ones((3, 1, 3)), (), "no distribution"),
        (np.ones((3, 3)) / 3, (), "3 to 5 axes"),
        (np.ones((3, 1, 4)) / 4, (), r"\(.., zones, actions, zones\)"),
        (np.ones((3, 1, 3)) / 3, (0.5,), "one fewer than bins"),
        (np.ones((3, 3, 1, 3)) / 3, (0.5, 0.4), "must rise"),
    ],
)
def test_impossible_kernel_is_refused(P: object, edges: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        MotionKernel(P, edges)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), width=st.floats(0.5, 4.0))
def test_push_by_cells_is_the_push_from_all_pairs(seed: int, n: int, width: float) -> None:
    poses = np.random.default_rng(seed).uniform(-width, width, (n, 3))
    if n > 3:
        poses[1] = math.nan
        poses[2] = poses[3]
    controller = OptionController(RingLayout(), n, np.random.default_rng(0))
    by_cells = kernels.avoid(poses, 0.3, 0.2, *kernels.cells_of(poses, 0.3))
    assert np.allclose(by_cells, controller.push(poses), atol=1e-12)


@pytest.mark.parametrize("layout", [RingLayout(), RING_WITH_A_PILLAR, GRID])
def test_a_full_kinematic_arena_keeps_discs_apart_and_inside(layout: Layout) -> None:
    world = KinematicWorld(min(40, layout.capacity), layout)
    world.reset(3)
    generator = np.random.default_rng(3)
    for _ in range(3):
        world.apply(generator.integers(0, layout.n_actions, world.spec.n))
        world.advance(6.0)
        seen = world.observe()
        assert seen.poses is not None
        assert seen.up.all()
        x, y = seen.poses[:, 0], seen.poses[:, 1]
        apart = np.hypot(x[:, None] - x, y[:, None] - y) + 9.0 * np.eye(world.spec.n)
        assert apart.min() > 1.5 * layout.robot_radius_m
        for ox, oy, radius in layout.obstacles:
            assert np.hypot(x - ox, y - oy).min() > radius + 0.9 * layout.robot_radius_m


@pytest.mark.parametrize("layout", [RingLayout(), RING_WITH_A_PILLAR])
def test_a_lone_robot_goes_where_each_action_says_round_an_obstacle_too(layout: Layout) -> None:
    world = KinematicWorld(1, layout, period_s=10.0)
    world.reset(8)
    for action, step in ((1, 1), (1, 1), (2, -1), (0, 0), (1, 1), (1, 1), (1, 1)):
        before = world.observe().zones
        world.apply(np.array([action]))
        world.advance(10.0)
        assert world.observe().zones == (before + step) % 5


def test_a_lone_robot_of_a_grid_goes_to_the_cell_that_each_action_names() -> None:
    layout = GridLayout(columns=3, rows=3)
    world = KinematicWorld(1, layout)
    world.reset(2)
    for action in (1, 1, 3, 3, 2, 4, 0, 2, 4, 4):
        zone = int(world.observe().zones[0])
        world.apply(np.array([action]))
        world.advance(6.0)
        assert int(world.observe().zones[0]) == layout.neighbours()[zone, action]


def test_stuck_wheel_turns_a_robot_on_the_spot_and_a_dead_robot_stands() -> None:
    world = KinematicWorld(3)
    world.reset(4)
    world.condition.wheels[0, 0] = 0.0
    world.condition.up[1] = False
    world.condition.why[1] = "is dead"
    before = world.observe()
    assert before.poses is not None
    world.apply(np.ones(3, dtype=np.int64))
    world.advance(6.0)
    after = world.observe()
    assert after.poses is not None
    moved = np.hypot(*(after.poses - before.poses)[:, :2].T)
    assert moved[1] < 0.05  # shoved, not driven
    assert after.up.tolist() == [True, False, True]
    assert after.trouble == {1: "is dead"}
    assert after.zones[2] == (before.zones[2] + 1) % 5


def test_position_noise_blurs_zones_but_not_poses() -> None:
    world = KinematicWorld(40)
    world.reset(6)
    clean = world.observe()
    world.condition.noise_m = 0.3
    world.advance(0.1)
    noisy = world.observe()
    assert np.array_equal(noisy.poses, clean.poses)  # type: ignore[arg-type]
    assert 0 < (noisy.zones != clean.zones).sum() < 40


def test_kinematic_world_says_once_that_it_is_not_calibrated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = KinematicWorld(2)
    with caplog.at_level(logging.WARNING):
        world.reset(1)
        world.reset(2)
    assert caplog.text.count("calibrated=false") == 1


@pytest.mark.parametrize(
    ("name", "n", "sentence"),
    [
        ("gazebo", 5, "unknown world 'gazebo'; known are bullet, kinematic, finite"),
        ("kinematic", 500, r"500 robots do not fit: this ring holds 1 to \d+"),
        ("finite", 5, "needs a motion kernel"),
    ],
)
def test_impossible_world_is_refused_in_one_sentence(name: str, n: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_world(name, n, RingLayout())
