# SPDX-License-Identifier: MIT
"""The physics: protocol, determinism, success rates of options, robots that are out of play."""

import math
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.arena import Layout
from kofn.hardware.grid import GridLayout
from kofn.hardware.option import OptionSettings
from kofn.hardware.ring import RingLayout
from kofn.hardware.safety import Limits
from kofn.sim.bullet import BulletWorld, load_pybullet
from kofn.sim.conformance import check_world
from kofn.sim.urdf import RobotModel

pytestmark = pytest.mark.bullet
pytest.importorskip("pybullet", reason="needs kofn[sim]: PyBullet has no wheel for this Python")

STORED_KERNEL = {"move": 0.96, "stay": 0.99}
"""P(success) at N=10, T=6 s, lanes: 1200 moves and 600 stays, seeds 1 to 3."""


@pytest.fixture
def world() -> Iterator[BulletWorld]:
    made = BulletWorld(6)
    made.reset(1)
    yield made
    made.close()


@pytest.mark.parametrize("layout", [RingLayout(), GridLayout(obstacles=((0.6, 0.6, 0.1),))])
def test_bullet_world_fulfils_the_protocol(layout: Layout) -> None:
    check_world(lambda: BulletWorld(4, layout, period_s=2.0))


def test_kernel_at_ci_size_is_near_the_stored_one() -> None:
    world = BulletWorld(10)
    world.reset(1)
    generator = np.random.default_rng(101)
    outcomes: dict[str, list[bool]] = {"move": [], "stay": []}
    for _ in range(20):
        before = world.observe().zones
        actions = generator.integers(0, 3, 10)
        world.apply(actions)
        world.advance(6.0)
        after = world.observe()
        assert after.up.all()
        arrived = after.zones == (before + np.array([0, 1, -1])[actions]) % 5
        outcomes["move"] += arrived[actions > 0].tolist()
        outcomes["stay"] += arrived[actions == 0].tolist()
    world.close()
    for kind, stored in STORED_KERNEL.items():
        # Success and failure are one row of two outcomes: its L1 distance is twice the difference.
        assert 2 * abs(np.mean(outcomes[kind]) - stored) <= 0.2
    assert np.mean(outcomes["stay"]) >= 0.9


def test_robots_spawn_apart_between_the_walls_and_stand_still(world: BulletWorld) -> None:
    start = world.observe()
    assert start.poses is not None
    x, y = start.poses[:, 0], start.poses[:, 1]
    radius = np.hypot(x, y)
    assert np.all((radius >= 1.14) & (radius <= 1.86))
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 9 * np.eye(6)
    assert apart.min() >= 0.209
    world.advance(1.0)
    still = world.observe()
    assert still.poses is not None
    assert np.abs(still.poses[:, :2] - start.poses[:, :2]).max() < 2e-3
    assert np.array_equal(start.zones, world.layout.zone_of(start.poses))


def test_option_ends_after_its_period(world: BulletWorld) -> None:
    world.apply(np.ones(6, dtype=np.int64))
    world.advance(world.spec.period_s + 0.5)
    ended = world.observe().poses
    world.advance(2.0)
    later = world.observe().poses
    assert ended is not None
    assert later is not None
    assert np.abs(later[:, :2] - ended[:, :2]).max() < 5e-3


def test_wheels_turn_at_the_commanded_speed() -> None:
    limits = Limits(v_max=0.2, w_max=3.0)
    settings = OptionSettings(speed_spread=0.0)
    world = BulletWorld(1, settings=settings, limits=limits)
    world.reset(3)
    world.apply(np.array([1]))
    world.advance(2.0)
    speeds = []
    for _ in range(10):
        before = world.observe().poses
        world.advance(0.1)
        after = world.observe().poses
        assert before is not None
        assert after is not None
        speeds.append(float(np.hypot(*(after - before)[0, :2])) / 0.1)
    world.close()
    assert math.isclose(np.median(speeds), limits.v_max, rel_tol=0.03)


def test_robot_thrown_out_of_the_arena_is_unavailable_and_keeps_a_zone(world: BulletWorld) -> None:
    zones = world.observe().zones
    place = [9.0 * math.cos(4.0), 9.0 * math.sin(4.0), 0.066]
    world._pb.resetBasePositionAndOrientation(
        world._bodies[2], place, [0, 0, 0, 1], physicsClientId=world._client
    )
    world.advance(0.1)
    seen = world.observe()
    assert seen.up.tolist() == [True, True, False, True, True, True]
    assert seen.zones[2] == zones[2]
    assert seen.trouble == {2: "has left the arena"}


def test_robot_on_its_side_is_unavailable(world: BulletWorld) -> None:
    poses = world.observe().poses
    assert poses is not None
    place = [poses[0, 0], poses[0, 1], 0.12]
    side = [math.sin(math.pi / 4), 0.0, 0.0, math.cos(math.pi / 4)]
    world._pb.resetBasePositionAndOrientation(
        world._bodies[0], place, side, physicsClientId=world._client
    )
    world.advance(0.1)
    assert world.observe().up.tolist() == [False, True, True, True, True, True]
    assert world.observe().trouble == {0: "has fallen over"}


def test_higher_fidelity_is_another_engine_setting_of_the_same_world() -> None:
    world = BulletWorld(2, fidelity="high")
    world.reset(1)
    world.apply(np.array([1, 2]))
    world.advance(0.5)
    assert world.observe().up.all()
    world.close()


@pytest.mark.parametrize("radius", [0.03, 0.05, 0.1, 0.3])
@pytest.mark.parametrize(("v", "w"), [(0.0, 1.0), (0.4, 2.0), (0.1, -3.0)])
def test_a_robot_turns_as_it_is_told(v: float, w: float, radius: float) -> None:
    # Without air under the casters the wheels slip: at v = 0.4, w = 2 it then turns at 3.3 rad/s.
    free = GridLayout(columns=2, rows=2, cell_m=30.0, walls=False, robot_radius_m=radius)
    world = BulletWorld(1, free)
    world.reset(1)
    turned = 0.0
    for tick in range(40):
        before = world.observe().poses
        world.drive(np.full(1, v), np.full(1, w))
        after = world.observe().poses
        assert before is not None
        assert after is not None
        if tick >= 10:
            turned += math.remainder(after[0, 2] - before[0, 2], 2.0 * math.pi)
    world.close()
    assert turned / 3.0 == pytest.approx(w, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n": 0}, "0 robots do not fit"),
        ({"n": 500}, "this ring holds 1 to"),
        ({"n": 3, "period_s": 0.25}, "not a multiple of the tick"),
        ({"n": 3, "period_s": 0.0}, "at least 0.1 s"),
        ({"n": 3, "fidelity": "best"}, "'best' is not one of default, high"),
        ({"n": 3, "model": RobotModel.of_radius(0.2)}, "differs from the layout"),
        ({"n": 3, "limits": Limits(v_max=-1.0, w_max=1.0)}, "v_max = -1.0"),
    ],
)
def test_impossible_world_is_refused_in_one_sentence(
    arguments: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        BulletWorld(**arguments)  # type: ignore[arg-type]


def test_smaller_robots_of_a_smaller_ring_reach_their_zones_too() -> None:
    layout = RingLayout(
        inner_m=0.5,
        outer_m=1.0,
        lane_plus_m=0.89,
        lane_minus_m=0.61,
        lane_park_m=0.75,
        robot_radius_m=0.05,
    )
    world = BulletWorld(5, layout)
    world.reset(2)
    arrived = 0
    for _ in range(4):
        before = world.observe().zones
        world.apply(np.ones(5, dtype=np.int64))
        world.advance(6.0)
        arrived += int((world.observe().zones == (before + 1) % 5).sum())
    assert world.observe().up.all()
    assert arrived >= 18
    world.close()


def test_full_ring_can_be_placed() -> None:
    layout = RingLayout()
    world = BulletWorld(layout.capacity, layout)
    world.reset(1)
    assert world.observe().up.all()
    world.close()


def test_missing_pybullet_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(RunError, match=r"kofn\[sim\].*3\.11"):
        load_pybullet()


def test_a_window_without_a_display_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(RunError, match=r"no display for a window: DISPLAY is not set"):
        BulletWorld(2, gui=True)
