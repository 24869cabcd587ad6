# SPDX-License-Identifier: MIT
"""The localiser: pictures in, `pose/<host>` out, ten times a second.

A process of its own with its own identity (`localiser`), which may write poses and nothing else. It
sends what it has seen, with its age, and is silent about robots that it has not seen: a robot whose
pose grows old stops by itself. With a separation it also tells robots that are about to meet who
has to wait (`kofn.hardware.separation`; the lower name goes first): a waiting robot turns, but does
not go ahead. The speed of a robot is that between its last two fixes; one that waits is taken to go
on as soon as it may, at `CREEP_M_S`.
"""

import logging
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import Clock
from kofn.controller.link.messages import Pose, PoseRow, encode
from kofn.controller.link.topics import Topics, check_host, check_name
from kofn.controller.link.transport import Session, Transport
from kofn.hardware.localise.camera import CameraFile
from kofn.hardware.localise.detect import Picture, TagDetector
from kofn.hardware.localise.tags import check_tag
from kofn.hardware.localise.tracking import Fix, Tracker
from kofn.hardware.separation import must_wait

_log = logging.getLogger(__name__)

PERIOD_S = 0.1
FORGET_S = 2.0
"""A fix that is older than this is not sent any more."""
CREEP_M_S = 0.1
ROWS = 400
"""Robots in one message; a row takes some 60 bytes."""


class TaggedRobot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A robot, the host that speaks for it, the tag it wears and the tag's height, m."""

    robot: str
    host: str
    tag: int
    height_m: Annotated[float, Meta(ge=0, le=2)] = 0.10

    def __post_init__(self) -> None:
        check_name("robot", self.robot)
        check_host(self.host)
        check_tag(self.tag)


class Frame(NamedTuple):
    """A picture and when it was taken, fleet seconds."""

    picture: Picture
    at_s: float


class Localiser:
    """Publishes where robots are.

    Parameters
    ----------
    fleet
        Name of the fleet.
    robots
        Who wears which tag; a tag may be worn once.
    camera
        Lens and floor tags.
    transport, clock
        The connection and the time.
    v_max
        Greatest speed of a robot, m/s.
    separation_m
        Least distance between the centres of two robots, m; None: robots see to that themselves.
    detector
        Finds tags; None makes one.
    """

    def __init__(
        self,
        *,
        fleet: str,
        robots: Sequence[TaggedRobot],
        camera: CameraFile,
        transport: Transport,
        clock: Clock,
        v_max: float = 1.0,
        separation_m: float | None = None,
        detector: TagDetector | None = None,
    ) -> None:
        tags = [robot.tag for robot in robots]
        doubled = {tag for tag in tags if tags.count(tag) > 1}
        if doubled:
            raise InputError(f"tag {min(doubled)} is given to two robots")
        if not robots:
            raise InputError("no robot wears a tag: nothing to localise")
        if separation_m is not None and not 0 < separation_m <= 10:
            raise InputError(f"separation_m = {separation_m:g} must lie above 0 and be at most 10")
        # In the order of priority.
        self._robots = {robot.tag: robot for robot in sorted(robots, key=lambda r: r.robot)}
        self._separation_m = separation_m
        self._speeds: dict[int, float] = {}
        self._waiting: set[int] = set()
        self._topics = Topics(fleet)
        self._transport, self._clock = transport, clock
        self._boot = secrets.token_hex(8)
        heights = {robot.tag: robot.height_m for robot in robots}
        self._tracker = Tracker(camera, heights, v_max)
        self._detector = detector or TagDetector(width=camera.width)
        self._camera = camera
        self._fixes: dict[int, Fix] = {}
        self._sent_s = float("-inf")

    @property
    def counters(self) -> dict[str, int]:
        """Pictures, fixes, and refused fixes by reason."""
        return dict(self._tracker.counters)

    def open(self, timeout_s: float = 10.0) -> None:
        """Connect. Raises `RunError` when that fails."""
        session = Session(
            client_id="localiser",
            filters=(),
            will=lambda _connection: None,
            birth=lambda _connection: (),
            newest_only=frozenset(),
            fleet=self._topics.fleet,
        )
        self._transport.open(session, timeout_s)

    def run(self, frames: Iterator[Frame], should_stop: Callable[[], bool]) -> None:
        """Work until the pictures end or `should_stop()`."""
        for frame in frames:
            if should_stop():
                return
            self.see(frame)

    def see(self, frame: Frame) -> dict[int, Fix]:
        """Take a picture, publish when it is time; return the accepted fixes by tag.

        Raises
        ------
        InputError
            The picture is not of the camera's size.
        """
        size = frame.picture.shape[1], frame.picture.shape[0]
        if size != (self._camera.width, self._camera.height):
            raise InputError(
                f"picture of {size[0]} x {size[1]} px, the camera file says "
                f"{self._camera.width} x {self._camera.height}"
            )
        fixes = self._tracker.see(self._detector.find(frame.picture), frame.at_s)
        for tag, fix in fixes.items():
            self._speeds[tag] = _speed(self._fixes.get(tag), fix)
        self._fixes.update(fixes)
        now_s = self._clock.now()
        if now_s - self._sent_s >= PERIOD_S - 1e-9:
            self._sent_s = now_s
            self._publish(now_s)
        return fixes

    def close(self) -> None:
        """Disconnect; idempotent."""
        self._transport.close([])

    def _publish(self, now_s: float) -> None:
        rows: dict[str, list[PoseRow]] = {}
        fresh = [
            tag
            for tag in self._robots
            if tag in self._fixes and now_s - self._fixes[tag].at_s <= FORGET_S
        ]
        self._separate(fresh)
        for tag in fresh:
            fix, robot = self._fixes[tag], self._robots[tag]
            age_ms = max(0, round(1000 * (now_s - fix.at_s)))
            row = PoseRow(robot.robot, fix.x, fix.y, fix.yaw, age_ms, tag in self._waiting)
            rows.setdefault(robot.host, []).append(row)
        for host, poses in rows.items():
            for start in range(0, len(poses), ROWS):
                message = Pose(b=self._boot, r=poses[start : start + ROWS])
                self._transport.publish(self._topics.of("pose", host), encode(message))

    def _separate(self, tags: list[int]) -> None:
        """Find who of these robots, in the order of priority, has to wait."""
        if self._separation_m is None or not tags:
            return
        poses = np.array([self._fixes[tag][:3] for tag in tags])
        speeds = np.array(
            [max(self._speeds[tag], CREEP_M_S * (tag in self._waiting)) for tag in tags]
        )
        waits = must_wait(poses, speeds, separation_m=self._separation_m)
        now = {tag for tag, wait in zip(tags, waits.tolist(), strict=True) if wait}
        for tag in now - self._waiting:
            _log.info("robot=%s waits for others", self._robots[tag].robot)
        self._waiting = now


def _speed(before: Fix | None, now: Fix) -> float:
    """Speed ahead between two fixes, m/s."""
    if before is None or now.at_s <= before.at_s:
        return 0.0
    ahead = (now.x - before.x) * math.cos(now.yaw) + (now.y - before.y) * math.sin(now.yaw)
    return max(0.0, ahead / (now.at_s - before.at_s))


def camera_frames(device: int | str, camera: CameraFile, clock: Clock) -> Iterator[Frame]:
    """Pictures of an attached camera, newest first come, or of a film until it ends.

    Raises
    ------
    RunError
        There is no such camera, it stops giving pictures, or the film cannot be read.
    """
    import cv2

    film = isinstance(device, str)
    capture: Any = cv2.VideoCapture(device)
    try:
        if not capture.isOpened():
            if film:
                raise RunError(f"{device} cannot be read as a film")
            raise RunError(f"camera {device} cannot be opened: is it plugged in, and not in use?")
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, camera.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.height)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # an old picture is a wrong pose
        while True:
            ok, picture = capture.read()
            if not ok and film:
                return
            if not ok:
                raise RunError(f"camera {device} gives no more pictures")
            yield Frame(np.asarray(picture, dtype=np.uint8), clock.now())
    finally:
        capture.release()


def folder_frames(folder: Path, clock: Clock) -> Iterator[Frame]:
    """Pictures of a folder in the order of their names, for tests and recorded runs.

    Raises
    ------
    InputError
        No pictures there, or a file that is none.
    """
    import cv2

    files = sorted(path for path in folder.glob("*") if path.suffix in {".png", ".jpg"})
    if not files:
        raise InputError(f"no .png or .jpg pictures in {folder}")
    for file in files:
        picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise InputError(f"{file} is no picture")
        yield Frame(np.asarray(picture, dtype=np.uint8), clock.now())
