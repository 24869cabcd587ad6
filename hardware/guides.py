# SPDX-License-Identifier: MIT
"""Where robots want to go in an arena: the part of the option controller that knows its shape.

A guide keeps each robot's goal from the start of an option and answers at each tick: the unit
vector towards the next point of its way, whether it still has to move, and what walls add.

- ring: a mover follows a carrot on its lane, `look_ahead_rad` along the ring; within `core` of the
  half-sector around the goal's centre it goes to the parking radius and stops. A stay only goes
  back to the parking radius.
- grid: a mover heads for the centre of the goal cell (with lanes: for a point a quarter cell to the
  right of it) and stops within `core` of the half-cell. A stay only goes back into the middle 80 %
  of its cell.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from kofn.hardware.arena import Layout
from kofn.hardware.grid import MOVES, GridLayout
from kofn.hardware.ring import RingLayout, sector_centres, wrap

if TYPE_CHECKING:
    from kofn.hardware.option import OptionSettings

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_DIRECTION = np.array([0, 1, -1, 0], dtype=np.int64)
"""Sectors to move by for actions 0, 1, 2 and (as index -1) hold."""
_GRID_MOVES = np.array([*MOVES, (0, 0)], dtype=np.float64)
"""Cells to move by for each action and (as index -1) hold."""
GRID_STAY = 0.8
"""Share of the half-cell within which a robot of a grid may stay."""


class Guide(Protocol):
    """Ways of n robots in one arena; x and y have shape (n,), m."""

    def start(self, actions: IntArray, zones: IntArray) -> None:
        """Set the goals of an option that starts in `zones` (n,)."""
        ...

    def towards(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Unit vectors to the next point, shape (n, 2), and who has to move, shape (n,)."""
        ...

    def walls(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Push of the walls, shape (n, 2), of length 1 where a robot touches."""
        ...


def guide_of(layout: Layout, n: int, settings: "OptionSettings") -> Guide:
    """Return the guide of an arena for n robots."""
    if isinstance(layout, GridLayout):
        return GridGuide(layout, n, settings)
    return RingGuide(layout, n, settings)


class RingGuide:
    """Ways in a ring."""

    def __init__(self, layout: RingLayout, n: int, settings: "OptionSettings") -> None:
        self._layout, self._settings = layout, settings
        self._centres = sector_centres(layout)
        self._goal = np.zeros(n)
        self._lane = np.full(n, layout.middle_m)
        self._moving = np.zeros(n, dtype=np.bool_)

    def start(self, actions: IntArray, zones: IntArray) -> None:
        """Set goal sector and lane."""
        layout, direction = self._layout, _DIRECTION[actions]
        self._moving = actions > 0
        self._goal = self._centres[(zones + direction) % layout.zones]
        if layout.lanes:
            lanes = np.array([layout.middle_m, layout.lane_plus_m, layout.lane_minus_m])
            self._lane = lanes[direction]

    def towards(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Follow the carrot, or go back to the parking radius."""
        settings, layout = self._settings, self._layout
        radius = _length(x, y)
        angle = np.arctan2(y, x)
        ahead = wrap(self._goal - angle)
        travel = self._moving & (np.abs(ahead) > settings.core * 0.5 * layout.sector_rad)
        # On the lane while under way, to the parking radius once arrived or staying.
        carrot = angle + np.where(
            travel, np.clip(ahead, -settings.look_ahead_rad, settings.look_ahead_rad), 0.0
        )
        lane = np.where(travel, self._lane, layout.middle_m)
        off_lane = np.abs(radius - layout.middle_m) > settings.recentre * layout.robot_radius_m
        direction = np.stack([lane * np.cos(carrot) - x, lane * np.sin(carrot) - y], axis=1)
        return _unit(direction), travel | off_lane

    def walls(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Push of both walls along the radius."""
        layout, margin = self._layout, self._settings.wall_margin * self._layout.robot_radius_m
        radius = _length(x, y)
        from_inner = radius - layout.robot_radius_m - layout.inner_m
        from_outer = layout.outer_m - layout.robot_radius_m - radius
        outward = np.clip(1.0 - from_inner / margin, 0.0, 1.0) - np.clip(
            1.0 - from_outer / margin, 0.0, 1.0
        )
        push: FloatArray = (
            outward[:, None] * np.stack([x, y], axis=1) / np.maximum(radius, 1e-9)[:, None]
        )
        return push


class GridGuide:
    """Ways in a grid."""

    def __init__(self, layout: GridLayout, n: int, settings: "OptionSettings") -> None:
        self._layout, self._settings = layout, settings
        self._centres, self._neighbours = layout.centres(), layout.neighbours()
        self._goal = np.zeros((n, 2))
        self._offset = np.zeros((n, 2))
        self._moving = np.zeros(n, dtype=np.bool_)

    def start(self, actions: IntArray, zones: IntArray) -> None:
        """Set goal cell and the side to keep to."""
        goal = np.where(actions >= 0, self._neighbours[zones, np.maximum(actions, 0)], zones)
        self._moving = goal != zones
        self._goal = self._centres[goal]
        if self._layout.lanes:
            move = _GRID_MOVES[actions] * self._moving[:, None]
            self._offset = 0.25 * self._layout.cell_m * np.stack([move[:, 1], -move[:, 0]], axis=1)

    def towards(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Head for the goal, or back into the middle of the cell."""
        half = 0.5 * self._layout.cell_m
        place = np.stack([x, y], axis=1)
        aim = self._goal + self._offset
        off = np.abs(place - self._goal).max(axis=1)
        # Off the centre by the lane alone is arrived, so the core is wider than the lane's offset.
        core = max(self._settings.core, 0.6 if self._layout.lanes else 0.0)
        away = off > np.where(self._moving, core, GRID_STAY) * half
        return _unit(np.where(self._moving[:, None], aim, self._goal) - place), away

    def walls(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Push of the four walls inward."""
        layout, margin = self._layout, self._settings.wall_margin * self._layout.robot_radius_m
        _, _, width, height = layout.bounds_m
        push = np.empty((x.size, 2))
        for axis, (at, size) in enumerate(((x, width), (y, height))):
            gap = 0.5 * size - layout.robot_radius_m
            push[:, axis] = np.clip(1.0 - (at + gap) / margin, 0.0, 1.0) - np.clip(
                1.0 - (gap - at) / margin, 0.0, 1.0
            )
        return push


def _length(x: FloatArray, y: FloatArray) -> FloatArray:
    # hypot guards against overflow, and takes ten times as long.
    length: FloatArray = np.sqrt(x * x + y * y)
    return length


def _unit(direction: FloatArray) -> FloatArray:
    length = np.maximum(_length(direction[:, 0], direction[:, 1]), 1e-9)
    unit: FloatArray = direction / length[:, None]
    return unit
