# SPDX-License-Identifier: MIT
"""Geometry of the ring arena: an annulus cut into K equal sectors, its zones.

Zone of a pose (x, y): j = floor(angle / (2 pi / K)), angle = atan2(y, x) in [0, 2 pi).

| symbol | name | shape | unit |
|---|---|---|---|
| K | zones | - | - |
| r | inner_m, outer_m: walls; lane_*_m: radii on which robots drive and park | - | m |
| - | poses: x, y, heading | (n, 3) | m, m, rad |
"""

import math
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.hardware.obstacles import Obstacles, check_obstacles

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

N_ACTIONS = 3
"""Local actions of a ring: 0 stay, 1 to the next sector counter-clockwise, 2 to the one before."""

SPAWN_MARGIN_M = 0.05
"""Free space between a robot and a wall when robots are placed."""
SPAWN_SPACING = 2.1
"""Least distance of two centres when robots are placed, in robot radii."""
SPAWN_COVER = 0.4
"""Share of the spawn area that discs of that spacing may cover; random placing jams near 0.55."""


class RingLayout(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag="ring",
    tag_field="shape",
):
    """A ring arena and the traffic rule in it.

    Attributes
    ----------
    zones
        Sectors K, at least 3 (with two, both neighbours are the same zone).
    inner_m, outer_m
        Radii of the two walls.
    lane_plus_m, lane_minus_m, lane_park_m
        Radii for robots that move counter-clockwise, clockwise, and that have stopped.
    lanes
        Whether that rule is on; without it everybody uses the middle of the ring.
    robot_radius_m
        Radius of the (round) robots.
    walls
        Whether there are walls at both radii; without them a robot can leave the arena.
    obstacles
        Discs (x m, y m, radius m) that nobody can enter.

    Raises
    ------
    InputError
        A value is out of range, or robots do not fit between the walls on their lanes.
    """

    shape: ClassVar[str] = "ring"
    n_actions: ClassVar[int] = N_ACTIONS

    zones: int = 5
    inner_m: float = 1.0
    outer_m: float = 2.0
    lane_plus_m: float = 1.78
    lane_minus_m: float = 1.22
    lane_park_m: float = 1.50
    lanes: bool = True
    robot_radius_m: float = 0.10
    walls: bool = True
    obstacles: Obstacles = ()

    def __post_init__(self) -> None:
        if self.zones < 3:
            raise InputError(f"a ring of {self.zones} zones is too small, the least is 3")
        for name in ("inner_m", "outer_m", "robot_radius_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"ring {name} = {value} m must be a finite length above 0")
        if not self.outer_m > self.inner_m:
            raise InputError(
                f"ring outer_m = {self.outer_m} m must be above inner_m = {self.inner_m} m"
            )
        room = 2.0 * (self.robot_radius_m + SPAWN_MARGIN_M)
        if self.outer_m - self.inner_m < room:
            raise InputError(
                f"robots of radius {self.robot_radius_m} m do not fit: the ring is "
                f"{self.outer_m - self.inner_m:g} m wide and needs {room:g} m"
            )
        check_obstacles(self.obstacles)
        if not self.lanes:
            return
        low, high = self.inner_m + self.robot_radius_m, self.outer_m - self.robot_radius_m
        for name in ("lane_plus_m", "lane_minus_m", "lane_park_m"):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"ring {name} = {value} m must lie in {low:g}..{high:g} m, "
                    f"so that a robot of radius {self.robot_radius_m} m clears the walls"
                )
        if not self.lane_minus_m < self.lane_park_m < self.lane_plus_m:
            raise InputError(
                f"ring lanes must be ordered lane_minus_m < lane_park_m < lane_plus_m, got "
                f"{self.lane_minus_m}, {self.lane_park_m}, {self.lane_plus_m} m"
            )

    @property
    def sector_rad(self) -> float:
        """Angle of one zone, rad."""
        return 2.0 * math.pi / self.zones

    @property
    def middle_m(self) -> float:
        """Radius on which robots park, m."""
        return self.lane_park_m if self.lanes else 0.5 * (self.inner_m + self.outer_m)

    @property
    def spawn_m(self) -> tuple[float, float]:
        """Least and greatest radius of a placed robot's centre, m."""
        gap = self.robot_radius_m + SPAWN_MARGIN_M
        return self.inner_m + gap, self.outer_m - gap

    @property
    def capacity(self) -> int:
        """How many robots can be placed at random."""
        low, high = self.spawn_m
        disc = math.pi * (0.5 * SPAWN_SPACING * self.robot_radius_m) ** 2
        area = math.pi * (high**2 - low**2)
        area -= sum(math.pi * (r + self.robot_radius_m) ** 2 for _, _, r in self.obstacles)
        return max(1, int(SPAWN_COVER * area / disc))

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """The walls: (inner, outer, 0, 0)."""
        return self.inner_m, self.outer_m, 0.0, 0.0

    @property
    def reach_m(self) -> float:
        """Distance from the origin within which the arena lies."""
        return self.outer_m

    def zone_of(self, poses: FloatArray) -> IntArray:
        """Zone of each pose, shape (n,); see the function `zone_of`."""
        return zone_of(self, poses)

    def inside(self, poses: FloatArray) -> BoolArray:
        """Whether each pose's centre is in the ring, shape (n,); see `in_ring`."""
        return in_ring(self, poses)

    def spawn(self, generator: np.random.Generator) -> tuple[float, float]:
        """Draw a place uniform over the ring's area, clear of its walls."""
        low, high = self.spawn_m
        radius = math.sqrt(generator.uniform(low**2, high**2))
        angle = generator.uniform(0.0, 2.0 * math.pi)
        return radius * math.cos(angle), radius * math.sin(angle)

    def as_arena(self) -> dict[str, object]:
        """Return the settings that a log header carries, enough to build and draw the arena."""
        table: dict[str, object] = msgspec.to_builtins(self)
        return table


def wrap(angle: FloatArray) -> FloatArray:
    """Bring angles to [-pi, pi), rad, same shape."""
    wrapped: FloatArray = (angle + np.pi) % (2.0 * np.pi) - np.pi
    return wrapped


def zone_of(layout: RingLayout, poses: FloatArray) -> IntArray:
    """Zone of each pose by its polar angle, shape (n,); -1 where a pose is not finite.

    The radius is not looked at: `in_ring` says whether a pose is in the arena.
    """
    x, y = poses[:, 0], poses[:, 1]
    known = np.isfinite(x) & np.isfinite(y)
    angle = np.arctan2(np.where(known, y, 0.0), np.where(known, x, 0.0)) % (2.0 * np.pi)
    # The remainder of a tiny negative angle rounds to 2 pi itself.
    zone = np.minimum((angle / layout.sector_rad).astype(np.int64), layout.zones - 1)
    return np.where(known, zone, -1)


def in_ring(layout: RingLayout, poses: FloatArray) -> BoolArray:
    """Whether each pose's centre lies between the walls, shape (n,); False if not finite."""
    radius = np.hypot(poses[:, 0], poses[:, 1])
    inside: BoolArray = (radius > layout.inner_m) & (radius < layout.outer_m)
    return inside


def sector_centres(layout: RingLayout) -> FloatArray:
    """Polar angle of the centre of each zone, rad, shape (K,)."""
    return (np.arange(layout.zones, dtype=np.float64) + 0.5) * np.float64(layout.sector_rad)
