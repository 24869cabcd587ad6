# SPDX-License-Identifier: MIT
"""From tags to poses that may be steered by: which fixes count, and what odometry makes of them.

A fix is refused, and counted, when its tag was seen twice in one picture, when the floor was not
seen, or when the robot would have jumped:

    |p - p_last| > v_max dt + 5 cm

A robot that was really carried elsewhere comes back when it has had no accepted fix for
`LOST_S` and two refused ones in a row agree with each other.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.hardware.localise.camera import CameraFile, FloorView, see_floor, straighten
from kofn.hardware.localise.detect import Seen

FloatArray = npt.NDArray[np.float64]

SLACK_M = 0.05
LOST_S = 1.0


class Fix(NamedTuple):
    """Pose of a robot in the arena (m, m, rad) at `at_s`."""

    x: float
    y: float
    yaw: float
    at_s: float


class Tracker:
    """Poses of robots by tag id.

    Parameters
    ----------
    camera
        The camera that the pictures come from.
    heights
        Height of each robot's tag above the floor by tag id, m; ids that are not in it are nobody.
    v_max
        Greatest speed of a robot, m/s.
    """

    def __init__(self, camera: CameraFile, heights: Mapping[int, float], v_max: float) -> None:
        self._camera, self._heights, self._v_max = camera, dict(heights), v_max
        self._last: dict[int, Fix] = {}
        self._refused: dict[int, Fix] = {}
        self.view: FloorView | None = None
        self.counters: Counter[str] = Counter()

    def see(self, seen: Seen, at_s: float) -> dict[int, Fix]:
        """Take the tags of a picture that was taken at `at_s`; return the accepted fixes by id."""
        self.counters["pictures"] += 1
        self.counters["fix_doubled"] += sum(1 for number in seen.doubled if self._ours(number))
        corners = {number: straighten(self._camera, quad) for number, quad in seen.corners.items()}
        view = see_floor(self._camera, corners)
        self.view = view
        robots = [number for number in corners if number in self._heights]
        if view is None:
            self.counters["floor_lost"] += 1
            self.counters["fix_without_floor"] += len(robots)
            return {}
        fixes = {}
        for number in robots:
            fix = locate(view, corners[number], self._heights[number], at_s)
            if self._plausible(number, fix):
                self._last[number] = fixes[number] = fix
                self._refused.pop(number, None)
                self.counters["fixes"] += 1
        return fixes

    def _ours(self, number: int) -> bool:
        return number in self._heights

    def _plausible(self, number: int, fix: Fix) -> bool:
        last = self._last.get(number)
        if last is None or self._near(last, fix):
            return True
        before = self._refused.get(number)
        self._refused[number] = fix
        lost = fix.at_s - last.at_s > LOST_S
        if lost and before is not None and self._near(before, fix):
            self.counters["fix_carried"] += 1
            return True
        self.counters["fix_jump"] += 1
        return False

    def _near(self, old: Fix, new: Fix) -> bool:
        way = math.hypot(new.x - old.x, new.y - old.y)
        return way <= self._v_max * max(new.at_s - old.at_s, 0.0) + SLACK_M


def locate(view: FloorView, quad: FloatArray, height_m: float, at_s: float) -> Fix:
    """Pose of a tag whose top edge points forward, from its corrected corners, shape (4, 2)."""
    floor = view.on_floor(quad, height_m)
    centre = floor.mean(axis=0)
    ahead = floor[0] + floor[1] - floor[2] - floor[3]
    return Fix(float(centre[0]), float(centre[1]), float(np.arctan2(ahead[1], ahead[0])), at_s)
