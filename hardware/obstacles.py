# SPDX-License-Identifier: MIT
"""Round obstacles of an arena: (x m, y m, radius m) each.

| symbol | name | shape | unit |
|---|---|---|---|
| - | obstacles | (m, 3) | m |
| d | distance of a robot's edge to an obstacle's | (n, m) | m |
"""

import math

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

FloatArray = npt.NDArray[np.float64]
Obstacles = tuple[tuple[float, float, float], ...]

MAX_OBSTACLES = 100
MARGIN = 2.0
"""Gap to an obstacle below which it steers a robot, in robot radii."""


def check_obstacles(obstacles: Obstacles) -> None:
    """Raise `InputError` unless each is a disc with finite numbers."""
    if len(obstacles) > MAX_OBSTACLES:
        raise InputError(f"{len(obstacles)} obstacles in one arena, at most {MAX_OBSTACLES}")
    for x, y, radius in obstacles:
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(radius) and radius > 0):
            raise InputError(
                f"obstacle ({x}, {y}, {radius}) must be a place and a radius above 0, in m"
            )


def gaps(obstacles: Obstacles, x: FloatArray, y: FloatArray, radius_m: float) -> FloatArray:
    """Distance from the edge of discs at (x, y), shape (n,), to each obstacle's; (n, m)."""
    place = np.asarray(obstacles, dtype=np.float64).reshape(-1, 3)
    distance: FloatArray = np.hypot(x[:, None] - place[:, 0], y[:, None] - place[:, 1])
    return distance - place[:, 2] - radius_m


def steer_around(
    obstacles: Obstacles, x: FloatArray, y: FloatArray, radius_m: float, direction: FloatArray
) -> FloatArray:
    """What obstacles add to the direction of travel (n, 2): away, and past on the nearer side."""
    if not obstacles:
        return np.zeros_like(direction)
    place = np.asarray(obstacles, dtype=np.float64)
    strength = np.clip(1.0 - gaps(obstacles, x, y, radius_m) / (MARGIN * radius_m), 0.0, 1.0)
    away = np.stack([x[:, None] - place[:, 0], y[:, None] - place[:, 1]], axis=-1)
    away /= np.maximum(np.hypot(away[..., 0], away[..., 1]), 1e-9)[..., None]
    past = np.stack([-away[..., 1], away[..., 0]], axis=-1)
    side = np.where(np.einsum("nmk,nk->nm", past, direction) >= 0, 1.0, -1.0)
    total: FloatArray = np.einsum("nm,nmk->nk", strength, away + side[..., None] * past)
    return total
