# SPDX-License-Identifier: MIT
"""Where robots start: uniform over an arena, clear of walls, obstacles and each other.

Random sequential placement: a place nearer than 2.1 radii to an earlier robot's, or in an obstacle,
is drawn again. Placed robots are looked up by square cells of that edge, so n robots cost n.
"""

import math

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.hardware.arena import Layout
from kofn.hardware.obstacles import gaps
from kofn.hardware.ring import SPAWN_SPACING
from kofn.sim.world import FloatArray

TRIES = 20_000
TRIES_PER_ROBOT = 200


def place_robots(layout: Layout, n: int, generator: np.random.Generator) -> FloatArray:
    """Draw poses uniform over the arena, shape (n, 3), m, m, rad.

    Raises
    ------
    InputError
        The robots do not fit.
    """
    least = SPAWN_SPACING * layout.robot_radius_m
    placed: list[tuple[float, float, float]] = []
    cells: dict[tuple[int, int], list[int]] = {}
    for _ in range(max(TRIES, TRIES_PER_ROBOT * n)):
        x, y = layout.spawn(generator)
        yaw = generator.uniform(-math.pi, math.pi)
        column, row = math.floor(x / least), math.floor(y / least)
        near = (
            placed[i]
            for c in range(column - 1, column + 2)
            for r in range(row - 1, row + 2)
            for i in cells.get((c, r), ())
        )
        if any(math.hypot(other[0] - x, other[1] - y) < least for other in near):
            continue
        if layout.obstacles and (
            gaps(layout.obstacles, np.array([x]), np.array([y]), layout.robot_radius_m).min() <= 0
        ):
            continue
        cells.setdefault((column, row), []).append(len(placed))
        placed.append((x, y, yaw))
        if len(placed) == n:
            return np.array(placed)
    raise InputError(
        f"{n} robots do not fit: only {len(placed)} found a place at random in this {layout.shape}"
    )
