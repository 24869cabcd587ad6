# SPDX-License-Identifier: MIT
"""Where robots of a ring start: at random, clear of the walls and of each other.

Random sequential placement: a place nearer than 2.1 radii to an earlier robot's is drawn again.
"""

import math

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.hardware.ring import SPAWN_SPACING, RingLayout
from kofn.sim.world import FloatArray

TRIES = 20_000


def place_robots(layout: RingLayout, n: int, generator: np.random.Generator) -> FloatArray:
    """Draw poses uniform over the ring's area, shape (n, 3), m, m, rad.

    Raises
    ------
    InputError
        The robots do not fit.
    """
    low, high = layout.spawn_m
    least = SPAWN_SPACING * layout.robot_radius_m
    poses = np.empty((n, 3))
    placed = 0
    for _ in range(TRIES):
        radius = math.sqrt(generator.uniform(low**2, high**2))
        angle, yaw = generator.uniform(0.0, 2.0 * math.pi), generator.uniform(-math.pi, math.pi)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        if np.all(np.hypot(poses[:placed, 0] - x, poses[:placed, 1] - y) >= least):
            poses[placed] = (x, y, yaw)
            placed += 1
            if placed == n:
                return poses
    raise InputError(f"{n} robots do not fit: only {placed} found a place at random in this ring")
