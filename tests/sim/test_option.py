# SPDX-License-Identifier: MIT
"""The option controller: directions, bounds, holding, and robots that know nothing of others."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.hardware.option import OptionController, OptionSettings
from kofn.hardware.ring import RingLayout, zone_of

Floats = np.ndarray[Any, np.dtype[np.float64]]


def _controller(n: int, layout: RingLayout | None = None, seed: int = 0) -> OptionController:
    return OptionController(layout or RingLayout(), n, np.random.default_rng(seed))


def _unicycle(poses: Floats, v: Floats, w: Floats, dt: float) -> Floats:
    x, y, yaw = poses.T
    return np.stack([x + dt * v * np.cos(yaw), y + dt * v * np.sin(yaw), yaw + dt * w], axis=1)


def _run(controller: OptionController, action: int, poses: Floats) -> Floats:
    controller.start(np.full(controller.n, action), poses)
    for _ in range(60):
        v, w = controller.command(poses)
        poses = _unicycle(poses, v, w, 0.1)
    return poses


poses_anywhere = st.lists(
    st.tuples(
        st.floats(-2.5, 2.5) | st.just(math.nan),
        st.floats(-2.5, 2.5),
        st.floats(-10.0, 10.0) | st.just(math.inf),
    ),
    min_size=1,
    max_size=6,
)


@given(rows=poses_anywhere, seed=st.integers(0, 99))
def test_speeds_never_exceed_the_settings_and_are_finite(
    rows: list[tuple[float, float, float]], seed: int
) -> None:
    poses = np.array(rows)
    controller = _controller(len(rows), seed=seed)
    settings = controller.settings
    controller.start(np.random.default_rng(seed).integers(-1, 3, len(rows)), poses)
    for v, w in (controller.command(poses), controller.command(poses, controller.push(poses))):
        assert np.all((v >= 0) & (v <= settings.fastest_mps))
        assert np.all(np.abs(w) <= settings.w_max_radps)


@given(rows=poses_anywhere)
def test_hold_means_motors_at_zero(rows: list[tuple[float, float, float]]) -> None:
    poses = np.array(rows)
    controller = _controller(len(rows))
    controller.start(np.full(len(rows), -1), poses)
    v, w = controller.command(poses)
    assert not v.any()
    assert not w.any()


def test_robots_hold_before_the_first_option() -> None:
    v, w = _controller(2).command(np.array([[1.2, 0.0, 0.0], [1.8, 0.0, 0.0]]))
    assert not v.any()
    assert not w.any()


@pytest.mark.parametrize("lanes", [True, False])
@pytest.mark.parametrize(("action", "zones"), [(0, 0), (1, 1), (2, -1)])
def test_single_robots_end_in_the_zone_of_their_action(
    lanes: bool, action: int, zones: int
) -> None:
    layout = RingLayout(lanes=lanes)
    generator = np.random.default_rng(3)
    # From the core of a zone: where an earlier option left them.
    angle = (np.arange(20) % 5 + 0.5 + generator.uniform(-0.17, 0.17, 20)) * layout.sector_rad
    yaw = generator.uniform(-math.pi, math.pi, 20)
    poses = np.stack([1.5 * np.cos(angle), 1.5 * np.sin(angle), yaw], axis=1)
    goal = (zone_of(layout, poses) + zones) % 5
    end = _run(_controller(20, layout), action, poses)
    assert np.array_equal(zone_of(layout, end), goal)


def test_robot_alone_needs_no_knowledge_of_neighbours() -> None:
    layout = RingLayout()
    end = _run(_controller(1), 1, np.array([[1.5 * math.cos(0.6), 1.5 * math.sin(0.6), 0.0]]))
    assert zone_of(layout, end)[0] == 1


def test_movers_use_their_lane() -> None:
    start = np.array([[1.5 * math.cos(0.6), 1.5 * math.sin(0.6), 2.0]])
    for action, outside in ((1, True), (2, False)):
        controller, poses = _controller(1), start
        controller.start(np.array([action]), poses)
        for _ in range(25):
            poses = _unicycle(poses, *controller.command(poses), 0.1)
        assert bool(np.hypot(poses[0, 0], poses[0, 1]) > 1.5) is outside


def test_stay_goes_back_to_the_parking_radius_and_stops() -> None:
    poses = np.array([[1.78, 0.5, 3.0], [1.15, 0.5, 0.0], [1.45, 0.5, 1.0]])
    end = _run(_controller(3), 0, poses)
    assert np.all(np.abs(np.hypot(end[:, 0], end[:, 1]) - 1.5) <= 0.13)
    assert np.allclose(end[2], poses[2])


def test_push_points_away_from_a_near_neighbour_and_ends_at_the_far_distance() -> None:
    controller = _controller(2)
    near = controller.push(np.array([[1.5, 0.0, 0.0], [1.5, 0.2, 0.0]]))
    assert np.allclose(near, [[0.0, -1.0], [0.0, 1.0]])
    assert not controller.push(np.array([[1.5, 0.0, 0.0], [1.5, 0.31, 0.0]])).any()


def test_push_turns_a_mover_away_from_the_neighbour() -> None:
    layout = RingLayout(lanes=False)
    controller = _controller(2, layout)
    poses = np.array([[1.5, 0.0, math.pi / 2], [1.4, 0.2, 0.0]])
    controller.start(np.array([1, 0]), poses)
    _, blind = controller.command(poses)
    _, seeing = controller.command(poses, controller.push(poses))
    assert seeing[0] < blind[0]


def test_action_of_one_robot_does_not_shift_the_draws_of_another() -> None:
    poses = np.array([[1.5, 0.5, 1.9], [-1.5, -0.5, 1.0]])
    speeds = []
    for other in (0, 2):
        controller = _controller(2, seed=4)
        for _ in range(2):
            controller.start(np.array([1, other]), poses)
        speeds.append(controller.command(poses)[0][0])
    assert speeds[0] == speeds[1] > 0


def test_bad_input_is_refused_in_one_sentence() -> None:
    controller = _controller(2)
    poses = np.zeros((2, 3))
    with pytest.raises(InputError, match=r"shape \(3,\) for 2 robots"):
        controller.start(np.zeros(3, dtype=np.int64), poses)
    with pytest.raises(InputError, match="local action 3"):
        controller.start(np.array([0, 3]), poses)
    with pytest.raises(InputError, match="poses of shape"):
        controller.command(np.zeros((3, 3)))
    with pytest.raises(InputError, match="speed_mps = nan"):
        OptionSettings(speed_mps=math.nan)
    with pytest.raises(InputError, match="avoid_far"):
        OptionSettings(avoid_far=1.0)


@pytest.mark.parametrize(("radius", "inwards"), [(1.10, True), (1.90, False)])
@pytest.mark.parametrize("action", [1, 2])
def test_a_robot_with_its_nose_on_a_wall_turns_on_the_spot(
    radius: float, action: int, *, inwards: bool
) -> None:
    """Its wheels must turn against each other: driving on, both slip and it stays pinned."""
    layout, track_m = RingLayout(), 0.16
    controller = OptionController(layout, 1, np.random.default_rng(0))
    along = math.pi / 2 if action == 1 else -math.pi / 2
    to_wall = math.pi if inwards else 0.0
    # Half way between the way it wants to go and the wall.
    nose = to_wall + 0.5 * ((along - to_wall + math.pi) % (2 * math.pi) - math.pi)
    pose = np.array([[radius, 0.0, nose]])
    controller.start(np.array([action]), pose)
    v, w = controller.command(pose)
    assert v[0] < abs(w[0]) * track_m / 2
