# SPDX-License-Identifier: MIT
"""Arithmetic of the kinematic world: driving, neighbours by cell, pushing apart, walls.

| symbol | name | shape | unit |
|---|---|---|---|
| - | bodies: x, y, heading | (n, 3) | m, m, rad |
| - | bounds: (inner, outer, 0, 0) of a ring, or (0, 0, width, height) of a box round the origin |
| - | obstacles: x, y, radius | (m, 3) | m |
| - | cells: columns, rows, first place of each cell in the list of robots by cell, that list |

Robots are visited in the order of their cells, one after the other, so results depend on poses
alone.
"""

import math

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline, jit

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MAX_CELLS = 1 << 20


@jit
def drive(bodies: FloatArray, v: FloatArray, w: FloatArray, dt: float) -> None:
    """Move unicycles by `dt` s, in place; headings stay in [-pi, pi)."""
    for i in range(bodies.shape[0]):
        yaw = bodies[i, 2]
        bodies[i, 0] += dt * v[i] * math.cos(yaw)
        bodies[i, 1] += dt * v[i] * math.sin(yaw)
        yaw += dt * w[i]
        if yaw >= math.pi:
            yaw -= 2.0 * math.pi
        elif yaw < -math.pi:
            yaw += 2.0 * math.pi
        bodies[i, 2] = yaw


@jit
def cells_of(bodies: FloatArray, edge: float) -> tuple[int, int, IntArray, IntArray]:
    """Sort robots into square cells of at least `edge` m: (columns, rows, first, order).

    A robot whose place is not finite is in no cell.
    """
    n = bodies.shape[0]
    low_x = low_y = math.inf
    high_x = high_y = -math.inf
    for i in range(n):
        x, y = bodies[i, 0], bodies[i, 1]
        if math.isfinite(x) and math.isfinite(y):
            low_x, high_x = min(low_x, x), max(high_x, x)
            low_y, high_y = min(low_y, y), max(high_y, y)
    if low_x > high_x:
        low_x = high_x = low_y = high_y = 0.0
    while ((high_x - low_x) / edge + 1.0) * ((high_y - low_y) / edge + 1.0) > MAX_CELLS:
        edge *= 2.0
    columns = int((high_x - low_x) / edge) + 1
    rows = int((high_y - low_y) / edge) + 1
    cell = np.empty(n, dtype=np.int64)
    first = np.zeros(columns * rows + 1, dtype=np.int64)
    for i in range(n):
        x, y = bodies[i, 0], bodies[i, 1]
        cell[i] = -1
        if math.isfinite(x) and math.isfinite(y):
            cell[i] = int((y - low_y) / edge) * columns + int((x - low_x) / edge)
            first[cell[i] + 1] += 1
    for c in range(columns * rows):
        first[c + 1] += first[c]
    order = np.empty(first[-1], dtype=np.int64)
    free = first[:-1].copy()
    for i in range(n):
        if cell[i] >= 0:
            order[free[cell[i]]] = i
            free[cell[i]] += 1
    return columns, rows, first, order


@inline
def _pairs(
    turn: int, at: int, row: int, column: int, rows: int, columns: int, first: IntArray
) -> tuple[int, int]:
    """Range of places in `order` to pair with place `at`, so that each pair comes once.

    Turn 0: the rest of this cell and the next one of its row; turn 1: three cells of the next row.
    """
    right = 2 if column + 1 < columns else 1
    home = row * columns + column
    if turn == 0:
        return at + 1, first[home + right]
    if row + 1 >= rows:
        return 0, 0
    below = home + columns
    return first[below - (1 if column > 0 else 0)], first[below + right]


@jit
def push_apart(
    bodies: FloatArray,
    radius: float,
    columns: int,
    rows: int,
    first: IntArray,
    order: IntArray,
) -> None:
    """Move overlapping discs apart by half of the overlap each, pair after pair, in place."""
    least = 2.0 * radius
    for row in range(rows):
        for column in range(columns):
            home = row * columns + column
            for at in range(first[home], first[home + 1]):
                i = order[at]
                for turn in range(2):
                    begin, end = _pairs(turn, at, row, column, rows, columns, first)
                    for other in range(begin, end):
                        j = order[other]
                        dx, dy = bodies[i, 0] - bodies[j, 0], bodies[i, 1] - bodies[j, 1]
                        square = dx * dx + dy * dy
                        if square >= least * least:
                            continue
                        distance = math.sqrt(square)
                        if distance < 1e-9:  # on one spot: along x, whatever the rest
                            dx, dy, distance = 1.0, 0.0, 1.0
                            shift = 0.5 * least
                        else:
                            shift = 0.5 * (least - distance)
                        bodies[i, 0] += shift * dx / distance
                        bodies[i, 1] += shift * dy / distance
                        bodies[j, 0] -= shift * dx / distance
                        bodies[j, 1] -= shift * dy / distance


@jit
def keep_inside(
    bodies: FloatArray, radius: float, bounds: FloatArray, obstacles: FloatArray
) -> None:
    """Move discs out of obstacles and walls, in place."""
    inner, outer, width, height = bounds
    for i in range(bodies.shape[0]):
        for k in range(obstacles.shape[0]):
            dx, dy = bodies[i, 0] - obstacles[k, 0], bodies[i, 1] - obstacles[k, 1]
            distance = math.hypot(dx, dy)
            least = obstacles[k, 2] + radius
            if 1e-9 < distance < least:
                bodies[i, 0] = obstacles[k, 0] + least * dx / distance
                bodies[i, 1] = obstacles[k, 1] + least * dy / distance
        if width > 0.0:
            half_x, half_y = 0.5 * width - radius, 0.5 * height - radius
            bodies[i, 0] = min(max(bodies[i, 0], -half_x), half_x)
            bodies[i, 1] = min(max(bodies[i, 1], -half_y), half_y)
            continue
        if math.isinf(outer):
            continue
        square = bodies[i, 0] * bodies[i, 0] + bodies[i, 1] * bodies[i, 1]
        if (inner + radius) ** 2 <= square <= (outer - radius) ** 2:
            continue
        distance = math.sqrt(square)
        wanted = min(max(distance, inner + radius), outer - radius)
        if wanted != distance and distance > 1e-9:
            bodies[i, 0] *= wanted / distance
            bodies[i, 1] *= wanted / distance


@jit
def avoid(
    bodies: FloatArray,
    far: float,
    near: float,
    columns: int,
    rows: int,
    first: IntArray,
    order: IntArray,
) -> FloatArray:
    """Push of neighbours, as `OptionController.push`, from cells no smaller than `far`; (n, 2)."""
    total = np.zeros((bodies.shape[0], 2))
    for row in range(rows):
        for column in range(columns):
            home = row * columns + column
            for at in range(first[home], first[home + 1]):
                i = order[at]
                x, y = bodies[i, 0], bodies[i, 1]
                for turn in range(2):
                    begin, end = _pairs(turn, at, row, column, rows, columns, first)
                    for other in range(begin, end):
                        j = order[other]
                        dx, dy = x - bodies[j, 0], y - bodies[j, 1]
                        square = dx * dx + dy * dy
                        if square >= far * far:
                            continue
                        distance = math.sqrt(square)
                        strength = min((far - distance) / (far - near), 1.0)
                        scale = strength / max(distance, 1e-9)
                        total[i, 0] += scale * dx
                        total[i, 1] += scale * dy
                        total[j, 0] -= scale * dx
                        total[j, 1] -= scale * dy
    return total
