# SPDX-License-Identifier: MIT
"""The localiser: pictures in, `pose/<host>` out, ten times a second.

A process of its own with its own identity (`localiser`), which may write poses and nothing else. It
sends what it has seen, with its age, and is silent about robots that it has not seen: a robot whose
pose grows old stops by itself.
"""

import logging
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

_log = logging.getLogger(__name__)

PERIOD_S = 0.1
FORGET_S = 2.0
"""A fix that is older than this is not sent any more."""
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
        detector: TagDetector | None = None,
    ) -> None:
        tags = [robot.tag for robot in robots]
        doubled = {tag for tag in tags if tags.count(tag) > 1}
        if doubled:
            raise InputError(f"tag {min(doubled)} is given to two robots")
        if not robots:
            raise InputError("no robot wears a tag: nothing to localise")
        self._robots = {robot.tag: robot for robot in robots}
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
        for tag, fix in self._fixes.items():
            age_s = now_s - fix.at_s
            if age_s <= FORGET_S:
                robot = self._robots[tag]
                row = PoseRow(robot.robot, fix.x, fix.y, fix.yaw, max(0, round(1000 * age_s)))
                rows.setdefault(robot.host, []).append(row)
        for host, poses in rows.items():
            for start in range(0, len(poses), ROWS):
                message = Pose(b=self._boot, r=poses[start : start + ROWS])
                self._transport.publish(self._topics.of("pose", host), encode(message))


def camera_frames(device: int, camera: CameraFile, clock: Clock) -> Iterator[Frame]:
    """Pictures of an attached camera, newest first come.

    Raises
    ------
    RunError
        There is no such camera, or it stops giving pictures.
    """
    import cv2

    capture: Any = cv2.VideoCapture(device)
    try:
        if not capture.isOpened():
            raise RunError(f"camera {device} cannot be opened: is it plugged in, and not in use?")
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, camera.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.height)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # an old picture is a wrong pose
        while True:
            ok, picture = capture.read()
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
