# SPDX-License-Identifier: MIT
"""Geometry of the grid arena: a rectangle cut into square cells, its zones, centred on the origin.

Zone of a pose: row * columns + column, with column = floor(x / cell + columns / 2), and row
likewise upwards in y. Actions: 0 stay, 1 east (+x), 2 west, 3 north (+y), 4 south; off the edge is
stay.

| symbol | name | shape | unit |
|---|---|---|---|
| K | zones = columns * rows | - | - |
| - | poses: x, y, heading | (n, 3) | m, m, rad |
"""

import math
from typing import ClassVar

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.hardware.obstacles import FloatArray, Obstacles, check_obstacles
from kofn.hardware.ring import SPAWN_COVER, SPAWN_MARGIN_M, SPAWN_SPACING, BoolArray, IntArray

MOVES: tuple[tuple[int, int], ...] = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Columns and rows to move by, per action."""
MAX_ZONES = 400


class GridLayout(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag="grid",
    tag_field="shape",
):
    """A grid arena and the traffic rule in it.

    Attributes
    ----------
    columns, rows
        Cells; at least two in all.
    cell_m
        Edge of a cell.
    lanes
        Keep right: robots under way are a quarter cell to the right of the centre line.
    robot_radius_m
        Radius of the (round) robots.
    walls
        Whether a wall runs round the arena.
    obstacles
        Discs (x m, y m, radius m) that nobody can enter.

    Raises
    ------
    InputError
        A value is out of range, or robots do not fit through a cell.
    """

    shape: ClassVar[str] = "grid"
    n_actions: ClassVar[int] = len(MOVES)

    columns: int = 3
    rows: int = 2
    cell_m: float = 1.2
    lanes: bool = True
    robot_radius_m: float = 0.10
    walls: bool = True
    obstacles: Obstacles = ()

    def __post_init__(self) -> None:
        if self.columns < 1 or self.rows < 1 or not 2 <= self.zones <= MAX_ZONES:
            raise InputError(
                f"a grid of {self.columns} columns and {self.rows} rows has {self.zones} zones, "
                f"it must have 2 to {MAX_ZONES}"
            )
        for name in ("cell_m", "robot_radius_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"grid {name} = {value} m must be a finite length above 0")
        room = 4.0 * (self.robot_radius_m + SPAWN_MARGIN_M)
        if self.cell_m < room:
            raise InputError(
                f"robots of radius {self.robot_radius_m} m do not fit: a cell is "
                f"{self.cell_m:g} m wide, two need {room:g} m to pass each other"
            )
        check_obstacles(self.obstacles)

    @property
    def zones(self) -> int:
        """Number of zones K."""
        return self.columns * self.rows

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """The walls: (0, 0, width, height) of a box round the origin."""
        return 0.0, 0.0, self.columns * self.cell_m, self.rows * self.cell_m

    @property
    def reach_m(self) -> float:
        """Distance from the origin within which the arena lies."""
        return 0.5 * math.hypot(self.columns * self.cell_m, self.rows * self.cell_m)

    @property
    def capacity(self) -> int:
        """How many robots can be placed at random."""
        gap = 2.0 * (self.robot_radius_m + SPAWN_MARGIN_M)
        area = (self.columns * self.cell_m - gap) * (self.rows * self.cell_m - gap)
        area -= sum(math.pi * (r + self.robot_radius_m) ** 2 for _, _, r in self.obstacles)
        disc = math.pi * (0.5 * SPAWN_SPACING * self.robot_radius_m) ** 2
        return max(1, int(SPAWN_COVER * area / disc))

    def as_arena(self) -> dict[str, object]:
        """Return the settings that a log header carries, enough to build and draw the arena."""
        table: dict[str, object] = msgspec.to_builtins(self)
        return {"zones": self.zones, **table}

    def zone_of(self, poses: FloatArray) -> IntArray:
        """Zone of each pose, shape (n,), the nearest for one outside; -1 where it is not finite."""
        x, y = poses[:, 0], poses[:, 1]
        known = np.isfinite(x) & np.isfinite(y)
        column = np.floor(np.where(known, x, 0.0) / self.cell_m + 0.5 * self.columns)
        row = np.floor(np.where(known, y, 0.0) / self.cell_m + 0.5 * self.rows)
        zone = (
            np.clip(row, 0, self.rows - 1) * self.columns + np.clip(column, 0, self.columns - 1)
        ).astype(np.int64)
        return np.where(known, zone, -1)

    def inside(self, poses: FloatArray) -> BoolArray:
        """Whether each pose's centre lies within the walls, shape (n,); False if not finite."""
        _, _, width, height = self.bounds_m
        within: BoolArray = (np.abs(poses[:, 0]) < 0.5 * width) & (
            np.abs(poses[:, 1]) < 0.5 * height
        )
        return within

    def centres(self) -> FloatArray:
        """Centre of each zone, shape (K, 2), m."""
        zone = np.arange(self.zones)
        column, row = zone % self.columns, zone // self.columns
        return np.stack(
            [
                (column + 0.5 - 0.5 * self.columns) * self.cell_m,
                (row + 0.5 - 0.5 * self.rows) * self.cell_m,
            ],
            axis=1,
        )

    def neighbours(self) -> IntArray:
        """Zone that each action leads to, shape (K, A)."""
        zone = np.arange(self.zones)
        table = np.empty((self.zones, len(MOVES)), dtype=np.int64)
        for a, (east, north) in enumerate(MOVES):
            column, row = zone % self.columns + east, zone // self.columns + north
            there = (column >= 0) & (column < self.columns) & (row >= 0) & (row < self.rows)
            table[:, a] = np.where(there, row * self.columns + column, zone)
        return table

    def spawn(self, generator: np.random.Generator) -> tuple[float, float]:
        """Draw a place uniform over the arena, clear of its walls."""
        gap = self.robot_radius_m + SPAWN_MARGIN_M
        _, _, width, height = self.bounds_m
        x = generator.uniform(gap - 0.5 * width, 0.5 * width - gap)
        return x, generator.uniform(gap - 0.5 * height, 0.5 * height - gap)
