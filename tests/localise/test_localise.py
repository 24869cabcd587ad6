# SPDX-License-Identifier: MIT
"""Robots are found in synthetic pictures where they are, and what cannot be true is refused."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.memory import MemoryBus, MemoryTransport
from kofn.controller.link.messages import Pose, decode
from kofn.controller.link.transport import Session
from kofn.hardware.localise.camera import FloorView, read_camera, see_floor
from kofn.hardware.localise.detect import Seen, TagDetector
from kofn.hardware.localise.localiser import Frame, Localiser, TaggedRobot, folder_frames
from kofn.hardware.localise.synthetic import Scene, Studio, Truth, make_camera
from kofn.hardware.localise.tags import CELLS, FLOOR_IDS, cells
from kofn.hardware.localise.tracking import Tracker
from kofn.hardware.localise.zones import ZoneHysteresis
from kofn.hardware.ring import RingLayout, zone_of
from kofn.launch.tag_sheets import write_sheets

pytest.importorskip("cv2", reason="opencv is not installed (extra hardware)")

ROBOTS = list(range(20))
HEIGHTS = dict.fromkeys(ROBOTS, 0.10)


def studio(seed: int, distortion: float = 0.0) -> Studio:
    return Studio(make_camera(distortion=distortion), np.random.default_rng(seed))


@pytest.mark.parametrize(("distortion", "blur_px"), [(0.0, 0.6), (-0.1, 0.8)])
def test_twenty_robots_are_found_to_the_millimetre(distortion: float, blur_px: float) -> None:
    errors = []
    for seed in range(3):
        scene = studio(seed, distortion)
        truth = scene.scatter(ROBOTS)
        picture = scene.shoot(truth, Scene(blur_px=blur_px))
        tracker = Tracker(make_camera(distortion=distortion), HEIGHTS, 0.6)
        fixes = tracker.see(TagDetector().find(picture), 0.0)
        assert sorted(fixes) == ROBOTS
        errors += [np.hypot(fixes[i].x - truth[i].x, fixes[i].y - truth[i].y) for i in ROBOTS]
        turns = [np.angle(np.exp(1j * (fixes[i].yaw - truth[i].yaw))) for i in ROBOTS]
        assert np.abs(turns).max() < np.radians(6)
    assert np.median(errors) <= 0.003
    assert max(errors) <= 0.01


def test_ignoring_the_height_of_tags_would_be_wrong_by_centimetres() -> None:
    scene = studio(0)
    truth = {0: Truth(1.5, 1.0, 0.0)}
    seen = TagDetector().find(scene.shoot(truth))
    found = {}
    for height in (0.0, 0.10):
        tracker = Tracker(make_camera(), {0: height}, 0.6)
        fix = tracker.see(seen, 0.0)[0]
        found[height] = np.hypot(fix.x - 1.5, fix.y - 1.0)
    assert found[0.0] > 0.03
    assert found[0.10] < 0.005


def test_a_doubled_tag_and_a_covered_one_give_no_fix_and_the_double_is_counted() -> None:
    scene = studio(1)
    truth = scene.scatter(ROBOTS[:6])
    picture = scene.shoot(truth, Scene(doubled=3, hidden=(4,)))
    tracker = Tracker(make_camera(), HEIGHTS, 0.6)
    fixes = tracker.see(TagDetector().find(picture), 0.0)
    assert 3 not in fixes
    assert tracker.counters["fix_doubled"] == 1
    assert {0, 1, 2, 5} <= set(fixes)


def test_without_four_floor_tags_there_are_no_fixes() -> None:
    scene = studio(2)
    seen = TagDetector().find(scene.shoot(scene.scatter(ROBOTS[:5])))
    corners = {number: quad for number, quad in seen.corners.items() if number != FLOOR_IDS[2]}
    tracker = Tracker(make_camera(), HEIGHTS, 0.6)
    assert tracker.see(Seen(corners, ()), 0.0) == {}
    assert tracker.counters["fix_without_floor"] == 5


def test_a_floor_tag_that_was_moved_is_noticed() -> None:
    scene = studio(3)
    seen = TagDetector().find(scene.shoot({}))
    camera = make_camera()
    moved = [
        msgspec.structs.replace(tag, x=tag.x + (0.2 if tag.id == FLOOR_IDS[0] else 0.0))
        for tag in camera.floor
    ]
    assert see_floor(camera, seen.corners) is not None
    assert see_floor(msgspec.structs.replace(camera, floor=moved), seen.corners) is None


class Floor:
    """A tracker whose fixes the test places: pictures are left out."""

    def __init__(self, v_max: float) -> None:
        self.tracker = Tracker(make_camera(), {0: 0.0}, v_max)
        scene = studio(4)
        self.corners = TagDetector().find(scene.shoot({})).corners
        view = see_floor(make_camera(), self.corners)
        assert view is not None
        self.view: FloorView = view

    def at(self, x: float, y: float, at_s: float) -> bool:
        square = np.array([[0.05, 0.05], [0.05, -0.05], [-0.05, -0.05], [-0.05, 0.05]])
        moved = square + np.array([x, y])
        points = np.concatenate([moved, np.ones((4, 1))], axis=1) @ self.view.H.T
        corners = {**self.corners, 0: points[:, :2] / points[:, 2:]}
        return 0 in self.tracker.see(Seen(corners, ()), at_s)


def test_a_jump_is_refused_until_the_robot_was_clearly_carried_there() -> None:
    floor = Floor(0.5)
    assert floor.at(0.0, 0.0, 0.0)
    assert floor.at(0.05, 0.0, 0.1)
    assert not floor.at(1.0, 0.0, 0.2)
    assert floor.at(0.1, 0.0, 0.3)
    assert floor.tracker.counters["fix_jump"] == 1
    # Carried: a second without a good fix, then two that agree.
    assert not floor.at(1.5, 0.5, 1.4)
    assert floor.at(1.5, 0.52, 1.5)
    assert floor.tracker.counters["fix_carried"] == 1


@given(st.lists(st.tuples(st.floats(-1.5, 1.5), st.floats(0.02, 0.2)), min_size=1, max_size=15))
@settings(max_examples=40, deadline=None)
def test_accepted_fixes_never_move_faster_than_the_robot_can(
    path: list[tuple[float, float]],
) -> None:
    floor, now, last = FLOOR, 0.0, None
    floor.tracker = Tracker(make_camera(), {0: 0.0}, 0.5)
    for x, dt in path:
        now += dt
        if floor.at(x, 0.0, now):
            if last is not None and now - last[1] <= 1.0:
                assert abs(x - last[0]) <= 0.5 * (now - last[1]) + 0.05 + 1e-6
            last = x, now


FLOOR = Floor(0.5)


def test_zones_change_only_when_a_robot_is_clearly_beyond_the_border() -> None:
    layout = RingLayout(zones=5)
    zones = ZoneHysteresis(lambda poses: zone_of(layout, poses), 1)

    def at(offset_m: float) -> int:
        angle = layout.sector_rad + offset_m / 1.5
        return int(zones.see(np.array([[1.5 * np.cos(angle), 1.5 * np.sin(angle), 0.0]]))[0])

    assert [at(-0.2), at(0.04), at(-0.04), at(0.04)] == [0, 0, 0, 0]
    assert [at(0.06), at(0.04), at(0.06), at(0.07)] == [0, 0, 0, 1]
    assert int(zones.see(np.full((1, 3), np.nan))[0]) == -1
    assert at(-0.01) == 0


def test_poses_are_published_per_host_ten_times_a_second_with_their_age() -> None:
    clock = FakeClock()
    bus = MemoryBus(clock)
    listener = MemoryTransport(bus)
    session = Session("h0", [("kofn1/f/pose/+", 0)], lambda _c: None, lambda _c: ())
    listener.open(session)
    localiser = Localiser(
        fleet="f",
        robots=[
            TaggedRobot(robot="a", host="h0", tag=0),
            TaggedRobot(robot="b", host="h1", tag=1),
            TaggedRobot(robot="c", host="h1", tag=2),
        ],
        camera=make_camera(),
        transport=MemoryTransport(bus),
        clock=clock,
    )
    localiser.open()
    scene = studio(5)
    truth = scene.scatter([0, 1, 7])  # tag 7 is nobody's, robot c is not in sight
    picture = scene.shoot(truth)
    for _ in range(20):
        localiser.see(Frame(picture, clock.now()))
        clock.advance_to(clock.now() + 0.05)
    got: dict[str, list[Pose]] = {}
    while (message := listener.receive(0.0)) is not None:
        got.setdefault(message.topic, []).append(decode(Pose, message.payload))
    assert {topic: len(poses) for topic, poses in got.items()} == {
        "kofn1/f/pose/h0": 10,
        "kofn1/f/pose/h1": 10,
    }
    (row,) = got["kofn1/f/pose/h0"][-1].r
    assert (row.id, row.age_ms) == ("a", 0)
    assert np.hypot(row.x - truth[0].x, row.y - truth[0].y) < 0.005


class Script(TagDetector):
    """Sees what the test says: robots by tag at x, y, heading."""

    def __init__(self) -> None:
        self.robots: dict[int, tuple[float, float, float]] = {}

    def find(self, picture: Any) -> Seen:
        corners = dict(FLOOR.corners)
        for tag, (x, y, yaw) in self.robots.items():
            local = np.array([[0.05, 0.05], [0.05, -0.05], [-0.05, -0.05], [-0.05, 0.05]])
            turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
            points = np.column_stack([local @ turn + np.array([x, y]), np.ones(4)])
            points = points @ FLOOR.view.H.T
            corners[tag] = points[:, :2] / points[:, 2:]
        return Seen(corners, ())


def test_robots_that_obey_the_localiser_cross_without_meeting_and_all_get_through() -> None:
    clock, detector = FakeClock(), Script()
    bus = MemoryBus(clock)
    ear = MemoryTransport(bus)
    ear.open(Session("h", [("kofn1/f/pose/h", 0)], lambda _c: None, lambda _c: ()))
    localiser = Localiser(
        fleet="f",
        robots=[TaggedRobot(robot=f"r{i}", host="h", tag=i, height_m=0.0) for i in range(3)],
        camera=make_camera(),
        transport=MemoryTransport(bus),
        clock=clock,
        separation_m=0.3,
        detector=detector,
    )
    localiser.open()
    at = {0: (-1.0, 0.0, 0.0), 1: (0.0, -1.0, np.pi / 2), 2: (0.7, 0.7, -0.75 * np.pi)}
    blank = np.zeros((960, 1280), dtype=np.uint8)
    waits: dict[str, bool] = {}
    waited, nearest = set(), np.inf
    for _ in range(200):
        detector.robots = at
        localiser.see(Frame(blank, clock.now()))
        while (message := ear.receive(0.0)) is not None:
            waits = {row.id: row.wait for row in decode(Pose, message.payload).r}
        waited |= {robot for robot, wait in waits.items() if wait}
        clock.advance_to(clock.now() + 0.1)
        for i, (x, y, yaw) in at.items():
            v = 0.0 if waits[f"r{i}"] else 0.2
            at[i] = (x + 0.1 * v * np.cos(yaw), y + 0.1 * v * np.sin(yaw), yaw)
        spots = np.array([pose[:2] for pose in at.values()])
        gaps = np.linalg.norm(spots[:, None] - spots[None], axis=2)[np.triu_indices(3, 1)]
        nearest = min(nearest, float(gaps.min()))
    assert waited == {"r1", "r2"}
    assert nearest > 0.21  # two robots of 10 cm radius
    assert all(np.hypot(x, y) > 1.0 for x, y, _ in at.values())  # all are through


def test_a_tag_given_twice_and_a_floor_id_are_refused() -> None:
    def make(*tags: int) -> Localiser:
        robots = [TaggedRobot(robot=f"r{i}", host="h", tag=tag) for i, tag in enumerate(tags)]
        clock = FakeClock()
        return Localiser(
            fleet="f", robots=robots, camera=make_camera(),
            transport=MemoryTransport(MemoryBus(clock)), clock=clock,
        )  # fmt: skip

    with pytest.raises(InputError, match="tag 4 is given to two robots"):
        make(4, 4)
    with pytest.raises(InputError, match="must lie in 0"):
        make(FLOOR_IDS[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"focal_px": (0.0, 1.0)}, "focal_px"),
        ({"width": 3}, "width"),
        ({"lens": 1}, "lens"),
    ],
)
def test_a_bad_camera_file_is_one_sentence(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    fields = msgspec.to_builtins(make_camera()) | change
    file = tmp_path / "camera.toml"
    file.write_bytes(msgspec.toml.encode(fields))
    with pytest.raises(InputError, match=says):
        read_camera(file)


def test_three_floor_tags_are_too_few(tmp_path: Path) -> None:
    fields = msgspec.to_builtins(make_camera())
    fields["floor"] = fields["floor"][:3]
    file = tmp_path / "camera.toml"
    file.write_bytes(msgspec.toml.encode(fields))
    with pytest.raises(InputError, match="at least four"):
        read_camera(file)


def test_sheets_hold_every_tag_at_its_size(tmp_path: Path) -> None:
    out = tmp_path / "tags.pdf"
    assert write_sheets(out, [*range(3), *FLOOR_IDS], names={0: "r0"}) == 7
    assert out.read_bytes().startswith(b"%PDF")
    with pytest.raises(InputError, match="fit on A4"):
        write_sheets(out, [0], side_m=0.3)
    border = cells(0)
    assert not border[0].any()
    assert not border[:, CELLS - 1].any()


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.png"):
        next(folder_frames(tmp_path, FakeClock()))


def test_a_hosts_robot_takes_its_own_poses_and_an_old_one_makes_it_unavailable() -> None:
    from kofn.controller.link.messages import PoseRow, encode
    from kofn.hardware.agent import HostAgent
    from kofn.hardware.driver_bank import DriverBank
    from kofn.hardware.drivers.dry_run import DryRunDriver

    clock = FakeClock()
    bus = MemoryBus(clock)
    bank = DriverBank(DryRunDriver(clock), robot="r0", layout=RingLayout(), clock=clock)
    agent = HostAgent(
        fleet="f", host="h0", bank=bank, transport=MemoryTransport(bus), clock=clock, seed=0
    )
    voice = MemoryTransport(bus)
    voice.open(Session("localiser", [], lambda _c: None, lambda _c: ()))
    agent.open()
    try:
        layout = RingLayout()
        angle = 2.5 * layout.sector_rad  # the middle of zone 2
        there = (1.5 * float(np.cos(angle)), 1.5 * float(np.sin(angle)), 0.3)
        poses = Pose(b="b", r=[PoseRow("other", 0, 0, 0, 0), PoseRow("r0", *there, 40)])
        for _ in range(2):
            voice.publish("kofn1/f/pose/h0", encode(poses))
            inbound = agent._transport.receive(0.0)
            assert inbound is not None
            agent.on_message(inbound)
        assert bank.pose == pytest.approx(there)
        assert int(bank.read().zones[0]) == 2
        assert agent.counters["poses"] == 2
    finally:
        agent.close()
