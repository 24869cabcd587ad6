# SPDX-License-Identifier: MIT
"""Floor, walls and obstacles of an arena as bodies of a PyBullet engine, in a fixed order."""

import math
from typing import Any

from kofn.hardware.arena import Layout
from kofn.hardware.grid import GridLayout
from kofn.hardware.ring import RingLayout

WALL_BOXES = 32
WALL_HEIGHT_M = 0.3
WALL_THICK_M = 0.05
"""Half of the thickness of outer walls."""
FLOOR_FRICTION, WALL_FRICTION = 1.0, 0.1

Place = tuple[float, float, float]


def build_floor(pb: Any, client: int | None) -> None:
    """Put up an endless floor."""
    floor = pb.createCollisionShape(pb.GEOM_PLANE, physicsClientId=client)
    _fix(pb, client, floor, (0.0, 0.0, 0.0), friction=FLOOR_FRICTION)


def build_arena(pb: Any, client: int | None, layout: Layout) -> None:
    """Put up floor, walls and obstacles."""
    build_floor(pb, client)
    if layout.walls:
        if isinstance(layout, RingLayout):
            _build_ring(pb, client, layout)
        else:
            _build_box(pb, client, layout)
    for x, y, radius in layout.obstacles:
        _add_cylinder(pb, client, x, y, radius)


def _build_ring(pb: Any, client: int | None, layout: RingLayout) -> None:
    _add_cylinder(pb, client, 0.0, 0.0, layout.inner_m)
    # Half length so that neighbouring boxes overlap at the corners and leave no gap.
    half_length = (layout.outer_m + 2.0 * WALL_THICK_M) * math.tan(math.pi / WALL_BOXES)
    box = _box(pb, client, half_length)
    for i in range(WALL_BOXES):
        angle = 2.0 * math.pi * i / WALL_BOXES
        _fix(pb, client, box, _outside(layout.outer_m, angle), yaw=angle)


def _build_box(pb: Any, client: int | None, layout: GridLayout) -> None:
    _, _, width, height = layout.bounds_m
    for quarter, (across, along) in enumerate(
        ((width, height), (height, width), (width, height), (height, width))
    ):
        angle = 0.5 * math.pi * quarter
        box = _box(pb, client, 0.5 * along + 2.0 * WALL_THICK_M)
        _fix(pb, client, box, _outside(0.5 * across, angle), yaw=angle)


def _outside(distance_m: float, angle: float) -> Place:
    """Centre of a wall whose inner face is `distance_m` from the origin."""
    out = distance_m + WALL_THICK_M
    return out * math.cos(angle), out * math.sin(angle), 0.5 * WALL_HEIGHT_M


def _box(pb: Any, client: int | None, half_length: float) -> int:
    shape: int = pb.createCollisionShape(
        pb.GEOM_BOX,
        halfExtents=[WALL_THICK_M, half_length, 0.5 * WALL_HEIGHT_M],
        physicsClientId=client,
    )
    return shape


def _add_cylinder(pb: Any, client: int | None, x: float, y: float, radius: float) -> None:
    shape = pb.createCollisionShape(
        pb.GEOM_CYLINDER, radius=radius, height=WALL_HEIGHT_M, physicsClientId=client
    )
    _fix(pb, client, shape, (x, y, 0.5 * WALL_HEIGHT_M))


def _fix(
    pb: Any,
    client: int | None,
    shape: int,
    place: Place,
    *,
    yaw: float = 0.0,
    friction: float = WALL_FRICTION,
) -> None:
    turn = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
    body = pb.createMultiBody(0.0, shape, -1, place, turn, physicsClientId=client)
    pb.changeDynamics(body, -1, lateralFriction=friction, physicsClientId=client)
